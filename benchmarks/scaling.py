"""Rows of how cost grows: step time, memory and prediction time over modalities and over voxels, and the line's fit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from benchmarks.apart import apart
from benchmarks.rows import Row
from benchmarks.settings import Settings, finished, held_batch, task_of
from benchmarks.steps import made, trainer_step
from maml_toolkit.system import machine

MODULE = __name__
MEASURES = {"step": ("seconds", "s"), "peak memory": ("peak_mib", "MiB"), "forward": ("forward", "s")}


def point(modalities: int, channels: list[int], size: int, precision: str, threads: int,
          repeats: int = 3) -> dict[str, float]:
    """The fastest of some MAML steps and forwards, batch 1; for a process of its own, whose peak is measured."""
    torch.set_num_threads(threads)
    machine.keep_memory()
    method = made("maml", modalities, channels)
    step = trainer_step(method, size, 1, precision)
    device = machine.choose_device()
    images, _ = held_batch(task_of(modalities), size, 1, device)

    def forward() -> None:
        with torch.inference_mode(), machine.autocast(device, machine.choose_precision(device, precision)):
            method(images)
        finished(device)

    fastest = {}
    for name, run in (("seconds", step), ("forward", forward)):
        run()
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begun)
        fastest[name] = min(seconds)
    return fastest


def over_work(settings: Settings) -> Iterable[Row]:
    """A row for each point, and the line through them: slope, and the share of the spread that it explains."""
    for axis, unit, places in (
            ("modalities", "modality", [(count, settings.size) for count in settings.scaling_counts]),
            ("voxels", "million voxels", [(2, size) for size in settings.scaling_sizes])):
        found = [apart(MODULE, "point", modalities=count, size=size, channels=list(settings.channels),
                       precision=settings.precision, threads=torch.get_num_threads()) for count, size in places]
        work = [count if axis == "modalities" else size**3 / 1e6 for count, size in places]
        for measure, (key, of) in MEASURES.items():
            values = [one[key] for one in found]
            for (count, size), value in zip(places, values, strict=True):
                yield Row("scaling", f"MAML {measure} over {axis}", f"N={count}, {size}^3", "", value, unit=of, pairs=1,
                          ratio=1.0, note="batch 1")
            if len(places) > 1:
                slope, fit = line(work, values)
                yield Row("scaling", f"MAML {measure} over {axis}", "line", "", slope, unit=f"{of} / {unit}",
                          ratio=fit, pairs=len(places), note="the ratio is R² of the line: 1 is linear")


def line(work: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope of the least-squares line and R².

    >>> line([1, 2, 3], [3.0, 5.0, 7.0])
    (2.0, 1.0)
    """
    slope, start = np.polyfit(work, values, 1)
    left = np.subtract(values, np.multiply(work, slope) + start)
    spread = np.subtract(values, np.mean(values))
    return round(float(slope), 9), round(1 - float((left**2).sum() / max((spread**2).sum(), 1e-30)), 9)

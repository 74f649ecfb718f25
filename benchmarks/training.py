"""Rows of training steps: against nnU-Net's own, single U-Nets, the bare network and itself with less memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import Conv3d, functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.measuring import (
    Row,
    Settings,
    apart_in_turn,
    compared,
    finished,
    held_batch,
    installed,
    subsets_of,
    task_of,
    timed,
    without_peer,
)
from maml_toolkit.data.patches import Batch
from maml_toolkit.methods import METHODS
from maml_toolkit.methods.maml import MAML
from maml_toolkit.methods.method import Method
from maml_toolkit.networks import execution
from maml_toolkit.system import machine
from maml_toolkit.system.apart import apart
from maml_toolkit.training.trainer import Trainer

MODULE = __name__
WARM = 3
"""Steps before those that are timed: so long a process still asks for pages, 0.6 million in the first step."""


def trainer_step(method: Method, size: int, batch_size: int, precision: str = "auto",
                 **trainer: Any) -> Callable[[], Any]:
    """The Trainer's step of a method on one batch held in memory, without augmentation."""
    task = task_of(len(method.modalities), method.classes)
    trainer = Trainer(method, "unused", task, patch_size=(size,) * 3, batch_size=batch_size, augmentation=None,
                      precision=precision, **trainer)
    method.to(trainer.device).train()
    images, labels = held_batch(task, size, batch_size, trainer.device)
    batch = Batch.of(images, labels)
    stage = method.stages()[0]
    optimizer = trainer.optimizer(stage)

    def step() -> None:
        trainer.step(stage, batch, optimizer, trainer.recipe.learning_rate, 0).found()
        finished(trainer.device)

    return step


def made(name: str, modalities: int, channels: Iterable[int], classes: int = 4, **own: Any) -> Method:
    """A method with the task's modalities, the same weights every time."""
    torch.manual_seed(0)
    return METHODS[name](task_of(modalities, classes).modalities, classes, channels=tuple(channels), **own)


def own_unet_steps(channels: list[int], size: int, batch_size: int, precision: str, threads: int,
                   steps: int = 2) -> dict[str, float]:
    """Seconds of a step of our U-Net with deep supervision, the first ones left out; for a process of its own."""
    torch.set_num_threads(threads)
    machine.keep_memory()
    network = made("early_fusion", 1, channels, deep_supervision=True)
    return seconds_of(trainer_step(network, size, batch_size, precision), steps)


def nnunet_steps(channels: list[int], size: int, batch_size: int, threads: int, steps: int = 2) -> dict[str, float]:
    """The same of nnU-Net's train_step."""
    torch.set_num_threads(threads)
    device = machine.choose_device()
    images, labels = held_batch(task_of(1), size, batch_size, device)
    return seconds_of(peers.nnunet_step(torch.cat(list(images.values()), 1), labels, 4, channels, device), steps)


def seconds_of(step: Callable[[], Any], steps: int) -> dict[str, float]:
    """Seconds on the wall and of the CPU of a step, after those in which memory is allocated (`WARM`)."""
    for _ in range(WARM):
        step()
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return {"seconds": (time.perf_counter() - begun) / steps, "cpu": (time.process_time() - cpu) / steps}


def against_nnunet(settings: Settings) -> Iterable[Row]:
    """A step of one U-Net with deep supervision against nnU-Net's train_step, each in processes of its own."""
    what = (f"training step, one U-Net of {len(settings.channels)} stages, {settings.size}^3, batch "
            f"{settings.batch_size}, deep supervision, optimiser included")
    if not installed("nnunetv2"):
        return [without_peer("step_nnunet", what, "nnunetv2", "nnU-Net's train_step", 0.40)]
    given = {"channels": list(settings.channels), "size": settings.size, "batch_size": settings.batch_size,
             "threads": torch.get_num_threads()}
    chosen = str(machine.choose_precision(settings.device, settings.precision)).removeprefix("torch.")
    sides = {f"ours, {chosen}": (MODULE, "own_unet_steps", {**given, "precision": settings.precision}),
             "nnU-Net's train_step": (MODULE, "nnunet_steps", given),
             "ours, float32": (MODULE, "own_unet_steps", {**given, "precision": "float32"})}
    found = apart_in_turn(sides, settings.pairs)
    seconds = {name: [one["seconds"] for one in ones] for name, ones in found.items()}
    return [compared("step_nnunet", what, name, "nnU-Net's train_step", seconds[name], seconds["nnU-Net's train_step"],
                     "s", goal, note="nnU-Net runs in float32 on CPUs; a process for each side and turn")
            for name, goal in zip([one for one in sides if one.startswith("ours")], (0.40, None), strict=False)]


def against_single_networks(settings: Settings) -> Iterable[Row]:
    """A MAML step of N modalities against N steps of one U-Net, the paper's form."""
    machine.keep_memory()
    for count in settings.counts:
        sides = {f"MAML, N={count}": trainer_step(made("maml", count, settings.channels), settings.size,
                                                  settings.batch_size, settings.precision),
                 "one U-Net": trainer_step(made("early_fusion", 1, settings.channels), settings.size,
                                           settings.batch_size, settings.precision)}
        times = settings.in_turn(sides, warm=WARM)
        # the ratio is to N steps, so the other side's seconds count N times
        for clock, values in times.seconds["one U-Net"].items():
            times.seconds["one U-Net"][clock] = [count * value for value in values]
        yield timed("step_maml", f"MAML step, N={count}, against N steps of one U-Net, {settings.size}^3, batch "
                    f"{settings.batch_size}", f"MAML, N={count}", "one U-Net", times, 1.40,
                    f"the other side is {count} steps")


def against_bare(settings: Settings) -> Iterable[Row]:
    """Our step of MAML with two modalities against forward, backward and fused Adam of the same network alone.

    The bare side has no loss: its backward starts from a fixed gradient at every logit.
    """
    machine.keep_memory()
    method = made("maml", 2, settings.channels)
    own = trainer_step(method, settings.size, settings.batch_size, settings.precision)
    times = settings.in_turn({"the Trainer's step": own, "bare": bare_step(method, settings)},
                        warm=WARM)
    yield timed("step_bare", f"MAML step, N=2, against its bare forward + backward + fused Adam, {settings.size}^3, "
                f"batch {settings.batch_size}", "the Trainer's step", "bare", times, 1.03,
                "the bare side computes no loss: its backward starts from fixed gradients of the logits")


def bare_step(method: Method, settings: Settings) -> Callable[[], None]:
    """Forward, backward from fixed gradients of all logits, and fused Adam."""
    images, _ = held_batch(task_of(len(method.modalities), method.classes), settings.size, settings.batch_size,
                           settings.device)
    optimizer = torch.optim.Adam(method.parameters(), 3e-4, fused=True)
    precision = machine.choose_precision(settings.device, settings.precision)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast(settings.device, precision):
            answer = method(images)
        logits = [answer.logits, *answer.per_modality.values()]
        torch.autograd.backward(logits, [torch.full_like(one, 1e-6) for one in logits])
        optimizer.step()
        finished(settings.device)

    return step


def against_convolution(settings: Settings) -> Iterable[Row]:
    """FLOP/s of the MAML step (three times its forward) over those of the best 3x3x3 convolution."""
    machine.keep_memory()
    method = made("maml", 2, settings.channels)
    step = trainer_step(method, settings.size, settings.batch_size, settings.precision)
    images, _ = held_batch(task_of(2, method.classes), settings.size, settings.batch_size, settings.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method(images)
    work = 3 * counter.get_total_flops()
    convolutions = {f"{width} channels": convolution(width, settings.size // 2**level, settings)
                    for level, width in enumerate(settings.channels) if settings.size >> level >= 4}
    times = settings.in_turn({"step": step, **{name: run for name, (run, _) in convolutions.items()}},
                        warm=WARM)
    best = min(convolutions, key=lambda name: times.median(name) / convolutions[name][1])
    own = [work / seconds / 1e9 for seconds in times.seconds["step"]["wall"]]
    its = [convolutions[best][1] / seconds / 1e9 for seconds in times.seconds[best]["wall"]]
    yield compared("step_flops", f"MAML step, N=2, {settings.size}^3, batch {settings.batch_size}: 3 x forward / time, "
                   "over the best 3x3x3 convolution", "MAML step", f"convolution of {best}", own, its, "GFLOP/s", 0.75,
                   True, f"a forward has {work / 3e9:.0f} GFLOP")


def convolution(width: int, size: int, settings: Settings) -> tuple[Callable[[], Any], float]:
    """A convolution of the network's own shape, and its FLOP."""
    layer = Conv3d(width, width, 3, padding=1, bias=False).to(settings.device)
    features = torch.randn(settings.batch_size, width, size, size, size, device=settings.device)
    precision = machine.choose_precision(settings.device, settings.precision)

    def run() -> None:
        with torch.inference_mode(), machine.autocast(settings.device, precision):
            layer(features)
        finished(settings.device)

    features = features.to(precision)
    return run, 2.0 * 27 * width * width * settings.batch_size * size**3


def against_im2col(settings: Settings) -> Iterable[Row]:
    """Steps of one patch and of a batch in float32, against themselves with torch's own convolutions."""
    machine.keep_memory()
    for batch_size in sorted({1, settings.batch_size}):
        step = trainer_step(made("maml", 2, settings.channels), settings.size, batch_size, "float32")

        def as_given(step: Callable[[], None] = step) -> None:
            with patch.object(execution.ByOneDNN, "apply", functional.conv3d):
                step()

        times = settings.in_turn({"ours": step, "torch's": as_given}, warm=WARM)
        yield timed("float32", f"MAML step, N=2, {settings.size}^3, batch {batch_size}, float32: our convolutions "
                    "against torch's own", "ours", "torch's", times, 1.0)


def recomputed_steps(modalities: int, channels: list[int], size: int, batch_size: int, precision: str, threads: int,
                     recompute: bool = False, keep: bool = True, count: int = 1) -> dict[str, float]:
    """Seconds of a MAML step after the first ones; for a process of its own, whose peak is measured."""
    torch.set_num_threads(threads)
    if keep:
        machine.keep_memory()
    step = trainer_step(made("maml", modalities, channels), size, batch_size, precision, recompute=recompute)
    return seconds_of(step, count)


def against_plain(settings: Settings) -> Iterable[Row]:
    """Peak memory and time with recomputation over those without."""
    given = {"modalities": settings.memory_modalities, "channels": list(settings.channels),
             "size": settings.memory_size, "batch_size": 1, "precision": settings.precision,
             "threads": torch.get_num_threads()}
    found = apart_in_turn({"recomputed": (MODULE, "recomputed_steps", {**given, "recompute": True}),
                           "plain": (MODULE, "recomputed_steps", given)}, settings.pairs)
    what = f"MAML step, N={settings.memory_modalities}, {settings.memory_size}^3, batch 1, with recomputation"
    for key, kind, unit, goal in (("peak_mib", "peak memory", "MiB", 0.65), ("seconds", "time", "s", 1.3),
                                  ("cpu", "CPU time", "s", None)):
        yield compared("recompute", f"{what}: {kind}", "recomputed", "plain",
                       *([one[key] for one in found[side]] for side in ("recomputed", "plain")), unit, goal,
                       note="a process for each side and turn; the peak is of the whole process")


def sweep_against_one(settings: Settings) -> Iterable[Row]:
    """`MAML.sweep` and, beside it, a forward of each subset, against one forward from all four modalities."""
    machine.keep_memory()
    task = task_of(4)
    images, _ = held_batch(task, settings.size, 1, settings.device)
    subsets = list(subsets_of(task.modalities))
    for form in ("paper", "released"):
        model: MAML = made("maml", 4, settings.channels, attention=form).to(settings.device).eval()
        precision = machine.choose_precision(settings.device, settings.precision)

        def one(model: MAML = model) -> None:
            float(model(images).logits.sum())

        def sweep(model: MAML = model) -> None:
            for _, answer in model.sweep(images, subsets):
                float(answer.logits.sum())

        def each(model: MAML = model) -> None:
            for subset in subsets:
                float(model({name: images[name] for name in subset}).logits.sum())

        with torch.inference_mode(), machine.autocast(settings.device, precision):
            times = settings.in_turn({"sweep": sweep, "forward of each": each, "one answer": one}, warm=WARM)
        row = partial(timed, "sweep", f"MAML, N=4, attention {form}, window {settings.size}^3, {len(subsets)} subsets")
        yield row("sweep", "one answer", times, 2.4)
        yield row("forward of each", "one answer", times)


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

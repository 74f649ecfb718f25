"""The row of a training step with recomputation: less memory for more time, each side in processes of its own."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from benchmarks.apart import apart_in_turn
from benchmarks.rows import Row, compared
from benchmarks.settings import Settings
from benchmarks.steps import made, seconds_of, trainer_step
from maml_toolkit.system import machine

MODULE = __name__


def steps(modalities: int, channels: list[int], size: int, batch_size: int, precision: str, threads: int,
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
    found = apart_in_turn({"recomputed": (MODULE, "steps", {**given, "recompute": True}),
                           "plain": (MODULE, "steps", given)}, settings.pairs)
    what = f"MAML step, N={settings.memory_modalities}, {settings.memory_size}^3, batch 1, with recomputation"
    for key, kind, unit, goal in (("peak_mib", "peak memory", "MiB", 0.65), ("seconds", "time", "s", 1.3),
                                  ("cpu", "CPU time", "s", None)):
        yield compared("recompute", f"{what}: {kind}", "recomputed", "plain",
                       *([one[key] for one in found[side]] for side in ("recomputed", "plain")), unit, goal,
                       note="a process for each side and turn; the peak is of the whole process")

"""Rows of the network's own sweep over all subsets of one window against one answer, in both forms of attention."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch

from benchmarks.rows import Row, timed
from benchmarks.settings import Settings, held_batch, subsets_of, task_of
from benchmarks.steps import WARM, made
from benchmarks.timing import alternating
from maml_toolkit.methods.maml import MAML
from maml_toolkit.system import machine


def against_one(settings: Settings) -> Iterable[Row]:
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
            times = alternating({"sweep": sweep, "forward of each": each, "one answer": one}, settings.pairs, warm=WARM)
        row = partial(timed, "sweep", f"MAML, N=4, attention {form}, window {settings.size}^3, {len(subsets)} subsets")
        yield row("sweep", "one answer", times, 2.4)
        yield row("forward of each", "one answer", times)

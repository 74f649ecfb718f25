"""Trains several networks one after the other, as one process or, under torchrun, as one of many.

    torchrun --nproc-per-node 2 tests/training_worker.py JOBS.json

JOBS.json is a list of arguments of `train`.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.patches import Batch
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build
from maml_toolkit.training import distributed
from maml_toolkit.training.trainer import Trainer

LIVER = TASKS["liver_phases"]


class InFloat64(Batch):
    """A batch that becomes float64 on its way to the device."""

    def to(self, device):
        batch = super().to(device)
        return replace(batch, patches=tuple(replace(patch, images=patch.images.double(), outside=patch.outside.double())
                                            for patch in batch.patches))


class Dying(Trainer):
    """Ends at a step: `end` is "killed" or "raises", of the process `rank`."""

    rank, at, end = 0, -1, ""

    def _part(self, stage, part, step, number):
        if (self.world.rank, step) == (self.rank, self.at):
            if self.end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise FloatingPointError("the loss is no number here")
        return super()._part(stage, part, step, number)


class Exact(Dying):
    """Plain gradient descent in float64, in which rounding is all that differs."""

    def optimizer(self, stage):
        return torch.optim.SGD(stage.parameters, self.recipe.learning_rate)

    def _part(self, stage, part, step, number):
        return super()._part(stage, InFloat64(**vars(part)), step, number)


def train(run, float64=False, own=None, method="maml", mixed=False, dies=None, validation=0, **settings):
    """Train on phantoms, the weights of every process in a file of its own."""
    cases = phantoms.liver_phases(4, size=16)
    if mixed:
        names = [("arterial",), ("venous",), ("arterial", "venous"), ("arterial", "venous")]
        cases = [Case(case.id, {name: case.images[name] for name in present}, case.label)
                 for case, present in zip(cases, names, strict=True)]
    torch.manual_seed(0)
    network = build(method, modalities=LIVER.modalities, classes=2, channels=(4, 6), **own or {})
    defaults = {"patch_size": (8, 8, 8), "epochs": 20, "steps_per_epoch": 1, "learning_rate": 1e-2,
                "validate_every": 100, "device": "cpu", "precision": "float32"}
    trainer = (Exact if float64 else Dying)(network.double() if float64 else network, run, LIVER,
                                            **defaults | settings)
    trainer.rank, trainer.at, trainer.end = dies or (0, -1, "")
    trainer.fit(cases[validation:], cases[:validation])
    torch.save(network.state_dict(), Path(run) / f"weights-{distributed.world().rank}.pt")
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        train(**job)

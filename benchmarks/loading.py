"""The row of training with real loading and augmentation against training on one batch held in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable

from benchmarks.rows import Row, timed
from benchmarks.settings import Settings
from benchmarks.steps import made, trainer_step
from benchmarks.timing import alternating
from maml_toolkit.data import cache, phantoms
from maml_toolkit.data.patches import PatchSampler
from maml_toolkit.data.preprocessing import with_spacing
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import METHODS
from maml_toolkit.system import machine
from maml_toolkit.training.trainer import Trainer

STEPS = 3
"""In a turn: the first batch of a turn is not read ahead."""


def against_held(settings: Settings) -> Iterable[Row]:
    """Steps of MAML with four modalities that read, cut and augment against steps on one batch."""
    machine.keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        task, cases = TASKS["brats2021"], phantoms.brains(2, size=settings.size + 16)
        task = with_spacing(task, cases)
        trainer = Trainer(METHODS["maml"](task.modalities, task.classes, channels=settings.channels), "unused", task,
                          patch_size=(settings.size,) * 3, batch_size=settings.batch_size, precision=settings.precision)
        sampler = PatchSampler(cache.prepare_all(cases, task, folder), trainer.patch_size, settings.batch_size,
                               augmentation=trainer.augmentation)
        trainer.method.to(trainer.device).train()
        stage = trainer.method.stages()[0]
        optimizer = trainer.optimizer(stage)
        step = trainer_step(made("maml", 4, settings.channels), settings.size, settings.batch_size, settings.precision)

        def real() -> None:
            for number, batch in enumerate(sampler.batches(0, STEPS)):
                trainer.step(stage, batch, optimizer, trainer.learning_rate, number).found()

        times = alternating({"read and augmented": real, "held in memory": lambda: [step() for _ in range(STEPS)]},
                            settings.pairs, warm=2)
    yield timed("loading", f"MAML step, N=4, {settings.size}^3, batch {settings.batch_size}, real loading and "
                "augmentation against one held batch without", "read and augmented", "held in memory", times, 1.05,
                per=STEPS)

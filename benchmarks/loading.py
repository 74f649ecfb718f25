"""Rows of what comes before the network: augmented patches, steps with real loading, and importing the package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import peers
from benchmarks.measuring import Row, Settings, against, compared, seconds_in_python, timed
from benchmarks.training import made, trainer_step
from maml_toolkit.data import cache, phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.patches import Batch, PatchSampler
from maml_toolkit.data.preprocessing import with_spacing
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import METHODS
from maml_toolkit.system import machine
from maml_toolkit.training.trainer import Trainer

ALWAYS = Augmentation(rotation=1, scaling=1, elastic=1, gamma=1)
PEERS = {"batchgeneratorsv2": ("batchgeneratorsv2", 1 / 2), "MONAI": ("monai", 1 / 4), "TorchIO": ("torchio", 1 / 15)}


class Patches(Dataset):
    """The augmented batch of each step.

    Args:
        sampler: with a batch of one.
        augment: of a batch.
        steps: as many patches as it has.
    """

    def __init__(self, sampler: PatchSampler, augment: Callable[[Batch], Any], steps: int):
        self.sampler, self.augment, self.steps = sampler, augment, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        return self.augment(self.sampler.batch(step))


def own_augmentation(batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Ours, of a batch read with its margin, in a process that keeps its memory, as the Trainer's does."""
    machine.keep_memory()
    return batch.transformed()


class OfPeer:
    """A peer's, which takes the scans stacked, (channels, …), and the labels, (1, …).

    Args:
        make: makes it for a size, in the process that uses it: not all of it can be sent to another one.
        size: of patches.
    """

    def __init__(self, make: Callable, size: tuple[int, int, int]):
        self.make, self.size, self.augment = make, size, None

    def __call__(self, batch: Batch) -> Any:
        """The augmented patch."""
        self.augment = self.augment or self.make(self.size)
        return self.augment(batch.patches[0].images, batch.patches[0].labels.long()[None])


def augmentation_against_peers(settings: Settings) -> Iterable[Row]:
    """Our augmentation against each peer's, seconds a patch."""
    what = (f"augmented patches from cache to batch, 4 modalities + label, {settings.patch}^3, {settings.workers} "
            "workers, elastic deformation for every patch")
    size = (settings.patch,) * 3
    made = {"batchgeneratorsv2": peers.batchgenerators_augmentation, "MONAI": peers.monai_augmentation,
            "TorchIO": peers.torchio_augmentation}
    with tempfile.TemporaryDirectory() as folder:
        task = TASKS["brats2021"]
        cases = phantoms.brains(2, size=settings.patch + 16)
        prepared = cache.prepare_all(cases, with_spacing(task, cases), folder)

        def measured(name: str, goal: float) -> Row:
            sides = {"ours": Patches(PatchSampler(prepared, size, 1, augmentation=ALWAYS), own_augmentation,
                                     settings.patches),
                     name: Patches(PatchSampler(prepared, size, 1), OfPeer(made[name], size), settings.patches)}
            loaders = {one: DataLoader(patches, batch_size=1, num_workers=settings.workers,
                                       persistent_workers=settings.workers > 0) for one, patches in sides.items()}
            times = settings.in_turn({one: lambda loader=loader: [None for _ in loader]
                                          for one, loader in loaders.items()})
            return timed("augmentation", what, "ours", name, times, goal, "seconds a patch; every side reads the same "
                         "memory-mapped cache, ours with the margin that its map needs; ours keeps memory, as the "
                         "Trainer does", per=settings.patches)

        yield from against(PEERS, measured, "augmentation", what)


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
                               augmentation=trainer.recipe.augmentation)
        trainer.method.to(trainer.device).train()
        stage = trainer.method.stages()[0]
        optimizer = trainer.optimizer(stage)
        step = trainer_step(made("maml", 4, settings.channels), settings.size, settings.batch_size, settings.precision)

        def real() -> None:
            for number, batch in enumerate(sampler.batches(0, STEPS)):
                trainer.step(stage, batch, optimizer, trainer.recipe.learning_rate, number).found()

        times = settings.in_turn({"read and augmented": real,
                                  "held in memory": lambda: [step() for _ in range(STEPS)]}, warm=2)
    yield timed("loading", f"MAML step, N=4, {settings.size}^3, batch {settings.batch_size}, real loading and "
                "augmentation against one held batch without", "read and augmented", "held in memory", times, 1.05,
                per=STEPS)


IMPORTED = {"import maml_toolkit": "import torch, maml_toolkit", "a network": "from maml_toolkit import MAML",
        "a Predictor": "from maml_toolkit import Predictor"}


def against_torch(settings: Settings) -> Iterable[Row]:
    """`import torch, maml_toolkit` against `import torch`, and what is loaded when it is first used."""
    names = [*IMPORTED, "import torch"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(settings.pairs + 1):      # the first turn fills the file cache
        for name in names[::1 if turn % 2 == 0 else -1]:
            found = seconds_in_python(IMPORTED.get(name, "import torch"))
            if turn:
                seconds[name].append(found)
    for name in IMPORTED:
        yield compared("import", "a new Python, its own start left out", name, "import torch", seconds[name],
                       seconds["import torch"], "s", 1.3 if name == "import maml_toolkit" else None,
                       note="torch included on both sides")

"""Rows of augmented patches a second, from a cache to a batch, by processes that load, as in training on a GPU.

Every side reads the same patches from the same memory-mapped cache, with `patches.PatchSampler`; everything is drawn
for every patch, elastic deformation included, which nnU-Net leaves out by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import peers
from benchmarks.rows import Row, against, timed
from benchmarks.settings import Settings
from benchmarks.timing import alternating
from maml_toolkit.data import cache, phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.patches import Batch, PatchSampler
from maml_toolkit.data.preprocessing import with_spacing
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.system import machine

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


def against_peers(settings: Settings) -> Iterable[Row]:
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
            times = alternating({one: lambda loader=loader: [None for _ in loader]
                                          for one, loader in loaders.items()}, settings.pairs)
            return timed("augmentation", what, "ours", name, times, goal, "seconds a patch; every side reads the same "
                         "memory-mapped cache, ours with the margin that its map needs; ours keeps memory, as the "
                         "Trainer does", cpu=False, per=settings.patches)

        yield from against(PEERS, measured, "augmentation", what)

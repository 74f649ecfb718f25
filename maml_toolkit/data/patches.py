"""Random patches of prepared cases: the sample of step s at index g of a batch is a pure function of (seed, s, g).

Nothing is remembered between steps, so a resumed run sees the patches that the uninterrupted one would have
seen. All cases of a batch have the same modalities; every third patch holds part of a lesion (a liver tumour in
512x512x198 voxels is otherwise never seen), as in nnU-Net.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.errors import DataError, few

FOREGROUND_EVERY = 3
"""Every third patch holds foreground, if any case of its group does."""


@dataclass(frozen=True)
class Batch:
    """Patches on their way to the network.

    Attributes:
        images: (batch, 1, depth, height, width) float32 by modality; a modality absent is absent for all.
        labels: (batch, depth, height, width), 0 to classes - 1, int64.
        seeds: one for each patch, from which its augmentation draws.
        cases: ids of the cases that the patches are from.
    """

    images: dict[str, Tensor]
    labels: Tensor
    seeds: tuple[int, ...]
    cases: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        images = {name: image.to(device, non_blocking=True) for name, image in self.images.items()}
        return Batch(images, self.labels.to(device, non_blocking=True), self.seeds, self.cases)

    def split(self, parts: int) -> list[Batch]:
        """The batch as so many batches of the same size, which divides its own."""
        size = len(self.cases) // parts
        return [Batch({name: image[at:at + size] for name, image in self.images.items()}, self.labels[at:at + size],
                      self.seeds[at:at + size], self.cases[at:at + size]) for at in range(0, len(self.cases), size)]


class PatchSampler:
    """Draws batches of patches.

    Args:
        cases: prepared, with labels.
        patch_size: voxels on each axis; where a case is smaller, zeros surround it.
        batch_size: patches a batch.
        seed: of everything drawn.
        share, shares: the batches drawn here are this one (from 0) of so many shares of the step's patches. All shares
            together are what a single sampler of batch_size x shares draws.

    Raises:
        DataError: no case, or cases without label.
    """

    def __init__(self, cases: Sequence[PreparedCase], patch_size: Sequence[int], batch_size: int, seed: int = 0,
                 share: int = 0, shares: int = 1):
        if unlabelled := [case.id for case in cases if case.labels is None]:
            raise DataError(f"{len(unlabelled)} training cases have no label: {few(unlabelled)}",
                            "Add the label files, or take these cases out of the training set.")
        if not cases:
            raise DataError("found no training case, expected at least one", "Check the list of cases.")
        self.patch_size, self.batch_size, self.seed = tuple(patch_size), batch_size, seed
        self.first, self.all = share * batch_size, shares * batch_size
        self.cases = sorted(cases, key=lambda case: case.id)
        self.groups: dict[tuple[str, ...], list[PreparedCase]] = {}
        for case in self.cases:
            self.groups.setdefault(tuple(sorted(case.images)), []).append(case)
        self.with_foreground = {case.id for case in self.cases if len(case.foreground)}

    def batch(self, step: int) -> Batch:
        """The batch of this step: patches of cases that have the same modalities."""
        drawn = self.cases[np.random.default_rng((self.seed, step)).integers(len(self.cases))]
        group = self.groups[tuple(sorted(drawn.images))]
        samples = [self.sample(group, step, index) for index in range(self.first, self.first + self.batch_size)]
        images = {name: torch.stack([images[name] for _, images, _, _ in samples])[:, None] for name in samples[0][1]}
        labels = torch.stack([labels for _, _, labels, _ in samples]).long()
        return Batch(images, labels, tuple(seed for *_, seed in samples), tuple(case for case, *_ in samples))

    def sample(self, group: list[PreparedCase], step: int,
               index: int) -> tuple[str, dict[str, Tensor], Tensor, int]:
        """Case, images, labels and augmentation seed of one patch."""
        # 1 + index: numpy pads seeds with zeros, so (seed, step, 0) would draw what (seed, step) drew
        random = np.random.default_rng((self.seed, step, 1 + index))
        foreground = (step * self.all + index) % FOREGROUND_EVERY == 0
        choice = [case for case in group if case.id in self.with_foreground] if foreground else []
        choice = choice or group
        case = choice[random.integers(len(choice))]
        start = self.start(case, random, foreground)
        images = {name: torch.from_numpy(cut(array, start, self.patch_size)) for name, array in case.images.items()}
        return case.id, images, torch.from_numpy(cut(case.labels, start, self.patch_size)), int(random.integers(2**62))

    def start(self, case: PreparedCase, random: np.random.Generator, foreground: bool) -> list[int]:
        """First voxel of a patch: anywhere in the case, or so that a drawn lesion voxel lies anywhere in the patch."""
        shape, size = np.array(case.labels.shape), np.array(self.patch_size)
        slack = np.maximum(shape - size, 0)
        lower, upper = np.zeros(3, int), slack
        if foreground and len(case.foreground):
            classes = np.unique(case.foreground[:, 0])
            voxels = case.foreground[case.foreground[:, 0] == classes[random.integers(len(classes))], 1:]
            voxel = voxels[random.integers(len(voxels))]
            lower, upper = np.clip(voxel - size + 1, 0, slack), np.clip(voxel, 0, slack)
        centred = -((size - shape) // 2)
        return [int(middle if n < p else random.integers(low, high + 1)) for low, high, middle, n, p
                in zip(lower, upper, centred, shape, size, strict=True)]

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps first to last - 1, each read while the one before is used."""
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self.batch, first)
            for step in range(first + 1, last + 1):
                ready = ahead.result()
                if step < last:
                    ahead = reader.submit(self.batch, step)
                yield ready


def cut(array: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """A patch of an array, a copy; zeros where it reaches beyond the array."""
    inside = tuple(slice(max(0, a), min(n, a + p)) for a, p, n in zip(start, size, array.shape, strict=True))
    patch = np.zeros(tuple(size), array.dtype)
    patch[tuple(slice(part.start - a, part.stop - a) for part, a in zip(inside, start, strict=True))] = array[inside]
    return patch

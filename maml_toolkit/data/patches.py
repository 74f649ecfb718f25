"""Random patches of prepared cases: the sample of step s at index g of a batch is a pure function of (seed, s, g).

Nothing is remembered between steps, so a resumed run sees the patches that the uninterrupted one would have
seen. All cases of a batch have the same modalities; some patches hold part of a lesion (a liver tumour in 512x512x198
voxels is otherwise never seen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from maml_toolkit.data.augmentation import Augmentation, Transform
from maml_toolkit.data.label_sets import SETS
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.system.errors import DataError, few

T, U = TypeVar("T"), TypeVar("U")
FOREGROUND = ("every-third", "centred")
"""Which patches hold foreground. Every third one, of a case that has any, a drawn voxel of it anywhere in the patch; or
as in nnU-Net v2 the last third of every batch, rounded (one patch of two; where a step is one patch, that of every
third step), with the drawn voxel in the middle, as far as the case reaches, or anywhere in a case that has none. The
class is drawn first, then the voxel."""


@dataclass(frozen=True)
class Patch:
    """A patch on its way to the network, with the margin that its transform reads.

    Attributes:
        case: id of the case that it is from.
        images: (modalities, depth, height, width) float32.
        labels: (depth, height, width) uint8, 0 to classes - 1, or what is open as in label_sets.py.
        first: the first voxel of both, counted from the first of the patch.
        outside: (modalities, 1, 1, 1) float32, the value of each modality beyond the scan.
        transform: what was drawn for it; None for nothing.
        further: what is done after that; None for nothing.
        is_open: whether labels leave something open.
    """

    case: str
    images: Tensor
    labels: Tensor
    first: tuple[int, ...] = (0, 0, 0)
    outside: Tensor | None = None
    transform: Transform | None = None
    further: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    is_open: bool = False

    def transformed(self) -> tuple[Tensor, Tensor]:
        """Images and labels as the network reads them, of the patch's size."""
        found = self.images, self.labels
        if self.transform is not None:
            found = self.transform(*found, self.first, self.outside)
        return found if self.further is None else self.further(*found)


@dataclass(frozen=True)
class Batch:
    """Patches that a step takes; all have these modalities, in this order."""

    modalities: tuple[str, ...]
    patches: tuple[Patch, ...]

    @classmethod
    def of(cls, images: dict[str, Tensor], labels: Tensor) -> Batch:
        """What the network reads, as the patches of one case that nothing changes any more."""
        pairs, is_open = zip(torch.cat(list(images.values()), 1), labels, strict=True), labels.dtype == torch.uint8
        return cls(tuple(images), tuple(Patch("case", *pair, is_open=is_open) for pair in pairs))

    @property
    def cases(self) -> tuple[str, ...]:
        """Ids of the cases that the patches are from."""
        return tuple(patch.case for patch in self.patches)

    @property
    def tensors(self) -> list[Tensor]:
        """All that a device needs of it."""
        return [value for patch in self.patches for value in vars(patch).values() if isinstance(value, Tensor)]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory from which a GPU copies by itself."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, patches=tuple(
            replace(patch, **{name: change(value) for name, value in vars(patch).items() if isinstance(value, Tensor)})
            for patch in self.patches))

    def split(self, parts: int) -> list[Batch]:
        """The batch as so many batches of the same size, which divides its own."""
        size = len(self.patches) // parts
        return [replace(self, patches=self.patches[at:at + size]) for at in range(0, len(self.patches), size)]

    def transformed(self) -> tuple[dict[str, Tensor], Tensor]:
        """What the network reads: (batch, 1, depth, height, width) by modality, and labels (batch, …).

        These are int64, or uint8 where they leave something open, so that a loss knows it without a look at them.
        """
        images, labels = zip(*(patch.transformed() for patch in self.patches), strict=True)
        classes = torch.stack(labels)
        classes = classes if any(patch.is_open for patch in self.patches) else classes.long()
        return dict(zip(self.modalities, torch.stack(images, 1)[:, :, None], strict=True)), classes


class PatchSampler:
    """Draws batches of patches.

    Args:
        cases: prepared, with labels.
        patch_size: voxels on each axis; where a case is smaller, what lies outside a scan surrounds it.
        batch_size: patches a batch.
        seed: of everything drawn.
        share, shares: the batches drawn here are this one (from 0) of so many shares of the step's patches. All shares
            together are what a single sampler of batch_size x shares draws.
        augmentation: what is drawn for each patch, and with it the margin that is read; None for nothing.
        foreground: which patches hold it, one of FOREGROUND.
        further: transforms of TorchIO after the augmentation, as a `further.Further`.

    Raises:
        DataError: no case, or cases without label.
    """

    def __init__(self, cases: Sequence[PreparedCase], patch_size: Sequence[int], batch_size: int, seed: int = 0,
                 share: int = 0, shares: int = 1, augmentation: Augmentation | None = None,
                 foreground: str = "every-third", further: Callable | None = None):
        if unlabelled := [case.id for case in cases if case.labels is None]:
            raise DataError(f"{len(unlabelled)} training cases have no label: {few(unlabelled)}",
                            "Add the label files, or take these cases out of the training set.")
        if not cases:
            raise DataError("found no training case, expected at least one", "Check the list of cases.")
        self.patch_size, self.batch_size, self.seed = tuple(patch_size), batch_size, seed
        self.first, self.all, self.augmentation = share * batch_size, shares * batch_size, augmentation
        self.centred, self.further = foreground == "centred", further
        self.cases = sorted(cases, key=lambda case: case.id)
        self.groups: dict[tuple[str, ...], list[PreparedCase]] = {}
        for case in self.cases:
            self.groups.setdefault(tuple(sorted(case.images)), []).append(case)
        self.with_foreground = {case.id for case in self.cases if len(case.foreground)}

    def batch(self, step: int) -> Batch:
        """The batch of this step: patches of cases that have the same modalities."""
        drawn = self.cases[np.random.default_rng((self.seed, step)).integers(len(self.cases))]
        names = tuple(sorted(drawn.images))
        return Batch(names, tuple(self.patch(self.groups[names], step, index)
                                  for index in range(self.first, self.first + self.batch_size)))

    def patch(self, group: list[PreparedCase], step: int, index: int) -> Patch:
        """The patch at this index of the batch, of a case of the group."""
        # 1 + index: numpy pads seeds with zeros, so (seed, step, 0) would draw what (seed, step) drew
        random = np.random.default_rng((self.seed, step, 1 + index))
        number = step * self.all + index
        in_batch = self.centred and self.all > 1        # a third of one patch, rounded, would be none, ever
        foreground = index >= round(self.all * 2 / 3) if in_batch else number % 3 == 0
        choice = group
        if foreground and not self.centred:
            choice = [case for case in group if case.id in self.with_foreground] or group
        case = choice[random.integers(len(choice))]
        return self.read(case, self.start(case, random, foreground), int(random.integers(2**62)))

    def read(self, case: PreparedCase, start: Sequence[int], seed: int) -> Patch:
        """The patch that begins at a voxel of a case, and around it what the transform reads that this seed draws."""
        names = sorted(case.images)
        first, last, transform = np.zeros(3, int), np.array(self.patch_size), None
        if self.augmentation is not None:
            transform = self.augmentation.draw(seed, self.patch_size, case.grid.spacing_mm, len(names))
            if transform.mirrored is None:      # what lies beyond the scan need not be read
                first, last = (edge.clip(-np.array(start), np.subtract(case.labels.shape, start))
                               for edge in transform.box)
                last = np.maximum(last, first + 2)      # one voxel has no extent, so nothing would lie beyond it
        place = (first + start).tolist(), (last - first).tolist()
        outside = [case.outside.get(name, 0.0) for name in names]
        images = [cut(case.images[name], *place, value) for name, value in zip(names, outside, strict=True)]
        further = self.further and partial(self.further, names=names, spacing_mm=case.grid.spacing_mm, seed=seed)
        labels = cut(case.labels, *place)
        return Patch(case.id, torch.from_numpy(np.stack(images)), torch.from_numpy(labels), tuple(first.tolist()),
                     torch.tensor(outside)[:, None, None, None], transform, further, bool((labels >= SETS).any()))

    def start(self, case: PreparedCase, random: np.random.Generator, foreground: bool) -> list[int]:
        """First voxel of a patch: anywhere in the case, or so that a drawn lesion voxel lies in it."""
        shape, size = np.array(case.labels.shape), np.array(self.patch_size)
        slack = np.maximum(shape - size, 0)
        lower, upper = np.zeros(3, int), slack
        if foreground and len(case.foreground):
            classes = np.unique(case.foreground[:, 0])
            voxels = case.foreground[case.foreground[:, 0] == classes[random.integers(len(classes))], 1:]
            voxel = voxels[random.integers(len(voxels))]
            lower, upper = ((np.clip(voxel - size // 2, 0, slack),) * 2 if self.centred else
                            (np.clip(voxel - size + 1, 0, slack), np.clip(voxel, 0, slack)))
        centred = -((size - shape) // 2)
        return [int(middle if n < p else random.integers(low, high + 1)) for low, high, middle, n, p
                in zip(lower, upper, centred, shape, size, strict=True)]

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps first to last - 1, each read while the one before is used."""
        return ahead(range(first, last), self.batch)


def ahead(items: Iterable[T], make: Callable[[T], U]) -> Iterator[U]:
    """What `make` makes of each item, in their order; the next one is made in a thread while one is used.

    >>> list(ahead([1, 2, 3], lambda n: n * n))
    [1, 4, 9]
    """
    source, nothing = iter(items), object()

    def following() -> U | object:
        item = next(source, nothing)
        return nothing if item is nothing else make(item)

    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(following)
        while (made := coming.result()) is not nothing:
            coming = worker.submit(following)
            yield made


def cut(array: np.ndarray, start: Sequence[int], size: Sequence[int], outside: float = 0) -> np.ndarray:
    """A patch of an array, a copy; this value where it reaches beyond the array."""
    inside = tuple(slice(max(0, a), min(n, a + p)) for a, p, n in zip(start, size, array.shape, strict=True))
    patch = np.full(tuple(size), outside, array.dtype)
    patch[tuple(slice(part.start - a, part.stop - a) for part, a in zip(inside, start, strict=True))] = array[inside]
    return patch

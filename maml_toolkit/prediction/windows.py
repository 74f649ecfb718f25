"""Overlapping windows of a volume, their weights, their mirror images, and the sums over all of them.

    map(x) = sum_{m, w, f} g(x - w) f^-1(map_{m, w}(f(x))) / sum_{m, w, f} g(x - w)

over members m, windows w and flips f; g is a Gaussian with sigma = window / 8, the same whichever way it is turned. The
sums are as large as one answer, however many members and flips there are.

References:
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et
    al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z (windows, weights, mirroring)
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_toolkit.data.tasks import Task


def gaussian(window: Sequence[int]) -> Tensor:
    """Weights of a window, 1 in its middle, sigma an eighth of each side; never 0, so that every voxel counts."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    return torch.einsum("i,j,k->ijk", *axes).clamp_min(1e-4)


def windows(shape: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[slice, ...]]:
    """Places of windows that cover a volume evenly, overlapping at least as told."""
    starts = []
    for n, size in zip(shape, window, strict=True):
        count = 1 + int(np.ceil((n - size) / max(1, size * (1 - overlap))))
        starts.append(sorted({round(start) for start in np.linspace(0, n - size, count)}))
    for corner in itertools.product(*starts):
        yield tuple(slice(start, start + size) for start, size in zip(corner, window, strict=True))


def padded(images: Tensor, window: Sequence[int], outside: Sequence[float]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Volumes (modalities, depth, height, width), around each its value for outside up to the window's size, and how
    many voxels of it.
    """
    lacking = [max(0, size - n) for size, n in zip(window, images.shape[1:], strict=True)]
    margins = [(n // 2, n - n // 2) for n in lacking]
    flat = [n for pair in reversed(margins) for n in pair]
    if not any(flat):
        return images, margins
    return torch.stack([torch.nn.functional.pad(image, flat, value=value)
                        for image, value in zip(images, outside, strict=True)]), margins


def flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of these axes, counted from the last three, none among them: 2^k flips.

    >>> flips((0, 2))
    [(), (-3,), (-1,), (-3, -1)]
    """
    return [tuple(axis - 3 for axis in chosen) for size in range(len(axes) + 1)
            for chosen in itertools.combinations(axes, size)]


def mirrored_axes(mirror: bool | Sequence[int], task: Task) -> tuple[int, ...]:
    """The axes to mirror along, each once.

    Raises:
        ValueError: one is none; or it is left-right, and a class of the task is on one side of the body.
    """
    given = () if mirror is False else [mirror] if isinstance(mirror, int) else mirror
    axes = tuple(range(1 if task.sided else 0, 3)) if mirror is True else tuple(sorted(set(given)))
    if set(axes) - {0, 1, 2}:
        raise ValueError(f"found mirror={mirror!r}, expected True or some of the axes 0 (left-right), 1 and 2")
    if task.sided and 0 in axes:
        raise ValueError(f"found mirror={mirror!r}, expected no 0 (left-right): {', '.join(task.sided)} would change "
                         "sides; use mirror=True or (1, 2)")
    return tuple(map(int, axes))


def axes_of_training(trainers: Sequence[Mapping[str, Any]]) -> tuple[int, ...] | bool:
    """The axes along which all of these trainings mirrored their patches; True where none says.

    Args:
        trainers: the settings of their Trainers, as settings.json has them.
    """
    told = [one["augmentation"] for one in trainers if "augmentation" in one]
    return not told or tuple(axis for axis in range(3) if all(one and one["mirror"][axis] for one in told))


class Sums:
    """The maps of one answer, weighted and summed.

    Args:
        shape: of the volume.
        device: that holds the sums.
    """

    def __init__(self, shape: Sequence[int], device: torch.device):
        self.shape, self.device = tuple(shape), device
        self.maps: dict[str, Tensor] = {}
        self.times: Counter[str] = Counter()
        self.biases: dict[int, Tensor | None] = {}

    def add(self, maps: Mapping[str, Tensor], place: tuple[slice, ...], weights: Tensor,
            flip: Sequence[int] = ()) -> None:
        """The maps (…, depth, height, width) of a window that was turned around along the axes of `flip`."""
        for name, values in maps.items():
            if name not in self.maps:
                self.maps[name] = torch.zeros((*values.shape[:-3], *self.shape), device=self.device)
            values = values.flip(flip) if flip else values
            self.maps[name][(..., *place)] += (values.float() * weights).to(self.device)
        self.times.update(maps.keys())

    def mean(self, name: str, total: Tensor) -> Tensor:
        """A map, averaged by the sum of the weights."""
        return self.maps[name] / total

    @property
    def names(self) -> list[str]:
        """The maps that every member has: a mean over some of them would explain another answer."""
        return [name for name in self.maps if self.times[name] == max(self.times.values())]

    @property
    def bias(self) -> np.ndarray | None:
        """The mean of the members' biases; None where one has none."""
        found = list(self.biases.values())
        return None if any(one is None for one in found) else torch.stack(found).float().mean(0).cpu().numpy()

"""Augmentation, the paper's (mirror, rotation, elastic deformation, gamma, and scaling) or nnU-Net's, of a patch.

Every spatial change becomes one map of coordinates, an affine part plus a coarse displacement. It is drawn before the
patch is read, so that the patch comes with the margin in which the map reads (patches.py) and is read through it
once: images by trilinear interpolation, labels by the nearest voxel. What is only mirrored is turned around and keeps
its values. Then come the intensities (intensities.py). It runs on whatever device the patch is on. TorchIO's transforms
may follow (further.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from maml_toolkit.data import intensities
from maml_toolkit.data.intensities import Drawn, Intensity, change_
from maml_toolkit.data.tasks import Task

CONTROL = 5
"""Points of the elastic deformation on each axis."""

STRONGEST = 3
"""Standard deviations beyond which no control point of the elastic deformation is moved, which bounds the margin."""

ANISOTROPIC = 3
"""Where an axis is this many times as coarse as the finest, patches turn only around it, as in nnU-Net."""


@dataclass(frozen=True)
class Transform:
    """What was drawn for one patch.

    Attributes:
        size: voxels of the patch on each axis.
        points: (CONTROL, CONTROL, CONTROL, 3), the places that are read for points spread evenly over the patch, from
            its first voxel to its last, in voxels from the first; those of all voxels lie trilinearly between them.
        mirrored: where only mirrors were drawn, the axes; None where values must be interpolated.
        intensities: what is done to the intensities, in this order.
    """

    size: tuple[int, int, int]
    points: np.ndarray
    mirrored: tuple[int, ...] | None
    intensities: tuple[Drawn, ...] = ()

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 voxel on each axis that is read, counted from the first of the patch."""
        if self.mirrored is not None:
            return np.zeros(3, int), np.array(self.size)
        flat = self.points.reshape(-1, 3)
        # a place between control points lies inside their box; the slack is for rounding
        return np.floor(flat.min(0) - 1e-3).astype(int), np.ceil(flat.max(0) + 1e-3).astype(int) + 1

    def __call__(self, images: Tensor, labels: Tensor, first: Sequence[int], outside: Tensor) -> tuple[Tensor, Tensor]:
        """The patch, read through the map.

        Args:
            images: (modalities, depth, height, width), all of `box` that lies in the scan; where only mirrors were
                drawn, all of it.
            labels: (depth, height, width), likewise, of whole numbers.
            first: the first voxel of both, counted from the first of the patch.
            outside: (modalities, 1, 1, 1), what is read beyond the scan; of labels that is 0.
        """
        if self.mirrored is not None:
            axes = [axis - 3 for axis in self.mirrored]
            moved, classes = (images.flip(axes), labels.flip(axes)) if axes else (images.clone(), labels)
        else:
            grid = self.coordinates(first, labels.shape, images.device)[None]
            moved = functional.grid_sample((images - outside)[None], grid.to(images.dtype), align_corners=True)[0]
            moved += outside
            classes = functional.grid_sample(labels[None, None].to(torch.float32), grid, mode="nearest",
                                             align_corners=True)[0, 0].to(labels.dtype)
        change_(moved, self.intensities)
        return moved, classes

    def coordinates(self, first: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
        """Where each voxel of the patch is read in an array that begins at `first`: (depth, height, width, 3) for
        grid_sample, whose -1 and 1 are the centres of the outer voxels.
        """
        shares = 2 * (self.points - first) / np.maximum(np.array(shape) - 1, 1) - 1
        points = torch.from_numpy(np.ascontiguousarray(shares[..., ::-1], np.float32))      # x, y, z
        return enlarged(points.to(device, non_blocking=True), self.size)


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each patch; the chances are nnU-Net's, the paper names none.

    Args:
        mirror: chance of a flip on each axis, one for all or one for each: left-right, posterior-anterior,
            inferior-superior.
        rotation: chance of a rotation around every axis.
        rotation_degrees: its largest angle.
        scaling: chance of a change of size.
        scale: smallest and largest factor.
        elastic: chance of an elastic deformation.
        elastic_share: its standard deviation at the control points (`CONTROL` on each axis), as a share of the patch;
            none is moved further than `STRONGEST` of them.
        gamma: chance, for each modality, of a power of its intensities.
        gamma_range: smallest and largest power.
        intensities: further changes of the intensities, before gamma, such as `intensities.NNUNET`, which has a gamma
            of its own and wants gamma=0 here.
    """

    mirror: float | Sequence[float] = 0.5
    rotation: float = 0.2
    rotation_degrees: float = 30
    scaling: float = 0.2
    scale: Sequence[float] = (0.7, 1.4)
    elastic: float = 0.2
    elastic_share: float = 0.03
    gamma: float = 0.3
    gamma_range: Sequence[float] = (0.7, 1.5)
    intensities: Sequence[Intensity | Mapping[str, Any]] = ()

    def __post_init__(self):
        mirror = (self.mirror,) * 3 if np.isscalar(self.mirror) else tuple(self.mirror)
        object.__setattr__(self, "mirror", mirror)
        chances = {"mirror": mirror, **{name: (getattr(self, name),) for name in
                                        ("rotation", "scaling", "elastic", "gamma")}}
        if len(mirror) != 3 or any(not 0 <= one <= 1 for several in chances.values() for one in several):
            raise ValueError(f"found the chances {chances}, expected numbers from 0 to 1, of mirror one or three")
        object.__setattr__(self, "intensities", tuple(
            one if isinstance(one, Intensity) else Intensity(**one) for one in self.intensities))
        if self.gamma and any(one.change == "gamma" for one in self.intensities):
            raise ValueError(f"found gamma={self.gamma} and another gamma among the intensities, expected one of them, "
                             "or patches would get it twice; give gamma=0")
        for name in ("scale", "gamma_range"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not (len(getattr(self, name)) == 2 and 0 < getattr(self, name)[0] <= getattr(self, name)[1]):
                raise ValueError(f"found {name}={getattr(self, name)}, expected the smallest and the largest, above 0")

    def for_task(self, task: Task) -> Augmentation:
        """The same, but never mirrored from left to right where a class of the task is on one side of the body."""
        return replace(self, mirror=(0.0, *self.mirror[1:])) if task.sided else self

    def draw(self, seed: int, size: Sequence[int], spacing_mm: Sequence[float], modalities: int) -> Transform:
        """The transform of one patch, from its own seed alone.

        Args:
            size: voxels of the patch on each axis.
            spacing_mm: voxel size, so that rotations keep shapes on anisotropic grids.
            modalities: how many there are.
        """
        random = np.random.default_rng(seed)
        flips = np.where(random.random(3) < self.mirror, -1.0, 1.0)
        turn = self.rotation_matrix(random, spacing_mm) if random.random() < self.rotation else np.eye(3)
        factor = random.uniform(*self.scale) if random.random() < self.scaling else 1.0
        # to millimetres, turn, back, so that a rotation stays one on any grid
        matrix = np.diag(1 / np.array(spacing_mm)) @ turn @ np.diag(spacing_mm * flips) / factor
        half = (np.array(size) - 1) / 2
        between = [np.linspace(-extent, extent, CONTROL) for extent in half]
        points = np.stack(np.meshgrid(*between, indexing="ij"), -1) @ matrix.T + half
        bent = random.random() < self.elastic
        if bent:
            moves = np.clip(random.standard_normal((*[CONTROL] * 3, 3)), -STRONGEST, STRONGEST)
            points = points + moves * self.elastic_share * np.array(size)
        powers = [random.uniform(*self.gamma_range) if random.random() < self.gamma else 1 for _ in range(modalities)]
        changes = [drawn for one in self.intensities for drawn in one.draw(random, modalities)]
        changes += [Drawn("gamma", index, power, 0) for index, power in enumerate(powers) if power != 1]
        same = not bent and factor == 1 and np.array_equal(turn, np.eye(3))
        return Transform(tuple(size), points, tuple(np.flatnonzero(flips < 0).tolist()) if same else None,
                         tuple(changes))

    def rotation_matrix(self, random: np.random.Generator, spacing_mm: Sequence[float]) -> np.ndarray:
        """A rotation around all three axes, or around the coarse one alone on a strongly anisotropic grid."""
        angles = np.deg2rad(random.uniform(-self.rotation_degrees, self.rotation_degrees, 3))
        coarse = int(np.argmax(spacing_mm))
        if max(spacing_mm) >= ANISOTROPIC * min(spacing_mm):
            angles[np.arange(3) != coarse] = 0
        matrix = np.eye(3)
        for axis, angle in enumerate(angles):
            plane = [(axis + 1) % 3, (axis + 2) % 3]
            turn = np.eye(3)
            turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            matrix = turn @ matrix
        return matrix


NNUNET = Augmentation(elastic=0, gamma=0, intensities=intensities.NNUNET)
"""nnU-Net v2's default (nnUNetTrainer.get_training_transforms)."""


def enlarged(points: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear interpolation of (n, n, n, 3) points to (depth, height, width, 3), the outer ones where they were.

    As products of matrices, one for each axis: 3 ms for 96^3 and 7 for 128^3 on a core of a CPU, where
    `functional.interpolate` takes 25 and 54.
    """
    depth, height, width = (hats(points, n) for n in size)
    with torch.autocast(points.device.type, enabled=False):
        planes = torch.einsum("di,ijkc->djkc", depth, points)
        rows = torch.einsum("hj,djkc->dhkc", height, planes)
        # one product for the axis and the coordinates
        both = torch.kron(width, torch.eye(3, dtype=points.dtype, device=points.device)).T.contiguous()
        return (rows.reshape(-1, len(both)) @ both).view(*size, 3)


def hats(points: Tensor, size: int) -> Tensor:
    """Weights (size, n) of linear interpolation from n points to so many, the outer ones kept."""
    like = {"dtype": points.dtype, "device": points.device}
    at = torch.linspace(0, len(points) - 1, size, **like) if size > 1 else torch.zeros(1, **like)
    return (1 - (at[:, None] - torch.arange(len(points), **like)).abs()).clamp_min(0)

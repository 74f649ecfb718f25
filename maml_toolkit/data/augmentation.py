"""The paper's augmentation: mirror, rotation, elastic deformation, gamma (and scaling), in one pass over a batch.

Every spatial change becomes one map of coordinates, an affine part plus a coarse displacement, and the batch is
read through it once: images by trilinear interpolation, labels by the nearest voxel. It runs on whatever device
the batch is on; one pass over four 128^3 patches, everything drawn, takes about 0.35 s of a CPU core, where
TorchIO's elastic deformation alone takes 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from maml_toolkit.shapes import Image, Labels

CONTROL = 5
"""Points of the elastic deformation on each axis."""

ANISOTROPIC = 3
"""Where an axis is this many times as coarse as the finest, patches turn only around it, as in nnU-Net."""


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each patch; the chances are nnU-Net's, the paper names none.

    Args:
        mirror: chance of a flip on each axis.
        rotation: chance of a rotation around every axis.
        rotation_degrees: its largest angle.
        scaling: chance of a change of size.
        scale: smallest and largest factor.
        elastic: chance of an elastic deformation.
        elastic_share: its standard deviation at the control points (`CONTROL` on each axis), as a share of the patch.
        gamma: chance, for each modality, of a power of its intensities.
        gamma_range: smallest and largest power.
    """

    mirror: float = 0.5
    rotation: float = 0.2
    rotation_degrees: float = 30
    scaling: float = 0.2
    scale: tuple[float, float] = (0.7, 1.4)
    elastic: float = 0.2
    elastic_share: float = 0.03
    gamma: float = 0.3
    gamma_range: tuple[float, float] = (0.7, 1.5)

    def __call__(self, images: dict[str, Image], labels: Labels, seeds: Sequence[int],
                 spacing_mm: Sequence[float] = (1, 1, 1)) -> tuple[dict[str, Image], Labels]:
        """Changed images and labels of the same shapes; each patch draws from its own seed alone.

        Args:
            images: by modality, all present in the whole batch.
            labels: class of each voxel.
            seeds: one for each patch.
            spacing_mm: voxel size, so that rotations keep shapes on anisotropic grids.
        """
        randoms = [np.random.default_rng(seed) for seed in seeds]
        stacked = torch.cat(list(images.values()), dim=1)
        grid = torch.stack([self.coordinates(random, labels.shape[1:], spacing_mm, labels.device)
                            for random in randoms])
        moved = functional.grid_sample(stacked, grid.to(stacked.dtype), padding_mode="border", align_corners=False)
        truth = functional.grid_sample(labels[:, None].to(torch.float32), grid, mode="nearest", padding_mode="border",
                                       align_corners=False)
        gamma_(moved, [[self.power(random) for _ in images] for random in randoms])
        return dict(zip(images, moved.split(1, dim=1), strict=True)), truth[:, 0].to(labels.dtype)

    def coordinates(self, random: np.random.Generator, size: Sequence[int], spacing_mm: Sequence[float],
                    device: torch.device) -> Tensor:
        """Where each voxel of the new patch is read in the old one, (depth, height, width, 3) for grid_sample.

        Trilinear interpolation keeps an affine map, so both parts are added at the control points.
        """
        extent = np.multiply(size, spacing_mm)
        flips = np.where(random.random(3) < self.mirror, -1.0, 1.0)
        turn = self.rotation_matrix(random, spacing_mm) if random.random() < self.rotation else np.eye(3)
        factor = random.uniform(*self.scale) if random.random() < self.scaling else 1.0
        # Corners lie at -1 and 1: to millimetres, turn, back, so that a rotation stays one on any grid.
        matrix = np.diag(1 / extent) @ turn @ np.diag(extent * flips) / factor
        between = [(1 - 1 / n) * np.linspace(-1, 1, CONTROL) for n in size]      # the centres of the outer voxels
        points = (np.stack(np.meshgrid(*between, indexing="ij"), -1) @ matrix.T)[..., ::-1]     # x, y, z
        if random.random() < self.elastic:
            points = points + np.moveaxis(random.normal(0, 2 * self.elastic_share, (3, *[CONTROL] * 3)), 0, -1)
        return enlarged(torch.from_numpy(points.astype(np.float32)).to(device), size)

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

    def power(self, random: np.random.Generator) -> float:
        """The gamma of one modality, 1 for none."""
        return random.uniform(*self.gamma_range) if random.random() < self.gamma else 1.0


def enlarged(points: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear interpolation of (n, n, n, 3) points to (depth, height, width, 3), the outer ones where they were."""
    return (by_products if points.device.type == "cpu" else by_interpolation)(points, size)


def by_interpolation(points: Tensor, size: Sequence[int]) -> Tensor:
    """`enlarged` by torch's own function."""
    moved = functional.interpolate(points.movedim(-1, 0)[None], tuple(size), mode="trilinear", align_corners=True)
    return moved[0].movedim(0, -1)


def by_products(points: Tensor, size: Sequence[int]) -> Tensor:
    """`enlarged` as products of matrices, one for each axis: 8 ms for 128^3 on a core of a CPU.

    `functional.interpolate` takes 50 there, and `functional.affine_grid` and the sum, for which it has no need, as much
    again.
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


def gamma_(images: Tensor, powers: Sequence[Sequence[float]]) -> None:
    """Raise each (patch, modality) to its power within its range, mean and spread as before; 1 changes nothing.

    In place, one modality at a time, so that it stays in the cache: a sixth of the time of all together. No gradient
    passes.
    """
    for patch, row in zip(images, powers, strict=True):
        for image, power in zip(patch, row, strict=True):
            if power == 1:
                continue
            low, high = image.aminmax()
            mean, spread = image.mean(), image.std()
            image.sub_(low).div_((high - low).clamp_min(1e-6)).pow_(power)
            factor = spread / image.std().clamp_min(1e-6)
            torch.addcmul(mean - factor * image.mean(), image, factor, out=image)

"""Values on one grid as values on another: the one way by which images change their voxels (labels: resampling_labels).

A voxel is a box: values reach half a voxel beyond the centres at the border, and beyond that lies the outside. Images
are interpolated linearly; going to coarser voxels, a Gaussian may first take out what those cannot show:

    sigma = voxel size sqrt((factor^2 - 1) / (8 ln 2)),        factor = new voxel size / voxel size

References:
    M. J. Cardoso et al. Scale factor point spread function matching: beyond aliasing in image resampling. MICCAI 2015.
    https://doi.org/10.1007/978-3-319-24571-3_81
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import nibabel
import numpy as np
import SimpleITK as sitk

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS+ to LPS+, ITK's, and back."""

FEWEST = 4
"""Voxels along an axis that ITK's recursive Gaussian wants."""


def resampled(values: np.ndarray, affine: np.ndarray, shape: Sequence[int], target: np.ndarray, *, outside: float = 0,
              transform: sitk.Transform | None = None, antialias: bool = False, nearest: bool = False) -> np.ndarray:
    """Values (…, depth, height, width) on one grid as values on another; the same array where the grids agree.

    Args:
        affine, target: of the values, and of the grid to which they go; 4x4, voxel to mm (RAS+).
        shape: of the new grid.
        outside: what lies beyond the values.
        transform: from points of the new grid to points of the values (mm, LPS+); none moves when left out.
        antialias: smooth along the axes whose voxels become larger.
        nearest: the value of the nearest voxel in place of interpolation.
    """
    if transform is None and is_one_grid(values.shape[-3:], affine, shape, target):
        return values
    volumes = values.reshape(-1, *values.shape[-3:])
    result = np.empty((len(volumes), *(int(n) for n in shape)), values.dtype.newbyteorder("="))
    reference = reference_of(shape, target)
    how = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    for volume, moved in zip(volumes, result, strict=True):
        image = itk_image(volume, affine)
        if antialias:
            image = _smoothed(image, reference.GetSpacing())
        if nearest:      # ITK's nearest neighbour of a point just half a voxel beyond the border is whatever lies there
            image = sitk.ConstantPad(image, [1, 1, 1], [1, 1, 1], float(outside))
        image = sitk.Resample(image, reference, transform or sitk.Transform(), how, float(outside))
        moved[...] = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    return result.reshape(*values.shape[:-3], *result.shape[1:])


def is_one_grid(shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other: np.ndarray) -> bool:
    """Whether voxels lie on voxels."""
    return tuple(shape) == tuple(other_shape) and np.allclose(affine, other)


def itk_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An array (i, j, k) in SimpleITK, of the type that it has."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0).astype(array.dtype.newbyteorder("="), copy=False))
    return _placed(image, affine)


def reference_of(shape: Sequence[int], affine: np.ndarray) -> sitk.Image:
    """An image without content on this grid."""
    return _placed(sitk.Image([int(n) for n in shape], sitk.sitkUInt8), affine)


def itk_grid(affine: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction (rows of the matrix, one after the other), LPS+."""
    turned, spacing = LPS @ affine, nibabel.affines.voxel_sizes(affine)
    return turned[:3, 3].tolist(), spacing.tolist(), (turned[:3, :3] / spacing).ravel().tolist()


def _placed(image: sitk.Image, affine: np.ndarray) -> sitk.Image:
    origin, spacing, direction = itk_grid(np.asarray(affine, float))
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _smoothed(image: sitk.Image, spacing: Sequence[float]) -> sitk.Image:
    """Without what voxels of this spacing cannot show."""
    for axis, (size, wanted) in enumerate(zip(image.GetSpacing(), spacing, strict=True)):
        if wanted / size <= 1 + 1e-6 or image.GetSize()[axis] == 1:
            continue
        sigma = size * math.sqrt(((wanted / size) ** 2 - 1) / (8 * math.log(2)))
        lacking = [0, 0, 0]
        lacking[axis] = max(0, FEWEST - image.GetSize()[axis])
        # the filter takes the border for going on for ever, and so does the padding
        wide = sitk.ZeroFluxNeumannPad(image, lacking, lacking) if any(lacking) else image
        smooth = sitk.RecursiveGaussian(wide, sigma, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
        image = sitk.Crop(smooth, lacking, lacking) if any(lacking) else smooth
    return image

"""Where an image lies in the patient, as its header says it, and whether the header agrees with itself.

A NIfTI header can say it three times: voxel sizes (pixdim), a rotation (qform), a matrix (sform). nibabel reads
distances from the matrix, SimpleITK from pixdim, so an image in which they disagree has another size, or another left
and right, in every program. Such an image is refused here, and `mending.mend` writes one that agrees with itself.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Header

from maml_toolkit.system.errors import DataError

GRID_TOLERANCE = 0.02
"""Largest distance between the corners of grids that count as one, in voxels along each axis: headers are rounded."""

SPACING_TOLERANCE = 0.001
"""Largest relative difference of voxel sizes that rounding explains."""

SHEAR_TOLERANCE_DEGREES = 0.1
"""Largest deviation of two axes from a right angle that is accepted, with a note."""

APART = 0.5
"""Largest distance, in voxels, between where qform and sform put an image that is accepted without a note."""

ROUNDING = 1e-6
"""Share by which a volume may be off: headers keep voxel sizes and rotations in float32."""

UNITS = {1: "metre", 3: "micrometre"}
"""NIfTI's codes of units of length other than the millimetre (2) and the unknown (0)."""


def checked_affine(header: Nifti1Header, shape: Sequence[int],
                   affine: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine, in mm, of a real-valued 3-D image whose place in the patient is known, and what is odd about it.

    Raises:
        DataError: it is not such an image, or its header contradicts itself.
    """
    _check_voxels(header, shape)
    check_unit(header)
    if not (header["qform_code"] or header["sform_code"]) or affine is None:
        raise DataError("found neither a qform nor an sform, expected one: left and right are unknown",
                        "Convert the original images again, or, if you know the directions of the axes, say them: "
                        "`mend --orientation LPS`.")
    if not np.isfinite(affine).all():
        raise DataError(f"found the affine {affine.tolist()}, expected finite numbers",
                        "Convert the original images again, or correct the header.")
    sizes = nib.affines.voxel_sizes(affine)
    if min(sizes) < 1e-6 or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * np.prod(sizes):
        raise DataError(f"found a singular affine with voxel sizes {sizes.tolist()} mm, expected three "
                        "independent axes",
                        "Convert the original images again, or correct the header.")
    _check_agreement(header)
    dropped = [f"found the shape {tuple(shape)}; axes of length one are dropped"] if len(shape) > 3 else []
    return affine.astype(np.float64), (*dropped, *_sheared(affine), *_directions(header))


def voxel_ml(affine: np.ndarray) -> float:
    """The volume of a voxel.

    >>> voxel_ml(np.diag([1, -1, 2, 1]))
    0.002
    """
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000


def reaches(mm3: Any, least_mm3: Any) -> Any:
    """Whether volumes, from the sizes of voxels in a header, are the least or more, whichever way that was rounded.

    >>> reaches(np.array([7.9999, 7.9999998, 8]), 8).tolist()
    [False, True, True]
    """
    return mm3 >= least_mm3 * (1 - ROUNDING)


def _check_voxels(header: Nifti1Header, shape: Sequence[int]) -> None:
    kind = header.get_data_dtype().kind
    if kind not in "iuf":
        raise DataError(f"found {'complex' if kind == 'c' else 'colour'} voxels ({header.get_data_dtype()}), "
                        "expected one real number a voxel",
                        "Save the magnitude, or one channel, as its own file.")
    if math.prod(shape[3:]) != 1:
        what = f"{shape[3]} frames" if len(shape) == 4 else "several values a voxel"
        remedy = ("Which frame is it? Take it out with `mend --frame N`, counted from 0." if len(shape) == 4 else
                  "Save the component that is meant as its own file.")
        raise DataError(f"found the shape {tuple(shape)}, {what}, expected a 3-D image", remedy)
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise DataError(f"found the shape {tuple(shape)}, expected a 3-D image of at least two slices",
                        "Put the slices of a series into one file.")


def check_unit(header: Nifti1Header) -> None:
    """Nothing, if the header counts in millimetres or does not say in what.

    Raises:
        DataError: another unit.
    """
    if unit := UNITS.get(int(header["xyzt_units"]) & 7):
        sizes = [round(float(size), 6) for size in header["pixdim"][1:4]]
        raise DataError(f"found the unit {unit} in the header with voxel sizes {sizes}, expected millimetres; "
                        "programs that ignore the unit are wrong by a factor of 1000",
                        f"`mend --unit {unit}` converts the numbers; `mend --unit millimetre` keeps them, if only the "
                        "unit is wrong.")


def _check_agreement(header: Nifti1Header) -> None:
    """pixdim, qform and sform must give one size and one handedness."""
    if not header["sform_code"]:
        return
    sform, qform = header.get_sform(), header.get_qform() if header["qform_code"] else None
    choose = ("Look at the image in a viewer to learn which is right, then write a file that agrees with itself: "
              f"`mend --prefer sform`{'' if qform is None else ' or `mend --prefer qform`'}.")
    pixdim, sizes = header["pixdim"][1:4].astype(float), nib.affines.voxel_sizes(sform)
    if (np.abs(sizes / pixdim - 1) > SPACING_TOLERANCE).any():
        raise DataError(f"found voxel sizes of {_mm(pixdim)} mm in pixdim{'' if qform is None else ' and the qform'} "
                        f"and of {_mm(sizes)} mm in the sform, expected the same", choose)
    if qform is not None and np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        axes = ["".join(nib.aff2axcodes(form)) for form in (qform, sform)]
        raise DataError(f"found a qform with axes towards {axes[0]} and an sform with axes towards {axes[1]}, one the "
                        "mirror image of the other: programs disagree on left and right", choose)


def _directions(header: Nifti1Header) -> list[str]:
    if not (header["qform_code"] and header["sform_code"]):
        return []
    forms = [np.asarray(form, float) for form in (header.get_qform(), header.get_sform())]
    one, other = (form[:3, :3] / nib.affines.voxel_sizes(form) for form in forms)
    angle = math.degrees(math.acos(np.clip((one * other).sum(axis=0).min(), -1, 1)))
    if angle > 0.5:
        return [f"the directions of qform and sform differ by {angle:.1f} degrees; the sform is used"]
    middle = (np.array(header.get_data_shape()[:3]) - 1) / 2       # rounded directions turn about the first voxel
    one, other = (nib.affines.apply_affine(form, middle) for form in forms)
    apart = float(np.linalg.norm(one - other))
    what = f"qform and sform put the image {apart:.3g} mm apart; the sform is used, and other programs use the qform"
    return [what] if apart > APART * min(nib.affines.voxel_sizes(forms[1])) else []


def _sheared(affine: np.ndarray) -> list[str]:
    axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    cosines = np.abs(axes.T @ axes)[np.triu_indices(3, 1)]
    angle = math.degrees(math.asin(min(1.0, float(cosines.max()))))
    if angle > SHEAR_TOLERANCE_DEGREES:
        raise DataError(f"found axes that are {angle:.2f} degrees away from a right angle, expected at most "
                        f"{SHEAR_TOLERANCE_DEGREES}: networks and most viewers take voxels for boxes",
                        "Resample the image onto a straight grid: `mend --straighten`.")
    return [f"the axes are {angle:.3f} degrees away from a right angle; taken as straight"] if angle > 0.005 else []


def _mm(sizes: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def grid_difference(one: Any, other: Any) -> str | None:
    """How the grids of two volumes differ, in words; None where they are one grid.

    Args:
        one, other: anything with a `shape` and an `affine`.
    """
    if one.shape != other.shape:
        return f"found the shapes {one.shape} and {other.shape}"
    if _corner_distances(one.shape, np.linalg.inv(one.affine) @ other.affine, np.eye(4)).max() <= GRID_TOLERANCE:
        return None
    distance = corner_distance_mm(one.shape, one.affine, other.affine)
    axes = ["".join(nib.aff2axcodes(grid.affine)) for grid in (one, other)]
    turned = f" and axes towards {axes[0]} and {axes[1]}" if axes[0] != axes[1] else ""
    return f"found corners up to {distance:.4g} mm apart{turned}"


def corner_distance_mm(shape: Sequence[int], affine: np.ndarray, other_affine: np.ndarray) -> float:
    """The largest distance between the corners that two grids of one shape give to the same voxels."""
    return float(np.linalg.norm(_corner_distances(shape, affine, other_affine), axis=1).max())


def _corner_distances(shape: Sequence[int], affine: np.ndarray, other_affine: np.ndarray) -> np.ndarray:
    """How far apart two matrices put each corner, along each axis."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
    return np.abs(corners @ (affine - other_affine).T)[:, :3]

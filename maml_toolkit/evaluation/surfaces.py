"""Two masks of one case, the surfaces of both, and how far these lie from each other.

Two kinds of surface are in use. *Surface voxels* are those with a face-neighbour outside the mask, where all beyond the
array is outside; distances run between their centres (ASSD and HD95, as in MONAI and medpy). *Surface elements* are the
patches that marching cubes lay through every cell between eight voxels that the mask cuts, edges cut in their middle;
each has an area, and distances run between the centres of cells (surface Dice, and HD95 of lesions as in BraTS).

References:
    Marching cubes: a high resolution 3D surface construction algorithm, Lorensen and Cline, SIGGRAPH 1987
    Clinically applicable segmentation of head and neck anatomy for radiotherapy, Nikolov et al., 2021,
        https://doi.org/10.2196/26151 (code: https://github.com/google-deepmind/surface-distance)
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import label
from scipy.spatial import cKDTree

VOXELS = (1.0, 1.0, 1.0)
"""The spacing in which a distance counts voxels."""

LARGE = 5000
"""Voxels of a surface from which on both directions of its distances are measured at the same time."""


def checked(prediction: np.ndarray, truth: np.ndarray,
            spacing_mm: Sequence[float | int] = VOXELS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two masks as booleans, and the spacing as an array (3,).

    Raises:
        ValueError: an array that is no mask, two of different shapes, or a spacing that is not three positive numbers.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(f"found masks of the shapes {prediction.shape} and {truth.shape}, "
                         "expected one shape of three axes")
    spacing = np.asarray(spacing_mm, float)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm is {spacing_mm}, expected three positive millimetres")
    return _mask(prediction, "prediction"), _mask(truth, "truth"), spacing


def _mask(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == bool:
        return array
    mask = array == 1
    if not (mask | (array == 0)).all():
        other = array[~mask & (array != 0)].flat[0]
        raise ValueError(f"found the value {other} in the {name}, expected a mask of 0 and 1; compare "
                         "regions one by one, for example classes == 2")
    return mask


class Surface(NamedTuple):
    """What distances are measured from and to: the voxels or the elements of one mask."""

    places: np.ndarray             # (count, 3) indices, from a corner that both masks share
    shared: np.ndarray             # (count,) whether they lie on the other surface too, and so 0 away from it
    image: tuple[int, int, int]    # shape of the whole


def surfaces(first: np.ndarray, second: np.ndarray, image: tuple[int, int, int]) -> tuple[Surface, Surface]:
    """Two surfaces from where they lie: arrays of booleans of one shape, cut out of an image of another."""
    return Surface(np.argwhere(first), second[first], image), Surface(np.argwhere(second), first[second], image)


def surface_voxels(prediction: np.ndarray, truth: np.ndarray,
                   around: tuple[slice, ...] | None = None) -> tuple[Surface, Surface]:
    """The surface voxels of two masks of booleans, `around` which the box is measured unless it is given."""
    around = box(prediction, truth) if around is None else around
    return surfaces(surface(prediction[around]), surface(truth[around]), truth.shape)


def distances(one: Surface, other: Surface, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From each place of one surface to the other surface, both ways; here is the rule for empty masks."""
    if not len(one.places) or not len(other.places):
        agreed = len(one.places) == len(other.places)
        worst = np.array([0.0 if agreed else np.linalg.norm(one.image * spacing)])
        return worst, worst
    if len(one.places) < LARGE:
        return _towards(one, other, spacing), _towards(other, one, spacing)
    with ThreadPoolExecutor(2) as pool:     # the trees work without Python's lock
        outwards, inwards = (pool.submit(_towards, *pair, spacing) for pair in ((one, other), (other, one)))
    return outwards.result(), inwards.result()


def _towards(one: Surface, other: Surface, spacing: np.ndarray) -> np.ndarray:
    """From each place of a surface to the nearest of the other; only those that are not shared are searched for."""
    found = np.zeros(len(one.places))
    tree = cKDTree(other.places * spacing, balanced_tree=False)     # built in 0.6 of the time, searched as fast
    found[~one.shared] = tree.query(one.places[~one.shared] * spacing)[0]
    return found


def box(*masks: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around all masks; of no size around empty ones.

    The axis whose planes lie together in memory goes first: `any` reads a plane in one go and stops at its first
    voxel, and the other axes are looked at between the first and the last plane alone. In 512x512x198 voxels
    that is 7 ms of CPU for a small tumour and 17 for a large liver, where `any` over every pair of axes takes 25.
    """
    order = np.argsort([-abs(stride) for stride in masks[0].strides], kind="stable")
    views = [mask.transpose(order) for mask in masks]
    box: list[slice] = []
    for axis in range(3):
        inside = [np.moveaxis(view[tuple(box)], axis, 0) for view in views]
        filled = [number for number in range(inside[0].shape[0]) if any(one[number].any() for one in inside)] \
            if axis == 0 else np.flatnonzero(np.any([one.any(axis=(1, 2)) for one in inside], axis=0)).tolist()
        box.append(slice(filled[0], filled[-1] + 1) if filled else slice(0, 0))
    return tuple(box[place] for place in np.argsort(order))


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face-neighbour outside; six shifted arrays, a fifth of the time of scipy's `binary_erosion`
    on a large liver (18 ms of CPU against 87)."""
    inner = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(3):
        for part in (slice(None, -2), slice(2, None)):
            inside &= inner[tuple(part if one == axis else slice(1, -1) for one in range(3))]
    return mask & ~inside


class Elements(NamedTuple):
    """The surface elements of one mask."""

    distances_mm: np.ndarray    # (count,) to the nearest element of the other mask
    areas_mm2: np.ndarray       # (count,)


def surface_elements(prediction: np.ndarray, truth: np.ndarray, spacing: np.ndarray) -> tuple[Elements, Elements]:
    """The surface elements of two masks of booleans, neither of them empty."""
    around = box(prediction, truth)
    codes = [_codes(mask[around]) for mask in (prediction, truth)]
    cut = [(code > 0) & (code < 255) for code in codes]
    found = distances(*surfaces(*cut, truth.shape), spacing)
    areas = _areas(tuple(spacing.tolist()))
    return Elements(found[0], areas[codes[0][cut[0]]]), Elements(found[1], areas[codes[1][cut[1]]])


def _codes(mask: np.ndarray) -> np.ndarray:
    """Which of the eight voxels around every corner of a voxel are inside, one bit each."""
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for bit, corner in enumerate(np.ndindex(2, 2, 2)):
        codes |= padded[tuple(slice(one, one + n) for one, n in zip(corner, codes.shape, strict=True))] << bit
    return codes


@lru_cache
def _areas(spacing: tuple[float, ...]) -> np.ndarray:
    """(256,) area of the surface in a cell by its code: around what is inside or, where that is less, outside."""
    areas = np.zeros(256)
    for code in range(256):
        inside = np.unpackbits(np.uint8(code), bitorder="little").reshape(2, 2, 2)
        parts, count = label(inside if inside.sum() <= 4 else 1 - inside)
        areas[code] = sum(_area(parts == part, np.prod(spacing) / spacing) for part in range(1, count + 1))
    return areas


def _area(part: np.ndarray, faces: np.ndarray) -> float:
    """Area that cuts one to four corners of a cell, which its edges join, from the others.

    Args:
        part: (2, 2, 2), true at these corners.
        faces: (3,) area of the cell's face across each axis. Their norm is eight times the triangle at one corner.
    """
    count, whole = part.sum(), float(np.linalg.norm(faces))
    across = faces[[not part.all(axis).any() for axis in range(3)]]    # along these axes no two corners are neighbours
    middle = [part.take(0, axis).sum() == 2 for axis in range(3)]
    if count == 1:
        return whole / 8
    if count == 2:      # a strip along the edge
        return float(np.linalg.norm(across)) / 2
    if count == 3:      # half a face, and a slope
        return float(across[0]) / 2 + whole * 3 / 8
    if len(across):     # a face
        return float(across[0])
    if not any(middle):    # a corner and its three neighbours: a hexagon
        return whole * 3 / 4
    return whole / 2 + sum(np.hypot(faces[middle], faces[~np.array(middle)])) / 4    # a winding path of three edges

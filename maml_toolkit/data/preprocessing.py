"""From a case's files to arrays that a network reads: one orientation, one box, one spacing, normalised.

    canonical orientation (RAS+) -> crop to the box of non-zero voxels of all its modalities (not CT)
    -> per modality clip to the 0.5 and 99.5 percentile, zero mean, unit variance
       (MR: inside that modality's own non-zero mask, 0 outside; CT: whole volume; "none", such as a mask: as it is)
    -> resample to the task's spacing (images linear with an anti-aliasing filter, labels so that lesions survive)

Orientation, box and spacing belong to the case, never to the modalities that are used of it, so answers from
different subsets lie on one grid (grids.py), which knows the way back.

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842 (clipping and normalisation)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import nibabel
import numpy as np
from nibabel import orientations

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.grids import Grid, grid_of
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.reading import path_in, read_case, spelt_otherwise
from maml_toolkit.data.tasks import Task
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError

PERCENTILES = (0.5, 99.5)
FOREGROUND_KEPT = 10_000
"""Voxels of each class remembered to centre patches on."""


def prepare(case: Case, task: Task) -> PreparedCase:
    """Read, check and preprocess one case; every modality that it has.

    Raises:
        DataError: a file that cannot be used, modalities on different grids, unknown label values, a modality of which
            the normalisation would leave nothing.
    """
    if errors := [*spelt_otherwise(case, task)]:        # or they would be left out without a word
        raise DataError.together(errors)
    own = replace(case, images={name: case.images[name] for name in task.modalities if name in case.images})
    if not own.images:
        raise no_modality(case, task)
    found = read_case(own, task)
    if found.errors:
        raise DataError.together(found.errors)
    first, label = found.stored[next(iter(own.images))], found.stored.pop("label", None)
    turn = orientations.io_orientation(first.affine)
    turned = {name: orientations.apply_orientation(scan.image().array, turn) for name, scan in found.stored.items()}
    # CT has a signal everywhere: air is not zero
    cropped = [] if "ct" in task.intensities.values() else list(turned.values())
    box = nonzero_box(cropped, next(iter(turned.values())).shape)
    spacing = task.spacing_mm or tuple(nibabel.affines.voxel_sizes(first.affine)[np.argsort(turn[:, 0])])
    grid = grid_of(first, box, spacing)

    def worked(name: str) -> np.ndarray | DataError:
        try:
            return grid.to_working(normalised(turned[name][grid.box_slices], task.intensities[name]))
        except DataError as error:
            return DataError(error.problem, error.remedy, case=case.id, modality=name, path=path_in(case, name))

    with machine.threads(len(turned)) as pool:
        images = dict(zip(turned, pool.map(worked, turned), strict=True))
    if errors := [image for image in images.values() if isinstance(image, DataError)]:
        raise DataError.together(errors)
    classes, oddities = None, found.oddities
    if label is not None:
        encoded = task.encode(orientations.apply_orientation(label.label().array, turn))
        classes, lost = grid.label_to_working(encoded[grid.box_slices])
        oddities += (*_cut_away(case, task, encoded, grid), *_lost(case, task, lost, grid))
    outside = {name: float(image.min()) if task.intensities[name] == "ct" else 0.0 for name, image in images.items()}
    return PreparedCase(case.id, images, classes, foreground_voxels(classes), grid, oddities, outside)


def _cut_away(case: Case, task: Task, encoded: np.ndarray, grid: Grid) -> Iterator[DataError]:
    """The classes that lie, in part, where every scan is zero."""
    outside = np.subtract(*(np.bincount(part.ravel(), minlength=task.classes)
                            for part in (encoded, encoded[grid.box_slices])))
    for index in np.flatnonzero(outside[1:]) + 1:
        yield DataError(f"{outside[index]} voxels of {task.class_names[index]} lie where every scan is zero; they are "
                        "left out", "Look at label and scans: do they belong together?",
                        case=case.id, modality="label", path=path_in(case, "label"))


def _lost(case: Case, task: Task, lost: Mapping[int, int], grid: Grid) -> Iterator[DataError]:
    for index, count in lost.items():
        size = " x ".join(f"{mm:.3g}" for mm in grid.spacing_mm)
        yield DataError(f"{count} lesions (connected parts) of {task.class_names[index]} have no voxel of their own on "
                        f"the grid of {size} mm", "Take a finer spacing_mm if they matter.",
                        case=case.id, modality="label", path=path_in(case, "label"))


def nonzero_box(arrays: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """First and last + 1 voxel on each axis where any array is not zero; the whole shape where none is."""
    box = []
    for axis, size in enumerate(shape):
        others = tuple({0, 1, 2} - {axis})
        hit = np.flatnonzero(np.any([array.any(axis=others) for array in arrays], axis=0)) if arrays else []
        box.append((int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, int(size)))
    return tuple(box)


def normalised(array: np.ndarray, intensities: str) -> np.ndarray:
    """The paper's normalisation: clipped to the percentiles, zero mean, unit variance.

    Args:
        array: one modality.
        intensities: "mr": statistics over the non-zero voxels, zero elsewhere; "ct": over all voxels; "none": as it is.

    Raises:
        DataError: all voxels that count have one value, or have it after clipping, as in a mask.
    """
    if intensities == "none":
        return array.astype(np.float32)
    mask = array != 0 if intensities == "mr" else np.ones(array.shape, bool)
    values = array[mask]
    clipped = np.clip(values, *np.percentile(values, PERCENTILES)) if values.size else values
    if not clipped.size or clipped.min() == clipped.max():
        which = "non-zero voxels" if intensities == "mr" else "voxels"
        raise DataError(f"found nothing but one value in the {values.size} {which} once {PERCENTILES[0]} % were clipped"
                        " at either end: the normalisation would erase it",
                        'If it is a mask or a sparse map, say "none" for this modality in the task\'s intensities, so '
                        "that it is taken as it is; if it is a scan, export it again, or leave it out.")
    result = np.zeros(array.shape, np.float32)
    result[mask] = (clipped - clipped.mean(dtype=np.float64)) / max(clipped.std(dtype=np.float64), 1e-8)
    return result


def foreground_voxels(labels: np.ndarray | None) -> np.ndarray:
    """Rows of (class, voxel on each axis), at most FOREGROUND_KEPT a class, the same ones for the same labels."""
    rows = [np.zeros((0, 4), np.int32)]
    random = np.random.default_rng(0)
    for one in np.setdiff1d(np.unique(labels), [0]) if labels is not None else []:
        voxels = np.argwhere(labels == one)
        if len(voxels) > FOREGROUND_KEPT:
            voxels = voxels[np.sort(random.choice(len(voxels), FOREGROUND_KEPT, replace=False))]
        rows.append(np.insert(voxels, 0, one, axis=1).astype(np.int32))
    return np.concatenate(rows)


def with_spacing(task: Task, cases: Sequence[Case]) -> Task:
    """The task with a spacing: its own, or the median over the cases on each axis (RAS+ order), as nnU-Net does.

    Raises:
        DataError: every case whose header cannot be read, all together.
    """
    if task.spacing_mm is not None:
        return task
    spacings, errors = [], []
    for case in cases:
        try:
            spacings.append(_spacing(case, task))
        except DataError as error:
            errors.append(error)
    if errors:
        raise DataError.together(errors)
    return task.with_spacing([round(float(mm), 4) for mm in np.median(spacings, axis=0)])


def _spacing(case: Case, task: Task) -> np.ndarray:
    name = next((one for one in task.modalities if one in case.images), None)
    if name is None:
        raise no_modality(case, task)
    _, affine = volumes.read_header(case.images[name], case=case.id, modality=name)
    return nibabel.affines.voxel_sizes(affine)[np.argsort(orientations.io_orientation(affine)[:, 0])]


def no_modality(case: Case, task: Task) -> DataError:
    """The error for a case that has none of the task's modalities."""
    return DataError(f"found {', '.join(case.images) or 'no modality'}, expected some of {', '.join(task.modalities)}",
                     "Check the folder or the row of this case.", case=case.id)

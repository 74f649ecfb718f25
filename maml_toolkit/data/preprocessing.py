"""From a case's files to arrays that a network reads: one orientation, one box, one spacing, normalised.

    canonical orientation (RAS+) -> crop to the box of non-zero voxels of all its modalities (not CT)
    -> per modality clip to the 0.5 and 99.5 percentile, zero mean, unit variance
       (MR: inside that modality's own non-zero mask, 0 outside; CT: whole volume; "none", such as a mask: as it is)
    -> resample to the task's spacing (images linear with an anti-aliasing filter, labels so that lesions survive)
    -> the background may be each class that was not drawn (label_sets.py)

Orientation, box and spacing belong to the case, never to the modalities that are used of it, so answers from
different subsets lie on one grid (`Grid` in prepared.py), which knows the way back.

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842 (clipping and normalisation)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.case import Case
from maml_toolkit.data.label_sets import SETS, closed, opened, undrawn
from maml_toolkit.data.prepared import Grid, PreparedCase, canonical_spacing_mm, grid_of
from maml_toolkit.data.reading import Reading, fault, path_in, read_case, spelt_otherwise
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected, expect_none

PERCENTILES = (0.5, 99.5)
FOREGROUND_KEPT = 10_000
"""Voxels of each class remembered to centre patches on."""


def prepare(case: Case, task: Task) -> PreparedCase:
    """Read, check and preprocess one case; every modality that it has. A task without spacing leaves it as it is.

    Raises:
        DataError: a file that cannot be used, modalities on different grids, unknown label values, a modality of which
            the normalisation would leave nothing.
    """
    own, found = read_own(case, task)
    return preprocessed(own, found, task)


def read_own(case: Case, task: Task) -> tuple[Case, Reading]:
    """The case with the modalities of the task alone, and what its files hold, in which there is no error.

    Raises:
        DataError: all that is wrong with it, together.
    """
    expect_none(spelt_otherwise(case, task))        # or they would be left out without a word
    own = replace(case, images={name: case.images[name] for name in task.modalities if name in case.images})
    if not own.images:
        raise no_modality(case, task)
    found = read_case(own, task)
    expect_none(found.errors)
    return own, found


def preprocessed(case: Case, found: Reading, task: Task) -> PreparedCase:
    """A case that was read, as arrays; the volumes of the reading are let go on the way.

    Raises:
        DataError: the normalisation would leave nothing of a modality.
    """
    names = [name for name in task.modalities if name in found.stored]
    first, stored = found.stored[names[0]], dict(found.stored)
    # all have the orientation of the first: at 45 degrees, rounding might decide otherwise for another
    turned = {name: Volume(stored[name].image().array, first.affine).canonical().array for name in names}
    is_ct, shape = "ct" in task.intensities.values(), next(iter(turned.values())).shape
    # CT has a signal everywhere: air is not zero
    grid = grid_of(first, nonzero_box([] if is_ct else list(turned.values()), shape))
    errors: list[DataError] = []

    def worked(name: str) -> np.ndarray | None:
        with collected(errors, case.id, path_in(case, name), name):
            return normalised(turned.pop(name)[grid.box_slices], task.intensities[name])

    with machine.threads(len(names)) as pool:
        images = dict(zip(names, pool.map(worked, names), strict=True))
    expect_none(sorted(errors, key=lambda error: names.index(error.modality)))
    labels, cut_away = None, ()
    if "label" in stored:
        encoded = case.scheme(task).encode(Volume(stored["label"].label().array, first.affine).canonical().array)
        labels, cut_away = encoded[grid.box_slices], _cut_away(case, task, encoded, grid)
    own = PreparedCase(case.id, images, labels, np.zeros((0, 4), np.int32), grid, (*found.oddities, *cut_away))
    return _on(grid_of(first, grid.box, task.spacing_mm), own, case, task)


def respaced(own: PreparedCase, case: Case, task: Task) -> PreparedCase:
    """A case that was prepared at its own spacing, at that of the task; the same one where they agree."""
    grid = grid_of(own.grid, own.grid.box, task.spacing_mm)
    return own if grid == own.grid else _on(grid, own, case, task)


def _on(grid: Grid, own: PreparedCase, case: Case, task: Task) -> PreparedCase:
    """What fills the box at the spacing of the case, on a grid that fills the same box."""
    with machine.threads(len(own.images)) as pool:
        images = dict(zip(own.images, pool.map(lambda name: grid.to_working(own.images[name]), own.images),
                          strict=True))
    labels, lost = None, {}
    if (stored := own.labels) is not None:
        labels, lost = grid.label_to_working(closed(stored, ignored=False))
        labels = opened(labels, undrawn(case.labelled, task), task)
    outside = {name: float(image.min()) if task.intensities[name] == "ct" else 0.0 for name, image in images.items()}
    return PreparedCase(own.id, images, labels, foreground_voxels(labels), grid,
                        (*own.oddities, *_lost(case, task, lost, grid)), outside)


def _cut_away(case: Case, task: Task, encoded: np.ndarray, grid: Grid) -> Iterator[DataError]:
    """The classes that lie, in part, where every scan is zero."""
    outside = np.subtract(*(np.bincount(part.ravel(), minlength=256) for part in (encoded, encoded[grid.box_slices])))
    for index in np.flatnonzero(outside[1:task.classes]) + 1:
        yield fault(case, "label", f"{outside[index]} voxels of {task.class_names[index]} lie where every scan is "
                    "zero; they are left out", "Look at label and scans: do they belong together?")


def _lost(case: Case, task: Task, lost: Mapping[int, int], grid: Grid) -> Iterator[DataError]:
    for index, count in ((index, count) for index, count in lost.items() if index < SETS):
        size = " x ".join(f"{mm:.3g}" for mm in grid.spacing_mm)
        yield fault(case, "label", f"{count} lesions (connected parts) of {task.class_names[index]} have no voxel of "
                    f"their own on the grid of {size} mm", "Take a finer spacing_mm if they matter.")


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
    result[mask] = (clipped - clipped.mean(dtype=np.float64)) / clipped.std(dtype=np.float64)
    return result


def foreground_voxels(labels: np.ndarray | None) -> np.ndarray:
    """Rows of (class, voxel on each axis), at most FOREGROUND_KEPT a class, the same ones for the same labels."""
    rows = [np.zeros((0, 4), np.int32)]
    random = np.random.default_rng(0)
    found = np.unique(labels) if labels is not None else np.zeros(0, np.uint8)
    for one in found[(found > 0) & (found < SETS)]:
        voxels = np.argwhere(labels == one)
        if len(voxels) > FOREGROUND_KEPT:
            voxels = voxels[np.sort(random.choice(len(voxels), FOREGROUND_KEPT, replace=False))]
        rows.append(np.insert(voxels, 0, one, axis=1).astype(np.int32))
    return np.concatenate(rows)


def with_spacing(task: Task, cases: Sequence[Case], known: Mapping[str, Sequence[float]] | None = None) -> Task:
    """The task with a spacing: its own, or the median over the cases on each axis (RAS+ order), as nnU-Net does.

    Args:
        known: case -> its spacing, of those whose headers need not be read.

    Raises:
        DataError: every case whose header cannot be read, all together.
    """
    if task.spacing_mm is not None:
        return task
    known, spacings, errors = known or {}, [], []
    for case in cases:
        with collected(errors):
            spacings.append(known.get(case.id) or _spacing(case, task))
    expect_none(errors)
    return task.with_spacing([round(float(mm), 4) for mm in np.median(spacings, axis=0)])


def _spacing(case: Case, task: Task) -> tuple[float, ...]:
    name = next((one for one in task.modalities if one in case.images), None)
    if name is None:
        raise no_modality(case, task)
    return canonical_spacing_mm(volumes.read_header(case.images[name], case=case.id, modality=name)[1])


def no_modality(case: Case, task: Task) -> DataError:
    """The error for a case that has none of the task's modalities."""
    return DataError(f"found {', '.join(case.images) or 'no scan'}, expected some of {', '.join(task.modalities)}",
                     "Check the folder or the row of this case.", case=case.id)

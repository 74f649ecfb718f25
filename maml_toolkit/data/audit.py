"""Every fault of every file of a data set, found before the compute starts and reported together.

One small function looks for one kind of fault. Files are read once, case by case, and only what the checks
compare is kept (`Seen`), so the memory needed is that of a few volumes.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from maml_toolkit import machine
from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case, same_twice
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import TASKS, Task


class DataWarning(UserWarning):
    """Something odd about the data that may be meant."""


@dataclass(frozen=True)
class Seen:
    """What is kept of one volume.

    Attributes:
        name: of the modality, or "label".
        source: the file, or None for an image in memory.
        checksum: of the voxels.
        values: of a label, that occur in it.
    """

    name: str
    source: object
    shape: tuple[int, ...]
    affine: np.ndarray
    checksum: int
    values: frozenset[int] = frozenset()

    def __str__(self):
        return f"{self.name} ({self.source or 'an image in memory'})"


@dataclass(frozen=True)
class Findings:
    """What the audit of one case found: errors, oddities, and the volumes that could be read."""

    errors: tuple[DataError, ...]
    oddities: tuple[str, ...] = ()
    seen: tuple[Seen, ...] = ()


def audit(cases: Sequence[Case], task: Task, *, training: bool = True,
          workers: int | None = None) -> list[DataError]:
    """Every problem of every case; an empty list when all is well. Oddities are warned of, once.

    Args:
        training: each case must have a label, and no region may be empty in all of them.
        workers: cases that are read at the same time; at most four when left out.

    Warns:
        DataWarning: two modalities of a case hold the same voxels.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        audited = pool.map(partial(audit_case, task=task, training=training), cases)
        findings = list(machine.progress(audited, desc="checking cases", total=len(cases), unit="case"))
    if oddities := [oddity for found in findings for oddity in found.oddities]:
        warnings.warn("\n".join(oddities), DataWarning, stacklevel=2)
    errors = [*same_twice(cases), *(error for found in findings for error in found.errors)]
    if training:
        seen = [one for found in findings for one in found.seen]
        errors += _empty_regions([one for one in seen if one.name == "label"], task)
    return errors


def check(cases: Sequence[Case], task: Task, *, training: bool = True, workers: int | None = None) -> None:
    """Nothing, when `audit` finds no problem.

    Raises:
        DataError: all the problems, together.
    """
    if errors := audit(cases, task, training=training, workers=workers):
        raise DataError.together(errors)


def audit_case(case: Case, task: Task, *, training: bool = True) -> Findings:
    """The problems that can be seen in one case alone."""
    errors = [*_names(case, task), *_absent(case, training)]
    seen = []
    sources = {**case.images} if case.label is None else {**case.images, "label": case.label}
    for name, source in sources.items():
        try:
            seen.append(_look(case, name, source))
        except DataError as error:
            errors.append(error)
    errors += [*_grids(case, seen, task), *_values(case, seen, task)]
    return Findings(tuple(errors), tuple(_same_voxels(case, seen)), tuple(seen))


def _look(case: Case, name: str, source: volumes.Source) -> Seen:
    is_label = name == "label"
    volume = volumes.read_label(source, case=case.id) if is_label else \
        volumes.read(source, case=case.id, modality=name)
    path = volumes.path_of(source)
    checksum = zlib.crc32(np.ascontiguousarray(volume.array.T))    # a file's order is contiguous transposed
    values = _present(volume.array) if is_label else frozenset()
    return Seen(name, path, volume.array.shape, volume.affine, checksum, values)


def _present(label: np.ndarray) -> frozenset[int]:
    if label.min() < 0 or label.max() > 10_000:
        return frozenset(np.unique(label).tolist())
    counts = np.bincount(label.ravel(order="K").astype(np.intp))      # ten times as fast as np.unique
    return frozenset(np.flatnonzero(counts).tolist())


def _names(case: Case, task: Task) -> Iterable[DataError]:
    for name, source in case.images.items():
        try:
            own = task.modality(name)
        except DataError as error:
            yield DataError(error.problem, error.remedy, case=case.id, modality=name, path=volumes.path_of(source))
            continue
        if own != name:
            yield DataError(f"found the modality name {name!r}, expected {own!r} of task {task.name}",
                            "Use the task's own names.", case=case.id, modality=name, path=volumes.path_of(source))


def _absent(case: Case, training: bool) -> Iterable[DataError]:
    if not case.images:
        yield DataError("found no modality at all, expected at least one",
                        "Add its images, or leave the case out.", case=case.id, path=volumes.path_of(case.label))
    if training and case.label is None:
        yield DataError("found no label, expected one for training", "Add the label, or leave the case out.",
                        case=case.id, path=volumes.path_of(next(iter(case.images.values()), None)))


def _grids(case: Case, seen: Sequence[Seen], task: Task) -> Iterable[DataError]:
    """Every volume must lie on the grid of the reference modality."""
    images = [one for one in seen if one.name != "label"]
    if not images:
        return
    first = next((one for one in images if one.name == task.reference), images[0])
    for one in (one for one in seen if one is not first):
        if difference := volumes.grid_difference(first, one):
            yield DataError(f"{difference}; expected one grid for {first} and {one}",
                            "Register the images, or resample them onto one grid, before using them.",
                            case=case.id, modality=one.name, path=one.source)


def _values(case: Case, seen: Sequence[Seen], task: Task) -> Iterable[DataError]:
    for label in (one for one in seen if one.name == "label"):
        if unexpected := sorted(label.values - task.values):
            fitting = [other.scheme for other in TASKS.values() if label.values <= other.values]
            looks = f"They look like {' or '.join(fitting)}: is it that? " if fitting else ""
            yield DataError(f"found the label values {unexpected}, expected {sorted(task.values)} of "
                            f"{task.scheme}", f"{looks}Choose or write the task that names these values.",
                            case=case.id, modality="label", path=label.source)


def _empty_regions(labels: Sequence[Seen], task: Task) -> Iterable[DataError]:
    """A scheme that does not fit leaves a region empty everywhere; a single empty label is allowed."""
    present = frozenset().union(*(label.values for label in labels))
    for region, classes in task.regions.items():
        values = {value for name in classes for value in task.labels[name]}
        if labels and not values & present:
            yield DataError(f"region {region} (the values {sorted(values)}) is empty in all {len(labels)} "
                            f"labels, such as {labels[0]}: found the values {sorted(present)}, expected "
                            f"{task.scheme}",
                            "Choose the task with the label scheme of these files, or drop the region.")


def _same_voxels(case: Case, seen: Sequence[Seen]) -> Iterable[str]:
    images = [one for one in seen if one.name != "label"]
    for index, one in enumerate(images):
        for other in images[index + 1:]:
            if (one.shape, one.checksum) == (other.shape, other.checksum):
                what = "are one file" if one.source and one.source == other.source else "hold the same voxels"
                yield f"case {case.id}: {one} and {other} {what}; is one of them a copy under the wrong name?"

"""The faults of one case: what its files, its names and its grids say that cannot be right.

One small function looks for one kind of fault. `read_case` is the one way by which images reach an audit, training and
prediction.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.case import Case
from maml_toolkit.data.geometry import voxel_ml
from maml_toolkit.data.label_sets import undrawn
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Stored, is_one_source
from maml_toolkit.system.errors import DataError, collected

LESIONS = "tumou?r|lesion|cancer|metasta|enhancing|necrosis|o?edema"
"""In the names of classes that are no organs."""

ORGAN_ML = 1000
"""More of a lesion than that is looked at by a person."""


@dataclass(frozen=True)
class Reading:
    """The volumes of a case as they lie in their files, and what is wrong or odd about them.

    Attributes:
        stored: by modality, and "label"; those that could be read.
        values: that occur in the label.
        errors: what must be mended.
        oddities: what may be meant.
    """

    stored: dict[str, Stored]
    values: frozenset[int]
    errors: tuple[DataError, ...]
    oddities: tuple[DataError, ...]


def read_case(case: Case, task: Task, *, checked_labels: bool = True) -> Reading:
    """Read every file of a case, once, and look at each alone and at all together.

    Args:
        checked_labels: hold the label's values against the task's, or those by which the case was found
            (`Case.scheme`).
    """
    stored: dict[str, Stored] = {}
    errors: list[DataError] = []
    with collected(errors, case.id, path_in(case, "label"), "label"):
        task = case.scheme(task)
    whole: dict[Path, nib.Nifti1Image] = {}
    for name, source in case.files.items():
        with collected(errors):
            stored[name] = volumes.opened(source, label=name == "label", case=case.id, modality=name, whole=whole)
    errors += _grids(case, stored, task)
    counts = _counts(stored["label"].label().array) if "label" in stored else {}
    values = frozenset(counts)
    if checked_labels:
        errors += [*_values(case, values, task), *_drawn(case, values, task)]
    oddities = [fault(case, name, note) for name, one in stored.items() for note in one.notes]
    oddities += [*_same_voxels(case, stored), *_not_hounsfield(case, stored, task)]
    if checked_labels and counts:
        oddities += _too_large(case, counts, stored["label"], task)
    return Reading(stored, values, tuple(errors), tuple(oddities))


def describing(case: Case, task: Task, training: bool) -> Iterable[DataError]:
    """What is wrong with the names of a case, with what it lacks, and with what lies beside its files."""
    errors: list[DataError] = []
    for name in case.images:
        with collected(errors, case.id, path_in(case, name), name):
            task.modality(name)
    yield from (*errors, *spelt_otherwise(case, task))
    if not case.images:
        yield DataError("found no scan at all, expected at least one",
                        "Add its images, or leave the case out.", case=case.id, path=volumes.path_of(case.label))
    if training and case.label is None:
        yield DataError("found no label, expected one for training", "Add the label, or leave the case out.",
                        case=case.id, path=volumes.path_of(next(iter(case.images.values()), None)))
    for name in case.images:
        path = path_in(case, name)
        if isinstance(path, Path) and path.suffix.lower() == ".gz" and path.with_suffix("").exists():
            yield fault(case, name, f"found {path.with_suffix('').name} beside {path.name}; SimpleITK, asked for the "
                        "second, reads the first", "Keep the right one and move the other away.")


def path_in(case: Case, name: str) -> Path | str | None:
    """The file of a modality, or of the "label"."""
    return volumes.path_of(case.files.get(name))


def fault(case: Case, name: str, problem: str, remedy: str = "") -> DataError:
    """A problem of one scan of a case, or of its "label"."""
    return DataError(problem, remedy, case=case.id, modality=name, path=path_in(case, name))


def _named(case: Case, name: str) -> str:
    return f"{name} ({path_in(case, name) or 'an image in memory'})"


def _counts(label: np.ndarray) -> dict[int, int]:
    """Voxels of each value."""
    if label.min() < 0 or label.max() > 10_000:
        return dict(zip(*map(np.ndarray.tolist, np.unique(label, return_counts=True)), strict=True))
    counts = np.bincount(label.ravel(order="K").astype(np.intp, copy=False))      # ten times as fast as np.unique
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _too_large(case: Case, counts: dict[int, int], label: Stored, task: Task) -> Iterable[DataError]:
    """The value of an organ, taken for a lesion: a liver has 1500 ml, a brain 1300."""
    each_ml = voxel_ml(label.affine)
    for name, values in list(task.labels.items())[1:]:
        if re.search(LESIONS, name.lower()) and (ml := each_ml * sum(counts.get(one, 0) for one in values)) > ORGAN_ML:
            yield fault(case, "label", f"found {ml:,.0f} ml of {name} (the values {list(values)}), as much as an organ",
                        "Is it the label of an organ? Choose or write the task that says what its values mean.")


def spelt_otherwise(case: Case, task: Task) -> Iterable[DataError]:
    """Modalities of the task that the case calls by another name."""
    for name in case.images:
        with suppress(DataError):
            if (own := task.modality(name)) != name:
                yield fault(case, name, f"found the modality name {name!r}, expected {own!r} of task {task.name}",
                            "Use the task's own names.")


def _grids(case: Case, stored: dict[str, Stored], task: Task) -> Iterable[DataError]:
    """Every volume must lie on the grid of the reference modality."""
    images = [name for name in stored if name != "label"]
    if not images:
        return
    first = task.reference if task.reference in images else images[0]
    for name in (name for name in stored if name != first):
        if difference := volumes.grid_difference(stored[first], stored[name]):
            yield fault(case, name, f"{difference}; expected one grid for {_named(case, first)} and "
                        f"{_named(case, name)}", "If the scans were never aligned, register them: `register`. If they "
                        "were, put this file onto the other's grid: `mend --onto`.")


def _values(case: Case, values: frozenset[int], task: Task) -> Iterable[DataError]:
    if unexpected := sorted(values - task.values):
        fitting = [other.scheme for other in TASKS.values() if values <= other.values]
        looks = f"They look like {' or '.join(fitting)}: is it that? " if fitting else ""
        yield fault(case, "label", f"found the label values {unexpected}, expected {sorted(task.values)} of "
                    f"{task.scheme}", f"{looks}Choose or write the task that names these values, as classes or as what "
                    "is ignored.")


def _drawn(case: Case, values: frozenset[int], task: Task) -> Iterable[DataError]:
    """Names of drawn classes that are none, and classes in the label that were not drawn."""
    errors: list[DataError] = []
    with collected(errors, case.id, path_in(case, "label"), "label"):
        for name in (task.class_names[number] for number in undrawn(case.labelled, task)):
            if held := sorted(values & set(task.labels[name])):
                raise DataError(f"found the label values {held} of {name}, expected none where only "
                                f"{', '.join(case.labelled)} were drawn", "Correct `labelled` of this case.")
    yield from errors


def _same_voxels(case: Case, stored: dict[str, Stored]) -> Iterable[DataError]:
    for one, other in itertools.combinations((name for name in stored if name != "label"), 2):
        first, second = stored[one], stored[other]
        alike = (first.shape, first.extremes) == (second.shape, second.extremes)
        if alike and first.fingerprint == second.fingerprint:
            how = "are one file" if is_one_source(case.images[one], case.images[other]) else "hold the same voxels"
            yield fault(case, other, f"{_named(case, one)} and {_named(case, other)} {how}",
                        "Is one of them a copy under the wrong name?")


def _not_hounsfield(case: Case, stored: dict[str, Stored], task: Task) -> Iterable[DataError]:
    for name in (name for name in stored if task.intensities.get(name) == "ct"):
        lowest, highest = stored[name].extremes
        if lowest >= 0 or highest < 50 or highest > 32_767:
            yield fault(case, name, f"found intensities from {lowest:g} to {highest:g} in a CT, expected Hounsfield "
                        "units (air -1000, fat -100, soft tissue 0 to 100)",
                        "Was the rescale slope and intercept of the scanner applied? Convert from DICOM again.")

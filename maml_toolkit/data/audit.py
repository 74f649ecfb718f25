"""Every fault of every file of a data set, found before the compute starts and reported together.

Files are read once, case by case (`faults`), and only what is compared between cases and what the report shows is kept
(`Seen`), so the memory needed is that of a few volumes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from maml_toolkit.data import nifti, thumbnails, volumes
from maml_toolkit.data.cases import Case, same_twice, search
from maml_toolkit.data.layouts.contents import stem
from maml_toolkit.data.layouts.finding import guessed
from maml_toolkit.data.layouts.found import LABEL_NAMES
from maml_toolkit.data.reading import Reading, describing, path_in, read_case
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected, few, shown, warn_of


@dataclass(frozen=True)
class Seen:
    """What is kept of one volume.

    Attributes:
        name: of the modality, or "label".
        source: the file, or None for an image in memory.
        extremes: the lowest and the highest voxel.
        fingerprint: of the voxels, whatever type they are stored in.
        picture: an axial slice through the lesion: grey values (bytes), or the values of a label.
        values: of a label, that occur in it.
    """

    name: str
    source: Path | str | None
    shape: tuple[int, ...]
    affine: np.ndarray
    extremes: tuple[float, float]
    fingerprint: int
    picture: np.ndarray
    values: frozenset[int] = frozenset()

    def __str__(self):
        return f"{self.name} ({self.source or 'an image in memory'})"


@dataclass(frozen=True)
class CaseAudit:
    """What was found in one case: errors, oddities that may be meant, and the volumes that could be read."""

    case: str
    errors: tuple[DataError, ...]
    oddities: tuple[DataError, ...] = ()
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class Audit:
    """What was found in a data set.

    Attributes:
        cases: each with what could be read of it.
        errors: everything that must be mended, that concerns several cases too.
        oddities: what may be meant.
        checked_labels: whether the label values were held against the task's.
        images: how many files that are named like images were looked at, whether they could be read or not.
        unused: those of them that are no scan or label of these cases; they were opened all the same.
        ignored: rule -> how many other files and folders it let pass.
    """

    task: Task
    cases: tuple[CaseAudit, ...]
    errors: tuple[DataError, ...]
    oddities: tuple[DataError, ...]
    checked_labels: bool = True
    images: int = 0
    unused: tuple[Path, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    @property
    def account(self) -> str:
        """What became of every file, in a sentence or two."""
        unused = f", {len(self.unused)} of them no scan of these cases ({few([p.name for p in self.unused])})"
        ignored = ", ".join(f"{number} {rule}" for rule, number in sorted(self.ignored.items())) or "nothing"
        return shown(f"{self.images} image files were looked at{unused if self.unused else ''}. Ignored by rule: "
                     f"{ignored}. Findings: {len(self.errors) + len(self.oddities)}.")

    def check(self) -> None:
        """Nothing, when there is no error.

        Raises:
            DataError: all the errors, together.

        Warns:
            DataWarning: the oddities.
        """
        warn_of(self.oddities)
        if self.errors:
            raise DataError.together(self.errors)

    def table(self) -> pd.DataFrame:
        """One row a finding: severity, case, modality, file, problem, remedy."""
        rows = [(severity, *(None if value is None else shown(value) for value in (
                    one.case, one.modality, one.path, one.problem, one.remedy)))
                for severity, found in (("error", self.errors), ("warning", self.oddities)) for one in found]
        return pd.DataFrame(rows, columns=["severity", "case", "modality", "file", "problem", "remedy"])


def audit(cases: Sequence[Case], task: Task, *, training: bool = True, strict: bool = False,
          workers: int | None = None) -> Audit:
    """Everything that is wrong with the files of these cases.

    Args:
        training: each case must have a label, and no region may be empty in all of them.
        strict: oddities (a modality that is a copy of another, a CT that is not in HU, …) are errors too.
        workers: cases that are read at the same time; at most four when left out.
    """
    return _audited(cases, task, training=training, strict=strict, workers=workers)


def audit_source(source: str | Path, task: Task | None = None, *, part: str = "training", training: bool | None = None,
                 strict: bool = False, workers: int | None = None) -> Audit:
    """Everything that is wrong with a folder or table: with its layout, its names and its files.

    Every image in the folder is opened, whatever it is called; what else lies there is ignored by a rule or reported.

    Args:
        source, part: as for `cases.find_cases`.
        task: when left out, the known task that understands most of the names; label values are then not held against
            it, for what a value means is never guessed.
        training: as for `audit`; when left out, whether any case has a label.
    """
    found = search(source, task, part=part, whole=part == "training")
    cases = found.cases
    if training is None:
        training = any(case.label is not None for case in cases)
    used = {file for case in cases for file in case.files.values()}
    unused = {file: place for file, place in found.named.items() if file not in used}
    audited = _audited(cases, found.task, found.problems, training=training, strict=strict, workers=workers,
                       known=found.tasks, oddities=found.oddities, unused=unused, checked_labels=task is not None)
    return replace(audited, images=len({path_of(file) for file in found.named}), ignored=dict(found.ignored))


def check(cases: Sequence[Case], task: Task, *, training: bool = True, workers: int | None = None) -> None:
    """Nothing, when `audit` finds no error.

    Raises:
        DataError: all the errors, together.

    Warns:
        DataWarning: the oddities.
    """
    audit(cases, task, training=training, workers=workers).check()


def _audited(cases: Sequence[Case], task: Task, problems: Sequence[DataError] = (), *, training: bool, strict: bool,
             workers: int | None, checked_labels: bool = True, known: Sequence[Task] = (),
             oddities: Sequence[DataError] = (),
             unused: Mapping[Source, tuple[str | None, str | None]] | None = None) -> Audit:
    incomplete = {problem.case for problem in problems}
    one = partial(audit_case, task=task, checked_labels=checked_labels)
    unused = unused or {}
    with machine.threads(workers or min(4, os.cpu_count() or 1)) as pool:
        audited = pool.map(lambda case: one(case, training=training and case.id not in incomplete), cases)
        found = tuple(machine.progress(audited, desc="checking cases", total=len(cases), unit="case"))
        alone = [error for errors in pool.map(lambda file: _alone(file, *unused[file]), unused) for error in errors]
    errors = [*problems, *same_twice(cases), *(error for case in found for error in case.errors), *alone,
              *_same_images(found)]
    oddities = [*oddities, *(oddity for case in found for oddity in case.oddities), *_same_labels(found)]
    if not checked_labels:
        (errors if len(known) == len(TASKS) else oddities).extend(guessed(known))
        oddities += _unknown_values(found, known)
    elif training:
        errors += _empty_regions([one for case in found for one in case.seen if one.name == "label"], task)
    if strict:
        errors, oddities = [*errors, *oddities], []
    return Audit(task, found, tuple(errors), tuple(oddities), checked_labels,
                 images=sum(len(case.files) for case in cases),
                 unused=tuple(dict.fromkeys(Path(path_of(file)) for file in unused)))


def _alone(source: Source, case: str | None, name: str | None) -> list[DataError]:
    """What is wrong with an image that is no scan of the cases; what cannot be opened is told already."""
    errors: list[DataError] = []
    path = path_of(source)
    with collected(errors), nifti.located(case, name, path):
        if stem(path) and path.is_file():
            several = not isinstance(source, Frame) and nifti.header_of(path).get_data_shape()[3:]
            if several and math.prod(several) > 1:
                nifti.image_of(path)                # which frame is meant, nobody said
            else:
                volumes.opened(source, label=(name or "").lower() in LABEL_NAMES)
    return errors


def audit_case(case: Case, task: Task, *, training: bool = True, checked_labels: bool = True) -> CaseAudit:
    """The problems that can be seen in one case alone."""
    found = read_case(case, task, checked_labels=checked_labels)
    at_mm = thumbnails.height_of_lesion(found.stored["label"]) if "label" in found.stored else None
    seen = tuple(_seen(case, name, found, at_mm, task) for name in found.stored)
    return CaseAudit(case.id, (*describing(case, task, training), *found.errors), found.oddities, seen)


def _seen(case: Case, name: str, found: Reading, at_mm: float | None, task: Task) -> Seen:
    stored, is_label = found.stored[name], name == "label"
    pixels = thumbnails.slice_through(stored, at_mm)
    if not is_label:
        slope, inter = stored.scaling
        pixels = thumbnails.greys(pixels * np.float32(slope) + np.float32(inter), task.intensities.get(name, "mr"))
    return Seen(name, path_in(case, name), stored.shape, stored.affine, stored.extremes,
                stored.fingerprint, pixels, found.values if is_label else frozenset())


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


def _unknown_values(found: Sequence[CaseAudit], known: Sequence[Task]) -> Iterator[DataError]:
    """Without a task no value is wrong, but one that none of the tasks in question has is worth a look."""
    values = frozenset().union(*(task.values for task in known))
    for case, label in ((one.case, label) for one in found for label in one.seen if label.name == "label"):
        if others := sorted(label.values - values):
            yield DataError(f"found the label values {others}, which none of the tasks has that fit these names",
                            "Name the task that says what they mean (`--task`).", case=case, modality="label",
                            path=label.source)


def _same_images(found: Sequence[CaseAudit]) -> Iterator[DataError]:
    """One case under two ids, as a copy: a leak from training to test."""
    for (case, one), (other, twin) in _twins(found, label=False):
        if not (one.source and one.source == twin.source):          # told by `same_twice`
            yield DataError(f"the cases {case!r} and {other!r} hold the same voxels: {one} and {twin}",
                            "One case must not have two ids: remove one of them.",
                            case=other, modality=twin.name, path=twin.source)


def _same_labels(found: Sequence[CaseAudit]) -> Iterator[DataError]:
    for (case, one), (other, twin) in _twins(found, label=True):
        if one.values - {0}:
            yield DataError(f"the cases {case!r} and {other!r} have the same label: {one} and {twin}",
                            "Was the label of one case saved under the name of the other?",
                            case=other, modality="label", path=twin.source)


def _twins(found: Sequence[CaseAudit], label: bool) -> Iterator[tuple[tuple[str, Seen], tuple[str, Seen]]]:
    """The first volume that a later case shares with an earlier one, for each such pair of cases."""
    owners: dict[tuple, tuple[str, Seen]] = {}
    told = set()
    for case in found:
        for one in (one for one in case.seen if (one.name == "label") == label):
            owner = owners.setdefault((one.fingerprint, one.shape, one.extremes), (case.case, one))
            if owner[0] != case.case and (owner[0], case.case) not in told:
                told.add((owner[0], case.case))
                yield owner, (case.case, one)

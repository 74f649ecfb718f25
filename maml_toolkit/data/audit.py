"""Every fault of every file of a data set, found before the compute starts and reported together.

Files are read once, case by case (`read_case`), and only what is compared between cases and what the report shows is
kept (findings.py), so the memory needed is that of a few volumes.
"""

import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from maml_toolkit.data import nifti, volumes
from maml_toolkit.data.cache import Preparation
from maml_toolkit.data.case import Case, same_twice
from maml_toolkit.data.findings import CaseAudit, Seen, found_in_case
from maml_toolkit.data.layouts.contents import stem
from maml_toolkit.data.layouts.finding import guessed, search
from maml_toolkit.data.reading import describing, read_case
from maml_toolkit.data.task_fields import LABEL_NAMES
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Frame, Source, is_one_source, path_of
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected, counted, expect_none, few, shown, warn_of

WORKERS = min(4, os.cpu_count() or 1)
"""Cases that are read at the same time, where nobody says it."""


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
        lacking: the modalities of the task, and "label" where other cases have one, that are missing -> ids of the
            cases; () is nothing.
        schemes: case -> the task by whose values its label is read, where that has others than `task`.
    """

    task: Task
    cases: tuple[CaseAudit, ...]
    errors: tuple[DataError, ...]
    oddities: tuple[DataError, ...]
    checked_labels: bool = True
    images: int = 0
    unused: tuple[Path, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    lacking: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    schemes: Mapping[str, Task] = field(default_factory=dict)

    @property
    def availability(self) -> str:
        """How many cases lack which scans, as a sentence; nothing where there is no case."""
        whole = len(self.lacking.get((), ()))
        others = "".join(f"; {len(ids)} without {', '.join(names)}" for names, ids in self.lacking.items() if names)
        return f"{whole} of {counted(len(self.cases), 'case')} with every scan{others}." if self.lacking else ""

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
        expect_none(self.errors)

    def table(self) -> pd.DataFrame:
        """One row a finding: severity, case, modality, file, problem, remedy."""
        rows = [(severity, *(None if value is None else shown(value) for value in (
                    one.case, one.modality, one.path, one.problem, one.remedy)))
                for severity, found in (("error", self.errors), ("warning", self.oddities)) for one in found]
        return pd.DataFrame(rows, columns=["severity", "case", "modality", "file", "problem", "remedy"])


def audit(cases: Sequence[Case], task: Task, *, training: bool = True, held_out: Collection[str] = (),
          workers: int | None = None, preparation: Preparation | None = None) -> Audit:
    """Everything that is wrong with the files of these cases.

    Args:
        training: each case must have a label, and no region may be empty in all of them.
        held_out: ids of cases for validation, which do not count in the latter.
        workers: cases that are read at the same time; at most four when left out.
        preparation: keeps the arrays of each case without an error, from the same reading; what it has is not read.
    """
    found = _each(cases, task, training, workers, preparation=preparation)
    return _among(cases, task, found, training, held_out=held_out)


def audit_source(source: str | Path, task: Task | None = None, *, part: str = "training", training: bool | None = None,
                 strict: bool = False, workers: int | None = None, preparation: Preparation | None = None) -> Audit:
    """Everything that is wrong with a folder or table: with its layout, its names and its files.

    Every image in the folder is opened, whatever it is called; what else lies there is ignored by a rule or reported.

    Args:
        source, part: as for `cases.find_cases`.
        task: when left out, the known task that understands most of the names; label values are then not held against
            it, for what a value means is never guessed.
        training: as for `audit`; when left out, whether any case has a label.
        strict: oddities (a modality that is a copy of another, a CT that is not in HU, …) are errors too.
        preparation: as for `audit`, for the task that is named.
    """
    found = search(source, task, part=part, whole=part == "training")
    cases = found.cases
    if training is None:
        training = any(case.label is not None for case in cases)
    incomplete = {problem.case for problem in found.problems}
    examined = _each(cases, found.task, training, workers, incomplete, task is not None, preparation)
    audited = _among(cases, found.task, examined, training, checked_labels=task is not None)
    used = {file for case in cases for file in case.files.values()}
    unused = {file: place for file, place in found.named.items() if file not in used}
    with machine.threads(workers or WORKERS) as pool:
        alone = [error for errors in pool.map(lambda file: _alone(file, *unused[file]), unused) for error in errors]
    errors, oddities = [*found.problems, *audited.errors, *alone], [*found.oddities, *audited.oddities]
    if task is None:
        (errors if len(found.tasks) == len(TASKS) else oddities).extend(guessed(found.tasks))
        oddities += _unknown_values(examined, found.tasks)
    if strict:
        errors, oddities = [*errors, *oddities], []
    return replace(audited, errors=tuple(errors), oddities=tuple(oddities), ignored=dict(found.ignored),
                   images=len({path_of(file) for file in found.named}),
                   unused=tuple(dict.fromkeys(Path(path_of(file)) for file in unused)))


def _each(cases: Sequence[Case], task: Task, training: bool, workers: int | None,
          incomplete: Collection[str | None] = (), checked_labels: bool = True,
          preparation: Preparation | None = None) -> tuple[CaseAudit, ...]:
    """What is wrong with each case alone.

    Args:
        incomplete: ids of those that are known to lack something.
    """
    def one(case: Case) -> CaseAudit:
        errors = [*describing(case, task, training and case.id not in incomplete)]
        if preparation and (found := preparation.findings(case)):
            return replace(found, errors=tuple(errors))
        reading = read_case(case, task, checked_labels=checked_labels)
        found, errors = found_in_case(case, reading, task), [*errors, *reading.errors]
        if preparation and not errors:
            with collected(errors):
                preparation.add(case, reading, found)
        return replace(found, errors=tuple(errors))

    with machine.threads(workers or WORKERS) as pool:
        return tuple(machine.progress(pool.map(one, cases), desc="checking cases", total=len(cases), unit="case"))


def _among(cases: Sequence[Case], task: Task, found: tuple[CaseAudit, ...], training: bool,
           checked_labels: bool = True, held_out: Collection[str] = ()) -> Audit:
    """What is wrong with each case, and with some of them beside the others."""
    errors = [*same_twice(cases), *(error for case in found for error in case.errors), *_same_images(cases, found)]
    oddities = [*(oddity for case in found for oddity in case.oddities), *_same_labels(found)]
    schemes = {}
    for case in cases:
        with suppress(DataError):                       # told with the case
            schemes[case.id] = case.scheme(task)
    if checked_labels and training:
        errors += _empty_regions(schemes, [one for one in found if one.case not in held_out], task)
    return Audit(task, found, tuple(errors), tuple(oddities), checked_labels=checked_labels,
                 images=sum(len(case.files) for case in cases), lacking=_lacking(cases, task),
                 schemes={case: own for case, own in schemes.items() if own != task})


def _lacking(cases: Sequence[Case], task: Task) -> dict[tuple[str, ...], tuple[str, ...]]:
    """What is missing -> ids of the cases, the most frequent first."""
    names = (*task.modalities, *["label"] * any(case.label is not None for case in cases))
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for case in cases:
        found[tuple(name for name in names if name not in case.files)].append(case.id)
    return {absent: tuple(ids) for absent, ids in sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))}


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


def _empty_regions(schemes: Mapping[str, Task], found: Sequence[CaseAudit], task: Task) -> Iterable[DataError]:
    """A scheme that does not fit leaves a region empty everywhere; a single empty label is allowed."""
    read = [(label, schemes[one.case]) for one in found if one.case in schemes for label in one.seen
            if label.name == "label"]
    present = frozenset().union(*(label.values for label, _ in read))
    held = {name for label, own in read for name, values in own.labels.items() if label.values.intersection(values)}
    for region, classes in task.regions.items():
        if read and held.isdisjoint(classes):
            label, own = read[0]
            values = sorted(value for name in classes for value in own.labels[name])
            yield DataError(f"region {region} (the values {values}) is empty in all {len(read)} labels, such as "
                            f"{label}: found the values {sorted(present)}, expected {own.scheme}",
                            "Choose the task with the label scheme of these files, or drop the region.")


def _unknown_values(found: Sequence[CaseAudit], known: Sequence[Task]) -> Iterator[DataError]:
    """Without a task no value is wrong, but one that none of the tasks in question has is worth a look."""
    values = frozenset().union(*(task.values for task in known))
    for case, label in ((one.case, label) for one in found for label in one.seen if label.name == "label"):
        if others := sorted(label.values - values):
            yield DataError(f"found the label values {others}, which none of the tasks has that fit these names",
                            "Name the task that says what they mean (`--task`).", case=case, modality="label",
                            path=label.source)


def _same_images(cases: Sequence[Case], found: Sequence[CaseAudit]) -> Iterator[DataError]:
    """One case under two ids, as a copy: a leak from training to test."""
    images = {case.id: case.images for case in cases}
    for case, one, other, twin in _twins(found, label=False):
        if not is_one_source(images[case][one.name], images[other][twin.name]):         # else told by `same_twice`
            yield DataError(f"the cases {case!r} and {other!r} hold the same voxels: {one} and {twin}",
                            "One case must not have two ids: remove one of them.",
                            case=other, modality=twin.name, path=twin.source)


def _same_labels(found: Sequence[CaseAudit]) -> Iterator[DataError]:
    for case, one, other, twin in _twins(found, label=True):
        if one.values - {0}:
            yield DataError(f"the cases {case!r} and {other!r} have the same label: {one} and {twin}",
                            "Was the label of one case saved under the name of the other?",
                            case=other, modality="label", path=twin.source)


def _twins(found: Sequence[CaseAudit], label: bool) -> Iterator[tuple[str, Seen, str, Seen]]:
    """The first volume that a later case shares with an earlier one, for each such pair of cases."""
    owners: dict[tuple, tuple[str, Seen]] = {}
    told = set()
    for case in found:
        for one in (one for one in case.seen if (one.name == "label") == label):
            owner, first = owners.setdefault((one.fingerprint, one.shape, one.extremes), (case.case, one))
            if owner != case.case and (owner, case.case) not in told:
                told.add((owner, case.case))
                yield owner, first, case.case, one

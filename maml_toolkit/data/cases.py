"""Cases: which files belong together; finding them on a disk, and writing them there again.

How files lie and what they are called is a matter of `layouts`. A missing modality is a missing key, never an error
here. All problems of a data set are reported together.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib

from maml_toolkit.data import volumes
from maml_toolkit.data.layouts import description, finding, table, writing
from maml_toolkit.data.layouts.contents import Contents
from maml_toolkit.data.layouts.entries import Entry, patient_named
from maml_toolkit.data.layouts.finding import Found
from maml_toolkit.data.layouts.writing import LAYOUTS
from maml_toolkit.data.tasks import Task, check_names
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.system.errors import DataError, collected, shown, warn_of

WINDOWS = os.name == "nt"
NO_NAME = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|nul|aux|prn|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)', re.IGNORECASE)
"""Found in what cannot name a folder of Windows, which cuts some of it off without a word, or writes beside a file."""


@dataclass(frozen=True)
class Case:
    """The images of one examination, and its label if there is one.

    Attributes:
        id: names the case in tables and in output folders.
        images: modality -> file (text becomes a Path), frame of a 4-D file, or image held in memory; a missing modality
            is a missing key.
        label: where the label map is, likewise.
        patient: cases of one patient stay on one side of a split; the id when None.

    Raises:
        DataError: the id could lead outside an output folder, or names none on Windows, where this runs there.
    """

    id: str
    images: Mapping[str, Source | str] = field(default_factory=dict)
    label: Source | str | None = None
    patient: str | int | None = None

    def __post_init__(self):
        as_source = lambda source: Path(source) if isinstance(source, str) else source  # noqa: E731
        for name, value in (("patient", patient_named(self.patient)), ("label", as_source(self.label)),
                            ("images", {name: as_source(source) for name, source in self.images.items()})):
            object.__setattr__(self, name, value)
        if not self.id.strip(" .") or ".." in self.id or set(self.id) & set("/\\\0"):
            raise DataError(f"found the case id {self.id!r}, expected one without path separators and '..'",
                            "Rename the case; its id becomes the name of a folder.")
        if shown(self.id) != self.id:
            raise DataError(f"found the case id {shown(self.id)}, which is not UTF-8",
                            "Rename the case: other programs and tables cannot hold its name.")
        if WINDOWS and NO_NAME.search(self.id):
            raise DataError(f"found the case id {self.id!r}, expected one that can name a folder of Windows",
                            'Rename the case, without <>:"|?*, without a dot or space at its end, and not as a device '
                            "(con, nul, aux, prn, com1, lpt1).", case=self.id)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that this case has."""
        return tuple(self.images)


def find_cases(source: str | Path, task: Task, *, part: str = "training") -> list[Case]:
    """The cases of a folder or of a table, sorted by id.

    Modalities that the field knows but the task does not use are left out; any other name is an error. So is whatever
    may be a scan that is missing: a link to nothing, an unfinished copy, a format that is not read.

    Args:
        source: a folder, or a .csv or .tsv file; its relative paths start at its own folder.
        task: names the modalities, and the label values that a dataset.json must agree with; `task_of` gives a task
            that agrees if the classes have the same names.
        part: "training", or "test" for the imagesTs of a data set with a dataset.json.

    Raises:
        DataError: everything that is wrong with the data set, together; or no case was found.
        ValueError: `part` is neither of the two, or "test" for a layout that has no parts.

    Warns:
        DataWarning: files that may be scans and stand in the place of none that is missing.
    """
    found = found_in(source, task, part=part)
    cases, problems = cases_of(found)
    if problems := [*problems, *same_twice(cases)]:
        raise DataError.together(problems)
    warn_of(found.oddities)
    return cases


def search(source: str | Path, task: Task, *, part: str = "training") -> tuple[list[Case], list[DataError]]:
    """The cases of a folder or of a table as far as they can be understood, sorted by id, and everything that cannot.

    What cases have wrong with one another is not among it: `same_twice` tells.

    Args:
        source, task, part: as for `find_cases`.

    Raises:
        ValueError: `part` is neither of the two, or "test" for a layout that has no parts.
    """
    return cases_of(found_in(source, task, part=part))


def found_in(source: str | Path, task: Task, *, part: str = "training", lying: Contents | None = None,
             whole: bool = False) -> Found:
    """What lies in a folder or table, cases and all else.

    Args:
        source, task, part: as for `find_cases`.
        lying, whole: as for `finding.find`.

    Raises:
        ValueError: `part` is neither of the two, or "test" for a layout that has no parts.
    """
    source = Path(source)
    if part != "training" and not (finding.has_description(source) and part == "test"):
        raise ValueError(f"found part {part!r}, expected 'training', or 'test' for a data set with a dataset.json")
    lying = lying or finding.lying_in(source)
    found = finding.find(source, task, part, lying, whole)
    if not found.entries and source.exists() and not found.problems:
        found.problems.append(finding.nothing_in(source, lying))
    return found


def cases_of(found: Found) -> tuple[list[Case], list[DataError]]:
    """The cases, sorted by id, and the problems; an entry of which nothing but problems came is no case."""
    problems, cases = list(found.problems), []
    refused = {problem.case for problem in problems}
    for entry in (entry for entry in found.entries if entry.files or entry.id not in refused):
        first = next((volumes.path_of(source) for source in entry.files.values()), None)
        with collected(problems, entry.id, first and Path(first).parent):
            images = {name: file for name, file in entry.files.items() if name != "label"}
            cases.append(Case(entry.id, images, entry.files.get("label"), entry.patient))
    return sorted(cases, key=lambda case: case.id), problems


def task_of(source: str | Path, task: Task) -> Task:
    """The task with the label values that the data set itself states, so that `find_cases` agrees with it.

    Only a dataset.json states any, and only one whose classes have the names of the task's is believed; for every
    other source this is the task as it is. Use the same task for everything that is done with these cases.

    Raises:
        DataError: there is a dataset.json that is none of nnU-Net or of the Medical Segmentation Decathlon.
    """
    return description.relabelled(Path(source), task) if finding.has_description(Path(source)) else task


def write_cases(cases: Sequence[Case], folder: str | Path, layout: str = "folders", task: Task | None = None) -> Path:
    """Write cases, from memory or from other files, into a new or empty folder, so that `find_cases` finds them again.

    Files are copied byte for byte (and compressed), images in memory and frames of a 4-D file are saved. The
    patients and the mark of what is simulated are kept.

    Args:
        folder: nothing in it is ever overwritten; on an error nothing is left in it.
        layout: "folders": a folder for each case, with `<case>_<modality>.nii.gz` and `<case>_seg.nii.gz`;
            "brats2021", "brats2023": the names of that year of BraTS and, if the task has the classes of BraTS, its
            label values: read with TASKS[layout];
            "nnunet": nnU-Net v2 raw, with the classes' numbers as label values: read with `task_of`. Cases without a
            label become its test cases, and no modality may be missing;
            "table": `images` and a `cases.csv` of relative paths.
        task: names the modalities and the label values of the cases; only "folders" can do without.

    Returns:
        What `find_cases` takes: the folder, or the table.

    Raises:
        DataError: the folder cannot be written, or holds something; or everything that is wrong with the cases.
        ValueError: no cases, an unknown layout, or one that does not suit the task.
    """
    if layout not in LAYOUTS or (task is None and layout != "folders"):
        raise ValueError(f"found the layout {layout!r} and {'a' if task else 'no'} task, expected one of "
                         f"{', '.join(LAYOUTS)}, and a task for all but folders")
    if not cases:
        raise ValueError("found no cases, expected at least one")
    if problems := [*same_twice(cases), *_unwritable(cases, task)]:
        raise DataError.together(problems)
    for case in cases:
        check_names(case.modalities)            # they become the names of files
    return writing.write([_entry(case) for case in cases], Path(folder), layout, task)


def write_table(cases: Iterable[Case], path: str | Path, task: Task) -> None:
    """List cases in a .csv table that `find_cases` reads, with the absolute paths of their files.

    Raises:
        DataError: a case is held in memory and has no files.
    """
    problems, entries = [], []
    for case in cases:
        files = _entry(case).files
        if any(isinstance(source, nib.Nifti1Image) for source in files.values()):
            problems.append(DataError("its images are held in memory, expected files",
                                      "Write the cases with write_cases first.", case=case.id))
            continue
        entries.append(Entry(case.id, {name: _absolute(source) for name, source in files.items()}, case.patient))
        problems += [DataError("its path is not UTF-8, and no table can hold it", "Rename the file and its folders.",
                               case=case.id, modality=name, path=source)
                     for name, source in entries[-1].files.items() if shown(source) != str(source)]
    if problems:
        raise DataError.together(problems)
    table.write_rows(entries, Path(path), task)


def expect_cases(cases: Any, *kinds: type) -> None:
    """Nothing, if these are cases, or of one of the other kinds.

    Raises:
        TypeError: they are a path, or a list that holds something else.
    """
    wrong = [cases] if isinstance(cases, str | os.PathLike | Mapping) else [
        one for one in cases if not isinstance(one, (Case, *kinds))]
    if wrong:
        found = repr(wrong[0]) if isinstance(wrong[0], str | os.PathLike) else f"a {type(wrong[0]).__name__}"
        raise TypeError(f"found {found}, expected a Case; `find_cases(folder, task)` makes a list of those that a "
                        "folder or table holds")


def same_twice(cases: Iterable[Case]) -> list[DataError]:
    """A problem for each id that two cases share (letter case aside), and for each that share a file."""
    ids: dict[str, Case] = {}
    owners: dict[str, str] = {}
    problems = []
    for case in cases:
        key = unicodedata.normalize("NFC", case.id).casefold()
        if key in ids:
            problems.append(_same_id(ids[key], case))
            continue
        files = _files(case)
        if shared := next((file for file in files if file in owners), None):
            problems.append(DataError(f"the cases {owners[shared]!r} and {case.id!r} share this file",
                                      "One case must not have two ids: remove one of them.",
                                      case=case.id, path=volumes.path_of(files[shared])))
        ids[key] = case
        owners |= dict.fromkeys(files, case.id)
    return problems


def _same_id(one: Case, other: Case) -> DataError:
    how = f"equals {one.id!r} but for letter case" if one.id != other.id else "belongs to two cases"
    first, second = (next(map(str, _files(case).values()), "images in memory") for case in (one, other))
    return DataError(f"the id {other.id!r} {how}: {first} and {second}",
                     "Give each case an id of its own, or remove one of them.", case=other.id)


def _files(case: Case) -> dict[tuple[str, int | None], Source]:
    """The files and frames of the images by what they are, whatever they are called."""
    return {(os.path.realpath(volumes.path_of(source)), source.index if isinstance(source, Frame) else None): source
            for source in case.images.values() if not isinstance(source, nib.Nifti1Image)}


def _absolute(source: Path | Frame) -> Path | Frame:
    path = volumes.path_of(source)
    path = path.parent.resolve() / path.name if ".." in path.parts else path.absolute()      # links stay links
    return Frame(path, source.index) if isinstance(source, Frame) else path


def _entry(case: Case) -> Entry:
    return Entry(case.id, {**case.images, **({} if case.label is None else {"label": case.label})}, case.patient)


def _unwritable(cases: Iterable[Case], task: Task | None) -> Iterator[DataError]:
    for case in cases:
        if not case.images:
            yield DataError("found no modality at all, expected at least one", "Leave the case out.", case=case.id)
        if task and (unknown := [name for name in case.images if name not in task.modalities]):
            yield DataError(f"found the modalities {unknown}, expected some of {list(task.modalities)}",
                            f"Choose the task of these cases, or add them to task {task.name}.", case=case.id)

"""Cases: which files belong together; finding them on a disk, and writing them there again.

How files lie and what they are called is a matter of `layouts`. A missing modality is a missing key, never an error
here. All problems of a data set are reported together.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from maml_toolkit.data.layouts import folders, nnunet, table
from maml_toolkit.data.layouts.entries import Entry, collected
from maml_toolkit.data.volumes import Source
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import Task, check_names

KNOWN = ("one folder a case with files <case>_<modality>.nii.gz, nnU-Net v2 raw (dataset.json, imagesTr, "
         "labelsTr), or a .csv or .tsv table with a column 'case' and one column a modality")

LAYOUTS = ("folders", "brats2021", "brats2023", "nnunet", "table")
"""The layouts that `write_cases` writes."""


@dataclass(frozen=True)
class Case:
    """The images of one examination, and its label if there is one.

    Attributes:
        id: names the case in tables and in output folders.
        images: modality -> file, or an image held in memory; a missing modality is a missing key.
        label: file or image of the label map.
        patient: cases of one patient stay on one side of a split; the id when None.

    Raises:
        DataError: the id could lead outside an output folder.
    """

    id: str
    images: Mapping[str, Source] = field(default_factory=dict)
    label: Source | None = None
    patient: str | None = None

    def __post_init__(self):
        if not self.id.strip(" .") or ".." in self.id or set(self.id) & set("/\\\0"):
            raise DataError(f"found the case id {self.id!r}, expected one without path separators and '..'",
                            "Rename the case; its id becomes the name of a folder.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that this case has."""
        return tuple(self.images)


def find_cases(source: str | Path, task: Task, *, part: str = "training") -> list[Case]:
    """The cases of a folder or of a table, sorted by id.

    Modalities that the field knows but the task does not use are left out; any other name is an error.

    Args:
        source: a folder, or a .csv or .tsv file; its relative paths start at its own folder.
        task: names the modalities, and the label values that a dataset.json must agree with; `task_of` gives a task
            that agrees if the classes have the same names.
        part: "training", or "test" for the imagesTs of an nnU-Net data set.

    Raises:
        DataError: everything that is wrong with the data set, together; or no case was found.
        ValueError: `part` is neither of the two, or "test" for a layout that has no parts.
    """
    source, problems = Path(source), []
    if part != "training" and not (_is_nnunet(source) and part == "test"):
        raise ValueError(f"found part {part!r}, expected 'training', or 'test' for an nnU-Net data set")
    cases = []
    for entry in _entries(source, task, part, problems):
        with collected(problems, entry.id, source):
            images = {name: file for name, file in entry.files.items() if name != "label"}
            cases.append(Case(entry.id, images, entry.files.get("label"), entry.patient))
    problems += same_twice(cases)
    if problems:
        raise DataError.together(problems)
    if not cases:
        raise DataError(f"no case was found; {_holding(source)}; expected {KNOWN}",
                        "Arrange the files in one of these ways, or describe them in a table.", path=source)
    return sorted(cases, key=lambda case: case.id)


def task_of(source: str | Path, task: Task) -> Task:
    """The task with the label values that the data set itself states, so that `find_cases` agrees with it.

    Only a dataset.json states any, and only one whose classes have the names of the task's is believed; for every
    other source this is the task as it is. Use the same task for everything that is done with these cases.

    Raises:
        DataError: there is a dataset.json that is not one of nnU-Net v2.
    """
    return nnunet.relabelled(Path(source), task) if _is_nnunet(Path(source)) else task


def write_cases(cases: Sequence[Case], folder: str | Path, layout: str = "folders", task: Task | None = None) -> Path:
    """Write cases, from memory or from other files, into a new or empty folder, so that `find_cases` finds them again.

    Files are copied byte for byte (and compressed), images in memory are saved. Only a table keeps the patients.

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
    entries = [_entry(case) for case in cases]
    with _filled(Path(folder)) as place:
        if layout.startswith("brats"):
            folders.write_brats(entries, place, task, layout)
        else:
            {"folders": folders, "nnunet": nnunet, "table": table}[layout].write(entries, place, task)
    return Path(folder) / table.FILE if layout == "table" else Path(folder)


def write_table(cases: Iterable[Case], path: str | Path, task: Task) -> None:
    """List cases in a .csv table that `find_cases` reads, with the absolute paths of their files.

    Raises:
        DataError: a case is held in memory and has no files.
    """
    problems, entries = [], []
    for case in cases:
        files = _entry(case).files
        if not all(isinstance(source, Path) for source in files.values()):
            problems.append(DataError("its images are held in memory, expected files",
                                      "Write the cases with write_cases first.", case=case.id))
            continue
        entries.append(Entry(case.id, {name: source.absolute() for name, source in files.items()}, case.patient))
    if problems:
        raise DataError.together(problems)
    table.write_rows(entries, Path(path), task)


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
        files = {os.path.realpath(path): path for path in _paths(case)}
        if shared := next((file for file in files if file in owners), None):
            problems.append(DataError(f"the cases {owners[shared]!r} and {case.id!r} share this file",
                                      "One case must not have two ids: remove one of them.",
                                      case=case.id, path=files[shared]))
        ids[key] = case
        owners |= dict.fromkeys(files, case.id)
    return problems


def _same_id(one: Case, other: Case) -> DataError:
    how = f"equals {one.id!r} but for letter case" if one.id != other.id else "belongs to two cases"
    first, second = (next(map(str, _paths(case)), "images in memory") for case in (one, other))
    return DataError(f"the id {other.id!r} {how}: {first} and {second}",
                     "Give each case an id of its own, or remove one of them.", case=other.id)


def _paths(case: Case) -> list[Path]:
    return [source for source in case.images.values() if isinstance(source, Path)]


def _is_nnunet(source: Path) -> bool:
    return (source / nnunet.FILE).is_file()


def _entries(source: Path, task: Task, part: str, problems: list[DataError]) -> list[Entry]:
    if not source.exists():
        raise DataError("found nothing here, expected a folder or a table", "Correct the path.", path=source)
    if source.is_file() and source.suffix.lower() not in table.ENDINGS:
        raise DataError(f"found a file, expected {KNOWN}", "Give the folder, or save the table as .csv.", path=source)
    if source.is_file():
        return table.find(source, task, problems)
    return nnunet.find(source, task, part, problems) if _is_nnunet(source) else folders.find(source, task, problems)


def _holding(source: Path) -> str:
    if source.is_file():
        return "the table has no rows"
    names = [path.name + "/" * path.is_dir() for path in sorted(source.iterdir())]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"the folder holds {', '.join(names[:8]) or 'nothing'}{more}"


def _entry(case: Case) -> Entry:
    return Entry(case.id, {**case.images, **({} if case.label is None else {"label": case.label})}, case.patient)


def _unwritable(cases: Iterable[Case], task: Task | None) -> Iterator[DataError]:
    for case in cases:
        if not case.images:
            yield DataError("found no modality at all, expected at least one", "Leave the case out.", case=case.id)
        if task and (unknown := [name for name in case.images if name not in task.modalities]):
            yield DataError(f"found the modalities {unknown}, expected some of {list(task.modalities)}",
                            f"Choose the task of these cases, or add them to task {task.name}.", case=case.id)


@contextmanager
def _filled(folder: Path) -> Iterator[Path]:
    """A place to write in; only at the end, and all at once, does what was written appear in the folder."""
    is_new = not folder.exists()
    _make_empty(folder)
    try:
        with TemporaryDirectory(prefix=".unfinished-", dir=folder) as place:
            yield Path(place)
            for path in sorted(Path(place).iterdir()):
                path.rename(folder / path.name)
    except BaseException:
        with suppress(OSError):
            if is_new:
                folder.rmdir()
        raise


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = next(folder.iterdir(), None)
    except OSError as error:
        raise DataError(f"no folder can be made or read here ({error.strerror})",
                        "Choose a folder that you may write.", path=folder) from error
    if held is not None:
        raise DataError(f"the folder already holds {held.name}, expected an empty one",
                        "Choose a new folder, or empty this one; nothing is overwritten.", path=folder)

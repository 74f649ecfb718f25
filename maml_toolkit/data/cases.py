"""Cases: finding them in a folder or table, and writing them there again.

How files lie and what they are called is a matter of `layouts`. All problems of a data set are reported together.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data import nifti, volumes
from maml_toolkit.data.case import Case, Cases, same_twice
from maml_toolkit.data.layouts import bids, dataset_json, dataset_labels, dseg, folders, table
from maml_toolkit.data.layouts.contents import Contents, contents
from maml_toolkit.data.layouts.finding import has_description, search
from maml_toolkit.data.tasks import Task, check_names
from maml_toolkit.data.volumes import Frame, Source, mark_of, path_of
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected, expect_none, shown, unless, warn_of
from maml_toolkit.system.files import UNFINISHED, sweep, unfinished_folder

LAYOUTS = {"folders": folders, "nnunet": dataset_json, "bids": bids, "table": table}
"""The layouts that `write_cases` writes; the module of each says where files go and describes them there."""


def find_cases(source: str | Path, task: Task | str | Path, *, part: str = "training") -> Cases:
    """The cases of a folder or of a table, sorted by id.

    Modalities that the field knows but the task does not use are left out; any other name is an error. So is whatever
    may be a scan that is missing: a link to nothing, an unfinished copy, a format that is not read.

    Args:
        source: a folder, or a .csv or .tsv file; its relative paths start at its own folder.
        task: names the modalities, and the label values that a dataset.json or dseg.tsv must agree with; `task_of`
            gives a task that agrees if the classes have the same names. Also by its name, or as a JSON file.
        part: "training", or "test" for the imagesTs of a data set with a dataset.json.

    Raises:
        DataError: everything that is wrong with the data set, together; or no case was found.
        ValueError: `part` is neither of the two, or "test" for a layout that has no parts.

    Warns:
        DataWarning: files that may be scans and stand in the place of none that is missing.
    """
    task = Task.named(task)
    found = search(source, task, part=part)
    expect_none([*found.problems, *same_twice(found.cases)])
    warn_of(found.oddities)
    return Cases(replace(case, task=task) for case in found.cases)


def task_of(source: str | Path, task: Task) -> Task:
    """The task with the label values that the data set itself states, so that `find_cases` agrees with it.

    Only a dataset.json and the dseg.tsv of BIDS state any, and only one whose classes have the names of the task's is
    believed; for every other source this is the task as it is. Labels of cases that are found by it are read by it,
    also where a network of the same classes with other values is measured on them (`Case.scheme`).

    Raises:
        DataError: there is a dataset.json that is none of nnU-Net or of the Medical Segmentation Decathlon.
    """
    source = Path(source)
    if has_description(source):
        return dataset_labels.relabelled(dataset_json.read(source, Contents()), task)
    if source.is_dir() and bids.is_bids(source, lying := contents(source)):
        return dseg.relabelled(bids.schemes(source, lying, task, []), task)     # `search` tells what cannot be read
    return task


def write_cases(cases: Sequence[Case], folder: str | Path, layout: str = "folders", task: Task | None = None) -> Path:
    """Write cases, from memory or from other files, into a new or empty folder, so that `find_cases` finds them again.

    Files are copied byte for byte (and compressed), images in memory and frames of a 4-D file are saved. Labels that
    were found by a task of other values get those of this one. Patients and the mark of what is simulated are kept.

    Args:
        folder: nothing in it is ever overwritten; on an error nothing is left in it.
        layout: "folders": a folder for each case, with `<case>_<modality>.nii.gz` and `<case>_seg.nii.gz`, as in BraTS;
            "nnunet": nnU-Net v2 raw, with the classes' numbers as label values: read with `task_of`. Cases without a
            label become its test cases, and no modality may be missing;
            "bids": BIDS, with the labels as derivatives. Cases are then called `sub-…[_ses-…]`, by the letters and
            digits of their patients and ids;
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
    expect_none([*same_twice(cases), *_unwritable(cases, layout, task)])
    for case in cases:
        check_names(case.modalities)            # they become the names of files
    with _filled(Path(folder)) as place:
        _copy(cases, place, LAYOUTS[layout], task)
        LAYOUTS[layout].describe(cases, place, task)
    return Path(folder) / table.FILE if layout == "table" else Path(folder)


def _unwritable(cases: Sequence[Case], layout: str, task: Task | None) -> Iterator[DataError]:
    for case in cases:
        if not case.images:
            yield DataError("found no scan at all, expected at least one", "Leave the case out.", case=case.id)
        if task and (unknown := [name for name in case.images if name not in task.modalities]):
            yield DataError(f"found the modalities {unknown}, expected some of {list(task.modalities)}",
                            f"Choose the task of these cases, or add them to task {task.name}.", case=case.id)
        if layout == "nnunet" and (absent := [name for name in task.modalities if name not in case.images]):
            yield DataError(f"found no {', '.join(absent)}; nnU-Net expects every scan of every case",
                            "Leave the case out, or choose another layout.", case=case.id)
        if layout == "bids" and case.labelled:
            yield DataError(f"only {', '.join(case.labelled)} were drawn in its label, for which BIDS has no place",
                            "Choose another layout.", case=case.id)
    if layout == "bids":
        yield from bids.unwritable(cases, task)


def _copy(cases: Sequence[Case], folder: Path, layout: ModuleType, task: Task | None) -> None:
    """Copy the files of all cases to where the layout has them; files keep their bytes, so values and scaling survive.

    Frames of a 4-D file become files of their own. A label of another scheme gets the values of the task; those of
    nnU-Net are its classes, and the next number for what is ignored.

    Raises:
        DataError: everything that is wrong with the files, together.
    """
    problems, is_numbered = list[DataError](), layout is dataset_json
    to = task if not is_numbered else replace(task, labels={name: at for at, name in enumerate(task.class_names)},
                                              ignore=None if task.ignore is None else task.classes)
    for case in machine.progress(cases, desc="writing cases", unit="case"):
        for part, source in case.files.items():
            path = folder / layout.file_of(case, part, task)
            path.parent.mkdir(parents=True, exist_ok=True)
            with collected(problems, case.id, path_of(source), part):
                if part == "label" and task and (is_numbered or case.scheme(task) != task):
                    label = volumes.read_label(source, case=case.id)
                    values = to.decode(case.scheme(task).encode(label.array))
                    volumes.write(path, values, label.affine, mark_of(source))
                else:
                    volumes.read_header(source, case=case.id, modality=part)
                    _copy_one(source, path, is_label=part == "label")
    expect_none(problems)


def _copy_one(source: Source, path: Path, is_label: bool) -> None:
    if isinstance(source, Frame):
        frame = volumes.opened(source, label=is_label)
        plain = is_label or (frame.scaling == (1, 0) and frame.values.dtype != np.float64)
        volumes.write(path, frame.values if plain else frame.image().array, frame.affine, mark_of(source))
        return
    if not isinstance(source, Path):
        volumes.write(path, np.asanyarray(source.dataobj), source.affine, mark_of(source))
        return
    content = source.read_bytes()
    if (mark := mark_of(source)) != nifti.described(nifti.header_of(source)) and mark:     # it was in the name alone
        content = nifti.with_description(content, mark)
    path.write_bytes(content if content.startswith(b"\x1f\x8b") else gzip.compress(content, 1, mtime=0))


@contextmanager
def _filled(folder: Path) -> Iterator[Path]:
    """A place to write in; only at the end, and all at once, does what was written appear in the folder.

    Raises:
        DataError: the folder cannot be written, or holds something.
    """
    is_new = not folder.exists()
    with unless("no folder can be made or read here", "Choose a folder that you may write.", folder):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, alone=False)
        _check_empty(folder)
    try:
        with unfinished_folder(folder) as place:
            yield place
            _check_empty(folder)                    # another process may have been quicker
            for path in sorted(place.iterdir(), key=Path.is_file):       # the file that names the others comes last
                path.rename(folder / path.name)
    except BaseException:
        with suppress(OSError):
            if is_new:
                folder.rmdir()
        raise


def _check_empty(folder: Path) -> None:
    held = next((path for path in folder.iterdir() if not path.name.startswith(UNFINISHED)), None)
    if held is not None:
        raise DataError(f"the folder already holds {held.name}, expected an empty one",
                        "Choose a new folder, or empty this one; nothing is overwritten.", path=folder)


def write_table(cases: Iterable[Case], path: str | Path, task: Task) -> None:
    """List cases in a .csv table that `find_cases` reads, with the absolute paths of their files.

    Raises:
        DataError: a case is held in memory and has no files, or was found by a task of other label values.
    """
    problems, listed = [], []
    for case in cases:
        if case.label is not None and case.scheme(task) != task:
            problems.append(DataError(f"its label has the values of {case.task.scheme}, expected those of "
                                      f"{task.scheme}, for a table has no place to say so", "Give the task of its data "
                                      "set, or write the cases with write_cases first.", case=case.id))
        if any(isinstance(source, nib.Nifti1Image) for source in case.files.values()):
            problems.append(DataError("its images are held in memory, expected files",
                                      "Write the cases with write_cases first.", case=case.id))
            continue
        listed.append(Case.from_files(case.id, {name: _absolute(file) for name, file in case.files.items()},
                                      case.patient, case.labelled))
        problems += [DataError("its path is not UTF-8, and no table can hold it", "Rename the file and its folders.",
                               case=case.id, modality=name, path=source)
                     for name, source in listed[-1].files.items() if shown(source) != str(source)]
    expect_none(problems)
    table.write_rows(listed, Path(path), task)


def _absolute(source: Path | Frame) -> Path | Frame:
    path = path_of(source)
    path = path.parent.resolve() / path.name if ".." in path.parts else path.absolute()      # links stay links
    return Frame(path, source.index) if isinstance(source, Frame) else path


def expect_cases(cases: Any, *kinds: type) -> None:
    """Nothing, if this is a list of cases, or of one of the other kinds.

    Raises:
        TypeError: it is a path, one case, or something that can be gone through only once; or it holds something else.
    """
    is_list = isinstance(cases, Collection) and not isinstance(cases, str | Mapping)
    wrong = [one for one in cases if not isinstance(one, (Case, *kinds))] if is_list else [cases]
    if wrong:
        found = repr(wrong[0]) if isinstance(wrong[0], str | os.PathLike) else f"a {type(wrong[0]).__name__}"
        raise TypeError(f"found {found}, expected a {'Case' if is_list else 'list of cases'}; "
                        "`find_cases(folder, task)` makes a list of those that a folder or table holds")

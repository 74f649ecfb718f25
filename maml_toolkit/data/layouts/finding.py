"""Which layout lies in a place, which task it may be for, and everything that is there: cases, faults, all else."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from maml_toolkit.data.case import Case
from maml_toolkit.data.layouts import bids, dataset_json, dataset_labels, dseg, folders, table
from maml_toolkit.data.layouts.contents import DICOM, FORMATS, Contents, contents, stem, visible
from maml_toolkit.data.layouts.found import Found, understands
from maml_toolkit.data.tasks import TASKS, Task, common_name
from maml_toolkit.data.volumes import path_of
from maml_toolkit.system.errors import DataError, collected, few

KNOWN = ("one folder a case with files <case>_<modality>.nii.gz, nnU-Net raw or Medical Segmentation Decathlon "
         "(dataset.json, imagesTr, labelsTr), BIDS (sub-<label>/anat/sub-<label>_T1w.nii.gz), or a .csv or .tsv table "
         "with a column 'case' and one column a modality")


def has_description(source: Path) -> bool:
    """Whether a dataset.json describes the folder, even one that cannot be read."""
    return os.path.lexists(source / dataset_json.FILE)


def search(source: str | Path, task: Task | None, *, part: str = "training", whole: bool = False) -> Found:
    """The cases of a folder or table as far as they can be understood, everything that cannot, and all else there.

    What cases have wrong with one another is not among it: `case.same_twice` tells.

    Args:
        source: a folder, which is searched once, or a .csv or .tsv file.
        task: when left out, the known task that understands most of the images' names.
        part: "training", or "test" for the imagesTs of a data set with a dataset.json.
        whole: look for faults in the other part of such a data set too.

    Raises:
        ValueError: `part` is neither of the two, or "test" for a layout that has no parts.
    """
    source = Path(source)
    is_described = has_description(source)
    if part != "training" and not (is_described and part == "test"):
        raise ValueError(f"found part {part!r}, expected 'training', or 'test' for a data set with a dataset.json")
    found = Found([task] if task else [*TASKS.values()])
    lying = contents(source) if source.is_dir() else None
    place, others, left, is_understood = partial(folders.place, source), [], [], False
    with collected(found.problems, path=source):
        expect_source(source)
        if lying is None:
            rows = table.read(source)
            found.tasks = _fitting(found.tasks, rows.images)
            table.find(rows, found)
        elif is_described:
            described = dataset_json.read(source, lying)
            place = partial(dataset_json.place, described)
            _find_described(described, found, part, is_named=task is not None)
            other = next(one for one in dataset_json.PARTS if one != part)
            if whole:
                dataset_json.find(described, replace(found, cases=others), other)
            else:
                left = described.folders(other)
        elif bids.is_bids(source, lying):
            place = partial(bids.place, source)
            _find_sessions(source, lying, found, is_named=task is not None)
        else:
            found.tasks = _fitting(found.tasks, partial(folders.names, lying))
            folders.find(lying, found)
            place = partial(folders.place, source, shared=folders.shared_start(lying, found.task))
        is_understood = True
    if lying is not None:
        _account(found, others, lying, left, is_understood, partial(place, found.task))
    refused = {problem.case for problem in found.problems}
    found.cases = sorted((case for case in found.cases if case.files or case.id not in refused), key=lambda one: one.id)
    if not found.cases and source.exists() and not found.problems:
        found.problems.append(_nothing_in(source, lying))
    return found


def _find_described(described: dataset_json.Description, found: Found, part: str, is_named: bool) -> None:
    """Add the cases of a part, and what is wrong or odd with the dataset.json itself.

    Args:
        is_named: whether the task was asked for, here and in `_find_sessions`: what labels are called counts then.
    """
    found.tasks = _fitting(found.tasks, lambda _: described.channels.values())
    with collected(found.problems):
        dataset_labels.check_scheme(described, found.task)
    found.oddities += dataset_json.unknown_ids(described)
    if is_named:
        found.oddities += dataset_labels.unknown_names(described, found.task)
    dataset_json.find(described, found, part)


def _find_sessions(source: Path, lying: Contents, found: Found, is_named: bool) -> None:
    """Add the sessions of BIDS, and what is wrong or odd with the tables of their labels."""
    found.tasks = _fitting(found.tasks, partial(bids.names, source, lying))
    bids.find(source, lying, found)
    if is_named:
        schemes = bids.schemes(source, lying, found.task, found.problems)
        found.problems += dseg.contradictions(schemes, found.task)
        found.oddities += dseg.unknown(schemes, found.task)


def _fitting(tasks: Sequence[Task], names: Callable[[Task], Iterable[str]]) -> list[Task]:
    """Those of the tasks that understand most of the names, which are told with the help of each task; or all."""
    if len(tasks) == 1:
        return [*tasks]
    scores: dict[tuple[str, ...], int] = {}
    for task in tasks:
        if task.modalities not in scores:
            scores[task.modalities] = sum(understands(name, task) for name in names(task))
    most = max(scores.values())
    return [task for task in tasks if scores[task.modalities] == most > 0] or [*tasks]


def guessed(tasks: Sequence[Task]) -> Iterator[DataError]:
    """What to say of a task that was not named, where names alone do not tell it."""
    remedy = "Name the task: a known one, or the JSON file of your own (`--task`)."
    if len(tasks) == len(TASKS):
        yield DataError(f"no known task understands the names of these images; {tasks[0].name} was taken", remedy)
    elif len({frozenset(map(common_name, task.modalities)) for task in tasks}) > 1:
        yield DataError(f"the names of these images fit the tasks {', '.join(task.name for task in tasks)} alike; "
                        f"{tasks[0].name} was taken", remedy)


def expect_source(source: Path) -> None:
    """Nothing, if there is a folder or a table.

    Raises:
        DataError: there is neither.
    """
    if not source.exists():
        start = "" if source.is_absolute() else f" It starts at the current folder, {Path.cwd()}."
        raise DataError("found nothing here, expected a folder or a table", f"Correct the path.{start}", path=source)
    if source.is_file() and source.suffix.lower() not in table.ENDINGS:
        raise DataError(f"found a file, expected {KNOWN}", "Give the folder, or save the table as .csv.", path=source)


def _account(found: Found, others: Sequence[Case], lying: Contents, left: Sequence[Path], is_understood: bool,
             placed: Callable[[Path, str], tuple[str | None, str | None]]) -> None:
    """Adds what no case accounts for.

    Args:
        others: the cases of the other part.
        left: folders that are left alone.
        is_understood: whether it was said where images have to lie.
        placed: the case and the modality that a file's path and its name without its ending stand for.
    """
    found.problems += [problem for problem in lying.problems if Path(problem.path).parent not in left]
    found.ignored = lying.ignored + Counter({
        "images of the other part": sum(len(lying.images.get(folder, [])) for folder in left)})
    told = {problem.path for problem in found.problems}
    named = {path_of(source) for source in found.named}
    for path in (path for folder, paths in lying.images.items() if folder not in left for path in paths):
        if path not in named:
            found.named[path] = case, name = placed(path, stem(path))
            if is_understood and path not in told:
                found.problems.append(DataError(
                    "found an image that belongs to no case, expected it where its layout has images or labels",
                    "Put it there under the name of its case, or move it away.", case=case, modality=name, path=path))
    there = {(case.id, name) for case in (*found.cases, *others) for name in case.files}
    for one in (one for one in lying.foreign if one.path.parent not in left):
        case, name = placed(one.path, one.stem)
        times = "" if one.count == 1 else f" ({one.count} in this folder)"
        is_missing = name is not None and (case, name) not in there
        (found.problems if is_missing else found.oddities).append(
            DataError(f"found {one.what}{times}", one.remedy, case=case, modality=name, path=one.path))
    found.oddities += [DataError("found a file of which nothing is known",
                                 "Convert it to NIfTI if it is a scan, else move it away.",
                                 case=placed(path, path.stem)[0], path=path)
                       for path in lying.unknown if path.parent not in left]


def _nothing_in(source: Path, lying: Contents | None) -> DataError:
    if lying is None:
        return DataError("no case was found; the table has no rows", "Add a row for each case.", path=source)
    names = [path.name + "/" * path.is_dir() for path in visible(source)]
    holds = f"the folder holds {few(names, 8) or 'nothing'}"
    remedy = "Arrange the files in one of these ways, or describe them in a table."
    if other := next((one.path for one in lying.foreign), None):
        holds += f", and {other.suffix.lower()} files such as {other.relative_to(source)}"
        remedy = (f"Convert the {other.suffix.lower()} files to NIfTI, named <case>/<case>_<modality>.nii.gz"
                  f" ({FORMATS.get(other.suffix.lower(), DICOM)}).")
    return DataError(f"no case was found; {holds}; expected {KNOWN}", remedy, path=source)

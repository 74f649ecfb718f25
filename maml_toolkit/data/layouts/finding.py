"""Which layout lies in a place, and its entries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from maml_toolkit.data.layouts import decathlon, description, folders, nnunet, table
from maml_toolkit.data.layouts.contents import DICOM, FORMATS, Contents, contents, stem
from maml_toolkit.data.layouts.entries import Entry, resolved, visible
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import path_of
from maml_toolkit.system.errors import DataError, collected

KNOWN = ("one folder a case with files <case>_<modality>.nii.gz, nnU-Net raw or Medical Segmentation Decathlon "
         "(dataset.json, imagesTr, labelsTr), or a .csv or .tsv table with a column 'case' and one column a modality")

def has_description(source: Path) -> bool:
    """Whether a dataset.json describes the folder."""
    return (source / description.FILE).is_file()


@dataclass
class Found:
    """What lies in a folder or table, as far as it can be understood, and everything that cannot.

    Attributes:
        entries: the cases of the part.
        others: those of the other part of a data set with a dataset.json, and images that belong to no case.
        problems: what must be mended.
        oddities: what may be meant: what cannot be read and stands in the place of no scan that is missing.
        ignored: rule -> how many entries of the folder it ignored.
    """

    entries: list[Entry] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)
    oddities: list[DataError] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def lying_in(source: Path) -> Contents | None:
    """What lies in a folder; None for a table or for nothing."""
    return contents(source) if source.is_dir() else None


def find(source: Path, task: Task, part: str, lying: Contents | None, whole: bool = False) -> Found:
    """The entries of a folder or table, and whatever else is there.

    Args:
        lying: `lying_in(source)`, for which it is all the same what the task is.
        whole: look at the other part of a data set with a dataset.json too.
    """
    found = Found()
    described, left, is_understood = None, (), False
    with collected(found.problems, path=source):
        _expect_source(source)
        if lying is None:
            found.entries += table.find(source, task, found.problems)
        elif not has_description(source):
            found.entries += folders.find(lying, task, found.problems)
        else:
            described = description.described(source)
            with collected(found.problems):
                description.check_scheme(described, task)
            layout = decathlon if decathlon.fits(described) else nnunet
            found.entries += layout.find(described, task, part, found.problems)
            other = next(one for one in description.PARTS if one != part)
            if whole:
                found.others += layout.find(described, task, other, found.problems)
            else:
                left = tuple(source / f"{kind}{description.PARTS[other]}" for kind in ("images", "labels"))
        is_understood = True
    if lying is not None:
        _account(found, lying, described, task, left, is_understood)
    return found


def _expect_source(source: Path) -> None:
    if not source.exists():
        start = "" if source.is_absolute() else f" It starts at the current folder, {Path.cwd()}."
        raise DataError("found nothing here, expected a folder or a table", f"Correct the path.{start}", path=source)
    if source.is_file() and source.suffix.lower() not in table.ENDINGS:
        raise DataError(f"found a file, expected {KNOWN}", "Give the folder, or save the table as .csv.", path=source)


def _account(found: Found, lying: Contents, described: description.Description | None, task: Task,
             left: Sequence[Path], is_understood: bool) -> None:
    """Adds what no entry accounts for.

    Args:
        left: folders that are left alone.
        is_understood: whether it was said where images have to lie.
    """
    found.problems += [problem for problem in lying.problems if Path(problem.path).parent not in left]
    found.ignored.update(lying.ignored)
    found.ignored += Counter({"images of the other part": sum(len(lying.images.get(folder, [])) for folder in left)})
    entries = (*found.entries, *found.others)
    place = partial(_place, root=next(iter(lying.images), None), described=described, task=task)
    named = {path_of(source) for entry in entries for source, _ in entry.named}
    told = {problem.path for problem in found.problems}
    for path in (path for folder, paths in lying.images.items() if folder not in left for path in paths):
        if path not in named:
            case, name = place(path, stem(path))
            found.others.append(Entry(case, {}, named=[(path, name)]))
            if is_understood and path not in told:
                found.problems.append(DataError(
                    "found an image that belongs to no case, expected it where its layout has images or labels",
                    "Put it there under the name of its case, or move it away.", case=case, modality=name, path=path))
    there = {(entry.id, name) for entry in entries for name in entry.files}
    for one in (one for one in lying.foreign if one.path.parent not in left):
        case, name = place(one.path, one.stem)
        times = "" if one.count == 1 else f" ({one.count} in this folder)"
        is_missing = name is not None and (case, name) not in there
        (found.problems if is_missing else found.oddities).append(
            DataError(f"found {one.what}{times}", one.remedy, case=case, modality=name, path=one.path))
    found.oddities += [DataError("found a file of which nothing is known",
                                 "Convert it to NIfTI if it is a scan, else move it away.",
                                 case=place(path, path.stem)[0], path=path)
                       for path in lying.unknown if path.parent not in left]


def _place(path: Path, stem: str, *, root: Path | None, described: description.Description | None,
           task: Task) -> tuple[str | None, str | None]:
    """The case and the modality, or "label", that the name of a file stands for as far as it tells."""
    case, name = None if path.parent == root else folders.name_of(path.parent), None
    with suppress(DataError):
        if described is None:
            name = resolved(folders.name_in(path.parent, stem, task), task)
            case = folders.name_of(path.parent)
        elif path.parent.name.startswith("labels"):
            case, name = stem, "label"
        elif match := re.fullmatch(r"(.+)_(\d{4})", stem):
            case = match[1]
            name = resolved(described.channels.get(int(match[2]), ""), task)
        elif path.parent != root:
            case = stem
    return case, name


def nothing_in(source: Path, lying: Contents | None) -> DataError:
    """What to say of a folder or table in which no case was found."""
    if lying is None:
        return DataError("no case was found; the table has no rows", "Add a row for each case.", path=source)
    names = [path.name + "/" * path.is_dir() for path in visible(source)]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    holds = f"the folder holds {', '.join(names[:8]) or 'nothing'}{more}"
    remedy = "Arrange the files in one of these ways, or describe them in a table."
    if other := next((one.path for one in lying.foreign), None):
        holds += f", and {other.suffix.lower()} files such as {other.relative_to(source)}"
        remedy = (f"Convert the {other.suffix.lower()} files to NIfTI, named <case>/<case>_<modality>.nii.gz"
                  f" ({FORMATS.get(other.suffix.lower(), DICOM)}).")
    return DataError(f"no case was found; {holds}; expected {KNOWN}", remedy, path=source)

"""Entries: a case as a layout sees it, and what every layout needs to read names and to copy voxels."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maml_toolkit import machine
from maml_toolkit.data import volumes
from maml_toolkit.data.volumes import Source
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import SYNONYMS, Task

LABEL_NAMES = {"seg", "label", "labels", "mask"}
"""Names that stand in the place of a modality and mean the label."""


@dataclass(frozen=True)
class Entry:
    """What a layout knows of a case.

    Attributes:
        files: the task's own name for a modality, or "label" -> where it is.
        patient: None where the layout does not say.
    """

    id: str
    files: Mapping[str, Source]
    patient: str | None = None


@contextmanager
def collected(problems: list[DataError], case: str | None = None, path: Path | None = None,
              modality: str | None = None) -> Iterator[None]:
    """Keeps the problems of the block for later, with the place where they happened if they name none."""
    try:
        yield
    except DataError as error:
        problems += [DataError(one.problem, one.remedy, case=one.case or case, modality=one.modality or modality,
                               path=one.path or path) for one in error.errors]


def visible(folder: Path) -> list[Path]:
    """What the folder holds, sorted, without hidden files and macOS's `._` companions."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def stem(path: Path) -> str | None:
    """The file's name without .nii or .nii.gz; None for other files."""
    match = re.fullmatch(r"(.+?)\.nii(\.gz)?", path.name, re.IGNORECASE)
    return match and match[1]


def is_known(name: str, task: Task) -> bool:
    """Whether the task or the field knows a modality by this name, or it means the label."""
    known = LABEL_NAMES | {modality.lower() for modality in task.modalities}
    return name.lower() in known.union(*SYNONYMS)


def by_modality(names: Iterable[tuple[Path, str]], task: Task) -> dict[str, Path]:
    """The files by the task's own names for what they hold, in the task's order, and "label".

    Modalities that the field knows but the task does not use are left out.

    Raises:
        DataError: a name is unknown, or two files have the same.
    """
    found, problems = defaultdict(list), []
    for path, name in names:
        with collected(problems, path=path):
            if own := _resolved(name, task):
                found[own].append(path)
    problems += [DataError(f"found {len(paths)} files, expected one: {', '.join(map(str, paths))}",
                           "Keep the right one and move the others away.", modality=own, path=paths[0])
                 for own, paths in found.items() if len(paths) > 1]
    if problems:
        raise DataError.together(problems)
    return {own: found[own][0] for own in (*task.modalities, "label") if own in found}


def _resolved(name: str, task: Task) -> str | None:
    if name.lower() in LABEL_NAMES:
        return "label"
    try:
        return task.modality(name)
    except DataError:
        if is_known(name, task):
            return None
        raise


def copy(entries: Sequence[Entry], folder: Path, name: Callable[[Entry, str], str],
         recode: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
    """Copy the files of all entries into a folder; files keep their bytes, so label values and scaling survive.

    Args:
        name: from an entry and a modality, or "label", to the path in the folder, which ends in .nii.gz.
        recode: from the values of a label to those that are written.

    Raises:
        DataError: everything that is wrong with the files, together.
    """
    problems: list[DataError] = []
    for entry in machine.progress(entries, desc="writing cases", unit="case"):
        for part, source in entry.files.items():
            path = folder / name(entry, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            with collected(problems, entry.id, source if isinstance(source, Path) else None, part):
                if part == "label" and recode:
                    label = volumes.read_label(source, case=entry.id)
                    volumes.write(path, recode(label.array), label.affine)
                else:
                    volumes.read_header(source, case=entry.id, modality=part)
                    _copy_one(source, path)
    if problems:
        raise DataError.together(problems)


def _copy_one(source: Source, path: Path) -> None:
    if not isinstance(source, Path):
        volumes.write(path, np.asanyarray(source.dataobj), source.affine)
        return
    content = source.read_bytes()
    path.write_bytes(content if source.name.lower().endswith(".gz") else gzip.compress(content, 1, mtime=0))


def recoder(task: Task, written: Task) -> Callable[[np.ndarray], np.ndarray]:
    """From label values of one task to those of another with the same classes in the same order."""
    return lambda values: written.decode(task.encode(values))

"""Entries: a case as a layout sees it, and what every layout needs to read names and to copy voxels."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maml_toolkit.data import nifti, volumes
from maml_toolkit.data.layouts.contents import foreign
from maml_toolkit.data.marks import described, mark_of
from maml_toolkit.data.tasks import SYNONYMS, Task
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected

LABEL_NAMES = {"seg", "label", "labels", "mask"}
"""Names that stand in the place of a modality and mean the label."""


@dataclass(frozen=True)
class Entry:
    """What a layout knows of a case.

    Attributes:
        id: None for images that belong to no case.
        files: the task's own name for a modality, or "label" -> where it is.
        patient: None where the layout does not say.
        named: every image of the case, used or not, and what it is called; None where nobody knows.
    """

    id: str | None
    files: Mapping[str, Source]
    patient: str | None = None
    named: Sequence[tuple[Source, str | None]] = ()


def visible(folder: Path) -> list[Path]:
    """What the folder holds, sorted, without hidden files and macOS's `._` companions.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"the folder cannot be read ({error.strerror or error})", "Look at its permissions.",
                        path=folder) from error


def patient_of(id: str) -> str | None:
    """The patient of a case of BraTS from 2023, whose id ends in the time point; None for other ids.

    >>> patient_of("BraTS-GLI-00005-100")
    'BraTS-GLI-00005'
    """
    match = re.fullmatch(r"(BraTS-[A-Z]+-\d+)-\d{3}", id, re.IGNORECASE)
    return match and match[1]


def is_known(name: str, task: Task) -> bool:
    """Whether the task or the field knows a modality by this name, or it means the label."""
    known = LABEL_NAMES | {modality.lower() for modality in task.modalities}
    return name.lower() in known.union(*SYNONYMS)


def resolved(name: str, task: Task) -> str | None:
    """The task's own name for a modality, or "label"; None for one that the field knows and the task does not use.

    Raises:
        DataError: the name is unknown.
    """
    if name.lower() in LABEL_NAMES:
        return "label"
    try:
        return task.modality(name)
    except DataError:
        if is_known(name, task):
            return None
        raise


def understands(name: str | None, task: Task) -> bool:
    """Whether a modality of the task goes by this name."""
    with suppress(DataError):
        return name is not None and resolved(name, task) in task.modalities
    return False


def patient_named(value: object) -> str | None:
    """A patient as text: 7 is "7", so that all cases of one stay together; None for none.

    Raises:
        DataError: it is neither text nor a whole number.
    """
    if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
        return None if value is None else str(value)
    raise DataError(f"found the patient {value!r}, expected text", "Write its name in quotes, or leave it out.")


def entry_of(id: str, names: Sequence[tuple[Source, str]], task: Task, problems: list[DataError],
             patient: str | None = None, others: Sequence[tuple[Source, str | None]] = ()) -> Entry:
    """The entry of a case, from its files and the names of what they hold.

    Modalities that the field knows but the task does not use are left out. So is what is added to `problems`: an
    unknown name, a file that cannot be opened, and all files of a modality that has several, or whose `.nii.gz` lies
    beside a `.nii` of its name.

    Args:
        others: images of the case that have no place in the task, or no name that is understood.
    """
    return Entry(id, _by_modality(id, names, task, problems), patient or patient_of(id), (*names, *others))


def _by_modality(case: str, names: Iterable[tuple[Source, str]], task: Task,
                 problems: list[DataError]) -> dict[str, Source]:
    found = defaultdict(list)
    for source, name in names:
        with collected(problems, case, volumes.path_of(source)):
            if own := resolved(name, task):
                with collected(problems, case, modality=own):
                    _expect_image(volumes.path_of(source))
                    found[own].append(source)
    alone = {}
    for own in (*task.modalities, "label"):
        with collected(problems, case, modality=own):
            if own in found:
                alone[own] = _only(found[own])
    return alone


def _expect_image(path: Path) -> None:
    if other := foreign(path):
        raise DataError(f"it is {other.what}", other.remedy, path=path)
    nifti.expect_file(path)


def _only(sources: Sequence[Source]) -> Source:
    beside = [path.with_suffix("") for path in map(volumes.path_of, sources)
              if path.suffix.lower() == ".gz" and path.with_suffix("").is_file()]
    if len(several := dict.fromkeys((*sources, *beside))) > 1 or len(sources) > 1:
        raise DataError(f"found {len(several)} files, expected one: {', '.join(map(str, several))}",
                        "Keep the right one and move the others away; SimpleITK, asked for a .nii.gz, reads a .nii "
                        "beside it.", path=volumes.path_of(sources[0]))
    return sources[0]


def copy(entries: Sequence[Entry], folder: Path, name: Callable[[Entry, str], str],
         recode: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
    """Copy the files of all entries into a folder; files keep their bytes, so label values and scaling survive.

    Frames of a 4-D file become files of their own.

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
            with collected(problems, entry.id, volumes.path_of(source), part):
                if part == "label" and recode:
                    label = volumes.read_label(source, case=entry.id)
                    volumes.write(path, recode(label.array), label.affine, mark_of(source))
                else:
                    volumes.read_header(source, case=entry.id, modality=part)
                    _copy_one(source, path, is_label=part == "label")
    if problems:
        raise DataError.together(problems)


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
    if (mark := mark_of(source)) != described(nifti.header_of(source)) and mark:     # it was in the name alone
        content = nifti.with_description(content, mark)
    path.write_bytes(content if content.startswith(b"\x1f\x8b") else gzip.compress(content, 1, mtime=0))


def recoder(task: Task, written: Task) -> Callable[[np.ndarray], np.ndarray]:
    """From label values of one task to those of another with the same classes in the same order."""
    return lambda values: written.decode(task.encode(values))

"""Copying the files of cases under other names, into a folder in which nothing is ever overwritten."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from maml_toolkit.data import nifti, volumes
from maml_toolkit.data.case import Case
from maml_toolkit.data.marks import described, mark_of
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected
from maml_toolkit.system.files import UNFINISHED, sweep, unfinished_folder


def copy(cases: Sequence[Case], folder: Path, name: Callable[[Case, str], str], task: Task | None = None,
         written: Task | None = None) -> None:
    """Copy the files of all cases into a folder; files keep their bytes, so label values and scaling survive.

    Frames of a 4-D file become files of their own.

    Args:
        name: from a case and a modality, or "label", to the path in the folder, which ends in .nii.gz.
        task, written: when given, labels are written with the values of the second for the classes of the first, which
            are the same in the same order.

    Raises:
        DataError: everything that is wrong with the files, together.
    """
    problems: list[DataError] = []
    for case in machine.progress(cases, desc="writing cases", unit="case"):
        for part, source in case.files.items():
            path = folder / name(case, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            with collected(problems, case.id, volumes.path_of(source), part):
                if part == "label" and written:
                    label = volumes.read_label(source, case=case.id)
                    volumes.write(path, written.decode(task.encode(label.array)), label.affine, mark_of(source))
                else:
                    volumes.read_header(source, case=case.id, modality=part)
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


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A place to write in; only at the end, and all at once, does what was written appear in the folder.

    Raises:
        DataError: the folder cannot be written, or holds something.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, alone=False)
        _check_empty(folder)
    except OSError as error:
        raise DataError(f"no folder can be made or read here ({error.strerror})",
                        "Choose a folder that you may write.", path=folder) from error
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

"""Entries written in a layout, into a folder in which nothing is ever overwritten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from maml_toolkit.data.layouts import folders, nnunet, table
from maml_toolkit.data.layouts.entries import Entry
from maml_toolkit.data.tasks import Task
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import UNFINISHED, sweep, unfinished_folder

LAYOUTS = ("folders", "brats2021", "brats2023", "nnunet", "table")
"""The layouts that `write` writes."""


def write(entries: Sequence[Entry], folder: Path, layout: str, task: Task | None) -> Path:
    """Write entries into a new or empty folder; on an error nothing is left in it.

    Returns:
        What `finding.find` takes: the folder, or the table.

    Raises:
        DataError: the folder cannot be written, or holds something; or everything that is wrong with the files.
        ValueError: the layout does not suit the task.
    """
    with filled(folder) as place:
        if layout.startswith("brats"):
            folders.write_brats(entries, place, task, layout)
        else:
            {"folders": folders, "nnunet": nnunet, "table": table}[layout].write(entries, place, task)
    return folder / table.FILE if layout == "table" else folder


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A place to write in; only at the end, and all at once, does what was written appear in the folder.

    Raises:
        DataError: the folder cannot be written, or holds something.
    """
    is_new = not folder.exists()
    _make_empty(folder)
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


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, alone=False)
        _check_empty(folder)
    except OSError as error:
        raise DataError(f"no folder can be made or read here ({error.strerror})",
                        "Choose a folder that you may write.", path=folder) from error


def _check_empty(folder: Path) -> None:
    held = next((path for path in folder.iterdir() if not path.name.startswith(UNFINISHED)), None)
    if held is not None:
        raise DataError(f"the folder already holds {held.name}, expected an empty one",
                        "Choose a new folder, or empty this one; nothing is overwritten.", path=folder)

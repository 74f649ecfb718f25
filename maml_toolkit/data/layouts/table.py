"""A table, .csv or .tsv: one row a case, one column a modality, and `label` and `patient` where they are known.

A cell holds the path of a file; `BRATS_001.nii.gz#2` is frame 2, counted from 0, of a 4-D file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from maml_toolkit.data.layouts.contents import FORMATS
from maml_toolkit.data.layouts.entries import Entry, copy, entry_of, is_known, resolved
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, collected

FILE = "cases.csv"
"""The table that `write` leaves in its folder."""

ENDINGS = (".csv", ".tsv")
"""How the names of tables end."""

FRAME = re.compile(r"(.+\.nii(?:\.gz)?)#(\d+)", re.IGNORECASE)
"""A cell with a frame of a 4-D file."""


def find(path: Path, task: Task, problems: list[DataError]) -> list[Entry]:
    """The entries of a table, whose relative paths start at its own folder; bad rows are added to `problems`.

    Raises:
        DataError: the table cannot be understood.
    """
    named, rows = tables.read_rows(path, by_hand=True)
    columns = [name.lower() for name in named]
    id_column = next((name for name in ("case", "id") if name in columns), None)
    if id_column is None or len(set(columns)) < len(columns):
        raise DataError(f"found the columns {columns}, expected each once, and one called 'case'",
                        "Name the columns so, separated by commas, semicolons or tabs.", path=path)
    images = _image_columns(rows, columns, {id_column, "patient"}, task, path, problems)
    entries = []
    for number, cells in enumerate(rows, start=2):
        id = dict(zip(columns, cells, strict=False)).get(id_column)
        with collected(problems, id or f"in row {number}", path):
            if any(cells):
                row = _row_of(cells, columns, id_column)
                entries.append(_in_row(path, row, images, id_column, task, problems))
    return entries


def _image_columns(rows: Sequence[Sequence[str]], columns: Sequence[str], others: set[str], task: Task, table: Path,
                   problems: list[DataError]) -> dict[str, bool]:
    """The columns of modalities and labels, and whether their names are known.

    Columns of something else (age, site) may stand in a table too; one that holds images must have a known name.
    """
    found: dict[str, bool] = {}
    for index, column in enumerate(columns):
        holds_images = any(_is_image(row[index]) for row in rows if len(row) == len(columns))
        if column not in others and (is_known(column, task) or holds_images):
            found[column] = False
            with collected(problems, path=table):
                resolved(column, task)
                found[column] = True
    return found


def _row_of(cells: Sequence[str], columns: Sequence[str], id_column: str) -> dict[str, str]:
    if len(cells) != len(columns):
        raise DataError(f"found {len(cells)} cells in the row, expected {len(columns)}",
                        "Leave cells empty, not out; quote cells that hold commas.")
    row = {column: cell for column, cell in zip(columns, cells, strict=True) if cell}
    if id_column not in row:
        raise DataError("found a row without a case id", "Give the case a name.")
    return row


def _in_row(table: Path, row: Mapping[str, str], images: Mapping[str, bool], id_column: str, task: Task,
            problems: list[DataError]) -> Entry:
    id, named = row[id_column], [(_source(table.parent, row[column]), column) for column in images if column in row]
    gone = [path for path in map(path_of, dict(named)) if not (path.exists() or path.is_symlink())]
    problems += [DataError("the file does not exist",
                           f"Correct the path in {table}, or run prepare again where the files are now; leave the "
                           "cell of a missing modality empty.", case=id, path=path) for path in gone]
    there = [(source, column) for source, column in named if path_of(source) not in gone]
    return entry_of(id, [one for one in there if images[one[1]]], task, problems, row.get("patient"),
                    [(source, None) for source, column in there if not images[column]])


def _is_image(cell: str) -> bool:
    return ".nii" in cell.lower() or Path(cell).suffix.lower() in FORMATS


def _source(folder: Path, cell: str) -> Source:
    frame = FRAME.fullmatch(cell)
    return Frame(folder / frame[1], int(frame[2])) if frame else folder / cell


def _cell(source: Source) -> str:
    # separators that every system reads
    return f"{source.path.as_posix()}#{source.index}" if isinstance(source, Frame) else source.as_posix()


def write(entries: Sequence[Entry], folder: Path, task: Task) -> None:
    """Write `images/<case>/<modality>.nii.gz`, label values as they are, and `cases.csv` with relative paths."""
    copy(entries, folder, _name)
    listed = [Entry(entry.id, {part: Path(_name(entry, part)) for part in entry.files}, entry.patient)
              for entry in entries]
    write_rows(listed, folder / FILE, task)


def _name(entry: Entry, part: str) -> str:
    return f"images/{entry.id}/{part}.nii.gz"


def write_rows(entries: Sequence[Entry], path: Path, task: Task) -> None:
    """Write the table alone, with the paths of the entries as they are."""
    tables.write(path, map(_row, entries), ["case", "patient", *task.modalities, "label"])


def _row(entry: Entry) -> Mapping[str, str | None]:
    return {"case": entry.id, "patient": entry.patient, **{part: _cell(file) for part, file in entry.files.items()}}

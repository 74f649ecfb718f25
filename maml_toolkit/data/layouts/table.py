"""A table, .csv or .tsv: one row a case, one column a modality, and `label` and `patient` where they are known.

A cell holds the path of a file; `BRATS_001.nii.gz#2` is frame 2, counted from 0, of a 4-D file.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from maml_toolkit.data.layouts.entries import Entry, collected, copy, entry_of, is_known, resolved, stem
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.errors import DataError
from maml_toolkit.files import write_whole
from maml_toolkit.tasks import Task

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
    rows, columns = _table(path)
    id_column = next((name for name in ("case", "id") if name in columns), None)
    if id_column is None or len(set(columns)) < len(columns):
        raise DataError(f"found the columns {columns}, expected each once, and one called 'case'",
                        "Name the columns so, separated by commas (in a .tsv by tabs).", path=path)
    images = _image_columns(rows, columns, {id_column, "patient"}, task, path, problems)
    entries = []
    for number, cells in enumerate(rows, start=2):
        named = dict(zip(columns, cells, strict=False)).get(id_column)
        with collected(problems, named or f"in row {number}", path):
            if any(cells):
                row = _row_of(cells, columns, id_column)
                entries += _in_row(path, row, images, id_column, task, problems)
    return entries


def _table(path: Path) -> tuple[list[list[str]], list[str]]:
    """The rows of a table, stripped of spaces, and the lower-case names of its columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the table is not UTF-8 ({error})", "Save it as CSV UTF-8.", path=path) from error
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    return rows[1:], [name.lower() for name in rows[0]] if rows else []


def _image_columns(rows: Sequence[Sequence[str]], columns: Sequence[str], others: set[str], task: Task, table: Path,
                   problems: list[DataError]) -> list[str]:
    """The columns of modalities and labels; columns of something else (age, site) may stand in a table too.

    One that holds images must have a known name.
    """
    found = []
    for index, column in enumerate(columns):
        holds_images = any(_is_image(row[index]) for row in rows if len(row) == len(columns))
        with collected(problems, path=table):
            if column not in others and (is_known(column, task) or (holds_images and resolved(column, task))):
                found.append(column)
    return found


def _row_of(cells: Sequence[str], columns: Sequence[str], id_column: str) -> dict[str, str]:
    if len(cells) != len(columns):
        raise DataError(f"found {len(cells)} cells in the row, expected {len(columns)}",
                        "Leave cells empty, not out; quote cells that hold commas.")
    row = {column: cell for column, cell in zip(columns, cells, strict=True) if cell}
    if id_column not in row:
        raise DataError("found a row without a case id", "Give the case a name.")
    return row


def _in_row(table: Path, row: Mapping[str, str], images: Sequence[str], id_column: str, task: Task,
            problems: list[DataError]) -> Iterator[Entry]:
    id, named = row[id_column], [(_source(table.parent, row[column]), column) for column in images if column in row]
    there = [(source, column) for source, column in named if path_of(source).is_file()]
    problems += [DataError("the file does not exist",
                           "Correct the path in the table; leave the cell of a missing modality empty.",
                           case=id, path=path_of(source)) for source, _ in named if not path_of(source).is_file()]
    if there or not named:
        yield from entry_of(id, there, task, problems, row.get("patient"))


def _is_image(cell: str) -> bool:
    return stem(Path(FRAME.sub(r"\1", cell))) is not None


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
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["case", "patient", *task.modalities, "label"], lineterminator="\n")
    table.writeheader()
    table.writerows(_row(entry) for entry in entries)
    write_whole(path, text.getvalue())


def _row(entry: Entry) -> Mapping[str, str | None]:
    return {"case": entry.id, "patient": entry.patient, **{part: _cell(file) for part, file in entry.files.items()}}

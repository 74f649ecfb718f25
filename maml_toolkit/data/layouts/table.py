"""A table, .csv or .tsv: one row a case, one column a modality, and `label` and `patient` where they are known."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from maml_toolkit.data.layouts.entries import Entry, by_modality, collected, copy, is_known, stem
from maml_toolkit.errors import DataError
from maml_toolkit.files import write_whole
from maml_toolkit.tasks import Task

FILE = "cases.csv"
"""The table that `write` leaves in its folder."""

ENDINGS = (".csv", ".tsv")
"""How the names of tables end."""


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
    entries = []
    for number, cells in enumerate(rows, start=2):
        named = dict(zip(columns, cells, strict=False)).get(id_column)
        with collected(problems, named or f"in row {number}", path):
            if any(cells):
                entries.append(_in_row(path, cells, columns, id_column, task))
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


def _in_row(table: Path, cells: list[str], columns: list[str], id_column: str, task: Task) -> Entry:
    if len(cells) != len(columns):
        raise DataError(f"found {len(cells)} cells in the row, expected {len(columns)}",
                        "Leave cells empty, not out; quote cells that hold commas.")
    row = {column: cell for column, cell in zip(columns, cells, strict=True) if cell}
    if id_column not in row:
        raise DataError("found a row without a case id", "Give the case a name.")
    id, patient = row.pop(id_column), row.pop("patient", None)
    # other columns (age, site) may stand in the table, but one that holds images must have a known name
    images = [(table.parent / cell, column) for column, cell in row.items()
              if is_known(column, task) or stem(Path(cell))]
    if absent := [path for path, _ in images if not path.is_file()]:
        remedy = "Correct the path in the table; leave the cell of a missing modality empty."
        raise DataError.together(DataError("the file does not exist", remedy, path=path) for path in absent)
    return Entry(id, by_modality(images, task), patient)


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
    return {"case": entry.id, "patient": entry.patient, **{part: str(file) for part, file in entry.files.items()}}

"""Tables as CSV, read and written in one way: cells are text unless a column is said to hold numbers.

So a case called 001, 1e5, NA, null or - stays what it is called. What Windows makes of a table is read too: semicolons
or tabs between cells, commas in numbers, UTF-16, the code page 1252, with and without a byte order mark.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maml_toolkit.system.errors import DataError, few, unless
from maml_toolkit.system.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = ",;\t"
"""What stands between cells; the first of those that are most frequent in the line of names."""

ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")
"""A byte of a file's name in another encoding, as `write_whole` writes it."""

BROKEN = "Correct the table, bring it back from a copy, or have it written again."


def read(path: str | Path, numbers: Sequence[str] = ()) -> pd.DataFrame:
    """A table of text and numbers.

    Args:
        path: of the file.
        numbers: names of the columns that hold numbers (patterns of `fnmatch`); an empty cell is NaN there, and whole
            numbers are integers where no cell is empty. Every other column is text, and an empty cell of it "".

    Raises:
        DataError: the file cannot be read, rows are too short or too long, a name stands twice, or a cell is no number
            where one is expected.
    """
    import pandas as pd

    path = Path(path)
    names, found, delimiter = _parsed(path, by_hand=False)
    rows = {number: row for number, row in enumerate(found, start=2) if len(names) == 1 or any(row)}
    if uneven := [str(number) for number, row in rows.items() if len(row) != len(names)]:
        raise DataError(f"found rows of another length than that of the {len(names)} names in the first: {few(uneven)}",
                        BROKEN, path=path)
    if len(set(names)) < len(names):
        raise DataError(f"found the columns {names}, expected each once", BROKEN, path=path)
    columns = {}
    for place, name in enumerate(names):
        cells: list = [row[place] for row in rows.values()]
        is_number = any(fnmatchcase(name, pattern) for pattern in numbers)
        if is_number:
            cells = [_number(cell, name, number, path, delimiter) for number, cell in zip(rows, cells, strict=True)]
        columns[name] = pd.Series(cells, dtype=None if cells else float if is_number else object)
    return pd.DataFrame(columns)


def read_rows(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """The names of a table that people fill in and its rows of cells, all of them text; rows may differ in length.

    Columns at the right end in which nothing stands, as Excel leaves them, are left out. Blanks around cells are no
    part of them, unless the cell stands in quotes.

    Raises:
        DataError: the file cannot be read, or is no text.
    """
    return _parsed(Path(path), by_hand=True)[:2]


def _parsed(path: Path, by_hand: bool) -> tuple[list[str], list[list[str]], str]:
    """The names of columns, the rows and what stands between cells; by hand, blanks around cells are dropped."""
    text = _text(path)
    if told := re.match(r"sep=(.)\r?\n", text):         # a line that Excel takes for itself
        text = text[told.end():]
    bare = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text, maxsplit=1)[0])
    delimiter = told[1] if told else max(DELIMITERS, key=bare.count)
    names, *rows = _cells(text, delimiter, by_hand)
    while len(names) > 1 and not names[-1].strip():
        names.pop()
    for row in rows:
        while len(row) > len(names) and not row[-1]:
            row.pop()
    while rows and rows[-1] == [""] and len(names) > 1:
        rows.pop()
    return [name.strip() for name in names], rows, delimiter


def write(path: str | Path, table: pd.DataFrame | Iterable[Mapping[str, Any]], names: Sequence[str] = (), *,
          for_excel: bool = False) -> None:
    """Write a table, whole or not at all, so that `read` gives every cell back.

    Args:
        path: of the file.
        table: a data frame, without its index, or rows by the names of their columns.
        names: of the columns of rows, in their order; when left out, all that a row has.
        for_excel: with a byte order mark, without which Excel reads no umlauts.

    Raises:
        ValueError: a row with a column that is not among the names.
        OSError: it cannot be written; the old file is as it was.
    """
    if hasattr(table, "to_dict"):
        names, table = list(table.columns), table.to_dict("records")
    rows = list(table)
    held = list(dict.fromkeys(name for row in rows for name in row))
    if names and (other := [name for name in held if name not in names]):
        raise ValueError(f"found the columns {other} in the rows, expected those of {list(names)}")
    names = list(names) or held
    lines = [names, *([row.get(name) for name in names] for row in rows)]
    text = "".join(",".join(_cell(value, alone=len(names) == 1) for value in line) + "\n" for line in lines)
    write_whole(Path(path), "\ufeff" * for_excel + text)


def _cell(value: Any, alone: bool) -> str:
    """A value between two commas; quoted where it would be taken for more than one cell, or be stripped."""
    text = "" if value is None or (isinstance(value, float) and value != value) else str(value)
    if re.search(r'[",;\t\r\n]|^\s|\s$', text) or (alone and not text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _text(path: Path) -> str:
    with unless("the table cannot be read", "Look at its name and its permissions.", path):
        content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in content[:2]:
        encodings = ["utf-16-le" if content[0] else "utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return re.sub(ESCAPED, lambda byte: chr(0xdc00 + int(byte[1], 16)), text)
    raise DataError("it is no table of text: neither UTF-8 nor what Windows writes", "Save it as CSV UTF-8.", path=path)


def _cells(text: str, delimiter: str, by_hand: bool) -> list[list[str]]:
    blank, between = " *" if by_hand else "", re.escape(delimiter)
    cell = re.compile(rf'(?:{blank}"([^"]*(?:""[^"]*)*)"{blank}|([^{between}\r\n]*))({between}|\r\n|\r|\n)')
    rows: list[list[str]] = [[]]
    for quoted, plain, end in cell.findall(text if text.endswith(("\r", "\n")) else text + "\n"):
        rows[-1].append(quoted.replace('""', '"') or (plain.strip() if by_hand else plain))
        if end != delimiter:
            rows.append([])
    return rows[:-1]


def _number(cell: str, name: str, row: int, path: Path, delimiter: str) -> float | int:
    """The number of a cell; a comma in it is a decimal one, unless commas stand between cells: it could be either."""
    try:
        if re.fullmatch(r"[-+]?\d+", cell):
            return int(cell)
        if "_" in cell:             # which Python passes over
            raise ValueError(cell)
        return float((cell.strip() if delimiter == "," else cell.strip().replace(",", ".")) or "nan")
    except ValueError as error:
        raise DataError(f"found {cell!r} in row {row} of the column {name}, expected a number", BROKEN,
                        path=path) from error

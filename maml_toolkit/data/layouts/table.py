"""A table, .csv or .tsv: one row a case, one column a modality, and `label`, `patient`, `labelled` where known.

A cell holds the path of a file; `BRATS_001.nii.gz#2` is frame 2, counted from 0, of a 4-D file.
`labelled` names the classes that were drawn in the label, joined by +; an empty cell says all. The patient's column may
be called patient_id, subject, subject_id or participant_id too.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maml_toolkit.data.case import Case, composed, facts_of
from maml_toolkit.data.layouts.contents import FORMATS
from maml_toolkit.data.layouts.found import Found, is_known, patient_of, resolved
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, collected

FILE = "cases.csv"
"""The table that `describe` leaves in its folder."""

ENDINGS = (".csv", ".tsv")
"""How the names of tables end."""

WHOSE = {"patientid", "subject", "subjectid", "participantid"}
"""Letters of what tables call the column of the patient."""

FRAME = re.compile(r"(.+\.nii(?:\.gz)?)#(\d+)", re.IGNORECASE)
"""A cell with a frame of a 4-D file."""


@dataclass(frozen=True)
class Rows:
    """The cells of a table.

    Attributes:
        columns: their names in lower case, that of the cases' ids among them.
        rows: as long as the columns, or not.
        id: the name of the column of the ids.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    id: str

    def images(self, task: Task) -> list[str]:
        """The columns of modalities and labels: of a known name, or with images in them.

        Columns of something else (age, site) may stand in a table too.
        """
        whole = [row for row in self.rows if len(row) == len(self.columns)]
        return [column for index, column in enumerate(self.columns)
                if column not in (self.id, "patient", "labelled")
                and (is_known(column, task) or any(_is_image(row[index]) for row in whole))]


def read(path: Path) -> Rows:
    """The cells of a table of cases.

    Raises:
        DataError: the table cannot be understood.
    """
    named, rows = tables.read_rows(path)
    columns = [name.lower() for name in named]
    id = next((name for name in ("case", "id") if name in columns), None)
    if id is None or len(set(columns)) < len(columns):
        raise DataError(f"found the columns {columns}, expected each once, and one called 'case'",
                        "Name the columns so, separated by commas, semicolons or tabs.", path=path)
    whose = next((name for name in columns if re.sub(r"[\W_]", "", name) in WHOSE), None)
    return Rows(path, ["patient" if name == whose and "patient" not in columns else name for name in columns], rows, id)


def facts(table: Rows) -> dict[str, dict[str, str | None]]:
    """Case -> its patient and what was drawn, as a `Case` takes them."""
    rows = (dict(zip(table.columns, cells, strict=False)) for cells in table.rows if any(cells))
    return {(id := composed(row.get(table.id, ""))): {"patient": row.get("patient") or patient_of(id),
                                                      "labelled": row.get("labelled") or None} for row in rows}


def find(table: Rows, found: Found) -> None:
    """Add the cases of a table, whose relative paths start at its own folder; a column of images needs a known name."""
    folder, names = table.path.parent, dict.fromkeys(table.images(found.task))
    for column in names:
        with collected(found.problems, path=table.path):
            resolved(column, found.task)
            names[column] = column
    for number, cells in enumerate(table.rows, start=2):
        row = {column: composed(cell) if column == table.id else cell
               for column, cell in zip(table.columns, cells, strict=False) if cell}
        with collected(found.problems, row.get(table.id, f"in row {number}"), table.path):
            if any(cells):
                if len(cells) != len(table.columns):
                    raise DataError(f"found {len(cells)} cells in the row, expected {len(table.columns)}",
                                    "Leave cells empty, not out; quote cells that hold commas.")
                if table.id not in row:
                    raise DataError("found a row without a case id", "Give the case a name.")
                sources = [(_source(folder, row[column]), name) for column, name in names.items() if column in row]
                there = [one for one in sources if _is_there(one[0], row[table.id], found.problems, table.path)]
                found.add(row[table.id], there, row.get("patient"), labelled=row.get("labelled"))


def _is_there(source: Source, case: str, problems: list[DataError], table: Path) -> bool:
    path = path_of(source)
    if path.exists() or path.is_symlink():
        return True
    problems.append(DataError("the file does not exist", f"Correct the path in {table}, or run prepare again where the "
                              "files are now; leave the cell of a missing scan empty.", case=case, path=path))
    return False


def _is_image(cell: str) -> bool:
    return ".nii" in cell.lower() or Path(cell).suffix.lower() in FORMATS


def _source(folder: Path, cell: str) -> Source:
    frame = FRAME.fullmatch(cell)
    return Frame(folder / frame[1], int(frame[2])) if frame else folder / cell


def _cell(source: Source) -> str:
    # separators that every system reads
    return f"{source.path.as_posix()}#{source.index}" if isinstance(source, Frame) else source.as_posix()


def file_of(case: Case, part: str, task: Task) -> str:
    """Where a modality, or the "label", of a case is written."""
    return f"images/{case.id}/{part}.nii.gz"


def describe(cases: Sequence[Case], folder: Path, task: Task) -> None:
    """Write `cases.csv`, with relative paths."""
    write_rows([Case.from_files(case.id, {part: file_of(case, part, task) for part in case.files}, case.patient,
                                case.labelled) for case in cases], folder / FILE, task)


def write_rows(cases: Iterable[Case], path: Path, task: Task) -> None:
    """Write the table alone, with the paths of the cases as they are."""
    cases = list(cases)
    partly = ["labelled"] if any(case.labelled for case in cases) else []
    tables.write(path, ({"case": case.id, **facts_of(case),
                         **{part: _cell(file) for part, file in case.files.items()}} for case in cases),
                 ["case", "patient", *task.modalities, "label", *partly])

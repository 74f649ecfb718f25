"""The table between the scanner and the data set: what was found, what it may be, and what a person says it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from maml_toolkit.data.tasks import Task
from maml_toolkit.dicom.series import Series
from maml_toolkit.dicom.suggestions import suggested
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError

COLUMNS = ("series", "case", "patient", "kind", "description", "seconds", "slices", "spacing_mm", "size", "problem",
           "suggested", "modality")

_READ = ("series", "case", "patient", "modality")


@dataclass(frozen=True)
class Confirmed:
    """A row that a person has filled in.

    Attributes:
        series: name.
        modality: the task's own name.
    """

    series: str
    case: str
    patient: str | None
    modality: str


def write_series_table(series: Sequence[Series], path: str | Path, task: Task) -> None:
    """List series in a .csv table, in which a person then fills in the column `modality`.

    `suggested` is what the words and the order of the series hint at; `convert` does not look at it. `case` and
    `patient` are pseudonyms and may be changed. `seconds` count from the first series of the case. Dates, names and
    ids are left out, and taken out of `description` where the header names them: still, read that column before you
    pass the table on.

    Raises:
        DataError: there is such a file already, in which somebody may have filled in something; or it cannot be
            written.
    """
    path = Path(path)
    if path.exists():
        raise DataError("there is such a file already", "Choose another name; what a person filled in is never "
                        "overwritten.", path=path)
    hints = suggested(series, task)
    rows = [dict(zip(COLUMNS, _row(one, hints[one.name]), strict=True)) for one in series]
    try:
        tables.write(path, rows, COLUMNS, for_excel=True)
    except OSError as error:
        raise DataError(f"the table cannot be written ({error.strerror})", "Choose a folder that you may write.",
                        path=path) from error


def _row(series: Series, hint: str) -> tuple[str, ...]:
    spacing = "" if series.affine is None else _times(f"{mm:.4g}" for mm in nib.affines.voxel_sizes(series.affine))
    seconds = "" if series.seconds is None else f"{series.seconds:.0f}"
    text = series.description
    return (series.name, series.case, series.patient, series.kind, f"'{text}" if text[:1] in tuple("=+-@") else text,
            seconds, str(series.shape[2]), spacing, _times(map(str, series.shape)),
            "; ".join(error.problem for error in series.problems), hint, "")


def _times(numbers: Iterator[str]) -> str:
    return "x".join(numbers)


def read_confirmed(path: Path, task: Task) -> list[Confirmed]:
    """The rows in which a modality is filled in.

    Raises:
        DataError: the table cannot be understood, nothing is filled in, or everything that is wrong with its rows.
    """
    problems: list[DataError] = []
    confirmed = []
    for number, row in _rows(path):
        if not row["modality"]:
            continue
        try:
            confirmed.append(_confirmed(row, task))
        except DataError as error:
            problems.append(DataError(error.problem, error.remedy, case=row["case"] or f"in row {number}", path=path))
    problems += _contradictions(confirmed, path)
    if problems:
        raise DataError.together(problems)
    if not confirmed:
        raise DataError("no row has a modality, expected one for each series that is to be converted",
                        f"Fill in the column 'modality' with {', '.join(task.modalities)}; what is suggested is not "
                        "taken over by itself.", path=path)
    return confirmed


def _confirmed(row: dict[str, str], task: Task) -> Confirmed:
    if not row["series"] or not row["case"]:
        raise DataError("found a modality without the name of the series or of the case",
                        "Keep the columns series and case as they were written.")
    return Confirmed(row["series"], row["case"], row["patient"] or None, task.modality(row["modality"]))


def _contradictions(rows: Sequence[Confirmed], path: Path) -> Iterator[DataError]:
    series: set[str] = set()
    taken: dict[tuple[str, str], str] = {}
    patients: dict[str, str | None] = {}
    for row in rows:
        if row.series in series:
            yield DataError(f"found the series {row.series} twice", "Keep one of the rows.", case=row.case, path=path)
        elif (other := taken.setdefault((row.case, row.modality), row.series)) != row.series:
            yield DataError(f"found two series, {other} and {row.series}, expected one", "Fill in the better one; a "
                            "second examination is a case of its own.", case=row.case, modality=row.modality, path=path)
        elif patients.setdefault(row.case, row.patient) != row.patient:
            yield DataError("found two patients in one case, expected one", "Correct the column case or patient.",
                            case=row.case, path=path)
        series.add(row.series)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows by their number, with the columns that are read."""
    columns, rows = tables.read_rows(path, by_hand=True)
    if absent := [name for name in _READ if name not in columns]:
        raise DataError(f"found no column {', '.join(absent)}, expected {', '.join(_READ)}",
                        "Use the table that `write_series_table` wrote, and fill in its last column.", path=path)
    for number, row in enumerate(rows, start=2):
        cells = dict(zip(columns, row, strict=False))
        yield number, {name: cells.get(name, "") for name in _READ}

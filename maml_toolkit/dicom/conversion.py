"""From series to cases, through a table in which a person says which scan each series is.

Which modality a series may be is suggested, by the words of its description and by the order of contrast phases, and
never more than that: "t2_tirm_dark-fluid" is a FLAIR that says T2, and a late arterial phase may come second or third.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data.case import Case, Cases
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.data.tasks import PHASES, Task
from maml_toolkit.dicom.labels import labels_in
from maml_toolkit.dicom.series import Series, find_series, read_series
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, collected, counted, expect_none, few, unless

_READ = ("series", "case", "patient", "modality")

_BY_HAND = "Fill in the column modality of the table of series by hand."

MORE_SPECIFIC = (("flair", "t2"), ("t1ce", "t1"))
"""Where a description names both, it means the first."""


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


class Unread:
    """Voxels that are read when they are asked for and not kept, so that one volume at a time is held in memory.

    Args:
        read: gives them.
    """

    ndim, dtype = 3, np.dtype(np.float32)

    def __init__(self, shape: tuple[int, int, int], read: Callable[[], np.ndarray]):
        self.shape, self.read = shape, read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


def write_series_table(series: Sequence[Series], path: str | Path, task: Task,
                       modalities: Mapping[str, str] | None = None) -> None:
    """List series in a .csv table, in which a person then fills in the column `modality`.

    `suggested` is what the words and the order of the series hint at; `convert` does not look at it. `case` and
    `patient` are pseudonyms and may be changed. `seconds` count from the first series of the case. Dates, names and
    ids are left out, and taken out of `description` where the header names them: still, read that column before you
    pass the table on.

    Args:
        series: as `find_series` gives them.
        path: of the table.
        task: names the modalities.
        modalities: name of a series -> what to fill in; nothing when left out.

    Raises:
        DataError: there is such a file already, in which somebody may have filled in something; or it cannot be
            written.
    """
    path = Path(path)
    if path.exists():
        raise DataError("there is such a file already", "Choose another name; nothing is overwritten.", path=path)
    hints = _suggested(series, task)
    with unless("the table cannot be written", "Choose a folder that you may write.", path):
        tables.write(path, [_row(one, hints[one.name]) | {"modality": (modalities or {}).get(one.name, "")}
                            for one in series], for_excel=True)


def only_candidates(series: Sequence[Series], task: Task) -> dict[str, str]:
    """Name of a series -> its modality, where every modality that the cases have has exactly one candidate.

    Raises:
        DataError: all that is ambiguous, together: two series that may be one modality; one whose only series has a
            problem; a CT without a phase in its name beside a phase that is not found; a case without any candidate.
    """
    hints, problems = _suggested(series, task), list[DataError]()
    for case in sorted({one.case for one in series}):
        own = [one for one in series if one.case == case]
        unnamed = [one for one in own if one.kind == "CT" and not one.problems and not hints[one.name]]
        if not any(hints[one.name] for one in own):
            problems.append(DataError("found no series that says which modality it is", _BY_HAND, case=case))
        for modality in task.modalities:
            with collected(problems, case, modality=modality):
                named = [one for one in own if hints[one.name] == modality]
                faulty = [one for one in own if one.problems and _by_words(one, task) == modality]
                may_be = named or faulty or (unnamed if task.intensities[modality] == "ct" else [])
                if len(may_be) > 1 or may_be != named:
                    listed = few([f"{one.name} ({one.description or 'no description'}, {one.shape[2]} slices"
                                  + "".join(f"; {error.problem}" for error in one.problems) + ")" for one in may_be])
                    raise DataError(f"found {counted(len(may_be), 'series', 'series')} that may be it, expected one "
                                    f"that says so and has no problem: {listed}", _BY_HAND)
    expect_none(problems)
    return {name: modality for name, modality in hints.items() if modality}


def confirmed(series: Sequence[Series], table: str | Path, task: Task) -> dict[str, dict[str, Series]]:
    """Case -> modality -> the series to which a person gave it, in the task's order.

    Raises:
        DataError: nothing in the table is confirmed, it contradicts itself, or a series is gone or has a problem; all
            together.
    """
    return _chosen(_confirmed(Path(table), task), series, task)


def _chosen(rows: Sequence[Confirmed], series: Sequence[Series], task: Task) -> dict[str, dict[str, Series]]:
    """What `confirmed` gives, from the rows of the table."""
    known, problems = {one.name: one for one in series}, list[DataError]()
    found: dict[str, dict[str, Series]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row.case, task.modalities.index(row.modality))):
        with collected(problems, row.case, modality=row.modality):
            if row.series not in known:
                raise DataError(f"the series {row.series} of the table is not among those that were found, or its "
                                "files are others now", "Write the table again, and fill it in.")
            known[row.series].check()
            found[row.case][row.modality] = known[row.series]
    expect_none(problems)
    return dict(found)


def expect_elsewhere(out: Path, folder: Path) -> None:
    """Nothing, if a folder to write lies outside of the one that is only read.

    Raises:
        DataError: it does not.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"the folder lies in {folder}, which is only read", "Choose a folder elsewhere.", path=out)


def convert(folder: str | Path, table: str | Path, out: str | Path, task: Task, *, labels: str | Path | None = None,
            names: Mapping[str, str] | None = None, series: Sequence[Series] | None = None) -> Cases:
    """Write the series to which a person gave a modality as NIfTI, and a table of cases with pseudonyms of patients.

    Nothing of the patient's identity is written: no name, id, date, institution or UID. The images of a case keep
    their own grids, which differ between phases. One volume at a time is held in memory.

    Args:
        folder: of the DICOM files; it is only read.
        table: written by `write_series_table`, with the column `modality` filled in.
        out: a new or empty folder outside the other one; gets `cases.csv` and `images/<case>/<modality>.nii.gz`.
        task: names the modalities.
        labels: a DICOM SEG or RTSTRUCT, or a folder with some, which become the labels of the cases on whose series
            they were drawn (`labels.read_label`).
        names: name of a segment or ROI -> the class that it is; "" for one that is none.
        series: those of the folder, where they were found already.

    Returns:
        The cases that were written, as `find_cases(out / "cases.csv", task)` finds them.

    Raises:
        DataError: nothing in the table is confirmed, it contradicts itself, or a series is gone or has a problem; all
            together. Nothing is left in `out` then.
        ImportError: pydicom is not installed.
    """
    folder, table, out = Path(folder), Path(table), Path(out)
    expect_elsewhere(out, folder)
    rows = _confirmed(table, task)
    patients = {row.case: row.patient for row in rows}
    found = _chosen(rows, find_series(folder) if series is None else series, task)
    drawn = {} if labels is None else labels_in(labels, found, task, names)
    cases = [Case(case, {modality: image_of(one) for modality, one in own.items()}, patient=patients[case],
                  label=nib.Nifti1Image(drawn[case].array, drawn[case].affine) if case in drawn else None)
             for case, own in found.items()]
    return find_cases(write_cases(cases, out, "table", task), task)


def image_of(series: Series) -> nib.Nifti1Image:
    """A series as an image, whose voxels are read when they are asked for and not kept."""
    return nib.Nifti1Image(Unread(series.shape, lambda: read_series(series).array), series.affine)


def _row(series: Series, hint: str) -> dict[str, Any]:
    sizes = [] if series.affine is None else nib.affines.voxel_sizes(series.affine)
    text = series.description
    return {"series": series.name, "case": series.case, "patient": series.patient, "kind": series.kind,
            "description": f"'{text}" if text[:1] in tuple("=+-@") else text,        # to Excel these begin a formula
            "seconds": "" if series.seconds is None else f"{series.seconds:.0f}", "slices": series.shape[2],
            "spacing_mm": "x".join(f"{mm:.4g}" for mm in sizes), "size": "x".join(map(str, series.shape)),
            "problem": "; ".join(error.problem for error in series.problems), "suggested": hint}


def _confirmed(path: Path, task: Task) -> list[Confirmed]:
    """The rows in which a modality is filled in.

    Raises:
        DataError: the table cannot be understood, nothing is filled in, or everything that is wrong with its rows.
    """
    columns, rows = tables.read_rows(path)
    if absent := [name for name in _READ if name not in columns]:
        raise DataError(f"found no column {', '.join(absent)}, expected {', '.join(_READ)}",
                        "Use the table that `write_series_table` wrote, and fill in its last column.", path=path)
    problems: list[DataError] = []
    confirmed: list[Confirmed] = []
    for number, cells in enumerate(rows, start=2):
        row = dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))
        with collected(problems, row["case"] or f"in row {number}", path):
            if row["modality"]:
                if not row["series"] or not row["case"]:
                    raise DataError("found a modality without the name of the series or of the case",
                                    "Keep the columns series and case as they were written.")
                one = Confirmed(row["series"], row["case"], row["patient"] or None, task.modality(row["modality"]))
                confirmed.append(one)
                _expect_agreement(one, confirmed[:-1])
    expect_none(problems)
    if not confirmed:
        raise DataError("no row has a modality, expected one for each series that is to be converted",
                        f"Fill in the column 'modality' with {', '.join(task.modalities)}; what is suggested is not "
                        "taken over by itself.", path=path)
    return confirmed


def _expect_agreement(row: Confirmed, earlier: Sequence[Confirmed]) -> None:
    """Raise what contradicts a row above it."""
    for other in earlier:
        if other.series == row.series:
            raise DataError(f"found the series {row.series} twice", "Keep one of the rows.")
        if (other.case, other.modality) == (row.case, row.modality):
            raise DataError(f"found two series, {other.series} and {row.series}, expected one", "Fill in the better "
                            "one; a second examination is a case of its own.", modality=row.modality)
        if other.case == row.case and other.patient != row.patient:
            raise DataError("found two patients in one case, expected one", "Correct the column case or patient.")


def _suggested(series: Sequence[Series], task: Task) -> dict[str, str]:
    """By the name of each series, a modality of the task, or nothing where neither words nor order say it."""
    found = {one.name: "" if one.problems else _by_words(one, task) for one in series}
    for case in {one.case for one in series}:
        found |= _by_order([one for one in series if one.case == case and one.kind == "CT" and not one.problems],
                           found, task)
    return found


def _by_words(series: Series, task: Task) -> str:
    words = re.findall(r"[^\W_]+", series.description.lower())
    words += [one + other for one, other in itertools.pairwise(words)]      # "T1 CE", "portal-venous"
    named = {name for word in words if (name := _known(word, task)) and task.intensities[name] == series.kind.lower()}
    for specific, general in MORE_SPECIFIC:
        if _known(specific, task) in named:
            named.discard(_known(general, task))
    if series.has_contrast and _known("t1ce", task) and named == {_known("t1", task)}:
        named = {_known("t1ce", task)}
    return named.pop() if len(named) == 1 else ""


def _known(word: str, task: Task) -> str | None:
    try:
        return task.modality(word)
    except DataError:
        return None


def _by_order(series: Sequence[Series], found: dict[str, str], task: Task) -> dict[str, str]:
    """The phases that no words name, if as many acquisitions are left and all then lie in the order of scanning."""
    phases = [name for names in PHASES.values() for name in task.modalities
              if name.lower() in names and task.intensities[name] == "ct"]
    absent = [name for name in phases if name not in found.values()]
    unnamed = [one for one in series if not found[one.name]]
    times = [one.seconds for one in series]
    if not absent or len(unnamed) != len(absent) or None in times or len(set(times)) < len(times):
        return {}
    filled = dict(zip((one.name for one in sorted(unnamed, key=lambda one: one.seconds)), absent, strict=True))
    order = [{**found, **filled}[one.name] for one in sorted(series, key=lambda one: one.seconds)]
    return filled if order == phases else {}

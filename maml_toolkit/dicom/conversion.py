"""From DICOM series and a table that a person has filled in to cases that the rest of the package reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data.cases import Case, find_cases, write_cases
from maml_toolkit.data.tasks import Task
from maml_toolkit.dicom.confirmation import Confirmed, read_confirmed
from maml_toolkit.dicom.series import Series, find_series, read_series
from maml_toolkit.system.errors import DataError


def convert(folder: str | Path, table: str | Path, out: str | Path, task: Task) -> list[Case]:
    """Write the series to which a person gave a modality as NIfTI, and a table of cases with pseudonyms of patients.

    Nothing of the patient's identity is written: no name, id, date, institution or UID. The images of a case keep
    their own grids, which differ between phases. One volume at a time is held in memory.

    Args:
        folder: of the DICOM files; it is only read.
        table: written by `write_series_table`, with the column `modality` filled in.
        out: a new or empty folder outside the other one; gets `cases.csv` and `images/<case>/<modality>.nii.gz`.
        task: names the modalities.

    Returns:
        The cases that were written, as `find_cases(out / "cases.csv", task)` finds them.

    Raises:
        DataError: nothing in the table is confirmed, it contradicts itself, or a series is gone or has a problem; all
            together. Nothing is left in `out` then.
        ImportError: pydicom is not installed.
    """
    folder, table, out = Path(folder), Path(table), Path(out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"the folder lies in {folder}, which is only read", "Choose a folder elsewhere.", path=out)
    rows = read_confirmed(table, task)
    found = {series.name: series for series in find_series(folder)}
    if problems := [*_unusable(rows, found, folder)]:
        raise DataError.together(problems)
    return find_cases(write_cases(_cases(rows, found, task), out, "table", task), task)


def _unusable(rows: Sequence[Confirmed], found: Mapping[str, Series], folder: Path) -> Iterator[DataError]:
    for row in rows:
        if row.series not in found:
            yield DataError(f"the series {row.series} of the table is not in {folder}, or its files are others now",
                            "Write the table again, and fill it in.", case=row.case, modality=row.modality)
            continue
        for error in found[row.series].problems:
            yield DataError(error.problem, error.remedy, case=row.case, modality=row.modality, path=error.path)


def _cases(rows: Sequence[Confirmed], found: Mapping[str, Series], task: Task) -> list[Case]:
    images: dict[str, dict[str, nib.Nifti1Image]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: task.modalities.index(row.modality)):
        series = found[row.series]
        images[row.case][row.modality] = nib.Nifti1Image(_Voxels(series), series.affine)
    patients = {row.case: row.patient for row in rows}
    return [Case(case, images[case], patient=patients[case]) for case in sorted(images)]


class _Voxels:
    """The voxels of a series, which are read when they are asked for and not kept."""

    dtype = np.dtype(np.float32)

    def __init__(self, series: Series):
        self.series, self.shape, self.ndim = series, series.shape, len(series.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = read_series(self.series).array
        return array if dtype is None else array.astype(dtype)

"""CHAOS as it is published, DICOM slices and a PNG label for each, converted once into one folder a case.

    CT/<id>/DICOM_anon/*.dcm                           CT/<id>/Ground/*.png
    MR/<id>/T1DUAL/DICOM_anon/{InPhase,OutPhase}/*.dcm MR/<id>/T1DUAL/Ground/*.png
    MR/<id>/T2SPIR/DICOM_anon/*.dcm                    MR/<id>/T2SPIR/Ground/*.png

T1DUAL and T2SPIR of a patient are two scans on two grids with a label each, so they are two data sets. A label belongs
to the slice that has its place among the sorted file names; where the slice lies, its header says.

References:
    A. E. Kavur et al. CHAOS Challenge - combined (CT-MR) healthy abdominal organ segmentation. Medical Image
    Analysis, 2021. https://doi.org/10.1016/j.media.2020.101950
"""

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from maml_toolkit.data.cases import Case, write_cases
from maml_toolkit.data.layouts.contents import is_ignored, visible
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.data.volumes import grid_difference
from maml_toolkit.dicom.conversion import Unread, image_of
from maml_toolkit.dicom.series import Series, find_series
from maml_toolkit.system.errors import DataError, collected, expect_none, expect_one_of

PARTS = {
    "CT": ("CT", "", {"venous": "DICOM_anon"}),
    "T1DUAL": ("MR", "T1DUAL", {"in_phase": "DICOM_anon/InPhase", "out_phase": "DICOM_anon/OutPhase"}),
    "T2SPIR": ("MR", "T2SPIR", {"t2spir": "DICOM_anon"}),
}
"""Part -> CT or MR, the folder of the scan in that of the patient, and where the modalities are in it."""

GREYS = {
    "CT": {"liver": (255, 255)},
    "MR": {"liver": (55, 70), "right kidney": (110, 135), "left kidney": (175, 200), "spleen": (240, 255)},
}
"""The lowest and the highest grey value of each organ."""


def convert(folder: str | Path, out: str | Path, part: str = "CT") -> Path:
    """Write a part of CHAOS as NIfTI, one folder a case.

    `find_cases` finds it with the task "chaos_ct", "chaos_t1dual" or "chaos_t2spir". Cases are called CT_<id> or
    MR_<id>; those of the test set have no label.

    Args:
        folder: Train_Sets or Test_Sets, which holds CT and MR.
        out: a new or empty folder; on an error nothing is left in it.
        part: "CT", "T1DUAL" or "T2SPIR".

    Raises:
        DataError: everything that is wrong with the scans, together; or none was found.
        ValueError: an unknown part.
        ImportError: pydicom is not installed.
    """
    expect_one_of("part", part, PARTS)
    kind, scan, places = PARTS[part]
    listed = visible(Path(folder) / kind) if (Path(folder) / kind).is_dir() else []
    patients = [path for path in listed if path.is_dir() or not is_ignored(path)]
    if not any((path / scan / "DICOM_anon").is_dir() for path in patients):
        raise DataError(f"found no {Path('<id>') / scan / 'DICOM_anon'}, expected one for each patient",
                        "Give the folder Train_Sets or Test_Sets of CHAOS.", path=Path(folder) / kind)
    problems: list[DataError] = []
    cases = []
    for patient in patients:
        id = f"{kind}_{patient.name}"
        with collected(problems, id, patient / scan):
            if not (patient / scan / "DICOM_anon").is_dir():
                raise DataError(f"found no folder {scan or patient.name}/DICOM_anon, expected one for each patient",
                                f"Copy the scan again from where it came from, or move {patient.name} away.")
            cases.append(_case(id, patient / scan, places, part))
    expect_none(problems)
    return write_cases(cases, Path(out), "folders", TASKS[f"chaos_{part.lower()}"])


def _case(id: str, scan: Path, places: Mapping[str, str], part: str) -> Case:
    """A scan whose voxels are not read yet, all modalities on the one grid of the label."""
    series = {name: _only_series(scan / place) for name, place in places.items()}
    first, *_ = series.values()
    for name, one in series.items():
        if difference := grid_difference(first.frame, one.frame):
            raise DataError(f"{difference}; expected one grid for {next(iter(series))} and {name}, which share a label",
                            "Copy the scan again from where it came from.", modality=name, path=scan / places[name])
    label = _label(scan / "Ground", first, part) if (scan / "Ground").is_dir() else None
    return Case(id, {name: image_of(one) for name, one in series.items()}, label)


def _only_series(folder: Path) -> Series:
    series = find_series(folder)
    if len(series) != 1:
        raise DataError(f"found {len(series)} volumes, expected one", "Move away the files of the others.", path=folder)
    series[0].check()
    return series[0]


def _label(folder: Path, series: Series, part: str) -> nib.Nifti1Image:
    pictures = [path for path in visible(folder) if path.suffix.lower() == ".png"]
    if len(pictures) != len(series.files):
        raise DataError(f"found {len(pictures)} labels, expected one for each of {len(series.files)} slices",
                        "Copy the scan again from where it came from.", modality="label", path=folder)
    by_file = dict(zip(sorted(series.files, key=lambda path: path.name), pictures, strict=True))
    return nib.Nifti1Image(Unread(series.shape, lambda: np.stack(
        [_classes(by_file[file], series.shape[:2], part) for file in series.files], axis=-1)), series.affine)


def _classes(path: Path, shape: tuple[int, int], part: str) -> np.ndarray:
    """The label values of one slice, (columns, rows)."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            greys = np.asarray(picture.convert("L")).T
    except (OSError, SyntaxError) as error:
        raise DataError(f"the picture cannot be read ({error})", "Copy the file again from where it came from.",
                        modality="label", path=path) from error
    labels, organs = TASKS[f"chaos_{part.lower()}"].labels, GREYS[PARTS[part][0]]
    classes = np.zeros(greys.shape, np.uint8)
    for name, (lowest, highest) in organs.items():
        classes[(greys >= lowest) & (greys <= highest)] = labels[name][0]
    if greys.shape != shape or (greys[classes == 0] != 0).any():
        other = np.unique(greys[(classes == 0) & (greys != 0)])
        raise DataError(f"found the size {greys.shape} and the grey values {other.tolist()}, expected {shape} and "
                        f"those of {organs}", "Copy the file again.", modality="label", path=path)
    return classes

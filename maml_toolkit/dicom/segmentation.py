"""A label map as DICOM SEG, which a PACS or a viewer opens beside the series it was drawn on.

References:
    C. P. Bridge et al. Highdicom: a Python library for standardized encoding of image annotations. J Digit Imaging,
    2022. https://doi.org/10.1007/s10278-022-00683-y
    DICOM PS3.3, A.51 Segmentation IOD. https://dicom.nema.org/medical/dicom/current/output/chtml/part03/
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations

import maml_toolkit
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume, corner_distance_mm, grid_difference
from maml_toolkit.dicom.findings import Finding, described, findings
from maml_toolkit.dicom.headers import library, opened, unquoted
from maml_toolkit.dicom.series import Series
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import write_whole

DESCRIPTION = "research use only"

_LINKS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
          "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "LossyImageCompression")

_IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
             "StudyTime", "ReferringPhysicianName")


def write_segmentation(path: str | Path, label: Volume, series: Series, task: Task, *, method: str = "maml_toolkit",
                       keep_identity: bool = False) -> None:
    """Write a label map as DICOM SEG: one binary segment a foreground class, even where that is empty.

    By default the patient's name, id, birth date and sex, the study's date and its accession number are left blank.
    The UIDs of study, series and images must stay, or nothing would open beside the source: whoever has that archive
    can find the patient by them, so the file is pseudonymous, not anonymous.

    Args:
        label: the values of the task's label files, on the grid of the series as `read_series` and `convert` give it;
            its axes may be swapped or flipped. From a prediction: `Volume(prediction.labels, prediction.affine)`.
        series: that it was drawn on.
        task: names the segments, whose numbers are those of the classes, and says what they are (`Task.codes`).
        method: name of the algorithm.
        keep_identity: copy patient and study from the source, which a PACS needs to file it with the patient. Only
            for files that stay where the source lies.

    Warns:
        DataWarning: a class that the task does not code, and whose name says nothing.

    Raises:
        DataError: the series has problems, the label lies on another grid or holds other values, the source has no
            frame of reference or has changed, or the file cannot be written.
        ImportError: highdicom is not installed.
    """
    highdicom = library("highdicom")
    series.check()
    classes = task.encode(_on_grid(label, series))
    coded = findings(task)
    with unquoted():
        sources = [_source(file, keep_identity) for file in series.files]
        planes = np.ascontiguousarray(classes.transpose(2, 1, 0))
        content = _encoded(highdicom, sources, planes, series, task, coded, method)
    try:
        write_whole(Path(path), content)
    except OSError as error:
        raise DataError(f"the file cannot be written ({error.strerror})", "Choose a folder that you may write.",
                        path=path) from error


def _on_grid(label: Volume, series: Series) -> np.ndarray:
    """The label with the axes of the series."""
    way = orientations.io_orientation(np.linalg.inv(series.affine) @ label.affine)
    turned = Volume(orientations.apply_orientation(label.array, way),
                    label.affine @ orientations.inv_ornt_aff(way, label.shape))
    wanted = Volume(np.broadcast_to(np.uint8(0), series.shape), series.affine)
    if difference := grid_difference(turned, wanted):
        distance = corner_distance_mm(series.shape, turned.affine, series.affine)
        raise DataError(f"the label lies on another grid than the series: {difference} (a box of the series' shape "
                        f"would have corners {distance:.4g} mm apart)",
                        "Give the series that the label was drawn on, or resample the label to its grid.")
    return turned.array


def _source(path: Path, keep_identity: bool) -> Any:
    """The header of a slice: all of it, or what links to it and says nothing of the patient."""
    try:
        source = opened(path, stop_before_pixels=True, specific_tags=None if keep_identity else [*_LINKS])
    except Exception as error:
        raise DataError(f"the header cannot be read ({type(error).__name__})", "Find the series again.",
                        path=path) from None
    if not keep_identity and "SpecificCharacterSet" in source:
        del source.SpecificCharacterSet
    if not source.get("FrameOfReferenceUID"):
        raise DataError("FrameOfReferenceUID is missing, expected one: a segmentation cannot be laid over this series",
                        "Export the series again, unprocessed.", path=path)
    for name in _IDENTITY:
        value = source.get(name)
        setattr(source, name, None if value is None else str(value))
    return source


def _encoded(highdicom: Any, sources: Sequence[Any], planes: np.ndarray, series: Series, task: Task,
             coded: Sequence[Finding], method: str) -> bytes:
    """The bytes of the file; planes (slices, rows, columns) hold classes."""
    content = io.BytesIO()
    for source in sources:                             # of the positions, not what the header claims
        source.SliceThickness = source.SpacingBetweenSlices = round(float(np.linalg.norm(series.affine[:3, 2])), 6)
    highdicom.seg.Segmentation(
        source_images=sources, pixel_array=planes, segmentation_type="BINARY",
        segment_descriptions=_segments(highdicom, task, coded, method),
        series_instance_uid=highdicom.UID(), sop_instance_uid=highdicom.UID(), series_number=9000, instance_number=1,
        manufacturer="maml_toolkit", manufacturer_model_name="maml_toolkit",
        software_versions=maml_toolkit.__version__, device_serial_number="1", content_label="SEGMENTATION",
        content_description=DESCRIPTION, series_description=f"{task.name[:40]}: {DESCRIPTION}",
        omit_empty_frames=bool(planes.any()), specific_character_set="ISO_IR 192",
    ).save_as(content)
    return content.getvalue()


def _segments(highdicom: Any, task: Task, coded: Sequence[Finding], method: str) -> list[Any]:
    codes = library("pydicom.sr.codedict").codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        method, codes.cid7162.ArtificialIntelligence, maml_toolkit.__version__)
    return [described(highdicom, finding, number, name, algorithm)
            for number, (name, finding) in enumerate(zip(task.class_names[1:], coded, strict=True), start=1)]

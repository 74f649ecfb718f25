"""One DICOM file as one slice: where it lies, when it was taken, and what keeps its voxels from being used.

Who the patient is never leaves this module: names, ids and UIDs become digests, and what a description says of them is
replaced. Headers are read without their voxels, and what they warn of stays unsaid, since it quotes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maml_toolkit.dicom.headers import digest, numbers, opened, orientation, seconds, several, spacing_mm, unquoted
from maml_toolkit.dicom.identity import without_identity
from maml_toolkit.dicom.unusable import CLASSIC, DAMAGED, ENHANCED, problems
from maml_toolkit.system.errors import DataError

MARKS = ("EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber", "ImageType", "DiffusionBValue",
         "TriggerTime", "AcquisitionTime")
"""What can tell two acquisitions in one series apart."""

NOT_DICOM = "not DICOM"

_IMAGES = CLASSIC | ENHANCED

_DESCRIPTION = ("SeriesDescription", "ProtocolName", "ContrastBolusAgent")

_IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientBirthName", "OtherPatientNames", "OtherPatientIDs",
             "AccessionNumber", "StudyID", "StudyDate", "InstitutionName", "ReferringPhysicianName",
             "PerformingPhysicianName", "OperatorsName")

_TAGS = [*MARKS, *_DESCRIPTION, *_IDENTITY, "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID",
         "IssuerOfPatientID", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames",
         "PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
         "RescaleIntercept", "AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "SeriesTime", "ContentTime"]


@dataclass(frozen=True)
class Slice:
    """What the header of one file says.

    Attributes:
        uid, series, study, patient: digests.
        kind: CT, MR or PT.
        description: free text without the patient's identity.
        has_contrast: a contrast agent is named.
        rows, columns, frames: of the pixels.
        orientation: directions of a row and of a column (LPS), six cosines; None where not given.
        position: centre of the first voxel in mm (LPS); None where not given.
        spacing_mm: from row to row and from column to column; None where not given.
        seconds: when it was taken, on a clock of unknown zero; None where not given.
        marks: values of MARKS.
        is_scout: an overview from which the others were planned.
        problems: why its voxels cannot be used.
    """

    path: Path
    uid: str
    series: str
    study: str
    patient: str
    kind: str
    description: str
    has_contrast: bool
    rows: int
    columns: int
    frames: int
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    seconds: float | None
    marks: Mapping[str, str]
    is_scout: bool
    problems: tuple[DataError, ...]


def read_slice(path: Path) -> Slice | str:
    """The slice in a file, or what else the file is.

    Raises:
        DataError: it is a damaged DICOM file that does not even say which series it belongs to.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
            is_certain = start[128:] == b"DICM"
            if not is_certain and start[:2] != b"\x08\x00":         # the preamble may be left out
                return NOT_DICOM
            file.seek(0)
            header = opened(file, specific_tags=_TAGS, stop_before_pixels=True)
            pixels = file.read(12)
            left = path.stat().st_size - file.tell()
        with unquoted():
            return _slice(path, header, pixels, left, is_certain)
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})",
                        "Look at its permissions and at the disk.", path=path) from error
    except DataError:
        raise
    except Exception as error:                        # pydicom raises whatever the bytes lead it to
        if not is_certain:
            return NOT_DICOM
        raise DataError(f"the DICOM header is damaged ({type(error).__name__})", DAMAGED, path=path) from None


def _slice(path: Path, header: Any, pixels: bytes, left: int, is_certain: bool) -> Slice | str:
    classes = [*filter(None, (header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")))]
    sop_class = next((one for one in classes if one in _IMAGES), classes[0] if classes else None)
    if not sop_class and not is_certain:
        return NOT_DICOM
    if sop_class and sop_class not in _IMAGES:
        return sop_class.name if sop_class.name != str(sop_class) else "another kind of DICOM object"
    if not (sop_class and header.get("SeriesInstanceUID") and header.get("SOPInstanceUID")):
        raise DataError("the DICOM header is cut off before it says which series the file belongs to", DAMAGED,
                        path=path)
    study = str(header.get("StudyInstanceUID") or header.SeriesInstanceUID)
    image_type = "/".join(map(str, several(header.get("ImageType")))).upper()
    return Slice(
        path, digest(header.SOPInstanceUID), digest(header.SeriesInstanceUID), digest(study), _patient(header, study),
        _IMAGES[sop_class], _description(header), bool(header.get("ContrastBolusAgent")),
        int(header.get("Rows") or 0), int(header.get("Columns") or 0), int(header.get("NumberOfFrames") or 1),
        orientation(header), numbers(header, "ImagePositionPatient", 3), spacing_mm(header), seconds(header),
        {name: "/".join(map(str, several(header.get(name)))) for name in MARKS}, "LOCALIZER" in image_type,
        tuple(DataError(problem, remedy, path=path) for problem, remedy in problems(header, sop_class, pixels, left)))


def _patient(header: Any, study: str) -> str:
    for names in (("PatientID", "IssuerOfPatientID"), ("PatientName", "PatientBirthDate")):
        if header.get(names[0]):
            return digest(*(header.get(name, "") for name in names))
    return digest(study)


def _description(header: Any) -> str:
    texts = dict.fromkeys(" ".join(str(header.get(name) or "").split()) for name in _DESCRIPTION)
    identity = {name: [str(one) for one in several(header.get(name))] for name in _IDENTITY}
    return without_identity(" | ".join(filter(None, texts)), identity)

"""One DICOM file as one slice: where it lies, when it was taken, and what keeps its voxels from being used.

Who the patient is never leaves this module: names, ids and UIDs become digests, and what a description says of them is
replaced. Headers are read without their voxels, and what they warn of stays unsaid, since it quotes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maml_toolkit.dicom import headers
from maml_toolkit.dicom.headers import library, numbers, several
from maml_toolkit.system.errors import DataError

CLASSIC = {f"1.2.840.10008.5.1.4.1.1.{number}": kind for number, kind in (("2", "CT"), ("4", "MR"), ("128", "PT"))}
"""The SOP classes of images with one slice a file, and what took them."""

ENHANCED = {f"1.2.840.10008.5.1.4.1.1.{number}": kind for number, kind in (
    ("2.1", "CT"), ("2.2", "CT"), ("4.1", "MR"), ("4.3", "MR"), ("4.4", "MR"), ("128.1", "PT"), ("130", "PT"))}
"""Those with many."""

MARKS = ("EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber", "ImageType", "DiffusionBValue",
         "TriggerTime", "AcquisitionTime")
"""What can tell two acquisitions in one series apart."""

NOT_DICOM = "not DICOM"

DAMAGED = "Copy or export the file again from where it came from."

_UNPROCESSED = "Export the series again, unprocessed."

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
            header = headers.opened(file, specific_tags=_TAGS, stop_before_pixels=True)
            pixels = file.read(12)
            left = path.stat().st_size - file.tell()
        with headers.unquoted():
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
    images = CLASSIC | ENHANCED
    classes = [*filter(None, (header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")))]
    sop_class = next((one for one in classes if one in images), classes[0] if classes else None)
    if not sop_class and not is_certain:
        return NOT_DICOM
    if sop_class and sop_class not in images:
        return sop_class.name if sop_class.name != str(sop_class) else "another kind of DICOM object"
    if not (sop_class and header.get("SeriesInstanceUID") and header.get("SOPInstanceUID")):
        raise DataError("the DICOM header is cut off before it says which series the file belongs to", DAMAGED,
                        path=path)
    study = str(header.get("StudyInstanceUID") or header.SeriesInstanceUID)
    image_type = "/".join(map(str, several(header.get("ImageType")))).upper()
    return Slice(
        path, headers.digest(header.SOPInstanceUID), headers.digest(header.SeriesInstanceUID), headers.digest(study),
        _patient(header, study), images[sop_class], _description(header), bool(header.get("ContrastBolusAgent")),
        int(header.get("Rows") or 0), int(header.get("Columns") or 0), int(header.get("NumberOfFrames") or 1),
        headers.orientation(header), numbers(header, "ImagePositionPatient", 3), headers.spacing_mm(header),
        headers.seconds(header),
        {name: "/".join(map(str, several(header.get(name)))) for name in MARKS}, "LOCALIZER" in image_type,
        tuple(DataError(problem, remedy, path=path) for problem, remedy in _problems(header, sop_class, pixels, left)))


def _patient(header: Any, study: str) -> str:
    for names in (("PatientID", "IssuerOfPatientID"), ("PatientName", "PatientBirthDate")):
        if header.get(names[0]):
            return headers.digest(*(header.get(name, "") for name in names))
    return headers.digest(study)


def _description(header: Any) -> str:
    texts = dict.fromkeys(" ".join(str(header.get(name) or "").split()) for name in _DESCRIPTION)
    identity = {name: [str(one) for one in several(header.get(name))] for name in _IDENTITY}
    return headers.without_identity(" | ".join(filter(None, texts)), identity)


def _problems(header: Any, sop_class: str, pixels: bytes, left: int) -> Iterator[tuple[str, str]]:
    """What is wrong with a slice as far as its header and the size of its file tell, and what to do about it.

    Args:
        pixels: the first bytes of the element with the voxels.
        left: how many bytes follow in the file.
    """
    colours = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if sop_class in ENHANCED or int(header.get("NumberOfFrames") or 1) > 1:
        yield ("an enhanced multi-frame object, expected one slice a file; those are not supported",
               "Convert it with dcm2niix and give the NIfTI files, or ask for a classic export at the scanner.")
        return
    if int(header.get("SamplesPerPixel") or 1) > 1 or not colours.startswith("MONOCHROME"):
        yield ("a colour image, expected one number a voxel",
               "Leave it out; it is made to be looked at. Find the series that it was made from.")
        return
    names = [name for name, value in (("ImagePositionPatient", numbers(header, "ImagePositionPatient", 3)),
                                      ("ImageOrientationPatient", headers.orientation(header))) if value is None]
    if names:
        yield (f"{' and '.join(names)} missing or not usable: where the slice lies is not known",
               f"{_UNPROCESSED} A file name or a slice number tells no position.")
    if headers.spacing_mm(header) is None:
        yield "PixelSpacing missing, expected the distance of rows and columns in mm", _UNPROCESSED
    names = [name for name in ("RescaleSlope", "RescaleIntercept") if numbers(header, name, 1) is None]
    if CLASSIC[sop_class] == "CT" and names:
        yield f"{' and '.join(names)} missing, expected the way to Hounsfield units", _UNPROCESSED
    yield from _of_voxels(header, pixels, left)


def _of_voxels(header: Any, pixels: bytes, left: int) -> Iterator[tuple[str, str]]:
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
        return                                         # the header is compressed with the voxels
    if not pixels:
        yield "there are no voxels behind the header", DAMAGED
    elif syntax.is_compressed:
        yield from _undecodable(syntax)
    else:
        expected = (int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
                    * int(header.get("BitsAllocated") or 16) // 8)
        length = pixels[4:8] if syntax.is_implicit_VR else pixels[8:12]
        left += 4 * syntax.is_implicit_VR
        there = min(int.from_bytes(length, "little" if syntax.is_little_endian else "big"), left)
        if not expected or there < expected:
            yield f"the voxels are cut off: found {there} bytes, expected {expected}", DAMAGED


def _undecodable(syntax: Any) -> Iterator[tuple[str, str]]:
    try:
        decoder = library("pydicom.pixels").get_decoder(syntax)
    except NotImplementedError:
        yield "the voxels are compressed in a way that pydicom does not know", "Export the series uncompressed."
        return
    if not decoder.is_available:
        packages = re.findall(r"pylibjpeg-\w+|gdcm", " ".join(decoder.missing_dependencies))
        wanted = next((f"pylibjpeg {name}" for name in packages if name != "gdcm"), "python-gdcm")
        yield (f"the voxels are compressed ({syntax.name}) and no decoder for them is installed",
               f"pip install {wanted}; or export the series uncompressed.")

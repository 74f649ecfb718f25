"""The header of a DICOM file: one slice, where it lies, when it was taken, and what keeps its voxels from being used.

Who the patient is never leaves this module: names, ids and UIDs become digests, and what a description says of them is
taken out (identity.py). Headers are read without their voxels, and what they warn of stays unsaid: it quotes them.
"""

import datetime
import importlib
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, MutableSequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.dicom.identity import IDENTITY, digest, without_identity
from maml_toolkit.system.errors import DataError, silenced, unless, with_extra

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

_TAGS = [*MARKS, *_DESCRIPTION, *IDENTITY, "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID",
         "IssuerOfPatientID", "FrameOfReferenceUID", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated",
         "NumberOfFrames", "PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient",
         "PixelSpacing", "RescaleSlope", "RescaleIntercept", "AcquisitionDate", "AcquisitionDateTime", "SeriesDate",
         "SeriesTime", "ContentTime"]


def library(name: str) -> Any:
    """A module of pydicom or highdicom.

    Raises:
        ImportError: they are not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"DICOM needs {name.partition('.')[0]}: {with_extra('dicom')}") from error


@contextmanager
def unquoted() -> Iterator[None]:
    """Keeps what pydicom and highdicom warn of or log to itself, for they quote the header."""
    with silenced("pydicom", "highdicom", below=logging.CRITICAL + 1), warnings.catch_warnings(action="ignore"):
        yield


class Undecodable(DataError):
    """Bytes that pydicom makes nothing of."""


@contextmanager
def decoded(problem: str, remedy: str, path: Path | None = None) -> Iterator[None]:
    """Reads a file with pydicom, which raises whatever the bytes lead it to, and quotes the header in doing so.

    Raises:
        Undecodable: the problem, with the name of what pydicom raised.
        DataError: the file cannot be read, and why.
    """
    try:
        with unquoted(), unless("the file cannot be read", "Look at its permissions and at the disk.", path):
            yield
    except DataError:
        raise
    except Exception as error:
        raise Undecodable(f"{problem} ({type(error).__name__})", remedy, path=path) from None


def opened(source: Any, **settings: Any) -> Any:
    """The pydicom dataset of a file (a path, or open for reading), with a transfer syntax in any case."""
    with unquoted():
        dataset = library("pydicom").dcmread(source, force=True, **settings)
    if "TransferSyntaxUID" not in dataset.file_meta:
        uids = library("pydicom.uid")
        dataset.file_meta.TransferSyntaxUID = (
            uids.ImplicitVRLittleEndian if dataset.original_encoding[0] else uids.ExplicitVRLittleEndian)
    return dataset


def several(value: Any) -> list[Any]:
    """The values of an element that may hold none, one or many."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MutableSequence) else [value]


def numbers(header: Any, name: str, count: int) -> tuple[float, ...] | None:
    """The values of an element, if these are finite numbers and as many as expected."""
    try:
        numbers = tuple(float(number) for number in several(header.get(name)))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def orientation(header: Any) -> tuple[float, ...] | None:
    """Two directions, if they are at a right angle, as far as rounded numbers tell (0.1 degree)."""
    if (cosines := numbers(header, "ImageOrientationPatient", 6)) is None:
        return None
    is_unit = all(abs(math.hypot(*axis) - 1) < 0.01 for axis in (cosines[:3], cosines[3:]))
    return cosines if is_unit and abs(np.dot(cosines[:3], cosines[3:])) < math.radians(0.1) else None


def spacing_mm(header: Any) -> tuple[float, ...] | None:
    """From row to row and from column to column."""
    distances = numbers(header, "PixelSpacing", 2)
    return distances if distances and min(distances) > 0 else None


def seconds(header: Any) -> float | None:
    """When it was taken; the date counts, so that an examination may last until after midnight."""
    moment = str(header.get("AcquisitionDateTime") or "")
    times = (header.get("AcquisitionTime"), moment[8:], header.get("SeriesTime"), header.get("ContentTime"))
    dates = (header.get("AcquisitionDate"), moment[:8], header.get("SeriesDate"), header.get("StudyDate"))
    time, date = (next(filter(None, (re.match(pattern, str(one or "")) for one in ones)), None) for pattern, ones in (
        (r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)?", times), (r"(\d{4})\.?(\d\d)\.?(\d\d)", dates)))
    if time is None:
        return None
    hours, minutes, rest = (float(part or 0) for part in time.groups())
    days = 0
    with suppress(ValueError):                         # 00000000, as some anonymisers write
        days = datetime.date(*map(int, date.groups())).toordinal() if date else 0
    return days * 86400 + hours * 3600 + minutes * 60 + rest


@dataclass(frozen=True)
class Slice:
    """What the header of one file says.

    Attributes:
        uid, series, study, patient: digests.
        space: digest of the frame of reference, in which positions are told; empty where not given.
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
    space: str
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
    is_certain = True
    try:
        with decoded("the DICOM header is damaged", DAMAGED, path), path.open("rb") as file:
            start = file.read(132)
            is_certain = start[128:] == b"DICM"
            if not is_certain and start[:2] != b"\x08\x00":         # the preamble may be left out
                return NOT_DICOM
            file.seek(0)
            header = opened(file, specific_tags=_TAGS, stop_before_pixels=True)
            pixels = file.read(12)
            return _slice(path, header, pixels, path.stat().st_size - file.tell(), is_certain)
    except Undecodable:
        if is_certain:
            raise
        return NOT_DICOM


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
        path=path, uid=digest(header.SOPInstanceUID), series=digest(header.SeriesInstanceUID), study=digest(study),
        patient=_patient(header, study),
        space=digest(space) if (space := header.get("FrameOfReferenceUID")) else "",
        kind=images[sop_class], description=_description(header), has_contrast=bool(header.get("ContrastBolusAgent")),
        rows=int(header.get("Rows") or 0), columns=int(header.get("Columns") or 0),
        frames=int(header.get("NumberOfFrames") or 1), orientation=orientation(header),
        position=numbers(header, "ImagePositionPatient", 3), spacing_mm=spacing_mm(header), seconds=seconds(header),
        marks={name: "/".join(map(str, several(header.get(name)))) for name in MARKS},
        is_scout="LOCALIZER" in image_type,
        problems=tuple(DataError(problem, remedy, path=path)
                       for problem, remedy in _problems(header, sop_class, pixels, left)))


def _patient(header: Any, study: str) -> str:
    for names in (("PatientID", "IssuerOfPatientID"), ("PatientName", "PatientBirthDate")):
        if header.get(names[0]):
            return digest(*(header.get(name, "") for name in names))
    return digest(study)


def _description(header: Any) -> str:
    texts = dict.fromkeys(" ".join(str(header.get(name) or "").split()) for name in _DESCRIPTION)
    identity = {name: [str(one) for one in several(header.get(name))] for name in IDENTITY}
    return without_identity(" | ".join(filter(None, texts)), identity)


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
    if CLASSIC[sop_class] == "MR" and colours == "MONOCHROME1":         # of CT and PT the unit says what a value means
        yield ("MONOCHROME1: low values are the bright ones, expected MONOCHROME2, as all other MR",
               "Ask for the series as the scanner made it, or invert the values and convert it elsewhere.")
    names = [name for name, value in (("ImagePositionPatient", numbers(header, "ImagePositionPatient", 3)),
                                      ("ImageOrientationPatient", orientation(header))) if value is None]
    if names:
        yield (f"{' and '.join(names)} missing or not usable: where the slice lies is not known",
               f"{_UNPROCESSED} A file name or a slice number tells no position.")
    if spacing_mm(header) is None:
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

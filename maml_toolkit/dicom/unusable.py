"""What keeps the voxels of a slice from being used, as far as its header and the size of its file tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from maml_toolkit.dicom.headers import library, numbers, orientation, spacing_mm

CLASSIC = {f"1.2.840.10008.5.1.4.1.1.{number}": kind for number, kind in (("2", "CT"), ("4", "MR"), ("128", "PT"))}
"""The SOP classes of images with one slice a file, and what took them."""

ENHANCED = {f"1.2.840.10008.5.1.4.1.1.{number}": kind for number, kind in (
    ("2.1", "CT"), ("2.2", "CT"), ("4.1", "MR"), ("4.3", "MR"), ("4.4", "MR"), ("128.1", "PT"), ("130", "PT"))}
"""Those with many."""

DAMAGED = "Copy or export the file again from where it came from."

_UNPROCESSED = "Export the series again, unprocessed."


def problems(header: Any, sop_class: str, pixels: bytes, left: int) -> list[tuple[str, str]]:
    """What is wrong with a slice, and what to do about it.

    Args:
        pixels: the first bytes of the element with the voxels.
        left: how many bytes follow in the file.
    """
    return [*_of_kind(header, sop_class)] or [*_of_place(header), *_of_units(header, sop_class),
                                              *_of_voxels(header, pixels, left)]


def _of_kind(header: Any, sop_class: str) -> Iterator[tuple[str, str]]:
    colours = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if sop_class in ENHANCED or int(header.get("NumberOfFrames") or 1) > 1:
        yield ("an enhanced multi-frame object, expected one slice a file; those are not supported",
               "Convert it with dcm2niix and give the NIfTI files, or ask for a classic export at the scanner.")
    elif int(header.get("SamplesPerPixel") or 1) > 1 or not colours.startswith("MONOCHROME"):
        yield ("a colour image, expected one number a voxel",
               "Leave it out; it is made to be looked at. Find the series that it was made from.")


def _of_place(header: Any) -> Iterator[tuple[str, str]]:
    names = [name for name, value in (("ImagePositionPatient", numbers(header, "ImagePositionPatient", 3)),
                                      ("ImageOrientationPatient", orientation(header))) if value is None]
    if names:
        yield (f"{' and '.join(names)} missing or not usable: where the slice lies is not known",
               f"{_UNPROCESSED} A file name or a slice number tells no position.")
    if spacing_mm(header) is None:
        yield "PixelSpacing missing, expected the distance of rows and columns in mm", _UNPROCESSED


def _of_units(header: Any, sop_class: str) -> Iterator[tuple[str, str]]:
    names = [name for name in ("RescaleSlope", "RescaleIntercept") if numbers(header, name, 1) is None]
    if CLASSIC[sop_class] == "CT" and names:
        yield f"{' and '.join(names)} missing, expected the way to Hounsfield units", _UNPROCESSED


def _of_voxels(header: Any, pixels: bytes, left: int) -> Iterator[tuple[str, str]]:
    """What is wrong with the voxels, from the first bytes of their element and how many follow in the file."""
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
        return                                         # the header is compressed with the voxels
    order = "little" if syntax.is_little_endian else "big"
    if not pixels:
        yield "there are no voxels behind the header", DAMAGED
    elif syntax.is_compressed:
        yield from _undecodable(syntax)
    else:
        expected = (int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
                    * int(header.get("BitsAllocated") or 16) // 8)
        if syntax.is_implicit_VR:
            length, left = int.from_bytes(pixels[4:8], order), left + 4
        else:
            length = int.from_bytes(pixels[8:12], order)
        if not expected or min(length, left) < expected:
            yield f"the voxels are cut off: found {min(length, left)} bytes, expected {expected}", DAMAGED


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

"""The bytes of a NIfTI file: decompressed with their checksum verified, the header compared with the size of the file.

Neither nibabel nor SimpleITK can be trusted with a damaged file: nibabel does not check the checksum of a `.nii.gz`,
SimpleITK reads half of one without a word. So every byte is looked at here before nibabel sees any. Decompressing is
most of the time that a file costs; ISA-L's takes 30 ms where Python's own takes 46 (240x240x155 voxels of int16).

References:
    R. W. Cox et al. A (sort of) new image data format standard: NIfTI-1. Human Brain Mapping, 2004.
    https://nifti.nimh.nih.gov/nifti-1
"""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.nifti1 import Nifti1Header, data_type_codes
from nibabel.nifti2 import Nifti2Header

from maml_toolkit.system.errors import DataError

ENDINGS = (".nii", ".nii.gz")

LONGEST = 540
"""Bytes of the header of NIfTI-2; that of NIfTI-1 has 348."""

MARK = "simulated"
"""In the header, or in the name of the file, of every scan that is; it stays with it wherever it is written."""

COPY_AGAIN = "Copy or download the file again from where it came from."

_WEB_PAGE = "web page", "The download gave an error page or wanted a login; download the file again."

OTHERS = {b"/annex/objects/": ("git-annex pointer", "Fetch it: `datalad get` or `git annex get`."),
          b"version https://git-lfs": ("Git-LFS pointer", "Run `git lfs pull` where the data came from."),
          **dict.fromkeys((b"<!doctype", b"<html", b"<?xml", b"<head"), _WEB_PAGE)}
"""How a file starts that is something else: what it is, and what to do."""


@contextmanager
def located(case: str | None, modality: str | None, path: Path | str | None) -> Iterator[None]:
    """Adds to a DataError where it happened, if it names that not; turns the errors of libraries into DataErrors."""
    place = {"case": case, "modality": modality, "path": path}
    try:
        yield
    except DataError as error:
        raise error.at(**place) from error.__cause__
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})",
                        "Look at its permissions and at the disk.", **place) from error
    except (nib.spatialimages.HeaderDataError, nib.filebasedimages.ImageFileError, ValueError,
            OverflowError) as error:
        raise DataError(f"the file is not valid NIfTI ({error})", COPY_AGAIN, **place) from error


def expect_file(path: Path) -> None:
    """Nothing, if there is a file that can be read.

    Raises:
        DataError: there is none, or a link to nothing, a folder, a pipe.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"it is a link to nothing: {os.readlink(path)}", "Fetch what it stands for (`datalad get`, "
                        "`git annex get`), or copy the file itself; leave it out if there is no such scan.", path=path)
    if not path.exists():
        raise DataError("the file does not exist", "Correct the path, or leave it out of the case.", path=path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise DataError(f"it is {what} under the name of one and cannot be read",
                        "Put the file itself there, or move this away.", path=path)


def image_of(path: Path, *, any_voxel_size: bool = False) -> nib.Nifti1Image:
    """The image in a file, every byte of which was there; its `extra` tells the "sha256", "size" and "time" of that.

    Args:
        any_voxel_size: accept sizes that are not positive; nibabel takes their absolute value.

    Raises:
        DataError: the file is damaged, or is something else than its name says.
    """
    content, about = _whole(path)
    header = _parsed(content)
    _check_size(header, len(content))
    if not any_voxel_size:
        _check_voxel_sizes(header)                  # before nibabel mends them without a word
    image = (nib.Nifti2Image if isinstance(header, Nifti2Header) else nib.Nifti1Image).from_bytes(content)
    image.extra.update(about)
    return image


def header_of(path: Path) -> Nifti1Header:
    """The header alone, whose own fields are checked."""
    with _looked_at(path) as file:
        header = _parsed((gzip.GzipFile(fileobj=file) if _is_compressed(path) else file).read(LONGEST))
    _check_voxel_sizes(header)
    return header


def compressed(content: bytes, path: Path) -> bytes:
    """The content as the file of this name holds it: compressed if that ends in .gz, the same bytes every time."""
    return igzip.compress(content, 1, mtime=0) if _is_compressed(path) else content


def with_description(content: bytes, description: str) -> bytes:
    """The decompressed bytes of a file with another text in the field `descrip`; all others are as they were."""
    plain = igzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    header = _parsed(plain)
    header["descrip"] = description.encode()[:79]
    return header.binaryblock + plain[header.sizeof_hdr:]


def described(header: Nifti1Header) -> str:
    """The field `descrip` of a header."""
    return bytes(header["descrip"]).rstrip(b"\0").decode(errors="replace")


def mark_in(header: Nifti1Header, path: Path | str | None) -> str:
    """The mark of a simulated scan in a header or, where that has none, in the name of its file; nothing for others."""
    if MARK in (said := described(header)).lower():
        return said
    return ": ".join(filter(None, (MARK, said))) if MARK in Path(path or "").name.lower() else ""


def time_of(stat: os.stat_result) -> int:
    """When a file was last written, in ns; copying a date does not hide it."""
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


def _whole(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The decompressed bytes, their checksum verified, and "sha256", "size" and "time" of the file."""
    with _looked_at(path) as file:
        raw = file.read()
        stat = os.fstat(file.fileno())
        about = {"sha256": hashlib.sha256(raw).hexdigest(), "size": stat.st_size, "time": time_of(stat)}
        return igzip.decompress(raw) if _is_compressed(path) else raw, about


@contextmanager
def _looked_at(path: Path) -> Iterator[BinaryIO]:
    """The file, open at its first byte, if it is what its name says; tells the damage that reading it shows."""
    if not path.name.lower().endswith(ENDINGS):
        raise DataError("found a name that ends in neither .nii nor .nii.gz", "Convert the image to NIfTI.")
    expect_file(path)
    with path.open("rb") as file:
        _check_kind(file.read(512), _is_compressed(path))
        file.seek(0)
        try:
            yield file
        except (EOFError, zlib.error, gzip.BadGzipFile, isal_zlib.error) as error:
            what = "is truncated" if isinstance(error, EOFError) else "is damaged"
            raise DataError(f"the compressed file {what} ({error})", COPY_AGAIN) from error


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _check_kind(start: bytes, is_compressed: bool) -> None:
    if not start:
        raise DataError("the file is empty", COPY_AGAIN)
    for beginning, (what, remedy) in OTHERS.items():
        if start.lstrip().lower().startswith(beginning):
            raise DataError(f"found a {what}, expected an image", remedy)
    if start.startswith(b"\x1f\x8b") and not is_compressed:
        raise DataError("found a gzip-compressed file under the name .nii", "Rename it to .nii.gz.")
    if is_compressed and not start.startswith(b"\x1f\x8b"):
        raise DataError("found a file that is not compressed under the name .nii.gz",
                        "Rename it to .nii if it is NIfTI; else copy it again.")


def _parsed(content: bytes) -> Nifti1Header:
    kinds = {348: (Nifti1Header, b"n+1"), 540: (Nifti2Header, b"n+2")}
    size = _size_of_header(content)
    if size is None:
        raise DataError(f"the file starts with {content[:4]!r}, expected a NIfTI header", COPY_AGAIN)
    if len(content) < size:
        raise DataError(f"found {len(content)} bytes, expected a header of {size}: the file is truncated", COPY_AGAIN)
    kind, magic = kinds[size]
    header = kind(content[:size], check=False)
    if not header["magic"].item().startswith(magic):
        raise DataError(f"found the magic word {header['magic'].item()!r}, expected {magic!r}",
                        "Save the image as one .nii or .nii.gz file.")
    rank, *sizes = (int(n) for n in header["dim"])
    if not 1 <= rank <= 7 or min(sizes[:rank]) < 1:
        raise DataError(f"found the dimensions {[rank, *sizes]} in the header, expected a rank from 1 to 7 "
                        "and positive sizes", COPY_AGAIN)
    if header["datatype"].item() not in data_type_codes.dtype:
        raise DataError(f"found the voxel type {header['datatype'].item()}, which is none of NIfTI's", COPY_AGAIN)
    return header


def _size_of_header(content: bytes) -> int | None:
    sizes = [int.from_bytes(content[:4], order) for order in ("little", "big")]
    return next((size for size in sizes if size in (348, 540)), None)


def _check_voxel_sizes(header: Nifti1Header) -> None:
    rank = min(int(header["dim"][0]), 3)
    sizes = header["pixdim"][1:rank + 1]
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise DataError(f"found the voxel sizes {sizes.tolist()} in the header, expected positive ones: programs "
                        "disagree on the left and right of such an image",
                        f"Convert the original images again{_instead(header, sizes)}.")


def _instead(header: Nifti1Header, sizes: np.ndarray) -> str:
    """The repair that such a header allows."""
    forms = [name for name in ("sform", "qform") if header[f"{name}_code"]]
    if "sform" not in forms and not (np.isfinite(sizes).all() and sizes.all()):
        return ""
    how = f"--prefer {forms[0]}" if forms else "--orientation LPS"
    return f", or have a header written that agrees with itself, `mend {how}`, and look at the result"


def _check_size(header: Nifti1Header, found: int) -> None:
    shape = [int(n) for n in header["dim"][1:int(header["dim"][0]) + 1]]
    expected = int(header["vox_offset"]) + math.prod(shape) * header.get_data_dtype().itemsize
    if found < expected:
        raise DataError(f"found {found:,} bytes, expected {expected:,} for {' x '.join(map(str, shape))} "
                        f"voxels of {header.get_data_dtype()}: the file is truncated or its header wrong", COPY_AGAIN)

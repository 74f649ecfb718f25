"""One volume from a NIfTI file, after a pass over its integrity, and back again.

Neither nibabel nor SimpleITK can be trusted with a damaged file: nibabel does not check the checksum of a
`.nii.gz`, SimpleITK reads half of one without a word and turns NaN into 0. So every byte is decompressed here
with the checksum verified, the header is compared with the size of the file before anything is allocated, and
the voxels and the grid are looked at before anybody computes with them.

References:
    R. W. Cox et al. A (sort of) new image data format standard: NIfTI-1. Human Brain Mapping, 2004.
    https://nifti.nimh.nih.gov/nifti-1
"""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Header, data_type_codes
from nibabel.nifti2 import Nifti2Header

from maml_toolkit.errors import DataError
from maml_toolkit.files import write_whole

Source = Path | nib.Nifti1Image
"""A file, or an image held in memory."""

GRID_TOLERANCE = 0.02
"""Largest distance between the corners of grids that count as one, in voxels: headers are rounded numbers."""

COPY_AGAIN = "Copy or download the file again from where it came from."


@dataclass(frozen=True)
class Volume:
    """The voxels of one image and where they lie.

    Attributes:
        array: three axes in the order of the file.
        affine: 4x4, voxel indices to millimetres (RAS+).
    """

    array: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.array.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis."""
        return tuple(float(mm) for mm in nib.affines.voxel_sizes(self.affine))


def read(source: Source, *, case: str | None = None, modality: str | None = None) -> Volume:
    """The image as float32, with the scaling of its header applied.

    Raises:
        DataError: the file is damaged, or holds no finite, varying 3-D image on a known grid.
    """
    with _located(source, case, modality):
        image = _opened(source)
        affine = _checked_affine(image.header, image.shape, image.affine)
        with np.errstate(over="ignore"):             # becomes Inf, which is reported
            array = _voxels(image, np.float32)
        _check_finite(array)
        if array.min() == array.max():
            raise DataError(f"every voxel is {array.min():g}, expected an image",
                            "Export the image again, or leave this modality out of the case.")
        return Volume(array, affine)


def read_label(source: Source, *, case: str | None = None) -> Volume:
    """The label map as integers; numbers within 0.001 of a whole one are rounded.

    Raises:
        DataError: as for `read`, though a label may be constant; or fractions, or a scaling in the header.
    """
    with _located(source, case, "label"):
        image = _opened(source)
        affine = _checked_affine(image.header, image.shape, image.affine)
        slope, inter = (getattr(image.dataobj, name, usual) for name, usual in (("slope", 1), ("inter", 0)))
        if (slope, inter) != (1, 0):
            raise DataError(f"found scl_slope {slope:g} and scl_inter {inter:g} on a label, expected 1 and 0",
                            "Save the label as integers without scaling.")
        return Volume(_whole_numbers(_voxels(image)), affine)


def read_header(
    source: Source, *, case: str | None = None, modality: str | None = None
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine without the voxels, whose integrity is therefore not checked.

    Raises:
        DataError: the header is damaged, or describes no 3-D image on a known grid.
    """
    with _located(source, case, modality):
        if isinstance(source, nib.Nifti1Image):
            header, affine = source.header, source.affine
        else:
            header = _parsed(_content(Path(source), 540))
            affine = header.get_best_affine()
        shape = header.get_data_shape()
        return tuple(int(n) for n in shape[:3]), _checked_affine(header, shape, affine)


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Save an array as NIfTI so that it lies on the grid of `affine` in every viewer.

    The type is that of the array (bool becomes uint8, half precision float32). The file appears under its
    name only when it is complete.

    Raises:
        ValueError: the name does not end in .nii or .nii.gz.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"found the output name {path}, expected one that ends in .nii or .nii.gz")
    dtype = {"bool": np.dtype(np.uint8), "float16": np.dtype(np.float32)}.get(array.dtype.name, array.dtype)
    image = nib.Nifti1Image(array.astype(dtype, copy=False), affine, dtype=dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code=0)                # a qform cannot hold shears
    content = image.to_bytes()
    write_whole(path, gzip.compress(content, 1, mtime=0) if path.name.lower().endswith(".gz") else content)


def grid_difference(one: Any, other: Any) -> str | None:
    """How the grids of two volumes differ, in words; None where they are one grid.

    Args:
        one, other: anything with a `shape` and an `affine`.
    """
    if one.shape != other.shape:
        return f"found the shapes {one.shape} and {other.shape}"
    distance = corner_distance_mm(one.shape, one.affine, other.affine)
    if distance <= GRID_TOLERANCE * min(nib.affines.voxel_sizes(one.affine)):
        return None
    axes = ["".join(nib.aff2axcodes(grid.affine)) for grid in (one, other)]
    turned = f" and axes towards {axes[0]} and {axes[1]}" if axes[0] != axes[1] else ""
    return f"found corners up to {distance:.4g} mm apart{turned}"


def path_of(source: Source | None) -> Path | str | None:
    """The file of a volume, for messages; None for an image that was never in one."""
    return source.get_filename() if isinstance(source, nib.Nifti1Image) else source


def corner_distance_mm(shape: Sequence[int], affine: np.ndarray, other_affine: np.ndarray) -> float:
    """The largest distance between the corners that two grids of one shape give to the same voxels."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
    return float(np.linalg.norm(corners @ (affine - other_affine).T, axis=1).max())


@contextmanager
def _located(source: Source, case: str | None, modality: str | None) -> Iterator[None]:
    """Adds to a DataError where it happened; turns the errors of libraries into DataErrors."""
    place = {"case": case, "modality": modality, "path": path_of(source)}
    try:
        yield
    except DataError as error:
        raise DataError(error.problem, error.remedy, **place) from error.__cause__
    except FileNotFoundError as error:
        raise DataError("the file does not exist", "Correct the path, or leave it out of the case.",
                        **place) from error
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})",
                        "Look at its permissions and at the disk.", **place) from error
    except (nib.spatialimages.HeaderDataError, nib.filebasedimages.ImageFileError, ValueError,
            OverflowError) as error:
        raise DataError(f"the file is not valid NIfTI ({error})", COPY_AGAIN, **place) from error


def _opened(source: Source) -> nib.Nifti1Image:
    if isinstance(source, nib.Nifti1Image):
        return source
    content = _content(Path(source))
    header = _parsed(content)
    _check_size(header, len(content))
    kind = nib.Nifti2Image if isinstance(header, Nifti2Header) else nib.Nifti1Image
    return kind.from_bytes(content)


def _content(path: Path, length: int = -1) -> bytes:
    """The decompressed bytes, all of them (then the checksum is verified) or the first `length`."""
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise DataError("found a name that ends in neither .nii nor .nii.gz", "Convert the image to NIfTI.")
    with path.open("rb") as file:
        start = file.read(512)
        _check_kind(start, compressed=name.endswith(".gz"))
        file.seek(0)
        if not name.endswith(".gz"):
            return file.read(length)
        try:
            return gzip.decompress(file.read()) if length < 0 else gzip.GzipFile(fileobj=file).read(length)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            what = "is truncated" if isinstance(error, EOFError) else "is damaged"
            raise DataError(f"the compressed file {what} ({error})", COPY_AGAIN) from error


def _check_kind(start: bytes, compressed: bool) -> None:
    text = start.lstrip().lower()
    if not start:
        raise DataError("the file is empty", COPY_AGAIN)
    if text.startswith(b"version https://git-lfs"):
        raise DataError("found a Git-LFS pointer, expected an image",
                        "Run `git lfs pull` where the data came from.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise DataError("found a web page, expected an image",
                        "The download gave an error page or wanted a login; download the file again.")
    if start.startswith(b"\x1f\x8b") and not compressed:
        raise DataError("found a gzip-compressed file under the name .nii", "Rename it to .nii.gz.")
    if compressed and not start.startswith(b"\x1f\x8b"):
        raise DataError("found a file that is not compressed under the name .nii.gz",
                        "Rename it to .nii if it is NIfTI; else copy it again.")


def _parsed(content: bytes) -> Nifti1Header:
    kinds = {348: (Nifti1Header, b"n+1"), 540: (Nifti2Header, b"n+2")}
    sizes = [int.from_bytes(content[:4], order) for order in ("little", "big")]
    size = next((size for size in sizes if size in kinds), None)
    if size is None:
        raise DataError(f"the file starts with {content[:4]!r}, expected a NIfTI header", COPY_AGAIN)
    if len(content) < size:
        raise DataError(f"found {len(content)} bytes, expected a header of {size}: the file is truncated",
                        COPY_AGAIN)
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
        raise DataError(f"found the voxel type {header['datatype'].item()}, which is none of NIfTI's",
                        COPY_AGAIN)
    if not (header["pixdim"][1:min(rank, 3) + 1] > 0).all():
        raise DataError(f"found the voxel sizes {header['pixdim'][1:4].tolist()} in the header, expected "
                        "positive ones", "Correct pixdim, or convert the original images again.")
    return header


def _check_size(header: Nifti1Header, found: int) -> None:
    shape = [int(n) for n in header["dim"][1:int(header["dim"][0]) + 1]]
    expected = int(header["vox_offset"]) + math.prod(shape) * header.get_data_dtype().itemsize
    if found < expected:
        raise DataError(f"found {found:,} bytes, expected {expected:,} for {' x '.join(map(str, shape))} "
                        f"voxels of {header.get_data_dtype()}: the file is truncated or its header is wrong",
                        COPY_AGAIN)


def _checked_affine(header: Nifti1Header, shape: Sequence[int], affine: np.ndarray | None) -> np.ndarray:
    """The affine of a real-valued 3-D image whose place in the patient is known."""
    kind = header.get_data_dtype().kind
    if kind not in "iuf":
        raise DataError(f"found {'complex' if kind == 'c' else 'colour'} voxels ({header.get_data_dtype()}), "
                        "expected one real number a voxel",
                        "Save the magnitude, or one channel, as its own file.")
    if math.prod(shape[3:]) != 1:
        what = f"{shape[3]} frames" if len(shape) == 4 else "several values a voxel"
        raise DataError(f"found the shape {tuple(shape)}, {what}, expected a 3-D image",
                        "Say which one is meant: save that frame or component as its own file.")
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise DataError(f"found the shape {tuple(shape)}, expected a 3-D image of at least two slices",
                        "Put the slices of a series into one file.")
    if not (header["qform_code"] or header["sform_code"]) or affine is None:
        raise DataError("found neither a qform nor an sform, expected one: left and right are unknown",
                        "Convert the original images again, or set the sform if you know the orientation.")
    if not np.isfinite(affine).all():
        raise DataError(f"found the affine {affine.tolist()}, expected finite numbers",
                        "Convert the original images again, or correct the header.")
    sizes = nib.affines.voxel_sizes(affine)
    if min(sizes) < 1e-6 or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * np.prod(sizes):
        raise DataError(f"found a singular affine with voxel sizes {sizes.tolist()} mm, expected three "
                        "independent axes",
                        "Convert the original images again, or correct the header.")
    return affine.astype(np.float64)


def _voxels(image: nib.Nifti1Image, dtype: type | None = None) -> np.ndarray:
    """The three axes of the image, scaled; trailing axes of length one are dropped."""
    values = image.get_fdata(caching="unchanged", dtype=dtype) if dtype else np.asanyarray(image.dataobj)
    return values.reshape(values.shape[:3])


def _check_finite(array: np.ndarray) -> None:
    if np.isfinite(array).all():
        return
    nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    raise DataError(f"found {nan} NaN and {inf} Inf among {array.size} voxels, expected finite numbers",
                    "Export the image again, or replace them on purpose before using it.")


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "iu":
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    _check_finite(values)
    rounded = np.rint(values)
    if (off := np.abs(values - rounded)).max() > 1e-3:
        raise DataError(f"found {int((off > 1e-3).sum())} label values that are not whole numbers, such as "
                        f"{values.flat[off.argmax()]:g}",
                        "Resample labels with nearest neighbour; save class numbers.")
    if max(-rounded.min(), rounded.max()) >= 2**31:
        raise DataError(f"found the label values {rounded.min():g} to {rounded.max():g}, expected class "
                        "numbers", "Give the label map of this case.")
    return rounded.astype(np.int32)

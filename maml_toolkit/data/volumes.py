"""One volume from a NIfTI file, after a pass over its integrity and its grid, and back again.

SimpleITK turns NaN into 0; here voxels that are no numbers are an error, as is all else that would make a network
learn nonsense. `opened` makes all checks on what lies in the file and converts nothing, so an audit costs little more
than the reading; `read` and `read_label` convert.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel import orientations

from maml_toolkit.data import nifti
from maml_toolkit.data.geometry import checked_affine, corner_distance_mm, grid_difference
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import write_whole

__all__ = ["Frame", "Source", "Stored", "Volume", "corner_distance_mm", "grid_difference", "is_one_source", "mark_of",
           "opened", "path_of", "read", "read_header", "read_label", "write"]


@dataclass(frozen=True)
class Frame:
    """One frame of a 4-D file, as the Medical Segmentation Decathlon keeps its modalities.

    Attributes:
        index: along the fourth axis, from 0.
    """

    path: Path
    index: int

    def __str__(self):
        return f"{self.path} [frame {self.index}]"


AIR_HU = -1024.0
"""What a CT holds outside of its field of view."""

Source = Path | nib.Nifti1Image | Frame
"""A file, an image held in memory, or a frame of a file."""


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

    def canonical(self) -> Volume:
        """The same voxels, a view, with axes as near as can be to right, anterior, superior (RAS+)."""
        turn = orientations.io_orientation(self.affine)
        return Volume(orientations.apply_orientation(self.array, turn),
                      self.affine @ orientations.inv_ornt_aff(turn, self.shape))


@dataclass(frozen=True)
class Stored:
    """An image as it lies in its file, checked and not converted.

    Attributes:
        values: three axes in the order of the file, without the scaling of the header.
        scaling: slope and intercept.
        affine: 4x4, voxel indices to millimetres (RAS+).
        extremes: the lowest and the highest voxel, scaled.
        notes: what is odd about it and was accepted.
        file: its "sha256", "size" and "time"; nothing of an image in memory.
    """

    values: np.ndarray
    scaling: tuple[float, float]
    affine: np.ndarray
    extremes: tuple[float, float]
    notes: tuple[str, ...] = ()
    file: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.values.shape

    @cached_property
    def fingerprint(self) -> int:
        """Of all voxels, scaled, whatever type and order they are stored in."""
        return isal_zlib.crc32(np.asarray(self._scaled, np.float32).ravel(order="F"),
                               zlib.crc32(repr(self.shape).encode()))

    @property
    def _scaled(self) -> np.ndarray:
        slope, inter = self.scaling
        return self.values if self.scaling == (1, 0) else self.values * np.float64(slope) + inter

    def image(self) -> Volume:
        """As float32, with the scaling applied."""
        return Volume(self._scaled.astype(np.float32), self.affine)

    def label(self) -> Volume:
        """As integers."""
        if self.values.dtype.kind in "iu":
            return Volume(self.values.astype(self.values.dtype.newbyteorder("="), copy=False), self.affine)
        return Volume(np.rint(self.values).astype(np.int32), self.affine)


def opened(source: Source, *, label: bool = False, case: str | None = None, modality: str | None = None,
           whole: dict[Path, nib.Nifti1Image] | None = None) -> Stored:
    """The image as it lies in its file, after every check.

    Args:
        label: a label may be constant and must hold whole numbers (0.001 apart at most), unscaled.
        whole: the 4-D files that were read already; one is added, so that its other frames are found there.

    Raises:
        DataError: the file is damaged, or holds no finite, varying 3-D image on a known grid.
    """
    with nifti.located(case, "label" if label else modality, path_of(source)):
        image = _image(source, whole)
        shape = _shape_of_frame(source, image.shape) if isinstance(source, Frame) else image.shape
        affine, notes = checked_affine(image.header, shape, image.affine)
        proxy = image.dataobj
        values = proxy.get_unscaled() if hasattr(proxy, "get_unscaled") else np.asanyarray(proxy)
        values = values[..., source.index].copy(order="A") if isinstance(source, Frame) else \
            values.reshape(values.shape[:3])
        scaling = (float(getattr(proxy, "slope", 1)), float(getattr(proxy, "inter", 0)))
        ends = [float(value) * scaling[0] + scaling[1] for value in (values.min(), values.max())]
        lowest, highest = ends if scaling[0] >= 0 else ends[::-1]
        if not max(-lowest, highest) <= float(np.finfo(np.float32).max):     # in this order: NaN compares as false
            raise _not_finite(values, scaling)
        if label:
            notes += _check_label(values, scaling)
        elif lowest == highest:
            raise DataError(f"every voxel is {lowest:g}, expected an image",
                            "Export the image again, or leave this scan out of the case.")
        return Stored(values, scaling, affine, (lowest, highest), notes, {} if image is source else dict(image.extra))


def read(source: Source, *, case: str | None = None, modality: str | None = None) -> Volume:
    """The image as float32, with the scaling of its header applied.

    Raises:
        DataError: the file is damaged, or holds no finite, varying 3-D image on a known grid.
    """
    return opened(source, case=case, modality=modality).image()


def read_label(source: Source, *, case: str | None = None) -> Volume:
    """The label map as integers; numbers within 0.001 of a whole one are rounded.

    Raises:
        DataError: as for `read`, though a label may be constant; or fractions, or a scaling in the header.
    """
    return opened(source, label=True, case=case).label()


def read_header(source: Source, *, case: str | None = None,
                modality: str | None = None) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine without the voxels, whose integrity is therefore not checked.

    Raises:
        DataError: the header is damaged, or describes no 3-D image on a known grid.
    """
    with nifti.located(case, modality, path_of(source)):
        is_held = isinstance(source, nib.Nifti1Image)
        header = source.header if is_held else nifti.header_of(path_of(source))
        affine = source.affine if is_held else header.get_best_affine()
        shape = header.get_data_shape()
        if isinstance(source, Frame):
            shape = _shape_of_frame(source, shape)
        return tuple(int(n) for n in shape[:3]), checked_affine(header, shape, affine)[0]


def write(path: Path, array: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Save an array as NIfTI so that it lies on the grid of `affine` in every viewer.

    The type is that of the array (bool becomes uint8, half precision float32). The file appears under its
    name only when it is complete.

    Args:
        description: for the `descrip` field of the header, which has room for 79 bytes.

    Raises:
        ValueError: the name does not end in .nii or .nii.gz.
    """
    path = Path(path)
    if not path.name.lower().endswith(nifti.ENDINGS):
        raise ValueError(f"found the output name {path}, expected one that ends in .nii or .nii.gz")
    dtype = {"bool": np.dtype(np.uint8), "float16": np.dtype(np.float32)}.get(array.dtype.name, array.dtype)
    image = held(array.astype(dtype, copy=False), affine)
    image.header["descrip"] = description.encode()[:79]
    write_whole(path, nifti.compressed(image.to_bytes(), path))


def held(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """An array as an image in memory, of its own type, that lies on the grid of `affine` in every viewer."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code=0)                # a qform cannot hold shears
    return image


def path_of(source: Source | None) -> Path | str | None:
    """The file of a volume, for messages; None for an image that was never in one."""
    if isinstance(source, Frame):
        return source.path
    return source.get_filename() if isinstance(source, nib.Nifti1Image) else source


def is_one_source(one: Source, other: Source) -> bool:
    """Whether two volumes are one file, through links too, and the same frame of it; not where one was never in one."""
    paths = path_of(one), path_of(other)
    frames = [source.index if isinstance(source, Frame) else None for source in (one, other)]
    return None not in paths and len(set(map(os.path.realpath, paths))) == len(set(frames)) == 1


def mark_of(source: Source) -> str:
    """What the header of a scan, or the name of its file, says about its being simulated; nothing for a real scan.

    Raises:
        DataError: the header cannot be read.
    """
    is_held = isinstance(source, nib.Nifti1Image)
    return nifti.mark_in(source.header if is_held else nifti.header_of(path_of(source)), path_of(source))


def _image(source: Source, whole: dict[Path, nib.Nifti1Image] | None) -> nib.Nifti1Image:
    if isinstance(source, nib.Nifti1Image):
        return source
    if not isinstance(source, Frame) or whole is None:
        return nifti.image_of(path_of(source))
    if source.path not in whole:
        whole[source.path] = nifti.image_of(source.path)
    return whole[source.path]


def _shape_of_frame(source: Frame, shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) != 4 or source.index >= shape[3]:
        raise DataError(f"found the shape {tuple(shape)}, expected four axes and at least {source.index + 1} frames",
                        "Correct the names of the modalities in dataset.json, or copy the file again.")
    return tuple(shape[:3])


def _not_finite(values: np.ndarray, scaling: tuple[float, float]) -> DataError:
    with np.errstate(over="ignore"):                 # becomes Inf, which is reported
        array = (values * np.float64(scaling[0]) + scaling[1]).astype(np.float32)
    nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    return DataError(f"found {nan} NaN and {inf} Inf among {array.size} voxels, expected finite numbers",
                     "Export the image again, or replace them on purpose: `mend --fill 0`.")


def _check_label(values: np.ndarray, scaling: tuple[float, float]) -> tuple[str, ...]:
    if scaling != (1, 0):
        raise DataError(f"found scl_slope {scaling[0]:g} and scl_inter {scaling[1]:g} on a label, expected 1 and 0",
                        "Save the label as integers without scaling: `mend --label` applies it.")
    if values.dtype.kind in "iu":
        return ()
    rounded = np.rint(values)
    if (off := np.abs(values - rounded)).max() > 1e-3:
        raise DataError(f"found {int((off > 1e-3).sum())} label values that are not whole numbers, such as "
                        f"{values.flat[off.argmax()]:g}",
                        "Resample labels with nearest neighbour; save class numbers.")
    if max(-rounded.min(), rounded.max()) >= 2**31:
        raise DataError(f"found the label values {rounded.min():g} to {rounded.max():g}, expected class "
                        "numbers", "Give the label map of this case.")
    return (f"label values up to {off.max():.1g} away from whole numbers were rounded",) if off.max() > 0 else ()

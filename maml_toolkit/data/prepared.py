"""A case as the network reads it, and where its arrays lie in the files: there and back.

    file --turn to RAS+--> canonical --crop--> box --resample--> working grid

Turning and cropping are exact; resampling (resampling.py) goes between grids that fill the same
box. Arrays are in memory, or in files that are opened when something of them is asked for.
"""

from __future__ import annotations

import json
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations

from maml_toolkit.data.resampling import resampled, resampled_label, with_every_part
from maml_toolkit.system.errors import DataError

RECORD = "case.json"
"""Beside the arrays of a case in files; "made" in it changes with what they were made from."""


@dataclass(frozen=True)
class Grid:
    """Where the working arrays of a case lie in its files, and the way back.

    Attributes:
        shape, affine: of the file's grid, axes as in the file; affine in mm (RAS+).
        box: first and last + 1 voxel on each axis, in the file's voxels after turning to RAS+.
        working_shape: of the arrays that the network sees, axes left-right, posterior-anterior, inferior-superior.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    box: tuple[tuple[int, int], ...]
    working_shape: tuple[int, int, int]

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Grid:
        """The grid of which `dataclasses.asdict` was written as JSON.

        Raises:
            TypeError: other names than its own.
        """
        return cls(**{name: _as_tuples(value) for name, value in facts.items()})

    @cached_property
    def _orientation(self) -> np.ndarray:
        return orientations.io_orientation(np.array(self.affine))

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """The file's shape after turning to RAS+."""
        return tuple(int(self.shape[axis]) for axis in np.argsort(self._orientation[:, 0]))

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Voxels of the box on each axis, at the file's spacing."""
        return tuple(stop - start for start, stop in self.box)

    @cached_property
    def box_affine(self) -> np.ndarray:
        """Affine of the box at the file's spacing."""
        turned = np.array(self.affine) @ orientations.inv_ornt_aff(self._orientation, self.shape)
        return turned @ nib.affines.from_matvec(np.eye(3), [start for start, _ in self.box])

    @cached_property
    def working_affine(self) -> np.ndarray:
        """Affine of the working arrays, which fill the same box with voxels of another size."""
        step = np.divide(self.box_shape, self.working_shape)
        return self.box_affine @ nib.affines.from_matvec(np.diag(step), (step - 1) / 2)

    @property
    def file_spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the files, on their own axes."""
        return tuple(float(mm) for mm in nib.affines.voxel_sizes(np.array(self.affine)))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the working arrays."""
        return tuple(float(mm) for mm in nib.affines.voxel_sizes(self.working_affine))

    def to_working(self, array: np.ndarray) -> np.ndarray:
        """An image on the box, turned to RAS+, resampled to the working grid."""
        return resampled(array, self.box_affine, self.working_shape, self.working_affine, antialias=True)

    def label_to_working(self, array: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """A label on the box, turned to RAS+, on the working grid; and for each class how many lesions it lost."""
        return resampled_label(array, self.box_affine, self.working_shape, self.working_affine)

    def to_box(self, array: np.ndarray) -> np.ndarray:
        """Working values (…, depth, height, width) resampled to the file's spacing, still cropped and in RAS+."""
        return resampled(array, self.working_affine, self.box_shape, self.box_affine, antialias=True)

    def answer_in_box(self, logits: np.ndarray, classes: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Class of each voxel of the box, uint8, from working logits; no lesion is flattened away.

        Args:
            logits: (channels, …).
            classes: gives the class of each voxel of logits on any grid (answers.py).
        """
        here, there = (classes(values).astype(np.uint8) for values in (logits, self.to_box(logits)))
        return with_every_part(there, here, self.working_affine, self.box_affine)

    def to_file(self, array: np.ndarray, outside: float = 0) -> np.ndarray:
        """What `to_box` returned, pasted into the file's whole grid and turned to the file's axes.

        Args:
            array: (…, box).
            outside: value of the voxels that were cropped away.
        """
        leading = array.shape[:-3]
        whole = np.full((*leading, *self.canonical_shape), outside, array.dtype)
        whole[(..., *self.box_slices)] = array
        back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), self._orientation)
        return np.ascontiguousarray(_turned(whole, back))

    def from_file(self, array: np.ndarray) -> np.ndarray:
        """Values on the file's own grid (…, and its axes), turned to RAS+ and cut to the box, as `to_box` returns."""
        return _turned(array, self._orientation)[(..., *self.box_slices)]

    @property
    def box_slices(self) -> tuple[slice, ...]:
        """The box as slices of the file's array after turning to RAS+."""
        return tuple(slice(*edges) for edges in self.box)


def grid_of(scan: Any, box: Sequence[tuple[int, int]], spacing_mm: Sequence[float] | None = None) -> Grid:
    """The grid that fills this box of a scan with voxels as near to the spacing as whole numbers allow.

    Args:
        scan: anything with the `shape` and the `affine` of a file.
        spacing_mm: that of the scan when left out.
    """
    sizes = canonical_spacing_mm(scan.affine)
    working = tuple(max(1, round((stop - start) * mm / wanted))
                    for (start, stop), mm, wanted in zip(box, sizes, spacing_mm or sizes, strict=True))
    return Grid(tuple(int(n) for n in scan.shape), tuple(tuple(map(float, row)) for row in scan.affine),
                tuple((int(a), int(b)) for a, b in box), working)


def _turned(array: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The last three axes turned; nibabel turns the first three, so those before them go last and come back."""
    leading = array.ndim - 3
    last = np.moveaxis(array, range(leading), range(3, array.ndim))
    return np.moveaxis(orientations.apply_orientation(last, turn), range(3, array.ndim), range(leading))


def _as_tuples(value: object) -> object:
    """JSON's lists, at any depth, as tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def canonical_spacing_mm(affine: Any) -> tuple[float, ...]:
    """Voxel sizes along the axes that turning to RAS+ gives."""
    affine = np.asarray(affine)
    return tuple(nib.affines.voxel_sizes(affine)[np.argsort(orientations.io_orientation(affine)[:, 0])].tolist())


def read_record(folder: Path) -> dict[str, Any]:
    """What is written beside the arrays of a case.

    Raises:
        OSError, ValueError: there is nothing, or no JSON.
    """
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ArrayFile:
    """An array in a .npy file, which is opened when something of it is asked for.

    Attributes:
        time: when it was written, in nanoseconds.
        made: what it was made from; an array of something else that took its place is not taken for it.
    """

    path: Path
    time: int
    made: str

    @classmethod
    def at(cls, path: Path, made: str) -> ArrayFile:
        """The array that lies there now."""
        return cls(path, path.stat().st_mtime_ns, made)

    def opened(self) -> np.ndarray:
        """A memory map, that closes with its last user.

        Raises:
            DataError: the case was prepared anew from something else.
        """
        array = np.load(self.path, mmap_mode="r")
        if self.path.stat().st_mtime_ns != self.time and read_record(self.path.parent)["made"] != self.made:
            raise DataError("the case was prepared anew while it was in use, from other files or for another task",
                            "Start again, and give each task a cache of its own.", path=self.path)
        return array


def _opened(value: Any) -> Any:
    return value.opened() if isinstance(value, ArrayFile) else value


class Arrays(UserDict):
    """Arrays by name; those that lie in files are opened, as memory maps, at every access."""

    def __getitem__(self, name: str) -> np.ndarray:
        return _opened(self.data[name])


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network reads it. Made with an ArrayFile in place of an array, it gives the array.

    Attributes:
        id: of the case.
        images: normalised float32 arrays by modality, all of the grid's working shape.
        labels: class of each voxel (uint8), or what is open as in label_sets.py; None for a case without label.
        foreground: rows of (class, voxel on each axis): some voxels of each foreground class.
        grid: the way back to the file's grid.
        oddities: what is strange about its files and may be meant, and what was lost on the way to this grid.
        outside: value of each modality beyond the scan: of CT the lowest (air), otherwise 0, which is what surrounds
            a head.
    """

    id: str
    images: Mapping[str, Any]
    labels: np.ndarray | ArrayFile | None
    foreground: np.ndarray | ArrayFile
    grid: Grid
    oddities: tuple[DataError, ...] = ()
    outside: Mapping[str, float] = field(default_factory=dict)

    def __getattribute__(self, name: str) -> Any:
        # arrays in files are opened at every access: thousands of cases need no open file
        return _opened(super().__getattribute__(name))

    def of(self, modalities: Iterable[str]) -> PreparedCase:
        """The same case with those of these modalities that it has."""
        kept = self.images.data if isinstance(self.images, Arrays) else self.images
        images = Arrays({name: kept[name] for name in modalities if name in kept})
        return PreparedCase(**vars(self) | {"images": images})         # `vars` opens no file

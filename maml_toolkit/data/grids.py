"""Where the arrays that a network reads lie in the files of a case, and the way there and back.

    file --turn to RAS+--> canonical --crop--> box --resample--> working grid

Turning and cropping are exact; resampling (resampling.py, resampling_labels.py) goes between grids that fill the same
box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import nibabel
import numpy as np
from nibabel import orientations

from maml_toolkit.data.resampling import resampled
from maml_toolkit.data.resampling_labels import resampled_label, with_every_part
from maml_toolkit.data.volumes import Stored, Volume


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
        return turned @ nibabel.affines.from_matvec(np.eye(3), [start for start, _ in self.box])

    @cached_property
    def working_affine(self) -> np.ndarray:
        """Affine of the working arrays, which fill the same box with voxels of another size."""
        step = np.divide(self.box_shape, self.working_shape)
        return self.box_affine @ nibabel.affines.from_matvec(np.diag(step), (step - 1) / 2)

    @property
    def file_spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the files, on their own axes."""
        return tuple(float(mm) for mm in nibabel.affines.voxel_sizes(np.array(self.affine)))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the working arrays."""
        return tuple(float(mm) for mm in nibabel.affines.voxel_sizes(self.working_affine))

    def to_working(self, array: np.ndarray) -> np.ndarray:
        """An image on the box, turned to RAS+, resampled to the working grid."""
        return resampled(array, self.box_affine, self.working_shape, self.working_affine, antialias=True)

    def label_to_working(self, array: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """A label on the box, turned to RAS+, on the working grid; and for each class how many lesions it lost."""
        return resampled_label(array, self.box_affine, self.working_shape, self.working_affine)

    def to_box(self, array: np.ndarray) -> np.ndarray:
        """Working values (…, depth, height, width) resampled to the file's spacing, still cropped and in RAS+."""
        return resampled(array, self.working_affine, self.box_shape, self.box_affine, antialias=True)

    def answer_in_box(self, logits: np.ndarray) -> np.ndarray:
        """Class of each voxel of the box, uint8, from working logits (classes, …); no lesion is flattened away."""
        here, there = (values.argmax(0).astype(np.uint8) for values in (logits, self.to_box(logits)))
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
        # the leading axes go last, because nibabel turns the first three
        turned = orientations.apply_orientation(
            np.moveaxis(whole, range(len(leading)), range(3, whole.ndim)),
            orientations.ornt_transform(orientations.axcodes2ornt("RAS"), self._orientation))
        return np.ascontiguousarray(np.moveaxis(turned, range(3, whole.ndim), range(len(leading))))

    @property
    def box_slices(self) -> tuple[slice, ...]:
        """The box as slices of the file's array after turning to RAS+."""
        return tuple(slice(*edges) for edges in self.box)


def grid_of(scan: Volume | Stored, box: tuple, spacing_mm: Sequence[float]) -> Grid:
    """The grid that fills this box of a scan with voxels as near to the spacing as whole numbers allow."""
    affine = tuple(tuple(float(value) for value in row) for row in scan.affine)
    sizes = nibabel.affines.voxel_sizes(scan.affine)[np.argsort(orientations.io_orientation(scan.affine)[:, 0])]
    working = tuple(max(1, round((stop - start) * float(mm) / wanted))
                    for (start, stop), mm, wanted in zip(box, sizes, spacing_mm, strict=True))
    return Grid(tuple(int(n) for n in scan.shape), affine, tuple((int(a), int(b)) for a, b in box), working)


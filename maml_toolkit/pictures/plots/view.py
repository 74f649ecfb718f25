"""An axial slice of a case the way radiologists see it: from the feet, the right side of the patient on the left,
the front at the top, whatever the order of the axes in the file.

A plane is cut in patient space, so volumes on different grids are shown in one place:

    voxel = inverse(affine of the volume) · (affine of the plane) · (column, row, 0, 1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation
from scipy.ndimage import map_coordinates

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.system.errors import DataError

BODY_HU = -300
"""Air and lung lie below, everything that a CT is looked at for lies above."""


@dataclass(frozen=True)
class Plane:
    """A grid of pixels in patient space: columns run to the patient's left, rows to the front.

    Attributes:
        to_mm: 4x4, from (column, row, 0, 1), the lower left corner first, to millimetres (RAS+).
        size: columns and rows.
    """

    to_mm: np.ndarray
    size: tuple[int, int]

    @classmethod
    def through(cls, point_mm: Sequence[float] | np.ndarray, volume: Volume) -> Plane:
        """The axial slice of a volume that lies nearest to a point."""
        orientation = io_orientation(volume.affine)
        columns, rows, levels = np.take(volume.shape, np.argsort(orientation[:, 0])).tolist()
        from_the_right = np.diag([-1.0, 1.0, 1.0, 1.0])
        from_the_right[0, 3] = columns - 1
        to_mm = volume.affine @ inv_ornt_aff(orientation, volume.shape) @ from_the_right
        level = round((np.linalg.inv(to_mm) @ [*point_mm, 1])[2])
        to_mm[:, 3] += to_mm[:, 2] * np.clip(level, 0, levels - 1)
        return cls(to_mm, (columns, rows))

    def cut(self, volume: Volume, order: int = 1) -> np.ndarray:
        """The picture (rows, columns) of a volume on any grid; zero outside of it."""
        columns, rows = self.size
        row, column = np.mgrid[:rows, :columns].reshape(2, -1)
        pixels = np.stack([column, row, np.zeros_like(row), np.ones_like(row)])
        voxels = (np.linalg.inv(volume.affine) @ self.to_mm @ pixels)[:3]
        is_inside = (np.abs(voxels - np.subtract(volume.shape, 1)[:, None] / 2) <= np.divide(volume.shape, 2)[:, None])
        values = map_coordinates(volume.array, voxels, order=order, output=np.float32, mode="nearest")
        return np.where(is_inside.all(0), values, 0).reshape(rows, columns)

    @property
    def spacing_mm(self) -> np.ndarray:
        """Width and height of a pixel."""
        return np.linalg.norm(self.to_mm[:3, :2], axis=0)

    @property
    def extent_mm(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the picture."""
        width, height = self.spacing_mm * self.size
        return 0.0, float(width), 0.0, float(height)


@dataclass(frozen=True)
class View:
    """The pictures of a case in one plane.

    Attributes:
        images: modality -> its picture, as brightness 0 to 1.
        classes: where known, "truth" and "prediction" -> classes 0 to K-1 in the picture.
    """

    plane: Plane
    task: Task
    images: Mapping[str, np.ndarray]
    classes: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, case: Case, task: Task, prediction: Any, at: Sequence[int] | None) -> View:
        """The slice of a case through the voxel `at`, or where the lesion is largest.

        Raises:
            DataError: the case has no image, or one that cannot be read.
            ValueError: `at` lies outside.
        """
        images, classes = _images(case, task), _classes(case, task, prediction)
        grid = next(iter((classes | images).values()))
        plane = Plane.through(_largest(classes, grid) if at is None else _point_mm(at, grid, case), grid)
        return cls(plane, task,
                   {name: plane.cut(_brightness(image, task.intensities[name])) for name, image in images.items()},
                   {source: plane.cut(one, order=0).astype(int) for source, one in classes.items()})

    @property
    def source(self) -> str:
        """Whose lesion is drawn where one suffices: the truth's if it is known."""
        return next(iter(self.classes))

    @property
    def lesion(self) -> np.ndarray:
        """The whole lesion of that source."""
        return self.classes[self.source] > 0

    def of_class(self, name: str) -> np.ndarray:
        """One class of that source."""
        return self.classes[self.source] == self.task.class_names.index(name)

    def region(self, name: str, source: str) -> np.ndarray:
        """A region in the truth or in the prediction."""
        return self.task.region(self.classes[source], name)

    @property
    def frame_mm(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the part that is not empty, with a margin for the letters."""
        row, column = np.nonzero(np.any([image > 0 for image in self.images.values()], axis=0))
        if not len(row):
            return self.plane.extent_mm
        first, last = np.array([[column.min(), row.min()], [column.max() + 1, row.max() + 1]]) * self.plane.spacing_mm
        margin = 0.08 * (last - first).max()
        (left, bottom), (right, top) = np.clip([first - margin, last + margin], 0, self.plane.extent_mm[1::2]).tolist()
        return left, right, bottom, top


def _images(case: Case, task: Task) -> dict[str, Volume]:
    """The images of the task's modalities, the reference's first."""
    names = sorted(set(task.modalities) & set(case.images), key=lambda name: (name != task.reference, name))
    if not names:
        raise DataError(f"found no image, expected at least one of {', '.join(task.modalities)}",
                        "Name its files.", case=case.id)
    return {name: volumes.read(case.images[name], case=case.id, modality=name) for name in names}


def _classes(case: Case, task: Task, prediction: Any) -> dict[str, Volume]:
    """What is known of the lesion as classes 0 to K-1, the truth first."""
    known = {}
    if case.label is not None:
        known["truth"] = volumes.read_label(case.label, case=case.id)
    if prediction is not None:
        known["prediction"] = Volume(prediction.labels, prediction.affine)
    return {source: Volume(task.encode(one.array), one.affine) for source, one in known.items()}


def _point_mm(at: Sequence[int], grid: Volume, case: Case) -> np.ndarray:
    if np.shape(at) != (3,) or np.less(at, 0).any() or np.greater_equal(at, grid.shape).any():
        raise ValueError(f"case {case.id}: found the voxel {list(at)}, expected one inside {grid.shape}")
    return (grid.affine @ [*at, 1])[:3]


def _largest(classes: Mapping[str, Volume], grid: Volume) -> np.ndarray:
    """A point of the slice where the first source with a lesion has most of it; the centre without one."""
    for volume in classes.values():
        if (volume.array > 0).any():
            axis = io_orientation(volume.affine)[:, 0].tolist().index(2)
            areas = (volume.array > 0).sum(tuple({0, 1, 2} - {axis}))
            centre = np.subtract(volume.shape, 1) / 2
            centre[axis] = areas.argmax()
            return (volume.affine @ [*centre, 1])[:3]
    return (grid.affine @ [*np.floor_divide(grid.shape, 2), 1])[:3]


def _brightness(image: Volume, kind: str) -> Volume:
    """Intensities as 0 to 1, from the 0.5 to the 99.5 percentile: MR of non-zero voxels, CT of the body."""
    body = image.array[image.array > BODY_HU if kind == "ct" else image.array != 0 if kind == "mr" else ...]
    low, high = np.percentile(body if body.size else image.array, (0.5, 99.5))
    return Volume(np.clip((image.array - low) / max(high - low, 1e-6), 0, 1).astype(np.float32), image.affine)

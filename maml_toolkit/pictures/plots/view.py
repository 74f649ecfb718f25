"""Slices of a case the way radiologists see them: the right side of the patient on the left, whatever the order of the
axes in the file.

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
from maml_toolkit.data.label_sets import closed
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.system.errors import DataError

BODY_HU = -300
"""Air and lung lie below, everything that a CT is looked at for lies above."""

SHOWN_PERCENTILES = (0.5, 99.5)
"""Of the body's intensities: what is shown as black and as white."""

PLANES = {"axial": (0, 1, 2, "RLAP"), "coronal": (0, 2, 1, "RLSI"), "sagittal": (1, 2, 0, "APSI")}
"""The patient's axes (to the right, front and head) along the columns, along the rows and through the plane, and the
letters of its left, right, upper and lower side. Columns run to the left or to the back."""

Frame = tuple[float, float, float, float]
"""Left, right, bottom and top in mm."""


@dataclass(frozen=True)
class Plane:
    """A grid of pixels in patient space.

    Attributes:
        to_mm: 4x4, from (column, row, 0, 1), the lower left corner first, to millimetres (RAS+).
        size: columns and rows.
        letters: of the sides on the left, on the right, above and below.
    """

    to_mm: np.ndarray
    size: tuple[int, int]
    letters: str

    @classmethod
    def through(cls, point_mm: Sequence[float] | np.ndarray, volume: Volume, name: str = "axial") -> Plane:
        """The slice of a volume that lies nearest to a point: seen from the feet, the front or the patient's left."""
        across, up, through, letters = PLANES[name]
        orientation = io_orientation(volume.affine)
        size = np.take(volume.shape, np.argsort(orientation[:, 0])).tolist()
        upright = volume.affine @ inv_ornt_aff(orientation, volume.shape)
        level = round((np.linalg.inv(upright) @ [*point_mm, 1])[through])
        turn = np.zeros((4, 4))
        turn[across, [0, 3]] = -1, size[across] - 1
        turn[up, 1] = turn[through, 2] = turn[3, 3] = 1
        turn[through, 3] = np.clip(level, 0, size[through] - 1)
        return cls(upright @ turn, (size[across], size[up]), letters)

    def cut(self, volume: Volume, order: int = 1, outside: float = 0.0) -> np.ndarray:
        """The picture (rows, columns) of a volume on any grid."""
        columns, rows = self.size
        row, column = np.mgrid[:rows, :columns].reshape(2, -1)
        pixels = np.stack([column, row, np.zeros_like(row), np.ones_like(row)])
        voxels = (np.linalg.inv(volume.affine) @ self.to_mm @ pixels)[:3]
        is_inside = (np.abs(voxels - np.subtract(volume.shape, 1)[:, None] / 2) <= np.divide(volume.shape, 2)[:, None])
        values = map_coordinates(volume.array, voxels, order=order, output=np.float32, mode="nearest")
        return np.where(is_inside.all(0), values, outside).reshape(rows, columns)

    @property
    def spacing_mm(self) -> np.ndarray:
        """Width and height of a pixel."""
        return np.linalg.norm(self.to_mm[:3, :2], axis=0)

    @property
    def extent_mm(self) -> Frame:
        """Left, right, bottom and top of the picture."""
        width, height = self.spacing_mm * self.size
        return 0.0, float(width), 0.0, float(height)


@dataclass(frozen=True)
class View:
    """The pictures of a case in one plane.

    Attributes:
        images: modality -> its picture, as brightness 0 to 1.
        classes: where known, "ground truth" and "prediction" -> classes 0 to K-1 in the picture.
    """

    plane: Plane
    task: Task
    images: Mapping[str, np.ndarray]
    classes: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, case: Case, task: Task, prediction: Any = None, at: Sequence[int] | None = None,
           plane: Plane | None = None) -> View:
        """The axial slice of a case through the voxel `at`, or where the lesion is largest; or in a plane.

        Raises:
            DataError: the case has no image, or one that cannot be read.
            ValueError: `at` lies outside.
        """
        images = {name: volumes.read(case.images[name], case=case.id, modality=name) for name in acquired(case, task)}
        classes = _classes(case, task, prediction)
        grid = next(iter((classes | images).values()))
        if at is not None:
            check_voxel(at, grid, case)
        else:
            lesions = [one for one in classes.values() if one.array.any()]
            grid = lesions[0] if lesions else grid
            at = inside_largest_section(grid) if lesions else np.floor_divide(grid.shape, 2)
        windows = {name: window(image.array, task.intensities[name]) for name, image in images.items()}
        plane = plane or Plane.through((grid.affine @ [*at, 1])[:3], grid)
        return cls.cut(plane, task, images, windows, classes)

    @classmethod
    def cut(cls, plane: Plane, task: Task, images: Mapping[str, Volume], windows: Mapping[str, tuple[float, float]],
            classes: Mapping[str, Volume]) -> View:
        """The pictures of images, each in its window, and of classes in a plane."""
        return cls(plane, task,
                   {name: brightness(plane.cut(image, outside=windows[name][0]), *windows[name])
                    for name, image in images.items()},
                   {source: plane.cut(one, order=0).astype(int) for source, one in classes.items()})

    @property
    def source(self) -> str:
        """Whose lesion is drawn where one suffices: the ground truth's if it is known and the picture shows some."""
        return next((source for source, one in self.classes.items() if one.any()), next(iter(self.classes)))

    @property
    def lesion(self) -> np.ndarray:
        """The whole lesion of that source."""
        return self.classes[self.source] > 0

    def of_classes(self, numbers: Sequence[int]) -> np.ndarray:
        """Some classes of that source together."""
        return np.isin(self.classes[self.source], numbers)

    @property
    def largest_class(self) -> str:
        """The class of that source that is largest in the picture, not the background; or the region that paints it."""
        sizes = np.bincount(self.classes[self.source].ravel(), minlength=self.task.classes)
        return self.task.answers.named(1 + int(sizes[1:].argmax()))

    @property
    def frame_mm(self) -> Frame:
        """Left, right, bottom and top of the part that is not empty, with a margin for the letters."""
        row, column = np.nonzero(np.any([image > 0 for image in self.images.values()], axis=0))
        if not len(row):
            return self.plane.extent_mm
        first, last = np.array([[column.min(), row.min()], [column.max() + 1, row.max() + 1]]) * self.plane.spacing_mm
        margin = 0.08 * (last - first).max()
        (left, bottom), (right, top) = np.clip([first - margin, last + margin], 0, self.plane.extent_mm[1::2]).tolist()
        return left, right, bottom, top


def window(array: np.ndarray, kind: str) -> tuple[float, float]:
    """What is shown as black and as white: SHOWN_PERCENTILES, of a CT of the body, of an MR of what is not 0."""
    body = array[array > BODY_HU if kind == "ct" else array != 0 if kind == "mr" else ...]
    low, high = np.percentile(body if body.size else array, SHOWN_PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def brightness(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Intensities in a window as 0 to 1."""
    return np.clip((pixels - low) / (high - low), 0, 1)


def inside_largest_section(lesion: Volume) -> np.ndarray:
    """The voxel (i, j, k) of a lesion nearest to the middle of its largest axial cross-section."""
    axis = io_orientation(lesion.affine)[:, 0].tolist().index(2)
    level = (lesion.array > 0).sum(tuple({0, 1, 2} - {axis})).argmax()
    voxels = np.argwhere(np.take(lesion.array, [level], axis) > 0)
    voxels[:, axis] = level
    return voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]


def check_voxel(at: Sequence[int], grid: Any, case: Case) -> None:
    """Raises ValueError where a voxel (i, j, k) lies outside of a grid."""
    if np.shape(at) != (3,) or np.less(at, 0).any() or np.greater_equal(at, grid.shape).any():
        raise ValueError(f"case {case.id}: found the voxel {list(at)}, expected one inside {grid.shape}")


def acquired(case: Case, task: Task) -> list[str]:
    """The task's modalities that a case has, the reference first.

    Raises:
        DataError: it has none.
    """
    names = sorted(set(task.modalities) & set(case.images), key=lambda name: (name != task.reference, name))
    if not names:
        raise DataError(f"found no image, expected at least one of {', '.join(task.modalities)}", "Name its files.",
                        case=case.id)
    return names


def _classes(case: Case, task: Task, prediction: Any) -> dict[str, Volume]:
    """What is known of the lesion as classes 0 to K-1, the ground truth first."""
    known = {}
    if case.label is not None:
        known["ground truth"] = volumes.read_label(case.label, case=case.id), case.scheme(task)
    if prediction is not None:
        known["prediction"] = Volume(prediction.labels, prediction.affine), task
    return {source: Volume(closed(own.encode(one.array)), one.affine) for source, (one, own) in known.items()}

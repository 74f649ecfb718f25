"""A transform: where each point of the fixed scan lies in the moving scan.

    moving point = T(fixed point),        resampled(x) = moving(T(x))

That is the direction in which elastix, ITK, ANTs and 3D Slicer keep transforms, because resampling needs it. Points
here are millimetres, RAS+, as in NIfTI; ITK's are LPS+, and only this file turns the one into the other. A composite
transform of ITK applies the one that was added last first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from maml_toolkit.data import resampling
from maml_toolkit.data.resampling import LPS, itk_grid, resampled_label
from maml_toolkit.data.volumes import Volume
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import whole_file

ENDINGS = (".tfm", ".txt")
"""Of ITK's text files of transforms."""

FLIP = LPS.diagonal()[:3]
"""Of a point, from RAS+ to LPS+ and back."""

Grid = Volume | tuple[Sequence[int], np.ndarray]
"""A volume, or shape and affine (RAS+)."""


@dataclass(frozen=True)
class Transform:
    """Maps points of the fixed scan to points of the moving scan.

    Attributes:
        itk: the same transform in SimpleITK, in ITK's coordinates (mm, LPS+).
    """

    itk: sitk.Transform

    @classmethod
    def identity(cls) -> Transform:
        """Leaves every point where it is."""
        return cls(sitk.Transform(3, sitk.sitkIdentity))

    @classmethod
    def linear(cls, matrix: np.ndarray) -> Transform:
        """An affine transform from its 4x4 matrix: fixed to moving points, mm, RAS+."""
        turned = LPS @ matrix @ LPS
        return cls(sitk.AffineTransform(turned[:3, :3].ravel().tolist(), turned[:3, 3].tolist()))

    @classmethod
    def load(cls, path: str | Path) -> Transform:
        """A transform from an ITK file: one that `save` wrote, or one of ITK, ANTs, 3D Slicer or a published data set.

        Raises:
            DataError: the file holds no 3-D transform.
        """
        try:
            found = sitk.ReadTransform(str(path))
        except RuntimeError as error:
            raise DataError("this file holds no transform that ITK can read",
                            "Give a file that was saved as an ITK transform (.tfm, .txt).", path=path) from error
        if found.GetDimension() != 3:
            raise DataError(f"found a {found.GetDimension()}-D transform, expected a 3-D one",
                            "Give the transform of a volume.", path=path)
        return cls(found.Downcast())

    def save(self, path: str | Path) -> None:
        """Write an ITK text file (.tfm or .txt), which 3D Slicer, ANTs and SimpleITK read; whole or not at all.

        Raises:
            ValueError: the name ends otherwise.
        """
        path = Path(path)
        if path.suffix not in ENDINGS:
            raise ValueError(f"found the output name {path}, expected one that ends in {' or '.join(ENDINGS)}")
        with whole_file(path) as temporary:
            sitk.WriteTransform(self.itk, str(temporary))

    def apply(self, volume: Volume, grid_of: Grid, *, label: bool = False, outside: float | None = None) -> Volume:
        """The moving scan on a grid of the fixed scan.

        Args:
            volume: the moving scan, or what was drawn on it.
            grid_of: on which the result lies.
            label: of the type of `volume`, small lesions survive; images are interpolated linearly, in float32.
            outside: of the voxels that the moving scan does not cover; its minimum when left out, 0 for a label.
        """
        if label:
            return self.carry(volume, grid_of)[0]
        shape, affine = _grid(grid_of)
        array = volume.array.astype(np.float32)
        outside = float(array.min()) if outside is None else outside
        return Volume(resampling.resampled(array, volume.affine, shape, affine, outside=outside, transform=self.itk),
                      affine)

    def carry(self, label: Volume, grid_of: Grid) -> tuple[Volume, dict[int, int]]:
        """A label map of the moving scan on a grid of the fixed scan, and value -> number of lesions that it lost."""
        shape, affine = _grid(grid_of)
        array, lost = resampled_label(label.array, label.affine, shape, affine, self.itk)
        return Volume(array, affine), lost

    def points(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, 3) of the fixed scan lie in the moving scan; mm, RAS+."""
        turned = np.asarray(points, float).reshape(-1, 3) * FLIP
        return np.array([self.itk.TransformPoint(point) for point in turned.tolist()]).reshape(-1, 3) * FLIP

    def points_of_grid(self, grid_of: Grid) -> np.ndarray:
        """Where the voxels of a grid lie in the moving scan (i, j, k, 3); mm, RAS+. Much faster than `points`."""
        shape, affine = _grid(grid_of)
        field = sitk.TransformToDisplacementField(self.itk, sitk.sitkVectorFloat64, [int(n) for n in shape],
                                                  *itk_grid(affine))
        moved = sitk.GetArrayViewFromImage(field).transpose(2, 1, 0, 3) * FLIP
        return moved + nibabel.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))

    def inverse_points(self, points: np.ndarray, *, tolerance_mm: float = 0.01, iterations: int = 100) -> np.ndarray:
        """Where points (n, 3) of the moving scan lie in the fixed scan; mm, RAS+.

        Newton's iteration with the inverse of the linear part A in place of that of the Jacobian:

            x <- x + inverse(A) (y - T(x))

        Raises:
            DataError: it does not come to within `tolerance_mm`, because the transform folds, or stretches too much.
        """
        wanted = np.asarray(points, float).reshape(-1, 3)
        linear = np.linalg.inv(self._linear_part())
        found = nibabel.affines.apply_affine(linear, wanted)
        off = np.full(len(wanted), np.inf)
        for _ in range(iterations):
            missing = wanted - self.points(found)
            off = np.linalg.norm(missing, axis=1)
            if not (off > tolerance_mm / 10).any():
                break
            found = found + missing @ linear[:3, :3].T
        if (off > tolerance_mm).any():
            raise DataError(f"{int((off > tolerance_mm).sum())} of {len(off)} points are still up to {off.max():.3g} "
                            f"mm off after {iterations} iterations, expected {tolerance_mm:g} mm: the transform cannot "
                            "be inverted there",
                            "Register again with a coarser B-spline grid, or with linear stages only.")
        return found

    def _linear_part(self) -> np.ndarray:
        """The 4x4 matrix, RAS+, of the transform without its B-splines."""
        every = sitk.CompositeTransform([sitk.Transform(3, sitk.sitkIdentity), self.itk])
        every.FlattenTransform()
        parts = map(every.GetNthTransform, range(every.GetNumberOfTransforms()))
        linear = sitk.CompositeTransform([part for part in parts if part.IsLinear()])
        origin, *axes = (np.array(linear.TransformPoint(point)) for point in np.eye(4, 3, -1).tolist())
        return LPS @ nibabel.affines.from_matvec(np.column_stack(axes) - origin[:, None], origin) @ LPS


def itk_image(volume: Volume) -> sitk.Image:
    """A volume in SimpleITK, as float32."""
    return resampling.itk_image(volume.array.astype(np.float32), volume.affine)


def volume_of(image: sitk.Image) -> Volume:
    """A SimpleITK image as a volume."""
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    array = np.ascontiguousarray(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0))
    return Volume(array, LPS @ nibabel.affines.from_matvec(direction, image.GetOrigin()))


def _grid(grid_of: Grid) -> tuple[tuple[int, ...], np.ndarray]:
    shape, affine = (grid_of.shape, grid_of.affine) if isinstance(grid_of, Volume) else grid_of
    return tuple(int(n) for n in shape), np.asarray(affine, float)

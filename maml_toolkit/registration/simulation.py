"""Another phase of a liver CT, simulated from one that was acquired, so that where each point went is known.

Such scans are rarely published. Here the patient is moved by a known shift and a known smooth B-spline that resembles
breathing (organs below the diaphragm move most, the spine least), contrast agent is made to wash in or out, the scan
covers another range and has another spacing. What comes out is marked as simulated wherever it appears: in the class
that holds it, in the `descrip` field of its NIfTI header and in its file name. It tests software; it is no scan of a
patient.

    simulated(y) = contrast(scan(U(y))),       U(y) = y + shift + B-spline(y)
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from maml_toolkit.data import volumes
from maml_toolkit.data.nifti import MARK
from maml_toolkit.data.volumes import AIR_HU, Volume
from maml_toolkit.registration.transforms import FLIP, Transform


@dataclass(frozen=True)
class Simulated:
    """A simulated phase; no scan of a patient.

    Attributes:
        volume: its image, HU.
        label: the label of the acquired scan, moved the same way.
        to_acquired: maps points of the simulated phase to points of the acquired scan (U above).
        description: says that it is simulated, and how.
    """

    volume: Volume
    label: Volume
    to_acquired: Transform
    description: str

    def true_points(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, 3) of the acquired scan truly lie in the simulated phase; mm, RAS+, to 0.001 mm."""
        return self.to_acquired.inverse_points(points, tolerance_mm=0.001)

    def write(self, folder: str | Path, name: str) -> tuple[Path, Path]:
        """Save image and label as `<name>_simulated.nii.gz` and `<name>_simulated_seg.nii.gz`."""
        paths = Path(folder) / f"{name}_{MARK}.nii.gz", Path(folder) / f"{name}_{MARK}_seg.nii.gz"
        for path, volume in zip(paths, (self.volume, self.label), strict=True):
            volumes.write(path, volume.array, volume.affine, self.description)
        return paths


def simulate_phase(volume: Volume, label: Volume, *, seed: int, breathing_mm: float = 12.0, wobble_mm: float = 3.0,
                   shift_mm: tuple[float, float, float] = (4.0, -6.0, 8.0),
                   spacing_mm: tuple[float, float, float] = (1.0, 1.0, 2.5), kept: tuple[float, float] = (0.1, 0.95),
                   enhancement_hu: float = -40.0, noise_hu: float = 8.0) -> Simulated:
    """Simulate another phase of a CT by a known movement; the result is simulated, not acquired.

    Args:
        volume: the acquired CT, HU.
        label: drawn on it; where it is not 0 the enhancement changes.
        seed: of the wobble and the noise.
        breathing_mm: largest movement along the body's axis, in front, falling to 0 at the back.
        wobble_mm: standard deviation of the B-spline's control points, 60 mm apart, in each direction.
        shift_mm: of the whole patient, RAS+.
        spacing_mm: of the simulated scan.
        kept: part of the scan's range along the body's axis that the simulated scan covers, 0 to 1 from below.
        enhancement_hu: added inside the label; a third of it to all other soft tissue.
        noise_hu: standard deviation.
    """
    random = np.random.default_rng(seed)
    low, high = _box(volume)
    movement = _movement(low, high, shift_mm, breathing_mm, wobble_mm, random)
    shape, affine = _frame(low, high, spacing_mm, kept)
    moved_label = movement.apply(label, (shape, affine), label=True)
    hounsfield = movement.apply(volume, (shape, affine), outside=AIR_HU).array
    soft = (hounsfield > -20) & (hounsfield < 250)
    contrast = hounsfield + enhancement_hu * np.where(moved_label.array > 0, 1, soft / 3)
    noisy = contrast + random.normal(0, noise_hu, shape)
    image = np.where(hounsfield > -900, noisy, hounsfield).astype(np.float32)
    description = f"{MARK} phase: known B-spline {breathing_mm:g} mm, shift {shift_mm}, seed {seed}"
    return Simulated(Volume(image, affine), moved_label, movement, description)


def _box(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of a scan in patient space, RAS+."""
    corners = np.array([*itertools.product(*((0, n - 1) for n in volume.shape))])
    placed = nib.affines.apply_affine(volume.affine, corners)
    return placed.min(0), placed.max(0)


def _frame(low: np.ndarray, high: np.ndarray, spacing_mm: tuple[float, float, float],
           kept: tuple[float, float]) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the simulated scan."""
    first, last = low.copy(), high.copy()
    first[2], last[2] = low[2] + np.array(kept) * (high[2] - low[2])
    shape = tuple(int(n) for n in np.floor((last - first) / spacing_mm) + 1)
    return shape, nib.affines.from_matvec(np.diag(spacing_mm), first)


def _movement(low: np.ndarray, high: np.ndarray, shift_mm: tuple[float, float, float], breathing_mm: float,
              wobble_mm: float, random: np.random.Generator) -> Transform:
    """U: simulated to acquired points."""
    margin = np.abs(shift_mm) + 2 * breathing_mm + 20
    extent = high - low + 2 * margin
    mesh = np.maximum(np.rint(extent / 60), 2).astype(int)
    spline = sitk.BSplineTransform(3, 3)
    spline.SetTransformDomainMeshSize(mesh.tolist())
    spline.SetTransformDomainOrigin(np.minimum(FLIP * (low - margin), FLIP * (high + margin)).tolist())
    spline.SetTransformDomainPhysicalDimensions(extent.tolist())
    points = tuple(mesh[::-1] + 3)
    control = random.normal(0, wobble_mm, (3, *points))
    front = np.linspace(1, 0, points[1])          # LPS: the second axis runs to the back
    control[2] += breathing_mm * front[None, :, None]
    spline.SetParameters(control.ravel().tolist())
    shift = sitk.TranslationTransform(3, (FLIP * shift_mm).tolist())
    return Transform(sitk.CompositeTransform([shift, spline]))

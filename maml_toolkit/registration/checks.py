"""Whether two scans can be registered, and whether a registration is better than none.

The numbers do not need a label. Over the body of the fixed scan: how much of it the moving scan covers, the Dice
overlap of the two bodies, the normalised mutual information of the intensities (1: independent, 2: one determines the
other), and the Jacobian determinant of the transform (the factor by which it changes volumes; negative: it folds).

    NMI = (H(fixed) + H(moving)) / H(fixed, moving)

References:
    C. Studholme et al. An overlap invariant entropy measure of 3D medical image alignment. Pattern Recognition, 1999.
    https://doi.org/10.1016/S0031-3203(98)00091-0
"""

from dataclasses import asdict, dataclass

import nibabel
import numpy as np
import SimpleITK as sitk
from scipy import stats
from scipy.ndimage import binary_closing, binary_fill_holes, label

from maml_toolkit.data.label_sets import overlap
from maml_toolkit.data.volumes import Volume
from maml_toolkit.registration.transforms import Transform, itk_image, volume_of
from maml_toolkit.system.errors import DataError

FEWEST_SLICES = 4
"""Along each axis; elastix's pyramids and splines need neighbours, and one slice kills its process."""

COARSE_MM = 3.0
"""Voxel size on which scans are compared: a second for a whole abdomen, and noise is averaged away."""

BINS = 48
"""Of the histograms."""

BODY_HU = -300.0
"""Air and lung lie below."""


@dataclass(frozen=True)
class Measures:
    """How well the moving scan lies on the fixed one.

    Attributes:
        nmi: normalised mutual information inside the fixed body, 1 to 2.
        body_dice: overlap of the two bodies where the moving scan covers the fixed one, 0 to 1.
        covered: share of the fixed body that the moving scan covers, 0 to 1.
        jacobian_min: smallest Jacobian determinant inside the fixed body; 1 without a transform.
        folded: share of the fixed body where the determinant is not positive.
        shift_mm: mean distance by which points of the fixed body are moved.
    """

    nmi: float
    body_dice: float
    covered: float
    jacobian_min: float = 1.0
    folded: float = 0.0
    shift_mm: float = 0.0

    def to_json(self) -> dict[str, float]:
        """Plain numbers, for records."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def check_scan(volume: Volume, role: str) -> None:
    """Refuse what elastix answers with a crash, a riddle, or an image of zeros.

    Args:
        role: "fixed" or "moving", for the message.

    Raises:
        DataError: fewer than FEWEST_SLICES along an axis, voxels that are no numbers, or all of one value.
    """
    if volume.array.ndim != 3 or min(volume.shape) < FEWEST_SLICES:
        raise DataError(f"the {role} scan has the shape {volume.shape}, expected three axes of at least {FEWEST_SLICES}"
                        " voxels", "Put the slices of the series into one volume, or leave this scan out.")
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise DataError(f"the {role} scan holds voxels that are not finite numbers",
                        "Export the image again, or replace them on purpose.")
    if lowest == highest:
        raise DataError(f"every voxel of the {role} scan is {lowest:g}, expected an image",
                        "Export the image again, or leave this scan out of the case.")


def shrunk(volume: Volume, spacing_mm: float) -> Volume:
    """The volume with whole blocks of voxels averaged, to voxels of at most about this size."""
    factors = [int(max(1, min(np.floor(spacing_mm / mm + 1e-3), n // FEWEST_SLICES)))
               for mm, n in zip(volume.spacing_mm, volume.shape, strict=True)]
    return volume if max(factors) == 1 else volume_of(sitk.BinShrink(itk_image(volume), factors))


def body(volume: Volume, kind: str) -> np.ndarray:
    """The mask of the patient: the largest connected part that is brighter than air, its holes filled.

    Args:
        kind: "ct": above BODY_HU; "mr": above half of Otsu's threshold.
    """
    if kind == "ct":
        mask = volume.array > BODY_HU
    else:
        dark = float(np.percentile(volume.array, 1))
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(itk_image(volume))
        mask = volume.array > dark + 0.5 * (otsu.GetThreshold() - dark)
    parts, number = label(mask)
    if number > 1:
        mask = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return binary_fill_holes(binary_closing(mask) | mask)


def measured(fixed: Volume, moving: Volume, transforms: list[Transform], kind: str) -> list[Measures]:
    """The measures for each transform, on the same voxels as far as each covers them.

    Args:
        fixed, moving: the scans, of any size; they are compared on voxels of about COARSE_MM.
        kind: "mr" or "ct".
    """
    fixed, moving = shrunk(fixed, COARSE_MM), shrunk(moving, COARSE_MM)
    inside = body(fixed, kind)
    whole, moving_body = (Volume(mask.astype(np.uint8), moving.affine)
                          for mask in (np.ones(moving.shape), body(moving, kind)))
    carried = [transform.apply(moving, fixed).array for transform in transforms]
    seen, bodies = ([transform.apply(mask, fixed, label=True).array > 0 for transform in transforms]
                    for mask in (whole, moving_body))
    covers = [inside & view for view in seen]
    shared = np.logical_and.reduce(covers)
    is_enough = shared.sum() >= 0.25 * max(cover.sum() for cover in covers)
    found = []
    for transform, one, cover, other, view in zip(transforms, carried, covers, bodies, seen, strict=True):
        mask = shared if is_enough else cover
        found.append(Measures(
            normalised_mutual_information(fixed.array[mask], one[mask]),
            overlap(inside & view, other & view, empty=0.0),
            float(cover.sum() / max(inside.sum(), 1)), *_deformation(transform, fixed, inside)))
    return found


def normalised_mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Studholme's measure of two lists of intensities of the same voxels; 1 where there are none."""
    if one.size == 0:
        return 1.0
    clipped = (np.clip(values, *np.percentile(values, (0.5, 99.5))) for values in (one, other))
    joint = np.histogram2d(*clipped, BINS)[0]
    both = stats.entropy(joint, axis=None)
    return 1.0 if both == 0 else float((stats.entropy(joint.sum(0)) + stats.entropy(joint.sum(1))) / both)


def check_result(before: Measures, after: Measures, voxel_mm: float) -> None:
    """Refuse a registration that is worse than none.

    The mutual information of scans that lay on one another before may sink a little, because only the
    transformed one is interpolated: that is accepted where nothing moved by more than half a voxel.

    Args:
        voxel_mm: size of the voxels that were compared.

    Raises:
        DataError: with the numbers before and after.
    """
    look = "Look at both scans: are they of one patient, one body region, and is the header right? "
    if after.folded > 0:
        raise DataError(f"the transform folds in {100 * after.folded:.2g} % of the body (smallest Jacobian determinant "
                        f"{after.jacobian_min:.2f}), expected positive everywhere",
                        "Use a coarser B-spline grid, a heavier bending energy (Metric1Weight), or no B-spline stage.")
    if after.covered < 0.5 * before.covered or after.covered == 0:
        raise DataError(f"the registered scan covers {100 * after.covered:.0f} % of the fixed body, and without "
                        f"registration {100 * before.covered:.0f} %",
                        look + "Then take force=True (--force), or leave it out.")
    if after.body_dice < before.body_dice - 0.1:
        raise DataError(f"the bodies overlap with Dice {after.body_dice:.2f} after registration and "
                        f"{before.body_dice:.2f} without", look + "Then take force=True (--force), or leave it out.")
    if after.nmi < before.nmi - 0.01 * (before.nmi - 1) and after.shift_mm > 0.5 * voxel_mm:
        raise DataError(f"the normalised mutual information is {after.nmi:.4f} after registration and {before.nmi:.4f} "
                        "without: worse than doing nothing",
                        look + "Give more iterations and samples, fewer stages, or leave it out.")


def _deformation(transform: Transform, grid: Volume, inside: np.ndarray) -> tuple[float, float, float]:
    """Smallest Jacobian determinant, share of folded voxels and mean shift inside a mask."""
    moved = transform.points_of_grid(grid)
    here = nibabel.affines.apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))
    by_voxel = np.stack(np.gradient(moved, axis=(0, 1, 2)), axis=-1)
    determinants = np.linalg.det(by_voxel[inside]) / np.linalg.det(grid.affine[:3, :3])
    if not determinants.size:
        return 1.0, 0.0, 0.0
    shift = np.linalg.norm((moved - here)[inside], axis=1).mean()
    return float(determinants.min()), float((determinants <= 0).mean()), float(shift)

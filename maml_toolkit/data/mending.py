"""One file mended on purpose: each repair is asked for by name, the input stays as it is, the result passes all checks.

The readers repair nothing by themselves, since only a person knows which of two contradictory headers is right or
which of several frames is meant. A result should be looked at, beside the other scans of the case.
"""

from pathlib import Path

import nibabel as nib
import numpy as np

from maml_toolkit.data import nifti, volumes
from maml_toolkit.data.geometry import check_unit
from maml_toolkit.data.resampling import resampled, resampled_label
from maml_toolkit.system.errors import DataError, warn_of
from maml_toolkit.system.integers import whole

FACTORS = {"millimetre": 1.0, "metre": 1000.0, "micrometre": 0.001}
"""Millimetres in a unit."""


def mend(source: str | Path, result: str | Path, *, label: bool = False, frame: int | None = None,
         fill: float | int | None = None, prefer: str | None = None, orientation: str | None = None,
         unit: str | None = None, straighten: bool = False, onto: str | Path | None = None) -> Path:
    """Write a mended copy of a NIfTI file.

    Args:
        source, result: the file and the new one, which must not exist.
        label: it is a label map: values become whole numbers, scaled by the header, and are resampled so that small
            lesions survive (images: linearly).
        frame: which frame of a 4-D file to keep, from 0.
        fill: what NaN and Inf are replaced by.
        prefer: "sform" or "qform": which of two forms that disagree is right. The qform brings pixdim's voxel sizes.
        orientation: the directions of the axes, such as "LPS", of a file that says none; the sizes are pixdim's and
            the middle of the volume is put at the origin.
        unit: what the numbers of the header are in: millimetre, metre or micrometre.
        straighten: resample a sheared grid onto a straight one that holds all of it.
        onto: a file on whose grid the image is resampled.

    Returns:
        The new file.

    Warns:
        DataWarning: a connected part of a label is not on the new grid.

    Raises:
        DataError: the source is damaged, the result exists, or something is wrong that was not asked to be mended.
        ValueError: an argument is none of those above.
    """
    source, result = Path(source), Path(result)
    _check(result, prefer, orientation, unit)
    with nifti.located(None, None, source):
        image = _loaded(source, frame)
        affine = _affine(image, prefer, orientation, unit)
    values = np.asanyarray(image.dataobj)
    values = values.reshape(values.shape[:3]) if values.ndim > 3 and np.prod(values.shape[3:]) == 1 else values
    if fill is not None and values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, values.dtype.type(fill))
    if values.ndim != 3 or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        _check_result(values, affine, label, source)          # says what is wrong, and the rest cannot work with it
    if label and values.dtype.kind == "f":
        values = _whole(values, source)
    if straighten:
        values, affine = _moved(values, affine, *straight_grid(values.shape, affine), label, source)
    if onto is not None:
        shape, target = volumes.read_header(Path(onto))
        values, affine = _moved(values, affine, shape, target, label, source)
    _check_result(values, affine, label, source)
    volumes.write(result, values, affine, nifti.mark_in(image.header, source))
    return result


def _check(result: Path, prefer: str | None, orientation: str | None, unit: str | None) -> None:
    if prefer not in (None, "sform", "qform"):
        raise ValueError(f"found prefer={prefer!r}, expected 'sform' or 'qform'")
    if unit not in (None, *FACTORS):
        raise ValueError(f"found unit={unit!r}, expected one of {', '.join(FACTORS)}")
    letters = (orientation or "LPS").upper()
    if len(letters) != 3 or any(len(set(letters) & set(pair)) != 1 for pair in ("LR", "AP", "IS")):
        raise ValueError(f"found orientation={orientation!r}, expected three letters, one of L and R, one of A and P, "
                         "one of I and S")
    if result.exists():
        raise DataError("the file exists, expected a new name", "Choose another; nothing is overwritten.", path=result)
    if not result.parent.is_dir():
        raise DataError("its folder does not exist", "Make the folder first.", path=result)


def _loaded(source: Path, frame: int | None) -> nib.Nifti1Image:
    image = nifti.image_of(source, any_voxel_size=True)
    if frame is None:
        return image
    if len(image.shape) != 4 or not 0 <= frame < image.shape[3]:
        raise DataError(f"found the shape {image.shape}, expected four axes and a frame {frame}",
                        "Frames are counted from 0.")
    return image.slicer[..., frame]


def _affine(image: nib.Nifti1Image, prefer: str | None, orientation: str | None, unit: str | None) -> np.ndarray:
    header = image.header
    if unit is None:
        check_unit(header)
    present = [form for form in ("sform", "qform") if header[f"{form}_code"]]
    if orientation is None and (not present or prefer not in (None, *present)):
        found = f"no {prefer}" if prefer and present else "neither a qform nor an sform: left and right are unknown"
        raise DataError(f"found {found}", f"Prefer the {present[0]}." if present else
                        "If you know the directions of the axes, give them as orientation: `mend --orientation LPS`.")
    if orientation is not None:
        affine = _centred(image.shape[:3], header.get_zooms()[:3], orientation.upper())
    else:
        affine = np.array(header.get_sform() if (prefer or present[0]) == "sform" else header.get_qform(), np.float64)
    affine[:3] *= FACTORS[unit or "millimetre"]
    return affine


def _centred(shape: tuple[int, ...], sizes: tuple, orientation: str) -> np.ndarray:
    (world, sign), matrix = nib.orientations.axcodes2ornt(orientation).T, np.zeros((3, 3))
    matrix[world.astype(int), range(3)] = sign * sizes
    return nib.affines.from_matvec(matrix, -matrix @ (np.subtract(shape, 1) / 2))


def _whole(values: np.ndarray, source: Path) -> np.ndarray:
    rounded = np.rint(values)
    if (off := np.abs(values - rounded).max()) > 1e-3:
        raise DataError(f"found values {off:.2g} away from whole numbers in a label, expected class numbers",
                        "Was it resampled linearly? Draw or export the label again.", path=source)
    return whole(rounded)


def straight_grid(shape: tuple[int, ...], affine: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """The grid with right angles that is nearest to a sheared one and holds all of it."""
    sizes = nib.affines.voxel_sizes(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / sizes)
    axes = left @ right * sizes                      # the nearest rotation, Procrustes
    corners = nib.affines.apply_affine(affine, np.array(list(np.ndindex(2, 2, 2))) * np.subtract(shape, 1))
    inside = corners @ np.linalg.inv(axes).T
    low, high = inside.min(axis=0), inside.max(axis=0)
    return tuple(int(n) for n in np.ceil(high - low - 1e-6) + 1), nib.affines.from_matvec(axes, axes @ low)


def _moved(values: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray,
           label: bool, source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values on another grid, linear for an image, with its lowest value outside."""
    if not label:
        image = values.astype(np.float32)
        return resampled(image, affine, shape, target, outside=float(image.min())), target
    moved, lost = resampled_label(values, affine, shape, target)
    warn_of([DataError(f"{count} connected parts of the value {value} are not on the new grid: they lie outside, or "
                       "share a voxel with another part", "Look at the result.", modality="label", path=source)
             for value, count in lost.items()])
    return moved, target


def _check_result(values: np.ndarray, affine: np.ndarray, label: bool, source: Path) -> None:
    """What is written must pass what is read."""
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    try:
        volumes.opened(image, label=label)
    except DataError as error:
        raise DataError(f"something else is wrong with it: {error.problem}", error.remedy, path=source) from None

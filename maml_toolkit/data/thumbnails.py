"""Small pictures of volumes, cheap enough to be made of every file that an audit reads."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel import orientations

from maml_toolkit.data.volumes import Stored

SIDE = 128
"""Pixels along the longer side."""

CT_WINDOW_HU = (-160.0, 240.0)
"""What is shown of a CT: the usual window of the abdomen."""


def slice_through(stored: Stored, at_mm: float | None = None) -> np.ndarray:
    """One axial slice with square pixels, values as stored: anterior at the top, the patient's right at the left.

    Args:
        at_mm: its height; the middle when left out. The nearest slice that there is.
    """
    turned, affine = _turned(stored)
    middle = np.subtract(turned.shape, 1) / 2
    step = affine[2, 2] or 1.0
    height = affine[2, :3] @ middle + affine[2, 3]
    at = middle[2] + (0.0 if at_mm is None else (at_mm - height) / step)
    plane = turned[:, :, int(np.clip(round(at), 0, turned.shape[2] - 1))]
    size_mm = np.multiply(plane.shape, nib.affines.voxel_sizes(affine)[:2])
    pixels = np.maximum(1, np.rint(SIDE * size_mm / size_mm.max())).astype(int)
    x, y = (np.linspace(n - 1, 0, count).round().astype(int) for n, count in zip(plane.shape, pixels, strict=True))
    return plane[np.ix_(x, y)].T


def height_of_lesion(label: Stored) -> float | None:
    """Where, in mm along the patient, an axial slice cuts most of the label; None where it is empty."""
    turned, affine = _turned(label)
    counts = np.count_nonzero(turned, axis=(0, 1))
    if not counts.any():
        return None
    middle = np.subtract(turned.shape, 1) / 2
    return float(affine[2, :3] @ [middle[0], middle[1], counts.argmax()] + affine[2, 3])


def greys(pixels: np.ndarray, intensities: str) -> np.ndarray:
    """A slice as bytes: a CT in the window of the abdomen, an MR between percentiles of what is not zero."""
    values = pixels.astype(np.float32)
    shown = values[values != 0]
    low, high = CT_WINDOW_HU if intensities == "ct" else np.percentile(shown, (1, 99)) if shown.size else (0, 1)
    return (np.clip((values - (low if intensities == "ct" else min(low, 0))) / max(high - low, 1e-6), 0, 1)
            * 255).astype(np.uint8)


def _turned(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """The values, a view, with axes as near as can be to right, anterior, superior, and their affine."""
    turn = orientations.io_orientation(stored.affine)
    return (orientations.apply_orientation(stored.values, turn),
            stored.affine @ orientations.inv_ornt_aff(turn, stored.shape))

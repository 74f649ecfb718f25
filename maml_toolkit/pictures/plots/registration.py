"""Whether two scans lie on one another: before and after the registration, in an axial and a coronal plane.

In a checkerboard the fields are by turns of the fixed and of the moving scan: the outlines of the organs run on from
field to field where the scans agree, and break where they do not. The edges are those of the fixed scan, drawn over
the moving one: they shall follow its organs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.look import EDGES, contour, in_one_look, legend, panel_grid, picture
from maml_toolkit.pictures.plots.view import Plane, brightness, window
from maml_toolkit.registration import Registration, Transform

PLANES = ("axial", "coronal")

FIELDS = 8
"""Of the checkerboard, along the longer side of the picture."""


@in_one_look
def registration_check(fixed: Volume, moving: Volume, registration: Registration, *,
                       planes: Sequence[str] = PLANES, at_mm: Sequence[float | int] | None = None,
                       names: tuple[str, str] = ("fixed scan", "moving scan"), axes: Any = None) -> np.ndarray:
    """Shows two scans as checkerboard and as edges, before and after the registration, with its NMI in the titles.

    Args:
        fixed, moving: the scans that were registered.
        planes: "axial", "coronal" or both, through one point.
        at_mm: this point (mm, RAS+); the middle of the fixed scan's body when left out.
        names: of the two scans, for titles and legend.
        axes: two rows, with two axes for each plane; a new figure when left out.

    Returns:
        The axes, shape (2, 2 * planes): above before, below after the registration.

    Raises:
        ValueError: an unknown plane, or the number of axes is wrong.
    """
    if not planes or set(planes) - set(PLANES):
        raise ValueError(f"found the planes {list(planes)}, expected some of {', '.join(PLANES)}")
    kind = registration.recipe.kind
    own = _shown(fixed, kind)
    other = own if kind == "ct" else _shown(moving, kind)    # Hounsfield units mean one thing in both scans
    point = _middle(fixed, *own) if at_mm is None else np.asarray(at_mm, float)
    cuts = {plane: Plane.through(point, fixed, plane) for plane in planes}
    panels = panel_grid(2, [cut.extent_mm for cut in cuts.values() for _ in range(2)], axes, largest=3.5, widest=12,
                        around=0.9)
    line, name = {"color": EDGES, "linewidth": 0.7}, f"edges of {names[0]} over {names[1]}"
    steps = (("before", Transform.identity(), registration.before),
             ("after", registration.transform, registration.after))
    for row, (name, transform, measures) in zip(panels, steps, strict=True):
        for number, (plane, cut) in enumerate(cuts.items()):
            here, there = _cut(fixed, cut, Transform.identity(), own), _cut(moving, cut, transform, other)
            board, edges = row[2 * number:2 * number + 2]
            picture(board, cut, np.where(_fields(cut), here, there))
            picture(edges, cut, there)
            contour(edges, cut, _organs(here), line, {name: {"color": EDGES}})
            board.set_title(f"{plane}, {name}: NMI {measures.nmi:.3f}")
            edges.set_title(f"{names[1]}, {name}")
    legend(panels)
    return panels


def _shown(volume: Volume, kind: str) -> tuple[float, float]:
    """The window of a scan; of an MR from 0 on, so that dark tissue is part of the body."""
    low, high = window(volume.array, kind)
    return (low if kind == "ct" else 0.0), high


def _cut(volume: Volume, plane: Plane, transform: Transform, shown: tuple[float, float]) -> np.ndarray:
    """The picture (rows, columns) of a scan in a plane of the fixed scan, as brightness 0 to 1."""
    cut = transform.apply(volume, ((*plane.size, 1), plane.to_mm), outside=shown[0])
    return brightness(cut.array[:, :, 0].T, *shown)


def _middle(volume: Volume, low: float, high: float) -> np.ndarray:
    """The middle of what is not dark, in mm."""
    step = np.maximum(1, np.floor_divide(volume.shape, 64))
    bright = np.argwhere(volume.array[tuple(slice(None, None, n) for n in step)] > low + 0.2 * (high - low))
    voxel = bright.mean(0) * step if len(bright) else np.divide(volume.shape, 2)
    return nib.affines.apply_affine(volume.affine, voxel)


def _fields(plane: Plane) -> np.ndarray:
    """Every second field of a checkerboard."""
    side = max(plane.extent_mm) / FIELDS
    (width, height), (columns, rows) = plane.spacing_mm, plane.size
    row, column = np.indices((rows, columns))
    return ((row * height // side) + (column * width // side)) % 2 == 0


def _organs(pixels: np.ndarray) -> np.ndarray:
    """What is bright after smoothing; its outline shows the organs."""
    smooth = gaussian_filter(pixels, 1.5)
    tissue = smooth[smooth > 0.15]
    return smooth > (np.median(tissue) if tissue.size else 0.5)

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
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from nibabel.orientations import inv_ornt_aff, io_orientation
from scipy.ndimage import gaussian_filter

from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.style import HALO, ON_IMAGES, arranged, in_one_look, legend
from maml_toolkit.pictures.plots.view import Plane
from maml_toolkit.registration import Registration, Transform

PLANES = ("axial", "coronal")

LETTERS = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I")}
"""Of the left, right, upper and lower side of a picture."""

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
    low, high = _window(fixed, kind)
    point = _middle(fixed, low, high) if at_mm is None else np.asarray(at_mm, float)
    cuts = {plane: _plane(plane, point, fixed) for plane in planes}
    panels = _laid_out(cuts, fixed, axes)
    steps = (("before", Transform.identity(), registration.before), ("after", registration.transform,
                                                                     registration.after))
    for row, (name, transform, measures) in zip(panels, steps, strict=True):
        for number, (plane, cut) in enumerate(cuts.items()):
            one, other = _cut(fixed, cut, Transform.identity(), kind), _cut(moving, cut, transform, kind)
            board, edges = row[2 * number:2 * number + 2]
            _show(board, plane, cut, _checkerboard(one, other, cut))
            _show(edges, plane, cut, other)
            edges.contour(_edges(one), [0.5], origin="lower", extent=cut.extent_mm, colors=[ON_IMAGES[1]],
                          linewidths=[0.7])
            board.set_title(f"{plane}, {name}: NMI {measures.nmi:.3f}")
            edges.set_title(f"{names[1]}, {name}")
    line = Line2D([], [], color=ON_IMAGES[1], label=f"edges of {names[0]} over {names[1]}")
    legend(panels[0], [line], outside=axes is None)
    return panels


def _plane(name: str, point: np.ndarray, volume: Volume) -> Plane:
    """The slice of a volume nearest to a point; the coronal one is seen from the front, the head at the top."""
    axial = Plane.through(point, volume)
    if name == "axial":
        return axial
    orientation = io_orientation(volume.affine)
    upright = volume.affine @ inv_ornt_aff(orientation, volume.shape)
    columns, rows, levels = np.take(volume.shape, np.argsort(orientation[:, 0])).tolist()
    row = np.clip(round((np.linalg.inv(upright) @ [*point, 1])[1]), 0, rows - 1)
    from_the_right = np.array([[-1.0, 0, 0, columns - 1], [0, 0, 1, row], [0, 1, 0, 0], [0, 0, 0, 1]])
    return Plane(upright @ from_the_right, (columns, levels))


def _cut(volume: Volume, plane: Plane, transform: Transform, kind: str) -> np.ndarray:
    """The picture (rows, columns) of a scan in a plane of the fixed scan, as brightness 0 to 1."""
    low, high = _window(volume, kind)
    picture = transform.apply(volume, ((*plane.size, 1), plane.to_mm), outside=low).array[:, :, 0].T
    return np.clip((picture - low) / max(high - low, 1e-6), 0, 1)


def _window(volume: Volume, kind: str) -> tuple[float, float]:
    """What is shown as black and as white."""
    if kind == "ct":
        return -150.0, 250.0
    inside = volume.array[volume.array > volume.array.mean()]
    return 0.0, float(np.percentile(inside, 99.5))


def _middle(volume: Volume, low: float, high: float) -> np.ndarray:
    step = tuple(slice(None, None, max(1, n // 64)) for n in volume.shape)
    bright = np.argwhere(volume.array[step] > low + 0.2 * (high - low))
    voxel = bright.mean(0) * [one.step for one in step] if len(bright) else np.divide(volume.shape, 2)
    return nib.affines.apply_affine(volume.affine, voxel)


def _checkerboard(one: np.ndarray, other: np.ndarray, plane: Plane) -> np.ndarray:
    side = max(plane.extent_mm) / FIELDS
    width, height = plane.spacing_mm
    row, column = np.indices(one.shape)
    is_one = ((row * height // side) + (column * width // side)) % 2 == 0
    return np.where(is_one, one, other)


def _edges(picture: np.ndarray) -> np.ndarray:
    """1 inside and 0 outside of what is bright after smoothing; its outline shows the organs."""
    smooth = gaussian_filter(picture, 1.5)
    tissue = smooth[smooth > 0.15]
    return (smooth > (np.median(tissue) if tissue.size else 0.5)).astype(float)


def _show(ax: Axes, plane: str, cut: Plane, picture: np.ndarray) -> None:
    ax.imshow(picture, "gray", vmin=0, vmax=1, origin="lower", extent=cut.extent_mm)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"),
              (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, ha, va) in zip(LETTERS[plane], places, strict=True):
        ax.text(x, y, letter, transform=ax.transAxes, fontsize=8, color="white", ha=ha, va=va, path_effects=HALO)


def _laid_out(cuts: dict[str, Plane], fixed: Volume, axes: Any) -> np.ndarray:
    if axes is not None:
        return arranged(axes, 2, 2 * len(cuts))
    widths = [cut.extent_mm[1] for cut in cuts.values() for _ in range(2)]
    height = max(cut.extent_mm[3] for cut in cuts.values())
    inches = 12 / sum(widths) if len(cuts) > 1 else 7 / sum(widths)
    return plt.subplots(2, len(widths), figsize=(sum(widths) * inches, 2 * height * inches + 0.9), squeeze=False,
                        layout="constrained", gridspec_kw={"width_ratios": widths})[1]

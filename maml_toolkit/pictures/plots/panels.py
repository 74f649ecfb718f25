"""The panels of a figure: an image in its plane, what lies over it, and the empty panel of what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from maml_toolkit.pictures.plots.style import HALO, arranged
from maml_toolkit.pictures.plots.view import View


def laid_out(rows: int, columns: int, axes: Any, view: View, scale: ScalarMappable | None = None) -> np.ndarray:
    """The caller's axes in rows and columns, or those of a new figure, with room for a colour bar if need be."""
    if axes is not None:
        return arranged(axes, rows, columns)
    left, right, bottom, top = view.frame_mm
    bar = 0.0 if scale is None else 0.75
    width = min(2.6, (9.2 - bar) / columns)
    height = width * (top - bottom) / (right - left)
    return plt.subplots(rows, columns, figsize=(max(width * columns + bar, 4), rows * height + 0.6), squeeze=False,
                        layout="compressed")[1]


def image(ax: Axes, view: View, modality: str) -> None:
    """A modality's image with its name, or a hatched panel where it was not acquired."""
    ax.set_title(modality)
    if modality in view.images:
        picture(ax, view, view.images[modality], ScalarMappable(Normalize(0, 1), "gray"))
    else:
        hatched(ax, view, "not acquired")


def picture(ax: Axes, view: View, pixels: np.ndarray, scale: ScalarMappable) -> None:
    """Pixels of the view's plane in the colours of a scale, with the letters of the patient's sides."""
    ax.imshow(pixels, scale.cmap, norm=scale.norm, origin="lower", extent=view.plane.extent_mm)
    _bare(ax, view)
    for letter, x, y, ha, va in (("R", 0.02, 0.5, "left", "center"), ("L", 0.98, 0.5, "right", "center"),
                                 ("A", 0.5, 0.98, "center", "top"), ("P", 0.5, 0.02, "center", "bottom")):
        ax.text(x, y, letter, transform=ax.transAxes, fontsize=8, color="white", ha=ha, va=va, path_effects=HALO)


def hatched(ax: Axes, view: View, why: str) -> None:
    """An empty panel that says why it is empty."""
    _bare(ax, view)
    ax.spines[:].set(visible=True, color="0.75")
    ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, hatch="///", ec="0.75"))
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="0.3",
            bbox={"facecolor": "white", "edgecolor": "none"})


def _bare(ax: Axes, view: View) -> None:
    left, right, bottom, top = view.frame_mm
    ax.set(xticks=[], yticks=[], aspect="equal", xlim=(left, right), ylim=(bottom, top))
    ax.spines[:].set_visible(False)


def contour(ax: Axes, view: View, mask: np.ndarray, color: str, linestyle: Any = "-", linewidth: float = 1.3,
             path_effects: Sequence[Any] = ()) -> None:
    """Draws the edge of a mask, unless the panel is hatched."""
    if mask.any() and not mask.all() and ax.images:
        drawn = ax.contour(mask.astype(float), [0.5], origin="lower", extent=view.plane.extent_mm, colors=[color],
                           linestyles=[linestyle], linewidths=[linewidth])
        drawn.set_path_effects(path_effects)


def colour_bar(axes: np.ndarray, scale: ScalarMappable, label: str, **more: Any) -> None:
    """A bar beside the axes that says what the colours mean."""
    axes[0].figure.colorbar(scale, ax=list(axes), label=label, shrink=0.9, pad=0.02, **more)

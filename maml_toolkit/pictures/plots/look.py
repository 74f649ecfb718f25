"""One look for all figures: colours, the grid of panels, an image with the patient's sides, and where a legend goes.

Colours are those of Okabe and Ito, which colour-blind readers tell apart.

References:
    Okabe and Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from maml_toolkit.data.tasks import Task
from maml_toolkit.pictures.plots.view import Frame, Plane

ON_IMAGES = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
ON_PAPER = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "0.4")
GREYS = ScalarMappable(Normalize(0, 1), "gray")
HALO = (withStroke(linewidth=2.4, foreground="black", alpha=0.75),)
"""A dark edge that keeps white lines and letters legible on every image."""

LOOK = {
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10, "axes.titlesize": 10,
    "axes.labelsize": 10, "legend.fontsize": 9, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.6, "hatch.linewidth": 0.6, "axes.grid": False,
    "image.interpolation": "nearest", "axes.prop_cycle": mpl.cycler(color=ON_PAPER)}


@contextmanager
def one_look() -> Iterator[None]:
    """Holds while a figure is drawn; the user's own settings hold again after it."""
    before = {name: mpl.rcParams[name] for name in LOOK}
    mpl.rcParams.update(LOOK)    # not rc_context: it would undo that a notebook shows figures, which the first turns on
    try:
        yield
    finally:
        mpl.rcParams.update(before)


in_one_look = one_look()
"""Decorates a function that draws."""


def region_colours(task: Task) -> dict[str, str]:
    """The colour of each region, the same in all figures and widgets."""
    return dict(zip(task.regions, cycle(ON_IMAGES), strict=False))


def on_paper(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name."""
    return dict(zip(names, cycle(ON_PAPER), strict=False))


def arranged(axes: Any, rows: int, columns: int) -> np.ndarray:
    """The caller's axes in rows and columns.

    Raises:
        ValueError: their number is wrong.
    """
    given = np.atleast_1d(axes)
    if given.size != rows * columns:
        raise ValueError(f"found {given.size} axes, expected {rows * columns}")
    return given.reshape(rows, columns)


def panel_grid(rows: int, frames: Sequence[Frame], axes: Any = None, *, largest: float = 2.6, widest: float = 9.2,
               beside: float = 0, around: float = 0.6, make: Callable[..., Figure] = plt.figure) -> np.ndarray:
    """The caller's axes in rows and columns, or those of a new figure of images, all at one scale.

    Args:
        frames: what each column shows, in mm.
        largest, widest: inches of a column and of the figure, at most.
        beside, around: inches for a colour bar, and for titles and legend.
    """
    if axes is not None:
        return arranged(axes, rows, len(frames))
    widths = [right - left for left, right, _, _ in frames]
    height = max(top - bottom for _, _, bottom, top in frames)
    scale = min(largest * len(frames), widest - beside) / sum(widths)
    figure = make(figsize=(max(sum(widths) * scale + beside, 4), rows * height * scale + around),
                  layout="compressed" if len(set(frames)) == 1 else "constrained")
    return figure.subplots(rows, len(frames), squeeze=False, gridspec_kw={"width_ratios": widths})


def picture(ax: Axes, plane: Plane, pixels: np.ndarray, scale: ScalarMappable = GREYS,
            frame: Frame | None = None) -> None:
    """Pixels of a plane in the colours of a scale, with the letters of the patient's sides."""
    ax.imshow(pixels, scale.cmap, norm=scale.norm, origin="lower", extent=plane.extent_mm)
    _bare(ax, frame or plane.extent_mm)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"),
              (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, ha, va) in zip(plane.letters, places, strict=True):
        ax.text(x, y, letter, transform=ax.transAxes, fontsize=8, color="white", ha=ha, va=va, path_effects=HALO)


def hatched(ax: Axes, frame: Frame, why: str) -> None:
    """An empty panel that says why it is empty."""
    _bare(ax, frame)
    ax.spines[:].set(visible=True, color="0.75")
    ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, hatch="///", ec="0.75"))
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="0.3",
            bbox={"facecolor": "white", "edgecolor": "none"})


def _bare(ax: Axes, frame: Frame) -> None:
    ax.set(xticks=[], yticks=[], aspect="equal", xlim=frame[:2], ylim=frame[2:])
    ax.spines[:].set_visible(False)


def contour(ax: Axes, plane: Plane, mask: np.ndarray, color: str, linestyle: Any = "-", linewidth: float = 1.3,
            path_effects: Sequence[Any] = ()) -> None:
    """Draws the edge of a mask, unless the panel is hatched."""
    if mask.any() and not mask.all() and ax.images:
        drawn = ax.contour(mask.astype(float), [0.5], origin="lower", extent=plane.extent_mm, colors=[color],
                           linestyles=[linestyle], linewidths=[linewidth])
        drawn.set_path_effects(path_effects)


def legend(axes: np.ndarray, lines: Mapping[str, Mapping[str, Any]], *, outside: bool, **place: Any) -> None:
    """Explains lines, by their names, below all axes of a figure in as many rows as it needs, or inside the first axes.

    Args:
        place: of a legend inside the axes; the lower left corner when left out.
    """
    if not lines:
        return
    handles = [Line2D([], [], label=name, **line) for name, line in lines.items()]
    if outside:
        inches = sum(0.5 + 0.07 * len(name) for name in lines)
        rows = math.ceil(inches / axes[0].figure.get_figwidth())
        axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=math.ceil(len(lines) / rows))
    else:
        axes[0].legend(handles=handles, **{"loc": "lower left", "fontsize": 7, "frameon": True, "framealpha": 0.7,
                                           **place})

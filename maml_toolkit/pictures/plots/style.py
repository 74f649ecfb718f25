"""One look for all figures: sizes, colours, and where a legend goes.

Colours are those of Okabe and Ito, which colour-blind readers tell apart.

References:
    Okabe and Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

ON_IMAGES = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
ON_PAPER = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "0.4")
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


def arranged(axes: Any, rows: int, columns: int) -> np.ndarray:
    """The caller's axes in rows and columns.

    Raises:
        ValueError: their number is wrong.
    """
    given = np.atleast_1d(axes)
    if given.size != rows * columns:
        raise ValueError(f"found {given.size} axes, expected {rows * columns}")
    return given.reshape(rows, columns)


def legend(axes: np.ndarray, lines: list[Line2D], *, outside: bool) -> None:
    """Explains lines below all axes of a figure, in as many rows as it needs, or inside the first axes."""
    if outside:
        inches = sum(0.5 + 0.07 * len(str(line.get_label())) for line in lines)
        rows = math.ceil(inches / axes[0].figure.get_figwidth())
        axes[0].figure.legend(handles=lines, loc="outside lower center", ncols=math.ceil(len(lines) / rows))
    else:
        axes[0].legend(handles=lines, loc="lower left", fontsize=7, frameon=True, framealpha=0.7)

"""One look for all figures: colours, the grid of panels, an image with the patient's sides, outlines, the legend.

A colour means one thing in all figures, pages and widgets, and colour-blind readers tell those of a palette apart: most
are of Okabe and Ito, some of Tol.

References:
    Okabe and Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/
    Tol, Colour Schemes, SRON 2021, https://personal.sron.nl/~pault/
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from weakref import WeakKeyDictionary

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

ON_IMAGES = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#AA4499", "#A6761D")
"""Of regions and classes."""

SOURCES = {"ground truth": "#FFFFFF", "prediction": "#F0E442"}
"""Of outlines that are of one region or class, by whose they are; those of several have the colours of these."""

CHANGES = {"lost": "#CC3311", "gained": "#44AA99", "other class": "#DDCC77"}
"""Of what another answer says otherwise."""

EDGES = "#EE8866"
"""Of the edges of one scan over another."""

ON_PAPER = ("#0072B2", "#D55E00", "#117733", "#882255", "#999933", "#332288", "0.6")
"""Of methods, scans, maps and terms in charts."""

GREYS = ScalarMappable(Normalize(0, 1), "gray")
HALO = (withStroke(linewidth=2.4, foreground="black", alpha=0.75),)
"""A dark edge that keeps white letters legible on every image."""

DASHES = {"ground truth": "-", "prediction": (0, (2.5, 1.5))}

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
    return on_images(task.regions)


def class_colours(task: Task) -> dict[str, str]:
    """The colour of each foreground class: that of the smallest region around it, where no other class has it."""
    regions, found = region_colours(task), {}
    for name in task.class_names[1:]:
        around = sorted((len(own), one) for one, own in task.regions.items() if name in own)
        free = [regions[one] for _, one in around[:1]] + [one for one in ON_IMAGES if one not in regions.values()]
        found[name] = next((one for one in free if one not in found.values()), ON_IMAGES[len(found) % len(ON_IMAGES)])
    return found


def on_images(names: Iterable[str]) -> dict[str, str]:
    """A colour for each region."""
    return dict(zip(names, cycle(ON_IMAGES), strict=False))


def value_colour(value: int) -> str:
    """The colour of a value of a label of which nobody says what it means."""
    return ON_IMAGES[(value - 1) % len(ON_IMAGES)]


def nesting(task: Task) -> dict[str, int]:
    """How many regions lie one in the other inside of each: 2 of WT, which holds TC, which holds ET."""
    found: dict[str, int] = {}
    for name, own in sorted(task.regions.items(), key=lambda one: len(one[1])):
        found[name] = max((1 + depth for one, depth in found.items() if set(task.regions[one]) < set(own)), default=0)
    return found


def outline(source: str, colour: str | None = None, below: int = 0) -> dict[str, Any]:
    """The look of an outline: solid of the ground truth, dashed of the prediction.

    What lies below other lines is wider, so that each is seen at its own edge where several run along one.

    Args:
        colour: of the region; that of the source when left out.
        below: how many lines lie above this one.
    """
    width = 1.1 + 0.9 * below
    edge = withStroke(linewidth=width + 0.9, foreground="black", alpha=0.7)
    return {"color": colour or SOURCES[source], "linestyle": DASHES[source], "linewidth": width,
            "path_effects": () if colour and source == "ground truth" else (edge,)}


def on_paper(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name."""
    return dict(zip(names, cycle(ON_PAPER), strict=False))


def arranged(axes: Any, rows: int, columns: int, **new: Any) -> np.ndarray:
    """The caller's axes in rows and columns, in a figure that makes room for a legend.

    Args:
        new: settings of `plt.subplots` for a new figure, which is made where the caller has no axes.

    Raises:
        ValueError: their number is wrong.
    """
    given = np.atleast_1d(plt.subplots(rows, columns, **new)[1] if axes is None else axes)
    if given.size != rows * columns:
        raise ValueError(f"found {given.size} axes, expected {rows * columns}")
    figure = given.flat[0].get_figure()
    if figure.get_layout_engine() is None:
        with suppress(RuntimeError):            # a colour bar of the caller's may forbid it
            figure.set_layout_engine("constrained")
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


def contour(ax: Axes, plane: Plane, mask: np.ndarray, line: Mapping[str, Any],
            named: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Draws the edge of a mask, unless the panel is hatched.

    Args:
        line: its look.
        named: what `legend` shall say of it, where it is drawn: names and the looks of their lines.
    """
    if mask.any() and not mask.all() and ax.images:
        drawn = ax.contour(mask.astype(float), [0.5], origin="lower", extent=plane.extent_mm, colors=[line["color"]],
                           linestyles=[line.get("linestyle", "-")], linewidths=[line.get("linewidth", 1.3)])
        drawn.set_path_effects(line.get("path_effects", ()))
        _explained(ax.figure).lines.update(named or {})


@dataclass
class _Legend:
    """The legend of a figure: its lines by their names, and what is drawn of it."""

    lines: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    drawn: Any = None


_LEGENDS: WeakKeyDictionary[Any, _Legend] = WeakKeyDictionary()


def _explained(figure: Any) -> _Legend:
    """What the legend of a figure says, anew where the caller took the legend away."""
    known = _LEGENDS.get(figure)
    if known is None or (known.drawn is not None and known.drawn not in figure.legends):
        known = _LEGENDS[figure] = _Legend()
    return known


def legend(axes: np.ndarray, lines: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Explains the outlines that are drawn in a figure, and other lines, in one legend below all of its axes.

    Args:
        axes: some of the figure; whatever draws into others of it later adds to the same legend.
        lines: names and looks of what else is drawn.
    """
    figure = np.ravel(axes)[0].figure
    known = _explained(figure)
    known.lines.update(lines or {})
    if known.drawn is not None:
        known.drawn.remove()
        known.drawn = None
    if known.lines:
        named = sorted(known.lines, key=SOURCES.__contains__)        # what they go around, and then whose they are
        handles = [Line2D([], [], label=name, **known.lines[name]) for name in named]
        inches = sum(0.5 + 0.07 * len(name) for name in known.lines)
        rows = math.ceil(inches / figure.bbox.width * figure.dpi)
        known.drawn = figure.legend(handles=handles, loc="outside lower center", ncols=math.ceil(len(handles) / rows))

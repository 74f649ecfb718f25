"""The picture in three dimensions that needs no script: the scan seen through, from three sides, and the lesion in it.

Each side is a parallel projection in patient space, right also for oblique acquisitions:

    column = point · right-hand direction,      row = point · upward direction      (mm)

The scan is its maximum intensity along the line of sight; surfaces are lit from above the viewer's left shoulder.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.ndimage import affine_transform, binary_dilation

from maml_toolkit.pictures.plots.panels import colour_bar
from maml_toolkit.pictures.plots.style import HALO, in_one_look, legend
from maml_toolkit.pictures.widgets.sight import Sight
from maml_toolkit.pictures.widgets.surface import Surface, surface

PIXELS = 192
"""The most that a projection has along its longer side; fewer where the scan has fewer voxels."""

FACES = 12_000
"""A surface with more triangles is made from every second (third, …) voxel."""

VEIL = 0.3
"""Opacity of a region that lies around another."""


@dataclass(frozen=True)
class Side:
    """Where one looks from: directions in patient space (RAS+) of the picture's columns and rows, and its letters."""

    name: str
    right: tuple[int, int, int]
    up: tuple[int, int, int]
    letters: str

    @property
    def towards(self) -> np.ndarray:
        """The direction from the patient to the viewer."""
        return np.cross(self.right, self.up)


FRONT = Side("from the front", (-1, 0, 0), (0, 0, 1), "RLSI")
FEET = Side("from the feet", (-1, 0, 0), (0, 1, 0), "RLAP")
RIGHT = Side("from the right", (0, 1, 0), (0, 0, 1), "PASI")
LEFT = Side("from the left", (0, -1, 0), (0, 0, 1), "APSI")


@in_one_look
def projection(sight: Sight, note: str = "") -> bytes:
    """A PNG: the truth and the prediction in the scan from three sides, and the map on the prediction's surface.

    Args:
        note: a sentence below the picture.
    """
    body = _Body.of(sight)
    sides = (FRONT, _nearer(sight), FEET)
    rows = [*sight.sources, *([sight.map] if sight.map else [])]
    figure, panels = _figure(body, sides, rows)
    for axes, row in zip(panels, rows, strict=True):
        parts = _painted(sight) if row == sight.map else _regions(sight, row)
        for ax, side in zip(axes, sides, strict=True):
            _panel(ax, body, side)
            for part, colours, opacity in parts:
                _lit(ax, part, colours, opacity, side)
        axes[0].set_ylabel(f"{row} on the\nprediction" if row == sight.map else row)
    for ax, side in zip(panels[0], sides, strict=True):
        ax.set_title(side.name)
    _ruler(panels[0, 0])
    if sight.map:
        colour_bar(panels[-1], sight.scale, sight.label.replace(" to ", "\nto ", 1), aspect=14)
    present = [name for name in sight.colours if any(sight.scene.task.region(one, name).any()
                                                     for one in sight.sources.values())]
    if present:
        legend(panels[0], [Line2D([], [], color=sight.colours[name], linewidth=6, label=name) for name in present],
               outside=True)
    figure.suptitle(str(sight), fontsize=10)
    if note:
        figure.text(0.01, 0.004, note, fontsize=7, color="0.35", wrap=True)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=85, pil_kwargs={"optimize": True})
    return held.getvalue()


@dataclass(frozen=True)
class _Body:
    """The scan on a grid along the patient's axes.

    Attributes:
        array: brightness, 0 to 1, axes right, front, head.
        first: mm of the middle of its first voxel.
        step: mm between voxels.
    """

    array: np.ndarray
    first: np.ndarray
    step: float

    @classmethod
    def of(cls, sight: Sight) -> _Body:
        shape, affine = np.array(sight.image.shape), sight.scene.affine
        corners = np.stack(np.meshgrid(*((-0.5, n - 0.5) for n in shape), indexing="ij"), -1).reshape(-1, 3)
        corners = corners @ affine[:3, :3].T + affine[:3, 3]
        first, last = corners.min(0), corners.max(0)
        step = float(max((last - first).max() / PIXELS, np.linalg.norm(affine[:3, :3], axis=0).min()))
        matrix = np.linalg.inv(affine)
        low, high = sight.window
        array = affine_transform(
            np.clip((sight.image - low) / (high - low), 0, 1), _plain(matrix[:3, :3] * step),
            matrix[:3, :3] @ (first + step / 2) + matrix[:3, 3],
            tuple(np.maximum(np.rint((last - first) / step), 1).astype(int)), order=1)
        return cls(array, first + step / 2, step)

    def seen(self, side: Side) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """The maximum intensity as rows from below and columns from the left, and left, right, bottom, top in mm."""
        across, up, along = (int(np.abs(one).argmax()) for one in (side.right, side.up, side.towards))
        flat = self.array.max(along)
        picture, extent = (flat.T if across < up else flat), []
        for axis, direction in ((across, side.right), (up, side.up)):
            first = self.first[axis] - self.step / 2
            edges = np.array([first, first + self.step * self.array.shape[axis]]) * direction[axis]
            if direction[axis] < 0:
                edges, picture = edges[::-1], np.flip(picture, 1 if axis == across else 0)
            extent += edges.tolist()
        return picture, tuple(extent)


def _plain(matrix: np.ndarray) -> np.ndarray:
    """The diagonal alone where there is nothing else, which scipy resamples in a fraction of the time."""
    return np.diag(matrix).copy() if np.allclose(matrix, np.diag(np.diag(matrix))) else matrix


def _nearer(sight: Sight) -> Side:
    """The side of the patient on which the lesion lies."""
    middle = sight.scene.affine @ [*(np.array(sight.image.shape) - 1) / 2, 1]
    return RIGHT if (sight.scene.affine @ [*sight.scene.start, 1])[0] >= middle[0] else LEFT


def _figure(body: _Body, sides: tuple[Side, ...], rows: list[str]) -> tuple[Figure, np.ndarray]:
    extents = [body.seen(side)[1] for side in sides]
    widths, heights = [e[1] - e[0] for e in extents], [e[3] - e[2] for e in extents]
    inches = min(7.6 / sum(widths), 2.8 / max(heights))
    figure = Figure((max(sum(widths) * inches + 1.6, 5.5), len(rows) * max(heights) * inches + 1.0),
                    layout="compressed")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(len(rows), len(sides), squeeze=False, gridspec_kw={"width_ratios": widths})


def _panel(ax: Axes, body: _Body, side: Side) -> None:
    picture, extent = body.seen(side)
    ax.imshow(picture, "gray", vmin=0, vmax=1.25, origin="lower", extent=extent, interpolation="nearest")
    ax.set(xticks=[], yticks=[], facecolor="black", xlim=extent[:2], ylim=extent[2:])
    ax.spines[:].set_visible(False)
    for letter, x, y, ha, va in zip(side.letters, (0.02, 0.98, 0.5, 0.5), (0.5, 0.5, 0.98, 0.02),
                                    ("left", "right", "center", "center"), ("center", "center", "top", "bottom"),
                                    strict=True):
        ax.text(x, y, letter, transform=ax.transAxes, fontsize=8, color="white", ha=ha, va=va, path_effects=HALO)


def _ruler(ax: Axes) -> None:
    """A bar of a round number of mm, about a quarter of the picture."""
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    length = max((one for one in (1, 2, 5, 10, 20, 50, 100, 200) if one <= (right - left) / 3), default=1)
    x, y = left + 0.05 * (right - left), bottom + 0.05 * (top - bottom)
    ax.plot([x, x + length], [y, y], color="white", linewidth=2, solid_capstyle="butt", path_effects=HALO)
    ax.text(x, y + 0.02 * (top - bottom), f"{length} mm", color="white", fontsize=8, va="bottom", path_effects=HALO)


Part = tuple[Surface, np.ndarray, float]
"""A surface, the colours of its points, and its opacity."""


def _regions(sight: Sight, source: str) -> list[Part]:
    """The surface of every region, the largest first; those around another are veils, and it is drawn over them."""
    masks = {name: sight.scene.task.region(sight.sources[source], name) for name in sight.colours}
    parts = []
    for name in sorted(masks, key=lambda one: -int(masks[one].sum())):
        if (part := _light(masks[name], sight.scene.affine)) is not None:
            colours = np.tile(sight.colours[name], (len(part.points), 1))
            parts.append((part, colours, VEIL if sight.holds(masks, name) else 1.0))
    return parts


def _painted(sight: Sight) -> list[Part]:
    part = _light(sight.sources["prediction"] > 0, sight.scene.affine)
    return [] if part is None else [(part, sight.painted(part), 1.0)]


def _light(mask: np.ndarray, affine: np.ndarray) -> Surface | None:
    """A surface of few triangles, of the mask or of blocks that are half full; nothing small and alone is lost.

    Its `voxels` are those of the mask.
    """
    whole = surface(mask, affine)
    if whole is None or len(whole.faces) <= FACES:
        return whole
    every = int(np.ceil(np.sqrt(len(whole.faces) / FACES)))
    padded = np.pad(mask, [(0, -n % every) for n in mask.shape])
    blocks = padded.reshape([part for n in padded.shape for part in (n // every, every)]).mean((1, 3, 5))
    alone = ~binary_dilation(blocks >= 0.5, np.ones((3, 3, 3)))
    coarse = surface((blocks >= 0.5) | ((blocks > 0) & alone), np.eye(4))
    voxels = coarse.voxels * every + (every - 1) / 2
    return Surface(voxels, voxels @ affine[:3, :3].T + affine[:3, 3], coarse.faces)


def _lit(ax: Axes, part: Surface, colours: np.ndarray, opacity: float, side: Side) -> None:
    """Draw the triangles that face the viewer, the far ones first."""
    towards = side.towards
    light = np.array(towards) + 0.6 * np.array(side.up) - 0.5 * np.array(side.right)
    light = light / np.linalg.norm(light)
    corners, normals = part.points[part.faces], part.normals[part.faces].mean(1)
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) @ towards > 0
    order = np.flatnonzero(faces)[np.argsort(corners[faces].mean(1) @ towards)]
    shade = 0.35 + 0.65 * np.clip(normals[order] @ light, 0, 1)
    lit = np.clip(colours[part.faces[order]].mean(1) * shade[:, None], 0, 1)
    flat = np.stack([corners[order] @ side.right, corners[order] @ side.up], -1)
    ax.add_collection(PolyCollection(flat, facecolors=np.c_[lit, np.full(len(lit), opacity)],
                                     edgecolors=np.c_[lit, np.ones(len(lit))] if opacity == 1 else "none",
                                     linewidths=0.3, antialiaseds=opacity == 1), autolim=False)

"""Pictures of cases, predictions, runs and tables, in one look, drawn into the axes that they are given.

A volume is shown as an axial slice the way radiologists see it: from the feet, the right side of the patient
on the left, the front at the top, whatever the order of the axes in the file. Truth and prediction are lines
that leave the image visible. A modality that was not acquired is a hatched panel, never a black image.

Colours are those of Okabe and Ito, which colour-blind readers tell apart.

References:
    Okabe and Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from nibabel.orientations import inv_ornt_aff, io_orientation
from scipy.ndimage import map_coordinates

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import Task

ON_IMAGES = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
ON_PAPER = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "0.4")
BODY_HU = -300
"""Air and lung lie below, everything that a CT is looked at for lies above."""

_look = mpl.rc_context({
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10, "axes.titlesize": 10,
    "axes.labelsize": 10, "legend.fontsize": 9, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.6, "hatch.linewidth": 0.6, "hatch.color": "0.75",
    "axes.grid": False, "image.interpolation": "nearest", "axes.prop_cycle": mpl.cycler(color=ON_PAPER)})


@_look
def case_slices(case: Case, task: Task, *, at: Sequence[int] | None = None, prediction: Any = None,
                axes: Any = None) -> np.ndarray:
    """Shows a case: one axial slice of every modality of the task, with the contours of truth and prediction.

    With one region the truth has one colour and the prediction another; with several, each region has its
    colour, the truth a solid and the prediction a dashed line.

    Args:
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        prediction: whose `labels` (values of a label file, on the grid `affine`) are drawn too.
        axes: as many axes as the task has modalities; a new figure when left out.

    Returns:
        The axes, one for each modality.

    Raises:
        ValueError: `at` lies outside, or the number of axes is wrong.
    """
    view = _View.of(case, task, prediction, at)
    lines = {(region, source): _line(number, source, len(task.regions) > 1)
             for number, region in enumerate(task.regions) for source in view.classes}
    panels, own = _panels(1, len(task.modalities), axes, view)
    for ax, modality in zip(panels[0], task.modalities, strict=True):
        _image(ax, view, modality)
        for region, source in reversed(lines):      # large regions come first and shall lie above
            _contour(ax, view, view.mask(region, source), **lines[region, source])
    _legend(panels[0], own, [Line2D([], [], label=f"{region}, {source}", **line)
                             for (region, source), line in lines.items()])
    return panels[0]


@_look
def attention_maps(case: Case, prediction: Any, task: Task, *, at: Sequence[int] | None = None,
                   axes: Any = None) -> np.ndarray:
    """Shows where the network looked: each modality's image above its attention map, in one range 0 to 1.

    Args:
        prediction: whose `attention` holds a volume for each modality used; a modality that was not used, and
            each of them where the method has no attention, leaves a hatched panel.
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        axes: two rows with an axes for each modality; a new figure when left out.

    Returns:
        The axes, shape (2, modalities).
    """
    view = _View.of(case, task, prediction, at)
    panels, own = _panels(2, len(task.modalities), axes, view)
    for (above, below), modality in zip(panels.T, task.modalities, strict=True):
        _image(above, view, modality)
        if modality in prediction.attention:
            picture = view.cut(prediction.attention[modality], prediction.affine)
            _show(below, view, picture, "cividis", Normalize(0, 1))
        else:
            used = modality in prediction.modalities
            _empty(below, view, "no attention" if used else "not used")
        for ax in (above, below):
            _contour(ax, view, view.lesion, "white", path_effects=_HALO)
    line = Line2D([], [], color="white", path_effects=_HALO, label=f"lesion, {view.source}")
    _legend(panels[0], own, [line])
    _colour_bar(panels[1], "cividis", Normalize(0, 1), "attention")
    return panels


@_look
def contribution_maps(case: Case, prediction: Any, task: Task, class_name: str | None = None, *,
                      at: Sequence[int] | None = None, axes: Any = None) -> np.ndarray:
    """Shows which modality argued for a class and which against it, voxel by voxel.

    The logit of a class is the sum of the modalities' contributions and a bias; red raises it, blue lowers
    it, and all panels share one range, so that strong and weak modalities can be compared by eye.

    Args:
        prediction: with `contributions` of shape (classes, depth, height, width) for each modality used.
        class_name: one of the task's classes; the first after the background when left out.
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        axes: one for each modality and one for the sum; a new figure when left out.

    Returns:
        The axes, the sum's last.

    Raises:
        ValueError: the class is unknown, or the method's answer is no sum over modalities.
    """
    class_name = class_name or task.class_names[1]
    if class_name not in task.class_names:
        raise ValueError(f"found the class {class_name!r}, expected one of {', '.join(task.class_names)}")
    if not prediction.contributions:
        raise ValueError("this prediction has no contributions: its method does not answer with a sum over "
                         "modalities; use one that does, such as maml")
    number = task.class_names.index(class_name)
    view = _View.of(case, task, prediction, at)
    cuts = {modality: view.cut(contribution[number], prediction.affine)
            for modality, contribution in prediction.contributions.items()}
    bias = 0.0 if prediction.bias is None else float(np.asarray(prediction.bias)[number])
    logit = sum(cuts.values()) + bias
    limit = max(float(np.percentile(np.abs([*cuts.values(), logit]), 99.5)), 1e-6)
    panels, own = _panels(1, len(task.modalities) + 1, axes, view)
    cuts[f"logit = sum {'+' if bias >= 0 else '−'} {abs(bias):.2f}"] = logit
    for ax, title in zip(panels[0], (*task.modalities, list(cuts)[-1]), strict=True):
        ax.set_title(title)
        if title in cuts:
            _show(ax, view, cuts[title], "RdBu_r", Normalize(-limit, limit), ink="0.2")
            _contour(ax, view, view.of_class(class_name), "black", linewidth=0.9)
        else:
            _empty(ax, view, "not used" if title in case.images else "not acquired")
    _legend(panels[0], own, [Line2D([], [], color="black", label=f"{class_name}, {view.source}")])
    _colour_bar(panels[0], "RdBu_r", Normalize(-limit, limit), "logit", extend="both")
    return panels[0]


@_look
def learning_curves(history: pd.DataFrame, axes: Any = None) -> np.ndarray:
    """Shows how a run went: the loss and its terms on the left, the Dice of each region on the right.

    Args:
        history: a run's `history.csv`, one row an epoch: columns epoch, loss/<term> and
            validation/dice/<region>, the latter empty in epochs without validation.
        axes: two axes; a new figure when left out.

    Returns:
        The two axes.
    """
    losses, dice = axes = np.asarray(plt.subplots(1, 2, figsize=(9, 3.4))[1] if axes is None else axes)
    terms = _columns(history, "loss/")
    for name in sorted(terms, key=lambda name: name != "total"):
        strong = {"color": "black", "linewidth": 2, "zorder": 3} if name == "total" else {"linewidth": 1.2}
        _curve(losses, history, terms[name], name, strong, marked=len(history) == 1)
    losses.set(xlabel="epoch", ylabel="loss", title="training loss")
    regions = _columns(history, "validation/dice/")
    for region, column in regions.items():
        _curve(dice, history, column, region, {"markersize": 4}, marked=True)
    dice.set(xlabel="epoch", ylabel="Dice", title="validation", ylim=(0, 1))
    if not dice.lines:
        dice.text(0.5, 0.5, "not validated yet", transform=dice.transAxes, ha="center", color="0.4")
    for ax in axes:
        ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.grid(axis="y", color="0.9")
        if ax.lines:
            ax.legend()
    return axes


@_look
def scores(table: pd.DataFrame, metric: str = "dice", axes: Any = None) -> np.ndarray:
    """Shows a metric of every case for every subset of modalities, region by region, with mean ± sd.

    Args:
        table: the tidy table of an evaluation; several methods are drawn side by side in their own colours.
        metric: one of those in the table; a distance is shown in mm where the table has mm.
        axes: one for each region; a new figure when left out.

    Returns:
        The axes, one for each region.

    Raises:
        ValueError: the table holds no value of this metric.
    """
    known = sorted(table["metric"].unique())
    table = table[table["metric"] == metric].dropna(subset="value")
    table = table[table["unit"] == ("mm" if "mm" in set(table["unit"]) else table["unit"])]
    if table.empty:
        raise ValueError(f"the table holds no {metric!r}; it holds {', '.join(known) or 'nothing'}")
    regions, subsets, methods = (list(table[name].unique()) for name in ("region", "present", "method"))
    subsets.sort(key=lambda present: -present.count("+"))
    if own := axes is None:
        size = (min(10, 2.6 + 2.5 * len(regions)), 1.4 + len(subsets) * (0.18 + 0.22 * len(methods)))
        axes = plt.subplots(1, len(regions), figsize=size, sharey=True, sharex=True, squeeze=False)[1]
    axes = np.atleast_1d(axes).ravel()
    for ax, region in zip(axes, regions, strict=True):
        for number, method in enumerate(methods):
            rows = table[(table["region"] == region) & (table["method"] == method)]
            place = (number + 0.5) / len(methods) - 0.5
            _points(ax, rows, subsets, place, 0.8 / len(methods), ON_PAPER[number % len(ON_PAPER)])
        ax.set(title=region, xlabel=_axis_label(table), xlim=(-0.02, 1.02) if metric == "dice" else (0, None))
        ax.grid(axis="x", color="0.9")
        ax.tick_params(axis="y", left=False)
    axes[0].set_yticks(range(len(subsets)), subsets)
    axes[0].set_ylim(len(subsets) - 0.5, -0.5)
    named = [Line2D([], [], color=colour, linewidth=4, label=method)
             for colour, method in zip(cycle(ON_PAPER), methods[len(methods) == 1:], strict=False)]
    _legend(axes, own, [
        *named, Line2D([], [], color="0.3", marker="o", markersize=3, linestyle="", label="one case"),
        Line2D([], [], color="0.3", marker="D", markersize=4.5, linewidth=1.2, label="mean ± sd")])
    return axes


@dataclass(frozen=True)
class _View:
    """An axial slice of a grid seen from the feet, and the truth and the prediction in it.

    Attributes:
        to_mm: from (column, row, 0, 1) of the picture, its lower left corner first, to millimetres.
        size: columns and rows.
        classes: where known, "truth" and "prediction" as classes 0 to K-1 in the picture.
        images: modality -> its picture, as brightness 0 to 1.
    """

    to_mm: np.ndarray
    size: tuple[int, int]
    task: Task
    classes: Mapping[str, np.ndarray] = field(default_factory=dict)
    images: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, task: Task, prediction: Any, at: Sequence[int] | None) -> _View:
        """The slice of a case through `at`, or where the lesion is largest."""
        known = {}
        if case.label is not None:
            truth = volumes.read_label(case.label, case=case.id)
            known["truth"] = truth.array, truth.affine
        if prediction is not None:
            known["prediction"] = np.asarray(prediction.labels), np.asarray(prediction.affine)
        known = {source: (task.encode(values), affine) for source, (values, affine) in known.items()}
        if not case.images:
            raise DataError("found no image, expected at least one modality", "Name its files.", case=case.id)
        images = {name: volumes.read(case.images[name], case=case.id, modality=name)
                  for name in sorted(case.images, key=lambda name: name != task.reference)}
        grids = [*known.values(), *((image.array, image.affine) for image in images.values())]
        shape, affine = grids[0][0].shape, grids[0][1]
        to_file, columns, rows = _radiological(affine, shape)
        at = np.asarray(_largest(known, shape, affine) if at is None else at)
        if at.shape != (3,) or (at < 0).any() or (at >= shape).any():
            raise ValueError(f"case {case.id}: found the voxel {at.tolist()}, expected one inside {shape}")
        to_file[:3, 3] += to_file[:3, 2] * round((np.linalg.inv(to_file) @ [*at, 1])[2])
        view = cls(affine @ to_file, (columns, rows), task)
        return replace(
            view,
            classes={source: view.cut(array, grid, 0).astype(int) for source, (array, grid) in known.items()},
            images={name: view.cut(_brightness(image.array, task.intensities.get(name)), image.affine)
                    for name, image in images.items()})

    def cut(self, array: np.ndarray, affine: np.ndarray, order: int = 1) -> np.ndarray:
        """The picture of a volume on any grid; zero outside of it."""
        columns, rows = self.size
        row, column = np.mgrid[:rows, :columns].reshape(2, -1)
        points = np.stack([column, row, np.zeros_like(row), np.ones_like(row)])
        voxels = np.linalg.inv(np.asarray(affine)) @ self.to_mm @ points
        found = map_coordinates(np.asarray(array), voxels[:3].round(5), order=order, output=np.float32)
        return found.reshape(rows, columns)

    def mask(self, region: str, source: str) -> np.ndarray:
        """A region in the truth or in the prediction."""
        return self.task.region(self.classes[source], region)

    @property
    def source(self) -> str:
        """Whose lesion is drawn where one suffices: the truth's if it is known."""
        return next(iter(self.classes), "unknown")

    @property
    def lesion(self) -> np.ndarray:
        """The whole lesion of that source."""
        return self.classes[self.source] > 0

    def of_class(self, name: str) -> np.ndarray:
        """One class of that source."""
        return self.classes[self.source] == self.task.class_names.index(name)

    @property
    def spacing_mm(self) -> np.ndarray:
        """Width and height of a pixel."""
        return np.linalg.norm(self.to_mm[:3, :2], axis=0)

    @property
    def extent_mm(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the picture."""
        width, height = self.spacing_mm * self.size
        return 0.0, float(width), 0.0, float(height)

    @property
    def frame_mm(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the part that is not empty, with a margin for the letters."""
        row, column = np.nonzero(np.any([image > 0 for image in self.images.values()], axis=0))
        if not len(row):
            return self.extent_mm
        left, bottom = np.array([column.min(), row.min()]) * self.spacing_mm
        right, top = np.array([column.max() + 1, row.max() + 1]) * self.spacing_mm
        margin, (_, width, _, height) = 0.08 * max(right - left, top - bottom), self.extent_mm
        return (float(max(left - margin, 0)), float(min(right + margin, width)),
                float(max(bottom - margin, 0)), float(min(top + margin, height)))


def _radiological(affine: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, int, int]:
    """From (left, anterior, superior) steps of a picture to voxels of the file; its columns and rows."""
    orientation = io_orientation(affine)
    to_file = inv_ornt_aff(orientation, shape)
    columns, rows = (int(shape[list(orientation[:, 0]).index(axis)]) for axis in (0, 1))
    from_the_feet = np.diag([-1.0, 1.0, 1.0, 1.0])
    from_the_feet[0, 3] = columns - 1
    return to_file @ from_the_feet, columns, rows


def _brightness(image: np.ndarray, kind: str | None) -> np.ndarray:
    """Intensities as 0 to 1, from the 0.5 to the 99.5 percentile of the non-zero voxels (CT: of the body)."""
    body = image[image > BODY_HU if kind == "ct" else image != 0]
    low, high = np.percentile(body if body.size else image, (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _largest(known: Mapping, shape: Sequence[int], affine: np.ndarray) -> list[int]:
    """A voxel of the slice where the first source with a lesion has most of it; the centre without one."""
    at = [size // 2 for size in shape]
    for classes, grid in known.values():
        if (classes > 0).any():
            axis = int(np.abs(io_orientation(grid)[:, 0] - 2).argmin())
            areas = (classes > 0).sum(tuple({0, 1, 2} - {axis}))
            centre = [(size - 1) / 2 for size in classes.shape]
            centre[axis] = int(areas.argmax())
            found = np.linalg.inv(affine) @ grid @ [*centre, 1]
            return np.clip(found[:3].round().astype(int), 0, np.subtract(shape, 1)).tolist()
    return at


_HALO = (withStroke(linewidth=2.4, foreground="black", alpha=0.6),)


def _panels(rows: int, columns: int, axes: Any, view: _View) -> tuple[np.ndarray, bool]:
    """The axes as rows and columns, and whether their figure is ours."""
    if axes is not None:
        given = np.atleast_1d(axes)
        if given.size != rows * columns:
            raise ValueError(f"found {given.size} axes, expected {rows * columns}")
        return given.reshape(rows, columns), False
    left, right, bottom, top = view.frame_mm
    width = min(2.6, 9.2 / columns)
    height = rows * width * (top - bottom) / (right - left) + 0.7
    return plt.subplots(rows, columns, figsize=(max(width * columns, 4), height), squeeze=False,
                        layout="compressed")[1], True


def _show(ax: Axes, view: _View, picture: np.ndarray, colours: str, norm: Normalize,
          ink: str = "white") -> None:
    ax.imshow(picture, colours, norm=norm, origin="lower", extent=view.extent_mm)
    _bare(ax, view)
    for letter, x, y, ha, va in (("R", 0.02, 0.5, "left", "center"), ("L", 0.98, 0.5, "right", "center"),
                                 ("A", 0.5, 0.98, "center", "top"), ("P", 0.5, 0.02, "center", "bottom")):
        ax.text(x, y, letter, transform=ax.transAxes, fontsize=8, color=ink, ha=ha, va=va,
                path_effects=_HALO if ink == "white" else [])


def _bare(ax: Axes, view: _View) -> None:
    ax.set(xticks=[], yticks=[], aspect="equal", xlim=view.frame_mm[:2], ylim=view.frame_mm[2:])
    ax.spines[:].set_visible(False)


def _image(ax: Axes, view: _View, modality: str) -> None:
    ax.set_title(modality)
    if modality in view.images:
        _show(ax, view, view.images[modality], "gray", Normalize(0, 1))
    else:
        _empty(ax, view, "not acquired")


def _empty(ax: Axes, view: _View, why: str) -> None:
    _bare(ax, view)
    ax.spines[:].set(visible=True, color="0.75")
    ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, hatch="///", ec="0.75"))
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="0.3",
            bbox={"facecolor": "white", "edgecolor": "none"})


def _contour(ax: Axes, view: _View, mask: np.ndarray, color: str, linestyle: Any = "-",
             linewidth: float = 1.3, path_effects: Sequence[Any] = ()) -> None:
    if mask.any() and not mask.all() and ax.images:
        drawn = ax.contour(mask.astype(float), [0.5], origin="lower", extent=view.extent_mm, colors=[color],
                           linestyles=[linestyle], linewidths=[linewidth])
        drawn.set_path_effects(path_effects)


def _line(region: int, source: str, several: bool) -> dict[str, Any]:
    if several:
        dashes = {"truth": "-", "prediction": (0, (2.5, 1.2))}
        return {"color": ON_IMAGES[region % len(ON_IMAGES)], "linestyle": dashes[source], "linewidth": 1.2}
    return {"color": ON_IMAGES[source == "prediction"]}


def _legend(axes: np.ndarray, own: bool, lines: list[Line2D]) -> None:
    if lines and own:
        axes[0].figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 6))
    elif lines:
        axes[0].legend(handles=lines, loc="lower left", fontsize=7)


def _colour_bar(axes: np.ndarray, colours: str, norm: Normalize, label: str, **more: Any) -> None:
    bar = ScalarMappable(norm, colours)
    axes[0].figure.colorbar(bar, ax=list(axes), label=label, shrink=0.9, pad=0.02, **more)


def _columns(history: pd.DataFrame, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in history.columns if name.startswith(prefix)}


def _curve(ax: Axes, history: pd.DataFrame, column: str, label: str, line: dict, *, marked: bool) -> None:
    known = history[["epoch", column]].dropna()
    if len(known):
        ax.plot(known["epoch"], known[column], label=label, marker="o" if marked else None, **line)


def _axis_label(table: pd.DataFrame) -> str:
    metric, unit = str(table["metric"].iloc[0]), str(table["unit"].iloc[0])
    name = "Dice" if metric == "dice" else metric.upper()
    return f"{name} ({unit})" if unit.lower() not in {"", "1", "fraction"} else name


def _points(ax: Axes, rows: pd.DataFrame, subsets: list, shift: float, room: float, colour: str) -> None:
    """A point for each case, spread a little so that equal ones show, and mean ± sd below them."""
    for place, present in enumerate(subsets):
        values = rows.loc[rows["present"] == present, "value"].to_numpy(float)
        if len(values):
            heights = place + shift - room * np.linspace(0.2, 0, len(values))
            ax.plot(values, heights, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
            deviation = values.std(ddof=1) if len(values) > 1 else None
            ax.errorbar(values.mean(), place + shift + 0.25 * room, xerr=deviation, fmt="D", color=colour,
                        markersize=4.5, capsize=2.5, elinewidth=1.2)

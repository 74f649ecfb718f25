"""How a run went, and how well cases were segmented from each subset of modalities: figures of tidy tables."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from maml_toolkit.evaluation.metrics import title
from maml_toolkit.pictures.plots.style import ON_PAPER, arranged, in_one_look, legend


@in_one_look
def learning_curves(history: pd.DataFrame, axes: Any = None) -> np.ndarray:
    """Shows how a run went: the loss and its terms on the left, the Dice of each region on the right.

    Args:
        history: a run's `history.csv`, one row an epoch: columns epoch, loss/<term> and
            validation/dice/<region>, the latter empty in epochs without validation.
        axes: two axes; a new figure when left out.

    Returns:
        The two axes.

    Raises:
        ValueError: the number of axes is wrong.
    """
    panels = arranged(plt.subplots(1, 2, figsize=(9, 3.4))[1] if axes is None else axes, 1, 2)[0]
    loss, dice = panels
    terms = _columns(history, "loss/")
    for term in sorted(terms, key=lambda term: term != "total"):
        strong = {"color": "black", "linewidth": 2, "zorder": 3} if term == "total" else {"linewidth": 1.2}
        _curve(loss, history, terms[term], label=term, marker="o" if len(history) == 1 else None, **strong)
    loss.set(xlabel="epoch", ylabel="loss", title="training loss")
    for region, column in _columns(history, "validation/dice/").items():
        _curve(dice, history, column, label=region, marker="o", markersize=4)
    dice.set(xlabel="epoch", ylabel="Dice", title="validation", ylim=(0, 1))
    if not dice.lines:
        dice.text(0.5, 0.5, "not validated yet", transform=dice.transAxes, ha="center", color="0.4")
    for ax in panels:
        ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.grid(axis="y", color="0.9")
        if ax.lines:        # beside the axes of an own figure: a loss leaves no corner free
            ax.legend(fontsize=8, **({"loc": "upper left", "bbox_to_anchor": (1, 1)} if axes is None else {}))
    return panels


@in_one_look
def scores(table: pd.DataFrame, metric: str = "dice", axes: Any = None) -> np.ndarray:
    """Shows a metric of every case for every subset of modalities, region by region, with mean ± sd.

    Args:
        table: the tidy table of an evaluation; several methods, or policies, are drawn side by side in their
            own colours.
        metric: one of those in the table; a distance is shown in mm where the table has mm.
        axes: one for each region; a new figure when left out.

    Returns:
        The axes, one for each region.

    Raises:
        ValueError: the table holds no value of this metric, or the number of axes is wrong.
    """
    table = _measured(table, metric)
    if "policy" in table and table["policy"].nunique() > 1:
        table = table.assign(method=table["method"] + ", " + table["policy"])
    regions, subsets, methods = (list(table[name].unique()) for name in ("region", "present", "method"))
    subsets.sort(key=lambda present: -present.count("+"))
    colours = dict(zip(methods, cycle(ON_PAPER), strict=False))
    panels = _panels(len(regions), len(subsets), len(methods), axes)
    for ax, region in zip(panels, regions, strict=True):
        for number, method in enumerate(methods):
            rows = table[(table["region"] == region) & (table["method"] == method)]
            room = 0.8 / len(methods)
            _points(ax, rows, subsets, (number - (len(methods) - 1) / 2) * room, room, colours[method])
        ax.set(title=region, xlabel=_axis_label(table), xlim=(-0.02, 1.02) if metric == "dice" else (0, None))
        ax.grid(axis="x", color="0.9")
        ax.tick_params(axis="y", left=False)
    panels[0].set_yticks(range(len(subsets)), subsets)
    panels[0].set_ylim(len(subsets) - 0.5, -0.5)
    legend(panels, _explained(colours), outside=axes is None)
    return panels


def _columns(history: pd.DataFrame, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in history.columns if name.startswith(prefix)}


def _curve(ax: Axes, history: pd.DataFrame, column: str, **line: Any) -> None:
    known = history[["epoch", column]].dropna()
    if len(known):
        ax.plot(known["epoch"], known[column], **line)


def _measured(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows with a value of a metric, in one unit."""
    found = table[table["metric"] == metric].dropna(subset="value")
    if found.empty:
        known = ", ".join(sorted(table["metric"].unique()))
        raise ValueError(f"the table holds no {metric!r}; it holds {known or 'nothing'}")
    return found[found["unit"] == "mm"] if "mm" in set(found["unit"]) else found


def _panels(regions: int, subsets: int, methods: int, axes: Any) -> np.ndarray:
    if axes is None:
        size = (min(10, 2.6 + 2.5 * regions), 1.4 + subsets * (0.18 + 0.22 * methods))
        axes = plt.subplots(1, regions, figsize=size, sharey=True, sharex=True)[1]
    return arranged(axes, 1, regions)[0]


def _axis_label(table: pd.DataFrame) -> str:
    metric, unit = str(table["metric"].iloc[0]), str(table["unit"].iloc[0])
    return title(metric) if unit == "fraction" else f"{title(metric)} ({unit})"


def _points(ax: Axes, rows: pd.DataFrame, subsets: list[str], shift: float, room: float, colour: str) -> None:
    """A point for each case, spread a little so that equal ones show, and mean ± sd below them."""
    for place, present in enumerate(subsets):
        values = rows.loc[rows["present"] == present, "value"].to_numpy(float)
        if len(values):
            heights = place + shift - room * np.linspace(0.2, 0, len(values))
            ax.plot(values, heights, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
            deviation = values.std(ddof=1) if len(values) > 1 else None
            ax.errorbar(values.mean(), place + shift + 0.25 * room, xerr=deviation, fmt="D", color=colour,
                        markersize=4.5, capsize=2.5, elinewidth=1.2)


def _explained(colours: dict[str, str]) -> list[Line2D]:
    """The lines of a legend: the methods, where there are several, and the marks."""
    methods = [Line2D([], [], color=colour, linewidth=4, label=method) for method, colour in colours.items()]
    return [*(methods if len(methods) > 1 else []),
            Line2D([], [], color="0.3", marker="o", markersize=3, linestyle="", label="one case"),
            Line2D([], [], color="0.3", marker="D", markersize=4.5, linewidth=1.2, label="mean ± sd")]

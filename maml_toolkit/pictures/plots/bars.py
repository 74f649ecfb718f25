"""Figures of tidy tables with a name in each row: scores of cases, differences, and what each modality is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from maml_toolkit.evaluation.comparing import trainings_in_words
from maml_toolkit.evaluation.intervals import BOTH, CASES_ONLY
from maml_toolkit.evaluation.metrics import title
from maml_toolkit.evaluation.table import one_metric
from maml_toolkit.pictures.plots.look import ON_PAPER, arranged, in_one_look, legend, on_paper

READABLE_SHARE = 0.06
"""A narrower part of a bar has no room for its number."""


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
    table = one_metric(table.dropna(subset="value"), metric)
    if "policy" in table and table["policy"].nunique() > 1:
        table = table.assign(method=table["method"] + ", " + table["policy"])
    regions, methods = list(table["region"].unique()), list(table["method"].unique())
    subsets = sorted(table["present"].unique(), key=lambda present: -present.count("+"))
    unit = table["unit"].iloc[0]
    label = title(metric) if unit == "fraction" else f"{title(metric)} ({unit})"
    panels = _region_panels(len(regions), 2.6, 1.4 + len(subsets) * (0.18 + 0.22 * len(methods)), axes)
    for ax, region in zip(panels, regions, strict=True):
        for method, colour, shift, room in _lanes(methods):
            rows = table[(table["region"] == region) & (table["method"] == method)]
            _points(ax, rows, subsets, shift, room, colour)
        ax.set(title=region, xlabel=label, xlim=(-0.02, 1.02) if metric == "dice" else (0, None))
        _horizontal(ax, subsets)
    marks = {"one case": {"color": "0.3", "marker": "o", "markersize": 3, "linestyle": ""},
             "mean ± sd": {"color": "0.3", "marker": "D", "markersize": 4.5, "linewidth": 1.2}}
    legend(panels, _swatches(methods) | marks)
    return panels


@in_one_look
def differences(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Shows what `compare` found: each difference with its 95 % interval, around the line of no difference.

    The line is the interval over trainings and cases, the short marks below it that over the trainings alone. With one
    training a side the interval holds the cases only: it is grey, and says so.

    Args:
        found: the table of `evaluation.compare`.
        ax: to draw into; a new figure when left out.
    """
    scale, unit = (100, "points") if found["unit"].iloc[0] == "fraction" else (1, found["unit"].iloc[0])
    ax = ax or plt.subplots(figsize=(7, 1.3 + 0.36 * len(found)))[1]
    ax.axvline(0, color="0.6", linewidth=1)
    for place, (_, row) in enumerate(found.iterrows()):
        colour = "0.45" if row["holds"] == CASES_ONLY else ON_PAPER[0]
        ax.plot(scale * row[["low", "high"]].astype(float), [place, place], color=colour)
        ax.plot(scale * row["difference"], place, "D", color=colour, markersize=5)
        ax.plot(scale * row[["low_trainings", "high_trainings"]].astype(float), [place + 0.22] * 2, "|", color="0.45")
        if row["holds"] == CASES_ONLY:
            ax.text(scale * row["difference"], place - 0.16, CASES_ONLY, color=colour, fontsize=7, ha="center",
                    va="bottom")
    told = ["other", *(name for name in ("present", "region") if name in found and found[name].nunique() > 1)]
    _horizontal(ax, [", ".join(map(str, row)) for row in found[told].to_numpy()])
    ax.set_xlabel(f"{title(found['metric'].iloc[0])}: {found['reference'].iloc[0]} − other ({unit})\n"
                  f"{trainings_in_words(found)}")
    return ax


@in_one_look
def shapley_bars(values: pd.DataFrame, axes: Any = None) -> np.ndarray:
    """Shows the Shapley value of every modality, region by region, and its 95 % interval over two or more cases.

    Args:
        values: the table of `shapley`; methods and policies are drawn side by side in their own colours.
        axes: one for each region; a new figure when left out.

    Returns:
        The axes, one for each region.

    Raises:
        ValueError: the number of axes is wrong.
    """
    values = values.assign(side=[", ".join(filter(None, one)) for one in values[["method", "policy"]].to_numpy()])
    regions, modalities, sides = (list(values[name].unique()) for name in ("region", "modality", "side"))
    panels = _region_panels(len(regions), 2.2, 1.3 + len(modalities) * (0.18 + 0.2 * len(sides)), axes)
    for ax, region in zip(panels, regions, strict=True):
        for side, colour, shift, room in _lanes(sides):
            rows = values[(values["region"] == region) & (values["side"] == side)].set_index("modality")
            _bars(ax, rows.reindex(modalities), shift, room, colour)
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set(title=region, xlabel="Shapley value (Dice)")
        _horizontal(ax, modalities)
    over = BOTH if "holds" in values and (values["holds"] == BOTH).all() else "cases"
    bounded = {f"95 % interval over {over}": {"color": "0.25", "linewidth": 1.2}} if values["low"].notna().any() else {}
    legend(panels, _swatches(sides) | bounded)
    return panels


@in_one_look
def share_bars(shares: pd.DataFrame, what: str = "attention", axes: Any = None) -> np.ndarray:
    """Shows each modality's share of the attention or of the contributions in each zone, mean over the cases.

    Behind each zone is the number of cases in which the zone is not empty; only these are averaged.

    Args:
        shares: the tables of `evaluation.worth.shares`, of one or several cases, one after another.
        what: "attention" or "contribution".
        axes: one; a new figure when left out.

    Returns:
        The one axes.

    Raises:
        ValueError: another word for what, no share of it is known, or the number of axes is wrong.
    """
    means, cases = _mean_shares(shares, what)
    panels = arranged(plt.subplots(figsize=(6.5, 1.4 + 0.4 * len(means)))[1] if axes is None else axes, 1, 1)[0]
    ax, starts = panels[0], means.cumsum(axis=1) - means
    for modality, colour in on_paper(means).items():
        bars = ax.barh(range(len(means)), means[modality], 0.7, left=starts[modality], color=colour, edgecolor="white")
        numbers = [f"{100 * share:.0f}" if share > READABLE_SHARE else "" for share in means[modality]]
        ax.bar_label(bars, numbers, label_type="center", color=_ink(colour), fontsize=9)
    _horizontal(ax, [f"{zone} ({cases[zone]} {'case' if cases[zone] == 1 else 'cases'})" for zone in means.index])
    ax.set(xlim=(0, 1), xlabel=f"share of the {'attention' if what == 'attention' else 'contributions'} (%)")
    ax.set_xticks(np.linspace(0, 1, 6), [f"{share:.0f}" for share in np.linspace(0, 100, 6)])
    legend(panels, _swatches(list(means), fewest=1))
    return panels


def _region_panels(regions: int, margin: float, height: float, axes: Any) -> np.ndarray:
    """Axes side by side that share their rows."""
    if axes is None:
        axes = plt.subplots(1, regions, figsize=(min(10, margin + 2.5 * regions), height), sharey=True, sharex=True)[1]
    return arranged(axes, 1, regions)[0]


def _horizontal(ax: Axes, names: Sequence[str]) -> None:
    """A name for each row, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", left=False)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)


def _lanes(sides: Sequence[str]) -> Iterator[tuple[str, str, float, float]]:
    """Each side with its colour, and how far from the middle of a row its own part lies and how high that is."""
    room = 0.8 / len(sides)
    for number, (side, colour) in enumerate(on_paper(sides).items()):
        yield side, colour, (number - (len(sides) - 1) / 2) * room, room


def _swatches(sides: Sequence[str], fewest: int = 2) -> dict[str, dict[str, Any]]:
    """The colours of the sides for a legend, where there are several."""
    return {side: {"color": colour, "linewidth": 4} for side, colour in on_paper(sides).items()
            if len(sides) >= fewest}


def _points(ax: Axes, rows: pd.DataFrame, subsets: Sequence[str], shift: float, room: float, colour: str) -> None:
    """A point for each case, spread a little so that equal ones show, and mean ± sd below them."""
    for place, present in enumerate(subsets):
        values = rows.loc[rows["present"] == present, "value"].to_numpy(float)
        if len(values):
            heights = place + shift - room * np.linspace(0.2, 0, len(values))
            ax.plot(values, heights, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
            deviation = values.std(ddof=1) if len(values) > 1 else None
            ax.errorbar(values.mean(), place + shift + 0.25 * room, xerr=deviation, fmt="D", color=colour,
                        markersize=4.5, capsize=2.5, elinewidth=1.2)


def _bars(ax: Axes, rows: pd.DataFrame, shift: float, room: float, colour: str) -> None:
    """A bar for each modality with its interval; a word where there is no value."""
    places = np.arange(len(rows)) + shift
    value, low, high = (rows[name].to_numpy(float) for name in ("value", "low", "high"))
    ax.barh(places, value, 0.9 * room, color=colour)
    ax.errorbar((low + high) / 2, places, xerr=(high - low) / 2, fmt="none", ecolor="0.25", elinewidth=1.2, capsize=2)
    for place in places[np.isnan(value)]:
        ax.text(0, place, " not known", va="center", fontsize=7, color="0.4")


def _mean_shares(shares: pd.DataFrame, what: str) -> tuple[pd.DataFrame, pd.Series]:
    """Mean share by zone and modality, in the table's order, and how many cases know it."""
    if what not in ("attention", "contribution"):
        raise ValueError(f"found what={what!r}, expected 'attention' or 'contribution'")
    known = shares.dropna(subset=what)
    if known.empty:
        raise ValueError(f"no {what} share is known; the method has none, or the maps were not kept")
    zones, modalities = (list(shares[name].unique()) for name in ("zone", "modality"))
    cases = known.groupby("zone")["case"].nunique().reindex(zones, fill_value=0)
    sums = known.groupby(["zone", "modality"])[what].sum().unstack().reindex(zones, columns=modalities)
    return sums.fillna(0).div(cases.where(cases > 0), axis=0), cases


def _ink(colour: str) -> str:
    """Black or white, whichever is read on this colour."""
    return "black" if np.dot(mpl.colors.to_rgb(colour), (0.299, 0.587, 0.114)) > 0.45 else "white"

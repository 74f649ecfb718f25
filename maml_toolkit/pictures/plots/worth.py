"""What each modality is worth: Shapley values as bars, and how attention or contributions are shared by zone."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from maml_toolkit.pictures.plots.style import ON_PAPER, arranged, in_one_look, legend

READABLE_SHARE = 0.06
"""A narrower part of a bar has no room for its number."""


@in_one_look
def shapley_bars(values: pd.DataFrame, axes: Any = None) -> np.ndarray:
    """Shows the Shapley value of every modality, region by region, and its 95 % interval over cases, two or more.

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
    colours = dict(zip(sides, cycle(ON_PAPER), strict=False))
    panels = _panels(len(regions), len(modalities), len(sides), axes)
    for ax, region in zip(panels, regions, strict=True):
        for number, side in enumerate(sides):
            rows = values[(values["region"] == region) & (values["side"] == side)].set_index("modality")
            room = 0.8 / len(sides)
            _bars(ax, rows.reindex(modalities), (number - (len(sides) - 1) / 2) * room, room, colours[side])
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set(title=region, xlabel="Shapley value (Dice)")
        _horizontal(ax, modalities)
    named = [Line2D([], [], color=colour, linewidth=4, label=side) for side, colour in colours.items()]
    bounded = [Line2D([], [], color="0.25", linewidth=1.2, label="95 % interval over cases")]
    lines = [*(named if len(sides) > 1 else []), *(bounded if values["low"].notna().any() else [])]
    if not lines:
        return panels
    if axes is None:
        legend(panels, lines, outside=True)
    else:    # the corner that style.legend takes is where the bars begin
        panels[0].legend(handles=lines, loc="best", fontsize=7, frameon=True, framealpha=0.7)
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
    ax = arranged(plt.subplots(figsize=(6.5, 1.4 + 0.4 * len(means)))[1] if axes is None else axes, 1, 1)[0, 0]
    colours = dict(zip(means, cycle(ON_PAPER), strict=False))
    starts = means.cumsum(axis=1) - means
    for modality, colour in colours.items():
        bars = ax.barh(range(len(means)), means[modality], 0.7, left=starts[modality], color=colour, edgecolor="white")
        numbers = [f"{100 * share:.0f}" if share > READABLE_SHARE else "" for share in means[modality]]
        ax.bar_label(bars, numbers, label_type="center", color=_ink(colour), fontsize=9)
    _horizontal(ax, [f"{zone} ({cases[zone]} {'case' if cases[zone] == 1 else 'cases'})" for zone in means.index])
    ax.set(xlim=(0, 1), xlabel=f"share of the {'attention' if what == 'attention' else 'contributions'} (%)")
    ax.set_xticks(np.linspace(0, 1, 6), [f"{share:.0f}" for share in np.linspace(0, 100, 6)])
    lines = [Line2D([], [], color=colour, linewidth=4, label=name) for name, colour in colours.items()]
    if axes is None:
        legend(np.array([ax]), lines, outside=True)
    else:    # above, since the bars fill the axes
        ax.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, fontsize=8)
    return np.array([ax])


def _panels(regions: int, modalities: int, sides: int, axes: Any) -> np.ndarray:
    if axes is None:
        size = (min(10, 2.2 + 2.5 * regions), 1.3 + modalities * (0.18 + 0.2 * sides))
        axes = plt.subplots(1, regions, figsize=size, sharey=True, sharex=True)[1]
    return arranged(axes, 1, regions)[0]


def _bars(ax: Axes, rows: pd.DataFrame, shift: float, room: float, colour: str) -> None:
    """A bar for each modality with its interval; a word where there is no value."""
    places = np.arange(len(rows)) + shift
    value, low, high = (rows[name].to_numpy(float) for name in ("value", "low", "high"))
    ax.barh(places, value, 0.9 * room, color=colour)
    ax.errorbar((low + high) / 2, places, xerr=(high - low) / 2, fmt="none", ecolor="0.25", elinewidth=1.2, capsize=2)
    for place in places[np.isnan(value)]:
        ax.text(0, place, " not known", va="center", fontsize=7, color="0.4")


def _horizontal(ax: Axes, names: list[str]) -> None:
    """A name for each place, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", left=False)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)


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

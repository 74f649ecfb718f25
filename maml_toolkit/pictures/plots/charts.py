"""Charts of tables: scores, differences, what each modality is worth, how a run went, how far maps can be trusted.

The last are curves of deletion and insertion, and what random weights leave of a map.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation.comparing import trainings_in_words
from maml_toolkit.evaluation.intervals import BOTH, CASES_ONLY
from maml_toolkit.evaluation.metrics import SIGNED, title
from maml_toolkit.evaluation.table import one_metric
from maml_toolkit.pictures.plots import look
from maml_toolkit.system.errors import expect_one_of

READABLE_SHARE = 0.06
"""A narrower part of a bar has no room for its number."""

NO_MAP = {"random": "0.55", "distance": "0.2", "answer": "0.4"}
"""Orders that know nothing of the network, and its answer, in greys and dashed."""


@look.in_one_look
def scores(table: pd.DataFrame, metric: str = "dice", axes: Any = None) -> np.ndarray:
    """Shows a metric of every case for every subset of modalities, region by region, with mean ± sd over cases.

    Args:
        table: the tidy table of an evaluation; several methods, or policies, are drawn side by side in their
            own colours. A case's runs are averaged first.
        metric: one of those in the table; a distance is shown in mm where the table has mm.
        axes: one for each region; a new figure when left out.

    Returns:
        The axes, one for each region.

    Raises:
        ValueError: the table holds no value of this metric, or the number of axes is wrong.
    """
    table = one_metric(table.dropna(subset="value"), metric)
    if "policy" in table and table["policy"].nunique() > 1:
        table = table.assign(method=_sides(table))
    table = table.groupby(["method", "region", "present", "unit", "case"], sort=False)["value"].mean().reset_index()
    regions, methods = list(table["region"].unique()), list(table["method"].unique())
    subsets = sorted(table["present"].unique(), key=lambda present: -present.count("+"))
    unit = table["unit"].iloc[0]
    label = title(metric) if unit == "fraction" else f"{title(metric)} ({unit})"
    figsize = min(10, 2.6 + 2.5 * len(regions)), 1.4 + len(subsets) * (0.18 + 0.22 * len(methods))
    panels = look.arranged(axes, 1, len(regions), figsize=figsize, sharex=True, sharey=True)[0]
    for ax, region in zip(panels, regions, strict=True):
        for method, colour, shift, room in _lanes(methods):
            rows = table[(table["region"] == region) & (table["method"] == method)]
            _points(ax, rows, subsets, shift, room, colour)
        xlim = (-0.02, 1.02) if metric == "dice" else (None, None) if metric in SIGNED else (0, None)
        ax.set(title=region, xlabel=label, xlim=xlim)
        _horizontal(ax, subsets)
    marks = {"one case": {"color": "0.3", "marker": "o", "markersize": 3, "linestyle": ""},
             "mean ± sd": {"color": "0.3", "marker": "D", "markersize": 4.5, "linewidth": 1.2}}
    look.legend(panels, _swatches(methods) | marks)
    return panels


@look.in_one_look
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
        colour = "0.45" if row["holds"] == CASES_ONLY else look.ON_PAPER[0]
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


@look.in_one_look
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
    values = values.assign(side=_sides(values))
    regions, modalities, sides = (list(values[name].unique()) for name in ("region", "modality", "side"))
    figsize = min(10, 2.2 + 2.5 * len(regions)), 1.3 + len(modalities) * (0.18 + 0.2 * len(sides))
    panels = look.arranged(axes, 1, len(regions), figsize=figsize, sharex=True, sharey=True)[0]
    for ax, region in zip(panels, regions, strict=True):
        for side, colour, shift, room in _lanes(sides):
            rows = values[(values["region"] == region) & (values["side"] == side)].set_index("modality")
            _bars(ax, rows.reindex(modalities), shift, room, colour)
        ax.axvline(0, color="0.3", linewidth=0.8)
    for ax, region in zip(panels, regions, strict=True):    # after all bars: they share one axis
        left, right = ax.get_xlim()
        ax.set(title=region, xlabel=f"Shapley value ({title(values['metric'].iloc[0])})",
               xlim=(max(left, -1), min(right, 1)))         # none lies beyond
        _horizontal(ax, modalities)
    over = BOTH if "holds" in values and (values["holds"] == BOTH).all() else "cases"
    bounded = {f"95 % interval over {over}": {"color": "0.25", "linewidth": 1.2}} if values["low"].notna().any() else {}
    look.legend(panels, _swatches(sides) | bounded)
    return panels


@look.in_one_look
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
    panels = look.arranged(axes, 1, 1, figsize=(6.5, 1.4 + 0.4 * len(means)))[0]
    ax, starts = panels[0], means.cumsum(axis=1) - means
    for modality, colour in look.on_paper(means).items():
        bars = ax.barh(range(len(means)), means[modality], 0.7, left=starts[modality], color=colour, edgecolor="white")
        numbers = [f"{100 * share:.0f}" if share > READABLE_SHARE else "" for share in means[modality]]
        ax.bar_label(bars, numbers, label_type="center", color=_ink(colour), fontsize=9)
    _horizontal(ax, [f"{zone} ({cases[zone]} {'case' if cases[zone] == 1 else 'cases'})" for zone in means.index])
    ax.set(xlim=(0, 1), xlabel=f"share of the {'attention' if what == 'attention' else 'contributions'} (%)")
    ax.set_xticks(np.linspace(0, 1, 6), [f"{share:.0f}" for share in np.linspace(0, 100, 6)])
    look.legend(panels, _swatches(list(means), fewest=1))
    return panels


def _horizontal(ax: Axes, names: Sequence[str]) -> None:
    """A name for each row, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", left=False)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)


def _sides(table: pd.DataFrame) -> list[str]:
    """Who answered, row by row: method and policy, as far as there is one."""
    return [", ".join(filter(None, one)) for one in table[["method", "policy"]].fillna("").to_numpy()]


def _lanes(sides: Sequence[str]) -> Iterator[tuple[str, str, float, float]]:
    """Each side with its colour, and how far from the middle of a row its own part lies and how high that is."""
    room = 0.8 / len(sides)
    for number, (side, colour) in enumerate(look.on_paper(sides).items()):
        yield side, colour, (number - (len(sides) - 1) / 2) * room, room


def _swatches(sides: Sequence[str], fewest: int = 2) -> dict[str, dict[str, Any]]:
    """The colours of the sides for a legend, where there are several."""
    return {side: {"color": colour, "linewidth": 4} for side, colour in look.on_paper(sides).items()
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
    expect_one_of("what", what, ("attention", "contribution"))
    known = shares.dropna(subset=what)
    if known.empty:
        raise ValueError(f"no {what} share is known; the method has none, or the maps were not kept")
    zones, modalities = (list(shares[name].unique()) for name in ("zone", "modality"))
    cases = known.groupby("zone")["case"].nunique().reindex(zones, fill_value=0)
    each = known.groupby(["zone", "case", "modality"])[what].sum()
    each /= each.groupby(["zone", "case"]).transform("sum")         # a case may have been answered several times
    sums = each.groupby(["zone", "modality"]).sum().unstack().reindex(zones, columns=modalities)
    return sums.fillna(0).div(cases.where(cases > 0), axis=0), cases


def _ink(colour: str) -> str:
    """Black or white, whichever is read on this colour."""
    return "black" if np.dot(mpl.colors.to_rgb(colour), (0.299, 0.587, 0.114)) > 0.45 else "white"


@look.in_one_look
def learning_curves(history: pd.DataFrame, axes: Any = None, task: Task | None = None) -> np.ndarray:
    """Shows how a run went: the loss and its terms on the left, the Dice of each region on the right.

    Args:
        history: a run's `history.csv`, one row an epoch: columns epoch, loss/<term> and
            validation/dice/<region>, the latter empty in epochs without validation.
        axes: two axes; a new figure when left out.
        task: of the run, so that its regions have the colours of all other figures; without it they have them in the
            order of the columns.

    Returns:
        The two axes.

    Raises:
        ValueError: the number of axes is wrong.
    """
    panels = loss, dice = look.arranged(axes, 1, 2, figsize=(9, 3.4))[0]
    single = {"marker": "o"} if len(history) == 1 else {}
    terms = _known(history, "loss/")
    for term in sorted(terms, key=lambda term: term != "total"):
        strong = {"color": "black", "linewidth": 2, "zorder": 3} if term == "total" else {"linewidth": 1.2}
        loss.plot(terms[term], label=term, **single, **strong)
    loss.set(xlabel="epoch", ylabel="loss", title="training loss")
    scored = _known(history, "validation/dice/")
    colours = look.on_images(scored) | (look.region_colours(task) if task else {})
    for region, values in scored.items():
        dice.plot(values, label=region, color=colours[region], marker="o", markersize=4)
    dice.set(xlabel="epoch", ylabel="Dice", title="validation", ylim=(0, 1))
    if not dice.lines:
        dice.text(0.5, 0.5, "not validated", transform=dice.transAxes, ha="center", color="0.4")
    for ax in panels:
        ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.grid(axis="y", color="0.9")
        if ax.lines:        # beside the axes of an own figure: a loss leaves no corner free
            ax.legend(fontsize=8, **({"loc": "upper left", "bbox_to_anchor": (1, 1)} if axes is None else {}))
    return panels


@look.in_one_look
def deletion_curves(curves: pd.DataFrame, measure: str = "deletion", ax: Axes | None = None) -> Axes:
    """Shows how the lesion's probability falls (or rises) while parts of the scans are replaced (or put back).

    A line is the mean over cases and classes, its shade the standard error over cases; the seeds of a case are
    averaged first.

    Args:
        curves: the table of `evaluation.explaining.perturbation.deletion`.
        measure: "deletion" or "insertion".
        ax: to draw into; a new figure when left out.

    Raises:
        ValueError: the table holds no curve of this measure.
    """
    found = curves[curves["measure"] == measure]
    if found.empty:
        raise ValueError(f"found no curves of {measure!r}, expected some; the table holds "
                         f"{', '.join(sorted(curves['measure'].unique())) or 'nothing'}")
    ax = ax or plt.subplots(figsize=(5.5, 3.6))[1]
    colours = _map_colours(found["order"])
    for order, part in found.groupby("order", sort=False):
        cases = part.groupby(["share", "case"])["value"].mean().unstack("case")
        mean, error = cases.mean(axis=1), cases.sem(axis=1).fillna(0)
        known = order not in NO_MAP
        ax.plot(100 * mean.index, mean, "-" if known else "--", color=colours[order], label=order, zorder=2 + known)
        ax.fill_between(100 * mean.index, mean - error, mean + error, color=colours[order], alpha=0.15, linewidth=0)
    done = "replaced" if measure == "deletion" else "put back"
    ax.set(xlabel=f"parts {done} (%)", ylabel="probability in the lesion", xlim=(0, 100), ylim=(0, 1), title=measure)
    ax.grid(axis="y", color="0.9")
    ax.legend(title="in the order of")
    return ax


@look.in_one_look
def randomisation_curves(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Shows what is left of each map while the layers are drawn anew, one after another from the answer's side.

    A line is the mean size of the correlation with the trained network's map. The points are the signed correlations,
    one for each draw of the weights, mean over cases and modalities: drawn weights may turn a map's sign.

    Args:
        table: that of `evaluation.explaining.learned.randomisation`.
        ax: to draw into; a new figure when left out.

    Raises:
        ValueError: the table holds no correlation.
    """
    known = table.dropna(subset="value")
    if known.empty:
        raise ValueError("found no correlation that is known, expected some; take the table of randomisation of cases "
                         "with a lesion, and maps that are not the same everywhere")
    layers, colours = list(known["layer"].unique()), _map_colours(known["map"])
    ax = ax or plt.subplots(figsize=(1.8 + 0.75 * len(layers), 3.6))[1]
    ax.axhline(0, color="0.6", linewidth=0.8)
    for number, (kind, colour) in enumerate(colours.items()):
        part = known[known["map"] == kind]
        places = np.arange(len(layers)) + 0.12 * (number - (len(colours) - 1) / 2)
        sizes = part["value"].abs().groupby(part["layer"]).mean().reindex(layers)
        ax.plot(places, sizes, "--" if kind in NO_MAP else "-", color=colour, label=kind)
        draws = part.groupby(["layer", "seed"])["value"].mean().unstack("seed").reindex(layers)
        ax.plot(places, draws, "o", color=colour, markersize=3, alpha=0.6, markeredgewidth=0)
    ax.set_xticks(range(len(layers)), layers, rotation=30, ha="right", rotation_mode="anchor")
    ax.set(ylabel="rank correlation with the trained", ylim=(-1.03, 1.03), xlabel="drawn anew, one after another")
    ax.grid(axis="y", color="0.9")
    ax.legend()
    return ax


def _known(history: pd.DataFrame, prefix: str) -> dict[str, pd.Series]:
    """The columns with a prefix, by what follows it, and their values by epoch; empty ones are left out."""
    columns = history.set_index("epoch").filter(regex=f"^{prefix}").dropna(axis=1, how="all")
    return {name.removeprefix(prefix): values.dropna() for name, values in columns.items()}


def _map_colours(names: pd.Series) -> dict[str, str]:
    """A colour for each map, greys for what is no map, in the order of the table."""
    chosen = NO_MAP | look.on_paper(name for name in names.unique() if name not in NO_MAP)
    return {name: chosen[name] for name in names.unique()}

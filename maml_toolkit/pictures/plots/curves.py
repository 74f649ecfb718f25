"""Curves: how a run went, and whether maps are worth looking at.

The latter are curves of deletion and insertion, and what random weights leave of a map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from maml_toolkit.pictures.plots.look import arranged, in_one_look, on_images, on_paper

NO_MAP = {"random": "0.55", "distance": "0.2", "answer": "0.4"}
"""Orders that know nothing of the network, and its answer, in greys and dashed."""


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
    panels = loss, dice = arranged(plt.subplots(1, 2, figsize=(9, 3.4))[1] if axes is None else axes, 1, 2)[0]
    single = {"marker": "o"} if len(history) == 1 else {}
    terms = _known(history, "loss/")
    for term in sorted(terms, key=lambda term: term != "total"):
        strong = {"color": "black", "linewidth": 2, "zorder": 3} if term == "total" else {"linewidth": 1.2}
        loss.plot(terms[term], label=term, **single, **strong)
    loss.set(xlabel="epoch", ylabel="loss", title="training loss")
    scored = _known(history, "validation/dice/")
    for region, colour in on_images(scored).items():
        dice.plot(scored[region], label=region, color=colour, marker="o", markersize=4)
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
    colours = _colours(found["order"])
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


@in_one_look
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
    layers, colours = list(known["layer"].unique()), _colours(known["map"])
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


def _colours(names: pd.Series) -> dict[str, str]:
    """A colour for each map, greys for what is no map, in the order of the table."""
    chosen = NO_MAP | on_paper(name for name in names.unique() if name not in NO_MAP)
    return {name: chosen[name] for name in names.unique()}

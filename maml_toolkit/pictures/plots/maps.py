"""Whether maps are worth looking at: curves of deletion and insertion, and what random weights leave of a map."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from maml_toolkit.pictures.plots.style import ON_PAPER, in_one_look

WITHOUT_A_MAP = {"random": "0.55", "distance": "0.2"}
"""Orders that know nothing of the network, in greys and dashed."""


@in_one_look
def deletion_curves(curves: pd.DataFrame, measure: str = "deletion", ax: Axes | None = None) -> Axes:
    """Shows how the lesion's probability falls (or rises) while parts of the scans are replaced (or put back).

    A line is the mean over cases and classes, its shade the standard error over cases; the seeds of a case are
    averaged first.

    Args:
        curves: the table of `evaluation.perturbation.deletion`.
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
    colours = _colours(list(found["order"].unique()))
    for order, part in found.groupby("order", sort=False):
        cases = part.groupby(["share", "case"])["value"].mean().unstack("case")
        mean, error = cases.mean(axis=1), cases.sem(axis=1).fillna(0)
        known = order not in WITHOUT_A_MAP
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
        table: that of `evaluation.learned.randomisation`.
        ax: to draw into; a new figure when left out.

    Raises:
        ValueError: the table holds no correlation.
    """
    known = table.dropna(subset="value")
    if known.empty:
        raise ValueError("found no correlation that is known, expected some; take the table of randomisation of cases "
                         "with a lesion, and maps that are not the same everywhere")
    layers, kinds = (list(known[name].unique()) for name in ("layer", "map"))
    ax = ax or plt.subplots(figsize=(1.8 + 0.75 * len(layers), 3.6))[1]
    ax.axhline(0, color="0.6", linewidth=0.8)
    for number, (kind, colour) in enumerate(_colours(kinds).items()):
        part = known[known["map"] == kind].assign(size=lambda one: one["value"].abs())
        places = np.arange(len(layers)) + 0.12 * (number - (len(kinds) - 1) / 2)
        sizes = part.groupby("layer")["size"].mean().reindex(layers)
        ax.plot(places, sizes, "--" if kind == "answer" else "-", color=colour, label=kind)
        draws = part.groupby(["layer", "seed"])["value"].mean().unstack("seed").reindex(layers)
        ax.plot(places, draws, "o", color=colour, markersize=3, alpha=0.6, markeredgewidth=0)
    ax.set_xticks(range(len(layers)), layers, rotation=30, ha="right", rotation_mode="anchor")
    ax.set(ylabel="rank correlation with the trained", ylim=(-1.03, 1.03), xlabel="drawn anew, one after another")
    ax.grid(axis="y", color="0.9")
    ax.legend()
    return ax


def _colours(names: list[str]) -> dict[str, str]:
    """A colour for each map, greys for what is no map."""
    maps = [name for name in names if name not in WITHOUT_A_MAP and name != "answer"]
    chosen = {**WITHOUT_A_MAP, "answer": "0.4", **dict(zip(maps, cycle(ON_PAPER), strict=False))}
    return {name: chosen[name] for name in names}

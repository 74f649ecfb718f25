"""One side against another: paired differences with their intervals, and cases with every side's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation.metrics import title
from maml_toolkit.pictures.plots.panels import contour, image, laid_out
from maml_toolkit.pictures.plots.style import ON_IMAGES, ON_PAPER, in_one_look, legend
from maml_toolkit.pictures.plots.view import View


@in_one_look
def differences(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Shows what `compare` found: each difference with its 95 % interval, around the line of no difference.

    The thin line is the interval over cases, the short marks the single trainings that lie furthest apart.

    Args:
        found: the table of `evaluation.compare`.
        ax: to draw into; a new figure when left out.
    """
    scale, unit = (100, "points") if found["unit"].iloc[0] == "fraction" else (1, found["unit"].iloc[0])
    ax = ax or plt.subplots(figsize=(7, 1.1 + 0.36 * len(found)))[1]
    ax.axvline(0, color="0.6", linewidth=1)
    for place, (_, row) in enumerate(found.iterrows()):
        colour = "0.45" if not row["low"] * row["high"] > 0 else ON_PAPER[0]
        ax.plot(scale * row[["low", "high"]].astype(float), [place, place], color=colour)
        ax.plot(scale * row["difference"], place, "D", color=colour, markersize=5)
        ax.plot(scale * row[["lowest_run", "highest_run"]].astype(float), [place + 0.22] * 2, "|", color="0.45")
    ax.set_yticks(range(len(found)), [_named(row, found) for _, row in found.iterrows()])
    metric, reference = title(found["metric"].iloc[0]), found["reference"].iloc[0]
    ax.set(ylim=(len(found) - 0.5, -0.6), xlabel=f"{metric}: {reference} − other ({unit})")
    ax.grid(axis="x", color="0.92")
    ax.tick_params(axis="y", left=False)
    return ax


@in_one_look
def side_by_side(cases: Sequence[Case], task: Task, predictions: Mapping[str, Sequence[Any]],
                 modality: str | None = None, axes: Any = None) -> np.ndarray:
    """Shows cases as rows and answers as columns: the truth and each system's answer, on one modality's image.

    This is the paper's Figure 3: cases where a single modality fails and both together do not.

    Args:
        predictions: name of a system -> its prediction of each case.
        modality: whose image lies below; that which the prediction used if it used one, else the reference.
        axes: a row for each case with an axes for each system; a new figure when left out.

    Returns:
        The axes, shape (cases, systems).

    Raises:
        ValueError: a system with fewer or more predictions than cases, or the number of axes is wrong.
    """
    if wrong := {name: len(list(own)) for name, own in predictions.items() if len(list(own)) != len(cases)}:
        raise ValueError(f"found {wrong} predictions, expected {len(cases)}, one for each case")
    views = [[View.of(case, task, own[row], None) for own in predictions.values()] for row, case in enumerate(cases)]
    drawn = laid_out(len(cases), len(predictions), axes, views[0][0])
    lines = {"truth": {"color": ON_IMAGES[0]}, "prediction": {"color": ON_IMAGES[1]}}
    for row, case in enumerate(cases):
        for column, (name, own) in enumerate(predictions.items()):
            ax, view, used = drawn[row, column], views[row][column], own[row].modalities
            shown = modality or (used[0] if len(used) == 1 else task.reference)
            image(ax, view, shown)
            ax.set_title(f"{name}\n" * (row == 0) + f"on {shown}", fontsize=9)
            for source, line in lines.items():
                contour(ax, view, view.classes[source] > 0, **line)
        drawn[row, 0].set_ylabel(case.id, fontsize=8)
    legend(drawn.ravel(), [Line2D([], [], label=source, **line) for source, line in lines.items()],
           outside=axes is None)
    return drawn


def _named(row: pd.Series, found: pd.DataFrame) -> str:
    """What tells a row from the others."""
    told = [str(row[name]) for name in ("other", "present", "region") if name in found and
            (name == "other" or found[name].nunique() > 1)]
    return ", ".join(told)

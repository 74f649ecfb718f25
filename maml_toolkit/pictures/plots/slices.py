"""Slices of a case with its lesion, and maps of what a network made of each modality.

Truth and prediction are lines that leave the image visible. A modality that was not acquired is a hatched
panel, never a black image. The letters say where the patient's right, left, front (A) and back (P) are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.panels import colour_bar, contour, hatched, image, laid_out, picture
from maml_toolkit.pictures.plots.style import HALO, ON_IMAGES, in_one_look, legend
from maml_toolkit.pictures.plots.view import View


@in_one_look
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
        DataError: the case has no image, or one that cannot be read.
        ValueError: `at` lies outside, or the number of axes is wrong.
    """
    view = View.of(case, task, prediction, at)
    lines = {(region, source): _line(number, source, len(task.regions) > 1)
             for number, region in enumerate(task.regions) for source in view.classes}
    panels = laid_out(1, len(task.modalities), axes, view)[0]
    for ax, modality in zip(panels, task.modalities, strict=True):
        image(ax, view, modality)
        for region, source in reversed(lines):      # large regions come first and shall lie above
            contour(ax, view, view.region(region, source), **lines[region, source])
    if lines:
        legend(panels, [Line2D([], [], label=f"{region}, {source}", **line)
                        for (region, source), line in lines.items()], outside=axes is None)
    return panels


@in_one_look
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

    Raises:
        DataError, ValueError: as for `case_slices`.
    """
    view = View.of(case, task, prediction, at)
    scale = ScalarMappable(Normalize(0, 1), "cividis")
    line = {"color": "white", "path_effects": HALO}
    panels = laid_out(2, len(task.modalities), axes, view, scale)
    for (above, below), modality in zip(panels.T, task.modalities, strict=True):
        image(above, view, modality)
        if modality in prediction.attention:
            attention = Volume(prediction.attention[modality], prediction.affine)
            picture(below, view, view.plane.cut(attention), scale)
        else:
            hatched(below, view, "no attention" if modality in prediction.modalities else "not used")
        for ax in (above, below):
            contour(ax, view, view.lesion, **line)
    legend(panels[0], [Line2D([], [], label=f"lesion, {view.source}", **line)], outside=axes is None)
    colour_bar(panels[1], scale, "attention")
    return panels


@in_one_look
def contribution_maps(case: Case, prediction: Any, task: Task, class_name: str | None = None, *,
                      at: Sequence[int] | None = None, axes: Any = None) -> np.ndarray:
    """Shows which modality argued for a class and which against it, voxel by voxel.

    The logit of a class is the sum of the modalities' contributions and a bias; red raises it, blue lowers
    it, and all panels share one range, so that strong and weak modalities can be compared by eye.

    Args:
        prediction: with `contributions` of shape (classes, depth, height, width) for each modality used.
        class_name: one of the task's classes; when left out the one that is largest in the picture.
        at: voxel (i, j, k) through which to cut; the largest cross-section of the lesion when left out.
        axes: one for each modality and one for the sum; a new figure when left out.

    Returns:
        The axes, the sum's last.

    Raises:
        DataError: as for `case_slices`.
        ValueError: the class is unknown, the method's answer is no sum over modalities, or as for `case_slices`.
    """
    _check_contributions(prediction, task, class_name or task.class_names[0])
    view = View.of(case, task, prediction, at)
    class_name = class_name or max(task.class_names[1:], key=lambda name: view.of_class(name).sum())
    terms, bias = _terms(prediction, task.class_names.index(class_name), view)
    logit = sum(terms.values()) + bias
    limit = max(float(np.percentile(np.abs([*terms.values(), logit]), 99.5)), 1e-6)
    scale = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    panels = laid_out(1, len(task.modalities) + 1, axes, view, scale)[0]
    for ax, modality in zip(panels, task.modalities, strict=False):
        ax.set_title(modality)
        if modality in terms:
            picture(ax, view, terms[modality], scale)
        else:
            hatched(ax, view, "not used" if modality in case.images else "not acquired")
    panels[-1].set_title(f"logit = sum {'+' if bias >= 0 else '−'} {abs(bias):.2f}")
    picture(panels[-1], view, logit, scale)
    for ax in panels:
        contour(ax, view, view.of_class(class_name), color="black", linewidth=0.9)
    line = Line2D([], [], color="black", label=f"{class_name}, {view.source}")
    legend(panels, [line], outside=axes is None)
    colour_bar(panels, scale, "logit", extend="both")
    return panels


def _check_contributions(prediction: Any, task: Task, class_name: str) -> None:
    if class_name not in task.class_names:
        raise ValueError(f"found the class {class_name!r}, expected one of {', '.join(task.class_names)}")
    if not prediction.contributions:
        raise ValueError("this prediction has no contributions: its method does not answer with a sum over "
                         "modalities; use one that does, such as maml")


def _terms(prediction: Any, number: int, view: View) -> tuple[dict[str, np.ndarray], float]:
    """The picture of each modality's contribution to the logit of a class, and the bias."""
    terms = {modality: view.plane.cut(Volume(contribution[number], prediction.affine))
             for modality, contribution in prediction.contributions.items()}
    return terms, 0.0 if prediction.bias is None else float(prediction.bias[number])


def _line(region: int, source: str, several: bool) -> dict[str, Any]:
    if several:
        dashes = {"truth": "-", "prediction": (0, (2.5, 1.2))}
        return {"color": ON_IMAGES[region % len(ON_IMAGES)], "linestyle": dashes[source], "linewidth": 1.2}
    return {"color": ON_IMAGES[source == "prediction"]}

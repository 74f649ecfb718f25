"""The picture that stands for the explorer where no script runs: on code hosts, in printed and converted notebooks."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.panels import colour_bar, contour, hatched, image, picture
from maml_toolkit.pictures.plots.style import ON_IMAGES, in_one_look, legend
from maml_toolkit.pictures.plots.view import BODY_HU, Plane, View
from maml_toolkit.pictures.widgets.scene import Scene
from maml_toolkit.prediction.prediction import Prediction

WIDTH = 9.2
"""Inches at 90 pixels each."""


@in_one_look
def still(scene: Scene) -> bytes:
    """A PNG of the largest axial cross-section of the lesion: every modality with contours, and its contribution.

    The second row is the contribution to the class that is largest in the picture, in one range around 0; the
    attention from 0 to 1 where the method has no contributions; left out where it has neither.
    """
    view = _view(scene)
    kind = _kind(scene.answers[0])
    figure = _figure(view, rows=1 + bool(kind))
    panels = figure.subplots(1 + bool(kind), len(scene.task.modalities), squeeze=False)
    lines = _lines(scene, view)
    for ax, modality in zip(panels[0], scene.task.modalities, strict=True):
        image(ax, view, modality)
        for (region, source), line in reversed(lines.items()):
            contour(ax, view, view.region(region, source), **line)
    if kind:
        _maps(scene, view, kind, panels[1])
    legend(panels[0], [Line2D([], [], label=f"{region}, {source}", **line)
                       for (region, source), line in lines.items()], outside=True)
    figure.suptitle(f"case {scene.case}, from {' + '.join(scene.answers[0].modalities)}", fontsize=10)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=90)
    return held.getvalue()


def _figure(view: View, rows: int) -> Figure:
    left, right, bottom, top = view.frame_mm
    columns = len(view.task.modalities)
    width = min(2.8, (WIDTH - 0.8) / columns)
    figure = Figure((width * columns + 0.8, rows * (width * (top - bottom) / (right - left) + 0.3) + 0.8),
                    layout="compressed")
    FigureCanvasAgg(figure)
    return figure


def _view(scene: Scene) -> View:
    """The axial slice through the start, without resampling."""
    level = scene.start[2]
    point = (scene.affine @ [*scene.start, 1])[:3]
    plane = Plane.through(point, Volume(scene.whole_classes, scene.affine))
    images = {name: _brightness(array, scene.task.intensities[name], level) for name, array in scene.images.items()}
    classes = {} if scene.truth is None else {"truth": scene.truth}
    classes["prediction"] = scene.whole_classes
    return View(plane, scene.task, images, {source: _cut(one[:, :, level]) for source, one in classes.items()})


def _cut(level: np.ndarray) -> np.ndarray:
    """A level (right, front) as rows from the back, columns from the patient's right."""
    return level[::-1].T


def _brightness(array: np.ndarray, kind: str, level: int) -> np.ndarray:
    body = array[array > BODY_HU if kind == "ct" else array != 0 if kind == "mr" else ...]
    low, high = np.percentile(body if body.size else array, (0.5, 99.5))
    return np.clip((_cut(array[:, :, level]) - low) / max(high - low, 1e-6), 0, 1)


def _kind(answer: Prediction) -> str:
    return next((kind for kind in ("contribution", "attention")
                 if any(name.startswith(f"{kind}/") for name in answer.maps)), "")


def _lines(scene: Scene, view: View) -> dict[tuple[str, str], dict]:
    """Each region has its colour; the truth is solid, the prediction dashed."""
    return {(region, source): {"color": ON_IMAGES[number % len(ON_IMAGES)], "linewidth": 1.3,
                               "linestyle": "-" if source == "truth" else (0, (3, 2))}
            for number, region in enumerate(scene.task.regions) for source in view.classes}


def _maps(scene: Scene, view: View, kind: str, panels: np.ndarray) -> None:
    """A map of each modality in one range for all."""
    answer = scene.answers[0]
    number = max(range(1, scene.task.classes), key=lambda one: int((view.classes[view.source] == one).sum()))
    cuts = {name: _level(scene, scene.maps(answer, f"{kind}/{name}"), number) for name in answer.modalities
            if f"{kind}/{name}" in answer.maps}
    scale, label = ScalarMappable(Normalize(0, 1), "cividis"), "attention"
    if kind == "contribution":
        limit = max(float(np.percentile(np.abs([*cuts.values()]), 99.5)), 1e-6)
        scale = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
        label = f"contribution to {scene.task.class_names[number]} (logit)"
    for ax, modality in zip(panels, scene.task.modalities, strict=True):
        if modality in cuts:
            picture(ax, view, cuts[modality], scale)
            contour(ax, view, view.classes[view.source] == number, color="black", linewidth=0.9)
        else:
            hatched(ax, view, "not used" if modality in scene.images else "not acquired")
    colour_bar(panels, scale, label)


def _level(scene: Scene, box: np.ndarray, number: int) -> np.ndarray:
    """The picture of a map at the start's level, 0 outside the box."""
    values = box[number] if box.ndim == 4 else box
    level = np.zeros(scene.grid.canonical_shape[:2], np.float32)
    x, y, z = scene.grid.box
    if z[0] <= scene.start[2] < z[1]:
        level[slice(*x), slice(*y)] = values[:, :, scene.start[2] - z[0]]
    return _cut(level)

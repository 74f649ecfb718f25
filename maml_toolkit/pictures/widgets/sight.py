"""What `view3d` was asked to show of a case, checked, and as every back end needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from scipy.ndimage import map_coordinates

from maml_toolkit.data.cases import Case
from maml_toolkit.pictures.plots.style import ON_IMAGES
from maml_toolkit.pictures.plots.view import BODY_HU
from maml_toolkit.pictures.widgets.scene import Scene
from maml_toolkit.pictures.widgets.surface import Surface
from maml_toolkit.prediction.prediction import Prediction

MAPS = ("attention", "contribution")

COLOUR_MAPS = {"attention": "cividis", "contribution": "RdBu_r"}


@dataclass(frozen=True)
class Sight:
    """One scan of a scene, its map, and what is known of the lesion.

    Attributes:
        scene: the case in RAS+, with the answers.
        modality: of the scan on show, and of the map.
        map: attention, contribution, or nothing.
        number: the class whose contribution is shown; the largest of the prediction unless chosen.
    """

    scene: Scene
    modality: str
    map: str
    number: int

    @property
    def image(self) -> np.ndarray:
        """The scan on the canonical grid, float32."""
        return self.scene.images[self.modality]

    @cached_property
    def window(self) -> tuple[float, float]:
        """What is shown as black and as white: the 0.5 and the 99.5 percentile of the body."""
        kind = self.scene.task.intensities[self.modality]
        body = self.image[self.image > BODY_HU if kind == "ct" else self.image != 0 if kind == "mr" else ...]
        low, high = np.percentile(body if body.size else self.image, (0.5, 99.5))
        return float(low), float(max(high, low + 1e-6))

    @property
    def sources(self) -> Mapping[str, np.ndarray]:
        """Classes of each voxel of the canonical grid: the truth, where it is known, and the prediction."""
        known = {} if self.scene.truth is None else {"truth": self.scene.truth}
        return {**known, "prediction": self.scene.whole_classes}

    @cached_property
    def colours(self) -> dict[str, tuple[float, float, float]]:
        """Red, green, blue, 0 to 1, of each region; the same in all figures."""
        return {name: mpl.colors.to_rgb(ON_IMAGES[number % len(ON_IMAGES)])
                for number, name in enumerate(self.scene.task.regions)}

    @cached_property
    def values(self) -> np.ndarray:
        """The map in the box, float32."""
        values = self.scene.maps(self.scene.answers[0], f"{self.map}/{self.modality}")
        return values if self.map == "attention" else values[self.number]

    @cached_property
    def scale(self) -> ScalarMappable:
        """Colours of the map: attention from 0 to 1; a contribution in one range about 0, its 99.5 percentile."""
        low, high = 0.0, 1.0
        if self.map == "contribution":
            high = max(float(np.percentile(np.abs(self.values), 99.5)), 1e-6)
            low = -high
        return ScalarMappable(Normalize(low, high), COLOUR_MAPS[self.map])

    @property
    def label(self) -> str:
        """What the map's colours mean."""
        if self.map == "attention":
            return f"attention to {self.modality}"
        return f"contribution of {self.modality} to {self.scene.task.class_names[self.number]} (logit)"

    def painted(self, surface: Surface) -> np.ndarray:
        """The map's colours at the points of a surface on the canonical grid, (points, 3)."""
        start = np.array([edges[0] for edges in self.scene.grid.box])
        values = map_coordinates(self.values, (surface.voxels - start).T, order=1, mode="nearest")
        return self.scale.to_rgba(values)[:, :3]

    @staticmethod
    def holds(masks: Mapping[str, np.ndarray], name: str) -> bool:
        """Whether a mask lies around part of a smaller one of the others."""
        size = masks[name].sum()
        return any(0 < other.sum() < size and (masks[name] & other).any() for other in masks.values())

    def __str__(self) -> str:
        answer = self.scene.answers[0]
        empty = "" if self.scene.classes[0].any() else ", which is background everywhere"
        return f"case {self.scene.case}, {self.modality}, from {' + '.join(answer.modalities)}{empty}"


def sight(case: Case, prediction: Prediction, modality: str | None, map: str | None, class_name: str | None) -> Sight:
    """Check what is asked for, before anything is drawn; arguments and errors as in `view3d`."""
    if map not in ("auto", *MAPS, None):
        raise ValueError(f"found the map {map!r}, expected 'auto', {', '.join(map_ for map_ in MAPS)} or None")
    scene = Scene.of(case, prediction)
    task = scene.task
    if class_name is not None and class_name not in task.class_names[1:]:
        raise ValueError(f"case {case.id}: found the class {class_name!r}, expected one of "
                         f"{', '.join(task.class_names[1:])}")
    kinds = {name: [kind for kind in MAPS if f"{kind}/{name}" in prediction.maps] for name in scene.images}
    name = _modality(scene, modality, kinds)
    if map in MAPS and map not in kinds[name]:
        raise ValueError(f"case {case.id}: found no {map} of {name} in the prediction, {_known(kinds)}; predict with "
                         f"{map if map == 'attention' else 'contributions'}=True, or choose a map that is there")
    kind = (kinds[name] or [""])[0] if map == "auto" else map or ""
    sizes = np.bincount(scene.whole_classes.ravel(), minlength=task.classes)[1:]
    number = 1 + int(sizes.argmax()) if class_name is None else task.class_names.index(class_name)
    return Sight(scene, name, kind, number)


def _modality(scene: Scene, asked: str | None, kinds: Mapping[str, list[str]]) -> str:
    """The scan that was asked for; the first with a map when left out, the reference before the others."""
    if asked is None:
        order = sorted(scene.images, key=lambda name: (not kinds[name], name != scene.task.reference))
        return order[0]
    name = scene.task.modality(asked)
    if name not in scene.images:
        raise ValueError(f"case {scene.case}: found no scan {name}, expected one of {', '.join(scene.images)}")
    return name


def _known(kinds: Mapping[str, list[str]]) -> str:
    known = [f"{kind} of {name}" for name, all_ in kinds.items() for kind in all_]
    return f"which holds {', '.join(known)}" if known else "which holds no maps"

"""What `view3d` was asked to show of a case, checked, and as every back end needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.cm import ScalarMappable

from maml_toolkit.data.cases import Case
from maml_toolkit.pictures.plots.slices import map_scale
from maml_toolkit.pictures.widgets.scene import Scene, mapped
from maml_toolkit.prediction.prediction import Prediction

MAPS = ("attention", "contribution")


@dataclass(frozen=True)
class Sight:
    """One scan of a scene, its map, and what is known of the lesion.

    Attributes:
        scene: the case in RAS+, with the answers.
        modality: of the scan on show, and of the map.
        map: attention, contribution, or nothing.
        class_name: the class whose contribution is shown; the largest of the prediction unless chosen.
    """

    scene: Scene
    modality: str
    map: str
    class_name: str

    @property
    def image(self) -> np.ndarray:
        """The scan on the canonical grid, float32."""
        return self.scene.images[self.modality]

    @cached_property
    def values(self) -> np.ndarray:
        """The map in the box, float32."""
        values = self.scene.maps(self.scene.answers[0], f"{self.map}/{self.modality}")
        return values if self.map == "attention" else values[self.scene.task.class_names.index(self.class_name)]

    @cached_property
    def scale(self) -> ScalarMappable:
        """Colours of the map: attention from 0 to 1; a contribution in one range about 0, its 99.5 percentile."""
        return map_scale(self.map, [self.values])

    @property
    def label(self) -> str:
        """What the map's colours mean."""
        if self.map == "attention":
            return f"attention to {self.modality}"
        return f"contribution of {self.modality} to {self.class_name} (logit)"

    def __str__(self) -> str:
        answer = self.scene.answers[0]
        empty = "" if self.scene.classes[0].any() else ", which is background everywhere"
        return f"case {self.scene.case}, {self.modality}, from {' + '.join(answer.modalities)}{empty}"


def sight(case: Case, prediction: Prediction, modality: str | None, map: str | None, class_name: str | None) -> Sight:
    """Check what is asked for, before anything is drawn; arguments and errors as in `view3d`."""
    if map not in ("auto", *MAPS, None):
        raise ValueError(f"found the map {map!r}, expected 'auto', {', '.join(MAPS)} or None")
    scene = Scene.of(case, prediction)
    names = scene.task.class_names
    if class_name not in (None, *names[1:]):
        raise ValueError(f"case {case.id}: found the class {class_name!r}, expected one of {', '.join(names[1:])}")
    maps = {kind: mapped(prediction, kind) for kind in MAPS}
    if modality is None:      # the first with a map, the reference before the others
        with_a_map = [name for known in maps.values() for name in known]
        name = min(scene.images, key=lambda name: (name not in with_a_map, name != scene.task.reference))
    elif (name := scene.task.modality(modality)) not in scene.images:
        raise ValueError(f"case {case.id}: found no scan {name}, expected one of {', '.join(scene.images)}")
    if map in MAPS and name not in maps[map]:
        known = ", ".join(f"{kind} of {one}" for kind in MAPS for one in maps[kind])
        raise ValueError(f"case {case.id}: found no {map} of {name} in the prediction, which holds {known or 'no maps'}"
                         f"; predict with {map if map == 'attention' else 'contributions'}=True, or choose a map that "
                         "is there")
    if map == "auto":
        map = next((kind for kind in MAPS if name in maps[kind]), None)
    largest = 1 + int(np.bincount(scene.whole_classes.ravel(), minlength=len(names))[1:].argmax())
    return Sight(scene, name, map or "", class_name or names[largest])

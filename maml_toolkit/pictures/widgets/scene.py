"""What the widgets show of a case, in canonical space (RAS+), after a look whether it belongs together.

Array axes run to the patient's right, front and head, whatever the order of the axes in the files. `still` draws the
picture that stands for a widget where no script runs: on code hosts, in printed and converted notebooks.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from nibabel.orientations import inv_ornt_aff, io_orientation

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.label_sets import closed
from maml_toolkit.data.prepared import Grid
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.pictures.plots.look import in_one_look, legend, panel_grid
from maml_toolkit.pictures.plots.slices import image, map_scale, maps, not_used
from maml_toolkit.pictures.plots.view import Plane, View, acquired, inside_largest_section, window
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.system.errors import DataError

MAPS = ("attention", "contribution")


@dataclass(frozen=True)
class Scene:
    """A case, turned to RAS+, and the answers from its scans.

    Attributes:
        case: id.
        task: names of modalities, classes and regions.
        grid: of the files; its box is where the network was run.
        images: modality -> float32 array on the whole canonical grid.
        drawn: class of each voxel there, uint8, or what is open as in label_sets.py; None where no label is known.
        answers: from each subset of the modalities that was computed, the largest first.
    """

    case: str
    task: Task
    grid: Grid
    images: Mapping[str, np.ndarray]
    drawn: np.ndarray | None
    answers: tuple[Prediction, ...]

    @classmethod
    def of(cls, case: Case, prediction: Prediction, task: Task | None = None) -> Scene:
        """Read the images and the label of a case, and hold the prediction against them.

        Raises:
            DataError: the case has no image, one that cannot be read, or one on another grid than the prediction.
            ValueError: the prediction is of another case or task.
        """
        task = task or prediction.task
        answers = _answers(prediction)
        for one in answers:
            _check(one, case, task, prediction.grid)
        images = {name: _turned(volumes.read(case.images[name], case=case.id, modality=name), case, name, prediction)
                  for name in task.modalities if name in case.images}
        drawn = None
        if case.label is not None:
            label = _turned(volumes.read_label(case.label, case=case.id), case, "label", prediction)
            drawn = case.scheme(task).encode(label)
        return cls(case.id, task, prediction.grid, images, drawn, answers)

    @cached_property
    def truth(self) -> np.ndarray | None:
        """What was drawn with what is open as background, uint8; None where no label is known."""
        return None if self.drawn is None else closed(self.drawn)

    @cached_property
    def affine(self) -> np.ndarray:
        """4x4, voxel of the canonical grid -> mm (RAS+)."""
        return np.array(self.grid.affine) @ self.to_file

    @cached_property
    def to_file(self) -> np.ndarray:
        """4x4, voxel of the canonical grid -> voxel of the files."""
        return inv_ornt_aff(io_orientation(np.array(self.grid.affine)), self.grid.shape)

    @cached_property
    def classes(self) -> tuple[np.ndarray, ...]:
        """Class of each voxel of the box by answer, uint8; equals `Prediction.classes` there."""
        return tuple(answer.classes_in_box for answer in self.answers)

    def maps(self, kind: str, contrast: Contrast) -> dict[str, np.ndarray]:
        """By modality, in the box: the attention of the largest answer, or each share in the log-odds of a contrast."""
        answer = self.answers[0]
        found = {name: answer.in_box(f"{kind}/{name}") for name in mapped(answer, kind)}
        return contrast.shares(found, answer.bias)[0] if kind == "contribution" else found

    @cached_property
    def whole_classes(self) -> np.ndarray:
        """The classes of the largest answer on the whole canonical grid."""
        whole = np.zeros(self.grid.canonical_shape, np.uint8)
        whole[self.grid.box_slices] = self.classes[0]
        return whole

    @property
    def sources(self) -> dict[str, np.ndarray]:
        """Class of each voxel of the canonical grid: the ground truth, where it is known, and the prediction."""
        known = {} if self.truth is None else {"ground truth": self.truth}
        return {**known, "prediction": self.whole_classes}

    @cached_property
    def start(self) -> tuple[int, int, int]:
        """A canonical voxel inside the largest axial cross-section of the lesion, the ground truth's if it has one.

        The middle of the box where nobody sees a lesion.
        """
        for classes in self.sources.values():
            if classes.any():
                return tuple(inside_largest_section(Volume(classes, self.affine)).tolist())
        return tuple((start + stop) // 2 for start, stop in self.grid.box)


@dataclass(frozen=True)
class Sight:
    """One scan of a scene, its map, and what is known of the lesion.

    Attributes:
        scene: the case in RAS+, with the answers.
        modality: of the scan on show, and of the map.
        map: attention, contribution, or nothing.
        contrast: in whose log-odds a contribution is a share.
    """

    scene: Scene
    modality: str
    map: str
    contrast: Contrast

    @property
    def image(self) -> np.ndarray:
        """The scan on the canonical grid, float32."""
        return self.scene.images[self.modality]

    @cached_property
    def values(self) -> np.ndarray:
        """The map in the box, float32."""
        return self.scene.maps(self.map, self.contrast)[self.modality]

    @cached_property
    def scale(self) -> ScalarMappable:
        """Colours of the map: attention from 0 to 1; a contribution in one range about 0, its 99.5 percentile."""
        return map_scale(self.map, [self.values])

    @property
    def label(self) -> str:
        """What the map's colours mean."""
        if self.map == "attention":
            return f"attention to {self.modality}"
        return f"share of {self.modality} in the {self.contrast.label}"

    def __str__(self) -> str:
        answer = self.scene.answers[0]
        empty = "" if self.scene.classes[0].any() else ", which is background everywhere"
        return f"case {self.scene.case}, {self.modality}, from {' + '.join(answer.modalities)}{empty}"


def sight(case: Case, prediction: Prediction, modality: str | None, map: str | None, class_name: str | None,
          against: str | None = None) -> Sight:
    """Check what is asked for, before anything is drawn; arguments and errors as in `view3d`."""
    if map not in ("auto", *MAPS, None):
        raise ValueError(f"found the map {map!r}, expected 'auto', {', '.join(MAPS)} or None")
    scene = Scene.of(case, prediction)
    largest = 1 + int(np.bincount(scene.whole_classes.ravel(), minlength=scene.task.classes)[1:].argmax())
    contrast = Contrast.of(scene.task, class_name or scene.task.answers.named(largest), against)
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
    return Sight(scene, name, map or "", contrast)


def mapped(answer: Prediction, kind: str) -> list[str]:
    """The modalities of which an answer holds an attention or a contribution."""
    return [name for name in answer.modalities if f"{kind}/{name}" in answer.maps]


def adds_up(answer: Prediction) -> bool:
    """Whether contributions and bias are those of the answer; mixed by size, they are those of a part of it."""
    return bool(mapped(answer, "contribution")) and answer.policy != "by-size"


def _answers(prediction: Prediction) -> tuple[Prediction, ...]:
    """The prediction first and then those from its other subsets, the larger before the smaller."""
    own = frozenset(prediction.modalities)
    order = {name: number for number, name in enumerate(prediction.task.modalities)}
    others = sorted((one for subset, one in prediction.subsets.items() if subset != own),
                    key=lambda one: (-len(one.modalities), [order.get(name, -1) for name in one.modalities]))
    return prediction, *others


def _check(answer: Prediction, case: Case, task: Task, grid: Grid) -> None:
    if answer.case != case.id:
        raise ValueError(f"found a prediction of case {answer.case!r}, expected one of {case.id!r}; give the "
                         "case that was predicted")
    if answer.task.class_names != task.class_names:
        raise ValueError(f"case {case.id}: found a prediction of the classes {', '.join(answer.task.class_names)}, "
                         f"expected {', '.join(task.class_names)} of task {task.name}; leave task out to use the "
                         "prediction's own")
    if answer.task.train_on != task.train_on:
        raise ValueError(f"case {case.id}: found a prediction of a network that was trained on {answer.task.train_on}, "
                         f"expected {task.train_on} as of task {task.name}; leave task out to use the prediction's own")
    if answer.grid != grid:
        raise ValueError(f"case {case.id}: found subsets on different grids, expected one; compute them together with "
                         "predictor.subsets")
    if lacking := [name for name in answer.modalities if name not in acquired(case, task)]:
        raise ValueError(f"case {case.id}: found a prediction from {', '.join(lacking)}, which the case does not have "
                         "or the task does not name; give the case that was predicted")


def _turned(volume: Volume, case: Case, name: str, prediction: Prediction) -> np.ndarray:
    """The array in RAS+, if it lies on the prediction's grid."""
    grid = Volume(np.broadcast_to(0, prediction.grid.shape), np.array(prediction.grid.affine))
    if difference := volumes.grid_difference(volume, grid):
        raise DataError(f"it lies on another grid than the prediction: {difference}",
                        "Give the images that were predicted, or predict these.", case=case.id, modality=name,
                        path=volumes.path_of(case.files[name]))
    return Volume(volume.array, np.array(grid.affine)).canonical().array


@in_one_look
def still(scene: Scene, columns: Sequence[tuple[str, str]], kind: str, contrast: Contrast | None = None, *,
          title: str, note: str = "") -> bytes:
    """A PNG of slices through the start of a scene: scans with contours, and below them what was made of each.

    Args:
        columns: plane and modality of each column.
        kind: "contribution", in one range around 0, or "attention", from 0 to 1, or "" for neither.
        contrast: in whose log-odds the contribution is a share; of the class that is largest in the picture against
            the background when left out.
        title: above the picture.
        note: a sentence below it.
    """
    views = _views(scene, columns)
    panels = panel_grid(1 + bool(kind), [view.frame_mm for view in views], largest=2.8, beside=0.8,
                        around=1.1 + 0.3 * bool(kind), make=Figure)
    for ax, view, (plane, modality) in zip(panels[0], views, columns, strict=True):
        image(ax, view, modality, outlined=True)
        if len({name for name, _ in columns}) > 1:
            ax.set_title(plane)
    if kind:
        contrast = contrast or Contrast.of(scene.task, views[0].largest_class)
        found = {name: Volume(one, scene.grid.box_affine) for name, one in scene.maps(kind, contrast).items()}
        cuts = [(view, view.plane.cut(found[name]) if name in found else None, view.of_classes(contrast.classes))
                for view, (_, name) in zip(views, columns, strict=True)]
        maps(panels[1], cuts, kind if kind == "attention" else contrast.label,
             [not_used(name, scene.images) for _, name in columns], "lesion" if kind == "attention" else contrast.name)
        if kind != "attention":
            title += f"\n{contrast.sentence}"
    legend(panels)
    figure = panels[0, 0].figure
    figure.suptitle(title, fontsize=10)
    if note:
        figure.text(0.01, 0.004, note, fontsize=7, color="0.35", wrap=True)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=90)
    return held.getvalue()


def _views(scene: Scene, columns: Sequence[tuple[str, str]]) -> list[View]:
    """The view of each column; columns in one plane share theirs."""
    images = {name: Volume(scene.images[name], scene.affine) for _, name in columns if name in scene.images}
    windows = {name: window(one.array, scene.task.intensities[name]) for name, one in images.items()}
    classes = {source: Volume(one, scene.affine) for source, one in scene.sources.items()}
    point = (scene.affine @ [*scene.start, 1])[:3]
    views = {name: View.cut(Plane.through(point, classes["prediction"], name), scene.task, images, windows, classes)
             for name in dict.fromkeys(name for name, _ in columns)}
    return [views[name] for name, _ in columns]

"""What the explorer shows of a case, in canonical space (RAS+), after a look whether it belongs together.

Array axes run to the patient's right, front and head, whatever the order of the axes in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.grids import Grid
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Source, Volume
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.system.errors import DataError


@dataclass(frozen=True)
class Scene:
    """A case, turned to RAS+, and the answers from its scans.

    Attributes:
        case: id.
        task: names of modalities, classes and regions.
        grid: of the files; its box is where the network was run.
        images: modality -> float32 array on the whole canonical grid.
        truth: class of each voxel there, uint8; None where no label is known.
        answers: from each subset of the modalities that was computed, the largest first.
    """

    case: str
    task: Task
    grid: Grid
    images: Mapping[str, np.ndarray]
    truth: np.ndarray | None
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
        images = {name: _turned(volumes.read(case.images[name], case=case.id, modality=name), prediction.grid,
                                case.id, name, case.images[name])
                  for name in task.modalities if name in case.images}
        truth = None
        if case.label is not None:
            read = volumes.read_label(case.label, case=case.id)
            truth = task.encode(_turned(read, prediction.grid, case.id, "label", case.label))
        return cls(case.id, task, prediction.grid, images, truth, answers)

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

    def maps(self, answer: Prediction, name: str) -> np.ndarray:
        """A map of an answer in the box, at the spacing of the files."""
        return answer.in_box(name)

    @cached_property
    def whole_classes(self) -> np.ndarray:
        """The classes of the largest answer on the whole canonical grid."""
        whole = np.zeros(self.grid.canonical_shape, np.uint8)
        whole[self.grid.box_slices] = self.classes[0]
        return whole

    @cached_property
    def start(self) -> tuple[int, int, int]:
        """A canonical voxel inside the largest axial cross-section of the lesion, the truth's if it has one.

        The middle of the box where nobody sees a lesion.
        """
        for classes in (self.truth, self.whole_classes):
            if classes is not None and classes.any():
                level = int((classes > 0).sum((0, 1)).argmax())
                inside = np.argwhere(classes[:, :, level])
                nearest = inside[((inside - inside.mean(0)) ** 2).sum(1).argmin()]
                return int(nearest[0]), int(nearest[1]), level
        return tuple((start + stop) // 2 for start, stop in self.grid.box)


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
    if answer.grid != grid:
        raise ValueError(f"case {case.id}: found subsets on different grids, expected one; compute them together with "
                         "predictor.subsets")
    if not set(case.images) & set(task.modalities):
        raise DataError(f"found no image, expected at least one of {', '.join(task.modalities)}", "Name its files.",
                        case=case.id)
    if lacking := [name for name in answer.modalities if name not in case.images or name not in task.modalities]:
        raise ValueError(f"case {case.id}: found a prediction from {', '.join(lacking)}, which the case does not have "
                         "or the task does not name; give the case that was predicted")


def _turned(volume: Volume, grid: Grid, case: str, name: str, source: Source) -> np.ndarray:
    """The array in RAS+, if it lies on the grid."""
    if difference := volumes.grid_difference(volume, _Place(tuple(grid.shape), np.array(grid.affine))):
        raise DataError(f"it lies on another grid than the prediction: {difference}",
                        "Give the images that were predicted, or predict these.", case=case, modality=name,
                        path=volumes.path_of(source))
    return apply_orientation(volume.array, io_orientation(np.array(grid.affine)))


@dataclass(frozen=True)
class _Place:
    shape: tuple[int, ...]
    affine: np.ndarray

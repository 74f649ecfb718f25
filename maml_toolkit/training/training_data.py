"""The cases of a training: prepared as the method reads them, answered while it is trained."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.ndimage import find_objects

from maml_toolkit.data.audit import audit
from maml_toolkit.data.cache import WORKERS, Preparation
from maml_toolkit.data.cases import Case
from maml_toolkit.data.findings import greys, height_of_lesion, slice_through
from maml_toolkit.data.label_sets import closed, compared_masks
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.methods import Method
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.errors import DataError
from maml_toolkit.training import distributed

T = TypeVar("T")

NEAR = 16
"""Pixels around a lesion (of 128 along the longer side of a picture) that count as near it."""


class TrainingData:
    """The cases of a training: checked, and prepared from the same reading of their files.

    Args:
        training, validation: the cases.
        task: of the cases; without a spacing it gets the median over the training cases.
        cache: folder for their arrays; None keeps them in memory.
        begun: the run was begun before. It may be finished, so without a cache its data is only looked at, and read
            when the arrays are asked for.

    Raises:
        DataError: everything that is wrong with their files, together.
    """

    def __init__(self, training: Sequence[Case], validation: Sequence[Case], task: Task, cache: str | Path | None,
                 begun: bool = False):
        self.parts, self.preparation = (training, validation), Preparation(task, cache)
        if cache:
            with distributed.first_goes_first():
                self._read()
        elif not begun:
            self._read()
        self.task = self._or_all(lambda: self.preparation.take_spacing(training))

    def contents(self) -> dict[str, str]:
        """Case -> checksum of what its files hold, by which a run knows its data again.

        Raises:
            DataError: everything that is wrong with the files, together, where one cannot be read.
        """
        return self._or_all(lambda: self.preparation.contents([*self.parts[0], *self.parts[1]]))

    def arrays(self, method: Method) -> tuple[list[PreparedCase], list[PreparedCase]]:
        """Training and validation cases as arrays of the method's modalities.

        Raises:
            DataError: everything that is wrong with their files, together.
        """
        self._read()
        with distributed.first_goes_first() if self.preparation.cache else nullcontext():
            return tuple([case.of(method.modalities) for case in self.preparation.all(cases)] for cases in self.parts)

    def _read(self) -> None:
        """Nothing, when an audit of training and validation cases together finds no error; else all that it finds.

        Of cases of which there are arrays it is known, without their files, what lies in them.
        """
        training, validation = self.parts
        audit([*training, *validation], self.preparation.task, held_out={case.id for case in validation},
              workers=WORKERS, preparation=self.preparation).check()

    def _or_all(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except DataError:
            self._read()
            raise


@dataclass(frozen=True)
class Validated:
    """What one answer about a case is worth while a method is trained.

    Attributes:
        case: id.
        dice: region -> Dice (0 to 1); regions that the case cannot tell are left out.
        section: a scan (bytes), the ground truth and the answer (classes) in an axial slice, uint8 (3, rows, columns);
            None unless somebody looks at it.
    """

    case: str
    dice: Mapping[str, float]
    section: np.ndarray | None = None

    @property
    def mean(self) -> float:
        """Mean Dice over its regions; 1 where it can tell none."""
        return float(np.mean([*self.dice.values()])) if self.dice else 1.0


def validated(predictor: Predictor, cases: Sequence[PreparedCase], sections: bool = False) -> list[Validated]:
    """Whole cases answered on the working grid, from all that a case has.

    A method that takes one modality at a time is asked for each. Voxels and classes that nobody labelled are left out.

    Args:
        sections: cut a slice out of each, which reads a scan again.
    """
    found = distributed.shared_out(cases, partial(_validated, predictor, sections), desc="validation", unit="case",
                                   leave=False)
    return [one for case in found for one in case]


def mean_dice(found: Sequence[Validated], task: Task) -> dict[str, float]:
    """Mean Dice (0 to 1) of each region over cases; one that no case can tell is left out."""
    each = {region: [one.dice[region] for one in found if region in one.dice] for region in task.regions}
    return {region: float(np.mean(values)) for region, values in each.items() if values}


def _validated(predictor: Predictor, sections: bool, case: PreparedCase) -> list[Validated]:
    """One for each of the largest sets of the case's modalities that the method answers from."""
    task, found = predictor.task, []
    for present in predictor.method.largest(set(case.images)):
        answer = predictor.predict(case, present, attention=False, contributions=False)
        classes = task.answers.classes(answer.maps["logits"])
        scores = {region: dice(*masks) for region, *masks in compared_masks(classes, case.labels, task)}
        used = predictor.method.present(present)
        found.append(Validated(case.id, scores, _section(case, used, task, classes) if sections else None))
    return found


def _section(case: PreparedCase, used: Sequence[str], task: Task, answer: np.ndarray) -> np.ndarray:
    name = task.reference if task.reference in used else used[0]
    volumes = [Volume(np.asarray(one), case.grid.working_affine)
               for one in (case.images[name], closed(np.asarray(case.labels)), answer.astype(np.uint8))]
    at_mm = height_of_lesion(volumes[1])
    scan, *drawn = (slice_through(one, height_of_lesion(volumes[2]) if at_mm is None else at_mm) for one in volumes)
    return np.stack([_normalised_greys(scan, task.intensities[name], drawn), *drawn])


def _normalised_greys(scan: np.ndarray, intensities: str, drawn: Sequence[np.ndarray]) -> np.ndarray:
    """A slice of a normalised scan as bytes; what is not 0 of an MR, and a CT in the window of what is near the lesion.

    Args:
        drawn: labels of the same slice; the first that is not empty says where the lesion is.
    """
    if intensities == "mr":
        return greys(np.where(scan == 0, 0, scan - scan.min() + 1), "mr")
    if intensities == "ct":
        lesion = next((one for one in drawn if one.any()), np.ones_like(scan))
        box = find_objects((lesion > 0).astype(int))[0]
        near = scan[tuple(slice(max(0, one.start - NEAR), one.stop + NEAR) for one in box)]
        low, high = np.percentile(near, (1, 99))
        scan = np.clip(scan, low, high) - low
    return greys(scan, "none")

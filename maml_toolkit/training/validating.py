"""Dice of whole cases while a method is trained, the cases shared by the processes that train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from maml_toolkit.data.findings import greys, height_of_lesion, slice_through
from maml_toolkit.data.label_sets import closed, compared_masks
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.training import distributed


@dataclass(frozen=True)
class Validated:
    """What one answer about a case is worth while a method is trained.

    Attributes:
        case: id.
        present: the modalities that were used.
        dice: region -> Dice (0 to 1); regions that the case cannot tell are left out.
        section: a scan (bytes), the ground truth and the answer (classes) in an axial slice, uint8 (3, rows, columns).
    """

    case: str
    present: tuple[str, ...]
    dice: Mapping[str, float]
    section: np.ndarray

    @property
    def mean(self) -> float:
        """Mean Dice over its regions; 1 where it can tell none."""
        return float(np.mean([*self.dice.values()])) if self.dice else 1.0


def validated(predictor: Predictor, cases: Sequence[PreparedCase]) -> list[Validated]:
    """Whole cases answered on the working grid, from all that a case has.

    A method that takes one modality at a time is asked for each. Voxels and classes that nobody labelled are left out.
    """
    found = distributed.shared_out(cases, partial(_validated, predictor), desc="validation", unit="case", leave=False)
    return [one for case in found for one in case]


def mean_dice(found: Sequence[Validated], task: Task) -> dict[str, float]:
    """Mean Dice (0 to 1) of each region over cases; one that no case can tell is left out."""
    each = {region: [one.dice[region] for one in found if region in one.dice] for region in task.regions}
    return {region: float(np.mean(values)) for region, values in each.items() if values}


def _validated(predictor: Predictor, case: PreparedCase) -> list[Validated]:
    """One for each of the largest sets of the case's modalities that the method answers from."""
    task, found = predictor.task, []
    for present in predictor.method.largest(set(case.images)):
        answer = predictor.predict(case, present, attention=False, contributions=False)
        classes = task.answers.classes(answer.maps["logits"])
        scores = {region: dice(*masks) for region, *masks in compared_masks(classes, case.labels, task)}
        used = predictor.method.present(present)
        found.append(Validated(case.id, used, scores, _section(case, used, task, classes)))
    return found


def _section(case: PreparedCase, used: Sequence[str], task: Task, answer: np.ndarray) -> np.ndarray:
    name = task.reference if task.reference in used else used[0]
    volumes = [Volume(np.asarray(one), case.grid.working_affine)
               for one in (case.images[name], closed(np.asarray(case.labels)), answer.astype(np.uint8))]
    at_mm = height_of_lesion(volumes[1])
    scan, *drawn = (slice_through(one, height_of_lesion(volumes[2]) if at_mm is None else at_mm) for one in volumes)
    return np.stack([greys(scan - scan.min(), "mr"), *drawn])

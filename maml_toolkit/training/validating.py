"""Dice of whole cases while a method is trained, the cases shared by the processes that train it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from maml_toolkit.data.label_sets import compared_masks
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.training import distributed


def mean_dice(predictor: Predictor, cases: Sequence[PreparedCase]) -> dict[str, float]:
    """Mean Dice (0 to 1) of each region over whole cases, on the working grid, from all that a case has.

    A method that takes one modality at a time is asked for each. Voxels and classes that nobody labelled are left out;
    so is a region that no case can tell.
    """
    found = distributed.shared_out(cases, partial(dice_of, predictor), desc="validation", unit="case", leave=False)
    each = {region: [one[region] for case in found for one in case if region in one]
            for region in predictor.task.regions}
    return {region: float(np.mean(values)) for region, values in each.items() if values}


def dice_of(predictor: Predictor, case: PreparedCase) -> list[dict[str, float]]:
    """Dice of each region, for each of the largest sets of the case's modalities that the method answers from."""
    task, found = predictor.task, []
    for present in predictor.method.largest(set(case.images)):
        answer = predictor.predict(case, present, attention=False, contributions=False)
        classes = task.answers.classes(answer.maps["logits"])
        found.append({region: dice(*masks) for region, *masks in compared_masks(classes, case.labels, task)})
    return found

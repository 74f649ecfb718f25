"""Lesion by lesion, as BraTS 2023 ranks: which lesions were found, and how well.

A lesion of the ground truth is all of it that one component of the dilated ground truth covers; a component of the
prediction belongs to every lesion whose dilation it touches. With P_l, all components that belong to lesion l:

    Dice = sum_l Dice(P_l, l) / (TP + FN + FP),     HD95 = (sum_l HD95(P_l, l) + 374 mm · FP) / (TP + FN + FP)

TP counts the lesions that have such components; FN those that have none, with Dice 0 and HD95 374 mm. FP counts the
components that belong to no lesion, however small. Lesions up to the challenge's smallest volume are not counted, and
what belongs to them is no FP. Where nothing is counted, as in two empty masks, Dice is 1 and HD95 0.

    sensitivity = TP / (TP + FN),     precision = TP / (TP + FP),     F1 = 2 TP / (2 TP + FP + FN)

Where a denominator is 0, the value is 1 if there is neither FN nor FP, and 0
otherwise, so that neither an invented lesion nor a missed one improves a mean.

References:
    BraTS 2023 lesion-wise performance metrics, Saluja, https://github.com/rachitsaluja/BraTS-2023-Metrics (eval.py:
        structure and number of dilations, components of 26 neighbours, smallest volumes, 374 mm)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure, label

from maml_toolkit.data.geometry import ROUNDING
from maml_toolkit.data.resampling import TOUCHING
from maml_toolkit.evaluation.surfaces import Elements, box, checked, surface_elements
from maml_toolkit.system.errors import expect_one_of


class Rule(NamedTuple):
    """What BraTS 2023 sets apart for each of its challenges (eval.py, `get_LesionWiseResults`)."""

    dilations: int
    smallest_mm3: float    # of a lesion; those of this size are left out too


RULES = {"gli": Rule(3, 50), "ssa": Rule(3, 50), "ped": Rule(3, 50), "men": Rule(1, 50), "met": Rule(1, 2)}
"""Gliomas, gliomas of Sub-Saharan Africa, of children; meningiomas; metastases."""

DILATION = generate_binary_structure(3, 2)
"""A dilation adds the voxels that share an edge: 18 neighbours (eval.py, `dilation_struct`)."""

PENALTY_MM = 374.0
"""HD95 of a missed and of an invented lesion (eval.py): about the diagonal of BraTS's 240x240x155 mm."""


def lesion_wise(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float | int],
                challenge: str = "gli") -> dict[str, float]:
    """Lesion-wise Dice and HD95 of two masks, and how many lesions were found, missed and invented.

    Args:
        prediction, truth: arrays (depth, height, width) of one shape, of booleans or of the numbers 0 and 1.
        spacing_mm: size of a voxel on each axis.
        challenge: of BraTS 2023, whose `RULES` hold: "gli", "ssa", "ped", "men" or "met".

    Returns:
        dice (0 to 1), hd95 (mm); tp, fn (lesions) and fp (components); sensitivity, precision and f1 (0 to 1).

    Raises:
        ValueError: an array that is no mask, two of different shapes, a spacing that is not three positive numbers, or
            an unknown challenge.
    """
    expect_one_of("challenge", challenge, RULES)
    rule, (prediction, truth, spacing) = RULES[challenge], checked(prediction, truth, spacing_mm)
    around = box(prediction, truth)    # what dilation adds beyond it joins nothing that is not joined within it
    prediction, truth = prediction[around], truth[around]
    parts, count = label(prediction, TOUCHING)
    reach, lesions = label(binary_dilation(truth, DILATION, rule.dilations) if truth.any() else truth, TOUCHING)
    belongs = np.zeros((lesions + 1, count + 1), bool)
    belongs[reach[prediction], parts[prediction]] = True
    of_lesion, of_part = np.bincount(reach[truth], minlength=lesions + 1), np.bincount(parts[prediction])
    boxes_of_lesions, boxes_of_parts = find_objects(reach, lesions or 1), find_objects(parts, count or 1)
    counted = np.flatnonzero(of_lesion * spacing.prod() > rule.smallest_mm3 * (1 + ROUNDING))
    found = [lesion for lesion in counted if belongs[lesion].any()]
    dice = hd95 = 0.0
    for lesion in found:
        boxes = [boxes_of_lesions[lesion - 1], *(boxes_of_parts[one - 1] for one in np.flatnonzero(belongs[lesion]))]
        place = tuple(slice(min(one.start for one in axis), max(one.stop for one in axis))
                      for axis in zip(*boxes, strict=True))
        mine, one = belongs[lesion][parts[place]], (reach[place] == lesion) & truth[place]
        dice += 2 * np.count_nonzero(mine & one) / (of_part[belongs[lesion]].sum() + of_lesion[lesion])
        hd95 += max(map(_percentile_95, surface_elements(mine, one, spacing)))
    tp, fn, fp = len(found), len(counted) - len(found), int(count - belongs[1:].any(0).sum())
    return {"dice": _share(dice, tp + fn + fp, fn + fp), "hd95": (hd95 + PENALTY_MM * (fn + fp)) / max(tp + fn + fp, 1),
            "tp": tp, "fp": fp, "fn": fn, "sensitivity": _share(tp, tp + fn, fp), "precision": _share(tp, tp + fp, fn),
            "f1": _share(2 * tp, 2 * tp + fp + fn, 0)}


def _share(part: float, whole: float, wrong: int) -> float:
    return float(part / whole) if whole else float(not wrong)


def _percentile_95(elements: Elements) -> float:
    """The distance within which 95 % of a surface's area lie, as surface-distance's `compute_robust_hausdorff`."""
    order = np.lexsort((elements.areas_mm2, elements.distances_mm))
    within = np.cumsum(elements.areas_mm2[order]) / elements.areas_mm2.sum()
    return float(elements.distances_mm[order][min(np.searchsorted(within, 0.95), len(within) - 1)])

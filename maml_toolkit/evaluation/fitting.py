"""What a trained method learns from validation cases about its answers: how to mix them, and what is too small.

    by-size   p(S) = (1 - a_|S|) softmax(fused) + a_|S| softmax(heads)          sigmoid, where regions are trained on

For every number of scans |S| the share a is the one of 0, 0.1, …, 1 whose mean Dice over regions, cases and subsets of
that size is largest, and the smallest of those that are as good. Dice is what the answer is judged by. The log loss
would be smoother, but nearly all of its voxels are background, and it prefers the softer of two answers to the better
one. Mixing needs no further pass of the network: one sweep gives both answers, and where their classes agree every
mixture has that class too, so only the other voxels are mixed.

    smallest   t_r = argmax_t mean over cases of Dice(the parts of region r that have t mm³ or more, ground truth)

Every threshold between two volumes of parts that were found is tried; the largest part of all is always kept, and t is
0 where nothing is better than keeping everything. Of every part its volume and its voxels inside the ground truth are
all that Dice needs.

    expected   Dice = intercept + slope · agreement,     slope >= 0, within 0 to 1

For every number of scans a case is answered from all its subsets of that size, and a line is fitted by least squares to
agreement (`prediction.sureness`) and Dice. Few cases: so there is nothing more to learn than two numbers, and where the
line does not tell a case that was left out better than the mean of the others does, the mean is kept (slope 0). The
error that is kept beside it is that of cases left out, with all their subsets.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from maml_toolkit.data.cases import Case, expect_cases
from maml_toolkit.data.geometry import reaches
from maml_toolkit.data.label_sets import IGNORED, compared_masks
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.evaluation.metrics import dice, dice_of
from maml_toolkit.prediction.answering import POLICIES, SUMMED
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.prediction import connected_parts
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.sureness import Expected
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, few

SHARES = tuple(tenth / 10 for tenth in range(11))
"""Of the heads, that are tried."""

Cases = Sequence[Case | PreparedCase]


class Parts(NamedTuple):
    """The connected parts of a mask, and the ground truth.

    Attributes:
        mm3, voxels: of each part.
        inside: how many of its voxels are in the ground truth.
        truth: voxels of the ground truth.
    """

    mm3: list[float]
    voxels: list[int]
    inside: list[int]
    truth: int


def each(cases: Cases, make: Callable[[Any], Any], **shown: Any) -> list[Any]:
    """What `make` makes of each case, in this process, under a progress bar."""
    return [make(case) for case in machine.progress(cases, **shown)]


def fit_all(predictor: Predictor, cases: Cases, *, over: Callable[..., list] = each) -> list[pd.DataFrame]:
    """All that can be learned, by `fit_policy` of a method with heads, `fit_smallest` and `fit_expected_dice`."""
    fits = [*[fit_policy] * predictor.tells_each, fit_smallest, fit_expected_dice]
    return [fit(predictor, cases, over=over) for fit in fits]


def fit_policy(predictor: Predictor, cases: Cases, *, over: Callable[..., list] = each) -> pd.DataFrame:
    """Fit the policy "by-size" to validation cases; the Predictor has it from then on.

    Kept beside the weights where the Predictor was loaded from a run (`Fitted`), so that whoever loads the run or a
    model that was shared of it has it too.

    Args:
        predictor: of a method with heads. Its mirroring and windows are those of both answers.
        cases: with labels, on which nothing was trained.
        over: how to go through the cases, such as `training.distributed.shared_out`.

    Returns:
        A row for each number of scans: `share` of the heads; mean `dice` with it, `dice_fused` and `dice_heads`; the
        `count` of cases and subsets.

    Raises:
        DataError: no case, one without label, or one that cannot be read.
        ValueError: a method that does not know what each modality says.
    """
    predictor.expect_heads(["by-size"])
    _begin(predictor, cases)
    found = over(cases, partial(_mixtures, _whole(predictor)), desc="fitting by-size", unit="case")
    sizes = sorted({size for case in found for size, _ in case})
    dice = {size: np.array([row for case in found for one, row in case if one == size]) for size in sizes}
    means = {size: rows.mean(0).round(6) for size, rows in dice.items()}
    by_size = {size: SHARES[int(np.argmax(mean))] for size, mean in means.items()}
    others = {name: {policy: own for policy, own in getattr(predictor.fitted, name).items() if policy != "by-size"}
              for name in ("smallest_mm3", "expected_dice")}      # what was learned of another mixture is gone
    _keep(predictor, cases, by_size=by_size, **others)
    return pd.DataFrame([{"scans": size, "share": by_size[size], "dice": mean.max(), "dice_fused": mean[0],
                          "dice_heads": mean[-1], "count": len(dice[size])} for size, mean in means.items()])


def fit_smallest(predictor: Predictor, cases: Cases, *, over: Callable[..., list] = each) -> pd.DataFrame:
    """Learn from validation cases under which volume a part of a region is dropped, for every policy that answers.

    From all scans that a case has. The Predictor has it from then on, and it is kept, as by `fit_policy`; it is used
    where `drop_small=True` asks for it. Fit the policy "by-size" first, if it shall be among them.

    Args:
        predictor, cases, over: as for `fit_policy`.

    Returns:
        A row for each policy and region: `smallest_mm3`, mean `dice` with it and `dice_before` (NaN where the region
        was drawn in no case), the `count` of cases.

    Raises:
        DataError: no case, one without label, or one that cannot be read.
    """
    _begin(predictor, cases)
    policies = _policies(predictor)
    found = over(cases, partial(_parts, _whole(predictor), policies), desc="fitting the smallest parts", unit="case")
    rows = []
    for policy, region in itertools.product(policies, predictor.task.regions):
        own = [parts for case in found for one, name, parts in case if (one, name) == (policy, region)]
        smallest, before, after = best_threshold(own) if own else (0.0, np.nan, np.nan)      # drawn in no case
        rows.append({"policy": policy, "region": region, "smallest_mm3": smallest, "dice": after,
                     "dice_before": before, "count": len(own)})
    table = pd.DataFrame(rows)
    _keep(predictor, cases, smallest_mm3={policy: dict(zip(part["region"], part["smallest_mm3"], strict=True))
                                          for policy, part in table.groupby("policy")})
    return table


def fit_expected_dice(predictor: Predictor, cases: Cases, *, over: Callable[..., list] = each) -> pd.DataFrame:
    """Learn from validation cases which Dice to expect of an answer, for every policy that answers.

    The Predictor has it from then on, and it is kept, as by `fit_policy`; `Prediction.sureness` says it where
    uncertainty=True asks for it. What several runs agree on is learned of the Predictor of them, and kept with each.

    Args:
        predictor, cases, over: as for `fit_policy`.

    Returns:
        A row for each policy, number of scans and region: mean `dice`; `error`, the mean absolute error of the expected
        Dice of cases that were left out, and `error_of_mean`, that of the mean of the others (both NaN for one case);
        `slope` of the line; the `count` of cases.

    Raises:
        DataError: no case, one without label, or one that cannot be read.
    """
    _begin(predictor, cases)
    policies = _policies(predictor)
    found = over(cases, partial(_sure, _whole(predictor), policies), desc="fitting the expected Dice", unit="case")
    rows: list[dict[str, Any]] = []
    lines: dict[str, dict[int, dict[str, Expected]]] = {}
    points = pd.DataFrame([(number, *row) for number, case in enumerate(found) for row in case],
                          columns=["case", "policy", "scans", "region", "agreement", "dice"])
    for (policy, scans, region), part in points.groupby(["policy", "scans", "region"], sort=False):
        line, of_mean = best_line(part["agreement"].to_numpy(), part["dice"].to_numpy(), part["case"].to_numpy())
        lines.setdefault(policy, {}).setdefault(scans, {})[region] = line
        rows.append({"policy": policy, "scans": scans, "region": region, "dice": part["dice"].mean(),
                     "error": line.error, "error_of_mean": of_mean, "slope": line.slope, "count": line.cases})
    _keep(predictor, cases, expected_dice=lines)
    return pd.DataFrame(rows, columns=["policy", "scans", "region", "dice", "error", "error_of_mean", "slope", "count"])


def _sure(predictor: Predictor, policies: Sequence[str],
          case: Case | PreparedCase) -> list[tuple[str, int, str, float, float]]:
    """Policy, number of scans, region, agreement and Dice of every answer for a case."""
    ready, task, found = _prepared(case, predictor), predictor.task, []
    subsets = predictor.method.answerable(set(ready.images))
    for (subset, policy), answer in predictor.sweep(ready, subsets, policies, uncertainty=True):
        masks = compared_masks(task.answers.classes(answer.maps["logits"]), ready.labels, task)
        found += [(policy, len(subset), region, answer.sureness.agreement.get(region, 1.0), dice(*both))
                  for region, *both in masks]
    return found


def best_line(agreement: np.ndarray, dice: np.ndarray, cases: np.ndarray) -> tuple[Expected, float | None]:
    """The line to expect Dice by, and the error of the mean that it has to beat.

    Args:
        agreement, dice: of each answer, 0 to 1.
        cases: of which case it is.
    """
    each_case = np.unique(cases)
    errors = []
    for fit in (_line, _level):
        off = [abs(Expected(*fit(agreement[cases != one], dice[cases != one]))(agreement[cases == one])
                   - dice[cases == one]).mean() for one in each_case if len(each_case) > 1]
        errors.append(float(np.mean(off)) if off else None)
    line_is_better = len(each_case) > 1 and errors[0] < errors[1] - 1e-9
    fit, error = (_line, errors[0]) if line_is_better else (_level, errors[1])
    return Expected(*fit(agreement, dice), error, len(each_case)), errors[1]


def _line(agreement: np.ndarray, dice: np.ndarray) -> tuple[float, float]:
    """Intercept and slope by least squares; a slope below 0 is none."""
    spread = agreement.var()
    slope = max(0.0, float(np.mean((agreement - agreement.mean()) * dice) / spread)) if spread > 1e-9 else 0.0
    return float(dice.mean() - slope * agreement.mean()), slope


def _level(agreement: np.ndarray, dice: np.ndarray) -> tuple[float, float]:
    return float(dice.mean()), 0.0


def _policies(predictor: Predictor) -> list[str]:
    """Those that it answers by."""
    if not predictor.tells_each:
        return ["fused"]
    return list(POLICIES if predictor.fitted.by_size else SUMMED)


def _parts(predictor: Predictor, policies: Sequence[str],
           case: Case | PreparedCase) -> list[tuple[str, str, Parts]]:
    """Of each policy and region the parts in the answer for a case."""
    ready, task, found = _prepared(case, predictor), predictor.task, []
    voxel_mm3 = float(np.prod(ready.grid.spacing_mm))
    for (_, policy), answer in predictor.sweep(ready, predictor.method.largest(set(ready.images)), policies):
        classes = task.answers.classes(answer.maps["logits"])
        found += [(policy, region, measured_parts(*masks, voxel_mm3))
                  for region, *masks in compared_masks(classes, ready.labels, task)]
    return found


def measured_parts(mask: np.ndarray, truth: np.ndarray, voxel_mm3: float) -> Parts:
    """The parts of a mask against the ground truth, both (depth, height, width) of booleans."""
    numbers, voxels = connected_parts(mask)
    inside = np.bincount(numbers[truth], minlength=len(voxels))[1:]
    return Parts((voxels[1:] * voxel_mm3).tolist(), voxels[1:].tolist(), inside.tolist(), int(np.count_nonzero(truth)))


def best_threshold(found: Sequence[Parts]) -> tuple[float, float, float]:
    """The volume in mm³ under which parts are dropped for the largest mean Dice; that Dice before, and with it.

    A wrong crumb of 1 mm³ beside a lesion of 9, and nothing else: 5 mm³, halfway between them.
    """
    volumes = np.unique([mm3 for one in found for mm3 in one.mm3])
    apart = ~reaches(volumes[:-1], volumes[1:])         # by more than the rounding of their headers
    thresholds = np.array([0.0, *(volumes[:-1] + volumes[1:])[apart] / 2])
    dice = np.zeros(len(thresholds))
    for one in found:
        order = np.argsort(one.mm3)
        mm3, voxels, inside = (np.asarray(values, float)[order] for values in one[:3])
        first = np.searchsorted(mm3, thresholds)            # the parts from here on stay
        voxels, inside = (np.append(np.cumsum(values[::-1])[::-1], 0)[first] for values in (voxels, inside))
        dice += dice_of(inside, voxels + one.truth) / len(found)
    best = int(np.argmax(dice.round(6)))
    return float(thresholds[best]), float(dice[0]), float(dice[best])


def _mixtures(predictor: Predictor, case: Case | PreparedCase) -> list[tuple[int, list[float]]]:
    """Of each subset that a case can be answered from, its size and the mean Dice over regions for all SHARES."""
    ready, task = _prepared(case, predictor), predictor.task
    found, fused = [], np.zeros(0)
    known = ready.labels != IGNORED
    truth, regions = ready.labels[known], [one for one, *_ in compared_masks(ready.labels, ready.labels, task)]
    answers = predictor.sweep(ready, predictor.method.answerable(set(ready.images)), SUMMED)
    for (subset, policy), answer in answers:
        logits = answer.maps["logits"][:, known]
        if policy == "fused":
            fused = logits
        elif regions:
            both = task.answers.probabilities(fused), task.answers.probabilities(logits)
            dice = [by_share(*both, truth, partial(task.region, name=region), task.answers.classes_of)
                    for region in regions]
            found.append((len(subset), np.mean(dice, axis=0).tolist()))
    return found


def by_share(fused: np.ndarray, heads: np.ndarray, truth: np.ndarray,
             region: Callable[[np.ndarray], np.ndarray], classes: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Dice of a region in the mixture of two answers, for each of the SHARES of the second.

    Args:
        fused, heads: probabilities (channels, …).
        truth: class of each voxel.
        region: from classes to a mask.
        classes: from probabilities to classes.
    """
    first, true = classes(fused), region(truth)
    differ = first != classes(heads)
    same = region(first) & ~differ
    one, other = fused[:, differ], heads[:, differ]
    mixtures = [region(classes((1 - share) * one + share * other)) for share in SHARES]
    shared = [np.count_nonzero(same & true) + np.count_nonzero(mask & true[differ]) for mask in mixtures]
    voxels = [np.count_nonzero(same) + np.count_nonzero(mask) + np.count_nonzero(true) for mask in mixtures]
    return dice_of(shared, voxels)


def _whole(predictor: Predictor) -> Predictor:
    """The same, whose answers are not cut."""
    whole = copy.copy(predictor)
    whole.drop_small = False
    return whole


def _prepared(case: Case | PreparedCase, predictor: Predictor) -> PreparedCase:
    return case if isinstance(case, PreparedCase) else prepare(case, predictor.task)


def _begin(predictor: Predictor, cases: Cases) -> None:
    """Expect labelled cases, and forget what was learned of answers that were made in another way."""
    expect_cases(cases, PreparedCase)
    without = [case.id for case in cases if (case.labels if isinstance(case, PreparedCase) else case.label) is None]
    if without or not cases:
        raise DataError(f"found {len(cases)} cases, {len(without)} of them without label: {few(without) or 'none'}; "
                        "expected labelled cases to fit to", "Add the label files, or name other cases.")
    if predictor.fitted_otherwise:
        predictor.fitted = Fitted(cases=predictor.fitted.cases)


def _keep(predictor: Predictor, cases: Iterable[Case | PreparedCase], **found: Any) -> None:
    """What was found, on the Predictor and beside the weights that it was found for."""
    before = predictor.fitted
    predictor.fitted = replace(before, **found, read=predictor.reads,
                               cases=tuple(dict.fromkeys([*before.cases, *(one.id for one in cases)])))
    predictor.fitted.keep(predictor.checkpoints, predictor.members)

"""How sure an answer is: how far what could have been said as well lies from what is said.

    asked          the scans S, and S without each one of them, as far as the method answers from it
    p(x)           mean of the probabilities at voxel x over what is asked, members, flips, and the windows that see x
    uncertainty    H(x) = -sum_k p_k(x) ln p_k(x) nats, from 0 to ln(classes): 0.69 for two classes, 1.39 for four;
                   trained on regions, the mean of their entropies, up to ln 2 (data/answers.py)
    agreement      of a region: the mean Dice of the answer with those without each scan and, where several members
                   answer together, with that of each member
    change         |M(S) xor M(S without i)| / |M(S)|: what becomes of a region's mask M without scan i

Smaller subsets are not asked: from one scan an answer may be poor however good that from four is. On 16 phantoms of
four sequences the agreement of these few ranks the answers by their real Dice (Spearman 0.86 to 0.94, by region), that
of all subsets less well (0.69 to 0.86); of a single scan it says nothing. A line that was learned on validation cases,
one for each number of scans, makes of the agreement the Dice to expect (`evaluation.fit_expected_dice`).

References:
    Simple and scalable predictive uncertainty estimation using deep ensembles, Lakshminarayanan et al., NeurIPS 2017,
    https://arxiv.org/abs/1612.01474 (entropy of the mean of the members' probabilities)
    Bayesian QuickNAT: model uncertainty in deep whole-brain segmentation for structure-wise quality control, Roy et
    al., NeuroImage 2019, https://arxiv.org/abs/1811.09800 (Dice between answers as a measure of their quality)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from maml_toolkit.data.label_sets import overlap
from maml_toolkit.data.tasks import Task

if TYPE_CHECKING:
    from maml_toolkit.prediction.prediction import Prediction

WORTH_SAYING = 0.05
"""Of its volume: the smallest change of an answer that is told in words."""


@dataclass(frozen=True)
class Change:
    """What becomes of a region of an answer when one scan is left out.

    Attributes:
        without: the modality.
        region: of the task.
        changed_ml: volume in which the two answers differ.
        answer_ml: volume of the answer from all scans.
    """

    without: str
    region: str
    changed_ml: float
    answer_ml: float

    @property
    def share(self) -> float:
        """The change as a share of the answer's volume: 0 where nothing changes, infinite where there was nothing."""
        return self.changed_ml / self.answer_ml if self.answer_ml else float("inf") if self.changed_ml else 0.0

    def __str__(self):
        if not self.answer_ml:
            return f"without {self.without} there is {self.changed_ml:.2f} ml of {self.region}, with it none"
        return (f"the answer changes by {100 * self.share:.0f} % of its volume without {self.without} ({self.region}: "
                f"{self.changed_ml:.2f} of {self.answer_ml:.2f} ml)")


@dataclass(frozen=True)
class Expected:
    """The Dice to expect at an agreement: intercept + slope · agreement, within 0 to 1, as validation cases say.

    Attributes:
        intercept, slope: of the line; a slope of 0 says what the mean of the cases was.
        error: mean |expected - real Dice| of cases that were left out of the fit, 0 to 1; None for one case.
        cases: how many there were.
    """

    intercept: float
    slope: float
    error: float | None = None
    cases: int = 0

    def __call__(self, agreement: ArrayLike) -> np.ndarray:
        """The Dice to expect, 0 to 1."""
        return np.asarray(np.clip(self.intercept + self.slope * np.asarray(agreement, float), 0, 1))

    @property
    def about(self) -> str:
        """How far it was off, in words."""
        return "" if self.error is None else f" (off by {100 * self.error:.0f} on average in {self.cases} cases)"


@dataclass(frozen=True)
class Sureness:
    """How sure the answer for one case is.

    All of it on the working grid, before parts are dropped that are too small.

    Attributes:
        entropy: region -> mean of the uncertainty (nats) over the answer's voxels of it; 0 where there is none.
        agreement: region -> of the answer with the others, 0 to 1; empty where there is no other: a single scan, or a
            method that needs all scans, and one member.
        expected: region -> what validation cases say of it; empty where nothing was learned of this policy and number
            of scans.
        changes: of every region without each of the scans, the largest share first; empty where the method does not
            answer without one.
    """

    entropy: Mapping[str, float]
    agreement: Mapping[str, float]
    expected: Mapping[str, Expected] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()

    @property
    def expected_dice(self) -> dict[str, float]:
        """Region -> the Dice to expect, 0 to 1, of the regions of which it was learned."""
        return {region: float(line(self.agreement.get(region, 1.0))) for region, line in self.expected.items()}

    @property
    def worst(self) -> tuple[Change, ...]:
        """For each scan the region that changes most without it, the worst scan first."""
        found: dict[str, Change] = {}
        for one in self.changes:
            found.setdefault(one.without, one)
        return tuple(found.values())

    @property
    def doubt(self) -> float:
        """One number to put cases in an order by: 1 - the lowest Dice of a region that is to be expected.

        1 - the lowest agreement where nothing was learned; 0 where there is neither.
        """
        return 1 - min((self.expected_dice or self.agreement).values(), default=1.0)

    def lines(self) -> list[str]:
        """What a reader should know, a line each; changes below 5 % are not told."""
        said = [f"expected Dice of {region} {100 * dice:.0f} %" + self.expected[region].about
                for region, dice in self.expected_dice.items()]
        said += [f"agreement in {region} {100 * one:.0f} %" for region, one in self.agreement.items()
                 if region not in self.expected]
        return said + [str(one) for one in self.worst if one.share >= WORTH_SAYING]

    def __str__(self):
        return "; ".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them, and leaves out what follows from the others."""
        return {**asdict(self), "expected_dice": self.expected_dice}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any] | None) -> Sureness | None:
        """What `to_json` said; None of nothing.

        Raises:
            KeyError, TypeError: other names.
        """
        if facts is None:
            return None
        return cls(facts["entropy"], facts["agreement"],
                   {region: Expected(**one) for region, one in facts["expected"].items()},
                   tuple(Change(**one) for one in facts["changes"]))


def plain(lines: Mapping[int, Mapping[str, Expected]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The lines of each number of scans and region as JSON has them."""
    return {str(size): {region: asdict(one) for region, one in own.items()} for size, own in lines.items()}


def unsure(answer: Prediction, mean: np.ndarray, without: Mapping[str, np.ndarray],
           members: Sequence[np.ndarray]) -> Prediction:
    """An answer with its uncertainty, and how sure it is.

    Args:
        mean: of the probabilities over all that was asked, (classes, depth, height, width) on the working grid.
        without: modality -> class of each voxel in the answer without it.
        members: the same of each member's own answer, where there are several.
    """
    task = answer.task
    classes, uncertainty = task.answers.classes(answer.maps["logits"]), task.answers.entropy(mean)
    masks = {region: task.region(classes, region) for region in task.regions}
    inside = {region: float(uncertainty[mask].mean()) if mask.any() else 0.0 for region, mask in masks.items()}
    sure = Sureness(inside, agreements(classes, [*without.values(), *members], task),
                    changes=changes(classes, without, task, float(np.prod(answer.grid.spacing_mm)) / 1000))
    return replace(answer, maps={**answer.maps, "uncertainty": uncertainty}, sureness=sure)


def expecting(answer: Prediction, expected: Mapping[str, Expected]) -> Prediction:
    """An answer that is sure in the same way, with what validation cases say of that, by region."""
    return replace(answer, sureness=replace(answer.sureness, expected=expected))


def agreements(answer: np.ndarray, others: Sequence[np.ndarray], task: Task) -> dict[str, float]:
    """Region -> mean Dice of an answer with others, 1 where neither has anything of it; empty without others.

    Args:
        answer, others: class of each voxel.
    """
    return {region: float(np.mean([overlap(task.region(answer, region), task.region(one, region)) for one in others]))
            for region in (task.regions if others else ())}


def changes(answer: np.ndarray, without: Mapping[str, np.ndarray], task: Task, voxel_ml: float) -> tuple[Change, ...]:
    """What becomes of each region of an answer without each of its scans, the largest share first.

    Args:
        answer: class of each voxel.
        without: modality -> the same of the answer from all others.
        voxel_ml: volume of a voxel.
    """
    found = []
    for name, other in without.items():
        for region in task.regions:
            mask, changed = task.region(answer, region), task.region(other, region)
            found.append(Change(name, region, float(voxel_ml * np.count_nonzero(mask ^ changed)),
                                float(voxel_ml * np.count_nonzero(mask))))
    return tuple(sorted(found, key=lambda one: -one.share))

"""What was fitted on validation cases after the training, and is kept with the checkpoint whose answers it is about.

    checkpoints/step-00000500/fitted.json    by_size, smallest_mm3, expected_dice, and the ids of the cases

`evaluation.fitting` finds it; the Predictor uses it where it is asked to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from maml_toolkit.prediction.checkpoints import TRAINING, kept_beside
from maml_toolkit.prediction.sureness import Expected
from maml_toolkit.system.files import write_whole

FITTED = "fitted.json"


@dataclass(frozen=True)
class Fitted:
    """What is known from validation cases.

    Attributes:
        by_size: number of scans -> the share of the heads in the policy "by-size", 0 (the fused answer) to 1 (theirs).
        smallest_mm3: policy -> region -> the volume under which a connected part of it is dropped.
        cases: the ids of the cases; they have chosen, and are no test any more.
        expected_dice: policy -> number of scans -> region -> the Dice to expect at an agreement (sureness.py).

    Raises:
        ValueError: a share outside 0 to 1, or a volume below 0.
    """

    by_size: Mapping[int, float] = field(default_factory=dict)
    smallest_mm3: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cases: Sequence[str] = ()
    expected_dice: Mapping[str, Mapping[int, Mapping[str, Expected]]] = field(default_factory=dict)

    def __post_init__(self):
        by_size = {size: float(share) for size, share in self.by_size.items()}
        smallest = {policy: {region: float(mm3) for region, mm3 in own.items()}
                    for policy, own in self.smallest_mm3.items()}
        for name, value in (("by_size", by_size), ("smallest_mm3", smallest), ("cases", tuple(self.cases))):
            object.__setattr__(self, name, value)
        if not all(0 <= share <= 1 for share in by_size.values()):
            raise ValueError(f"found by_size={by_size}, expected for each number of scans a share from 0 to 1")
        if not all(mm3 >= 0 for own in smallest.values() for mm3 in own.values()):
            raise ValueError(f"found smallest_mm3={smallest}, expected volumes of 0 or more")

    @classmethod
    def load(cls, checkpoint: Path) -> Fitted:
        """What lies in the folder of a checkpoint; nothing where nothing was fitted.

        Raises:
            CheckpointError: the file is damaged.
        """
        remedy = ", expected what `fit` wrote; delete it, and fit again"
        return kept_beside(checkpoint / FITTED, cls._of, remedy) or cls()

    @classmethod
    def _of(cls, found: Mapping) -> Fitted:
        by_size = {int(size): share for size, share in found["by_size"].items()}
        expected = {policy: {int(size): {region: Expected(**one) for region, one in lines.items()}
                             for size, lines in own.items()} for policy, own in found.get("expected_dice", {}).items()}
        return cls(**{**found, "by_size": by_size, "expected_dice": expected})

    def lines(self, policy: str, size: int) -> Mapping[str, Expected]:
        """Region -> what to expect of answers by a policy from so many scans; empty where nothing was learned."""
        return self.expected_dice.get(policy, {}).get(size, {})

    def save(self, checkpoint: Path) -> None:
        """Write it into the folder of a checkpoint."""
        write_whole(checkpoint / FITTED, json.dumps(asdict(self), indent=1))

    def keep(self, checkpoint: Path | None) -> bool:
        """Write it down where a run is trained; a shared model, whose sums are listed, is left as it is."""
        if found := checkpoint is not None and (checkpoint / TRAINING).exists():
            self.save(checkpoint)
        return found

    @classmethod
    def mean(cls, members: Iterable[Fitted]) -> Fitted:
        """For several runs that answer together: the mean of what all of them have.

        Not the Dice to expect, since what they agree on together nobody has held against ground truth yet.
        """
        members = list(members)
        if len(members) == 1:
            return members[0]
        policies = _shared([one.smallest_mm3 for one in members])
        return cls(_mean([one.by_size for one in members]),
                   {policy: _mean([one.smallest_mm3[policy] for one in members]) for policy in policies},
                   tuple(dict.fromkeys(case for one in members for case in one.cases)))


def _shared(found: Sequence[Mapping]) -> list:
    return [key for key in found[0] if all(key in one for one in found)]


def _mean(found: Sequence[Mapping]) -> dict:
    return {key: sum(one[key] for one in found) / len(found) for key in _shared(found)}

"""What is kept beside a checkpoint's weights: above all what was fitted on validation cases.

    checkpoints/step-00000500/fitted.json     by_size, smallest_mm3, expected_dice, and the ids of the cases
                              fitted-<digest>.json    the same of several runs together, in each of them
                              typical.json    how the cases of the training look (typical.py)

`evaluation.fitting` finds what is fitted; the Predictor uses it where it is asked to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from maml_toolkit.methods import Method
from maml_toolkit.prediction.checkpoints import TRAINING, CheckpointError, fingerprint
from maml_toolkit.prediction.sureness import Expected
from maml_toolkit.system.files import write_whole

FITTED = "fitted.json"


class Kept:
    """A JSON file in the folder of a checkpoint; what was never kept is empty.

    Attributes:
        file: its name.
        remedy: what to do where it is damaged.
    """

    file: ClassVar[str]
    remedy: ClassVar[str]

    @classmethod
    def load(cls, checkpoint: Path, file: str = "") -> Kept:
        """What lies in the folder of a checkpoint, under its own name or another one.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = checkpoint / (file or cls.file)
        if not path.exists():
            return cls()
        try:
            return cls._of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}), {cls.remedy}") from error

    @classmethod
    def _of(cls, found: Mapping) -> Kept:
        return cls(**found)

    def save(self, checkpoint: Path, file: str = "") -> None:
        """Write it into the folder of a checkpoint, under its own name or another one."""
        write_whole(checkpoint / (file or self.file), json.dumps(asdict(self), indent=1))


@dataclass(frozen=True)
class Fitted(Kept):
    """What is known from validation cases.

    Attributes:
        by_size: number of scans -> the share of the heads in the policy "by-size", 0 (the fused answer) to 1 (theirs).
        smallest_mm3: policy -> region -> the volume under which a connected part of it is dropped.
        cases: the ids of the cases; they have chosen, and are no test any more.
        expected_dice: policy -> number of scans -> region -> the Dice to expect at an agreement (sureness.py).
        read: window, overlap and mirror axes of the answers that it was learned of (`Predictor.reads`); empty where
            nobody wrote it down.

    Raises:
        ValueError: a share outside 0 to 1, or a volume below 0.
    """

    by_size: Mapping[int, float] = field(default_factory=dict)
    smallest_mm3: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cases: Sequence[str] = ()
    expected_dice: Mapping[str, Mapping[int, Mapping[str, Expected]]] = field(default_factory=dict)
    read: Mapping[str, Any] = field(default_factory=dict)
    file: ClassVar[str] = FITTED
    remedy: ClassVar[str] = "expected what `fit` wrote; delete it, and fit again"

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
    def _of(cls, found: Mapping) -> Fitted:
        by_size = {int(size): share for size, share in found["by_size"].items()}
        expected = {policy: {int(size): {region: Expected(**one) for region, one in lines.items()}
                             for size, lines in own.items()} for policy, own in found.get("expected_dice", {}).items()}
        return cls(**{**found, "by_size": by_size, "expected_dice": expected})

    def lines(self, policy: str, size: int) -> Mapping[str, Expected]:
        """Region -> what to expect of answers by a policy from so many scans; empty where nothing was learned."""
        return self.expected_dice.get(policy, {}).get(size, {})

    def keep(self, places: Iterable[Path], members: Sequence[Method] = ()) -> None:
        """Write it down where a run is trained, for all checkpoints of the step: the newest may be the best.

        A shared model, whose sums are listed, is left as it is.

        Args:
            places: the checkpoints, of each run that answers.
            members: the methods in them.
        """
        for place in (one for one in places if (one / TRAINING).exists()):
            for same in place.parent.glob(f"*step-{place.name[-8:]}"):
                self.save(same, fitted_file(members))

    @classmethod
    def of(cls, places: Sequence[Path], members: Sequence[Method]) -> Fitted:
        """What was fitted for the methods in these checkpoints; for several the mean, until they are fitted together.

        Raises:
            CheckpointError: a file is damaged.
        """
        file = fitted_file(members)
        place = next((one for one in places if (one / file).exists()), None)
        return cls.load(place, file) if place else cls.mean(map(cls.load, places))

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
                   tuple(dict.fromkeys(case for one in members for case in one.cases)),
                   read={name: value if all(one.read.get(name) == value for one in members) else None
                         for name, value in members[0].read.items()})


def fitted_file(members: Sequence[Method]) -> str:
    """The name of the file; of several methods that answer together it is theirs alone, in whatever order they are."""
    sums = sorted(map(fingerprint, members)) if len(members) > 1 else []
    return f"fitted-{sha256(''.join(sums).encode()).hexdigest()[:16]}.json" if sums else FITTED


def _shared(found: Sequence[Mapping]) -> list:
    return [key for key in found[0] if all(key in one for one in found)]


def _mean(found: Sequence[Mapping]) -> dict:
    return {key: sum(one[key] for one in found) / len(found) for key in _shared(found)}

"""Whether a case looks like those that a method was trained on.

    checkpoints/step-00000500/typical.json    of each fact mean and standard deviation over the cases

Facts of a case on the working grid: the volume and the share of its box that are not zero, and for each modality the
25th to the 95th percentile of its normalised values. Another case like n cases lies, with a chance of 99.9 %, within

    mean ± t sd sqrt(1 + 1/n),     t the 99.95 % quantile of Student's t, n - 1

(the volume's logarithm does), and percentiles up to 0.25 beyond: so much do those of one case differ between files of 1
and of 2 mm, since the edge of a scan fades when it is resampled. What lies outside may be another organ, a head with
its skull, a part of one, or a file whose background is not zero. A network answers all of them alike, with whatever it
was trained to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.special import stdtrit

from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.prediction.kept import Kept
from maml_toolkit.system.errors import DataError, few

TYPICAL = "typical.json"
FEWEST = 3
"""Cases from which a spread is taken."""
PERCENTILES = (25, 50, 75, 95)
VOLUME, FILLED = "volume", "filled"
FADING = 0.25
"""Of normalised values, by which a percentile may lie beyond its limits."""
ROUNDED = 1e-4
"""To which means and deviations are kept: where all cases have one mask, another one with it is not unlike them."""
NOTHING = 0.01
"""Normalised values nearer to 0 than this are background: resampling spreads the edge of a scan over it, fading."""


def facts_of(case: PreparedCase) -> dict[str, float]:
    """What is compared of a case: logarithm of its volume in ml, share of its box, percentiles by modality."""
    images = {name: np.asarray(case.images[name]) for name in case.images}
    inside = np.any([np.abs(image) > NOTHING for image in images.values()], axis=0)
    found = {VOLUME: float(np.log(max(inside.sum(), 1) * np.prod(case.grid.spacing_mm) / 1000)),
             FILLED: float(inside.mean())}
    for name, image in images.items():
        values = image[inside] if inside.any() else np.zeros(1)
        found |= {f"{name}/{percent}": float(value) for percent, value in
                  zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}
    return found


@dataclass(frozen=True)
class Typical(Kept):
    """What is known of the cases of a training; of no case nothing is unlike.

    Attributes:
        mean, sd: of each fact.
        cases: how many there were.
        known_in: facts that fewer of them have, such as those of a scan that some lack -> how many have them.
    """

    mean: Mapping[str, float] = field(default_factory=dict)
    sd: Mapping[str, float] = field(default_factory=dict)
    cases: int = 0
    known_in: Mapping[str, int] = field(default_factory=dict)
    file: ClassVar[str] = TYPICAL
    remedy: ClassVar[str] = "expected what a training left; delete it, and nothing is compared"

    @classmethod
    def of(cls, cases: Sequence[PreparedCase]) -> Typical:
        """Of prepared cases; a fact that fewer than three of them have is left out."""
        found = [facts_of(case) for case in cases]
        names = dict.fromkeys(name for one in found for name in one)
        columns = {name: [one[name] for one in found if name in one] for name in names}
        known = {name: values for name, values in columns.items() if len(values) >= FEWEST}
        return cls({name: round(float(np.mean(values)), 4) for name, values in known.items()},
                   {name: round(float(np.std(values, ddof=1)), 4) for name, values in known.items()}, len(cases),
                   {name: len(values) for name, values in known.items() if len(values) < len(cases)})

    def limits(self, fact: str) -> tuple[float, float]:
        """Between which another such case has it."""
        cases = self.known_in.get(fact, self.cases)
        reach = stdtrit(cases - 1, 0.9995) * max(self.sd[fact], ROUNDED) * np.sqrt(1 + 1 / cases)
        if fact not in (VOLUME, FILLED):
            reach += FADING
        return self.mean[fact] - reach, self.mean[fact] + reach

    def unlike(self, case: PreparedCase) -> list[DataError]:
        """What of a case lies outside, as one oddity; none where nothing does."""
        outside = []
        for fact, value in facts_of(case).items() if self.cases >= FEWEST else ():
            low, high = self.limits(fact) if fact in self.mean else (-np.inf, np.inf)
            if not low <= value <= high:
                outside.append(_told(fact, value, low, high))
        if not outside:
            return []
        return [DataError(f"it is unlike the {self.cases} cases of the training: {few(outside, 3)}",
                          "Do its scans show the same part of the body, cut out in the same way (a brain without its "
                          "skull, zero outside)? If not, do not trust the answer.", case=case.id)]


def _told(fact: str, value: float, low: float, high: float) -> str:
    if fact == VOLUME:
        return f"{np.exp(value):,.0f} ml are not zero, expected {np.exp(low):,.0f} to {np.exp(high):,.0f}"
    if fact == FILLED:
        return f"{value:.0%} of its box is not zero, expected {max(low, 0):.0%} to {min(high, 1):.0%}"
    name, _, percent = fact.partition("/")
    return f"{percent} % of {name} lie below {value:.2f}, expected {low:.2f} to {high:.2f}"

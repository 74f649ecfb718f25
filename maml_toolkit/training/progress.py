"""Where a run stands: steps and epochs done, the sums of the epoch, steps that had to be skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

PATIENCE = 5
"""Steps in a row without a finite loss and gradient, after which a run ends."""


@dataclass
class Progress:
    """Where a run stands; plain values, saved with every checkpoint.

    Attributes:
        step: steps done.
        epochs: epochs done, validation and the row of the history included.
        sums, counts: of the loss terms since the epoch began, and of the steps that had each of them: a batch of
            cases without a modality has no term for it.
        seconds: of training since the epoch began.
        best: highest validation Dice so far.
        skipped: steps since the epoch began whose loss or gradient was not a number.
        failing: the cases of each of the latest such steps, if the latest step was one.
    """

    step: int = 0
    epochs: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    best: float = -1.0
    skipped: int = 0
    failing: list[list[str]] = field(default_factory=list)

    def add(self, terms: dict[str, float], cases: Iterable[str] = (), rescaled: bool = False) -> None:
        """Count a step: its terms of the loss, none if it was skipped.

        Args:
            terms: of the loss.
            cases: of a step that was skipped.
            rescaled: whether it was skipped because the scale of the loss was too large for float16, which is no fault
                of the cases: the first steps find out how large it may be.
        """
        self.step += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        if not rescaled:
            self.failing = [] if terms else [*self.failing, list(cases)]
        self.skipped += not terms

    def check(self) -> None:
        """Nothing, unless too many steps in a row were skipped.

        Raises:
            FloatingPointError: they were; it names their cases.
        """
        if len(self.failing) >= PATIENCE:
            cases = ", ".join(sorted({case for step in self.failing for case in step}))
            raise FloatingPointError(
                f"the loss or its gradient was not a number in {PATIENCE} steps in a row, steps {self.step - PATIENCE} "
                f"to {self.step - 1}, from the cases {cases}; look at their intensities, or lower the learning rate "
                "(with changed=True, or train --changed, to go on from the last checkpoint)")

    def means(self) -> dict[str, float]:
        """Each term of the loss, over the steps of the epoch that had it."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def finish_epoch(self) -> None:
        """Count an epoch."""
        self.epochs += 1
        self.sums, self.counts, self.seconds, self.skipped = {}, {}, 0.0, 0

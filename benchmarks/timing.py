"""Two sides of a comparison timed in turn, so that what else the machine does hits both alike.

    turn 0: ours, theirs    turn 1: theirs, ours    turn 2: ours, theirs    …

The first turns warm up and are not counted. Each other turn gives one ratio; a row has the median over the turns and,
as spread, the lowest and the highest. Beside the time on the wall there is the time of this process's CPU, which on a
shared machine with one thread says more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Clocks = Mapping[str, Callable[[], float]]
CLOCKS: Clocks = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timings:
    """What was read from the clocks.

    Attributes:
        seconds: side -> clock -> one number for each turn.
    """

    seconds: dict[str, dict[str, list[float]]]

    def median(self, side: str, clock: str = "wall") -> float:
        """Of a side, in seconds."""
        return statistics.median(self.seconds[side][clock])

    def ratios(self, side: str, other: str, clock: str = "wall") -> list[float]:
        """Of each turn: the side's seconds over the other's."""
        return [own / its for own, its in zip(self.seconds[side][clock], self.seconds[other][clock], strict=True)]


def alternating(sides: Mapping[str, Callable[[], Any]], pairs: int, clocks: Clocks = CLOCKS,
                warm: int = 1) -> Timings:
    """Time every side once a turn, in an order that is turned round each time.

    Args:
        sides: name -> what to time.
        pairs: turns that count, at least 1.
        clocks: name -> a function that reads it, in seconds.
        warm: turns before that, which do not count.

    Raises:
        ValueError: fewer than one turn.
    """
    if pairs < 1:
        raise ValueError(f"found pairs={pairs}, expected at least 1")
    seconds: dict[str, dict[str, list[float]]] = {side: {clock: [] for clock in clocks} for side in sides}
    for turn in range(warm + pairs):
        for side in list(sides)[::1 if turn % 2 == 0 else -1]:
            begun = {clock: read() for clock, read in clocks.items()}
            sides[side]()
            if turn >= warm:
                for clock, read in clocks.items():
                    seconds[side][clock].append(read() - begun[clock])
    return Timings(seconds)

"""One row of the benchmark: two sides, their ratio and its spread, and the goal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import pandas as pd

from benchmarks.timing import Timings


@dataclass(frozen=True)
class Row:
    """What was compared and what came out.

    Attributes:
        row: the name by which it is asked for.
        what: was done on both sides.
        ours, theirs: the two sides; their values are medians, in `unit`.
        ratio: ours over theirs, the median over the turns; lowest and highest are its spread.
        ratio_cpu: the same by the process's CPU time; None where other processes work.
        goal: for the ratio; `at_least` where more is better.
        note: what the reader must know; why it was not measured, where it was not.
    """

    row: str
    what: str
    ours: str
    theirs: str
    ours_value: float | None = None
    theirs_value: float | None = None
    unit: str = "s"
    ratio: float | None = None
    lowest: float | None = None
    highest: float | None = None
    ratio_cpu: float | None = None
    goal: float | None = None
    at_least: bool = False
    pairs: int = 0
    note: str = ""

    @property
    def met(self) -> str:
        """"yes" or "no"; empty without a goal, "not measured" without a ratio."""
        if self.ratio is None:
            return "not measured"
        if self.goal is None:
            return ""
        return "yes" if (self.ratio >= self.goal if self.at_least else self.ratio <= self.goal) else "no"


def timed(row: str, what: str, ours: str, theirs: str, timings: Timings, goal: float | None = None,
          note: str = "", cpu: bool = True, per: float = 1) -> Row:
    """The row of two sides that `alternating` timed under these names.

    Args:
        cpu: whether all the work was done in this process.
        per: how many steps, patches or cases a timing holds.
    """
    ratios = timings.ratios(ours, theirs)
    by_cpu = statistics.median(timings.ratios(ours, theirs, "cpu")) if cpu else None
    return Row(row, what, ours, theirs, timings.median(ours) / per, timings.median(theirs) / per, "s",
               statistics.median(ratios), min(ratios), max(ratios), by_cpu, goal, False, len(ratios), note)


def compared(row: str, what: str, ours: str, theirs: str, own: Sequence[float], its: Sequence[float], unit: str,
             goal: float | None = None, at_least: bool = False, note: str = "") -> Row:
    """The row of two sides of which the values were measured in turn, other than by a clock here."""
    ratios = [mine / other for mine, other in zip(own, its, strict=True)]
    return Row(row, what, ours, theirs, statistics.median(own), statistics.median(its), unit,
               statistics.median(ratios), min(ratios), max(ratios), None, goal, at_least, len(ratios), note)


def without_peer(row: str, what: str, package: str, theirs: str, goal: float | None) -> Row:
    """The row of a peer that is not installed."""
    return Row(row, what, "ours", theirs, goal=goal, note=f"not measured: install {package} (make bench)")


def installed(package: str) -> bool:
    """Whether a package could be imported; it is not."""
    return find_spec(package) is not None


def against(peers: dict[str, tuple[str, float]], measured: Callable[[str, float], Row], row: str,
            what: str) -> Iterable[Row]:
    """A row for each peer: measured where its package is installed.

    Args:
        peers: name -> package and goal.
        measured: gives the row from a peer's name and goal.
    """
    for name, (package, goal) in peers.items():
        yield measured(name, goal) if installed(package) else without_peer(row, what, package, name, goal)


def as_table(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table, the columns of benchmark.csv."""
    listed = [{**vars(row), "met": row.met} for row in rows]
    columns = [*Row.__dataclass_fields__, "met"]
    return pd.DataFrame(listed, columns=columns)

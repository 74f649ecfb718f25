"""How the benchmark measures: its sizes, sides that take turns, processes of their own, and the row that comes out.

    turn 0: ours, theirs    turn 1: theirs, ours    turn 2: ours, theirs    …

The first turns warm up and are not counted. Each other turn gives one ratio; a row has the median over the turns and,
as spread, the lowest and the highest, by the clock on the wall and by the CPU time of this process and its children,
which on a shared machine says more. Both sides have the same number of threads.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor

from maml_toolkit.data.tasks import Task
from maml_toolkit.system import machine, tables
from maml_toolkit.system.apart import apart


@dataclass(frozen=True)
class Settings:
    """Sizes of what is measured.

    Attributes:
        channels: of every U-Net.
        size: of training patches, voxels on each axis.
        batch_size: patches a step.
        pairs: turns of each row.
        most: turns of a row whose ratios spread by more than a tenth.
        counts: numbers of modalities for which steps are measured.
        case: voxels of a case, for predictions and metrics.
        liver: voxels of a large CT, for metrics.
        window: of predictions, voxels on each axis.
        patch: of augmentation, voxels on each axis.
        workers: processes that load and augment.
        patches: that these make in a turn.
        memory_size, memory_modalities: of the step with recomputation.
        scaling_counts, scaling_sizes: of the rows on how cost grows.
        precision: as in machine.py.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256, 320)
    size: int = 64
    batch_size: int = 2
    pairs: int = 5
    most: int = 15
    counts: tuple[int, ...] = (2, 4)
    case: tuple[int, int, int] = (240, 240, 155)
    liver: tuple[int, int, int] = (512, 512, 198)
    window: int = 96
    patch: int = 128
    workers: int = 2
    patches: int = 4
    memory_size: int = 96
    memory_modalities: int = 4
    scaling_counts: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    scaling_sizes: tuple[int, ...] = (32, 48, 64, 96, 128)
    precision: str = "auto"
    device: torch.device = field(default_factory=machine.choose_device)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From the parameters of a notebook, where lists stand for tuples and None for the default."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value
                      for name, value in given.items() if value is not None})

    def in_turn(self, sides: Mapping[str, Callable[[], Any]], warm: int = 1) -> Timings:
        """`alternating` with the turns of these settings."""
        return alternating(sides, self.pairs, warm=warm, most=self.most)


def task_of(modalities: int, classes: int = 4) -> Task:
    """A task of so many scans and classes."""
    labels = {("background" if value == 0 else f"class_{value}"): value for value in range(classes)}
    return Task("benchmark", tuple(f"scan_{number}" for number in range(modalities)), labels, intensities="mr")


def held_batch(task: Task, size: int, batch_size: int, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Random images and labels, (batch, 1, size, size, size) and (batch, size, size, size)."""
    random = torch.Generator().manual_seed(0)
    shape = (batch_size, 1, size, size, size)
    images = {name: torch.randn(shape, generator=random).to(device) for name in task.modalities}
    labels = torch.randint(0, task.classes, (batch_size, size, size, size), generator=random).to(device)
    return images, labels


def finished(device: torch.device) -> None:
    """Wait until the device did what it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def subsets_of(names: tuple[str, ...]) -> Iterator[frozenset[str]]:
    """Every non-empty subset."""
    for number in range(1, 2 ** len(names)):
        yield frozenset(name for bit, name in enumerate(names) if number >> bit & 1)


Clocks = Mapping[str, Callable[[], float]]


def cpu_of_all() -> float:
    """CPU seconds of this process and of its children, those that have ended and those that still run."""
    me = psutil.Process()
    seconds = sum(me.cpu_times()[:4])       # own and ended children's, user and system
    for child in me.children(recursive=True):
        with suppress(psutil.Error):
            seconds += sum(child.cpu_times()[:2])
    return seconds


CLOCKS: Clocks = {"wall": time.perf_counter, "cpu": cpu_of_all}
NARROW = 0.10
"""The spread of a row's ratios, the middle half over the median, below which no further turn is needed."""


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
        return [own / max(its, 1e-9)
                for own, its in zip(self.seconds[side][clock], self.seconds[other][clock], strict=True)]

    def narrow(self) -> bool:
        """Whether the ratios of every side to the last spread by less than `NARROW`."""
        *sides, last = self.seconds
        return all(spread(self.ratios(side, last)) <= NARROW for side in sides)


def spread(ratios: Sequence[float]) -> float:
    """The middle half of some ratios over their median.

    >>> spread([0.9, 1.0, 1.0, 1.0, 1.3])
    0.0
    """
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return float((high - low) / middle)


def alternating(sides: Mapping[str, Callable[[], Any]], pairs: int, clocks: Clocks = CLOCKS,
                warm: int = 1, most: int = 0) -> Timings:
    """Time every side once a turn, in an order that is turned round each time.

    Args:
        sides: name -> what to time.
        pairs: turns that count, at least 1.
        clocks: name -> a function that reads it, in seconds.
        warm: turns before that, which do not count.
        most: further turns are taken up to this number while the ratios spread too far.

    Raises:
        ValueError: fewer than one turn.
    """
    if pairs < 1:
        raise ValueError(f"found pairs={pairs}, expected at least 1")
    seconds: dict[str, dict[str, list[float]]] = {side: {clock: [] for clock in clocks} for side in sides}
    for turn in range(warm + max(pairs, most)):
        if turn >= warm + pairs and Timings(seconds).narrow():
            break
        for side in list(sides)[::1 if turn % 2 == 0 else -1]:
            begun = {clock: read() for clock, read in clocks.items()}
            sides[side]()
            if turn >= warm:
                for clock, read in clocks.items():
                    seconds[side][clock].append(read() - begun[clock])
    return Timings(seconds)


@dataclass(frozen=True)
class Row:
    """What was compared and what came out.

    Attributes:
        row: the name by which it is asked for.
        what: was done on both sides.
        ours, theirs: the two sides; their values are medians, in `unit`.
        ratio: ours over theirs, the median over the turns; lowest and highest are the ends of the middle half.
        ratio_cpu: the same by the CPU time of the process and its children; None where no clock was read here.
        goal: for the ratio; `at_least` where more is better.
        threads: of either side.
        occasions: on which it was measured; the figures are those of the less favourable one.
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
    threads: int = field(default_factory=torch.get_num_threads)
    occasions: int = 1
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What a row of another occasion is known by."""
        return self.row, self.what, self.ours, self.theirs

    @property
    def met(self) -> str:
        """"yes" or "no"; empty without a goal, "not measured" without a ratio."""
        if self.ratio is None:
            return "not measured"
        if self.goal is None:
            return ""
        return "yes" if (self.ratio >= self.goal if self.at_least else self.ratio <= self.goal) else "no"


def timed(row: str, what: str, ours: str, theirs: str, timings: Timings, goal: float | None = None,
          note: str = "", per: float = 1) -> Row:
    """The row of two sides that `alternating` timed under these names.

    Args:
        per: how many steps, patches or cases a timing holds.
    """
    ratios = timings.ratios(ours, theirs)
    by_cpu = statistics.median(timings.ratios(ours, theirs, "cpu"))
    return _row(row, what, ours, theirs, timings.median(ours) / per, timings.median(theirs) / per, ratios, goal=goal,
                ratio_cpu=by_cpu, note=note)


def compared(row: str, what: str, ours: str, theirs: str, own: Sequence[float], its: Sequence[float], unit: str,
             goal: float | None = None, at_least: bool = False, note: str = "") -> Row:
    """The row of two sides of which the values were measured in turn, other than by a clock here."""
    ratios = [mine / other for mine, other in zip(own, its, strict=True)]
    return _row(row, what, ours, theirs, statistics.median(own), statistics.median(its), ratios, unit=unit, goal=goal,
                at_least=at_least, note=note)


def _row(row: str, what: str, ours: str, theirs: str, own: float, its: float, ratios: Sequence[float],
         **further: Any) -> Row:
    low, middle, high = map(float, np.percentile(ratios, (25, 50, 75)))
    return Row(row, what, ours, theirs, own, its, ratio=middle, lowest=low, highest=high, pairs=len(ratios), **further)


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


def seconds_in_python(code: str) -> float:
    """How long a new Python needs for these lines, from inside, without its own start."""
    timed = f"import time; begun = time.perf_counter(); exec({code!r}); print(time.perf_counter() - begun)"
    done = subprocess.run([sys.executable, "-c", timed], text=True, capture_output=True, check=True)
    return float(done.stdout)


def apart_in_turn(sides: Mapping[str, tuple[str, str, dict[str, Any]]], pairs: int) -> dict[str, list[dict]]:
    """What each side returns in a new process for every turn; the order is turned round each time.

    Args:
        sides: name -> module, function and its arguments.
        pairs: turns.
    """
    found: dict[str, list[dict]] = {name: [] for name in sides}
    for turn in range(pairs):
        for name in list(sides)[::1 if turn % 2 == 0 else -1]:
            module, function, settings = sides[name]
            found[name].append(apart(module, function, **settings))
    return found


def less_favourable(rows: Iterable[Row], earlier: Iterable[Row]) -> list[Row]:
    """The rows, each in the version that is worse for us where it was measured on an earlier occasion too.

    Raises:
        ValueError: the earlier ones were measured with other numbers of threads.
    """
    before = {one.key: one for one in earlier if one.ratio is not None}
    found = []
    for row in rows:
        other = before.get(row.key)
        if other is None or row.ratio is None:
            found.append(row)
            continue
        if other.threads != row.threads:
            raise ValueError(f"found row {row.row} with {other.threads} threads earlier, expected {row.threads}")
        worse = min(row, other, key=lambda one: one.ratio if one.at_least else -one.ratio)
        found.append(replace(worse, occasions=row.occasions + other.occasions))
    return found


def rows_of(path: str | Path) -> list[Row]:
    """The rows that a benchmark.csv holds."""
    numbers = {"ours_value", "theirs_value", "ratio", "lowest", "highest", "ratio_cpu", "goal"}
    whole = {"pairs", "threads", "occasions"}
    table = tables.read(path, [*numbers, *whole]).drop(columns="met")
    read = {"at_least": lambda cell: cell == "True", **dict.fromkeys(whole, int),
            **dict.fromkeys(numbers, lambda cell: None if pd.isna(cell) else float(cell))}
    return [Row(**{name: read.get(name, str)(cell) for name, cell in row.items()}) for row in table.to_dict("records")]

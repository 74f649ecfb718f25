"""Shards: whose a case is, and what a shard leaves in the folder of predictions.

    <out>/<case>/<case>_seg.nii.gz, …        what Prediction.save writes
                 manifest.json                what it was made from
    <out>/shards/3-of-16/shard.json           written last: its cases, and which failed
                         failed.jsonl         one line a failed case, written at once; absent where none failed
                         lock                 held by the process that works on this shard (locks.py)
                         .writing-…           a case before it gets its name
    <out>/log/record.json, …                  the same where all cases are predicted at once

Shard i of n has every n-th case in the order of their ids, from the i-th on. Added cases therefore move others to
another shard. Nothing is done twice for that, since a case is looked for by its id, whoever made it; but shards that
saw different lists may leave a case to each other, so each records its list and `merge` compares them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from maml_toolkit.prediction.runs import Run

FOLDER, WHOLE, FAILED = "shards", "log", "failed.jsonl"
TABLE = "predictions.csv"
RESERVED = (FOLDER, WHOLE, FAILED, TABLE)
"""Names in the folder of predictions that are no case's."""

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
LAUNCHERS = (TORCHRUN, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
             ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
"""Variables by which torchrun and srun tell a process its place, how many there are, and its place on its machine."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1.

    Raises:
        ValueError: there is no such part.

    Examples:
        >>> Shard.named("2/3").of(["a", "b", "c", "d", "e"])
        ['b', 'e']
    """

    number: int
    count: int

    def __post_init__(self):
        if not 1 <= self.number <= self.count:
            raise ValueError(f"found the shard {self}, expected 1/{self.count} to {self.count}/{self.count}"
                             if self.count > 0 else f"found the shard {self}, expected at least one shard")

    @classmethod
    def named(cls, text: str | Shard | None, environment: Mapping[str, str] | None = None) -> Shard:
        """The shard that is written "3/16"; "auto" is that of this process among those that torchrun or srun started.

        Args:
            text: which shard; None for all cases at once, the only shard of one.
            environment: variables of this process.

        Raises:
            ValueError: something else is written there, or the variables contradict each other.

        Examples:
            >>> str(Shard.named("auto", {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}))
            '3/4'
            >>> str(Shard.named("auto", {}))
            '1/1'
        """
        if isinstance(text, Shard):
            return text
        if text is None:
            return cls(1, 1)
        if text == "auto":
            place, count, _ = launched(environment)
            return cls(place + 1, count)
        if not (found := re.fullmatch(r"(\d+)/(\d+)", str(text))):
            raise ValueError(f"found the shard {text!r}, expected NUMBER/COUNT from 1 on, such as '3/16', or 'auto'")
        return cls(*map(int, found.groups()))

    def __str__(self):
        return f"{self.number}/{self.count}"

    def of(self, ordered: Sequence[T]) -> list[T]:
        """Its part of a list; sizes differ by one at most."""
        return list(ordered[self.number - 1::self.count])

    def device(self, name: str = "auto", environment: Mapping[str, str] | None = None) -> str:
        """On which device it predicts: shards of one machine take its GPUs in turn where none is named.

        Args:
            name: as in machine.choose_device.
            environment: variables of this process.
        """
        import torch  # for seconds, and a command that only names a shard needs none

        count = torch.cuda.device_count()
        if name not in ("auto", "cuda") or count < 2:
            return name
        _, processes, local = launched(environment)
        return f"cuda:{(local if processes > 1 else self.number - 1) % count}"

    def folder(self, out: str | Path) -> Path:
        """Where it writes what is no case's; no other shard writes there."""
        numbered = Path(out) / FOLDER / f"{self.number}-of-{self.count}"
        return numbered if self.count > 1 or numbered.exists() else Path(out) / WHOLE      # earlier versions made it

    def record_file(self, out: str | Path) -> Path:
        """The file that it writes at its end."""
        folder = self.folder(out)
        return folder / ("record.json" if folder.name == WHOLE else "shard.json")

    def record(self, out: str | Path) -> dict[str, Any] | None:
        """What it wrote at its end; None while it has not come to an end."""
        path = self.record_file(out)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def launched(environment: Mapping[str, str] | None = None,
             launchers: Sequence[Sequence[str]] = LAUNCHERS) -> tuple[int, int, int]:
    """Which process this is of how many, and which on this machine, counted from 0: by torchrun, by srun, or alone.

    Args:
        environment: variables of this process.
        launchers: the names of those that count.

    Raises:
        ValueError: the variables of either say so in part, or not in numbers.
    """
    environment = os.environ if environment is None else environment
    for names in launchers:
        told = {name: environment[name] for name in names if name in environment}
        if len(told) < len(names) and not (names == TORCHRUN and told.get("WORLD_SIZE", "1") != "1"):
            continue
        try:
            rank, count, local = (int(told[name]) for name in names)
        except (KeyError, ValueError):
            raise ValueError(f"found {told} in the environment, expected whole numbers for {', '.join(names)}; start "
                             "the processes with torchrun or srun, unset these, or name the shard (3/16)") from None
        return rank, count, local
    return 0, 1, 0


def output_folder(run: str | Path | Sequence[str | Path], out: str | Path | None = None,
                  present: str | Iterable[str] | None = None) -> Path:
    """Where predictions go: `out`, or predictions/ of the run; predictions_t1+t2/ if only these are to be used.

    In whichever order they are given: it is the method's, or the alphabet's where there is no run.

    Raises:
        ValueError: several runs without `out`.
    """
    if out:
        return Path(out)
    run = Run.only(run)
    if present is None:
        return run.predictions
    names, known = {present} if isinstance(present, str) else set(present), run.settings.get("method", {})
    order = [one for one in known.get("modalities", ()) if one in names]
    return run.folder / f"predictions_{'+'.join([*order, *sorted(names.difference(order))])}"


def in_words(record: dict[str, Any], out: str | Path) -> str:
    """One line about a shard that came to its end.

    Args:
        record: of the shard.
        out: the folder of predictions.
    """
    total, failed = len(record["cases"]), len(record["failed"])
    shard = Shard.named(record["shard"])
    before = f" ({record['before']} of them from before)" if record["before"] else ""
    what = f"; {failed} failed, see {shard.folder(out) / FAILED}" if failed else ""
    which = f"shard {shard}: " if shard.count > 1 else ""
    return f"{which}{total - failed} of {total} cases are in {out}{before}{what}"


def checksum_of_ids(ids: Iterable[str]) -> str:
    """Tells two lists of cases apart."""
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


def failures(path: Path) -> list[dict[str, Any]]:
    """The lines of a failed.jsonl; one that a killed process left half is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():    # splitlines knows more ends
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found

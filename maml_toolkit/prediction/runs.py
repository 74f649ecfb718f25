"""What a run folder holds, and where.

    runs/<name>/settings.json   how the run was made: method, task, trainer
                plan.json       how it was planned, with the reasons (planning/)
                history.csv     one row an epoch
                lock            held by the process that trains (locks.py)
                stopped.json    there while a run that a signal stopped has not gone on
                checkpoints/    one folder each (checkpoints.py), with what was fitted for it (kept.py)
                predictions/    one folder a case
                metrics.csv     the tidy table of evaluation.py
                maps.csv        whether the maps are worth looking at, with deletion.csv and randomisation.csv

A model that comes with the toolkit goes by its name alone, such as "brain-2mm", wherever no folder of that name holds a
run. It is read from the package; what is written of it goes to a folder of that name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maml_toolkit.system import tables
from maml_toolkit.system.errors import counted
from maml_toolkit.system.files import read_json, same_json, write_whole
from maml_toolkit.system.showing import Shown, in_lines

if TYPE_CHECKING:
    import pandas as pd

MODELS = Path(__file__).with_name("models")
"""Shared models (sharing/) that come with the toolkit, by their names."""

SETTINGS = "settings.json"

COPYING_S = 60
"""By how many seconds files of a run that was copied may differ."""

HISTORY = ("epoch", "step", "seconds", "learning_rate", "skipped", "loss/*", "validation/*")
"""The columns of history.csv that hold numbers."""


def _inside(name: str) -> property:
    return property(lambda run: run.folder / name, doc=name)


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A run folder; nothing is made or read before it is asked for."""

    folder: Path
    plan, history, metrics = _inside("plan.json"), _inside("history.csv"), _inside("metrics.csv")
    predictions, stopped = _inside("predictions"), _inside("stopped.json")

    def __init__(self, folder: str | Path | Run):
        object.__setattr__(self, "folder", folder.folder if isinstance(folder, Run) else Path(folder))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def model(self) -> Path | None:
        """Where the model of the toolkit lies that goes by this name; None for a run."""
        name = self.folder.name
        known = str(self.folder) == name and (MODELS / name / SETTINGS).exists()
        return MODELS / name if known and not (self.folder / SETTINGS).exists() else None

    def epochs(self) -> pd.DataFrame:
        """What history.csv says, one row an epoch; no row where none has come to its end yet.

        Raises:
            DataError: the table is damaged.
        """
        if self.history.exists():
            return tables.read(self.history, HISTORY)
        import pandas as pd

        return pd.DataFrame({"epoch": [], "step": []})

    def best(self, history: pd.DataFrame) -> tuple[float, int] | None:
        """Mean validation Dice (0 to 1) of the best checkpoint and its epoch; None where nothing was validated.

        That is not the largest of all epochs where the validation cases changed: those of before count no more.

        Args:
            history: as `epochs` gives it.
        """
        dice = history.filter(regex="^validation/dice/").mean(axis=1).dropna()
        steps = [int(path.name[-8:]) for path in self.checkpoints.glob("best-step-*")]
        kept = dice[history.loc[dice.index, "step"].isin(steps)] if len(dice) else dice
        found = kept if len(kept) else dice
        return (float(found.max()), int(history.loc[found.idxmax(), "epoch"])) if len(found) else None

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return (self.model or self.folder) / "checkpoints"

    @property
    def settings(self) -> dict:
        """How the run was made; empty for a folder that holds no run yet.

        Raises:
            ValueError: the file is damaged.
        """
        path = (self.model or self.folder) / SETTINGS
        try:
            return read_json(path) if path.exists() else {}
        except ValueError as error:
            raise ValueError(f"{path} cannot be read ({error}); bring it back from a copy, or name another") from error

    def about_seen(self, cases: Iterable[str]) -> str:
        """How many of these cases it was trained or validated on, as a sentence; nothing where it knows none of them.

        Args:
            cases: their ids.
        """
        ids, seen = set(cases), self.seen
        return (f"{len(ids & seen)} of the {counted(len(ids), 'case')} measured were trained or validated on by the "
                f"run {self.name}: their scores are too good for new cases.") if ids & seen else ""

    @property
    def seen(self) -> set[str]:
        """Ids of the cases that it was ever trained or validated on, or that any of its checkpoints was fitted to.

        Raises:
            ValueError: a file that says so is damaged.
        """
        fitted = [read_json(path).get("cases", ()) for path in self.checkpoints.glob("*/fitted*.json")]
        return {id for part in (*self.settings.get("cases", {}).values(), *fitted) for id in part}

    def is_older(self, path: Path) -> bool:
        """Whether a file was written before the weights of the best checkpoint, so that it is of others.

        By more than a minute: a run that is copied gets new dates.
        """
        found = [sorted(self.checkpoints.glob(f"{kind}-*/method.json"))[-1:] for kind in ("best-step", "step")]
        weights = next(filter(None, found), [])
        return bool(weights) and path.exists() and path.stat().st_mtime < weights[0].stat().st_mtime - COPYING_S

    @property
    def stands(self) -> str:
        """Where the training stands, in words."""
        if self.model or not self.folder.is_dir():
            return "a model that comes with the toolkit" if self.model else "no such folder yet"
        epochs, of = len(self.epochs()), self.settings.get("trainer", {}).get("epochs")
        total = f" of {of}" if of and of >= epochs else ""          # a method of several stages has more
        ended = f", stopped by {read_json(self.stopped).get('signal')}" if self.stopped.exists() else ""
        return f"{epochs}{total} epochs{ended}" if self.settings else "holds no run yet"

    def __repr__(self) -> str:
        try:
            made, stands = self.settings, self.stands
        except ValueError as error:
            return in_lines(f"Run {self.name}: damaged", str(error))
        method = made.get("method", {})
        of = f"{method.get('method')} of {', '.join(method.get('modalities', ()))}" if method else ""
        return in_lines(f"Run {self.name}: {stands}", of, f"in {self.folder}")

    @classmethod
    def only(cls, run: str | Path | Run | Sequence[str | Path]) -> Run:
        """The run, where it is one; several have no folder of their own.

        Raises:
            ValueError: there are several.
        """
        several = [run] if isinstance(run, str | Path | Run) else list(run)
        if len(several) != 1:
            raise ValueError(f"found {len(several)} runs, which have no folder of their own, expected where to write "
                             "what they say together; say it with out")
        return cls(several[0])

    def write_settings(self, settings: dict) -> None:
        """Write down how the run is made."""
        write_whole(self.folder / SETTINGS, json.dumps(settings, indent=2))


def same_in(found: Sequence[dict[str, Any]], runs: Sequence[Run], what: str) -> dict[str, Any]:
    """What all runs say alike.

    Raises:
        ValueError: no run; or one says something else than the first: what, of both.
    """
    if not runs:
        raise ValueError("found no run, expected at least one folder that a Trainer wrote")
    for other, run in zip(found, runs, strict=True):
        if differing := [key for key in {**found[0], **other} if not same_json(found[0].get(key), other.get(key))]:
            one, two = ({key: facts.get(key) for key in differing} for facts in (found[0], other))
            raise ValueError(f"found {one} in {runs[0].name} and {two} in {run.name}, expected one {what} in all runs "
                             "that answer together; leave one out" + (", or give window=" if what == "window" else ""))
    return found[0]

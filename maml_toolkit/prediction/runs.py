"""What a run folder holds, and where.

    runs/<name>/settings.json   how the run was made: method, task, trainer
                plan.json       how it was planned, with the reasons (planning/)
                history.csv     one row an epoch
                lock            held by the process that trains (locks.py)
                stopped.json    there while a run that a signal stopped has not gone on
                checkpoints/    one folder each (checkpoints.py), with what was fitted for it (fitted.py)
                predictions/    one folder a case
                metrics.csv     the tidy table of evaluation.py
                maps.csv        whether the maps are worth looking at, with deletion.csv and randomisation.csv

A model that comes with the toolkit goes by its name alone, such as "brain-2mm", wherever no folder of that name holds a
run. It is read from the package; what is written of it goes to a folder of that name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maml_toolkit.system import tables
from maml_toolkit.system.files import write_whole
from maml_toolkit.system.json_files import read_json
from maml_toolkit.system.showing import Shown, in_lines

if TYPE_CHECKING:
    import pandas as pd

MODELS = Path(__file__).with_name("models")
"""Shared models (sharing/) that come with the toolkit, by their names."""

SETTINGS = "settings.json"

HISTORY = ("epoch", "step", "seconds", "learning_rate", "skipped", "loss/*", "validation/*")
"""The columns of history.csv that hold numbers."""


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A run folder; nothing is made or read before it is asked for."""

    folder: Path

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

    @property
    def plan(self) -> Path:
        """plan.json"""
        return self.folder / "plan.json"

    @property
    def history(self) -> Path:
        """history.csv"""
        return self.folder / "history.csv"

    def epochs(self) -> pd.DataFrame:
        """What history.csv says, one row an epoch; no row where none has come to its end yet.

        Raises:
            DataError: the table is damaged.
        """
        if self.history.exists():
            return tables.read(self.history, HISTORY)
        import pandas as pd

        return pd.DataFrame({"epoch": [], "step": []})

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return (self.model or self.folder) / "checkpoints"

    @property
    def predictions(self) -> Path:
        """The folder of predictions."""
        return self.folder / "predictions"

    @property
    def metrics(self) -> Path:
        """metrics.csv"""
        return self.folder / "metrics.csv"

    @property
    def stopped(self) -> Path:
        """stopped.json"""
        return self.folder / "stopped.json"

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
            raise ValueError(f"{path} cannot be read ({error}); bring it back from a copy, or choose another run "
                             "folder") from error

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

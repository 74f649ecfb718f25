"""What a run folder holds, and where.

    runs/<name>/settings.json   how the run was made: method, task, trainer
                plan.json       how it was planned, with the reasons (planning/)
                history.csv     one row an epoch
                lock            held by the process that trains (locks.py)
                stopped.json    there while a run that a signal stopped has not gone on
                checkpoints/    one folder each (checkpoints.py)
                predictions/    one folder a case
                metrics.csv     the tidy table of evaluation.py
                maps.csv        whether the maps are worth looking at, with deletion.csv and randomisation.csv
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from maml_toolkit.files import write_whole


@dataclass(frozen=True)
class Run:
    """A run folder; nothing is made or read before it is asked for."""

    folder: Path

    def __init__(self, folder: str | Path | Run):
        object.__setattr__(self, "folder", folder.folder if isinstance(folder, Run) else Path(folder))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def plan(self) -> Path:
        """plan.json"""
        return self.folder / "plan.json"

    @property
    def history(self) -> Path:
        """history.csv"""
        return self.folder / "history.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

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
        path = self.folder / "settings.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise ValueError(f"{path} cannot be read ({error}); bring it back from a copy, or choose another run "
                             "folder") from error

    def write_settings(self, settings: dict) -> None:
        """Write down how the run is made."""
        write_whole(self.folder / "settings.json", json.dumps(settings, indent=2))

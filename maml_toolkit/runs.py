"""What a run folder holds, and where.

    runs/<name>/settings.json   how the run was made: method, task, trainer
                history.csv     one row an epoch
                checkpoints/    one folder each (checkpoints.py)
                predictions/    one folder a case
                metrics.csv     the tidy table of evaluation.py
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
    def settings(self) -> dict:
        """How the run was made; empty for a folder that holds no run yet."""
        path = self.folder / "settings.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def start(self, settings: dict) -> None:
        """Make the folder and write down how the run is made.

        Raises:
            PermissionError: the folder cannot be written; said before any compute starts.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "settings.json", json.dumps(settings, indent=2))
        except OSError as error:
            raise PermissionError(f"the run folder {self.folder} cannot be written ({error.strerror}); "
                                  "choose another with run=") from error

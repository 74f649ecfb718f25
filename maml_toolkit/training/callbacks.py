"""Who listens to a training: callbacks of one's own, TensorBoard, MLflow. `history.csv` stays what counts.

    class Loud(Callback):
        def epoch(self, trainer, row):
            print(row["epoch"], row["loss/total"])

    Trainer(…, callbacks=[Loud(), "tensorboard"])

A callback hears after things are saved, in the first process alone. One that raises is named in a warning and hears
nothing more; the training goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from maml_toolkit.system.errors import nearest, with_extra
from maml_toolkit.system.files import write_whole

if TYPE_CHECKING:
    from maml_toolkit.training.trainer import Trainer


class Callback:
    """Hears of a training; each of these does nothing unless it is overridden.

    Attributes:
        looks: whether it looks at the slices of validation cases (`Validated.section`), which are cut for it alone.
    """

    looks = False

    def begin(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        """Training begins or goes on; the settings are those of settings.json."""

    def epoch(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """An epoch was done; its row of history.csv."""

    def validation(self, trainer: Trainer, scores: Mapping[str, float]) -> None:
        """Whole cases were segmented; mean Dice (0 to 1) by region."""

    def checkpoint(self, trainer: Trainer, folder: Path) -> None:
        """A checkpoint was written."""

    def end(self, trainer: Trainer, history: pd.DataFrame) -> None:
        """The budget is spent."""


class TensorBoard(Callback):
    """Every number of the history as a curve over steps, in <run>/tensorboard (extra `tensorboard`)."""

    def begin(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        """Open the folder."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(trainer.run.folder / "tensorboard"))

    def epoch(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """A point of each curve."""
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def end(self, trainer: Trainer, history: pd.DataFrame) -> None:
        """Close it."""
        self.writer.close()


class MLflow(Callback):
    """Settings as parameters and the history as metrics of one MLflow run for each run folder (extra `mlflow`).

    Where it is written to says MLflow's own MLFLOW_TRACKING_URI; which run it is, <run>/mlflow.txt.
    """

    def begin(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        """Begin the run, or go on with it."""
        import mlflow

        self.client, note = mlflow.MlflowClient(), trainer.run.folder / "mlflow.txt"
        if note.exists():
            self.id = note.read_text(encoding="utf-8").strip()
            return
        self.id = self.client.create_run("0", run_name=trainer.run.name).info.run_id
        write_whole(note, self.id)
        for part in ("method", "trainer"):
            for name, value in settings[part].items():
                self.client.log_param(self.id, f"{part}.{name}", str(value)[:500])

    def epoch(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """A point of each metric."""
        for name, value in _numbers(row).items():
            self.client.log_metric(self.id, name, value, step=row["step"])

    def end(self, trainer: Trainer, history: pd.DataFrame) -> None:
        """Mark it finished."""
        self.client.set_terminated(self.id)


TRACKERS = {"tensorboard": TensorBoard, "mlflow": MLflow}
"""Callbacks by the names of their packages, which are those of the extras too."""


class Callbacks:
    """Several callbacks; `tell` calls one of their methods, and no error of theirs ends a training.

    Args:
        wanted: callbacks, or names of TRACKERS.

    Raises:
        ValueError: another name.
        ModuleNotFoundError: what a name stands for is not installed.
    """

    def __init__(self, wanted: Iterable[Callback | str]):
        wanted = list(wanted)
        if unknown := [one for one in wanted if isinstance(one, str) and one not in TRACKERS]:
            raise ValueError(f"found the callback {unknown[0]!r}{nearest(unknown[0], TRACKERS)}, expected a "
                             f"Callback or one of {', '.join(TRACKERS)}")
        if lacking := [one for one in wanted if isinstance(one, str) and find_spec(one) is None]:
            raise ModuleNotFoundError(f"{lacking[0]} is not installed; install it with: {with_extra(lacking[0])}")
        self.listening = [TRACKERS[one]() if isinstance(one, str) else one for one in wanted]

    @property
    def looks(self) -> bool:
        """Whether one of those that still listen does."""
        return any(getattr(one, "looks", False) for one in self.listening)

    def tell(self, what: str, *about: Any) -> None:
        """Call this method of all that still listen."""
        for one in list(self.listening):
            try:
                getattr(one, what)(*about)
            except Exception as error:     # whatever somebody's callback may raise
                self.listening.remove(one)
                warnings.warn(f"the callback {type(one).__name__} failed at {what!r} and is left out from now on: "
                              f"{type(error).__name__}: {error}", stacklevel=2)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items()
            if isinstance(value, (int, float)) and name not in ("epoch", "step")}

"""A training to look at: the Trainer's settings and where it stands, and `fit` as one picture that is kept up to date.

The picture is one output of a notebook's cell, updated in its place: an executed notebook holds the last one alone. It
is a callback (callbacks.py), so one that fails ends in a warning, and it is drawn so seldom that it takes at most a
fiftieth of the time.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.networks.execution import Block
from maml_toolkit.system.files import read_json
from maml_toolkit.system.showing import Facts, duration, edges, size
from maml_toolkit.training.callbacks import Callback
from maml_toolkit.training.recipes import Recipe

if TYPE_CHECKING:
    from maml_toolkit.training.trainer import Trainer

SHARE = 0.02
"""Of the time, that pictures may take."""


def in_kernel() -> bool:
    """Whether this is the kernel of a notebook, whoever looks at it."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


class Live(Callback):
    """`fit` as a picture: curves, validation Dice, time left, and the worst validation case."""

    looks = True

    def __init__(self):
        self.display, self.drawn_at, self.took = None, -np.inf, 0.0

    def begin(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        """Show where it begins."""
        self.begun, self.before = time.monotonic(), len(trainer.history())
        self._show(trainer)

    def epoch(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """Show the epoch, unless the picture before it is too young."""
        if time.monotonic() - self.drawn_at > self.took / SHARE:
            self._show(trainer)

    def end(self, trainer: Trainer, history: pd.DataFrame) -> None:
        """Show how it ended."""
        self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        from IPython.display import display

        started = time.monotonic()
        history = trainer.history()
        words = in_words(trainer, history, self._hours_left(trainer, history))
        bundle = {"text/plain": words, "text/html": page(trainer, history, words)}
        if self.display is None:
            self.display = display(bundle, raw=True, display_id=True)
        else:
            self.display.update(bundle, raw=True)
        self.drawn_at = time.monotonic()
        self.took = self.drawn_at - started

    def _hours_left(self, trainer: Trainer, history: pd.DataFrame) -> float | None:
        done, left = len(history) - self.before, _epochs(trainer) - len(history)
        return (time.monotonic() - self.begun) / 3600 / done * left if done > 0 else None


def _epochs(trainer: Trainer) -> int:
    """Those asked for, of all stages."""
    return trainer.epochs * len(trainer.method.stages())


def in_words(trainer: Trainer, history: pd.DataFrame, hours_left: float | None) -> str:
    """Where a training stands, in less than 80 letters.

    Args:
        history: a row an epoch.
        hours_left: as far as known.
    """
    epochs, name = _epochs(trainer), trainer.run.name
    parts = [f"{name if len(name) <= 20 else f'{name[:19]}…'}: epoch {len(history)} of {epochs}"]
    if len(history):
        parts.append(f"total {history['loss/total'].iloc[-1]:.3f}")
        dice = history.filter(regex="^validation/dice/").mean(axis=1).dropna()
        parts += [f"Dice {dice.iloc[-1]:.3f}"] if len(dice) else []
    if len(history) >= epochs:
        parts.append(f"done in {duration(history['seconds'].sum() / 3600)}")
    elif hours_left is not None:
        parts.append(f"{duration(hours_left)} left")
    return ", ".join(parts)


def page(trainer: Trainer, history: pd.DataFrame, words: str) -> str:
    """The same as HTML, with the curves and the validation case that is answered worst."""
    from maml_toolkit.pictures import pieces
    from maml_toolkit.pictures.plots.look import class_colours
    from maml_toolkit.pictures.report.pages import legend, outlined

    parts = [pieces.title(words), pieces.curves(history, trainer.task)]
    if cut := [one for one in trainer.validated if one.section is not None]:
        worst = min(cut, key=lambda one: one.mean)
        grey, *drawn = worst.section
        scores = ", ".join(f"{region} {value:.3f}" for region, value in worst.dice.items())
        parts.append(pieces.title(f"Worst validation case, {worst.case}: {scores}"))
        classes, colours = [(k,) for k in range(1, trainer.task.classes)], class_colours(trainer.task).values()
        parts.append(pieces.tiles([(name, outlined(grey, one, classes, colours), "")
                                  for name, one in zip(("ground truth", "prediction"), drawn, strict=True)]))
        parts.append(f"<p>{legend(class_colours(trainer.task))}</p>")
    return "".join(parts)


def card(trainer: Trainer) -> str:
    """A Trainer in a notebook: its settings, those that differ from the defaults in bold, and where it stands."""
    from maml_toolkit.pictures import pieces

    faults, history, stands = [], pd.DataFrame(), ""
    try:
        history, stands = trainer.history(), trainer.run.stands
    except ValueError as error:
        faults.append(str(error))
    chosen, standard = _settings(trainer)
    marked = [name for name, value in chosen.items() if value != standard[name]]
    words = {name: _in_words(value) for name, value in chosen.items()}
    rows = {"stands": stands, "best validation": pieces.best_of(trainer.run, history), **_costs(trainer, history),
            "runs on": f"{trainer.device}, {str(trainer.precision).removeprefix('torch.')}",
            **{name: words[name] for name in marked},
            "as by default": ", ".join(f"{name} {text}" for name, text in words.items() if name not in marked)}
    title = f"Trainer of {trainer.method.name} for {trainer.task.name}, run {trainer.run.name}"
    return pieces.of_facts(Facts(title, rows, marked, faults)) + pieces.curves(history, trainer.task)


def _settings(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a Trainer was told, and what it would do if told nothing."""
    arguments = inspect.signature(type(trainer).__init__).parameters
    names = ("patch_size", "batch_size", "accumulate", "epochs", "steps_per_epoch", "validate_every",
             "checkpoint_minutes", "seed", "cache", "compile")
    chosen = {**{name: getattr(trainer, name) for name in names}, **trainer.recipe.settings(),
              "recompute": any(one.recompute for one in trainer.method.modules() if isinstance(one, Block)),
              "start": trainer.started and trainer.started["weights"]}
    standard = {**{name: arguments[name].default for name in names}, **Recipe().settings(),
                "augmentation": Augmentation().for_task(trainer.task), "recompute": False, "start": None}
    return chosen, standard


def _costs(trainer: Trainer, history: pd.DataFrame) -> dict[str, str]:
    """Memory and time, measured or planned, as far as known."""
    found = {}
    try:
        plan = read_json(trainer.run.plan) if trainer.run.plan.exists() else {}
    except (OSError, ValueError):
        plan = {}
    if plan.get("memory"):
        found["memory planned"] = size(plan["memory"])
    if trainer.device.type == "cuda" and torch.cuda.is_initialized() and (
            peak := torch.cuda.max_memory_allocated(trainer.device)):
        found["memory of this process"] = f"{size(peak)} at most"
    if len(history):
        each = float(history["seconds"].median())
        left = _epochs(trainer) - len(history)
        found["time"] = f"{each:.3g} s an epoch" + (f", {duration(each * left / 3600)} left" if left > 0 else "")
    elif plan.get("hours"):
        found["time planned"] = duration(plan["hours"])
    return found


def _in_words(value: Any) -> str:
    if value is None or value is False:
        return "no"
    if isinstance(value, Augmentation):
        return "yes" if value == Augmentation() else repr(value)
    if isinstance(value, tuple) and all(isinstance(one, int) for one in value):
        return edges(value)
    return "yes" if value is True else str(value)[:200]

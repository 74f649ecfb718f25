"""Where a run stands, and how it goes on from there: exactly, or not at all.

What a step sees and draws follows from the seed and its number; what else it depends on is saved with the weights:
the optimiser, torch's random numbers, the sums of the epoch. The data, known by checksums, and the settings have to
be those of before.
"""

import hashlib
import json
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import Method
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.errors import few
from maml_toolkit.system.files import as_json, same_json, sweep, write_whole
from maml_toolkit.training.recipes import Recipe

CONTENTS = "contents"
"""The part of the settings that holds the checksum of each case."""
BEFORE = {"parts": 1, "compile": False, "start": None, "further": None,
          **{name: value for name, value in Recipe().settings().items() if name != "augmentation"}}
"""What a run was trained by that was begun when there was nothing else."""
PATIENCE = 5
"""Steps in a row without a finite loss and gradient, after which a run ends."""


@dataclass
class Progress:
    """Where a run stands; plain values, saved with every checkpoint.

    Attributes:
        step: steps done.
        epochs: epochs done, validation and the row of the history included.
        sums, counts: of the loss terms since the epoch began, and of the steps that had each of them: a batch of
            cases without a modality has no term for it.
        seconds: of training since the epoch began.
        best: highest validation Dice so far.
        best_on: what that Dice was measured on: a checksum of the validation cases, their contents, and the regions.
        skipped: steps since the epoch began whose loss or gradient was not a number.
        failing: the cases of each of the latest such steps, if the latest step was one.
    """

    step: int = 0
    epochs: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    best: float = -1.0
    best_on: str = ""
    skipped: int = 0
    failing: list[list[str]] = field(default_factory=list)

    def add(self, terms: dict[str, float], cases: Iterable[str] = (), rescaled: bool = False) -> None:
        """Count a step: its terms of the loss, none if it was skipped.

        Args:
            terms: of the loss.
            cases: of a step that was skipped.
            rescaled: whether it was skipped because the scale of the loss was too large for float16, which is no fault
                of the cases: the first steps find out how large it may be.

        Raises:
            FloatingPointError: too many steps in a row were skipped; it names their cases.
        """
        self.step += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.skipped += not terms
        if not rescaled:
            self.failing = [] if terms else [*self.failing, list(cases)]
        if len(self.failing) >= PATIENCE:
            named = ", ".join(sorted({case for step in self.failing for case in step}))
            raise FloatingPointError(
                f"the loss or its gradient was not a number in {PATIENCE} steps in a row, steps {self.step - PATIENCE} "
                f"to {self.step - 1}, from the cases {named}; look at their intensities, or lower the learning rate "
                "(with changed=True, or train --changed, to go on from the last checkpoint)")

    def means(self) -> dict[str, float]:
        """Each term of the loss, over the steps of the epoch that had it."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def finish_epoch(self) -> None:
        """Count an epoch."""
        self.epochs += 1
        self.sums, self.counts, self.seconds, self.skipped = {}, {}, 0.0, 0


def resume(run: Run, method: Method, now: dict, changed: bool = False) -> tuple[Progress, dict | None]:
    """Where the run stands, its weights loaded into the method; a fresh start where the folder holds none.

    Args:
        run: the folder.
        method: to be trained further.
        now: all that the weights depend on, as plain values: parts, each of which holds values by name.
        changed: go on although data or settings are others than before; which, is kept in settings.json.

    Returns:
        The progress, and the training state as it was saved; None at the start.

    Raises:
        ValueError: the run was begun with other data or settings, or such as cannot change, or it is finished and
            would be what it was.
        CheckpointError: there are checkpoints, but none is whole.
    """
    now = as_json(now)
    sweep(run.checkpoints)
    loaded = checkpoints.load_newest(run.checkpoints)
    if loaded is None:
        return _begun(run, now), None
    saved, state = loaded
    progress, before = Progress(**state["progress"]), _begun_with(run, saved)
    different = differences(before, now)
    different.pop("task.codes", None)       # what a class is called in DICOM changes no weight

    def refused(remedy: str) -> ValueError:
        return ValueError("\n  ".join([f"the run {run.folder} was begun with other data or settings:",
                                       *different.values()]) + f"\nChoose another run folder{remedy}")

    was, asked = before["trainer"].get("epochs", 0), now["trainer"]["epochs"]
    # either of steps and epochs would make their counts mean something else; one optimiser has no use for what another
    # knew
    fixed = {"trainer.steps_per_epoch", "trainer.optimizer"}
    if len(method.stages()) > 1 and progress.epochs > min(was, asked):
        fixed.add("trainer.epochs")
    if unalterable := [name for name in different if name in fixed]:
        raise refused(f": {', '.join(unalterable)} cannot change within a run.")
    # more epochs at a constant learning rate change none of the steps that were done
    longer = before["trainer"].get("schedule") == "constant" and progress.epochs <= was < asked
    if not changed and set(different) - ({"trainer.epochs"} if longer else set()):
        raise refused(", or the data and settings of before; or say that it is meant, with changed=True "
                      "(train --changed).")
    try:
        method.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise refused(": the weights of before do not fit the method.") from error
    if set(different) - {"trainer.epochs"} and progress.epochs >= asked * len(method.stages()):
        raise refused(f", or ask for more than {asked} epochs: this run is finished, and nothing would be trained or "
                      "validated by what is other now.")
    on = _validated_on(now)
    # a run that did not write down on what it was validated is known by what differs
    validated_otherwise = progress.best_on != on if progress.best_on else (
        {"cases.validation", "task.regions", CONTENTS} & set(different))
    if validated_otherwise:
        progress.best = -1.0        # of what is another Dice now
    progress.best_on = on
    if different:
        changes = {"step": progress.step, "changes": [*different.values()]}
        run.write_settings({**now, "cases": now["cases"] | _earlier(before.get("cases", {}), now["cases"]),
                            "changed": [*before.get("changed", []), changes]})
    return progress, state


def _begun(run: Run, now: dict) -> Progress:
    """A fresh start, its settings written down; refused where there was an earlier one."""
    # a first epoch without checkpoint may have been killed between its row and its checkpoint
    if (epochs := len(run.epochs())) > 1:
        raise checkpoints.CheckpointError(
            f"{run.history} tells of {epochs} epochs, but {run.checkpoints} holds no checkpoint; bring one back "
            "from a copy, or choose another run folder to start again")
    run.write_settings(now)
    return Progress(best_on=_validated_on(now))


def _begun_with(run: Run, saved: Method) -> dict[str, Any]:
    """The settings of before; an argument that the run was begun without has today's default."""
    before = {**run.settings, "method": {"method": saved.name, **saved.settings}}
    if "task" in before:
        before["task"] = Task.from_json(before["task"]).to_json()
    before["trainer"] = {**BEFORE, **before.get("trainer", {})}
    if before["trainer"].get("augmentation"):
        before["trainer"]["augmentation"] = {"intensities": [], **before["trainer"]["augmentation"]}
    return before


def _validated_on(now: dict) -> str:
    """A checksum of all that a validation Dice depends on beside the weights."""
    ids = now.get("cases", {}).get("validation", [])
    told = [ids, now.get("task", {}).get("regions"), {id: now.get(CONTENTS, {}).get(id) for id in ids}]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _earlier(before: dict[str, list[str]], now: dict[str, list[str]]) -> dict[str, list[str]]:
    """The cases that a run knows from before and that are no longer given for the same: it has seen them."""
    seen = {part: {*before.get(part, ()), *before.get(f"earlier {part}", ())}.difference(ids)
            for part, ids in now.items()}
    return {f"earlier {part}": sorted(ids) for part, ids in seen.items() if ids}


def differences(before: dict, now: dict) -> dict[str, str]:
    """Name of a setting -> a line that says how it differs.

    Examples:
        >>> differences({"trainer": {"seed": 0}}, {"trainer": {"seed": 1}})
        {'trainer.seed': 'trainer.seed: 0 before, 1 now'}
        >>> differences({"cases": {"training": ["a", "b"]}}, {"cases": {"training": ["a", "c"]}})
        {'cases.training': 'cases.training: b only before; c only now'}
    """
    found = {}
    for part in (one for one in now if one != CONTENTS):
        was = before.get(part, {})
        same = same_json if part == "task" else operator.eq
        say = _cases_in_words if part == "cases" else "{!r} before, {!r} now".format
        names = {**now[part], **(was if part in ("method", "task") else {})}      # of which no default is written down
        found |= {f"{part}.{name}": say(was.get(name), now[part].get(name)) for name in names
                  if not same(was.get(name), now[part].get(name))}
    was, values = (of.get(CONTENTS, {}) for of in (before, now))
    if others := [case for case, value in values.items() if was.get(case, value) != value]:
        found[CONTENTS] = f"the files of {few(others)} hold something else than before"
    return {name: f"{name}: {line}" for name, line in found.items()}


def _cases_in_words(was: list[str] | None, now: list[str]) -> str:
    was = was or []
    gone, new = ([one for one in ones if one not in others] for ones, others in ((was, now), (now, was)))
    return "; ".join(f"{few(ones)} only {when}" for ones, when in ((gone, "before"), (new, "now")) if ones)


def random_state() -> dict[str, Any]:
    """The state of torch's random numbers, which a method may draw from, dropout for example."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []}


def restore_random(state: dict[str, Any]) -> None:
    """Go on with the random numbers of before, on the devices that are here."""
    torch.set_rng_state(state["cpu"])
    for device, one in enumerate(state["cuda"][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one, device)
    for one in state.get("mps", []) if torch.backends.mps.is_available() else []:
        torch.mps.set_rng_state(one)


def mark_stopped(run: Run, signal: str) -> str:
    """Write down that a signal stopped the run, and return what is written there in words.

    Args:
        run: that was stopped.
        signal: the name of the signal.
    """
    newest = checkpoints.newest(run.checkpoints)
    step = int(newest.name.rpartition("-")[2]) if newest else 0
    go_on = f"Run the same again on {run.folder}, and it goes on from step {step}."
    write_whole(run.stopped, json.dumps({"signal": signal, "step": step, "go on": go_on,
                                         "when": datetime.now(UTC).isoformat(timespec="seconds")}, indent=2))
    return f"stopped by {signal}, {step} steps are saved. {go_on}"

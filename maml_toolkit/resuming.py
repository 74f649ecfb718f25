"""Where a run stands, and how it goes on from there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from maml_toolkit import checkpoints
from maml_toolkit.files import sweep
from maml_toolkit.methods import Method
from maml_toolkit.runs import Run


@dataclass
class Progress:
    """Where a run stands; plain values, saved with every checkpoint.

    Attributes:
        step: steps done.
        sums, counts: of the loss terms since the epoch began, and of the steps that had each of them: a batch of
            cases without a modality has no term for it.
        seconds: of training since the epoch began.
        best: highest validation Dice so far.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    best: float = -1.0


def resume(run: Run, method: Method, now: dict) -> tuple[Progress, dict | None]:
    """Where the run stands, its weights loaded into the method; a fresh start where the folder holds none.

    Args:
        run: the folder.
        method: to be trained further.
        now: all that the weights depend on, as plain values.

    Returns:
        The progress, and the state of the optimiser, None at the start.

    Raises:
        ValueError: the run was begun with other settings.
    """
    before, now = run.settings, json.loads(json.dumps(now))
    sweep(run.checkpoints)
    newest = checkpoints.newest(run.checkpoints)
    if newest is None:
        run.start(now)
        return Progress(), None
    saved = checkpoints.load(newest)
    # an argument that the run was begun without has today's default
    before["method"] = {"method": saved.name, **saved.settings}
    if changed := [f"{part}.{name}: {before.get(part, {}).get(name)!r} before, {value!r} now"
                   for part, values in now.items() for name, value in values.items()
                   if before.get(part, {}).get(name) != value]:
        raise ValueError(f"the run {run.folder} was begun with other settings:\n  " + "\n  ".join(changed)
                         + "\nChoose another run folder, or the settings of before.")
    method.load_state_dict(saved.state_dict())
    state = checkpoints.load_training(newest)
    return Progress(**state["progress"]), state["optimizer"]

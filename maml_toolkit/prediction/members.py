"""What several runs must share to answer together, and what a run says about how it can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import Method
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.runs import Run


def checkpoint_of(run: Run, checkpoint: str) -> Path:
    """The "best" or the "newest" checkpoint of a run.

    Raises:
        ValueError: another word.
        FileNotFoundError: there is none.
    """
    choose = {"best": checkpoints.best, "newest": checkpoints.newest}.get(checkpoint)
    if choose is None:
        raise ValueError(f"found checkpoint={checkpoint!r}, expected 'best' or 'newest'")
    path = choose(run.checkpoints)
    if path is None:
        raise FileNotFoundError(f"no checkpoint was found in {run.checkpoints.absolute()}; train first, or name "
                                "the folder that was given to the Trainer as run=, from the current folder")
    return path


def same_in(found: Sequence[dict[str, Any]], runs: Sequence[Run], what: str) -> dict[str, Any]:
    """What all runs say alike.

    Raises:
        ValueError: no run; or one says something else than the first: what, of both.
    """
    if not runs:
        raise ValueError("found no run, expected at least one folder that a Trainer wrote")
    for other, run in zip(found, runs, strict=True):
        if differing := [key for key in {**found[0], **other} if found[0].get(key) != other.get(key)]:
            one, two = ({key: facts.get(key) for key in differing} for facts in (found[0], other))
            raise ValueError(f"found {one} in {runs[0].name} and {two} in {run.name}, expected one {what} in all runs "
                             "that answer together; leave one out" + (", or give window=" if what == "window" else ""))
    return found[0]


def check_alike(members: Sequence[Method], task: Task) -> None:
    """Nothing, if these methods can answer together, for a task.

    Raises:
        ValueError: they have other modalities or classes, or answer from other subsets; or the task asks for others.
    """
    for member in members:
        member.expect_answers(task.outputs, task.name)
    first, *others = members
    for other in others:
        if set(other.modalities) != set(first.modalities):
            raise ValueError(f"found methods of {list(first.modalities)} and of {list(other.modalities)}, expected "
                             "the same of all that answer together; leave one out")
        if set(other.answerable(set(other.modalities))) != set(first.answerable(set(first.modalities))):
            raise ValueError(f"found the methods {first.name} and {other.name}, which answer from different subsets of "
                             "the modalities, expected the same of all that answer together; leave one out")


def mirrored_axes(mirror: bool | Sequence[int], task: Task) -> tuple[int, ...]:
    """The axes to mirror along, each once.

    Raises:
        ValueError: one is none; or it is left-right, and a class of the task is on one side of the body.
    """
    axes = tuple(range(1 if task.sided else 0, 3)) if mirror is True else tuple(sorted(set(mirror or ())))
    if set(axes) - {0, 1, 2}:
        raise ValueError(f"found mirror={mirror!r}, expected True or some of the axes 0 (left-right), 1 and 2")
    if task.sided and 0 in axes:
        raise ValueError(f"found mirror={mirror!r}, expected no 0 (left-right): {', '.join(task.sided)} would change "
                         "sides; use mirror=True or (1, 2)")
    return axes


def axes_of_training(runs: Sequence[Run]) -> tuple[int, ...] | bool:
    """The axes along which all of these trainings mirrored their patches; True where no run says.

    Raises:
        ValueError: there are none.
    """
    told = [one.settings["trainer"]["augmentation"] for one in runs if "augmentation" in one.settings["trainer"]]
    axes = tuple(axis for axis in range(3) if all(one and one["mirror"][axis] for one in told))
    if not axes:
        raise ValueError(f"found mirror=True, and in the training of {'+'.join(one.name for one in runs)} patches were "
                         "mirrored along no axis; leave it out, or name the axes, such as mirror=(0,)")
    return axes if told else True

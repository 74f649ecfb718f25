"""Which known task the names of a data set's images fit, where nobody said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from maml_toolkit.data.layouts.entries import understands
from maml_toolkit.data.layouts.finding import Found
from maml_toolkit.data.tasks import TASKS, Task, common_name
from maml_toolkit.system.errors import DataError


def fitting(look: Callable[[Task], Found]) -> list[Task]:
    """The known tasks that understand most of the images' names; the first of them is taken."""
    scores: dict[tuple[str, ...], int] = {}
    for task in TASKS.values():
        if task.modalities not in scores:
            found = look(task)
            scores[task.modalities] = sum(understands(name, task) for entry in (*found.entries, *found.others)
                                          for _, name in entry.named)
    most = max(scores.values())
    return [task for task in TASKS.values() if scores[task.modalities] == most > 0] or [*TASKS.values()]


def guessed(known: Sequence[Task]) -> Iterator[DataError]:
    """What to say of a task that was not named, where names alone do not tell it."""
    remedy = "Name the task: a known one, or the JSON file of your own (`--task`)."
    if len(known) == len(TASKS):
        yield DataError(f"no known task understands the names of these images; {known[0].name} was taken", remedy)
    elif len({frozenset(map(common_name, task.modalities)) for task in known}) > 1:
        yield DataError(f"the names of these images fit the tasks {', '.join(task.name for task in known)} alike; "
                        f"{known[0].name} was taken", remedy)

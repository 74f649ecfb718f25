"""What the labels of a dataset.json mean for a task: whether they are its own, and the task with their values.

Labels may be regions, {"whole tumor": [1, 2, 3], "tumor core": [2, 3]}, with `regions_class_order`: the value in which
each is painted. What lies in the same regions is then one class.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maml_toolkit.data.answers import without_order
from maml_toolkit.data.layouts.dataset_json import IGNORE, Description
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.system.errors import DataError

CLASS_SYNONYMS = (
    {"oedema", "edema", "ed"},
    {"enhancing", "enhancing tumour", "enhancing tumor", "et"},
    {"necrosis", "ncr"},
    {"whole tumour", "whole tumor", "wt", "complete"},
    {"tumour core", "tumor core", "tc", "core"},
)
"""Names of one class or region, which must not stand for different values."""

SAME_CLASSES = "The classes are the same: use cases.task_of(source, task), the task with these values, from here on."
"""What to do where only the values differ."""


def relabelled(described: Description, task: Task) -> Task:
    """The task with the label values of a dataset.json that has classes, or regions, of the same names; else the task.

    Letter case is ignored, and the task's first class is nnU-Net's background, whatever its name. Its `ignore` is what
    the task ignores. With regions, a class of the task has the values that lie in the same of them, first that in which
    nnU-Net paints; and regions are what is trained on, if the task can paint them one after the other.
    """
    stated = {name.lower(): values for name, values in described.values.items()}
    ignored = () if IGNORE in map(str.lower, task.labels) else stated.pop(IGNORE, ())
    background, *names = task.class_names
    if described.regions:
        values = {background: stated.get("background", ()), **_in_the_same(described, task)}
    elif set(stated) == {"background", *map(str.lower, names)}:
        values = {background: stated["background"], **{name: stated[name.lower()] for name in names}}
    else:
        return task
    every = [one for own in (*values.values(), ignored) for one in own]
    if set(values) != set(task.labels) or not all(values.values()) or any(
            type(one) is not int for one in every) or len(set(every)) < len(every):
        return task
    found = replace(task, labels=values, ignore=ignored[0] if ignored else None)
    return replace(found, train_on="regions") if described.regions and not any(without_order(found)) else found


def _in_the_same(described: Description, task: Task) -> dict[str, tuple[int, ...]]:
    """Class of the task -> the values that are in the same regions; nothing where regions are called otherwise."""
    if not _are_numbers(described):
        return {}
    regions = {own: values for own in task.regions for name, values in described.regions.items()
               if same_class(name, own)}
    if set(regions) != set(task.regions) or len(regions) != len(described.regions):
        return {}
    alike = {frozenset(names): values for names, values in _alike(described, regions).items()}
    places = {name: frozenset(one for one, own in task.regions.items() if name in own)
              for name in task.class_names[1:]}
    if Counter(places.values()) != Counter(alike.keys()):
        return {}
    return {name: alike[place] for name, place in places.items()}


def _alike(described: Description, regions: Mapping[str, Sequence[int]]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Names of regions -> the values that lie in these and in no other, those that are painted first."""
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    every = {value for values in regions.values() for value in values}
    for value in sorted(every, key=lambda value: (value not in described.painted, value)):
        found[tuple(name for name, values in regions.items() if value in values)].append(value)
    return {names: tuple(values) for names, values in found.items()}


def _are_numbers(described: Description) -> bool:
    return all(type(one) is int for values in described.values.values() for one in values)


def check_scheme(described: Description, task: Task) -> None:
    """Nothing, when the label values of a dataset.json are the task's.

    Raises:
        DataError: they are others, or stand for other classes or regions.
    """
    labels, path = described.labels, described.path
    if not _are_numbers(described):
        raise DataError(f"found the labels {dict(labels)}, expected one whole number for each class, or several for "
                        "each region", "Write the label values as numbers.", path=path)
    own = {name: {one for class_ in classes for one in task.labels[class_]} for name, classes in task.regions.items()}
    if described.regions:
        moved = any(same_class(name, one) and set(values) != own[one]
                    for name, values in described.values.items() for one in own)
    else:
        moved = any(same_class(name, one) and values[0] not in task.labels[one]
                    for name, values in described.values.items() for one in task.labels)
    if IGNORE not in map(str.lower, task.labels):           # or a class that no other name shows might be taken for it
        moved |= any(name.lower() == IGNORE and values != (task.ignore,) for name, values in described.values.items())
    if moved or {one for values in described.values.values() for one in values} != task.values:
        raise DataError(f"found the labels {dict(labels)}, expected the values {sorted(task.values)} of {task.scheme}"
                        + (f" and its regions {own}" if described.regions else ""), _remedy(described, task), path=path)


def unknown_names(described: Description, task: Task) -> Iterator[DataError]:
    """What may be meant: a class by another name than the task's."""
    if described.regions or not _are_numbers(described):
        return
    for name, values in list(task.labels.items())[1:]:
        called = [one for one, value in described.labels.items() if value in values]
        if called and not any(same_class(one, name) for one in described.labels):
            yield called_otherwise(called, name, task, described.path)


def called_otherwise(called: Sequence[str], name: str, task: Task, path: Path) -> DataError:
    """What to say where the values of a class of the task have other names in a file."""
    return DataError(f"found the name {', '.join(called)} for the values {list(task.labels[name])}, expected {name} of "
                     f"task {task.name}", "If it is the same, call it so here; if not, choose another task.", path=path)


def same_class(name: str, other: str) -> bool:
    """Whether two names are of one class or region, in any case or by a synonym."""
    pair = {name.lower(), other.lower()}
    return len(pair) == 1 or any(pair <= names for names in CLASS_SYNONYMS)


def _remedy(described: Description, task: Task) -> str:
    if relabelled(described, task) is not task:
        return SAME_CLASSES
    if described.regions:
        written = json.dumps(_as_task(described), ensure_ascii=False)
        return f"Write the task that describes these labels, with {written}."
    stated = {name.lower(): values for name, values in described.values.items()}
    fitting = [known.name for known in TASKS.values()
               if {name.lower(): values for name, values in known.labels.items()} == stated]
    return f"Choose or write the task that describes these labels{''.join(f'; {name} does' for name in fitting)}."


def _as_task(described: Description) -> dict[str, Any]:
    """Labels and regions of a task, as JSON: what lies in the same regions is one class, called after the smallest."""
    regions, called = described.regions, {}
    alike = _alike(described, regions)
    for names, values in alike.items():
        least = min(names, key=lambda name: len(regions[name]))
        called[names] = least if set(regions[least]) == set(values) else f"rest of {least}"
        if list(called.values()).count(called[names]) > 1:
            called[names] = " and ".join(names)
    labels = {called[names]: [*values] for names, values in alike.items()}
    ignored = {name: value for name, value in described.labels.items() if name.lower() == IGNORE}
    return {"labels": {"background": described.labels.get("background", 0), **labels},
            "regions": {region: [called[names] for names in called if region in names] for region in regions},
            "train_on": "regions", **ignored}

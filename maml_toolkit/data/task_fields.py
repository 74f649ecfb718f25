"""What the fields of a task may hold, for tasks that people write by hand: values of a kind, without contradictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from maml_toolkit.data.answers import TRAIN_ON, without_order
from maml_toolkit.data.label_sets import SETS

if TYPE_CHECKING:
    from maml_toolkit.data.tasks import Task


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _is_whole(value: object) -> bool:
    return _is_number(value) and float(value).is_integer()


def _is_list(value: object, of: Callable[[object], bool] = lambda one: True) -> bool:
    return isinstance(value, Sequence | np.ndarray | Set) and not isinstance(value, str | bytes) and all(map(of, value))


def _are_values(value: object) -> bool:
    return _is_whole(value) or (_is_list(value, _is_whole) and len(value) > 0)


KINDS = {
    "name": (_is_text, "text"),
    "modalities": (lambda value: _is_list(value, _is_text), 'a list of names, such as ["t1", "t2"]'),
    "labels": (lambda value: isinstance(value, Mapping) and all(map(_is_text, value)) and all(
        map(_are_values, value.values())),
        'a whole number for each name, or several, such as {"background": 0, "tumour": [1, 2]}'),
    "regions": (lambda value: isinstance(value, Mapping) and all(map(_is_list, value.values())),
                'a list of classes for each name, such as {"core": ["tumour"]}'),
    "intensities": (lambda value: isinstance(value, str | Mapping), 'mr, ct or none, or one of them for each modality'),
    "spacing_mm": (lambda value: value is None or _is_list(value, _is_number), "three numbers, such as [1, 1, 3]"),
    "reference": (lambda value: value is None or _is_text(value), "the name of a modality"),
    "label_on": (lambda value: value is None or _is_text(value), "the name of a modality"),
    "sides": (lambda value: value is None or _is_list(value), 'a list of classes, such as ["left kidney"]'),
    "codes": (lambda value: isinstance(value, Mapping), "a code for each class"),
    "ignore": (lambda value: value is None or _is_whole(value), "the whole number of voxels that count nowhere"),
    "train_on": (lambda value: value in TRAIN_ON, f"one of {', '.join(TRAIN_ON)}"),
}
"""Field of a task -> whether a value is of its kind, and the kind in words."""


def check_kinds(values: Mapping) -> None:
    """Nothing, if the fields of a task are of their kinds.

    Raises:
        ValueError: one is not; what it is and what was expected.
    """
    for name, (is_so, kind) in KINDS.items():
        if name in values and not is_so(values[name]):
            found = values[name]
            turned = name == "labels" and isinstance(found, Mapping) and all(
                isinstance(value, str) and not value.isdecimal() for value in found.values())
            raise ValueError(f"task {values.get('name')}: {name} is {found!r}, expected {kind}"
                             f"{'; names and values are the wrong way round' if turned else ''}")


LABEL_NAMES = {"seg", "label", "labels", "mask"}
"""Names that stand in the place of a modality, in the name of a file or a table, and mean the label."""


def check_names(modalities: Sequence[str]) -> tuple[str, ...]:
    """The modality names as a tuple, if they are names.

    Raises:
        ValueError: none, one twice, one that is not made of letters, digits and underscores, or one that means the
            label where files are found.
    """
    if isinstance(modalities, str):
        raise ValueError(f"modalities is the text {modalities!r}, expected a list of names")
    names = tuple(modalities)
    bad = [name for name in names if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_]+", name))]
    if bad or not names or len({name.lower() for name in names}) < len(names):
        raise ValueError(f"found the modality names {names}, expected at least one, each once, of letters, digits and "
                         f"underscores" + (f"; rename {bad}" if bad else ""))
    if taken := [name for name in names if name.lower() in LABEL_NAMES]:
        raise ValueError(f"found the modality names {taken}, which mean the label in the name of a file; expected "
                         f"others, such as {taken[0]}_of_liver")
    return names


def contradictions(task: Task) -> Iterator[str]:
    """What one field of a task says against another one."""
    foreground, modalities = task.class_names[1:], list(task.modalities)
    if not foreground:
        yield f"found the classes {list(task.labels)}, expected a background and at least one other class"
    if task.classes > SETS:
        yield f"found {task.classes} classes, expected at most {SETS}"
    own = [value for values in task.labels.values() for value in values]
    if task.ignore in own:
        yield f"ignore is {task.ignore}, a value of {dict(task.labels)}; expected one that no class has"
    if len(set(own)) < len(own):
        yield (f"a label value belongs to two classes in {dict(task.labels)}; classes are disjoint, put overlapping "
               "ones (whole tumour, core) under regions")
    for what, classes in {**{f"region {name}": of for name, of in task.regions.items()}, "sides": task.sides}.items():
        if unknown := set(classes or ()) - set(foreground):
            yield f"{what} names {sorted(unknown)}, expected foreground classes of {list(foreground)}"
    if task.train_on == "regions":
        yield from without_order(task)
    if set(task.intensities) != set(modalities) or not set(task.intensities.values()) <= {"mr", "ct", "none"}:
        yield (f"intensities are {task.intensities}, expected 'mr' or 'ct', or 'none' for what is taken as it is, for "
               f"each of {modalities}")
    for name, code in task.codes.items():
        if name not in foreground or not is_code(code):
            yield (f"the code of {name!r} is {code}, expected, for one of {list(foreground)}, its category and type, "
                   'and perhaps a modifier and an anatomy, each as [value, meaning], such as ["10200004", "Liver"]')
    for role in ("reference", "label_on"):
        if (named := getattr(task, role)) not in modalities:
            yield f"{role} {named!r} is none of {modalities}"
    if task.spacing_mm is not None and [0 < mm < 1e3 for mm in task.spacing_mm] != [True] * 3:
        yield f"spacing_mm is {task.spacing_mm}, expected three positive millimetres"


def is_code(code: object) -> bool:
    """Whether something is the code of a class."""
    known = {"category", "type", "modifier", "anatomy"}
    return isinstance(code, Mapping) and {"category", "type"} <= set(code) <= known and all(
        isinstance(part, list | tuple) and len(part) in (2, 3) and all(map(_is_text, part)) for part in code.values())

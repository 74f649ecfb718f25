"""What kind of value each field of a task has, for tasks that people write by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from numbers import Real

import numpy as np


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence | np.ndarray | Set) and not isinstance(value, str | bytes)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _is_whole(value: object) -> bool:
    return _is_number(value) and float(value).is_integer()


KINDS = {
    "name": (lambda value: isinstance(value, str), "text"),
    "modalities": (lambda value: _is_list(value) and all(isinstance(name, str) for name in value),
                   'a list of names, such as ["t1", "t2"]'),
    "labels": (lambda value: isinstance(value, Mapping) and all(
        isinstance(name, str) and _is_list(several) and len(several) > 0 and all(map(_is_whole, several))
        for name, several in ((name, one if _is_list(one) else [one]) for name, one in value.items())),
        'a whole number for each name, or several, such as {"background": 0, "tumour": [1, 2]}'),
    "regions": (lambda value: isinstance(value, Mapping) and all(map(_is_list, value.values())),
                'a list of classes for each name, such as {"core": ["tumour"]}'),
    "intensities": (lambda value: isinstance(value, str | Mapping), 'mr, ct or none, or one of them for each modality'),
    "spacing_mm": (lambda value: value is None or (_is_list(value) and all(map(_is_number, value))),
                   "three numbers, such as [1, 1, 3]"),
    "reference": (lambda value: value is None or isinstance(value, str), "the name of a modality"),
    "label_on": (lambda value: value is None or isinstance(value, str), "the name of a modality"),
    "sides": (lambda value: value is None or _is_list(value), 'a list of classes, such as ["left kidney"]'),
    "codes": (lambda value: isinstance(value, Mapping), "a code for each class"),
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

"""What a data set is, as data: its modalities, its label scheme, its regions, its intensities.

A label file holds numbers; what they mean is never inferred from them ("4" was the enhancing tumour of
BraTS until 2021 and is the resection cavity of 2024), so a Task says it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.answers import Classes, answers_of
from maml_toolkit.data.label_sets import IGNORED, SETS
from maml_toolkit.data.task_fields import check_kinds, check_names, contradictions
from maml_toolkit.system.errors import DataError, near_to, nearest
from maml_toolkit.system.files import as_json, read_json, write_whole
from maml_toolkit.system.integers import whole
from maml_toolkit.system.showing import Shown, in_lines

PHASES = {
    "native": {"native", "plain", "precontrast", "nonenhanced"},
    "arterial": {"arterial", "art", "ct_arterial"},
    "venous": {"venous", "portal", "portalvenous", "pv", "ct_portal", "ct_venous"},
    "delayed": {"delayed", "late", "equilibrium"},
}
"""Names of the phases of a contrast-enhanced CT, in the order in which they are scanned."""

SYNONYMS = (
    {"t1ce", "t1c", "t1gd", "t1post"},
    {"flair", "t2f", "t2flair"},
    {"t1", "t1n", "t1w"},
    {"t2", "t2w"},
    PHASES["arterial"],
    PHASES["venous"],                           # "plain" and "late" are said of much else
)
"""Names that the field uses for the same modality."""

SIDES = {word: side for side, words in (
    ("left", "left l lh lt sin sx sinistro sinistra links linke linker gauche g izquierdo izquierda izq"),
    ("right", "right r rh rt dex dx destro destra rechts rechte rechter droite droit d derecho derecha der"),
) for word in words.split()}
"""Words for a side of the body in the names of classes."""


EXAMPLE = '{"name": "mine", "modalities": ["t1", "t2"], "labels": {"background": 0, "tumour": 1}}'
"""A task as JSON."""

@dataclass(frozen=True, repr=False)
class Task(Shown):
    """The facts about a data set that every step from file to table needs.

    Attributes:
        name: of the task.
        modalities: names (letters, digits, underscore) in the order in which tables print them.
        labels: class name -> the value, or values, that stand for it in a label file. The first class is
            the background. Classes are disjoint; their order is the order of a network's logits.
        regions: name -> the classes whose union is evaluated; every foreground class when left out.
        train_on: what a network has a channel for, "classes" (softmax) or "regions" (a sigmoid each, as nnU-Net's
            region-based training). Then larger regions come before those within them, and each has one class that no
            later region has: that in which it is painted into label maps (answers.py).
        intensities: "mr" (each modality is normalised inside its own non-zero mask), "ct" (in the whole volume) or
            "none" (taken as it is, such as an atlas), one word for all modalities or one for each.
        spacing_mm: voxel size of the grid that the network works on; None takes the median of the
            training cases.
        reference: the modality onto whose grid the others are registered; the first when left out.
        sides: the classes that are on one side of the body, whose mirror image is another class, such as a left kidney;
            those named with a word for left or right when left out. Such a task's patches are not mirrored from left
            to right.
        label_on: the modality on whose grid the label was drawn, and with which it is carried when registering; the
            reference when left out.
        codes: class -> {"category": [value, meaning], "type": [value, meaning], "modifier": [value, meaning],
            "anatomy": [value, meaning]}, what it is in SNOMED CT, for DICOM; [value, scheme, meaning] is a code of
            another scheme. The modifier (a side) and the anatomy (in which organ it lies) may be left out, and so may
            a class whose name says it (liver, left kidney, tumour).
        ignore: the value in a label file of voxels that nobody labelled, such as 255: they count neither in the loss
            nor in a metric. None where every voxel has a class.

    Raises:
        ValueError: names or values that contradict each other.
    """

    name: str
    modalities: Sequence[str]
    labels: Mapping[str, int | Sequence[int]]
    regions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    intensities: str | Mapping[str, str] = "mr"
    spacing_mm: Sequence[float] | None = None
    reference: str | None = None
    label_on: str | None = None
    sides: Sequence[str] | None = None
    codes: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    ignore: int | None = None
    train_on: str = "classes"

    def __post_init__(self):
        check_kinds({name: getattr(self, name) for name in self.__dataclass_fields__})
        set_field = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - frozen dataclass
        set_field("modalities", check_names(self.modalities))
        as_values = lambda v: (int(v),) if np.isscalar(v) else tuple(int(one) for one in v)  # noqa: E731
        set_field("labels", {name: as_values(values) for name, values in self.labels.items()})
        set_field("regions", {name: tuple(classes) for name, classes in self.regions.items()}
                  or {name: (name,) for name in self.class_names[1:]})
        if isinstance(self.intensities, str):
            set_field("intensities", dict.fromkeys(self.modalities, self.intensities))
        set_field("reference", self.reference or self.modalities[0])
        set_field("label_on", self.label_on or self.reference)
        if self.spacing_mm is not None:
            set_field("spacing_mm", tuple(float(mm) for mm in self.spacing_mm))
        if self.sides is not None:
            set_field("sides", tuple(self.sides))
        if self.ignore is not None:
            set_field("ignore", int(self.ignore))
        for problem in contradictions(self):
            raise ValueError(f"task {self.name}: {problem}")
        set_field("intensities", {name: self.intensities[name] for name in self.modalities})
        set_field("codes", {name: {part: tuple(one) for part, one in code.items()}
                            for name, code in self.codes.items()})

    def __repr__(self) -> str:
        regions = (f"{name} = {' + '.join(classes)}" for name, classes in self.regions.items())
        classes = (f"{'/'.join(map(str, own))} {name}" for name, own in self.labels.items())
        return in_lines(f"Task {self.name}: {', '.join(self.modalities)}", f"classes {', '.join(classes)}",
                        f"regions {', '.join(regions)}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, background first, in the order of the logits."""
        return tuple(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.labels)

    @property
    def answers(self) -> Classes:
        """What the channels of a network's answer are: its classes, or its regions."""
        return answers_of(self)

    @property
    def outputs(self) -> dict[str, Any]:
        """The arguments of a method that say what it answers.

        >>> Task("liver", ["ct"], {"background": 0, "liver": 1}).outputs
        {'classes': 2}
        """
        regions = {"regions": [list(one) for one in self.answers.members]} if self.train_on == "regions" else {}
        return {"classes": self.classes, **regions}

    @property
    def sided(self) -> tuple[str, ...]:
        """The classes on one side of the body: `sides`, or by their names.

        >>> Task("kidneys", ["ct"], {"background": 0, "left kidney": 1, "Kidney_R": 2, "kidney_l": 3, "liver": 4}).sided
        ('left kidney', 'Kidney_R', 'kidney_l')
        """
        if self.sides is not None:
            return self.sides
        words = {name: re.findall(r"left|right|[a-z]+", " ".join(
            re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)).lower()) for name in self.class_names[1:]}
        own = {name: tuple(SIDES.get(word, word) for word in parts) for name, parts in words.items()}
        swapped = {"left": "right", "right": "left"}
        # "l" alone may mean anything, unless there is an "r" of the same name
        return tuple(name for name, parts in words.items() if {"left", "right"} & set(parts)
                     or tuple(swapped.get(part, part) for part in own[name]) in set(own.values()) - {own[name]})

    @property
    def about_sides(self) -> str:
        """What a person should know of that, as a sentence; nothing where no class has a side."""
        classes = ", ".join(self.sided)
        return f"On one side of the body: {classes}. Patches are not mirrored from left to right." if classes else ""

    def modality(self, name: str) -> str:
        """The task's own name for the modality that somebody calls `name`, in any case or by a synonym.

        Raises:
            DataError: no modality of the task goes by this name; the nearest is suggested.
        """
        lowered = name.lower()
        by_lower = {own.lower(): own for own in self.modalities}
        if found := [by_lower[one] for one in (lowered, *sorted(_synonyms(lowered))) if one in by_lower]:
            return found[0]
        near = near_to(lowered, by_lower)
        raise DataError(f"found the modality name {name!r}, expected one of {', '.join(self.modalities)}",
                        (f"Did you mean {by_lower[near]!r}? " if near else "") + "Rename it, or add it to the task.")

    def encode(self, values: np.ndarray) -> np.ndarray:
        """A file's label values as classes 0 to K-1 (uint8), in an array of the same shape; 255 is what is ignored.

        Raises:
            DataError: a value that the scheme does not know.
        """
        lowest, highest = min(self.values), max(self.values)
        table = np.full(highest - lowest + 1, SETS, np.uint8)         # which is no class and no set
        for index, own in enumerate(self.labels.values()):
            table[np.subtract(own, lowest)] = index
        if self.ignore is not None:
            table[self.ignore - lowest] = IGNORED
        known = np.clip(values, lowest, highest)
        encoded = table[known.astype(np.intp) - lowest]
        encoded[known != values] = SETS
        if (encoded == SETS).any():
            unknown = np.unique(values[encoded == SETS])
            raise DataError(f"found the label values {[int(value) for value in unknown]}, expected "
                            f"{sorted(self.values)} of {self.scheme}",
                            "Name the label scheme of these files in the task; values are never guessed.")
        return encoded

    def decode(self, classes: np.ndarray) -> np.ndarray:
        """Classes 0 to K-1 as the values of a label file (the first value where a class has several); 255 as `ignore`.

        Raises:
            DataError: voxels are ignored, for which the task has no value.
        """
        if (ignored := classes == IGNORED).any():
            if self.ignore is None:
                raise DataError(f"found {np.count_nonzero(ignored)} voxels that are ignored, for which task "
                                f"{self.name} has no value", "Name one in the task (ignore).")
            classes = np.where(ignored, self.classes, classes)
        return whole(np.array([own[0] for own in self.labels.values()] + [self.ignore or 0]))[classes]

    def region(self, classes: np.ndarray, name: str) -> np.ndarray:
        """The mask of a region in an array of classes 0 to K-1: booleans, of the same shape."""
        return np.isin(classes, [self.class_names.index(one) for one in self.regions[name]])

    @property
    def values(self) -> set[int]:
        """Every value that a label file of this task may hold."""
        ignored = set() if self.ignore is None else {self.ignore}
        return ignored.union(*self.labels.values())

    @property
    def scheme(self) -> str:
        """The label scheme in words, for messages."""
        return f"task {self.name} (" + ", ".join(
            f"{'/'.join(map(str, own))} {name}" for name, own in self.labels.items()) + (
            "" if self.ignore is None else f", {self.ignore} ignored") + ")"

    def to_json(self) -> dict:
        """Plain values from which `from_json` makes the same task; without what is as it would be if left out."""
        values = as_json(asdict(self))
        left_out = {"label_on": self.reference, "sides": None, "codes": {}, "ignore": None, "train_on": "classes"}
        return {key: value for key, value in values.items() if key not in left_out or value != left_out[key]}

    @classmethod
    def from_json(cls, values: Mapping) -> Task:
        """The task that `to_json` wrote down.

        Raises:
            ValueError: a key is missing or unknown, or its value is of another kind.
        """
        known = list(cls.__dataclass_fields__)
        unknown = [f"{name!r}{nearest(str(name), known)}" for name in values if name not in known]
        missing = [name for name in known[:3] if name not in values]
        if unknown or missing:
            what = f"found the key {', '.join(unknown)}" if unknown else f"found no {', '.join(missing)}"
            raise ValueError(f"a task: {what}, expected name, modalities and labels, and perhaps "
                             f"{', '.join(known[3:])}")
        check_kinds(values)             # here too: where types are checked, `cls` would refuse them in other words
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write the task down as a JSON file, which `named` reads."""
        write_whole(Path(path), json.dumps(self.to_json(), indent=2, ensure_ascii=False))

    @classmethod
    def named(cls, task: str | Path | Mapping | Task) -> Task:
        """A task from whatever names it: one of TASKS, a JSON file, a dictionary, or the task itself.

        Raises:
            ValueError: nothing goes by this name.
            DataError: what the JSON file says is no task.
        """
        if isinstance(task, cls):
            return task
        if isinstance(task, Mapping):
            return cls.from_json(task)
        if str(task) in {*TASKS, *SAME_SCHEME}:
            return TASKS[str(task)]
        if Path(task).is_file():
            values = read_json(task)
            try:
                return cls.from_json(values)
            except ValueError as error:
                raise DataError(str(error), f"Write it like {EXAMPLE}.", path=task) from None
        if len(Path(task).parts) > 1 or Path(task).suffix == ".json":
            raise ValueError(f"found no file {Path(task)}, expected a task as JSON, such as the task.json "
                             "that prepare wrote into its folder")
        raise ValueError(f"found the task {str(task)!r}{nearest(str(task), {**TASKS, **SAME_SCHEME})}, expected one of "
                         f"{', '.join(TASKS)} or the path of a JSON file")

    def with_spacing(self, spacing_mm: float | Sequence[float]) -> Task:
        """The same task on a grid of this spacing, in mm on each axis; one number is that of all three.

        Raises:
            ValueError: other than three positive numbers.
        """
        sizes = (spacing_mm,) if isinstance(spacing_mm, Real) else tuple(spacing_mm)
        return replace(self, spacing_mm=sizes * 3 if len(sizes) == 1 else sizes)


def common_name(modality: str) -> str:
    """One name for all that the field uses for the same modality."""
    return min(_synonyms(modality.lower()))


def _synonyms(name: str) -> set[str]:
    return next((names for names in SYNONYMS if name in names), {name})


SAME_SCHEME = {**{f"brats{year}": "brats2021" for year in range(2017, 2021)},
                **{f"brats{year}": "brats2015" for year in range(2012, 2015)}}
"""Years of BraTS -> the last year of their label scheme."""


class _Tasks(dict):
    def __missing__(self, name: str):
        if name in SAME_SCHEME:
            return self[SAME_SCHEME[name]]
        near = nearest(str(name), {**self, **SAME_SCHEME})
        raise KeyError(f"found no task {name!r}{near}, expected one of {', '.join(self)}")


def _known_tasks() -> Iterator[Task]:
    for values in json.loads((Path(__file__).parent / "known_tasks.json").read_text(encoding="utf-8")):
        values.pop("source", None)              # where it is described, for who reads the file
        yield Task.from_json(values)


TASKS: dict[str, Task] = _Tasks({task.name: task for task in _known_tasks()})
"""Tasks by name: the label scheme of a known data set, to be chosen, never guessed."""

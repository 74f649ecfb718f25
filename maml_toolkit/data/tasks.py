"""What a data set is, as data: its modalities, its label scheme, its regions, its intensities.

A label file holds numbers; what they mean is never inferred from them ("4" was the enhancing tumour of
BraTS until 2021 and is the resection cavity of 2024), so a Task says it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path

import numpy as np

from maml_toolkit.data.task_fields import check_kinds
from maml_toolkit.system.errors import DataError, near_to, nearest
from maml_toolkit.system.files import write_whole
from maml_toolkit.system.integers import whole
from maml_toolkit.system.json_files import read_json

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

@dataclass(frozen=True)
class Task:
    """The facts about a data set that every step from file to table needs.

    Attributes:
        name: of the task.
        modalities: names (letters, digits, underscore) in the order in which tables print them.
        labels: class name -> the value, or values, that stand for it in a label file. The first class is
            the background. Classes are disjoint; their order is the order of a network's logits.
        regions: name -> the classes whose union is evaluated; every foreground class when left out.
        intensities: "mr" (each modality is normalised inside its own non-zero mask), "ct" (in the whole volume) or
            "none" (taken as it is, such as a mask), one word for all modalities or one for each.
        spacing_mm: voxel size of the grid that the network works on; None takes the median of the
            training cases.
        reference: the modality onto whose grid the others are registered; the first when left out.
        sides: the classes that are on one side of the body, whose mirror image is another class, such as a left kidney;
            those named with a word for left or right when left out. Such a task's patches are not mirrored from left
            to right.
        label_on: the modality on whose grid the label was drawn, and with which it is carried when registering; the
            reference when left out.
        codes: class -> {"category": [value, meaning], "type": [value, meaning], "modifier": [value, meaning]}, what it
            is in SNOMED CT, for DICOM; the modifier (a side) may be left out, and so may a class whose name says it
            (liver, left kidney, tumour).

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
        self._check()
        set_field("codes", {name: {part: tuple(one) for part, one in code.items()}
                            for name, code in self.codes.items()})

    def _check(self):
        if len(self.labels) < 2:
            raise ValueError(f"task {self.name}: found the classes {list(self.labels)}, expected a background and "
                             "at least one other class")
        values = [value for several in self.labels.values() for value in several]
        if len(set(values)) < len(values):
            raise ValueError(f"task {self.name}: a label value belongs to two classes in {dict(self.labels)}; classes "
                             "are disjoint, put overlapping ones (whole tumour, core) under regions")
        for region, classes in self.regions.items():
            if unknown := set(classes) - set(self.class_names[1:]):
                raise ValueError(f"task {self.name}: region {region} names {sorted(unknown)}, "
                                 f"expected foreground classes of {list(self.class_names[1:])}")
        if set(self.intensities) != set(self.modalities) or not set(self.intensities.values()) <= {"mr", "ct", "none"}:
            raise ValueError(f"task {self.name}: intensities are {self.intensities}, expected 'mr' or 'ct', or 'none' "
                             f"for what is taken as it is, for each of {list(self.modalities)}")
        if unknown := set(self.sides or ()) - set(self.class_names[1:]):
            raise ValueError(f"task {self.name}: sides names {sorted(unknown)}, expected foreground classes of "
                             f"{list(self.class_names[1:])}")
        for name, code in self.codes.items():
            if name not in self.class_names[1:] or not is_code(code):
                raise ValueError(f"task {self.name}: the code of {name!r} is {code}, expected, for one of "
                                 f"{list(self.class_names[1:])}, its category and type, and perhaps a modifier, each "
                                 'as [value, meaning], such as ["10200004", "Liver"]')
        for role in ("reference", "label_on"):
            if (named := getattr(self, role)) not in self.modalities:
                raise ValueError(f"task {self.name}: {role} {named!r} is none of {list(self.modalities)}")
        if self.spacing_mm is not None and not [0 < mm < 1e3 for mm in self.spacing_mm] == [True] * 3:
            raise ValueError(f"task {self.name}: spacing_mm is {self.spacing_mm}, expected three positive millimetres")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, background first, in the order of the logits."""
        return tuple(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.labels)

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
        group = next((names for names in SYNONYMS if lowered in names), {lowered})
        if found := [by_lower[one] for one in (lowered, *sorted(group)) if one in by_lower]:
            return found[0]
        near = near_to(lowered, by_lower)
        raise DataError(f"found the modality name {name!r}, expected one of {', '.join(self.modalities)}",
                        (f"Did you mean {by_lower[near]!r}? " if near else "") + "Rename it, or add it to the task.")

    def encode(self, values: np.ndarray) -> np.ndarray:
        """A file's label values as classes 0 to K-1 (uint8), in an array of the same shape.

        Raises:
            DataError: a value that the scheme does not know.
        """
        lowest, highest = min(self.values), max(self.values)
        table = np.full(highest - lowest + 1, 255, np.uint8)
        for index, own in enumerate(self.labels.values()):
            table[np.subtract(own, lowest)] = index
        known = np.clip(values, lowest, highest)
        encoded = table[known.astype(np.intp) - lowest]
        encoded[known != values] = 255
        if (encoded == 255).any():
            unknown = np.unique(values[encoded == 255])
            raise DataError(f"found the label values {[int(value) for value in unknown]}, expected "
                            f"{sorted(self.values)} of {self.scheme}",
                            "Name the label scheme of these files in the task; values are never guessed.")
        return encoded

    def decode(self, classes: np.ndarray) -> np.ndarray:
        """Classes 0 to K-1 as the values of a label file (the first value where a class has several)."""
        values = np.array([own[0] for own in self.labels.values()])
        return whole(values)[classes]

    def region(self, classes: np.ndarray, name: str) -> np.ndarray:
        """The mask of a region in an array of classes 0 to K-1: booleans, of the same shape."""
        return np.isin(classes, [self.class_names.index(one) for one in self.regions[name]])

    @property
    def values(self) -> set[int]:
        """Every value that a label file of this task may hold."""
        return {value for own in self.labels.values() for value in own}

    @property
    def scheme(self) -> str:
        """The label scheme in words, for messages."""
        return f"task {self.name} (" + ", ".join(
            f"{'/'.join(map(str, own))} {name}" for name, own in self.labels.items()) + ")"

    def to_json(self) -> dict:
        """Plain values from which `from_json` makes the same task; without what is as it would be if left out."""
        values = json.loads(json.dumps(asdict(self)))
        left_out = {"label_on": self.reference, "sides": None, "codes": {}}
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
        check_kinds(values)
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
        if str(task) in {*TASKS, *_SAME_SCHEME}:
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
        raise ValueError(f"found the task {str(task)!r}{nearest(str(task), TASKS)}, expected one of {', '.join(TASKS)} "
                         "or the path of a JSON file")

    def with_spacing(self, spacing_mm: float | Sequence[float]) -> Task:
        """The same task on a grid of this spacing, in mm on each axis; one number is that of all three.

        Raises:
            ValueError: other than three positive numbers.
        """
        sizes = (spacing_mm,) if isinstance(spacing_mm, Real) else tuple(spacing_mm)
        return replace(self, spacing_mm=sizes * 3 if len(sizes) == 1 else sizes)


def common_name(modality: str) -> str:
    """One name for all that the field uses for the same modality."""
    return min(next((names for names in SYNONYMS if modality.lower() in names), {modality.lower()}))


def is_code(code: object) -> bool:
    """Whether something is the code of a class."""
    return isinstance(code, Mapping) and {"category", "type"} <= set(code) <= {"category", "type", "modifier"} and all(
        isinstance(part, list | tuple) and len(part) in (2, 3) and all(isinstance(one, str) for one in part)
        for part in code.values())


def check_names(modalities: Sequence[str]) -> tuple[str, ...]:
    """The modality names as a tuple, if they are names.

    Raises:
        ValueError: none, one twice, or one that is not made of letters, digits and underscores.
    """
    if isinstance(modalities, str):
        raise ValueError(f"modalities is the text {modalities!r}, expected a list of names")
    names = tuple(modalities)
    bad = [name for name in names if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_]+", name))]
    if bad or not names or len({name.lower() for name in names}) < len(names):
        raise ValueError(f"found the modality names {names}, expected at least one, each once, of letters, digits and "
                         f"underscores" + (f"; rename {bad}" if bad else ""))
    return names


_BRATS_MODALITIES = ("t1", "t1ce", "t2", "flair")
_BRATS_REGIONS = {"WT": ("necrosis", "oedema", "enhancing"), "TC": ("necrosis", "enhancing"), "ET": ("enhancing",)}
_CHAOS_ORGANS = {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}

_SAME_SCHEME = {**{f"brats{year}": "brats2021" for year in range(2017, 2021)},
                **{f"brats{year}": "brats2015" for year in range(2012, 2015)}}
"""Years of BraTS -> the last year of their label scheme."""


class _Tasks(dict):
    def __missing__(self, name: str):
        if name in _SAME_SCHEME:
            return self[_SAME_SCHEME[name]]
        raise KeyError(f"found no task {name!r}{nearest(str(name), self)}, expected one of {', '.join(self)}")


TASKS: dict[str, Task] = _Tasks({task.name: task for task in (
    # 2017 to 2021; Baid et al. 2021, arXiv:2107.02314
    Task("brats2021", _BRATS_MODALITIES, {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 4}, _BRATS_REGIONS),
    # from 2023 the enhancing tumour is 3
    Task("brats2023", _BRATS_MODALITIES, {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3}, _BRATS_REGIONS),
    # after treatment, with the cavity of the resection; de Verdier et al. 2024, arXiv:2405.18368
    Task("brats2024", _BRATS_MODALITIES,
         {"background": 0, "non-enhancing core": 1, "hyperintensity": 2, "enhancing": 3, "resection cavity": 4},
         {"WT": ("non-enhancing core", "hyperintensity", "enhancing"), "TC": ("non-enhancing core", "enhancing"),
          "ET": ("enhancing",), "RC": ("resection cavity",)}),
    # 2012 to 2015; Menze et al. 2015, https://doi.org/10.1109/TMI.2014.2377694
    Task("brats2015", _BRATS_MODALITIES,
         {"background": 0, "necrosis": 1, "oedema": 2, "non-enhancing": 3, "enhancing": 4},
         {"complete": ("necrosis", "oedema", "non-enhancing", "enhancing"),
          "core": ("necrosis", "non-enhancing", "enhancing"), "enhancing": ("enhancing",)}),
    Task("ms_lesions", _BRATS_MODALITIES, {"background": 0, "lesion": 1}),
    Task("liver_phases", ("arterial", "venous"), {"background": 0, "tumour": 1}, intensities="ct"),
    # Medical Segmentation Decathlon, as its dataset.json spells it; Antonelli et al. 2022,
    # https://doi.org/10.1038/s41467-022-30695-9
    Task("msd_brain", ("flair", "t1w", "t1gd", "t2w"),
         {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3},
         {"WT": ("edema", "non-enhancing tumor", "enhancing tumour"),
          "TC": ("non-enhancing tumor", "enhancing tumour"), "ET": ("enhancing tumour",)}),
    Task("msd_liver", ("ct",), {"background": 0, "liver": 1, "cancer": 2},
         {"liver": ("liver", "cancer"), "cancer": ("cancer",)}, intensities="ct"),
    # Kavur et al. 2021, https://doi.org/10.1016/j.media.2020.101950
    Task("chaos_ct", ("venous",), {"background": 0, "liver": 1}, intensities="ct"),
    Task("chaos_t1dual", ("in_phase", "out_phase"), _CHAOS_ORGANS),
    Task("chaos_t2spir", ("t2spir",), _CHAOS_ORGANS),
    # Litjens et al. 2014, https://doi.org/10.1109/TMI.2014.2303821
    Task("prostatex", ("t2w", "adc", "hbv"), {"background": 0, "lesion": 1}),
)})
"""Tasks by name: the label scheme of a known data set, to be chosen, never guessed."""

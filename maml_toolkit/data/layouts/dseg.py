"""What dseg.tsv says the values of a BIDS label map are called, beside the label or in a folder above.

    index  name    abbreviation  mapping
    1      WM      WM            2
    2      Lesion  L             7

A row is the class of the task that has its name, its abbreviation or the name of its `mapping`, the standard value of
BIDS; or, alone, the code that stands in any other column. Values of no class of the task are left to the audit, which
refuses those that occur in a label.

References:
    https://bids-specification.readthedocs.io, Imaging derivatives, Common image-derived labels
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from maml_toolkit.data.layouts.dataset_labels import SAME_CLASSES, called_otherwise, same_class
from maml_toolkit.data.tasks import Task
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError

STANDARD = ("background", "gray matter", "white matter", "cerebrospinal fluid", "bone", "soft tissue", "non-brain",
            "lesion", "cortical gray matter", "subcortical gray matter", "brainstem", "cerebellum")
"""What the values of the column `mapping` are called, from 0."""


@dataclass(frozen=True)
class Scheme:
    """What one dseg.tsv says.

    Attributes:
        names: value -> its name there.
        classes: value -> the task's class of it, or None.
    """

    path: Path
    names: Mapping[int, str]
    classes: Mapping[int, str | None]

    def labels(self, task: Task) -> dict[str, tuple[int, ...]]:
        """Class of the task -> its values here, none where it is not named; the background keeps its others."""
        found = {name: tuple(value for value, one in self.classes.items() if one == name) for name in task.labels}
        background = task.class_names[0]
        found[background] += tuple(one for one in task.labels[background] if one not in self.classes)
        return found


def tables_of(root: Path, labels: Iterable[Path]) -> list[Path]:
    """The tables about these label maps: of each the nearest one whose entities are all among those in its name."""
    @cache
    def in_folder(folder: Path) -> list[Path]:
        return sorted(folder.glob("*dseg.tsv"), key=lambda path: (-path.stem.count("_"), path))

    found: dict[Path, None] = {}
    for label in labels:
        own = set(label.name.partition(".")[0].split("_"))
        above = [folder for folder in label.parents if folder == root or root in folder.parents]
        fitting = (path for folder in above for path in in_folder(folder) if set(path.stem.split("_")) <= own)
        found |= dict.fromkeys([path] if (path := next(fitting, None)) else [])
    return list(found)


def read(path: Path, task: Task) -> Scheme:
    """What a dseg.tsv says of the classes of a task.

    Raises:
        DataError: it has no columns index and name, or an index is no whole number or stands twice.
    """
    columns, rows = tables.read_rows(path)
    columns = [name.lower() for name in columns]
    if not {"index", "name"} <= set(columns):
        raise DataError(f"found the columns {columns}, expected index and name", "Name the columns as BIDS has it.",
                        path=path)
    cells = [dict(zip(columns, row, strict=False)) for row in rows if any(row)]
    indices = [row.get("index", "") for row in cells]
    if not all(one.isdecimal() for one in indices) or len({*map(int, indices)}) < len(indices):
        raise DataError(f"found the indices {', '.join(indices)}, expected whole numbers, each once",
                        "Write the label values into the column index.", path=path)
    return Scheme(path, {int(row["index"]): row.get("name", "") for row in cells},
                  {int(row["index"]): _class_of(row, task) for row in cells})


def _class_of(row: Mapping[str, str], task: Task) -> str | None:
    mapping = row.get("mapping", "")
    standard = STANDARD[int(mapping)] if mapping.isdecimal() and int(mapping) < len(STANDARD) else ""
    called = [one.lower() for one in (row.get("name", ""), row.get("abbreviation", ""), standard)]
    said = {*called, *(cell.lower() for name, cell in row.items() if name not in ("index", "color", "mapping"))}
    names = {"background": task.class_names[0], **{name: name for name in task.labels}}
    by_name = (own for one in called for name, own in names.items() if same_class(one, name))
    by_code = {name for name, code in task.codes.items() if code["type"][0].lower() in said
               or code["type"][-1].lower() in called}
    return next(by_name, None) or (by_code.pop() if len(by_code) == 1 else None)      # two kidneys may share a code


def relabelled(schemes: Sequence[Scheme], task: Task) -> Task:
    """The task with the values of these tables, where they agree and name all of its foreground classes; else the task.
    """
    stated = [scheme.labels(task) for scheme in schemes]
    if not stated or any(one != stated[0] for one in stated) or not all(stated[0].values()) or any(
            task.ignore in values for values in stated[0].values()):
        return task
    return replace(task, labels=stated[0])


def contradictions(schemes: Sequence[Scheme], task: Task) -> Iterator[DataError]:
    """What is wrong: values that stand for another class of the task, or for none of them and not for its own."""
    for scheme in schemes:
        found = {value: name for value, name in scheme.names.items() if _is_other(value, scheme, task)}
        if found:
            remedy = "Choose or write the task that describes these labels."
            if relabelled([scheme], task) is not task:
                remedy = SAME_CLASSES
                if relabelled(schemes, task) is task:
                    remedy = "Bring all labels to one scheme; the tables here differ: " + ", ".join(
                        str(one.path) for one in schemes)
            yield DataError(f"found the labels {found}, expected {task.scheme}", remedy, path=scheme.path)


def _is_other(value: int, scheme: Scheme, task: Task) -> bool:
    own = scheme.classes[value]
    if own:
        return value not in task.labels[own]
    return any(value in values and name in scheme.classes.values()
               for name, values in list(task.labels.items())[1:])


def unknown(schemes: Sequence[Scheme], task: Task) -> Iterator[DataError]:
    """What may be meant: a value of a class of the task that the table calls by another name."""
    for scheme in schemes:
        for name, values in list(task.labels.items())[1:]:
            called = [scheme.names[value] for value in values if value in scheme.names]
            if called and name not in scheme.classes.values():
                yield called_otherwise(called, name, task, scheme.path)

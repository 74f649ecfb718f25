"""dataset.json, in which nnU-Net and the Medical Segmentation Decathlon say what channels and label values mean.

nnU-Net v2 has `channel_names` {"0": "T1"}, `labels` {"background": 0} and a `file_ending`. nnU-Net v1 and the
Decathlon have `modality` {"0": "T1"} and `labels` {"0": "background"}, and their files end in .nii.gz.

References:
    F. Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image
    segmentation. Nature Methods, 2021. https://doi.org/10.1038/s41592-020-01008-z
    M. Antonelli et al. The Medical Segmentation Decathlon. Nature Communications, 2022.
    https://doi.org/10.1038/s41467-022-30695-9
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maml_toolkit.data.layouts.contents import stem
from maml_toolkit.data.layouts.entries import patient_named, resolved, visible
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.system.errors import DataError, collected
from maml_toolkit.system.json_files import read_json

FILE = "dataset.json"
"""The file that makes a folder a data set of nnU-Net or of the Decathlon."""

PARTS = {"training": "Tr", "test": "Ts"}
"""How the names of the folders of a part end."""

CLASS_SYNONYMS = (
    {"oedema", "edema", "ed"},
    {"enhancing", "enhancing tumour", "enhancing tumor", "et"},
    {"necrosis", "ncr"},
)
"""Names of one class, which must not stand for different values."""


@dataclass(frozen=True)
class Description:
    """What a dataset.json says.

    Attributes:
        path: of the file.
        channels: number of a channel -> its name.
        labels: name of a class -> its value, as nnU-Net v2 has it; not checked.
        ending: of the names of all files.
        version: 2 for nnU-Net v2, 1 for nnU-Net v1 and the Decathlon.
        patients: case -> patient, where the file says whose a case is, as ours does.
    """

    path: Path
    channels: Mapping[int, str]
    labels: Mapping[str, Any]
    ending: str
    version: int
    patients: Mapping[str, str] = field(default_factory=dict)

    def inside(self, kind: str, part: str) -> list[Path]:
        """What is named like NIfTI among the "images" or the "labels" of a part, sorted."""
        folder = self.path.parent / f"{kind}{PARTS[part]}"
        return [path for path in visible(folder) if stem(path)] if folder.is_dir() else []

    def labels_by_case(self, part: str, problems: list[DataError]) -> dict[str, Path]:
        """The label maps of a part by the ids of their cases; those with another ending are added to `problems`."""
        found = {}
        for path in self.inside("labels", part):
            if path.name.endswith(self.ending):
                found[path.name.removesuffix(self.ending)] = path
            else:
                problems.append(DataError(f"found the file name {path.name!r}, expected <case>{self.ending}",
                                          f"Save it as {self.ending}, or move it away.", case=stem(path),
                                          modality="label", path=path))
        return found


def described(folder: Path) -> Description:
    """The dataset.json of a folder.

    Raises:
        DataError: it is none that nnU-Net or the Decathlon could have written.
    """
    path = folder / FILE
    content = read_json(path)
    if _holds(content, channel_names=dict, labels=dict, file_ending=str):
        channels, labels, ending, version = content["channel_names"], content["labels"], content["file_ending"], 2
    elif _holds(content, modality=dict, labels=dict):
        channels, labels, ending, version = content["modality"], _by_name(content["labels"], path), ".nii.gz", 1
    else:
        kinds = {key: type(value).__name__ for key, value in content.items() if key in (
            "channel_names", "modality", "labels", "file_ending")}
        raise DataError(f"found the keys {sorted(content)}{f' ({kinds})' if kinds else ''}, expected channel_names, "
                        "labels and file_ending of nnU-Net v2, or modality and labels of nnU-Net v1 and of the Medical "
                        "Segmentation Decathlon: dictionaries and a text",
                        "Write it so, or describe the files in a table.", path=path)
    if ending not in (".nii", ".nii.gz"):
        raise DataError(f"found the file_ending {ending!r}, expected .nii or .nii.gz", "Convert the images to NIfTI.",
                        path=path)
    patients = content.get("patients")
    return Description(path, _numbered(channels, path), labels, ending, version,
                       {case: patient_named(one) for case, one in patients.items() if one is not None}
                       if isinstance(patients, dict) else {})


def _holds(content: Mapping, **kinds: type) -> bool:
    return all(isinstance(content.get(key), kind) for key, kind in kinds.items())


def _numbered(channels: Mapping, path: Path) -> dict[int, str]:
    numbers = {int(number) for number in channels if str(number).isdecimal()}
    if numbers != set(range(len(channels))) or not all(isinstance(name, str) for name in channels.values()):
        raise DataError(f'found the channels {dict(channels)}, expected a name for each number from 0, such as '
                        '{"0": "T1"}', "Write the numbers as keys and the names as values.", path=path)
    return {int(number): name for number, name in channels.items()}


def _by_name(labels: Mapping, path: Path) -> dict[str, int]:
    if not all(str(value).isdecimal() and isinstance(name, str) for value, name in labels.items()):
        raise DataError(f'found the labels {dict(labels)}, expected a name for each value, such as {{"1": "tumour"}}',
                        "Write the values as keys and the names as values.", path=path)
    if len(set(labels.values())) < len(labels):
        raise DataError(f"found one name for two values in the labels {dict(labels)}",
                        "Give each value a name of its own.", path=path)
    return {name: int(value) for value, name in labels.items()}


def _check_values(labels: Mapping, path: Path) -> None:
    if regions := {name: value for name, value in labels.items() if isinstance(value, list)}:
        raise DataError(f"found overlapping regions as labels, {regions}, expected disjoint classes with one "
                        "value each", "List the classes in dataset.json, and put the regions into the task.",
                        path=path)
    if not all(type(value) is int for value in labels.values()):
        raise DataError(f"found the labels {dict(labels)}, expected one whole number for each class",
                        "Write the label values as numbers.", path=path)


def own_channels(description: Description, task: Task, problems: list[DataError]) -> dict[int, str]:
    """The task's own names for the channels; a channel that it does not use is left out.

    So is one whose name is unknown, and two of one modality, with a problem.
    """
    own: dict[int, str] = {}
    for number, name in description.channels.items():
        with collected(problems, path=description.path):
            if modality := resolved(name, task):
                own[number] = modality
    for modality in dict.fromkeys(own.values()):
        several = {number: description.channels[number] for number in own if own[number] == modality}
        if len(several) > 1:
            problems.append(DataError(f"found the channels {several} for {modality}, expected one",
                                      "Correct the names of the channels.", path=description.path))
            own = {number: one for number, one in own.items() if one != modality}
    return own


def relabelled(source: Path, task: Task) -> Task:
    """The task with the label values of the data set, where that has classes of the same names; else the task.

    Letter case is ignored, and the task's first class is nnU-Net's background, whatever its name.

    Raises:
        DataError: the dataset.json cannot be used.
    """
    return _with_values_of(described(source).labels, task)


def _with_values_of(labels: Mapping[str, Any], task: Task) -> Task:
    stated = {name.lower(): value for name, value in labels.items()}
    names = ["background", *(name.lower() for name in task.class_names[1:])]
    values = [stated.get(name) for name in names]
    if set(names) != set(stated) or any(type(value) is not int for value in values) or len(set(values)) < len(values):
        return task
    return replace(task, labels=dict(zip(task.class_names, values, strict=True)))


def check_scheme(description: Description, task: Task) -> None:
    """Nothing, when the label values of a dataset.json are the task's.

    Raises:
        DataError: they are others, or stand for other classes or for regions.
    """
    labels = description.labels
    _check_values(labels, description.path)
    moved = any(_same_class(name, own) and value not in values
                for name, value in labels.items() for own, values in task.labels.items())
    if moved or set(labels.values()) != task.values:
        raise DataError(f"found the labels {dict(labels)}, expected the values {sorted(task.values)} of {task.scheme}",
                        _remedy(labels, task), path=description.path)


def _same_class(name: str, other: str) -> bool:
    pair = {name.lower(), other.lower()}
    return len(pair) == 1 or any(pair <= names for names in CLASS_SYNONYMS)


def _remedy(labels: Mapping[str, Any], task: Task) -> str:
    if _with_values_of(labels, task) is not task:
        return "The classes are the same: use cases.task_of(source, task), the task with these values, from here on."
    stated = {name.lower(): (value,) for name, value in labels.items()}
    fitting = [known.name for known in TASKS.values()
               if {name.lower(): values for name, values in known.labels.items()} == stated]
    return f"Choose or write the task that describes these labels{''.join(f'; {name} does' for name in fitting)}."

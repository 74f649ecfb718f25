"""nnU-Net v2 raw: `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`, and `imagesTs`.

nnU-Net wants the label values 0, 1, 2, … without a gap and the class of 0 called background, so labels are written
as the task's classes 0 to K-1; `relabelled` gives the task with the values that a dataset.json states.

References:
    F. Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image
    segmentation. Nature Methods, 2021. https://doi.org/10.1038/s41592-020-01008-z
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from maml_toolkit.data.layouts.entries import Entry, by_modality, collected, copy, recoder, visible
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import Task

FILE = "dataset.json"
"""The file that makes a folder a data set of nnU-Net."""

PARTS = {"training": "Tr", "test": "Ts"}
"""How the names of the folders of a part end."""


def find(source: Path, task: Task, part: str, problems: list[DataError]) -> list[Entry]:
    """The entries of a part; channels and labels may be missing, and what is wrong is added to `problems`.

    Raises:
        DataError: the dataset.json cannot be used, or its label values are not the task's.
    """
    description = _described(source / FILE)
    _check_scheme(description["labels"], task, source / FILE)
    ending, channels = description["file_ending"], description["channel_names"]
    files = defaultdict(list)
    for path in _inside(source / f"images{PARTS[part]}"):
        with collected(problems, path=path):
            id, channel = _channel_of(path, ending, channels)
            files[id].append((path, channels[channel]))
    for path in _inside(source / f"labels{PARTS[part]}"):
        if path.name.endswith(ending):
            files[path.name.removesuffix(ending)].append((path, "label"))
    entries = []
    for id, names in files.items():
        with collected(problems, id):
            entries.append(Entry(id, by_modality(names, task)))
    return entries


def relabelled(source: Path, task: Task) -> Task:
    """The task with the label values of the data set, where that has classes of the same names; else the task.

    Letter case is ignored, and the task's first class is nnU-Net's background, whatever its name.

    Raises:
        DataError: the dataset.json cannot be used.
    """
    return _with_values_of(_described(source / FILE)["labels"], task)


def _with_values_of(labels: Mapping, task: Task) -> Task:
    stated = {name.lower(): value for name, value in labels.items()}
    names = ["background", *(name.lower() for name in task.class_names[1:])]
    values = [stated.get(name) for name in names]
    if set(names) != set(stated) or any(type(value) is not int for value in values) or len(set(values)) < len(values):
        return task
    return replace(task, labels=dict(zip(task.class_names, values, strict=True)))


def _inside(folder: Path) -> list[Path]:
    return visible(folder) if folder.is_dir() else []


def _described(path: Path) -> dict:
    """The dataset.json, if it is one of nnU-Net v2.

    Raises:
        DataError: it is not.
    """
    try:
        description = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise DataError(f"the file is no JSON dictionary ({error})", "Write it again.", path=path) from error
    expected = {"channel_names": dict, "labels": dict, "file_ending": str}
    if any(not isinstance(description.get(key), kind) for key, kind in expected.items()):
        raise DataError(f"found the keys {sorted(description)}, expected {', '.join(expected)} of nnU-Net v2",
                        "Convert the data set to nnU-Net v2, or describe its files in a table.", path=path)
    if description["file_ending"] not in (".nii", ".nii.gz"):
        raise DataError(f"found the file_ending {description['file_ending']!r}, expected .nii or .nii.gz",
                        "Convert the images to NIfTI.", path=path)
    return description


def _check_scheme(labels: Mapping, task: Task, path: Path) -> None:
    if regions := {name: value for name, value in labels.items() if isinstance(value, list)}:
        raise DataError(f"found overlapping regions as labels, {regions}, expected disjoint classes with one "
                        "value each", "List the classes in dataset.json, and put the regions into the task.",
                        path=path)
    moved = any(name.lower() == own.lower() and value not in values
                for name, value in labels.items() for own, values in task.labels.items())
    if moved or set(labels.values()) != task.values:
        same = "The classes are the same: use cases.task_of(source, task), the task with these values, from here on."
        other = "Choose or write the task that describes these labels."
        raise DataError(f"found the labels {labels}, expected the values {sorted(task.values)} of {task.scheme}",
                        other if _with_values_of(labels, task) is task else same, path=path)


def _channel_of(path: Path, ending: str, channels: Mapping[str, str]) -> tuple[str, str]:
    match = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name)
    if match is None or str(int(match[2])) not in channels:
        raise DataError(f"found the file name {path.name!r}, expected <case>_0000{ending} with a channel of "
                        f"{dict(channels)}", "Rename the file, or add its channel to dataset.json.")
    return match[1], str(int(match[2]))


def write(entries: Sequence[Entry], folder: Path, task: Task) -> None:
    """Write a data set that nnU-Net v2 accepts; entries without a label become its test cases.

    Channels have the names of the modalities; nnU-Net normalises a channel as CT only if it is called CT.

    Raises:
        DataError: a modality is missing, for nnU-Net wants every channel of every case.
    """
    if holed := [_missing(entry, task) for entry in entries if set(task.modalities) - set(entry.files)]:
        raise DataError.together(holed)
    consecutive = replace(task, labels={name: value for value, name in enumerate(task.class_names)})

    def name(entry: Entry, part: str) -> str:
        if part == "label":
            return f"labelsTr/{entry.id}.nii.gz"
        suffix = PARTS["training" if "label" in entry.files else "test"]
        return f"images{suffix}/{entry.id}_{task.modalities.index(part):04d}.nii.gz"

    copy(entries, folder, name, recoder(task, consecutive))
    (folder / FILE).write_text(json.dumps({
        "channel_names": {str(channel): name for channel, name in enumerate(task.modalities)},
        "labels": {name: value for value, name in enumerate(["background", *task.class_names[1:]])},
        "numTraining": sum("label" in entry.files for entry in entries),
        "file_ending": ".nii.gz",
    }, indent=2, ensure_ascii=False), encoding="utf-8")


def _missing(entry: Entry, task: Task) -> DataError:
    absent = [modality for modality in task.modalities if modality not in entry.files]
    return DataError(f"found no {', '.join(absent)}; nnU-Net expects every modality of every case",
                     "Leave the case out, or choose another layout.", case=entry.id)

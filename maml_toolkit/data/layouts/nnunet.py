"""nnU-Net raw: `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`, and `imagesTs`; v2 and v1.

nnU-Net wants the label values 0, 1, 2, … without a gap and the class of 0 called background, so labels are written
as the task's classes 0 to K-1; `description.relabelled` gives the task with the values that a dataset.json states.

References:
    F. Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image
    segmentation. Nature Methods, 2021. https://doi.org/10.1038/s41592-020-01008-z
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from maml_toolkit.data.layouts.description import FILE, PARTS, Description, own_channels
from maml_toolkit.data.layouts.entries import Entry, copy, entry_of, recoder
from maml_toolkit.data.tasks import Task
from maml_toolkit.system.errors import DataError, collected


def find(description: Description, task: Task, part: str, problems: list[DataError]) -> list[Entry]:
    """The entries of a part; channels and labels may be missing, and what is wrong is added to `problems`."""
    channels = own_channels(description, task, problems)
    files, others = defaultdict(list), defaultdict(list)
    for path in description.inside("images", part):
        with collected(problems, path=path):
            id, channel = _channel_of(path, description)
            if channel in channels:
                files[id].append((path, channels[channel]))
            else:
                others[id].append((path, description.channels[channel]))
    for id, path in description.labels_by_case(part, problems).items():
        files[id].append((path, "label"))
    return [entry_of(id, files[id], task, problems, description.patients.get(id), others[id])
            for id in dict.fromkeys((*files, *others))]


def channel_in(name: str, description: Description) -> tuple[str, int] | None:
    """The case and the channel in the name of an image, `<case>_0000.nii.gz`; None for another name."""
    match = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(description.ending)}", name)
    return (match[1], int(match[2])) if match else None


def _channel_of(path: Path, description: Description) -> tuple[str, int]:
    found = channel_in(path.name, description)
    if found is None or found[1] not in description.channels:
        raise DataError(f"found the file name {path.name!r}, expected <case>_0000{description.ending} with a channel "
                        f"of {dict(description.channels)}", "Rename the file, or add its channel to dataset.json.",
                        case=found and found[0])
    return found


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
    patients = {entry.id: entry.patient for entry in entries if entry.patient is not None}
    (folder / FILE).write_text(json.dumps({
        "channel_names": {str(channel): name for channel, name in enumerate(task.modalities)},
        "labels": {name: value for value, name in enumerate(["background", *task.class_names[1:]])},
        "numTraining": sum("label" in entry.files for entry in entries),
        "file_ending": ".nii.gz",
        **({"patients": patients} if patients else {}),
    }, indent=2, ensure_ascii=False), encoding="utf-8")


def _missing(entry: Entry, task: Task) -> DataError:
    absent = [modality for modality in task.modalities if modality not in entry.files]
    return DataError(f"found no {', '.join(absent)}; nnU-Net expects every modality of every case",
                     "Leave the case out, or choose another layout.", case=entry.id)

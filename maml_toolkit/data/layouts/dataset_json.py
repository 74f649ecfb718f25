"""dataset.json, of nnU-Net and of the Medical Segmentation Decathlon, beside `imagesTr`, `labelsTr` and `imagesTs`.

nnU-Net v2 has `channel_names` {"0": "T1"}, `labels` {"background": 0} and a `file_ending`. nnU-Net v1 and the
Decathlon have `modality` {"0": "T1"} and `labels` {"0": "background"}, and their files end in .nii.gz.

What its labels mean for a task, dataset_labels.py says.

nnU-Net has one file a channel, `<case>_0000.nii.gz`, and the Decathlon one file a case, `<case>.nii.gz`, with the
channels along a fourth axis; so names tell the two apart. Labels are called `<case>.nii.gz`.

References:
    F. Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image
    segmentation. Nature Methods, 2021. https://doi.org/10.1038/s41592-020-01008-z
    M. Antonelli et al. The Medical Segmentation Decathlon. Nature Communications, 2022.
    https://doi.org/10.1038/s41467-022-30695-9
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maml_toolkit.data import nifti
from maml_toolkit.data.case import Case, composed, facts_of, patient_named
from maml_toolkit.data.layouts.contents import Contents, stem
from maml_toolkit.data.layouts.found import Found, resolved
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.system.errors import DataError, collected, few, nearest
from maml_toolkit.system.files import read_json

FILE = "dataset.json"
"""The file that makes a folder a data set of nnU-Net or of the Decathlon."""

IGNORE = "ignore"
"""What nnU-Net calls the value of voxels that nobody labelled."""

PARTS = {"training": "Tr", "test": "Ts"}
"""How the names of the folders of a part end."""


@dataclass(frozen=True)
class Description:
    """What a dataset.json says, and what lies beside it.

    Attributes:
        path: of the file.
        channels: number of a channel -> its name.
        labels: name of a class -> its value, or of a region -> its values, as nnU-Net v2 has it; not checked.
        ending: of the names of all files.
        version: 2 for nnU-Net v2, 1 for nnU-Net v1 and the Decathlon.
        patients: case -> patient, where the file says whose a case is, as ours does.
        labelled: case -> the classes that were drawn, likewise.
        painted: the values in which regions are painted; empty where there are none.
        lying: the files of its folder.
    """

    path: Path
    channels: Mapping[int, str]
    labels: Mapping[str, Any]
    ending: str
    version: int
    patients: Mapping[str, str | None]
    labelled: Mapping[str, str]
    painted: Sequence[int]
    lying: Contents

    @property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """Name of a class or region -> its values."""
        return {name: tuple(value) if isinstance(value, list) else (value,) for name, value in self.labels.items()}

    @property
    def regions(self) -> dict[str, tuple[Any, ...]]:
        """Name of a region -> its values; empty where the labels are classes."""
        is_so = any(isinstance(value, list) for value in self.labels.values())
        return {name: values for name, values in self.values.items()
                if is_so and name.lower() not in ("background", IGNORE)}

    def folders(self, part: str) -> list[Path]:
        """Those of the images and of the labels of a part."""
        return [self.path.parent / f"{kind}{PARTS[part]}" for kind in ("images", "labels")]

    def inside(self, part: str) -> list[list[Path]]:
        """What is named like NIfTI among the images and among the labels of a part, sorted."""
        return [self.lying.images.get(folder, []) for folder in self.folders(part)]

    def numbered(self, name: str) -> tuple[str, int] | None:
        """The case and the channel in the name of an image of nnU-Net, `<case>_0000.nii.gz`; None for another name."""
        match = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(self.ending)}", composed(name))
        return (match[1], int(match[2])) if match else None

    @property
    def is_decathlon(self) -> bool:
        """Whether most images are named as in the Decathlon: like their labels, or at least without a number."""
        images, labels = ({composed(path.name) for path in paths} for paths in self.inside("training"))
        images = images or {composed(path.name) for path in self.inside("test")[0]}
        return self.version == 1 and sum(map(bool, map(self.numbered, images - labels))) < len(images) / 2


def read(folder: Path, lying: Contents) -> Description:
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
    patients = content["patients"] if _holds(content, patients=dict) else {}
    drawn = content["labelled"] if _holds(content, labelled=dict) else {}
    return Description(path, _by_number(channels, path), labels, ending, version,
                       {composed(case): patient_named(one) for case, one in patients.items()},
                       {composed(case): one for case, one in drawn.items()},
                       content["regions_class_order"] if _holds(content, regions_class_order=list) else (), lying)


def _holds(content: Mapping, **kinds: type) -> bool:
    return all(isinstance(content.get(key), kind) for key, kind in kinds.items())


def _by_number(channels: Mapping, path: Path) -> dict[int, str]:
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


def find(described: Description, found: Found, part: str) -> None:
    """Add the cases of a part; channels and labels may be missing."""
    own, labels = _own_channels(described, found), _labels(described, part, found.problems)
    images, is_decathlon = described.inside(part)[0], described.is_decathlon
    names = {composed(path.name) for path in (*images, *labels.values())}
    files: dict[str, list[tuple[Source, int]]] = defaultdict(list)
    for path in images:
        if not is_decathlon:
            with collected(found.problems, path=path):
                id, channel = _channel(path, described)
                files[id].append((path, channel))
            continue
        id, frames = composed(path.name.removesuffix(described.ending)), []
        with collected(found.problems, id, path):
            frames = _frames(path, described, names)
        if frames:
            files[id] = frames
            continue
        found.named[path] = (id, None)
        if id in labels:                                # alone it would be a case
            found.named[labels.pop(id)] = (id, "label")
    for id in dict.fromkeys((*files, *labels)):
        used = [(source, own[channel]) for source, channel in files[id] if channel in own]
        others = [(source, described.channels[channel]) for source, channel in files[id] if channel not in own]
        label = [(labels[id], "label")] if id in labels else []
        found.add(id, used + label, described.patients.get(id), others, described.labelled.get(id))


def _own_channels(described: Description, found: Found) -> dict[int, str]:
    """The task's own names for the channels; a channel that it does not use is left out.

    So is one whose name is unknown, and two of one modality, with a problem.
    """
    several: dict[str, dict[int, str]] = defaultdict(dict)
    for number, name in described.channels.items():
        with collected(found.problems, path=described.path):
            if modality := resolved(name, found.task):
                several[modality][number] = name
    for modality, channels in several.items():
        if len(channels) > 1:
            found.problems.append(DataError(f"found the channels {channels} for {modality}, expected one",
                                            "Correct the names of the channels.", path=described.path))
    return {number: modality for modality, channels in several.items() for number in channels if len(channels) == 1}


def _labels(described: Description, part: str, problems: list[DataError]) -> dict[str, Path]:
    """The label maps of a part by the ids of their cases; one with another ending is a problem."""
    found = {}
    for path in described.inside(part)[1]:
        with collected(problems, stem(path), path, "label"):
            _check_ending(path, described)
            found[composed(path.name.removesuffix(described.ending))] = path
    return found


def _check_ending(path: Path, described: Description) -> None:
    if not path.name.endswith(described.ending):
        raise DataError(f"found the file name {path.name!r}, expected <case>{described.ending}",
                        f"Save it as {described.ending}, or move it away.")


def _channel(path: Path, described: Description) -> tuple[str, int]:
    """The case and the channel of a file of nnU-Net."""
    found = described.numbered(path.name)
    if found is None or found[1] not in described.channels:
        raise DataError(f"found the file name {path.name!r}, expected <case>_0000{described.ending} with a channel "
                        f"of {dict(described.channels)}", "Rename the file, or add its channel to dataset.json.",
                        case=found and found[0])
    return found


def _frames(path: Path, described: Description, names: Collection[str]) -> list[tuple[Source, int]]:
    """The channels in a file of the Decathlon, which has three axes where there is only one."""
    _check_ending(path, described)
    found, channels = described.numbered(path.name), described.channels
    if found and f"{found[0]}{described.ending}" in names:
        raise DataError(f"found the file name {path.name!r} with the number of a channel, as in nnU-Net v1, among "
                        "images without one, as in the Medical Segmentation Decathlon",
                        "Have one of the two: one file a channel, or one 4-D file a case.")
    with nifti.located(None, None, path):
        shape = tuple(int(n) for n in nifti.header_of(path).get_data_shape())
    if math.prod(shape[3:]) != len(channels) or len(shape) > 4:
        raise DataError(f"found the shape {shape}, expected {len(channels)} frames, one for each of "
                        f"{', '.join(channels.values())} in dataset.json",
                        "Correct the modalities in dataset.json, or copy the image again; one file a channel is "
                        "called <case>_0000.nii.gz, as in nnU-Net.")
    return [(Frame(path, number) if len(channels) > 1 else path, number) for number in channels]


def place(described: Description, task: Task, path: Path, name: str) -> tuple[str | None, str | None]:
    """The case and the modality, or "label", that a name without its ending stands for, as far as it tells."""
    if path.parent.name.startswith("labels"):
        return name, "label"
    if match := re.fullmatch(r"(.+)_(\d{4})", name):
        with suppress(DataError):
            return match[1], resolved(described.channels.get(int(match[2]), ""), task)
        return match[1], None
    return None if path.parent == described.path.parent else name, None


def unknown_ids(described: Description) -> Iterator[DataError]:
    """What may be meant: an id in `patients` or `labelled` that no file has.

    A case whose id is misspelt there counts as one of another patient, and as one in which every class was drawn.
    """
    names = [composed(path.name) for part in PARTS for paths in described.inside(part) for path in paths]
    ids = {one for name in names for one in (
        name.removesuffix(described.ending), (described.numbered(name) or [name])[0])}
    for key, named in (("patients", described.patients), ("labelled", described.labelled)):
        if absent := [f"{id!r}{nearest(id, ids)}" for id in named if id not in ids]:
            yield DataError(f"found {few(absent)} in {key}, expected ids of cases that lie here",
                            "Correct the id, or take it out where the case is gone.", path=described.path)


def file_of(case: Case, part: str, task: Task) -> str:
    """Where a modality, or the "label", of a case is written; cases without a label are test cases."""
    if part == "label":
        return f"labelsTr/{case.id}.nii.gz"
    suffix = PARTS["test" if case.label is None else "training"]
    return f"images{suffix}/{case.id}_{task.modalities.index(part):04d}.nii.gz"


def describe(cases: Sequence[Case], folder: Path, task: Task) -> None:
    """Write the dataset.json of nnU-Net v2, for labels that hold the task's classes 0 to K-1.

    nnU-Net wants the label values 0, 1, 2, … without a gap and the class of 0 called background; `cases.task_of` gives
    the task with the values that a dataset.json states. Channels have the names of the modalities; nnU-Net normalises a
    channel as CT only if it is called CT.
    """
    facts = {case.id: facts_of(case) for case in cases}
    named = {key: {id: one[what] for id, one in facts.items() if what in one}
             for key, what in (("patients", "patient"), ("labelled", "labelled"))}
    (folder / FILE).write_text(json.dumps({
        "channel_names": {str(channel): name for channel, name in enumerate(task.modalities)},
        "labels": {name: value for value, name in enumerate(
            ["background", *task.class_names[1:], *[IGNORE] * (task.ignore is not None)])},
        "numTraining": sum(case.label is not None for case in cases),
        "file_ending": ".nii.gz",
        **{key: by_case for key, by_case in named.items() if by_case},
    }, indent=2, ensure_ascii=False), encoding="utf-8")

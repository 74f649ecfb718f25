"""Medical Segmentation Decathlon: `dataset.json`, `imagesTr/<case>.nii.gz`, `labelsTr/<case>.nii.gz`, and `imagesTs`.

An image has four axes, the last of which are the modalities, or three for a single one. nnU-Net v1, which took over the
dataset.json, has one file a channel and adds its number to the name; so names tell the two apart.

References:
    M. Antonelli et al. The Medical Segmentation Decathlon. Nature Communications, 2022.
    https://doi.org/10.1038/s41467-022-30695-9
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from maml_toolkit.data import nifti
from maml_toolkit.data.layouts.description import Description, own_channels
from maml_toolkit.data.layouts.entries import Entry, entry_of
from maml_toolkit.data.layouts.nnunet import channel_in
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.system.errors import DataError, collected


def fits(description: Description) -> bool:
    """Whether most images are named as in the Decathlon: like their labels, or at least without a channel's number."""
    labels = {path.name for path in description.inside("labels", "training")}
    images = {path.name for path in description.inside("images", "training") or description.inside("images", "test")}
    numbered = [name for name in images - labels if channel_in(name, description)]
    return description.version == 1 and len(numbered) < len(images) / 2


def find(description: Description, task: Task, part: str, problems: list[DataError]) -> list[Entry]:
    """The entries of a part, a frame of the image for each modality; what is wrong is added to `problems`."""
    channels = own_channels(description, task, problems)
    labels, images = description.labels_by_case(part, problems), description.inside("images", part)
    names = {path.name for path in (*images, *labels.values())}
    entries = []
    for path in images:
        id = path.name.removesuffix(description.ending)
        label = [(labels.pop(id), "label")] if id in labels else []
        with collected(problems, id, path):
            _check_name(path, description, names)
            used, others = _frames(path, description, channels)
            entries.append(entry_of(id, used + label, task, problems, description.patients.get(id), others))
            continue
        entries.append(Entry(id, {}, named=[(path, None), *label]))
    for id, path in labels.items():
        entries.append(entry_of(id, [(path, "label")], task, problems))
    return entries


def _check_name(path: Path, description: Description, names: set[str]) -> None:
    if not path.name.endswith(description.ending):
        raise DataError(f"found the file name {path.name!r}, expected <case>{description.ending}",
                        f"Save it as {description.ending}, or move it away.")
    found = channel_in(path.name, description)
    if found and f"{found[0]}{description.ending}" in names:
        raise DataError(f"found the file name {path.name!r} with the number of a channel, as in nnU-Net v1, among "
                        "images without one, as in the Medical Segmentation Decathlon",
                        "Have one of the two: one file a channel, or one 4-D file a case.")


def _frames(path: Path, description: Description,
            channels: Mapping[int, str]) -> tuple[list[tuple[Source, str]], list[tuple[Source, str]]]:
    """The frames that the task uses under its own names, and the others."""
    with nifti.located(None, None, path):
        shape = tuple(int(n) for n in nifti.header_of(path).get_data_shape())
    if math.prod(shape[3:]) != len(description.channels) or len(shape) > 4:
        raise DataError(f"found the shape {shape}, expected {len(description.channels)} frames, one for each of "
                        f"{', '.join(description.channels.values())} in dataset.json",
                        "Correct the modalities in dataset.json, or copy the image again; one file a channel is "
                        "called <case>_0000.nii.gz, as in nnU-Net.")
    of = {number: Frame(path, number) if len(description.channels) > 1 else path for number in description.channels}
    return ([(of[number], name) for number, name in channels.items()],
            [(of[number], name) for number, name in description.channels.items() if number not in channels])

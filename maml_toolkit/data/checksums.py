"""Checksums of what the files of a case hold, wherever they lie and whatever their dates."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data import nifti
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.system.files import checksum


def checksums(case: Case, task: Task, label: bool = False) -> dict[str, dict[str, Any]]:
    """Modality -> SHA-256 of its file (and the frame of a 4-D one), of every modality of the task that the case has.

    All count, those that a prediction does not use too: the box that is cropped is that of all.

    Args:
        label: whether the label counts too, if there is one.

    Raises:
        DataError: a file that cannot be read.
    """
    sources = {name: case.images[name] for name in task.modalities if name in case.images}
    if label and case.label is not None:
        sources["label"] = case.label
    read: dict[Path, str] = {}
    found = {}
    for name, source in sources.items():
        with nifti.located(case.id, name, path_of(source)):
            found[name] = {"sha256": _checksum(source, read)}
        if isinstance(source, Frame):
            found[name]["frame"] = source.index
    return found


def content(case: Case, task: Task) -> str:
    """One checksum of all that a training reads of a case.

    Raises:
        DataError: a file that cannot be read.
    """
    return together(checksums(case, task, label=True))


def together(found: dict[str, dict[str, Any]]) -> str:
    """One checksum of what `checksums` found."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def checksum_of(image: nib.Nifti1Image) -> str:
    """SHA-256 of an image held in memory: of its voxels and its affine."""
    content = np.ascontiguousarray(image.dataobj)
    return hashlib.sha256(repr((content.dtype.str, content.shape)).encode() + content.tobytes()
                          + image.affine.tobytes()).hexdigest()


def _checksum(source: Source, read: dict[Path, str]) -> str:
    if isinstance(source, nib.Nifti1Image):
        return checksum_of(source)
    path = Path(path_of(source))
    if path not in read:
        read[path] = checksum(path)
    return read[path]

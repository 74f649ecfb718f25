"""Manifests: what a prediction in a folder was made from, and whether it still is what would be made."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data import nifti
from maml_toolkit.data.cases import Case
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.sharding.shards import MANIFEST
from maml_toolkit.tasks import Task

WRITTEN = re.compile(r"(labels|probabilities|attention_\w+|contribution_\w+)\.nii\.gz|(prediction|manifest)\.json")
"""The names of the files in the folder of a prediction."""


def manifest(folder: Path) -> dict[str, Any] | None:
    """What is written about the prediction in a folder; None where none is, or a file of it is gone or was cut."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in found["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def is_done(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether a folder holds, whole, the prediction that would be made from this."""
    found = manifest(folder)
    return found is not None and all(found.get(name) == value for name, value in made_from.items())


def foreign(folder: Path) -> list[str]:
    """Files in the folder of a prediction that no prediction wrote, and that must not be lost with it."""
    return sorted(path.name for path in folder.iterdir() if not WRITTEN.fullmatch(path.name)) if folder.exists() else []


def checksums(case: Case, task: Task) -> dict[str, dict[str, Any]]:
    """Modality -> SHA-256 of its file (and the frame of a 4-D one), of every modality of the task that the case has.

    All count, those that a prediction does not use too: the box that is cropped is that of all.

    Raises:
        DataError: a file that cannot be read.
    """
    read: dict[Path, str] = {}
    found = {}
    for name in (one for one in task.modalities if one in case.images):
        source = case.images[name]
        with nifti.located(case.id, name, path_of(source)):
            found[name] = {"sha256": _checksum(source, read)}
        if isinstance(source, Frame):
            found[name]["frame"] = source.index
    return found


def _checksum(source: Source, read: dict[Path, str]) -> str:
    if isinstance(source, nib.Nifti1Image):
        content = np.ascontiguousarray(source.dataobj)
        return hashlib.sha256(repr((content.dtype.str, content.shape)).encode() + content.tobytes()
                              + source.affine.tobytes()).hexdigest()
    path = Path(path_of(source))
    if path not in read:
        with path.open("rb") as file:
            read[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return read[path]

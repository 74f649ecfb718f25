"""What was done to a case: the record in its folder, and whether it has to be done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data.cases import Case
from maml_toolkit.data.registration.recipes import Recipe
from maml_toolkit.data.registration.registering import Registration
from maml_toolkit.data.registration.transforms import Transform
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.tasks import Task

RECORD = "registration.json"
"""In the folder of a case: what was done, and with which inputs."""

TRANSFORMS = "transforms"
"""The folder of the transforms, in the folder of a case."""


@dataclass(frozen=True)
class RegisteredCase:
    """A case on one grid.

    Attributes:
        case: the files that were written.
        registrations: modality -> what was found, now or when the case was done.
        folder: of the case.
    """

    case: Case
    registrations: Mapping[str, Registration]
    folder: Path

    def transform(self, modality: str) -> Transform:
        """Reference points to points of this modality's own scan."""
        return Transform.load(self.folder / TRANSFORMS / f"{modality}.tfm")

    def record(self) -> dict[str, Any]:
        """What registration.json says."""
        return json.loads((self.folder / RECORD).read_text(encoding="utf-8"))


def written(folder: Path, case: Case) -> Case:
    """The case whose files lie, or will lie, in its folder."""
    label = None if case.label is None else folder / f"{case.id}_seg.nii.gz"
    return Case(case.id, {name: folder / f"{case.id}_{name}.nii.gz" for name in case.images}, label, case.patient)


def asked_for(case: Case, task: Task, recipes: Mapping[str, Recipe], force: bool) -> dict[str, Any]:
    """Everything that decides about the result."""
    sources = {**case.images, **({} if case.label is None else {"label": case.label})}
    asked = {"inputs": {name: _fingerprint(source) for name, source in sources.items()},
             "task": {"reference": task.reference, "label_on": task.label_on}, "force": force,
             "recipes": {name: one.to_json() for name, one in recipes.items()}}
    return json.loads(json.dumps(asked))


def done_before(folder: Path, asked: Mapping[str, Any], case: Case) -> RegisteredCase | None:
    """What lies in the folder, if it was made of the same inputs in the same way."""
    done = RegisteredCase(written(folder, case), {}, folder)
    try:
        record = done.record()
    except (OSError, ValueError):
        return None
    files = [*done.case.images.values(), *([] if done.case.label is None else [done.case.label]),
             *(folder / TRANSFORMS / f"{name}.tfm" for name in done.case.images)]
    is_same = all(record.get(name) == value for name, value in asked.items())
    if not is_same or not all(file.is_file() for file in files):
        return None
    return replace(done, registrations={
        name: Registration.from_json(entry, done.transform(name), Recipe.from_json(record["recipes"][name]))
        for name, entry in record["modalities"].items()})


def _fingerprint(source: Source) -> str:
    """Of the bytes of a file, or of an image in memory."""
    digest = hashlib.sha256(str(source.index).encode() if isinstance(source, Frame) else b"")
    if isinstance(source, nib.Nifti1Image):
        digest.update(np.ascontiguousarray(np.asanyarray(source.dataobj)))
        digest.update(np.ascontiguousarray(source.affine))
    else:
        with open(source.path if isinstance(source, Frame) else source, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def table_of(done: Iterable[RegisteredCase]) -> list[dict[str, Any]]:
    """One row a case and modality."""
    return [{"case": one.case.id, "modality": modality, "recipe": entry["recipe"], "seconds": entry["seconds"],
             "simulated": modality in one.record()["simulated"],
             **{f"{name}_before": value for name, value in entry["before"].items()
                if name in ("nmi", "body_dice", "covered")},
             **{f"{name}_after": value for name, value in entry["after"].items()}, "notes": "; ".join(entry["notes"])}
            for one in done for modality, entry in one.record()["modalities"].items()]

"""Register every modality of a case onto the reference modality, carry its label along, and write the result.

    <out>/<case>/<case>_<modality>.nii.gz, <case>_seg.nii.gz      on one grid; `find_cases(out, task)` finds them
    <out>/<case>/transforms/<modality>.tfm                        fixed (reference) to moving points
    <out>/<case>/registration.json                                the measures before and after, and what was done
    <out>/registration.csv                                        one row a case and modality
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.registration.recipes import Recipe, recipe_of
from maml_toolkit.data.registration.registering import Registration, register
from maml_toolkit.data.registration.transforms import Transform
from maml_toolkit.data.volumes import Frame, Source, Volume, grid_difference
from maml_toolkit.errors import DataError
from maml_toolkit.files import whole_folder, write_whole
from maml_toolkit.machine import progress
from maml_toolkit.tasks import Task

RECORD = "registration.json"
"""In the folder of a case: what was done, and with which inputs."""

TRANSFORMS = "transforms"
"""The folder of the transforms, in the folder of a case."""

Recipes = str | Recipe | Mapping[str, str | Recipe] | None
"""One recipe, or one for each modality; None takes "mr" or "liver_phases" as the task's intensities are."""


@dataclass(frozen=True)
class RegisteredCase:
    """A case on one grid.

    Attributes:
        case: the files that were written.
        registrations: modality -> what was found; empty for a case that was done already.
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


def register_case(case: Case, task: Task, out: str | Path, recipe: Recipes = None, *, force: bool = False,
                  time_limit_s: float = 1800) -> RegisteredCase:
    """Register a case and write it; a case that was done with the same inputs is not done again.

    The label is the one thing that is never interpolated if that can be avoided: drawn on the reference it is
    written as it is, drawn on another modality (`task.label_on`) it is carried with that one's transform.

    Args:
        out: the folder of the data set; the case gets a folder in it, whole or not at all.
        recipe: None takes "mr" or "liver_phases" as the task's intensities are.
        force: accept results that are worse than none.
        time_limit_s: for each modality.

    Raises:
        DataError: the reference modality or the label's owner is missing, a file cannot be read, the label does not
            lie on its owner's grid, or a modality cannot be registered; it is named.
    """
    _check_case(case, task)
    recipes = {name: _recipe(recipe, name, task) for name in case.images if name != task.reference}
    asked = _asked(case, task, recipes, force)
    folder = Path(out) / case.id
    if (done := _done(folder, asked, case)) is not None:
        return done
    scans = {name: volumes.read(source, case=case.id, modality=name) for name, source in case.images.items()}
    label = _label(case, task, scans)
    found = {name: _registered(scans[task.reference], scans[name], recipes[name], case, name, time_limit_s, force)
             for name in recipes}
    with whole_folder(folder) as place:
        (place / TRANSFORMS).mkdir()
        _write(place, case, task, scans, label, found)
        record = {**asked, "case": case.id, "reference": task.reference, "label_on": label_owner(task),
                  "patient": case.patient, "modalities": {name: one.to_json() for name, one in found.items()}}
        write_whole(place / RECORD, json.dumps(record, indent=2))
    return RegisteredCase(_written(folder, case), found, folder)


def register_cases(cases: Iterable[Case], task: Task, out: str | Path, recipe: Recipes = None, *, force: bool = False,
                   time_limit_s: float = 1800) -> list[RegisteredCase]:
    """Register a data set: all cases that can be, then one error about those that cannot.

    Args:
        cases, task, out, recipe, force, time_limit_s: as for `register_case`.

    Raises:
        DataError: every problem together, after the other cases were written.
    """
    done, problems = [], []
    for case in progress(list(cases), desc="registration", unit="case"):
        try:
            done.append(register_case(case, task, out, recipe, force=force, time_limit_s=time_limit_s))
        except DataError as error:
            problems.append(error)
    if done:
        write_whole(Path(out) / "registration.csv", _table(done))
    if problems:
        raise DataError.together(problems)
    return done


def label_owner(task: Task) -> str:
    """The modality on whose grid the label was drawn."""
    return getattr(task, "label_on", None) or task.reference


def _check_case(case: Case, task: Task) -> None:
    having = f"; the case has {', '.join(case.images) or 'none'}"
    if task.reference not in case.images:
        raise DataError(f"the reference modality {task.reference} is missing{having}",
                        "Add its scan, or name another reference in the task.", case=case.id)
    if case.label is not None and label_owner(task) not in case.images:
        raise DataError(f"the label was drawn on {label_owner(task)}, which is missing{having}",
                        "Add the scan, or say in the task on which modality the label was drawn.", case=case.id)


def _recipe(recipe: Recipes, modality: str, task: Task) -> Recipe:
    chosen = recipe.get(modality) if isinstance(recipe, Mapping) else recipe
    return recipe_of(chosen or {"mr": "mr", "ct": "liver_phases"}[task.intensities[modality]])


def _label(case: Case, task: Task, scans: Mapping[str, Volume]) -> Volume | None:
    """The label, which must lie on the grid of the scan on which it was drawn."""
    if case.label is None:
        return None
    label, owner = volumes.read_label(case.label, case=case.id), label_owner(task)
    if difference := grid_difference(scans[owner], label):
        fits = [name for name, scan in scans.items() if grid_difference(scan, label) is None]
        raise DataError(f"the label does not lie on the grid of {owner}, on which it was drawn: {difference}",
                        f"It lies on the grid of {', '.join(fits)}: name the owner of the label in the task." if fits
                        else "Give the label on the grid of the scan on which it was drawn.", case=case.id,
                        path=volumes.path_of(case.label))
    return label


def _registered(fixed: Volume, moving: Volume, recipe: Recipe, case: Case, modality: str, time_limit_s: float,
                force: bool) -> Registration:
    try:
        return register(fixed, moving, recipe, time_limit_s=time_limit_s, force=force)
    except DataError as error:
        raise DataError(error.problem, error.remedy, case=case.id, modality=modality,
                        path=volumes.path_of(case.images[modality])) from error


def _write(place: Path, case: Case, task: Task, scans: Mapping[str, Volume], label: Volume | None,
           found: Mapping[str, Registration]) -> None:
    reference = scans[task.reference]
    for name, scan in scans.items():
        on_grid = found[name].apply(scan, reference) if name in found else scan
        array = np.rint(on_grid.array).astype(np.int16) if task.intensities[name] == "ct" else on_grid.array
        volumes.write(place / f"{case.id}_{name}.nii.gz", array, reference.affine)
        transform = found[name].transform if name in found else Transform.identity()
        transform.save(place / TRANSFORMS / f"{name}.tfm")
    if label is not None:
        owner = label_owner(task)
        carried = found[owner].apply(label, reference, label=True) if owner in found else label
        volumes.write(place / f"{case.id}_seg.nii.gz", carried.array, reference.affine)


def _written(folder: Path, case: Case) -> Case:
    label = None if case.label is None else folder / f"{case.id}_seg.nii.gz"
    return Case(case.id, {name: folder / f"{case.id}_{name}.nii.gz" for name in case.images}, label, case.patient)


def _asked(case: Case, task: Task, recipes: Mapping[str, Recipe], force: bool) -> dict[str, Any]:
    """Everything that decides about the result."""
    sources = {**case.images, **({} if case.label is None else {"label": case.label})}
    asked = {"inputs": {name: _fingerprint(source) for name, source in sources.items()},
             "task": {"reference": task.reference, "label_on": label_owner(task)}, "force": force,
             "recipes": {name: one.to_json() for name, one in recipes.items()}}
    return json.loads(json.dumps(asked))


def _done(folder: Path, asked: Mapping[str, Any], case: Case) -> RegisteredCase | None:
    """What lies in the folder, if it was made of the same inputs in the same way."""
    done = RegisteredCase(_written(folder, case), {}, folder)
    try:
        record = done.record()
    except (OSError, ValueError):
        return None
    files = [*done.case.images.values(), *([] if done.case.label is None else [done.case.label])]
    is_same = all(record.get(name) == value for name, value in asked.items())
    return done if is_same and all(file.is_file() for file in files) else None


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


def _table(done: Iterable[RegisteredCase]) -> str:
    rows = [{"case": one.case.id, "modality": modality, "recipe": entry["recipe"], "seconds": entry["seconds"],
             **{f"{name}_before": value for name, value in entry["before"].items()
                if name in ("nmi", "body_dice", "covered")},
             **{f"{name}_after": value for name, value in entry["after"].items()}, "notes": "; ".join(entry["notes"])}
            for one in done for modality, entry in one.record()["modalities"].items()]
    text = io.StringIO()
    if rows:
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return text.getvalue()

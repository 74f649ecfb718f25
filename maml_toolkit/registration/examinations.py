"""Register every modality of a case onto the reference modality, carry its label along, and write the result.

    <out>/<case>/<case>_<modality>.nii.gz, <case>_seg.nii.gz      on one grid; `find_cases(out, task)` finds them
    <out>/<case>/transforms/<modality>.tfm                        fixed (reference) to moving points
    <out>/<case>/registration.json                                the measures before and after, and what was done
    <out>/registration.csv                                        one row a case and modality, of every call
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.case import write_patient
from maml_toolkit.data.cases import Case
from maml_toolkit.data.marks import mark_of
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume, grid_difference
from maml_toolkit.registration.recipes import Recipe, recipe_of
from maml_toolkit.registration.records import (
    RECORD,
    TRANSFORMS,
    RegisteredCase,
    asked_for,
    done_before,
    write_table,
    written,
)
from maml_toolkit.registration.registering import Refused, Registration, register
from maml_toolkit.registration.transforms import Transform
from maml_toolkit.system.errors import DataError, warn_of
from maml_toolkit.system.files import sweep, whole_folder, write_whole
from maml_toolkit.system.integers import whole
from maml_toolkit.system.machine import progress

Recipes = str | Recipe | Mapping[str, str | Recipe] | None
"""One recipe, or one for each modality; None takes "mr" or "liver_phases" as the task's intensities are."""


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
    asked = asked_for(case, task, recipes, force)
    folder = Path(out) / case.id
    if (done := done_before(folder, asked, case)) is not None:
        return done
    scans = {name: volumes.read(source, case=case.id, modality=name) for name, source in case.images.items()}
    label = _label(case, task, scans)
    found, problems = {}, []
    for name in recipes:
        try:
            found[name] = register(scans[task.reference], scans[name], recipes[name], time_limit_s=time_limit_s,
                                   force=force)
        except DataError as error:
            problems.append(_named(error, case, name))
    if problems:
        raise DataError.together(problems)
    with whole_folder(folder) as place:
        (place / TRANSFORMS).mkdir()
        _write(place, case, task, scans, label, found)
        record = {**asked, "case": case.id, "reference": task.reference, "label_on": task.label_on,
                  "patient": case.patient,
                  "simulated": [name for name, source in case.images.items() if mark_of(source)],
                  "modalities": {name: one.to_json() for name, one in found.items()}}
        write_whole(place / RECORD, json.dumps(record, indent=2))
    return RegisteredCase(written(folder, case), found, folder)


def register_cases(cases: Iterable[Case], task: Task, out: str | Path, recipe: Recipes = None, *, force: bool = False,
                   time_limit_s: float = 1800) -> list[RegisteredCase]:
    """Register a data set: all cases that can be, then one error about those that cannot.

    Args:
        cases, task, out, recipe, force, time_limit_s: as for `register_case`.

    Raises:
        DataError: every problem together, after the other cases were written.
    """
    done, problems = attempt_cases(cases, task, out, recipe, force=force, time_limit_s=time_limit_s)
    if problems:
        raise DataError.together(problems)
    return done


def attempt_cases(cases: Iterable[Case], task: Task, out: str | Path, recipe: Recipes = None, *, force: bool = False,
                  time_limit_s: float = 1800) -> tuple[list[RegisteredCase], list[DataError]]:
    """Register all cases of a data set that can be; the others' problems.

    registration.csv lists what earlier calls left in the folder too, and the problems that they had.

    Args:
        cases, task, out, recipe, force, time_limit_s: as for `register_case`.
    """
    cases, done, problems = list(cases), [], []
    sweep(Path(out), alone=False)
    for case in progress(cases, desc="registration", unit="case"):
        try:
            done.append(register_case(case, task, out, recipe, force=force, time_limit_s=time_limit_s))
        except DataError as error:
            problems += error.errors
    write_table(Path(out), {case.id for case in cases}, problems)
    return done, problems


def refused_registration(problem: DataError) -> Registration | None:
    """The result that was refused, to look at, where the problem is that it is worse than none."""
    return problem.__cause__.registration if isinstance(problem.__cause__, Refused) else None


def _check_case(case: Case, task: Task) -> None:
    having = f"; the case has {', '.join(case.images) or 'none'}"
    if task.reference not in case.images:
        raise DataError(f"the reference modality {task.reference} is missing{having}",
                        "Add its scan, or name another reference in the task.", case=case.id)
    if case.label is not None and task.label_on not in case.images:
        raise DataError(f"the label was drawn on {task.label_on}, which is missing{having}",
                        "Add the scan, or say in the task on which modality the label was drawn.", case=case.id)


def _recipe(recipe: Recipes, modality: str, task: Task) -> Recipe:
    chosen = recipe.get(modality) if isinstance(recipe, Mapping) else recipe
    return recipe_of(chosen or ("liver_phases" if task.intensities[modality] == "ct" else "mr"))


def _label(case: Case, task: Task, scans: Mapping[str, Volume]) -> Volume | None:
    """The label, which must lie on the grid of the scan on which it was drawn."""
    if case.label is None:
        return None
    label, owner = volumes.read_label(case.label, case=case.id), task.label_on
    if difference := grid_difference(scans[owner], label):
        fits = [name for name, scan in scans.items() if grid_difference(scan, label) is None]
        raise DataError(f"the label does not lie on the grid of {owner}, on which it was drawn: {difference}",
                        f"It lies on the grid of {', '.join(fits)}: name the owner of the label in the task." if fits
                        else "Give the label on the grid of the scan on which it was drawn.", case=case.id,
                        path=volumes.path_of(case.label))
    return label


def _named(error: DataError, case: Case, modality: str) -> DataError:
    named = DataError(error.problem, error.remedy, case=case.id, modality=modality,
                      path=volumes.path_of(case.images[modality]))
    named.__cause__ = error
    return named


def _write(place: Path, case: Case, task: Task, scans: Mapping[str, Volume], label: Volume | None,
           found: Mapping[str, Registration]) -> None:
    reference = scans[task.reference]
    write_patient(place, case.patient)
    for name, scan in scans.items():
        on_grid = found[name].apply(scan, reference) if name in found else scan
        in_hu = task.intensities[name] == "ct" and np.array_equal(scan.array, np.rint(scan.array))
        array = whole(on_grid.array, np.int16) if in_hu else on_grid.array
        volumes.write(place / f"{case.id}_{name}.nii.gz", array, reference.affine, mark_of(case.images[name]))
        transform = found[name].transform if name in found else Transform.identity()
        transform.save(place / TRANSFORMS / f"{name}.tfm")
    if label is not None:
        owner = task.label_on
        carried, lost = found[owner].transform.carry(label, reference) if owner in found else (label, {})
        warn_of([DataError(f"{count} lesions (connected parts of the value {value}) are not on the grid of "
                           f"{task.reference}: they lie outside, or share a voxel with another", "Look at the result.",
                           case=case.id, modality="label", path=volumes.path_of(case.label))
                 for value, count in lost.items()])
        volumes.write(place / f"{case.id}_seg.nii.gz", carried.array, reference.affine, mark_of(case.label))

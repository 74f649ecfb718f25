"""Register every modality of a case onto the reference modality, carry its label along, and write the result.

    <out>/<case>/<case>_<modality>.nii.gz, <case>_seg.nii.gz      on one grid; `find_cases(out, task)` finds them
    <out>/<case>/transforms/<modality>.tfm                        fixed (reference) to moving points
    <out>/<case>/registration.json                                the measures before and after, and what was done
    <out>/registration.csv                                        one row a case and modality, of every call
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.case import FACTS, Case, facts_of, file_name, write_facts
from maml_toolkit.data.checksums import checksums_of
from maml_toolkit.data.reading import spelt_otherwise
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume, grid_difference, mark_of
from maml_toolkit.registration.registering import Recipe, Registration, recipe_of, register
from maml_toolkit.registration.transforms import Transform
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, collected, expect_none, expect_one_of, warn_of
from maml_toolkit.system.files import as_json, same_json, sweep, whole_folder, write_whole
from maml_toolkit.system.integers import whole
from maml_toolkit.system.machine import progress

TABLE = "registration.csv"
"""In the folder of a data set: what was measured, and what was refused."""

RECORD = "registration.json"
"""In the folder of a case: what was done, and with which inputs."""

NO_FACTS = {"patient": None, "labelled": None}
"""What the record says of a case of which nothing is known."""

Recipes = str | Recipe | Mapping[str, str | Recipe] | None
"""One recipe, or one for each modality; None takes "mr" or "liver_phases" as the task's intensities are."""


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

    def record(self) -> dict[str, Any]:
        """What registration.json says."""
        return json.loads((self.folder / RECORD).read_text(encoding="utf-8"))


def register_cases(cases: Iterable[Case], task: Task, out: str | Path, recipe: Recipes = None, *, force: bool = False,
                   time_limit_s: float = 1800, problems: list[DataError] | None = None) -> list[RegisteredCase]:
    """Register a data set: all cases that can be, then one error about those that cannot.

    registration.csv lists what earlier calls left in the folder too, and the problems that they had.

    Args:
        cases, task, out, recipe, force, time_limit_s: as for `register_case`.
        problems: a list that what is wrong is added to, in place of the error.

    Raises:
        DataError: every problem together, after the other cases were written.
    """
    cases, done, found = list(cases), [], []
    sweep(Path(out), alone=False)
    for case in progress(cases, desc="registration", unit="case"):
        with collected(found):
            done.append(register_case(case, task, out, recipe, force=force, time_limit_s=time_limit_s))
    _write_table(Path(out), {case.id for case in cases}, found)
    if problems is None:
        expect_none(found)
    else:
        problems += found
    return done


def register_case(case: Case, task: Task, out: str | Path, recipe: Recipes = None, *, force: bool = False,
                  time_limit_s: float = 1800) -> RegisteredCase:
    """Register a case and write it; a case that was done with the same inputs is not done again.

    The label is the one thing that is never interpolated if that can be avoided: drawn on the reference it is
    written as it is, drawn on another modality (`task.label_on`) it is carried with that one's transform.

    Args:
        out: the folder of the data set; the case gets a folder in it, whole or not at all.
        recipe: None takes "mr" or "liver_phases" as the task's intensities are; these say in any case what air is.
        force: accept results that are worse than none.
        time_limit_s: for each modality.

    Raises:
        DataError: the reference modality or the label's owner is missing, a file cannot be read, the label does not
            lie on its owner's grid, or a modality cannot be registered; it is named.
    """
    _check_case(case, task)
    recipes = {name: _recipe(recipe, name, task) for name in case.images if name != task.reference}
    asked, folder = _asked_for(case, task, recipes, force), Path(out) / case.id
    done = _done(folder)
    if done and _is(done.record(), asked):
        if facts_of(done.case) != facts_of(case):       # which decide about folds, and nothing about where scans lie
            (folder / FACTS).unlink(missing_ok=True)
            write_facts(folder, case)
            write_whole(folder / RECORD, json.dumps({**done.record(), **NO_FACTS, **facts_of(case)}, indent=2))
        return RegisteredCase(_written(case, folder), done.registrations, folder)
    scans = {name: volumes.read(source, case=case.id, modality=name) for name, source in case.images.items()}
    label = _label(case, task, scans)
    found, problems = {}, []
    for name in recipes:
        with collected(problems, case.id, volumes.path_of(case.images[name]), name):
            found[name] = register(scans[task.reference], scans[name], recipes[name], time_limit_s=time_limit_s,
                                   force=force)
    expect_none(problems)
    with whole_folder(folder) as place:
        _write(place, case, task, scans, label, found)
        record = {**asked, "case": case.id, "reference": task.reference, "label_on": task.label_on,
                  **NO_FACTS, **facts_of(case),
                  "simulated": [name for name, source in case.images.items() if mark_of(source)],
                  "modalities": {name: one.to_json() for name, one in found.items()}}
        write_whole(place / RECORD, json.dumps(record, indent=2))
    return RegisteredCase(_written(case, folder), found, folder)


def registered_in(out: Path) -> list[RegisteredCase]:
    """The cases that were ever registered into a folder and lie there whole, by id."""
    return [*filter(None, (_done(path.parent) for path in sorted(out.glob(f"[!.]*/{RECORD}"))))]


def _check_case(case: Case, task: Task) -> None:
    problems = [*spelt_otherwise(case, task)]
    for name in case.images:
        with collected(problems, case.id, volumes.path_of(case.images[name]), name):
            task.modality(name)
    expect_none(problems)
    having = f"; the case has {', '.join(case.images) or 'none'}"
    if task.reference not in case.images:
        raise DataError(f"the reference modality {task.reference} is missing{having}",
                        "Add its scan, or name another reference in the task.", case=case.id)
    if case.label is not None and task.label_on not in case.images:
        raise DataError(f"the label was drawn on {task.label_on}, which is missing{having}",
                        "Add the scan, or say in the task on which modality the label was drawn.", case=case.id)


def _recipe(recipe: Recipes, modality: str, task: Task) -> Recipe:
    """How a modality is registered; outside of it is air of its own kind, whatever the recipe was made for."""
    if isinstance(recipe, Mapping):
        for name in recipe:
            expect_one_of("recipe", name, task.modalities)
        recipe = recipe.get(modality)
    kind = task.intensities[modality]
    chosen = recipe_of(recipe or ("liver_phases" if kind == "ct" else "mr"))
    return chosen if kind == "none" else replace(chosen, kind=kind)


def _asked_for(case: Case, task: Task, recipes: Mapping[str, Recipe], force: bool) -> dict[str, Any]:
    """Everything that decides about the result."""
    asked = {"inputs": checksums_of(case.files, case.id),
             "task": {"reference": task.reference, "label_on": task.label_on}, "force": force,
             "recipes": {name: asdict(one) for name, one in recipes.items()}}
    return as_json(asked)


def _is(record: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether that was asked for then; the stages of a recipe run in their order."""
    return asked.items() <= record.items() and all(
        same_json(record["recipes"][name], recipe) for name, recipe in asked["recipes"].items())


def _done(folder: Path) -> RegisteredCase | None:
    """The case that was written into a folder, if it lies there whole."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        asked = Case.from_files(record["case"], dict.fromkeys(record["inputs"], folder), record["patient"],
                                record.get("labelled"))
        case = _written(asked, folder)
        found = {name: Registration.from_json(entry, Transform.load(_transform(folder, name)),
                                              Recipe(**record["recipes"][name]))
                 for name, entry in record["modalities"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    files = [*case.files.values(), *(_transform(folder, name) for name in case.images)]
    return RegisteredCase(case, found, folder) if all(file.is_file() for file in files) else None


def _written(case: Case, folder: Path) -> Case:
    """The case whose files lie, or will lie, in its folder."""
    files = {name: folder / file_name(case.id, name) for name in case.files}
    return replace(case, label=files.pop("label", None), images=files)


def _transform(folder: Path, modality: str) -> Path:
    return folder / "transforms" / f"{modality}.tfm"


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


def _write(place: Path, case: Case, task: Task, scans: Mapping[str, Volume], label: Volume | None,
           found: Mapping[str, Registration]) -> None:
    reference, files = scans[task.reference], _written(case, place)
    write_facts(place, case)
    _transform(place, task.reference).parent.mkdir()
    for name, scan in scans.items():
        on_grid = found[name].apply(scan, reference) if name in found else scan
        in_hu = task.intensities[name] == "ct" and np.array_equal(scan.array, np.rint(scan.array))
        array = whole(on_grid.array, np.int16) if in_hu else on_grid.array
        volumes.write(files.images[name], array, reference.affine, mark_of(case.images[name]))
        transform = found[name].transform if name in found else Transform.identity()
        transform.save(_transform(place, name))
    if label is not None:
        owner = task.label_on
        carried, lost = found[owner].transform.carry(label, reference) if owner in found else (label, {})
        warn_of([DataError(f"{count} lesions (connected parts of the value {value}) are not on the grid of "
                           f"{task.reference}: they lie outside, or share a voxel with another", "Look at the result.",
                           case=case.id, modality="label", path=volumes.path_of(case.label))
                 for value, count in lost.items()])
        volumes.write(files.label, carried.array, reference.affine, mark_of(case.label))


def _write_table(out: Path, asked: Collection[str], problems: Iterable[DataError]) -> None:
    """Write registration.csv: one row a case and modality of all that lie in the folder, and one a problem.

    Args:
        asked: ids of the cases of this call; the problems that an earlier one had with others stay listed.
        problems: of this call.
    """
    path, names = out / TABLE, ("case", "modality", "problem")
    done = [row for one in registered_in(out) for row in _rows(one)]
    earlier = tables.read(path).to_dict("records") if path.is_file() else []
    failed = [{name: row[name] for name in names} for row in earlier if row.get("problem") and row["case"] not in asked]
    failed += [{name: getattr(one, name) for name in names} for one in problems]
    if done or path.exists():
        columns = dict.fromkeys((*(name for row in done for name in row), *names))
        tables.write(path, sorted((*done, *failed), key=lambda row: row["case"] or ""), list(columns))


def _rows(one: RegisteredCase) -> list[dict[str, Any]]:
    """One for each scan that was moved; a case that has no other scan than the reference has one without measures."""
    record = one.record()
    return [{"case": one.case.id, "modality": modality, "recipe": entry["recipe"], "seconds": entry["seconds"],
             "simulated": modality in record["simulated"],
             **{f"{name}_before": value for name, value in entry["before"].items()
                if name in ("nmi", "body_dice", "covered")},
             **{f"{name}_after": value for name, value in entry["after"].items()}, "notes": "; ".join(entry["notes"])}
            for modality, entry in record["modalities"].items()] or [{"case": one.case.id}]

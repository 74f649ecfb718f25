"""What was done to a case: the record in its folder, and whether it has to be done again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maml_toolkit.data.cases import Case
from maml_toolkit.data.checksums import checksums_of
from maml_toolkit.data.tasks import Task
from maml_toolkit.registration.recipes import Recipe
from maml_toolkit.registration.registering import Registration
from maml_toolkit.registration.transforms import Transform
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError

TABLE = "registration.csv"
"""In the folder of a data set: what was measured, and what was refused."""

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
    asked = {"inputs": checksums_of(case.files, case.id),
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
    files = [*done.case.files.values(), *(folder / TRANSFORMS / f"{name}.tfm" for name in done.case.images)]
    is_same = all(record.get(name) == value for name, value in asked.items())
    if not is_same or not all(file.is_file() for file in files):
        return None
    return _with_registrations(done, record)


def registered_in(out: Path) -> list[RegisteredCase]:
    """The cases that were ever registered into a folder and lie there whole, by id."""
    found = []
    for path in sorted(out.glob(f"[!.]*/{RECORD}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record, folder = json.loads(path.read_text(encoding="utf-8")), path.parent
            names = dict.fromkeys(record["inputs"], folder)
            case = Case(record["case"], names, names.pop("label", None), record["patient"])
            found.append(_with_registrations(RegisteredCase(written(folder, case), {}, folder), record))
    return found


def _with_registrations(one: RegisteredCase, record: Mapping[str, Any]) -> RegisteredCase:
    return replace(one, registrations={
        name: Registration.from_json(entry, one.transform(name), Recipe.from_json(record["recipes"][name]))
        for name, entry in record["modalities"].items()})


def write_table(out: Path, asked: Collection[str], problems: Iterable[DataError]) -> None:
    """Write registration.csv: one row a case and modality of all that lie in the folder, and one a problem.

    Args:
        asked: ids of the cases of this call; the problems that an earlier one had with others stay listed.
        problems: of this call.
    """
    done = [row for one in registered_in(out) for row in _rows(one)]
    failed = [row for row in _earlier(out / TABLE) if row["case"] not in asked]
    failed += [{"case": one.case, "modality": one.modality, "problem": one.problem} for one in problems]
    if not done and not (out / TABLE).exists():
        return
    columns = dict.fromkeys((*(name for row in done for name in row), "case", "modality", "problem"))
    tables.write(out / TABLE, sorted((*done, *failed), key=lambda row: row["case"] or ""), list(columns))


def _rows(one: RegisteredCase) -> list[dict[str, Any]]:
    """One for each scan that was moved; a case that has no other scan than the reference has one without measures."""
    record = one.record()
    return [{"case": one.case.id, "modality": modality, "recipe": entry["recipe"], "seconds": entry["seconds"],
             "simulated": modality in record["simulated"],
             **{f"{name}_before": value for name, value in entry["before"].items()
                if name in ("nmi", "body_dice", "covered")},
             **{f"{name}_after": value for name, value in entry["after"].items()}, "notes": "; ".join(entry["notes"])}
            for modality, entry in record["modalities"].items()] or [{"case": one.case.id}]


def _earlier(path: Path) -> list[dict[str, str]]:
    """The rows of a table that name a problem."""
    if not path.is_file():
        return []
    columns, rows = tables.read_rows(path)
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    return [{name: row[name] for name in ("case", "modality", "problem")} for row in cells if row.get("problem")]

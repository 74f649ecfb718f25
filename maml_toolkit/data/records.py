"""What case.json says beside the arrays of a case: from what they were made, and so whether they still fit.

A case is prepared again when the contents of its files or whatever of the task matters have changed, the order of its
classes too, by which they are numbered. Files that lie elsewhere now, or bear another date, are known by their
checksums; where they are gone the arrays stay good.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from maml_toolkit.data.case import Case
from maml_toolkit.data.checksums import is_same, states, together
from maml_toolkit.data.prepared import RECORD, ArrayFile, Arrays, Grid, PreparedCase, read_record
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import same_json, write_whole

RECIPE = ("modalities", "labels", "intensities", "spacing_mm", "ignore")
"""What of a task changes the arrays."""

VERSION = 1
"""Of the arrays: raised wherever they could come out otherwise, so that those of before are made anew."""


def record_of(folder: Path, case: Case, task: Task, any_spacing: bool = False) -> dict[str, Any] | None:
    """What case.json says, if the arrays beside it were made from the files of this case for this task; else None.

    Args:
        any_spacing: of the task does not matter.
    """
    try:
        record = read_record(folder)
        now, before, sums = states(case, task), record["sources"], record["checksums"]
        recipe = _recipe(case.scheme(task)) | ({"spacing_mm": record["recipe"]["spacing_mm"]} if any_spacing else {})
        if not same_json({"version": 1} | record["recipe"], recipe) or now.keys() != before.keys():
            return None
        if not all(is_same(now[name], before[name], sums[name]["sha256"]) for name in now):
            return None
    except (DataError, FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if (seen := {name: before[name] if "gone" in one else one for name, one in now.items()}) != before:
        record["sources"] = seen
        with suppress(OSError):          # where it cannot be written they are compared again
            write_whole(folder / RECORD, json.dumps(record))
    return record


def remembered(folder: Path) -> Case | None:
    """The case that was cached in this folder, as the files that it had; None where there is none."""
    try:
        record = read_record(folder)
        files = {name: Frame(Path(one["path"]), one["frame"]) if "frame" in one else Path(one["path"])
                 for name, one in record["sources"].items()}
        return Case.from_files(record["id"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _recipe(task: Task) -> dict[str, Any]:
    facts = task.to_json()
    return {"version": VERSION} | {name: facts[name] for name in RECIPE if name in facts}


def provenance(task: Task, sums: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record says from what its arrays were made, for this task from files of these checksums."""
    recipe = _recipe(task)
    return {"recipe": recipe, "made": together({"recipe": recipe, "order": [*recipe["labels"]], "files": sums})}


def opened(folder: Path, record: Mapping[str, Any]) -> PreparedCase | None:
    """The case of a folder, its arrays still in their files; None where they are not there, or damaged."""
    try:
        made = record["made"]
        grid = Grid.from_json(record["grid"])
        images = Arrays({name: ArrayFile.at(folder / f"image_{name}.npy", made) for name in record["images"]})
        labels = ArrayFile.at(folder / "labels.npy", made) if "label" in record["sources"] else None
        found = PreparedCase(record["id"], images, labels, ArrayFile.at(folder / "foreground.npy", made), grid,
                             tuple(DataError(**one) for one in (*record["oddities"], *record["lost"])),
                             record["outside"])
        volumes = [*images.values(), *([] if labels is None else [found.labels])]
        is_whole = all(array.shape == grid.working_shape for array in volumes) and found.foreground.ndim == 2
        return found if is_whole else None
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError):
        return None

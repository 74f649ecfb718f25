"""What the arrays of a cached case were made from, and whether its files and the task are still that.

    case.json    "recipe": what of the task matters
                 "sources": path, size and time of each file; the checksum of an image in memory
                 "checksums": of each
                 "made": one checksum of recipe and checksums
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from maml_toolkit.data.cases import Case
from maml_toolkit.data.checksums import checksum_of, checksums, together
from maml_toolkit.data.prepared import RECORD
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.system.files import checksum, write_whole

RECIPE = ("modalities", "labels", "intensities", "spacing_mm")
"""What of a task changes the arrays."""


def made_from(case: Case, task: Task) -> dict[str, Any]:
    """What arrays of this case for this task are made from, as the files are now.

    Raises:
        DataError: a file that cannot be read.
    """
    recipe, sources, sums = _recipe(task), _sources(case, task), checksums(case, task, label=True)
    made = together({"recipe": recipe, "files": sums})
    return {"recipe": recipe, "sources": sources, "checksums": sums, "made": made}


def record_of(folder: Path, case: Case, task: Task) -> dict[str, Any] | None:
    """What case.json says, if the arrays beside it were made from the files of this case for this task; else None.

    A file at another place, or of another time, is the same if its checksum is; one that is gone is taken to be.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        now, before, sums = _sources(case, task), record["sources"], record["checksums"]
        if record["recipe"] != _recipe(task) or now.keys() != before.keys():
            return None
        if not all(_is_same(now[name], before[name], sums[name]["sha256"]) for name in now):
            return None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if (seen := {name: before[name] if "gone" in one else one for name, one in now.items()}) != before:
        record["sources"] = seen
        with suppress(OSError):          # where it cannot be written they are compared again
            write_whole(folder / RECORD, json.dumps(record))
    return record


def remembered(folder: Path) -> Case | None:
    """The case that was cached in this folder, with the files that it had; None where there is none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {name: Frame(Path(one["path"]), one["frame"]) if "frame" in one else Path(one["path"])
                 for name, one in record["sources"].items()}
        return Case(record["id"], {name: files[name] for name in record["images"]}, files.get("label"),
                    record["patient"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _recipe(task: Task) -> dict[str, Any]:
    facts = task.to_json()
    return {name: facts[name] for name in RECIPE}


def _sources(case: Case, task: Task) -> dict[str, dict[str, Any]]:
    """Modality, or "label" -> what can be known of its file without reading it."""
    named = {name: case.images[name] for name in task.modalities if name in case.images}
    return {name: _state_of(source) for name, source in {**named, "label": case.label}.items() if source is not None}


def _state_of(source: Source) -> dict[str, Any]:
    """Path, size and time of a file, or that it is gone; a checksum of an image held in memory."""
    if not isinstance(source, Path | Frame):
        return {"sha256": checksum_of(source)}
    path = Path(path_of(source)).resolve()
    state = {"path": str(path), **({"frame": source.index} if isinstance(source, Frame) else {})}
    try:
        stat = path.stat()
    except OSError:
        return {**state, "gone": True}
    return {**state, "size": stat.st_size, "time": stat.st_mtime_ns}


def _is_same(now: Mapping[str, Any], before: Mapping[str, Any], sha256: str) -> bool:
    """Whether a file holds what it held."""
    if now == before:
        return True
    if "path" not in now or "path" not in before or now.get("frame") != before.get("frame"):
        return False
    if "gone" in now:
        return now["path"] == before["path"]
    return now["size"] == before["size"] and checksum(Path(now["path"])) == sha256

"""What the files of a case hold, known by checksums wherever they lie and whatever their dates, and if it is there yet.

    SHA-256 of the bytes of a file; of an image in memory, of its voxels and its affine
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from maml_toolkit.data import nifti
from maml_toolkit.data.case import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Frame, Source, path_of
from maml_toolkit.system.files import checksum


def checksums(case: Case, task: Task, label: bool = False,
              known: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """`checksums_of` every modality of the task that the case has.

    All count, those that a prediction does not use too: the box that is cropped is that of all.

    Args:
        label: whether the label counts too, if there is one.
        known: what was seen of files that were read just now (`Stored.file`).

    Raises:
        DataError: a file that cannot be read.
    """
    found = checksums_of(_sources(case, task, label), case.id, known)
    if "label" in found and (own := case.scheme(task)) != task:          # what its values mean counts as they do
        found["label"] |= {"labels": own.to_json()["labels"], "ignore": own.ignore}
    return _with_drawn(case, found)


def checksums_of(sources: Mapping[str, Source], case: str | None = None,
                 known: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Name -> SHA-256 of the source (and the frame of a 4-D file, which is read once).

    Args:
        sources: by modality, and "label".
        case, known: the id for messages; as for `checksums`.

    Raises:
        DataError: a file that cannot be read.
    """
    found, read = {}, {}
    for name, source in sources.items():
        with nifti.located(case, name, path_of(source)):
            found[name] = {"sha256": (known or {}).get(name, {}).get("sha256") or _checksum(source, read)}
        if isinstance(source, Frame):
            found[name]["frame"] = source.index
    return found


def content(case: Case, task: Task) -> str:
    """One checksum of all that a training reads of a case.

    Raises:
        DataError: a file that cannot be read.
    """
    return together(checksums(case, task, label=True))


def together(found: Mapping[str, Any]) -> str:
    """One checksum of what `checksums` found."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def states(case: Case, task: Task, known: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Modality, or "label" -> what can be known without reading it: path, size and time of a file, or that it is gone.

    Of an image in memory it is the checksum.

    Args:
        known: as for `checksums`.
    """
    return _with_drawn(case, {name: _state_of(source, (known or {}).get(name, {}))
                              for name, source in _sources(case, task, label=True).items()})


def is_same(now: Mapping[str, Any], before: Mapping[str, Any], sha256: str) -> bool:
    """Whether a file holds what it held, by its states.

    One at another place, or of another time, is the same if its checksum is; one that is gone is taken to be.
    """
    if now == before:
        return True
    if "path" not in now or "path" not in before or any(
            now.get(what) != before.get(what) for what in ("frame", "labelled")):
        return False
    if "gone" in now:
        return now["path"] == before["path"]
    return now["size"] == before["size"] and checksum(Path(now["path"])) == sha256


def _with_drawn(case: Case, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was found of the files and, of a label in which only some classes were drawn, their names."""
    if case.labelled and "label" in found:
        found["label"]["labelled"] = "+".join(sorted(case.labelled))
    return found


def _sources(case: Case, task: Task, label: bool) -> dict[str, Source]:
    return {name: case.files[name] for name in (*task.modalities, *["label"] * label) if name in case.files}


def _checksum(source: Source, read: dict[Path, str]) -> str:
    """Of one source; a file with several frames is read once."""
    if isinstance(source, nib.Nifti1Image):
        voxels = np.ascontiguousarray(source.dataobj)
        return hashlib.sha256(repr((voxels.dtype.str, voxels.shape)).encode() + voxels.tobytes()
                              + source.affine.tobytes()).hexdigest()
    path = Path(path_of(source))
    if path not in read:
        read[path] = checksum(path)
    return read[path]


def _state_of(source: Source, known: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, nib.Nifti1Image):
        return {"sha256": _checksum(source, {})}
    path = Path(path_of(source)).resolve()
    state = {"path": str(path), **({"frame": source.index} if isinstance(source, Frame) else {})}
    if known:
        return {**state, "size": known["size"], "time": known["time"]}
    try:
        stat = path.stat()
    except OSError:
        return {**state, "gone": True}
    return {**state, "size": stat.st_size, "time": nifti.time_of(stat)}

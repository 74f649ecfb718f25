"""Prepared cases kept as .npy files, from which a patch is read without reading the volume.

    <cache>/<case>/image_<modality>.npy   float32, on the working grid
                   labels.npy             class of each voxel, uint8
                   foreground.npy         some voxels of each foreground class
                   case.json              the grid, the key (what the arrays were made from), the files' checksum

A case is prepared again when its files or whatever of the task matters have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit import machine
from maml_toolkit.data.cases import Case
from maml_toolkit.data.checksums import content
from maml_toolkit.data.grids import Grid
from maml_toolkit.data.preprocessing import PreparedCase, prepare
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.errors import DataError
from maml_toolkit.files import whole_folder
from maml_toolkit.tasks import Task


def prepare_all(cases: Sequence[Case], task: Task, cache: Path | str | None = None,
                workers: int = 2) -> list[PreparedCase]:
    """Prepare every case, several at a time, from the cache where it still fits; a bar shows the progress.

    Args:
        cases, task: what to prepare.
        cache: a folder in which arrays are kept as .npy files, from which a patch is read without reading
            the volume; None keeps them in memory.
        workers: threads.

    Raises:
        DataError: every case that cannot be prepared, all together.
    """
    one = prepare if cache is None else lambda case, task: cached(case, task, Path(cache))
    results, errors = [], []
    with machine.threads(workers) as pool:
        futures = [pool.submit(one, case, task) for case in cases]
        for future in machine.progress(futures, desc="preparing cases", unit="case"):
            try:
                results.append(future.result())
            except DataError as error:
                errors.append(error)
    if errors:
        raise DataError.together(errors)
    return results


def cached(case: Case, task: Task, cache: Path) -> PreparedCase:
    """A case prepared once and kept in a folder of the cache; made again when its files or the task change."""
    folder, key = cache / case.id, cache_key(case, task)
    if found := opened(folder, key):
        return found
    prepared = prepare(case, task)
    with whole_folder(folder) as writing:
        for name, array in prepared.images.items():
            np.save(writing / f"image_{name}.npy", array)
        if prepared.labels is not None:
            np.save(writing / "labels.npy", prepared.labels)
        np.save(writing / "foreground.npy", prepared.foreground)
        (writing / "case.json").write_text(json.dumps(
            {"key": key, "id": case.id, "images": list(prepared.images), "grid": asdict(prepared.grid),
             "outside": prepared.outside, "content": content(case, task)}), encoding="utf-8")
    return opened(folder, key) or prepared


def is_cached(case: Case, task: Task, cache: Path | str | None) -> bool:
    """Whether a case was prepared before, from the same files for the same task."""
    return cache is not None and opened(Path(cache) / case.id, cache_key(case, task)) is not None


def contents(cases: Sequence[Case], task: Task, cache: Path | str | None = None, workers: int = 2) -> dict[str, str]:
    """Case -> checksum of all that a training reads of it; from the cache where it was computed before.

    Raises:
        DataError: every case with a file that cannot be read, all together.
    """
    def one(case: Case) -> str | DataError:
        try:
            known = (cache is not None and _written(Path(cache) / case.id, cache_key(case, task))) or {}
            return known.get("content") or content(case, task)
        except DataError as error:
            return error
        except OSError as error:
            return DataError(f"it cannot be read ({error.strerror})", "Look at the file.", case=case.id,
                             path=error.filename)

    with machine.threads(workers) as pool:
        found = dict(zip([case.id for case in cases], machine.progress(
            pool.map(one, cases), desc="looking for changes", total=len(cases), unit="case"), strict=True))
    if errors := [error for error in found.values() if isinstance(error, DataError)]:
        raise DataError.together(errors)
    return found


def opened(folder: Path, key: str) -> PreparedCase | None:
    """What `cached` wrote, as memory maps; None where it is not there, damaged, or made from something else."""
    try:
        if (written := _written(folder, key)) is None:
            return None
        images = {name: np.load(folder / f"image_{name}.npy", mmap_mode="r") for name in written["images"]}
        labels = np.load(folder / "labels.npy", mmap_mode="r") if (folder / "labels.npy").exists() else None
        grid = Grid(**{name: as_tuples(value) for name, value in written["grid"].items()})
        return PreparedCase(written["id"], images, labels, np.load(folder / "foreground.npy"), grid,
                            outside=written["outside"])
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _written(folder: Path, key: str) -> dict[str, Any] | None:
    """What case.json says, if the arrays were made from what the key says; None where it is not there or damaged."""
    try:
        written = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        return written if written["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def as_tuples(value: object) -> object:
    """JSON's lists, at any depth, as tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def cache_key(case: Case, task: Task) -> str:
    """Changes with the case's files and with whatever of the task changes the arrays."""
    facts = task.to_json()
    recipe = {name: facts[name] for name in ("modalities", "labels", "intensities", "spacing_mm")}
    sources = {name: state_of(source) for name, source in [*case.images.items(), ("label", case.label)]}
    return hashlib.sha256(json.dumps([2, recipe, sources], sort_keys=True).encode()).hexdigest()


def state_of(source: Source | None) -> list | None:
    """Path, size and time of a file; a checksum of an image held in memory."""
    if source is None:
        return None
    if isinstance(source, Frame):
        return [*state_of(source.path), source.index]
    if isinstance(source, Path):
        stat = source.stat()
        return [str(source.resolve()), stat.st_size, stat.st_mtime_ns]
    content = np.ascontiguousarray(source.dataobj).tobytes() + source.affine.tobytes()
    return [hashlib.sha256(content).hexdigest()]

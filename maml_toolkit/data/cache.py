"""Prepared cases kept as .npy files, from which a patch is read without reading the volume.

    <cache>/<case>/image_<modality>.npy   float32, on the working grid
                   labels.npy             class of each voxel, uint8
                   foreground.npy         some voxels of each foreground class
                   case.json              the grid, and the key: what the arrays were made from

A case is prepared again when its files or whatever of the task matters have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from maml_toolkit import machine
from maml_toolkit.data.cases import Case, Source
from maml_toolkit.data.grids import Grid
from maml_toolkit.data.preprocessing import PreparedCase, prepare
from maml_toolkit.errors import DataError
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
    with ThreadPoolExecutor(workers) as pool:
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
    try:
        return opened(folder, key)
    except (OSError, ValueError, KeyError):
        prepared = prepare(case, task)
    temporary = cache / f".writing-{case.id}-{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        for name, array in prepared.images.items():
            np.save(temporary / f"image_{name}.npy", array)
        if prepared.labels is not None:
            np.save(temporary / "labels.npy", prepared.labels)
        np.save(temporary / "foreground.npy", prepared.foreground)
        (temporary / "case.json").write_text(json.dumps(
            {"key": key, "id": case.id, "images": list(prepared.images), "grid": asdict(prepared.grid)}))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return opened(folder, key)


def is_cached(case: Case, task: Task, cache: Path | str | None) -> bool:
    """Whether a case was prepared before, from the same files for the same task."""
    try:
        return cache is not None and bool(opened(Path(cache) / case.id, cache_key(case, task)))
    except (OSError, ValueError, KeyError):
        return False


def opened(folder: Path, key: str) -> PreparedCase:
    """What `cached` wrote, as memory maps. Raises KeyError where it belongs to other files or settings."""
    written = json.loads((folder / "case.json").read_text())
    if written["key"] != key:
        raise KeyError(key)
    as_tuples = lambda value: tuple(map(as_tuples, value)) if isinstance(value, list) else value  # noqa: E731
    grid = Grid(**{name: as_tuples(value) for name, value in written["grid"].items()})
    images = {name: np.load(folder / f"image_{name}.npy", mmap_mode="r") for name in written["images"]}
    labels = folder / "labels.npy"
    return PreparedCase(written["id"], images, np.load(labels, mmap_mode="r") if labels.exists() else None,
                        np.load(folder / "foreground.npy"), grid)


def cache_key(case: Case, task: Task) -> str:
    """Changes with the case's files and with whatever of the task changes the arrays."""
    facts = task.to_json()
    recipe = {name: facts[name] for name in ("modalities", "labels", "intensities", "spacing_mm")}
    sources = {name: state_of(source) for name, source in [*case.images.items(), ("label", case.label)]}
    return hashlib.sha256(json.dumps([1, recipe, sources], sort_keys=True).encode()).hexdigest()


def state_of(source: Source | None) -> list | None:
    """Path, size and time of a file; a checksum of an image held in memory."""
    if source is None:
        return None
    if isinstance(source, Path):
        stat = source.stat()
        return [str(source.resolve()), stat.st_size, stat.st_mtime_ns]
    content = np.ascontiguousarray(source.dataobj).tobytes() + source.affine.tobytes()
    return [hashlib.sha256(content).hexdigest()]

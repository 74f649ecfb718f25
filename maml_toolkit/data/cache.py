"""Prepared cases kept as .npy files, from which a patch is read without reading the volume.

    <cache>/<case>/image_<modality>.npy   float32, on the working grid
                   labels.npy             class of each voxel, uint8
                   foreground.npy         some voxels of each foreground class
                   case.json              the grid, what is odd, and what the arrays were made from: what of the task
                                          matters; path, size, time and checksum of every file
    <cache>/.writing-…/                   what a process is writing, and its lock

A case is prepared again when the contents of its files or whatever of the task matters have changed. Files that lie
elsewhere now, or bear another date, are known by their checksums; where they are gone the arrays stay good. Of
processes that prepare one case at the same time, the first to end wins, and the others take what it wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.cache_records import made_from, record_of, remembered
from maml_toolkit.data.cases import Case, search
from maml_toolkit.data.checksums import content, together
from maml_toolkit.data.grids import Grid
from maml_toolkit.data.prepared import RECORD, ArrayFile, Arrays, PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import Task
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected, few, warn_of
from maml_toolkit.system.files import REPLACED, TAKEN, UNFINISHED, flush, remove, unfinished_folder
from maml_toolkit.system.locks import HeldError, held


def prepare_all(cases: Sequence[Case], task: Task, cache: Path | str | None = None,
                workers: int = 2) -> list[PreparedCase]:
    """Prepare every case, several at a time, from the cache where it still fits; a bar shows the progress.

    Args:
        cases, task: what to prepare.
        cache: a folder in which arrays are kept as .npy files, from which a patch is read without reading
            the volume; None keeps them in memory.
        workers: threads.

    Raises:
        DataError: every case that cannot be prepared, all together; the others are in the cache.
    """
    results, errors = [], []
    with ExitStack() as stack, machine.threads(workers) as pool:
        if cache is not None:
            _sweep(Path(cache))
            place = once(lambda: stack.enter_context(_place_in(Path(cache))))
        one = prepare if cache is None else lambda case, task: cached(case, task, Path(cache), place)
        futures = [pool.submit(one, case, task) for case in cases]
        for future in machine.progress(futures, desc="preparing cases", unit="case"):
            with collected(errors):
                results.append(future.result())
    if errors:
        raise DataError.together(errors)
    return results


def cached(case: Case, task: Task, cache: Path, place: Callable[[], Path] | None = None) -> PreparedCase:
    """A case prepared once and kept in a folder of the cache; made again when its files or the task change.

    Args:
        place: gives a folder in the cache that is this process's own, in which to write; made for this case when left
            out.

    Raises:
        DataError: a file of the case cannot be used.
    """
    if found := _found(case, task, cache):
        return found
    with ExitStack() as stack:
        at = place() if place else stack.enter_context(_place_in(cache))
        try:
            facts = made_from(case, task)
        except DataError:
            prepare(case, task)                  # says all that is wrong with the case
            raise
        prepared = prepare(case, task)
        record = {**facts, "id": case.id, "patient": case.patient, "images": list(prepared.images),
                  "grid": asdict(prepared.grid), "oddities": [_fields(one) for one in prepared.oddities],
                  "outside": dict(prepared.outside)}
        with unfinished_folder(at) as writing:
            _write(writing, prepared, record)
            while not _has_name(writing, cache / case.id) and not _found(case, task, cache):
                with suppress(FileNotFoundError):        # what has the name was made from something else
                    os.rename(cache / case.id, at / f"{UNFINISHED}{uuid.uuid4().hex}")
    return _found(case, task, cache) or prepared


def is_cached(case: Case, task: Task, cache: Path | str | None) -> bool:
    """Whether a case was prepared before, from files of the same content for the same task."""
    return cache is not None and _found(case, task, Path(cache)) is not None


def contents(cases: Sequence[Case], task: Task, cache: Path | str | None = None, workers: int = 2) -> dict[str, str]:
    """Case -> checksum of all that a training reads of it; from the cache where it was computed before.

    Raises:
        DataError: every case with a file that cannot be read, all together.
    """
    def one(case: Case) -> str | DataError:
        try:
            known = None if cache is None else record_of(Path(cache) / case.id, case, task)
            return together(known["checksums"]) if known else content(case, task)
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


def prepared_cases(folder: Path | str, task: Task) -> list[Case]:
    """The cases of a folder that the job `1-prepare` wrote: `cases.csv`, and `arrays` in which they are cached.

    Raises:
        DataError: everything that is wrong with the table, together; of files that are gone, those without arrays.

    Warns:
        DataWarning: files are gone, and the arrays are all that is left.
    """
    table, arrays = Path(folder) / "cases.csv", Path(folder) / "arrays"
    found = search(table, task)
    gone = {problem.case for problem in found.problems if problem.path and problem.case
            and Path(problem.path) != table and not Path(problem.path).exists()}
    kept = {id: case for id in sorted(gone) if (case := remembered(arrays / id))}
    if left := [problem for problem in found.problems if problem.case not in kept]:
        raise DataError.together(left)
    if kept:
        warn_of([DataError(
            f"files of {len(kept)} cases are not where the table says ({few(list(kept))}); their arrays in {arrays} "
            "are used", "That is enough for training. For all that reads the files, correct the paths in the table, or "
            "run prepare again where the files are now.", path=table)])
    return sorted([*(case for case in found.cases if case.id not in kept), *kept.values()], key=lambda case: case.id)


def _write(folder: Path, prepared: PreparedCase, record: Mapping[str, Any]) -> None:
    for name, array in prepared.images.items():
        np.save(folder / f"image_{name}.npy", array)
    if prepared.labels is not None:
        np.save(folder / "labels.npy", prepared.labels)
    np.save(folder / "foreground.npy", prepared.foreground)
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    for file in (*folder.iterdir(), folder):
        flush(file)


def _has_name(writing: Path, folder: Path) -> bool:
    """Give a folder its name, if no other one has it."""
    try:
        os.rename(writing, folder)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        return False
    flush(folder.parent)
    return True


def _found(case: Case, task: Task, cache: Path) -> PreparedCase | None:
    """The case from the cache; None where it is not there, damaged, or made from something else."""
    record = record_of(cache / case.id, case, task)
    return record and _opened(cache / case.id, record)


def _opened(folder: Path, record: Mapping[str, Any]) -> PreparedCase | None:
    """The case of a folder, its arrays still in their files; None where they are not there, or damaged."""
    try:
        made = record["made"]
        grid = Grid(**{name: _as_tuples(value) for name, value in record["grid"].items()})
        images = Arrays({name: ArrayFile.at(folder / f"image_{name}.npy", made) for name in record["images"]})
        labels = ArrayFile.at(folder / "labels.npy", made) if "label" in record["sources"] else None
        found = PreparedCase(record["id"], images, labels, ArrayFile.at(folder / "foreground.npy", made), grid,
                             tuple(DataError(**one) for one in record["oddities"]), record["outside"])
        volumes = [*images.values(), *([] if labels is None else [found.labels])]
        is_whole = all(array.shape == grid.working_shape for array in volumes) and found.foreground.ndim == 2
        return found if is_whole else None
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError):
        return None


def _fields(oddity: DataError) -> dict[str, str | None]:
    named = {name: getattr(oddity, name) for name in ("problem", "remedy", "case", "modality", "path")}
    return {name: None if value is None else str(value) for name, value in named.items()}


def _as_tuples(value: object) -> object:
    """JSON's lists, at any depth, as tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@contextmanager
def _place_in(cache: Path) -> Iterator[Path]:
    """A folder in the cache for what is half written, that is this process's own while the lock in it is held."""
    with ExitStack() as stack:
        while True:
            place = cache / f"{UNFINISHED}{uuid.uuid4().hex}"
            place.mkdir(parents=True)
            try:
                stack.enter_context(held(place))
                break
            except (HeldError, FileNotFoundError):       # swept away before it was locked
                shutil.rmtree(place, ignore_errors=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove what processes that are gone left half written."""
    for left in (*cache.glob(f"{UNFINISHED}*"), *cache.glob(f"{REPLACED}*")):
        with suppress(HeldError, OSError), held(left):
            remove(left)

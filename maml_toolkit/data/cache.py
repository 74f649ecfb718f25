"""Prepared cases kept as .npy files, from which a patch is read without reading the volume.

    <cache>/<case>/image_<modality>.npy   float32, on the working grid
                   labels.npy             class of each voxel, uint8
                   foreground.npy         some voxels of each foreground class
                   pictures.npz           a slice of each volume
                   case.json              the grid; what was found in the files; "recipe", what of the task matters;
                                          "sources", path, size and time of every file (the checksum of an image in
                                          memory); "checksums" of each; "made", one checksum of recipe and checksums
    <cache>/.writing-…/                   what a process is writing

What is there is used while it fits (records.py). Of processes that prepare one case at the same time, the first to end
wins, and the others take what it wrote. Where the task has no spacing yet, arrays have that of their case, and are
resampled once it is known: no file is read twice.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maml_toolkit.data.case import Case, Cases
from maml_toolkit.data.checksums import checksums, content, states, together
from maml_toolkit.data.findings import CaseAudit, Seen, found_in_case
from maml_toolkit.data.layouts import table
from maml_toolkit.data.layouts.finding import search
from maml_toolkit.data.nifti import located
from maml_toolkit.data.prepared import RECORD, PreparedCase, canonical_spacing_mm
from maml_toolkit.data.preprocessing import preprocessed, read_own, respaced, with_spacing
from maml_toolkit.data.reading import Reading, path_in
from maml_toolkit.data.records import opened, provenance, record_of, remembered
from maml_toolkit.data.tasks import Task
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, collected, expect_none, few, warn_of
from maml_toolkit.system.files import FULL, no_room, remove, sweep, whole_folder, write_whole

PICTURES = "pictures.npz"

WORKERS = 2
"""Cases that are read at the same time, where nobody says it."""


def prepare_all(cases: Sequence[Case], task: Task, cache: Path | str | None = None) -> list[PreparedCase]:
    """Prepare every case, several at a time, from the cache where it still fits; a bar shows the progress.

    Args:
        cases, task: what to prepare.
        cache: a folder in which arrays are kept as .npy files, from which a patch is read without reading
            the volume; None keeps them in memory.

    Raises:
        DataError: every case that cannot be prepared, all together; the others are in the cache.
    """
    return Preparation(task, cache).all(cases)


class _Held(NamedTuple):
    """A case in memory: its arrays, the checksums of its files, and what was found in these."""

    prepared: PreparedCase
    checksums: dict[str, Any]
    findings: CaseAudit


class Preparation:
    """Cases on their way to arrays; each file is read once, by the audit or by who asks for the arrays.

    Args:
        task: of the cases; it may have no spacing yet.
        cache: as for `prepare_all`.

    Raises:
        DataError: the cache is a file.
    """

    def __init__(self, task: Task, cache: Path | str | None = None):
        self.task, self.cache = task, None if cache is None else Path(cache)
        self._held: dict[str, _Held] = {}
        if self.cache:
            if self.cache.exists() and not self.cache.is_dir():
                raise DataError("found a file, expected a folder for the arrays", "Name a folder.", path=self.cache)
            sweep(self.cache, alone=False)

    def all(self, cases: Sequence[Case], workers: int = WORKERS) -> list[PreparedCase]:
        """Every case, as for `prepare_all`."""
        results, errors = [], []
        with machine.threads(workers) as pool:
            futures = [pool.submit(self._one, case) for case in cases]
            for future in machine.progress(futures, desc="preparing cases", unit="case"):
                with collected(errors):
                    results.append(future.result())
        expect_none(errors)
        return results

    def _one(self, case: Case) -> PreparedCase:
        if held := self._held.get(case.id):
            self._held[case.id] = held._replace(prepared=respaced(held.prepared, case, self.task))
            return self._held[case.id].prepared
        if self.cache and (found := self._found(case) or self._respaced(case)):
            return found
        own, reading = read_own(case, self.task)
        if self.cache is None:
            return preprocessed(own, reading, self.task)
        return self.add(own, reading, found_in_case(own, reading, self.task))

    def findings(self, case: Case) -> CaseAudit | None:
        """What was found in the files of a case when they were read; None where they were not, or have changed."""
        if case.id in self._held:
            return self._held[case.id].findings
        if not (record := self._record(case)):
            return None
        try:
            with np.load(self.cache / case.id / PICTURES) as pictures:
                seen = tuple(Seen.from_json(one, path_in(case, one["name"]), pictures[one["name"]])
                             for one in record["seen"])
            return CaseAudit(case.id, (), tuple(DataError(**one) for one in record["oddities"]), seen)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def add(self, case: Case, reading: Reading, findings: CaseAudit) -> PreparedCase:
        """Keep the arrays of a case that was read, in which no error was found.

        Raises:
            DataError: the normalisation would leave nothing of a modality.
        """
        known = {name: stored.file for name, stored in reading.stored.items()}
        prepared = preprocessed(case, reading, self.task)
        sums = checksums(case, self.task, label=True, known=known)
        if self.cache is None:
            self._held[case.id] = _Held(prepared, sums, findings)
            return prepared
        return self._write(case, prepared, findings, {"sources": states(case, self.task, known), "checksums": sums})

    def contents(self, cases: Sequence[Case]) -> dict[str, str]:
        """Case -> checksum of all that a training reads of it; computed where it was not read before.

        Raises:
            DataError: every case with a file that cannot be read, all together.
        """
        def one(case: Case) -> str | None:
            with collected(errors), located(case.id, None, None):
                if case.id in self._held:
                    return together(self._held[case.id].checksums)
                record = self._record(case)
                return together(record["checksums"]) if record else content(case, self.task)

        errors: list[DataError] = []
        with machine.threads(WORKERS) as pool:
            found = dict(zip([case.id for case in cases], machine.progress(
                pool.map(one, cases), desc="looking for changes", total=len(cases), unit="case"), strict=True))
        expect_none(errors)
        return found

    def take_spacing(self, cases: Sequence[Case]) -> Task:
        """The task, from now on with the median spacing of these cases if it had none.

        Raises:
            DataError: every case whose header cannot be read, all together.
        """
        if self.task.spacing_mm is None:
            known = {case.id: self._held[case.id].prepared.grid.affine for case in cases if case.id in self._held}
            known |= {case.id: record["grid"]["affine"] for case in cases if (record := self._record(case))}
            self.task = with_spacing(self.task, cases, {id: canonical_spacing_mm(one) for id, one in known.items()})
        return self.task

    def _record(self, case: Case) -> dict[str, Any] | None:
        return self.cache and record_of(self.cache / case.id, case, self.task, any_spacing=True)

    def _found(self, case: Case) -> PreparedCase | None:
        """The case from the cache; None where it is not there, damaged, or made from something else."""
        record = record_of(self.cache / case.id, case, self.task)
        return record and opened(self.cache / case.id, record)

    def _respaced(self, case: Case) -> PreparedCase | None:
        """From arrays that have the spacing of the case."""
        folder, record, findings = self.cache / case.id, self._record(case), self.findings(case)
        own = opened(folder, record) if findings and record["recipe"]["spacing_mm"] is None else None
        if own is None:
            return None
        ready = respaced(own, case, self.task)
        if ready is not own:
            return self._write(case, ready, findings, {name: record[name] for name in ("sources", "checksums")})
        write_whole(folder / RECORD, json.dumps(record | provenance(case.scheme(self.task), record["checksums"])))
        return self._found(case)

    def _write(self, case: Case, prepared: PreparedCase, findings: CaseAudit, files: Mapping[str, Any]) -> PreparedCase:
        record = {"id": case.id, **files, **provenance(case.scheme(self.task), files["checksums"]),
                  "images": list(prepared.images), "grid": asdict(prepared.grid), "outside": dict(prepared.outside),
                  "seen": [one.to_json() for one in findings.seen],
                  "oddities": [one.to_json() for one in findings.oddities],
                  "lost": [one.to_json() for one in prepared.oddities[len(findings.oddities):]]}
        arrays = {f"image_{name}": image for name, image in prepared.images.items()}
        arrays |= {"foreground": prepared.foreground} | ({} if prepared.labels is None else {"labels": prepared.labels})
        try:
            with whole_folder(self.cache / case.id, first_stays=True) as writing:
                for name, array in arrays.items():
                    np.save(writing / f"{name}.npy", array)
                np.savez(writing / PICTURES, **{one.name: one.picture for one in findings.seen})
                (writing / RECORD).write_text(json.dumps(record), encoding="utf-8")
                if not self._found(case):
                    with suppress(FileNotFoundError):        # what has the name was made from something else
                        remove(self.cache / case.id)
        except OSError as error:
            if error.errno not in {*FULL, None}:        # numpy says how many numbers it wrote, and nothing else
                raise
            raise no_room(self.cache, sum(array.nbytes for array in arrays.values()), error) from error
        return self._found(case) or prepared


def prepared_cases(folder: Path | str, task: Task) -> Cases:
    """The cases of a folder that the job `1-prepare` wrote: `cases.csv`, and `arrays` in which they are cached.

    Raises:
        DataError: everything that is wrong with the table, together; of files that are gone, those without arrays.

    Warns:
        DataWarning: files are gone, and the arrays are all that is left.
    """
    path, arrays = Path(folder) / "cases.csv", Path(folder) / "arrays"
    found = search(path, task)
    gone = {problem.case for problem in found.problems if problem.path and problem.case
            and Path(problem.path) != path and not Path(problem.path).exists()}
    said = table.facts(table.read(path)) if gone else {}       # who the patient is may have been corrected since
    kept = {id: replace(case, **said[id]) for id in sorted(gone) if (case := remembered(arrays / id))}
    expect_none([problem for problem in found.problems if problem.case not in kept])
    if kept:
        warn_of([DataError(
            f"files of {len(kept)} cases are not where the table says ({few(list(kept))}); their arrays in {arrays} "
            "are used", "That is enough for training. For all that reads the files, correct the paths in the table, or "
            "run prepare again where the files are now.", path=path)])
    cases = [*(case for case in found.cases if case.id not in kept), *kept.values()]
    return Cases(replace(case, task=task) for case in sorted(cases, key=lambda case: case.id))

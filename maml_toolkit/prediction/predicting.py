"""Prediction of the cases of a shard: while the network runs, the next case is read and the one before is written.

    reads  case 3 | case 4 | case 5            a thread
    runs          | case 3 | case 4 | case 5   the caller's thread
    writes                 | case 3 | case 4   a thread

Three cases are in memory at most. A case is written into a folder of its own, which gets its name when it is whole; its
manifest says from which files and settings it was made. A case whose manifest still fits is left as it is.
"""

import errno
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.cases import Case
from maml_toolkit.data.geometry import voxel_ml
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.saved import MANIFEST, foreign, is_done, made_from, named_maps, sureness_in
from maml_toolkit.prediction.shards import FAILED, RESERVED, Shard, checksum_of_ids, in_words
from maml_toolkit.prediction.sureness import Sureness, plain
from maml_toolkit.system.errors import DataError, expect_none
from maml_toolkit.system.files import whole_folder, writable, write_whole
from maml_toolkit.system.locks import held
from maml_toolkit.system.machine import progress


@dataclass(frozen=True)
class Outcome:
    """What became of the cases of a shard.

    Attributes:
        out: the folder of predictions.
        record: what shard.json or record.json says.
        used: case -> the modalities that its prediction was made from, of the cases predicted now.
        sureness: case -> how sure its answer is, of all that are done, where that was asked for.
        errors: of the cases that failed.
        last: the last case of the shard and its prediction, to look at; None if it failed or was done before.
    """

    out: Path
    record: dict[str, Any]
    used: dict[str, tuple[str, ...]]
    sureness: dict[str, Sureness]
    errors: tuple[DataError, ...]
    last: tuple[Case, Prediction] | None = field(repr=False)

    def __str__(self):
        return in_words(self.record, self.out)

    def check(self) -> None:
        """Nothing, if no case failed.

        Raises:
            DataError: everything that failed; the other cases are done.
        """
        expect_none(self.errors)


def predict_cases(predictor: Predictor, cases: Sequence[Case], out: str | Path, shard: str | Shard | None = None, *,
                  present: str | Iterable[str] | None = None, attention: bool = True,
                  contributions: bool = True, uncertainty: bool = False) -> Outcome:
    """Predict the cases of a shard into a folder; one that fails is listed, and the rest goes on.

    Args:
        predictor: of a trained method.
        cases: all of them; which are the shard's is decided here. Every shard must be given the same.
        out: the folder of predictions, the same for all shards.
        shard: "3/16" for the third of sixteen; None for all cases.
        present, attention, contributions, uncertainty: as for calling the Predictor.

    Returns:
        What became of them. Run it again, and only what failed, was stopped or has changed is predicted.

    Raises:
        ValueError: no such shard, two cases of one id, or `present` is empty or names what the method does not know.
        PermissionError: the folder cannot be written; nothing was predicted.
        RuntimeError: another process works on this shard.
        OSError: a prediction could not be written, as on a full disk; what has a name is whole.
    """
    asked = None if present is None else ((present,) if isinstance(present, str) else tuple(present))
    if asked is not None and not (asked and {*asked} <= {*predictor.method.modalities}):
        raise ValueError(f"found present={list(asked)}, expected some of {', '.join(predictor.method.modalities)}")
    out, shard, started = writable(Path(out)), Shard.named(shard), time.monotonic()
    ordered = sorted(cases, key=lambda case: case.id)
    ids = [case.id for case in ordered]
    if len({one.casefold() for one in (*ids, *RESERVED)}) < len(ids) + len(RESERVED):
        raise ValueError(f"found two cases of one id (letter case aside), or one of the id {' or '.join(RESERVED)}, "
                         "expected ids that can name folders side by side")
    folder = writable(shard.folder(out))
    settings = {**predictor.settings(), "maps": named_maps(attention, contributions, uncertainty)}
    if uncertainty:
        settings["expected_dice"] = plain(predictor.fitted.expected_dice.get(predictor.policy, {}))
    own = shard.of(ordered)
    work = _Work(predictor, out, folder, settings, asked, own[-1:])
    with held(folder):
        for old in (shard.record_file(out), folder / FAILED):
            old.unlink(missing_ok=True)
        with progress(total=len(own), desc=f"shard {shard}" if shard.count > 1 else "cases", unit="case") as bar:
            for case, result in overlapped(own, work.load, work.predict, work.write):
                if isinstance(result, Exception):
                    work.fail(case, result)
                bar.update()
        done = [case.id for case in own if case.id not in work.errors] if uncertainty else []
        sureness = {id: found for id in done if (found := sureness_in(out / id))}
        record = {"shard": str(shard) if shard.count > 1 else None,
                  "cases": [case.id for case in own], "failed": [*work.errors],
                  "before": len(own) - len(work.errors) - len(work.used),
                  "of": {"cases": len(ids), "ids": checksum_of_ids(ids)},
                  "finished": datetime.now(UTC).isoformat(), "seconds": round(time.monotonic() - started, 3)}
        if uncertainty:
            record["sureness"] = {id: found.to_json() for id, found in sureness.items()}
        write_whole(shard.record_file(out), json.dumps(record, indent=1))
    return Outcome(out, record, work.used, sureness, tuple(work.errors.values()), work.last)


def overlapped(items: Sequence[Any], load: Callable, compute: Callable,
               write: Callable) -> Iterator[tuple[Any, Exception | None]]:
    """Each item and None, or the exception that stopped it, in their order.

    `load(item)` and `write(item, computed)` run in a thread each, `compute(item, loaded)` here. What `load` returns as
    None is left out of the rest. One item is loaded ahead and one is being written, never more.

    Raises:
        OSError: writing failed, as it would for every other item; or whatever ended the caller. Both threads end
            first: what is being written then is finished.
    """
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as writer:
        ahead = [loader.submit(load, item) for item in items[:1]]
        behind: list[tuple[Any, Future]] = []
        for index, item in enumerate(items):
            result = _called(ahead.pop().result)
            ahead = [loader.submit(load, following) for following in items[index + 1:index + 2]]
            if result is not None and not isinstance(result, Exception):
                result = _called(compute, item, result)
            while behind:
                yield _written(*behind.pop())
            if result is None or isinstance(result, Exception):
                yield item, result
            else:
                behind.append((item, writer.submit(write, item, result)))
            del result
        while behind:
            yield _written(*behind.pop())


def _called(work: Callable, *arguments: Any) -> Any:
    """What it returns, or the exception."""
    try:
        return work(*arguments)
    except Exception as error:
        return error


def _written(item: Any, future: Future) -> tuple[Any, Exception | None]:
    if isinstance(error := future.exception(), OSError):
        raise error
    return item, error


@dataclass
class _Work:
    """The three steps of a case, and what became of the cases so far."""

    predictor: Predictor
    out: Path
    folder: Path
    settings: dict[str, Any]
    present: tuple[str, ...] | None
    to_keep: list[Case]
    used: dict[str, tuple[str, ...]] = field(default_factory=dict)
    errors: dict[str, DataError] = field(default_factory=dict)
    last: tuple[Case, Prediction] | None = None

    def load(self, case: Case) -> tuple | None:
        """What the network needs and the manifest says; None where a prediction of just that is there."""
        wanted = made_from(case, self.predictor.task, self.predictor.wanted(case, self.present), self.settings)
        if is_done(self.out / case.id, wanted):
            return None
        if others := foreign(self.out / case.id):
            raise DataError(f"found {', '.join(others[:3])} where its prediction would go, which no prediction wrote",
                            "Choose another folder, or move these files.", case=case.id, path=self.out / case.id)
        return self.predictor.prepared(case), wanted

    def predict(self, case: Case, loaded: tuple) -> tuple[Prediction, dict]:
        """The prediction, and what it was made from."""
        prepared, wanted = loaded
        maps = {name: name in self.settings["maps"] for name in ("attention", "contributions", "uncertainty")}
        return self.predictor.predict(prepared, self.present, **maps), wanted

    def write(self, case: Case, computed: tuple[Prediction, dict]) -> None:
        """The folder of the case, whole or not at all."""
        prediction, wanted = computed
        try:
            with whole_folder(self.out / case.id, self.folder) as writing:
                prediction.save(writing)
                files = {path.name: path.stat().st_size for path in sorted(writing.iterdir())}
                manifest = {**wanted, "volumes_ml": _volumes_ml(prediction), "files": files}
                (writing / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:       # which is no fault of the disk, and of no other case
                raise
            raise DataError("its id is too long for the names of its files, such as <case>_contribution_<modality>",
                            "Give the case a shorter id.", case=case.id) from error
        self.used[case.id] = prediction.modalities
        if case in self.to_keep:                    # all others leave the memory
            self.last = case, prediction

    def fail(self, case: Case, error: Exception) -> None:
        """List a case that failed, at once: a process that is killed leaves the list up to then."""
        known = isinstance(error, DataError)
        # told anew, without the frames, which hold the case's volumes
        self.errors[case.id] = (error if known else DataError(f"{type(error).__name__}: {error}")).at(case.id)
        line = {"case": case.id, "error": type(error).__name__, "message": str(self.errors[case.id]),
                "traceback": None if known else "".join(traceback.format_exception(error)),
                "older prediction": (self.out / case.id / MANIFEST).exists()}
        with (self.folder / FAILED).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _volumes_ml(prediction: Prediction) -> dict[str, float]:
    """The volume of each foreground class."""
    voxels = np.bincount(prediction.classes.ravel(), minlength=prediction.task.classes)[1:]
    ml = voxel_ml(prediction.affine)
    return {name: round(float(n * ml), 4) for name, n in zip(prediction.task.class_names[1:], voxels, strict=True)}

"""What the shards left together: which are missing, which cases failed, and one table of all that is there."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maml_toolkit.prediction.saved import manifest, sureness_in
from maml_toolkit.prediction.shards import FAILED, FOLDER, RESERVED, TABLE, WHOLE, Shard, failures
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import write_whole
from maml_toolkit.system.locks import LOCK, HeldError, held


@dataclass(frozen=True)
class Merged:
    """All shards of a folder of predictions.

    Attributes:
        count: of the shards.
        missing: shard -> why it is: it was never started, is at work, or was stopped.
        failed: a line of failed.jsonl each, of the shards that came to an end.
        lost: cases that were done, whose folders are not whole any more.
        disagreements: in what shards that came to an end differ, where all must be alike.
        table: one row a case that is done, by an earlier call too: case, shard (where there are several), modalities,
            the volume of each class in ml, and how sure the answer is, where that was asked for (sureness.py).
    """

    count: int
    missing: dict[str, str]
    failed: list[dict[str, Any]]
    lost: list[str]
    disagreements: list[str]
    table: list[dict[str, Any]]

    @property
    def problems(self) -> int:
        """Everything that keeps these from being all predictions."""
        return sum(map(len, (self.missing, self.failed, self.lost, self.disagreements)))

    def __str__(self):
        sharded, ended = self.count > 1, self.count - len(self.missing)
        lines = [f"shard {shard} is missing: {why}" if sharded else f"predict: {why}"
                 for shard, why in self.missing.items()]
        lines += [f"failed: {one['message'].splitlines()[0]}" for one in self.failed]
        lines += [f"case {one} was done and is not whole any more: run {'its shard' if sharded else 'predict'} again"
                  for one in self.lost]
        which = f"{ended} of {self.count} shards came to their end; of their cases" if sharded else "of the cases"
        return "\n".join([*lines, *self.disagreements,
                          f"{which} {len(self.table)} are done, {len(self.failed)} failed"])


def merge(out: str | Path, shards: int | None = None) -> Merged:
    """Look at what the shards of a folder of predictions left, and write predictions.csv and failed.jsonl there.

    Predictions lie where they belong already; nothing of them is moved. Half-written cases of processes that were
    killed are removed.

    Args:
        out: the folder of predictions.
        shards: how many there are to be; as their folders say when left out.

    Raises:
        FileNotFoundError: no shard was ever started there.
        ValueError: `shards` is below 1; or it is left out, and folders speak of several numbers.
    """
    out = Path(out)
    if shards is not None and shards < 1:
        raise ValueError(f"found shards={shards}, expected 1 or more, or none to count the folders")
    count = shards or _count(out)
    every = [Shard(number, count) for number in range(1, count + 1)]
    records = {str(one): record for one in every if (record := one.record(out)) is not None}
    missing = {str(one): _why(one.folder(out)) for one in every if str(one) not in records}
    failed = [line for one in every if str(one) in records for line in failures(one.folder(out) / FAILED)]
    manifests = {case: (shard, manifest(out / case)) for shard, record in records.items() for case in record["cases"]
                 if case not in record["failed"]}
    found = {case: (shard, one) for case, (shard, one) in manifests.items() if one is not None}
    found |= _of_earlier_calls(out, {case for record in records.values() for case in record["cases"]}, found)
    table = [{"case": case, **({"shard": shard} if count > 1 else {}), "modalities": "+".join(one["modalities"]),
              **{f"{name} (ml)": ml for name, ml in one["volumes_ml"].items()}, **_how_sure(out / case)}
             for case, (shard, one) in sorted(found.items())]
    merged = Merged(count, missing, failed, sorted(set(manifests) - set(found)),
                    [*_lists(records), *_settings([one for _, one in found.values()])], table)
    _write(out, merged)
    return merged


def _how_sure(folder: Path) -> dict[str, Any]:
    """Columns of how sure an answer is; none where that was not asked for, or cannot be read."""
    with suppress(DataError, KeyError, TypeError):
        if sure := sureness_in(folder):
            expected = {f"expected Dice of {region}": round(one, 4) for region, one in sure.expected_dice.items()}
            return {**expected, "doubt": round(sure.doubt, 4), "how sure": str(sure)}
    return {}


def _of_earlier_calls(out: Path, asked: Collection[str], found: Mapping[str, tuple]) -> dict[str, tuple]:
    """Cases that no shard was asked for the last time, and that were done in the same way."""
    settings = [one["settings"] for _, one in found.values()]
    others = {path.name: manifest(path) for path in out.glob("[!.]*/") if path.name not in {*asked, *RESERVED}}
    return {case: ("", one) for case, one in others.items() if one is not None and one["settings"] in settings}


def _count(out: Path) -> int:
    named = (re.fullmatch(r"\d+-of-(\d+)", path.name) for path in (out / FOLDER).glob("*"))
    counts = {int(one[1]) for one in named if one} | ({1} if (out / WHOLE).is_dir() else set())
    if not counts:
        raise FileNotFoundError(f"found nothing that predict left in {out}; name the folder given to it as --out")
    if len(counts) > 1:
        raise ValueError(f"found predictions in shards of {' and of '.join(map(str, sorted(counts)))} in {out} (1: "
                         "without shards); say which with --shards")
    return counts.pop()


def _why(folder: Path) -> str:
    """Why a shard did not come to its end; what it left half written is removed if nobody works on it."""
    if not (folder / LOCK).exists():
        return "never started"
    try:
        with held(folder):
            return "stopped before its end; run it again"
    except HeldError:
        return "still at work"


def _lists(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Nothing where all shards saw the same list of cases."""
    seen: dict[str, list[str]] = {}
    for shard, record in records.items():
        seen.setdefault(record["of"]["ids"], []).append(shard)
    if len(seen) > 1:
        said = "; ".join(f"{records[ones[0]]['of']['cases']} cases ({', '.join(ones)})" for ones in seen.values())
        yield f"the shards saw different lists of cases: {said}; run them all again, what is done stays done"


def _settings(manifests: list[dict[str, Any]]) -> Iterator[str]:
    """Nothing where all predictions were made in the same way."""
    for name in sorted({name for one in manifests for name in one["settings"]}):
        values = {json.dumps(one["settings"].get(name), sort_keys=True) for one in manifests}
        if len(values) > 1:
            yield f"the predictions were made with {len(values)} different settings of {name}: run all shards again"


def _write(out: Path, merged: Merged) -> None:
    tables.write(out / TABLE, merged.table, () if merged.table else ("case", "modalities"))
    (out / FAILED).unlink(missing_ok=True)
    if merged.failed:
        write_whole(out / FAILED, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in merged.failed))

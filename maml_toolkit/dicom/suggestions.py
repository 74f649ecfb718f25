"""Which modality a series may be, by the words of its description and by the order of contrast phases.

Only ever suggested to a person: "t2_tirm_dark-fluid" is a FLAIR that says T2, and a late arterial phase may come
second or third.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from maml_toolkit.data.tasks import PHASES, Task
from maml_toolkit.dicom.series import Series
from maml_toolkit.system.errors import DataError

MORE_SPECIFIC = (("flair", "t2"), ("t1ce", "t1"))
"""Where a description names both, it means the first."""


def suggested(series: Sequence[Series], task: Task) -> dict[str, str]:
    """By the name of each series, a modality of the task, or nothing where neither words nor order say it."""
    found = {one.name: _by_words(one, task) for one in series}
    for case in {one.case for one in series}:
        found |= _by_order([one for one in series if one.case == case and one.kind == "CT" and not one.problems],
                           found, task)
    return found


def _of_kind(kind: str, task: Task) -> tuple[str, ...]:
    return tuple(name for name in task.modalities if task.intensities[name] == kind.lower())


def _by_words(series: Series, task: Task) -> str:
    if series.problems:
        return ""
    named = {name for word in _words(series.description) if (name := _known(word, task)) in _of_kind(series.kind, task)}
    for specific, general in MORE_SPECIFIC:
        if _known(specific, task) in named:
            named.discard(_known(general, task))
    if series.has_contrast and _known("t1ce", task) and named == {_known("t1", task)}:
        named = {_known("t1ce", task)}
    return named.pop() if len(named) == 1 else ""


def _words(text: str) -> Iterator[str]:
    """The words, and each with the next one ("T1 CE", "portal-venous"), which then do not stand alone."""
    words = re.findall(r"[^\W_]+", text.lower())
    yield from words
    for one, other in itertools.pairwise(words):
        yield one + other


def _known(word: str, task: Task) -> str | None:
    try:
        return task.modality(word)
    except DataError:
        return None


def _by_order(series: Sequence[Series], found: dict[str, str], task: Task) -> dict[str, str]:
    """The phases that no words name, if as many acquisitions are left and all then lie in the order of scanning."""
    phases = [name for names in PHASES.values() for name in _of_kind("CT", task) if name.lower() in names]
    absent = [name for name in phases if name not in found.values()]
    unnamed = [one for one in series if not found[one.name]]
    times = [one.seconds for one in series]
    if not absent or len(unnamed) != len(absent) or None in times or len(set(times)) < len(times):
        return {}
    filled = dict(zip((one.name for one in sorted(unnamed, key=lambda one: one.seconds)), absent, strict=True))
    order = [{**found, **filled}[one.name] for one in sorted(series, key=lambda one: one.seconds)]
    return filled if order == phases else {}

"""Evaluation: cases x subsets x regions -> one tidy table, and its summary.

The table has the columns case, method, run, fold, seed, policy, present, region, metric, unit, value, empty.
`present` names the modalities used, joined by + in the task's order. `empty` says where a mask held no voxel
("truth", "prediction" or "both"): such rows have the values that metrics.py defines, and are counted beside
every mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maml_toolkit.data.cases import Case, expect_cases, same_twice
from maml_toolkit.data.checksums import content
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import read_label
from maml_toolkit.evaluation.metrics import VERSION, measure, title
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine, tables
from maml_toolkit.system.errors import DataError, few

COLUMNS = ("case", "method", "run", "fold", "seed", "policy", "present", "region", "metric", "unit", "value", "empty")

NUMBERS = ("fold", "seed", "value")
"""The columns that hold numbers."""

WORDS = ("full", "each", "all")
"""Which subsets of the modalities to answer from, in a word."""

EMPTY = {(False, False): "", (True, False): "prediction", (False, True): "truth", (True, True): "both"}
"""Which of (prediction, truth) holds no voxel, in a word."""


def evaluate(predictor: Predictor, cases: Sequence[Case], subsets: str | Iterable[Iterable[str]] = "full", *,
             policies: Sequence[str] | None = None, smallest_mm3: Mapping[str, float] | None = None,
             fold: int | None = None, seed: int | None = None) -> pd.DataFrame:
    """Measure predictions against the labels, on each case's own grid.

    Args:
        predictor: of a trained method.
        cases: with labels.
        subsets: which modalities to answer from: "full" (all that a case has; each alone for
            a method that takes one at a time), "each" (all, then each alone),
            "all" (every non-empty subset), or a list of sets. Sets that a case lacks, or that the method does
            not accept when the word "each" or "all" asked for them, are left out.
        policies: who answers, of `inference.POLICIES`, each once; the predictor's own policy when left out.
        smallest_mm3: by region, the volume under which what was predicted of it is dropped. It is measured beside
            the plain region, as a region of its own: {"ET": 500} adds "ET ≥ 500 mm³", as the literature of BraTS does.
        fold, seed: written into the table.

    Returns:
        One row for each case, subset, region and metric: Dice (fraction), ASSD and HD95 (mm and voxel).

    Raises:
        DataError: a case without label or listed twice, or one that cannot be read.
        MissingModalityError: a listed set that the method does not accept.
        ValueError: another word for subsets, an unknown policy, or a smallest volume of an unknown region.
    """
    expect_labelled(cases)
    check_smallest(smallest_mm3, predictor.task)
    subsets = subsets if isinstance(subsets, str) else listed_sets(predictor, subsets)
    rows = []
    for case in machine.progress(cases, desc="evaluating", unit="case"):
        prepared = prepare(case, predictor.task)
        truth = predictor.task.encode(read_label(case.label, case=case.id).array)
        for (present, policy), answer in predictor.sweep(prepared, subsets_of(case, predictor, subsets), policies):
            about = {"case": case.id, "method": predictor.method.name, "run": predictor.run, "fold": fold, "seed": seed,
                     "policy": policy, "present": "+".join(one for one in predictor.task.modalities if one in present)}
            rows += [about | row for row in compare_regions(
                answer.classes, truth, predictor.task, prepared.grid.file_spacing_mm, smallest_mm3)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def expect_labelled(cases: Sequence[Case]) -> None:
    """Nothing, if these are cases with labels, each of them once.

    Raises:
        TypeError: they are something else.
        DataError: the cases without label and those listed twice, together.
    """
    expect_cases(cases)
    problems = same_twice(cases)
    if unlabelled := [case.id for case in cases if case.label is None]:
        problems.append(DataError(f"{len(unlabelled)} cases have no label to compare with: {few(unlabelled)}",
                                  "Add the label files, or leave these cases out."))
    if problems:
        raise DataError.together(problems)


def check_smallest(smallest_mm3: Mapping[str, float] | None, task: Task) -> None:
    """Nothing, if smallest volumes are given for regions of the task.

    Raises:
        ValueError: one is for something else.
    """
    if unknown := [name for name in smallest_mm3 or () if name not in task.regions]:
        raise ValueError(f"found {', '.join(map(str, unknown))} in smallest_mm3, expected regions of task {task.name}: "
                         f"{', '.join(task.regions)}")


def measured_from(predictor: Predictor, cases: Sequence[Case], subsets: str | Iterable[Iterable[str]] = "full",
                  **measures: Any) -> str:
    """All that decides about the table of `evaluate` with these arguments, as JSON: another table, another text.

    It names what the files of the cases hold, images and labels, not where they lie; the weights; the task with its
    regions; the definition of the metrics; and the other arguments.

    Raises:
        DataError: a file that cannot be read.
    """
    subsets = subsets if isinstance(subsets, str) else [sorted(one) for one in listed_sets(predictor, subsets)]
    of = {case.id: content(case, predictor.task) for case in machine.progress(cases, desc="checksum", unit="case")}
    return json.dumps({"metrics": VERSION, "predictor": predictor.settings(), "cases": of, "subsets": subsets,
                       **measures}, sort_keys=True)


def subsets_of(case: Case, predictor: Predictor, subsets: str | Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """The sets of modalities to answer from, the largest first or as listed, as `evaluate` describes them."""
    has = frozenset(predictor.method.modalities) & set(case.images)
    if not isinstance(subsets, str):
        return [one for one in subsets if one <= has]
    check_word(subsets)
    if subsets == "full":
        return predictor.method.largest(has) or [has]    # what is refused is refused by name
    return [one for one in predictor.method.answerable(has) if subsets == "all" or len(one) in (len(has), 1)]


def check_word(subsets: str) -> None:
    """Nothing, if the word asks for subsets.

    Raises:
        ValueError: another word.
    """
    if subsets not in WORDS:
        raise ValueError(f"found subsets={subsets!r}, expected {', '.join(map(repr, WORDS))} or a list of sets")


def listed_sets(predictor: Predictor, subsets: Iterable[Iterable[str]]) -> list[frozenset[str]]:
    """The sets that somebody listed, each once, if the method answers from each of them.

    Raises:
        ValueError: a name where a set of names is expected.
        MissingModalityError: a set that the method does not accept.
    """
    listed = list(subsets)
    if names := [one for one in listed if isinstance(one, str)]:
        raise ValueError(f"found the names {names} among the subsets, expected sets of names, such as {[[names[0]]]}")
    return list(dict.fromkeys(frozenset(predictor.method.present(one)) for one in listed))


def compare_regions(answer: np.ndarray, truth: np.ndarray, task: Task, spacing_mm: Sequence[float],
                    smallest_mm3: Mapping[str, float] | None = None) -> list[dict]:
    """Rows of region, metric, unit, value and empty for two arrays of classes on one grid, as `evaluate` says."""
    rows = []
    for region in task.regions:
        found, true = task.region(answer, region), task.region(truth, region)
        rows += measured_region(region, found, true, spacing_mm)
        if least := (smallest_mm3 or {}).get(region):
            enough = found.sum() * np.prod(spacing_mm) >= least
            rows += measured_region(f"{region} ≥ {least:g} mm³", found & enough, true, spacing_mm)
    return rows


def measured_region(region: str, answer: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> list[dict]:
    """The rows of one region from its two masks."""
    found = measure(answer, truth, spacing_mm)
    empty = EMPTY[found.prediction_empty, found.truth_empty]
    return [{"region": region, **one._asdict(), "empty": empty} for one in found]


def read_table(path: str | Path) -> pd.DataFrame:
    """The tidy table of `evaluate` from the CSV that it was written to; everything but value, fold and seed is text.

    Raises:
        DataError: it is no such table.
    """
    table = tables.read(path, NUMBERS)
    if lacking := [name for name in ("case", "method", "present", "region", "metric", "unit", "value")
                   if name not in table]:
        raise DataError(f"found the columns {list(table)}, expected {', '.join(lacking)} too",
                        "Give the table that `evaluate` made, such as the metrics.csv of a run.", path=path)
    if errors := [DataError(f"found no value of {row['metric']} of {row['region']}", "Measure it again: `evaluate`.",
                            case=row["case"], path=path)
                  for row in table[table["value"].isna()].to_dict("records")]:
        raise DataError.together(errors)
    return table


def one_order(table: pd.DataFrame) -> pd.DataFrame:
    """The table with each subset of modalities spelt as it first is in it: t2+t1 is t1+t2."""
    spelt: dict[frozenset[str], str] = {}
    return table.assign(present=[spelt.setdefault(frozenset(one.split("+")), one) for one in table["present"]])


def one_metric(table: pd.DataFrame, metric: str, unit: str | None = None) -> pd.DataFrame:
    """The rows of a metric in one unit: that asked for, else mm where the table has mm.

    Raises:
        ValueError: there is none.
    """
    values = one_order(table[table["metric"] == metric])
    units = list(values["unit"].unique())
    values = values[values["unit"] == (unit or ("mm" if "mm" in units else next(iter(units), None)))]
    if values.empty:
        raise ValueError(f"the table holds no {metric!r}{f' in {unit!r}' if unit else ''}; it holds "
                         f"{sorted(set(zip(table['metric'], table['unit'], strict=True)))}")
    return values


def check_each_once(values: pd.DataFrame, keys: Sequence[str]) -> None:
    """Nothing, if no two rows have the same keys.

    Raises:
        ValueError: some have.
    """
    if repeated := int(values.duplicated(list(keys)).sum()):
        raise ValueError(f"{repeated} rows have the {', '.join(keys)} of another; keep one run of each, or tell them "
                         "apart by fold and seed")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation over cases, number of cases, and how many had an empty mask, in the table's order."""
    keys = [name for name in ("method", "run", "policy", "present", "region", "metric", "unit") if name in table]
    groups = table.groupby(keys, sort=False, dropna=False)
    return groups.agg(mean=("value", "mean"), sd=("value", "std"), cases=("value", "size"),
                      empty=("empty", lambda one: int((one.fillna("") != "").sum()))).reset_index()


def formatted(table: pd.DataFrame,
              metrics: Sequence[tuple[str, str]] = (("dice", "fraction"), ("assd", "mm"))) -> pd.DataFrame:
    """The summary as a reader wants it: a row for each run, policy, subset and region, "mean ± sd" for each metric.

    Dice is given in per cent. The last column counts the cases in which a mask was empty.
    """
    short = summary(table)
    rows = []
    several = [name for name in ("run", "policy") if name in short and short[name].nunique() > 1]
    keys = ["method", *several, "present", "region"]
    for names, part in short.groupby(keys, sort=False):
        row = dict(zip(keys, names, strict=True))
        for metric, unit in metrics:
            one = part[(part["metric"] == metric) & (part["unit"] == unit)].iloc[0]
            scale, shown = (100, "%") if unit == "fraction" else (1, unit)
            spread = f" ± {scale * one['sd']:.1f}" if one["cases"] > 1 else ""
            row[f"{title(metric)} ({shown})"] = f"{scale * one['mean']:.1f}{spread}"
        rows.append(row | {"cases": int(part["cases"].iloc[0]), "empty": int(part["empty"].iloc[0])})
    return pd.DataFrame(rows)

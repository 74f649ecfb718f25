"""The tidy table, and what is said of all cases together: read, chosen from, summarised, and in words.

The table has the columns case, method, run, fold, seed, policy, present, region, metric, unit, value, empty.
`present` names the modalities used, joined by + in the task's order. `empty` says where a mask held no voxel
("truth", "prediction" or "both"): such rows have the values that metrics.py defines, and are counted beside
every mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from maml_toolkit.evaluation.intervals import arranged, limits
from maml_toolkit.evaluation.metrics import SIGNED, title
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, counted, expect_none, expect_one_of
from maml_toolkit.system.showing import Shown, in_lines

COLUMNS = ("case", "method", "run", "fold", "seed", "policy", "present", "region", "metric", "unit", "value", "empty")

NUMBERS = ("fold", "seed", "value")
"""The columns that hold numbers."""

ALIKE = ("method", "run", "policy", "present", "region", "metric", "unit")
"""What the values have in common of which a mean is taken, unless told otherwise."""


class Table(Shown, pd.DataFrame):
    """A DataFrame, and one in all that it does; what is made of it is a plain one. A notebook shows what it says.

    Attributes:
        about: what it holds, in a line.
    """

    _metadata: ClassVar[list[str]] = ["about"]
    about = "Table"

    @classmethod
    def of(cls, frame: pd.DataFrame, about: str) -> Table:
        """This table, and what it holds."""
        found = cls(frame)
        found.about = about
        return found

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        return in_lines(f"{self.about}: {counted(len(self), 'row')}", f"columns {', '.join(map(str, self.columns))}",
                        "print it to see its rows")

    def __str__(self) -> str:
        return pd.DataFrame.__repr__(self)


def read_table(path: str | Path) -> Table:
    """The tidy table of `evaluate` from the CSV that it was written to; everything but value, fold and seed is text.

    Raises:
        DataError: it is no such table.
    """
    table = tables.read(path, NUMBERS)
    if lacking := [name for name in ("case", "method", "present", "region", "metric", "unit", "value")
                   if name not in table]:
        raise DataError(f"found the columns {list(table)}, expected {', '.join(lacking)} too",
                        "Give the table that `evaluate` made, such as the metrics.csv of a run.", path=path)
    expect_none(DataError(f"found no value of {row['metric']} of {row['region']}", "Measure it again: `evaluate`.",
                          case=row["case"], path=path) for row in table[table["value"].isna()].to_dict("records"))
    return Table.of(table, f"Scores of {counted(table['case'].nunique(), 'case')}")


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


def check_each_once(values: pd.DataFrame, keys: Sequence[str],
                    remedy: str = "keep one run of each, or tell them apart by fold and seed") -> None:
    """Nothing, if no two rows have the same keys.

    Raises:
        ValueError: some have.
    """
    if repeated := int(values.duplicated(list(keys)).sum()):
        raise ValueError(f"{repeated} rows have the {', '.join(keys)} of another; {remedy}")


def columns_named(table: pd.DataFrame, by: str | Sequence[str]) -> list[str]:
    """The columns by which rows are told apart, one or several.

    Raises:
        ValueError: none, or one that the table does not have.
    """
    names = [by] if isinstance(by, str) else list(by)
    for name in names or [""]:
        expect_one_of("by", name, table.columns)
    return names


def summary(table: pd.DataFrame, by: Sequence[str] = ALIKE, intervals: bool = False) -> Table:
    """Mean, standard deviation, median and quartiles over cases, and how many masks were empty, in the table's order.

    Distances are skewed: a few cases that failed make their mean, and the median says where most cases lie.

    Args:
        table: the tidy table of `evaluate`.
        by: the columns whose values are summarised apart, or one; what else a case has several of is averaged first.
        intervals: whether `low` and `high` follow the mean, its 95 % interval, and `holds`: "trainings and cases" where
            a row sums up several trainings, else "cases only"; NaN for one case. No mean is below 0 (but that of a
            difference of volumes), nor a fraction above 1, so neither are the ends.

    Returns:
        A row for each of `by`: mean, sd, `median`, the quartiles `q1` and `q3`, cases, `empty`: how many of the cases
        had an empty mask.

    Raises:
        ValueError: no column, or one that the table does not have.
    """
    keys = [name for name in by if name in table] if by is ALIKE else columns_named(table, by)
    cases = table.assign(empty=table["empty"].fillna("") != "").groupby(
        [*keys, "case"], sort=False, dropna=False).agg(value=("value", "mean"), empty=("empty", "any"))
    groups = cases.groupby(keys, sort=False, dropna=False)
    values = groups["value"]
    found = pd.DataFrame({"mean": values.mean(), "sd": values.std(), "median": values.median(),
                          "q1": values.quantile(0.25), "q3": values.quantile(0.75), "cases": values.size(),
                          "empty": groups["empty"].sum()}).reset_index()
    if intervals:
        known = pd.DataFrame([limits(arranged(rows)) for _, rows in table.groupby(keys, sort=False, dropna=False)])
        most = np.where(found["unit"] == "fraction", 1, np.inf) if "unit" in found else np.inf
        least = np.where(found["metric"].map(SIGNED.__contains__), -np.inf, 0) if "metric" in found else 0
        limited = {"low": known["low"].clip(lower=least), "high": known["high"].clip(upper=most),
                   "holds": known["holds"]}
        for place, (name, ends) in enumerate(limited.items(), found.columns.get_loc("mean") + 1):
            found.insert(place, name, ends)
    return Table.of(found, "Means over cases")


def in_words(row: pd.Series) -> str:
    """One row of a summary: mean ± standard deviation and, if it is known, the interval; fractions in per cent."""
    scale, digits = 100 if row["unit"] == "fraction" else 1, 2 if row["unit"] == "ml" else 1
    mean, sd, low, high = (f"{scale * row.get(name, np.nan):.{digits}f}" for name in ("mean", "sd", "low", "high"))
    if row["cases"] < 2:
        return mean
    return f"{mean} ± {sd}" + (f" [{low}, {high}]" if "low" in row else "")


def metrics_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The metrics of a table and their units, in its order; in voxels only those that it does not give in mm."""
    pairs = dict.fromkeys(zip(table["metric"], table["unit"], strict=True))
    return [(metric, unit) for metric, unit in pairs if unit != "voxel" or (metric, "mm") not in pairs]


def formatted(table: pd.DataFrame, metrics: Sequence[tuple[str, str]] = (("dice", "fraction"), ("assd", "mm")),
              intervals: bool = False) -> Table:
    """The summary as a reader wants it: a row for each run, policy, subset and region, "mean ± sd" for each metric.

    Dice is given in per cent; distances have a second column, "median (quartile to quartile)". The last column counts
    the cases in which a mask was empty.

    Args:
        table: the tidy table of `evaluate`.
        metrics: with their units, a column each; `metrics_of` names all that the table holds.
        intervals: whether the 95 % interval of the mean, of one training over cases, follows it.
    """
    asked = pd.Series(list(zip(table["metric"], table["unit"], strict=True)), table.index).isin(list(metrics))
    short = summary(table[asked], intervals=intervals)
    rows = []
    several = [name for name in ("run", "policy") if name in short and short[name].nunique() > 1]
    keys = ["method", *several, "present", "region"]
    for names, part in short.groupby(keys, sort=False):
        row = dict(zip(keys, names, strict=True))
        for metric, unit in metrics:
            known = part[(part["metric"] == metric) & (part["unit"] == unit)]
            one = known.iloc[0] if len(known) else None         # a Dice to expect is not known from every subset
            row[f"{title(metric)} ({'%' if unit == 'fraction' else unit})"] = "–" if one is None else in_words(one)
            if unit in ("mm", "voxel"):
                row[f"median {title(metric)} ({unit})"] = "–" if one is None else (
                    f"{one['median']:.1f} ({one['q1']:.1f} to {one['q3']:.1f})")
        rows.append(row | {"cases": int(part["cases"].iloc[0]), "empty": int(part["empty"].iloc[0])})
    return Table.of(pd.DataFrame(rows), "Scores: mean ± standard deviation over cases")

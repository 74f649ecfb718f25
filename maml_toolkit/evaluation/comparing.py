"""Is one side better than the other? Paired over the same cases, with an interval, a test and a count of wins.

    d_c = mean over the runs of case c of (value of one side - value of the other)
    difference = mean_c d_c,  95 % interval: percentile bootstrap over cases

Two segmentations of one case share its difficulty, so their difference varies far less than either; on 65
cases with a spread of 18 points the mean of one side is known to 2.2, and only the paired difference can carry
a claim of a few points. The unit is the case: several runs (seeds, folds) of one case are averaged first, since
they are not more patients.

What the interval does not hold: how far another training of the same two sides would come out. `lowest_run` and
`highest_run`, the difference in each run (fold and seed) alone, say something of that.

References:
    Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1945
    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from maml_toolkit.evaluation.metrics import Stems
from maml_toolkit.evaluation.table import check_each_once, interval, one_metric

HIGHER_IS_BETTER = Stems({"dice", "nsd", "lesion_dice", "lesion_tp", "lesion_sensitivity", "lesion_precision",
                          "lesion_f1"})
"""Of the other metrics, distances, errors and counts of them, less is better."""

SIDES = ("method", "policy", "run", "present")
RUN = ["fold", "seed"]
PAIR = ["case", *RUN, "policy", "present", "region"]
"""What two values have in common that are compared with each other."""


def compare(table: pd.DataFrame, reference: str, *, column: str = "method", metric: str = "dice",
            unit: str | None = None, by: Sequence[str] = ("present", "region"), resamples: int = 9999,
            seed: int = 0) -> pd.DataFrame:
    """Compare one side of a table with every other side of it.

    A value of the one side is paired with the other side's of the same case, fold, seed, policy, subset of
    modalities and region. The values paired within a group and a case are averaged; the rest counts cases.

    Args:
        table: the tidy table of `evaluate`, of several methods, policies, ….
        reference: the value of `column` that the others are compared with.
        column: which sides there are: "method", "policy", "run" or "present".
        metric, unit: what is compared; without a unit Dice in fraction, distances in mm where the table has mm.
        by: columns whose values are compared apart. Without "present", a case's value is its mean over the
            subsets that both sides answered.
        resamples, seed: of the bootstrap.

    Returns:
        A row for each group and other side: `difference` (reference - other) with `low` and `high`, its 95 % interval;
        `p`, of the Wilcoxon signed-rank test, and `p_holm`, corrected for all rows of this table; `cases` that were
        compared, `wins` and `losses` of the reference among them (what is left are draws); `missing`: cases for which
        at least one value had no partner on the other side; `lowest_run` and `highest_run`. The interval and p are
        NaN below two cases.

    Raises:
        ValueError: an unknown column, side, metric or unit, or rows that cannot be told apart.
    """
    values = _chosen(table, reference, column, metric, unit, by)
    others = [side for side in values[column].unique() if side != reference]
    rows = []
    for group, part in values.groupby(list(by), sort=False) if by else [((), values)]:
        sides = dict(list(part.groupby(column, sort=False)))
        for other in others:
            if reference in sides and other in sides:
                paired = _paired(sides[reference], sides[other], column)
                rows.append({**dict(zip(by, group, strict=True)), "reference": reference, "other": other,
                             "metric": metric, "unit": values["unit"].iloc[0],
                             **_compared(paired, metric in HIGHER_IS_BETTER, resamples, seed)})
    found = pd.DataFrame(rows)
    if not len(found):
        raise ValueError(f"no other {column} shares a {' and '.join(by) or 'value'} with {reference!r}, "
                         f"there is nothing to compare")
    found.insert(found.columns.get_loc("p") + 1, "p_holm", holm(found["p"].to_numpy()))
    return found


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's correction of p-values for their number; NaN stays NaN and is not counted.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, float)
    corrected = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    ascending = tested[np.argsort(p[tested])]
    factors = np.arange(len(ascending), 0, -1)
    corrected[ascending] = np.minimum(1, np.maximum.accumulate(p[ascending] * factors))
    return corrected


def _chosen(table: pd.DataFrame, reference: str, column: str, metric: str, unit: str | None,
            by: Sequence[str]) -> pd.DataFrame:
    """The rows of one metric in one unit, each of them once."""
    if column not in table or column not in SIDES or column in by:
        raise ValueError(f"found column={column!r} and by={list(by)}, expected one of {', '.join(SIDES)} that is not "
                         "in by")
    values = one_metric(table, metric, unit)
    if reference not in set(values[column]):
        raise ValueError(f"found reference={reference!r}, expected one of {list(values[column].unique())}")
    check_each_once(values, list(dict.fromkeys([column, *PAIR])))
    return values


def _paired(one: pd.DataFrame, other: pd.DataFrame, column: str) -> pd.DataFrame:
    """Every value of either side beside its partner, NaN where there is none."""
    keys = [name for name in PAIR if name != column]
    return one[[*keys, "value"]].merge(other[[*keys, "value"]], on=keys, how="outer", suffixes=("_one", "_other"))


def _compared(paired: pd.DataFrame, higher_is_better: bool, resamples: int, seed: int) -> dict:
    """Everything about one pair of sides."""
    difference = paired["value_one"] - paired["value_other"]
    by_case = difference.groupby(paired["case"]).mean().dropna().to_numpy()    # the mean skips what is missing
    by_run = difference.groupby([paired[name] for name in RUN], dropna=False).mean().dropna()
    better = by_case if higher_is_better else -by_case
    low, high = interval(by_case, resamples, seed)
    return {"difference": float(by_case.mean()) if len(by_case) else np.nan, "low": low, "high": high,
            "p": signed_rank(by_case), "cases": len(by_case), "wins": int((better > 0).sum()),
            "losses": int((better < 0).sum()), "missing": paired.loc[difference.isna(), "case"].nunique(),
            "lowest_run": by_run.min(), "highest_run": by_run.max()}


def signed_rank(differences: np.ndarray) -> float:
    """p of the two-sided Wilcoxon signed-rank test; 1 where all are 0, NaN below two values."""
    if len(differences) < 2:
        return np.nan
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0

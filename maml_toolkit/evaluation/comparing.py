"""Is one side better than the other? Paired over the same cases, with an interval, a test and a count of wins.

    d_c = mean over the trainings of case c of (value of one side - value of the other)
    difference = mean_c d_c

Two segmentations of one case share its difficulty, so their difference varies far less than either; on 65
cases with a spread of 18 points the mean of one side is known to 2.2, and only the paired difference can carry
a claim of a few points. The trainings of a case (seeds, folds) are averaged first, since they are not more patients.

What is said of a *method* must hold for another training of it: trained twice from other seeds, one and the same method
differs from itself, and on enough cases every such difference is "significant". So `low` and `high` hold trainings and
cases (intervals.py has the formula), and `p` asks whether their mean is 0. With one training a side nobody knows: the
interval holds the cases only, says so in `holds`, and there is no p.

Two other questions have columns of their own. `low_trainings` and `high_trainings`, a t-interval over the trainings of
each fold: where would the mean over *these cases* come out in other trainings? With one training a fold nobody knows.
`p_wilcoxon`, the signed-rank test over cases: are *these trained networks* better in more cases, and by more, than
chance would have it? It ranks cases and says nothing of other trainings, nor of the mean: it can be small where the
interval holds 0, and the other way round.

References:
    Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1945
    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979
    Varma & Simon, Bias in error estimation when using cross-validation for model selection, BMC Bioinformatics 2006
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from maml_toolkit.evaluation.intervals import (
    BOTH,
    TRAINING,
    arranged,
    best_minus_worst,
    limits,
    of_sides,
    over_trainings,
)
from maml_toolkit.evaluation.metrics import Stems
from maml_toolkit.evaluation.table import Table, check_each_once, columns_named, one_metric
from maml_toolkit.system.errors import counted, expect_one_of, few

HIGHER_IS_BETTER = Stems({"dice", "expected_dice", "nsd", "lesion_dice", "lesion_tp", "lesion_sensitivity",
                          "lesion_precision", "lesion_f1"})
"""Of the other metrics, distances, errors and counts of them, less is better."""

NEITHER_IS_BETTER = Stems({"volume_difference", "volume_prediction", "volume_ground_truth"})
"""But of these: too small is as wrong as too large."""

SIDES = ("method", "policy", "run", "present")
PAIR = ["case", *TRAINING, "policy", "present", "region"]
"""What two values have in common that are compared with each other."""


def compare(table: pd.DataFrame, reference: str, *, column: str = "method", metric: str = "dice",
            unit: str | None = None, by: str | Sequence[str] = ("present", "region"), resamples: int = 9999,
            seed: int = 0) -> Table:
    """Compare one side of a table with every other side of it.

    A value of the one side is paired with the other side's of the same case, fold, seed, policy, subset of
    modalities and region. The values paired within a group and a case are averaged; the rest counts cases. Sides of
    other runs were trained apart, and only split and patches pair their seeds; sides that name the same run (policies,
    subsets) are answers of the same networks, whose trainings are paired.

    Args:
        table: the tidy table of `evaluate`, of several methods, policies, ….
        reference: the value of `column` that the others are compared with.
        column: which sides there are: "method", "policy", "run" or "present".
        metric, unit: what is compared; without a unit Dice in fraction, distances in mm where the table has mm.
        by: columns whose values are compared apart, or one. Without "present", a case's value is its mean over the
            subsets that both sides answered.
        resamples, seed: of the bootstrap where an interval holds cases only.

    Returns:
        A row for each group and other side: `difference` (reference - other) with `low` and `high`, its 95 % interval;
        `holds`: "trainings and cases", or "cases only" with one training a side; `low_trainings` and `high_trainings`,
        the t-interval over the trainings alone, NaN where a fold has one; `p` that trainings and cases on average do
        not differ, and `p_holm`,
        corrected for all rows of this table; `p_wilcoxon`, over cases, of these trainings, not corrected; `cases` that
        were compared and `trainings` of each side (folds x seeds); `wins` and `losses` of the reference among the
        cases (what is left are draws); `missing`: cases for which at least one value had no partner on the other
        side. With one training the p-values and the t-interval are NaN, and below two cases the interval too.

    Raises:
        ValueError: an unknown column, side, metric or unit, a metric of which neither more nor less is better, or rows
            that cannot be told apart.
    """
    by = columns_named(table, by) if by else []
    values = _chosen(table, reference, column, metric, unit, by)
    others = [side for side in values[column].unique() if side != reference]
    rows, keys = [], [name for name in PAIR if name != column]
    for group, part in values.groupby(list(by), sort=False) if by else [((), values)]:
        sides = dict(list(part.groupby(column, sort=False)))
        for other in others:
            if reference in sides and other in sides:
                one, two = (sides[name][[*keys, "value"]] for name in (reference, other))
                paired = one.merge(two, on=keys, how="outer", suffixes=("_one", "_other"))    # NaN without a partner
                together = _same_networks(sides[reference], sides[other], column)
                rows.append({**dict(zip(by, group, strict=True)), "reference": reference, "other": other,
                             "metric": metric, "unit": values["unit"].iloc[0],
                             **_compared(paired, together, metric in HIGHER_IS_BETTER, resamples, seed)})
    found = pd.DataFrame(rows)
    if not len(found):
        raise ValueError(f"no other {column} shares a {' and '.join(by) or 'value'} with {reference!r}, "
                         f"there is nothing to compare")
    found.insert(found.columns.get_loc("p") + 1, "p_holm", holm(found["p"].to_numpy()))
    return Table.of(found, f"{reference} against {few(others)}: {metric}")


def gap(table: pd.DataFrame, column: str = "present", metric: str = "dice", unit: str | None = None) -> dict:
    """The best side of one method minus its worst, such as the gap between its modalities, with a 95 % interval.

    The largest of several means minus the smallest is above 0 even where all are equal. So which side is best and which
    worst is chosen on one half of the cases and of the trainings (of the folds, where folds split the cases) and
    measured on the other, and the other way round; a gap that is not there comes out as 0 on average. The halves'
    answers depend on each other, so their mean is given the standard error of half the data, which it has at most: of
    four equal modalities the interval excludes 0 in 0 to 3 of 100 simulations.

    Args:
        table: the tidy table of `evaluate`, of one method, policy and region.
        column: which sides there are: "present", "policy", "run" or "method".
        metric, unit: as for `compare`.

    Returns:
        `difference` (of distances how much longer the worst is), `low`, `high`, `holds` ("trainings and cases" or
        "cases only"), and the number of `cases` and of `trainings`. NaN for one side or one case.

    Raises:
        ValueError: an unknown metric or unit, one of which neither more nor less is better, or rows that cannot be told
            apart.
    """
    values = _with_a_better_side(table, metric, unit)
    check_each_once(values, [column, "case", *TRAINING])       # or a mean over regions or policies would be taken
    values = values.assign(fold=values.groupby(TRAINING, dropna=False).ngroup(), seed=0)
    wide = values.pivot_table(index=["case", *TRAINING], columns=column, values="value").dropna()
    parts = dict(list(values.groupby(column)))
    first, *others = (parts[name] for name in wide) if len(wide) else [None]
    cube = arranged(wide.reset_index(), list(wide)) if others else np.empty((0, 0, 0))
    together = all(_same_networks(first, other, column) for other in others)
    return best_minus_worst(cube * (1 if metric in HIGHER_IS_BETTER else -1), together)


def trainings_in_words(found: pd.DataFrame) -> str:
    """On how many trainings the sides of a comparison rest.

    >>> trainings_in_words(pd.DataFrame({"trainings": [5, 5]}))
    '5 trainings of each side'
    """
    fewest, most = int(found["trainings"].min()), int(found["trainings"].max())
    return f"{f'{fewest} to ' if fewest < most else ''}{counted(most, 'training')} of each side"


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
    values = _with_a_better_side(table, metric, unit)
    expect_one_of("reference", reference, values[column].unique())
    check_each_once(values, list(dict.fromkeys([column, *PAIR])))
    return values


def _with_a_better_side(table: pd.DataFrame, metric: str, unit: str | None) -> pd.DataFrame:
    """The rows of one metric in one unit, of which more or less is better."""
    if metric in NEITHER_IS_BETTER:
        raise ValueError(f"found metric={metric!r}, expected one of which more or less is better: too small a volume "
                         "is as wrong as too large a one; compare 'volume_absolute_difference'")
    return one_metric(table, metric, unit)


def _same_networks(one: pd.DataFrame, other: pd.DataFrame, column: str) -> bool:
    """Whether two sides are answers of the same trained networks, which their runs tell where they have names."""
    named = [set(side["run"].dropna()) - {""} if "run" in side else set() for side in (one, other)]
    return column != "run" and (not named[0].isdisjoint(named[1]) if all(named) else column in ("policy", "present"))


def _compared(paired: pd.DataFrame, together: bool, higher_is_better: bool, resamples: int, seed: int) -> dict:
    """Everything about one pair of sides."""
    difference = paired["value_one"] - paired["value_other"]
    known = paired[difference.notna()]
    by_case = difference.groupby(paired["case"]).mean().dropna().to_numpy()    # the mean skips what is missing
    better = by_case if higher_is_better else -by_case
    sides = arranged(known, ["value_one", "value_other"]) if len(known) else np.empty((2, 0, 0))
    both = of_sides(*sides, together)
    found = limits(both, resamples, seed)
    several = found["holds"] == BOTH
    low, high = over_trainings(both) if several else [np.nan] * 2
    return {"difference": float(by_case.mean()) if len(by_case) else np.nan, "low": found["low"], "high": found["high"],
            "holds": found["holds"], "low_trainings": low, "high_trainings": high, "p": found["p"],
            "p_wilcoxon": signed_rank(by_case) if several else np.nan, "cases": len(by_case),
            "trainings": len(known[TRAINING].drop_duplicates()), "wins": int((better > 0).sum()),
            "losses": int((better < 0).sum()), "missing": paired.loc[difference.isna(), "case"].nunique()}


def signed_rank(differences: np.ndarray) -> float:
    """p of the two-sided Wilcoxon signed-rank test; 1 where all are 0, NaN below two values."""
    if len(differences) < 2:
        return np.nan
    return float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0

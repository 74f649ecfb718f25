"""How far a mean would move with other cases, and with other trainings of the same methods.

*One training.* The interval of a mean over n cases is Student's, each arm lengthened as far as the studentised
bootstrap says that skewed values need it:

    [m - a s / sqrt(n), m + b s / sqrt(n)],     t <= a, b <= 2 t,   t the 97.5 % quantile of Student's t, n - 1

a and b are the 97.5 and -2.5 % quantiles of (m* - m) sqrt(n) / s* over resamples of the cases, those without spread
left out; without the limit of 2 t a single outlier among six cases makes them tens of times as long. Simulated
coverage at 6, 10 and 20 cases is 0.95 to 0.97 for normal and beta(5, 2) or beta(4, 1) values (the percentile bootstrap:
0.84 to 0.92). What a sample cannot show it cannot hold: where one case in ten fails entirely it is 0.92 at 6 cases.

*Several trainings.* Each tested the same cases (seeds, or networks of all folds on one external test set), so that
trainings and cases cross:

    y_tc = mean + training_t + case_c + residual_tc
    V = MS(case) / (S n) + max(0, (MS(training) - MS(residual)) / (S n)),      S trainings, n cases

The interval is m ± t sqrt(V), its degrees of freedom Satterthwaite's: V² / sum_k (MS_k / (S n))² / df_k. Of two
methods that were trained apart, the case's part is that of their difference and the training's part is the sum of both
sides', since seeds share the split and the patches but not the noise of training. Folds split the cases: each fold is
such a crossed table, and the parts of V add up with the squares of their shares of the cases. With one training in each
fold nothing crosses, and V is what the means of the folds vary by, never less than what the cases within them do; df is
Hillis's, (folds - 1) (V / V_between)².

Simulated with two trainings of one method (sd of trainings 1.5, of cases by trainings 5 points), the interval holds 0
in 0.95 of the comparisons with 5 seeds a side, at 26 and 200 cases; with 2 or 3 seeds in 0.95 to 0.99; with 3 or 5
folds of one seed in 0.95 to 0.98, with 2 folds in 0.91 to 0.98.

`best_minus_worst` chooses its sides on other cases and trainings than it tests them on, and takes the same errors.

Not in it: how the answer would change with other training cases. One fold shows nothing of it, and folds share most of
theirs.

References:
    The jackknife, the bootstrap and other resampling plans, Efron, SIAM 1982 (studentised: bootstrap t)
    An approximate distribution of estimates of variance components, Satterthwaite, Biometrics Bulletin 1946
    Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests: an ANOVA approach with dependent
        observations, Obuchowski & Rockette, Communications in Statistics 1995 (readers in the place of trainings)
    A comparison of denominator degrees of freedom methods for multiple observer ROC analysis, Hillis, Statistics in
        Medicine 2007
    No unbiased estimator of the variance of k-fold cross-validation, Bengio & Grandvalet, JMLR 2004
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats
from scipy.sparse.csgraph import connected_components
from scipy.special import stdtr, stdtrit

TRAINING = ["fold", "seed"]
"""What tells the trainings of one system apart."""

BOTH, CASES_ONLY = "trainings and cases", "cases only"
"""What an interval holds."""

LONGEST = 2
"""How many times as long as Student's an arm may become."""


def interval(values: Sequence[float] | np.ndarray, resamples: int = 9999, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean: Student's, lengthened by the studentised bootstrap; NaN below two values."""
    values = np.asarray(values, float)
    if (count := len(values)) < 2:
        return np.nan, np.nan
    mean, error, usual = values.mean(), values.std(ddof=1) / np.sqrt(count), stdtrit(count - 1, 0.975)
    random, away, ratios = np.random.default_rng(seed), values - mean, []
    for rows in np.array_split(np.arange(resamples), 1 + resamples * count // 2**22):
        drawn = away[random.integers(count, size=(len(rows), count))]
        means, spreads = drawn.mean(1), drawn.std(1, ddof=1)
        spread = spreads > 1e-9 * np.abs(away).max()
        ratios.append(means[spread] / spreads[spread] * np.sqrt(count))
    below, above = np.quantile(np.concatenate([*ratios, [0]]), [0.025, 0.975])
    shorter, longer = np.clip([above, -below], usual, LONGEST * usual) * error
    return float(mean - shorter), float(mean + longer)


def limits(values: np.ndarray, resamples: int = 9999, seed: int = 0) -> dict[str, float | str]:
    """95 % interval of a mean over cases, or of a difference, that holds trainings where there are several.

    Args:
        values: (sides, trainings, cases), NaN where a training did not test a case; the mean is that of the sum of the
            sides: one, or two that were trained apart, the second negated.
        resamples, seed: of the bootstrap where it holds cases only.

    Returns:
        `low`, `high`; `holds`: "trainings and cases" or "cases only"; `p` that the mean is 0, of the same t, NaN where
        the interval holds cases only.
    """
    by_case = np.nanmean(values.sum(0), 0) if values.size else np.empty(0)
    error, freedom = standard_error(values)
    if np.isnan(error):
        low, high = interval(by_case, resamples, seed)
        return {"low": low, "high": high, "holds": CASES_ONLY, "p": np.nan}
    mean = by_case.mean()
    low, high = student(mean, error, freedom)
    p = 2 * stdtr(freedom, -abs(mean) / error) if error else float(mean == 0)
    return {"low": low, "high": high, "holds": BOTH, "p": float(p)}


def best_minus_worst(cube: np.ndarray, together: bool) -> dict:
    """What `gap` gives, from the values of each side: (sides, trainings, cases), NaN where untested, more is better.

    `together`: whether the sides are answers of the same networks.
    """
    parts, holds = [], BOTH
    for chosen, tested in _halves(cube):
        means = cube[:, chosen].mean(1)
        best, worst = cube[means.argmax()], cube[means.argmin()]
        pair = of_sides(best, worst, together)
        error, freedom = standard_error(pair)
        if np.isnan(error):
            by_case, holds = np.nanmean(pair.sum(0), 0), CASES_ONLY
            error, freedom = stats.sem(by_case), len(by_case) - 1
        parts.append((tested.sum(), (best - worst)[tested].mean(), error, freedom))
    difference = low = high = np.nan
    if parts:
        weights, differences, errors, freedoms = np.array(parts).T
        difference = float(np.average(differences, weights=weights))
        low, high = student(difference, np.sqrt(2) * np.average(errors, weights=weights), freedoms.min())
    return {"difference": difference, "low": low, "high": high, "holds": holds if parts else CASES_ONLY,
            "cases": cube.shape[2], "trainings": cube.shape[1]}


def over_trainings(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over these very cases in other trainings: Student's; NaN where a fold has one training.

    The means of folds differ by their cases too, so only the trainings within each are looked at:

        V = sum_f share_f² s_f² / S_f,      s_f² the variance of the means of the S_f trainings that tested the cases f

    Args:
        values: as for `limits`.
    """
    difference, (of_training, of_case) = values.sum(0), blocks(values)
    mean, variance, freedom = np.nanmean(difference, 0).mean(), 0.0, 0
    for one in np.unique(of_case):
        means = np.nanmean(difference[of_training == one][:, of_case == one], 1)
        if len(means) < 2:
            return np.nan, np.nan
        variance += np.mean(of_case == one) ** 2 * means.var(ddof=1) / len(means)
        freedom += len(means) - 1
    return student(mean, np.sqrt(variance), freedom)


def student(mean: float, error: float, freedom: float) -> tuple[float, float]:
    """95 % interval by Student's t from a mean, its standard error and its degrees of freedom."""
    arm = stdtrit(freedom, 0.975) * error
    return float(mean - arm), float(mean + arm)


def arranged(rows: pd.DataFrame, columns: Sequence[str] = ("value",)) -> np.ndarray:
    """Rows of a table for `limits`: (columns, trainings, cases), the mean of what a training has several of."""
    trainings = [name for name in ("run", *TRAINING) if name in rows]
    trial = rows.groupby(trainings, dropna=False).ngroup() if trainings else np.zeros(len(rows), int)
    means = rows.groupby([trial, rows["case"]])[list(columns)].mean().dropna()
    return np.stack([means[name].unstack().to_numpy(float) for name in columns])


def of_sides(one: np.ndarray, other: np.ndarray, together: bool) -> np.ndarray:
    """What `limits` takes: the differences of the same networks, or two sides that were trained apart."""
    return np.stack([one - other]) if together else np.stack([one, -other])


def standard_error(values: np.ndarray) -> tuple[float, float]:
    """Of the mean over trainings and cases, with its degrees of freedom; NaN where one training tested everything.

    Args:
        values: as for `limits`.
    """
    of_training, of_case = blocks(values)
    each = np.unique(of_case)
    shares = np.array([np.mean(of_case == one) for one in each])
    parts = [values[:, of_training == one][:, :, of_case == one] for one in each]
    parts = [part[:, :, ~np.isnan(part).any((0, 1))] for part in parts]
    if len(each) and min(min(part.shape[1:]) for part in parts) >= 2:
        return _of_crossed(parts, shares)
    return _of_folds(np.nanmean(values.sum(0), 0), of_case) if len(each) > 1 else (np.nan, np.nan)


def _of_crossed(parts: Sequence[np.ndarray], shares: np.ndarray) -> tuple[float, float]:
    """Standard error and degrees of freedom from the crossed tables of all folds, which have these shares of the cases.

    Args:
        parts: (sides, trainings, cases) each, without holes.
        shares: of each, as a fraction.
    """
    found, freedoms = zip(*map(_crossed, parts), strict=True)
    squares, sides = shares**2 @ np.array(found), len(parts[0])
    variance = squares[0] + max(0, squares[1:sides + 1].sum() - squares[sides + 1:].sum())
    doubt = (squares**2 / np.sum(freedoms, 0)).sum()
    return float(np.sqrt(variance)), float(max(1, variance**2 / doubt)) if doubt else np.inf


def _of_folds(by_case: np.ndarray, of_case: np.ndarray) -> tuple[float, float]:
    """Standard error and degrees of freedom from folds in which nothing crosses: from what their means vary by.

    Args:
        by_case: the value of each case, mean over trainings.
        of_case: the number of its fold.
    """
    each = np.unique(of_case)
    shares = np.array([np.mean(of_case == one) for one in each])
    means = np.array([by_case[of_case == one].mean() for one in each])
    inside = by_case - means[np.searchsorted(each, of_case)]
    between = len(by_case) * (shares * (means - by_case.mean()) ** 2).sum() / (len(each) - 1)
    within = (inside**2).sum() / max(1, len(by_case) - len(each))
    variance = max(between, within)
    freedom = min(len(by_case) - 1, (len(each) - 1) * (variance / between) ** 2) if between else len(by_case) - 1
    return float(np.sqrt(variance / len(by_case))), float(freedom)


def blocks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each training and for each case: those of folds that share no case differ.

    >>> blocks(np.array([[[1, 2, np.nan], [3, 4, np.nan], [np.nan, np.nan, 5]]]))
    (array([0, 0, 1], dtype=int32), array([0, 0, 1], dtype=int32))
    """
    known = ~np.isnan(values).any(0)
    of_training = connected_components(known.astype(int) @ known.T.astype(int))[1] if known.size else np.empty(0, int)
    return of_training, of_training[known.argmax(0)] if known.size else np.empty(0, int)


def _crossed(values: np.ndarray) -> tuple[list[float], list[int]]:
    """MS / (trainings x cases) in a table without holes, with their degrees of freedom.

    One of the cases, then one of the trainings of each side, then one of the rest of each side.
    """
    sides, trainings, cases = values.shape
    of_case = values.mean(1).sum(0).var(ddof=1) / cases
    of_training = values.mean(2).var(1, ddof=1) / trainings
    rest = values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True) + values.mean((1, 2), keepdims=True)
    freedom = (trainings - 1) * (cases - 1)
    residual = (rest**2).sum((1, 2)) / freedom / (trainings * cases)
    return [of_case, *of_training, *residual], [cases - 1, *[trainings - 1] * sides, *[freedom] * sides]


def _halves(cube: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of masks over (trainings, cases): where sides are chosen, and where they are tested, sharing neither.

    A single training cannot be shared out: then only the cases are others.
    """
    known, (of_training, of_case) = ~np.isnan(cube).any(0), blocks(cube)
    if not of_training.any():                   # no folds that split the cases
        of_training, of_case = map(np.arange, known.shape)
    alone = len(of_training) == 1
    found = []
    for training, case in itertools.product((0, 1), repeat=2):
        chosen = ((of_training % 2 != training) | alone)[:, None] & (of_case % 2 != case) & known
        tested = (of_training % 2 == training)[:, None] & (of_case % 2 == case) & known
        if chosen.any() and tested.any():
            found.append((chosen, tested))
    return found

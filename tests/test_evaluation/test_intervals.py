"""Intervals hold the mean as often as they say: normal and Dice-like values, trainings and cases that cross or nest."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from maml_toolkit.evaluation.intervals import interval, limits, standard_error
from maml_toolkit.evaluation.table import summary

DRAWN = {
    "normal": (lambda random, size: random.normal(0.7, 0.18, size), 0.7),
    "a little skewed": (lambda random, size: random.beta(5, 2, size), 5 / 7),
    "good Dice, long tail": (lambda random, size: random.beta(4, 1, size), 0.8),
    "ASSD": (lambda random, size: random.gamma(2, 2, size), 4),
}
"""How values are drawn, and their mean."""


@pytest.mark.parametrize("cases", [6, 10, 20])
@pytest.mark.parametrize("kind", DRAWN)
def test_the_interval_of_a_mean_holds_it(kind, cases):
    draw, mean = DRAWN[kind]
    random = np.random.default_rng(cases)
    found = np.array([interval(draw(random, cases), 399, number) for number in range(1000)])
    assert ((found[:, 0] <= mean) & (mean <= found[:, 1])).mean() >= 0.93


def test_it_is_never_shorter_than_students_nor_twice_as_long():
    random = np.random.default_rng(0)
    outlier = np.array([0.9, 0.91, 0.9, 0.92, 0.9, 0.1])
    for values in (*random.normal(size=(20, 8)), *random.beta(4, 1, (20, 8)), outlier):
        low, high = interval(values, 999)
        arm = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        for length in (high - values.mean(), values.mean() - low):
            assert arm * (1 - 1e-9) <= length <= 2 * arm * (1 + 1e-9)


def test_the_arm_towards_the_long_tail_is_the_longer_one():
    """Of Dice below, of distances above: a sample that shows none of the tail has its mean on the wrong side of it."""
    random = np.random.default_rng(0)
    for draw, sign in ((lambda: random.beta(4, 1, 20), -1), (lambda: random.gamma(2, 2, 20), 1)):
        drawn = [draw() for _ in range(50)]
        lengths = np.array([np.abs(np.array(interval(values, 999)) - values.mean()) for values in drawn]).mean(0)
        assert (lengths[1] > lengths[0]) == (sign > 0)


def test_equal_values_have_an_interval_without_width_and_one_value_none():
    assert interval(np.full(5, 0.2)) == pytest.approx((0.2, 0.2))
    assert np.isnan(interval([0.2])).all()
    assert np.isnan(interval([])).all()
    nothing = limits(np.empty((1, 0, 0)))
    assert np.isnan([nothing["low"], nothing["p"]]).all()


def test_one_table_by_hand():
    """Mean 4, MS(case) / 6 = 7 / 3, MS(training) / 6 = 1, and nothing is left."""
    error, freedom = standard_error(np.array([[[1.0, 2, 6], [3, 4, 8]]]))
    assert error**2 == pytest.approx(7 / 3 + 1)
    assert freedom == pytest.approx((10 / 3) ** 2 / ((7 / 3) ** 2 / 2 + 1**2 / 1))


def test_the_variance_is_unbiased_where_nothing_is_cut_off():
    """Trainings 3, cases 4, rest 2, of 4 trainings and 10 cases: 9 / 4 + 16 / 10 + 4 / 40 = 3.95."""
    random = np.random.default_rng(0)
    found = [standard_error(random.normal(0, 3, (1, 4, 1)) + random.normal(0, 4, (1, 1, 10))
                            + random.normal(0, 2, (1, 4, 10)))[0] ** 2 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(3.95, rel=0.05)


def nested(*folds):
    """Folds of trainings x cases side by side, each alone with its cases."""
    whole = np.full((1, sum(len(one) for one in folds), sum(len(one[0]) for one in folds)), np.nan)
    row = column = 0
    for one in map(np.asarray, folds):
        whole[0, row:row + one.shape[0], column:column + one.shape[1]] = one
        row, column = row + one.shape[0], column + one.shape[1]
    return whole


def test_folds_add_up_with_the_squares_of_their_shares():
    first, second = [[1.0, 2, 6], [3, 4, 8]], [[1.0, 1, 5, 5, 3, 3], [2, 2, 6, 6, 4, 4]]
    alone = [standard_error(np.array([one]))[0] ** 2 for one in (first, second)]
    assert standard_error(nested(first, second))[0] ** 2 == pytest.approx(alone[0] / 9 + alone[1] * 4 / 9)


def test_folds_of_one_training_vary_as_their_means_do():
    """Means 2, 4 and 9 of two cases each: V = s² / 3 with a freedom of 2, as a t-interval over the folds."""
    error, freedom = standard_error(nested([[1.0, 3]], [[4.0, 4]], [[8.0, 10]]))
    assert (error, freedom) == (pytest.approx(stats.sem([2, 4, 9])), pytest.approx(2))
    within, _ = standard_error(nested([[1.0, 9]], [[4.0, 6]], [[0.0, 10]]))       # equal means are luck
    assert within**2 == pytest.approx((32 + 2 + 50) / 3 / 6)


def test_networks_of_all_folds_on_one_test_set_cross_with_its_cases():
    """It is the cases in common that count, not the name of a fold."""
    rows = pd.DataFrame([{"case": case, "fold": fold, "seed": 0, "method": "m", "metric": "dice", "unit": "fraction",
                          "value": value, "empty": ""} for fold, values in enumerate(([0.1, 0.2, 0.6], [0.3, 0.4, 0.8]))
                         for case, value in zip("abc", values, strict=True)])
    found = summary(rows, ["method"], intervals=True).iloc[0]
    arm = stats.t.ppf(0.975, (10 / 3) ** 2 / ((7 / 3) ** 2 / 2 + 1)) * np.sqrt(10 / 3) / 10
    assert (found["low"], found["holds"]) == (pytest.approx(max(0, 0.4 - arm)), "trainings and cases")
    assert found["high"] == pytest.approx(min(1, 0.4 + arm))


def test_trainings_that_split_the_cases_anew_each_time_are_not_taken_for_more_than_they_tell():
    """Each seed its own folds: no two trainings tested the same cases, and nothing can be said but over cases."""
    value = np.random.default_rng(0).normal(size=(1, 4, 6))
    tested = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1]], bool)
    assert limits(np.where(tested, value, np.nan))["holds"] == "cases only"

"""Paired comparison: by hand, against scipy, of two trainings of one method, and where values are missing."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from maml_toolkit.evaluation import compare, summary
from maml_toolkit.evaluation.comparing import gap, holm, signed_rank
from maml_toolkit.evaluation.intervals import best_minus_worst, interval, limits


def table(values, metric="dice", unit="fraction", **more):
    """Rows from {method: {case: value}}."""
    about = {"run": "", "fold": 0, "seed": 0, "policy": "", "present": "t1+t2", "region": "ET", "empty": ""}
    about |= {"metric": metric, "unit": unit, **more}
    return pd.DataFrame([{**about, "method": method, "case": case, "value": value} for method, of_case in values.items()
                         for case, value in of_case.items()])


def simulated(sides=2, trainings=5, cases=26, folds=1, seed=0, effects=0.0, of_side=0.0, of_training=1.5):
    """Dice (sides, trainings, cases) of sides that are one and the same but for their `effects`; NaN outside of a fold.

    In points: 18 between cases, `of_training` between trainings of a side, 5 of a case in a training, `of_side` of a
    case in a side.
    """
    random = np.random.default_rng(seed)
    value = (random.normal(70, 18, cases) + random.normal(0, of_side, (sides, 1, cases))
             + random.normal(0, of_training, (sides, trainings * folds, 1)) + np.reshape(effects, (-1, 1, 1))
             + random.normal(0, 5, (sides, trainings * folds, cases)))
    tested = np.arange(cases) % folds == np.arange(trainings * folds)[:, None] % folds
    return np.where(tested, value, np.nan) / 100


def tidy(cube, methods=("MAML", "nnUNet"), folds=1):
    """The same as a table."""
    of_side, of_training, of_case = np.nonzero(~np.isnan(cube))
    names = np.array(methods)[of_side]
    return pd.DataFrame({
        "case": [f"c{number:03d}" for number in of_case], "method": names, "fold": of_training % folds,
        "seed": of_training // folds, "run": [f"{one}-{two}" for one, two in zip(names, of_training, strict=True)],
        "policy": "", "present": "t1+t2", "region": "ET", "metric": "dice", "unit": "fraction",
        "value": cube[of_side, of_training, of_case], "empty": ""})


@pytest.fixture
def random_table():
    return tidy(simulated(3, 3, 40, effects=(0, -3, -6), of_side=4), ("MAML", "nnUNet", "HeMIS"))


def test_by_hand():
    """Differences 0.1, 0.2, -0.1, 0, 0.3: mean 0.1, three wins, one loss, one draw."""
    one = {"a": 0.6, "b": 0.7, "c": 0.4, "d": 0.5, "e": 0.8}
    other = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5, "e": 0.5}
    row = compare(table({"MAML": one, "nnUNet": other}), "MAML").iloc[0]
    assert row["difference"] == pytest.approx(0.1)
    assert (row["cases"], row["wins"], row["losses"], row["missing"]) == (5, 3, 1, 0)
    assert (row["low"], row["high"]) == pytest.approx(interval([0.1, 0.2, -0.1, 0, 0.3]))
    assert (row["reference"], row["other"], row["present"], row["region"]) == ("MAML", "nnUNet", "t1+t2", "ET")


def test_one_training_a_side_has_an_interval_of_its_cases_and_no_p():
    row = compare(tidy(simulated(trainings=1, effects=(0, -30))), "MAML").iloc[0]
    assert (row["trainings"], row["holds"]) == (1, "cases only")
    assert row["low"] > 0
    assert np.isnan(row[["p", "p_holm", "p_wilcoxon", "low_trainings", "high_trainings"]].astype(float)).all()


def test_several_trainings_are_held_by_the_interval_and_named(random_table):
    found = compare(random_table, "MAML")
    assert set(found["holds"]) == {"trainings and cases"}
    assert set(found["trainings"]) == {3}
    assert ((found["p"] < 0.05) == (found["low"] * found["high"] > 0)).all()


def test_values_are_those_of_scipy(random_table):
    """By case those of Wilcoxon, by training those of Student."""
    found = compare(random_table, "MAML").set_index("other")
    for other in ("nnUNet", "HeMIS"):
        values = random_table.pivot(index=["seed", "case"], columns="method", values="value")
        difference = values["MAML"] - values[other]
        by_case, by_seed = (difference.groupby(name).mean() for name in ("case", "seed"))
        assert found.loc[other, "p_wilcoxon"] == pytest.approx(stats.wilcoxon(by_case).pvalue)
        assert found.loc[other, "difference"] == pytest.approx(by_case.mean())
        paired = stats.ttest_1samp(by_seed, 0).confidence_interval()
        assert found.loc[other, ["low_trainings", "high_trainings"]].tolist() == pytest.approx(list(paired))


def over_trainings(*folds):
    """Of folds of trainings, each the difference of every case: mean and the ends of the interval over trainings."""
    rows = [table({"MAML": one, "other": dict.fromkeys(one, 0.0)}, fold=fold, seed=seed)
            for fold, trainings in enumerate(folds) for seed, one in enumerate(trainings)]
    return compare(pd.concat(rows), "MAML").iloc[0][["difference", "low_trainings", "high_trainings"]].tolist()


def test_the_interval_over_trainings_lies_around_the_difference_where_folds_are_unequal():
    """Three cases differ by 0.1 in one fold, one by 0.5 in the other: 0.2, not the 0.3 of the folds.

    The two trainings of a fold are d = 0.1 and 0.2 apart, so the variance of their mean is d²/4, and its share squared.
    """
    found = over_trainings([dict.fromkeys("abc", 0.05), dict.fromkeys("abc", 0.15)], [{"d": 0.4}, {"d": 0.6}])
    arm = 4.30265273 * np.sqrt(0.75**2 * 0.1**2 / 4 + 0.25**2 * 0.2**2 / 4)
    assert found == pytest.approx([0.2, 0.2 - arm, 0.2 + arm])


def test_what_cases_differ_by_is_not_what_trainings_do():
    """Each case differs by the same in every training: so it would in others, however unlike the folds' cases are."""
    found = over_trainings(*[[{fold: value}] * 3 for fold, value in (("a", 0.1), ("b", 0.5))])
    assert found == pytest.approx([0.3] * 3)


def test_one_training_a_fold_says_nothing_of_others():
    assert np.isnan(over_trainings([{"a": 0.1, "b": 0.2}], [{"c": 0.3, "d": 0.4}])[1:]).all()


def test_a_column_that_is_not_there_is_refused(random_table):
    for measure in (summary, lambda table, by: compare(table, "MAML", by=by)):
        with pytest.raises(ValueError, match="regoin"):
            measure(random_table, by=("regoin",))
        assert measure(random_table, by="region")["region"].tolist()[0] == "ET"


def test_answers_of_the_same_networks_are_paired_by_training():
    """What a training adds to both policies alike is no difference; of networks trained apart it is."""
    random = np.random.default_rng(0)
    one = tidy(simulated(1), ["MAML"]).assign(policy="fused")
    luck = one["seed"].map(dict(enumerate(random.normal(0, 0.2, 5))))
    noise = random.normal(0, 0.01, len(one))
    both = pd.concat([one.assign(value=one["value"] + luck),
                      one.assign(value=one["value"] + luck + noise, policy="heads")])
    same = compare(both, "fused", column="policy").iloc[0]
    assert same["high"] - same["low"] < 0.02
    apart = compare(both.assign(run=both["policy"] + both["run"]), "fused", column="policy").iloc[0]
    assert apart["difference"] == pytest.approx(same["difference"])
    assert apart["high"] - apart["low"] > 0.2


@pytest.mark.parametrize(("trainings", "cases", "folds"), [(5, 26, 1), (5, 200, 1), (3, 100, 1), (1, 60, 5),
                                                           (2, 60, 3)])
def test_two_trainings_of_one_method_differ_in_one_comparison_of_twenty(trainings, cases, folds):
    """Of 500. The interval over cases alone, as with one training, excludes 0 far too often."""
    found, of_cases = [], []
    for number in range(500):
        one, other = simulated(2, trainings, cases, folds, number)
        found.append(limits(np.stack([one, -other])))
        of_cases.append(interval(np.nanmean(one - other, 0), 99))
        if number < 4:
            row = compare(tidy(np.stack([one, other]), folds=folds), "MAML").iloc[0]
            assert row[["low", "high"]].tolist() == pytest.approx([found[-1]["low"], found[-1]["high"]])
            assert row["p"] == pytest.approx(found[-1]["p"])
            assert (row["trainings"], row["holds"]) == (trainings * folds, "trainings and cases")
    found, of_cases = pd.DataFrame(found), np.array(of_cases)
    assert 0.92 <= ((found["low"] <= 0) & (found["high"] >= 0)).mean() <= 0.98
    assert 0.02 <= (found["p"] < 0.05).mean() <= 0.08
    assert ((of_cases[:, 0] > 0) | (of_cases[:, 1] < 0)).mean() > 0.1


@pytest.mark.parametrize(("trainings", "cases", "folds"), [(1, 40, 1), (5, 26, 1), (1, 60, 3)])
def test_the_gap_of_four_equal_modalities_is_none(trainings, cases, folds):
    """8 points of a case in a modality. Best minus worst of the same data excludes 0 in a third and more.

    In one training the modalities must be equal, not only on average over others: nothing there tells luck from worth.
    """
    luck = 0 if trainings * folds == 1 else 1.5
    found, chosen_on_the_same = [], []
    for number in range(400):
        cube = simulated(4, trainings, cases, folds, number, of_side=8, of_training=luck)
        found.append(best_minus_worst(cube, together=True))
        by_case = np.nanmean(cube, 1)
        means = by_case.mean(1)
        chosen_on_the_same.append(interval(by_case[means.argmax()] - by_case[means.argmin()], 99)[0] > 0)
    found = pd.DataFrame(found)
    assert ((found["low"] > 0) | (found["high"] < 0)).mean() <= 0.07
    assert abs(found["difference"].mean()) < 3 * found["difference"].sem()
    assert set(found["holds"]) == {"cases only" if trainings * folds == 1 else "trainings and cases"}
    assert np.mean(chosen_on_the_same) > 0.2


def test_a_gap_that_is_there_is_found():
    found = pd.DataFrame([best_minus_worst(simulated(4, 3, 60, seed=number, effects=(0, 15, 7, 4), of_side=8), True)
                          for number in range(100)])
    assert found["difference"].mean() == pytest.approx(0.15, abs=0.01)
    assert (found["low"] > 0).mean() > 0.8


def test_a_gap_is_chosen_on_other_cases_than_it_is_measured_on():
    """Cases a and c say t2 by 0.4, b and d say t1 by 0.2: measured on the others -0.4, -0.4, -0.2 and -0.2."""
    scores = {"t1": {"a": 0.1, "b": 0.5, "c": 0.1, "d": 0.5}, "t2": {"a": 0.5, "b": 0.3, "c": 0.5, "d": 0.3}}
    rows = pd.concat([table({"MAML": values}, present=present) for present, values in scores.items()])
    found = gap(rows)
    assert found["difference"] == pytest.approx(-0.3)
    assert (found["cases"], found["trainings"]) == (4, 1)
    assert found == best_minus_worst(np.array([[[0.1, 0.5, 0.1, 0.5]], [[0.5, 0.3, 0.5, 0.3]]]), together=True)
    assert gap(rows.assign(metric="assd", unit="mm"), metric="assd")["difference"] == pytest.approx(-0.3)
    for nothing in (rows[rows["present"] == "t1"], rows[rows["case"] == "a"]):
        assert np.isnan(gap(nothing)["difference"])


def test_holm_multiplies_the_smallest_by_their_number_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([np.nan, 0.02, 0.03]).tolist()[1:] == pytest.approx([0.04, 0.04])


def test_holm_is_over_all_rows_of_the_table(random_table):
    found = compare(random_table, "MAML")
    assert found["p_holm"].tolist() == pytest.approx(holm(found["p"].to_numpy()).tolist())
    assert (found["p_holm"] >= found["p"]).all()


def test_sides_exchanged_change_the_sign_and_nothing_else(random_table):
    two = random_table[random_table["method"] != "HeMIS"]
    one, other = compare(two, "MAML").iloc[0], compare(two, "nnUNet").iloc[0]
    assert one["difference"] == pytest.approx(-other["difference"])
    assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])
    assert one["p"] == pytest.approx(other["p"])


def test_the_order_of_the_rows_is_irrelevant(random_table):
    shuffled = random_table.sample(frac=1, random_state=1)
    one, other = (compare(rows, "MAML").set_index("other").sort_index() for rows in (random_table, shuffled))
    pd.testing.assert_frame_equal(one, other)


def test_a_shorter_distance_is_a_win():
    row = compare(table({"MAML": {"a": 1.0, "b": 5.0}, "nnUNet": {"a": 2.0, "b": 4.0}}, "assd", "mm"), "MAML",
                  metric="assd").iloc[0]
    assert (row["wins"], row["losses"], row["unit"]) == (1, 1, "mm")


@pytest.mark.parametrize("metric", ["nsd@2", "lesion_f1", "lesion_dice@met", "lesion_tp@men"])
def test_a_higher_share_or_count_of_what_was_found_is_a_win_at_any_setting(metric):
    rows = table({"MAML": {"a": 2.0, "b": 5.0}, "nnUNet": {"a": 1.0, "b": 4.0}}, metric, "fraction")
    assert compare(rows, "MAML", metric=metric).iloc[0]["wins"] == 2
    rows = table({"MAML": {"a": 2.0, "b": 5.0}, "nnUNet": {"a": 1.0, "b": 4.0}}, "lesion_fp@met", "count")
    assert compare(rows, "MAML", metric="lesion_fp@met").iloc[0]["losses"] == 2


@pytest.mark.parametrize("metric", ["volume_difference", "volume_prediction"])
def test_a_volume_of_which_neither_more_nor_less_is_better_has_no_winner(metric):
    rows = table({"MAML": {"a": -9.0, "b": -8.0}, "nnUNet": {"a": 0.0, "b": 1.0}}, metric, "ml")
    with pytest.raises(ValueError, match="volume_absolute_difference"):
        compare(rows, "MAML", metric=metric)
    with pytest.raises(ValueError, match="volume_absolute_difference"):
        gap(rows, "method", metric)


def test_the_gap_of_two_regions_or_policies_is_not_that_of_their_mean():
    rows = table({"MAML": {"a": 0.9, "b": 0.8}, "nnUNet": {"a": 0.1, "b": 0.2}})
    for column, other in (("region", "other"), ("policy", "heads")):
        with pytest.raises(ValueError, match="method, case"):
            gap(pd.concat([rows, rows.assign(**{column: other, "value": 0.5})]), "method")


def test_missing_values_are_counted():
    one = {"a": 0.6, "b": np.nan, "c": 0.4, "e": 0.9}
    other = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    row = compare(table({"MAML": one, "nnUNet": other}), "MAML").iloc[0]
    assert (row["cases"], row["missing"]) == (2, 3)


def test_runs_of_a_case_are_averaged_first():
    """Two seeds of two cases: differences 0.1 and 0.3 of a, -0.1 and 0.1 of b. So 0.2 and 0: two cases, not four.

    Cases and trainings cross without a rest: MS(case)/(S n) = 0.02 / 2 and MS(training)/(S n) = 0.02 / 2, so that
    V = 0.02; with a freedom of 1 each, 0.02² / (2 * 0.01²) = 2. Trained apart, nnUNet adds no part of its own.
    """
    rows = pd.concat([table({"MAML": {"a": 0.6, "b": 0.4}, "nnUNet": {"a": 0.5, "b": 0.5}}),
                      table({"MAML": {"a": 0.8, "b": 0.6}, "nnUNet": {"a": 0.5, "b": 0.5}}, seed=1)])
    row = compare(rows, "MAML").iloc[0]
    assert row["cases"] == 2
    assert row["difference"] == pytest.approx(0.1)
    arm = stats.t.ppf(0.975, 2) * np.sqrt(0.02)
    assert (row["low"], row["high"]) == pytest.approx((0.1 - arm, 0.1 + arm))
    assert row["p"] == pytest.approx(2 * stats.t.sf(0.1 / np.sqrt(0.02), 2))


def test_subsets_can_be_sides_and_can_be_averaged():
    rows = pd.concat([table({"MAML": {"a": 0.6, "b": 0.7}}, present="t1"),
                      table({"MAML": {"a": 0.4, "b": 0.4}, "nnUNet": {"a": 0.1, "b": 0.2}}, present="t2")])
    row = compare(rows[rows["method"] == "MAML"], "t1", column="present", by=("region",)).iloc[0]
    assert (row["other"], row["difference"]) == ("t2", pytest.approx(0.25))
    averaged = compare(rows, "MAML", by=("region",)).iloc[0]
    assert averaged["difference"] == pytest.approx(0.25)        # over the subsets that both answered
    assert averaged["missing"] == 2                             # t1 of both cases has no partner


def test_one_case_has_no_interval_and_equal_sides_no_difference():
    row = compare(table({"MAML": {"a": 0.6}, "nnUNet": {"a": 0.5}}), "MAML").iloc[0]
    assert np.isnan(row[["low", "high", "p", "p_holm"]].astype(float)).all()
    assert signed_rank(np.zeros(5)) == 1


@pytest.mark.parametrize(("settings", "message"), [
    ({"reference": "mamal"}, "mamal"), ({"reference": "MAML", "column": "case"}, "column"),
    ({"reference": "MAML", "metric": "hd95"}, "'hd95'"), ({"reference": "MAML", "unit": "mm"}, "'mm'"),
    ({"reference": "MAML", "by": ("method",)}, "by=")])
def test_what_cannot_be_compared_is_refused(random_table, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(random_table, **settings)


def test_a_side_without_another_is_refused(random_table):
    with pytest.raises(ValueError, match=r"method .*'MAML'"):
        compare(random_table[random_table["method"] == "MAML"], "MAML")


def test_rows_that_cannot_be_told_apart_are_refused(random_table):
    with pytest.raises(ValueError, match="method, case, fold, seed"):
        compare(pd.concat([random_table, random_table]), "MAML")

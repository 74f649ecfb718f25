"""Paired comparison: by hand, against scipy, and where values are missing."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from maml_toolkit.evaluation import compare
from maml_toolkit.evaluation.comparing import holm, interval, signed_rank


def table(values, metric="dice", unit="fraction", **more):
    """Rows from {method: {case: value}}."""
    about = {"run": "r", "fold": 0, "seed": 0, "policy": "", "present": "t1+t2", "region": "ET", "empty": ""}
    about |= {"metric": metric, "unit": unit, **more}
    return pd.DataFrame([{**about, "method": method, "case": case, "value": value} for method, of_case in values.items()
                         for case, value in of_case.items()])


@pytest.fixture
def random_table():
    random = np.random.default_rng(0)
    cases = [f"c{i}" for i in range(40)]
    return table({name: dict(zip(cases, random.beta(5, 2, 40) + shift, strict=True))
                  for name, shift in (("MAML", 0.04), ("nnUNet", 0.0), ("HeMIS", -0.1))})


def test_by_hand():
    """Differences 0.1, 0.2, -0.1, 0, 0.3: mean 0.1, three wins, one loss, one draw.

    Signed ranks of 0.1, 0.2, -0.1, 0.3 (the zero left out): 1.5, 3, -1.5, 4; the smaller sum is 1.5.
    """
    one = {"a": 0.6, "b": 0.7, "c": 0.4, "d": 0.5, "e": 0.8}
    other = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5, "e": 0.5}
    row = compare(table({"MAML": one, "nnUNet": other}), "MAML").iloc[0]
    assert row["difference"] == pytest.approx(0.1)
    assert (row["cases"], row["wins"], row["losses"], row["missing"]) == (5, 3, 1, 0)
    assert row["low"] < 0.1 < row["high"]
    assert row["p"] == pytest.approx(stats.wilcoxon([0.1, 0.2, -0.1, 0, 0.3]).pvalue)
    assert (row["reference"], row["other"], row["present"], row["region"]) == ("MAML", "nnUNet", "t1+t2", "ET")


def test_values_are_those_of_scipy(random_table):
    found = compare(random_table, "MAML").set_index("other")
    values = {name: part.set_index("case")["value"] for name, part in random_table.groupby("method")}
    for other in ("nnUNet", "HeMIS"):
        differences = values["MAML"] - values[other]
        assert found.loc[other, "p"] == pytest.approx(stats.wilcoxon(differences).pvalue)
        assert found.loc[other, "difference"] == pytest.approx(differences.mean())
        half = stats.norm.ppf(0.975) * differences.std() / np.sqrt(len(differences))    # what a bootstrap tends to
        assert found.loc[other, "high"] - found.loc[other, "low"] == pytest.approx(2 * half, rel=0.1)


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


def test_missing_values_are_counted():
    one = {"a": 0.6, "b": np.nan, "c": 0.4, "e": 0.9}
    other = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    row = compare(table({"MAML": one, "nnUNet": other}), "MAML").iloc[0]
    assert (row["cases"], row["missing"]) == (2, 3)


def test_runs_of_a_case_are_averaged_first():
    """Two seeds of two cases: differences 0.1 and 0.3 of a, -0.1 and 0.1 of b. So 0.2 and 0: two cases, not four."""
    rows = pd.concat([table({"MAML": {"a": 0.6, "b": 0.4}, "nnUNet": {"a": 0.5, "b": 0.5}}),
                      table({"MAML": {"a": 0.8, "b": 0.6}, "nnUNet": {"a": 0.5, "b": 0.5}}, seed=1)])
    row = compare(rows, "MAML").iloc[0]
    assert row["cases"] == 2
    assert row["difference"] == pytest.approx(0.1)
    assert (row["lowest_run"], row["highest_run"]) == pytest.approx((0.0, 0.2))


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
    assert interval(np.full(5, 0.2)) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(("settings", "message"), [
    ({"reference": "mamal"}, "mamal"), ({"reference": "MAML", "column": "case"}, "column"),
    ({"reference": "MAML", "metric": "hd95"}, "no 'hd95'"), ({"reference": "MAML", "unit": "mm"}, "in 'mm'"),
    ({"reference": "MAML", "by": ("method",)}, "not in by")])
def test_what_cannot_be_compared_is_refused(random_table, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(random_table, **settings)


def test_a_side_without_another_is_refused(random_table):
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(random_table[random_table["method"] == "MAML"], "MAML")


def test_rows_that_cannot_be_told_apart_are_refused(random_table):
    with pytest.raises(ValueError, match="keep one run of each"):
        compare(pd.concat([random_table, random_table]), "MAML")

"""Shapley values by hand, by their axioms and against all orders; zones and shares by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from maml_toolkit.data import phantoms
from maml_toolkit.data.prepared import Grid
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import read_label
from maml_toolkit.evaluation import evaluate
from maml_toolkit.evaluation.intervals import interval
from maml_toolkit.evaluation.worth import agreement, shapley, shapley_by_case, shares, zones
from maml_toolkit.methods import build
from maml_toolkit.prediction.predictor import Prediction, Predictor

TASK = Task("three", ("a", "b", "c"), {"background": 0, "lesion": 1})
FOUR = ("t1", "t1ce", "t2", "flair")
SHAPE = (2, 3, 4)


def rows(scores, **more):
    """Rows of the tidy table from {case: {"a+b": dice}}."""
    about = {"method": "maml", "run": "r", "fold": 0, "seed": 0, "policy": "", "region": "ET", "metric": "dice",
             "unit": "fraction", "empty": ""}
    return pd.DataFrame([{"case": case, "present": present, "value": value, **about, **more}
                         for case, of_subset in scores.items() for present, value in of_subset.items()])


def subsets(modalities):
    return [one for size in range(len(modalities), 0, -1) for one in itertools.combinations(modalities, size)]


@pytest.fixture
def scores():
    """Dice of 12 cases from each of the 15 subsets of four modalities."""
    random = np.random.default_rng(0)
    return {f"case {i:02d}": {"+".join(one): random.uniform() for one in subsets(FOUR)} for i in range(12)}


def worth(scores, **more):
    return shapley(rows(scores, **more), resamples=99).set_index("modality")["value"].to_dict()


def over_all_orders(values):
    """Independent oracle: the mean of what each modality adds when it joins, over all N! orders."""
    added = dict.fromkeys(FOUR, 0.0)
    orders = list(itertools.permutations(FOUR))
    score = {frozenset(present.split("+")): value for present, value in values.items()} | {frozenset(): 0.0}
    for order in orders:
        for place, name in enumerate(order):
            added[name] += (score[frozenset(order[:place + 1])] - score[frozenset(order[:place])]) / len(orders)
    return added


def test_two_modalities_by_hand():
    """phi_a = 1/2 v(a) + 1/2 (v(ab) - v(b)) = 0.2 + 0.15; phi_b = 1/2 * 0.5 + 1/2 * (0.8 - 0.4)."""
    found = worth({"x": {"a+b": 0.8, "a": 0.4, "b": 0.5}})
    assert found == {"a": pytest.approx(0.35), "b": pytest.approx(0.45)}


def test_values_are_those_over_all_orders(scores):
    found = shapley_by_case(rows(scores)).set_index(["case", "modality"])["value"]
    for case, values in scores.items():
        assert found[case].to_dict() == pytest.approx(over_all_orders(values))


def test_values_sum_to_the_score_of_all_modalities(scores):
    found = shapley(rows(scores), resamples=99)
    expected = np.mean([values["+".join(FOUR)] for values in scores.values()])
    assert found["value"].sum() == pytest.approx(expected)
    assert found["full"].tolist() == pytest.approx([expected] * 4)


def test_what_says_nothing_of_a_region_that_is_not_there_earns_nothing():
    """The truth is empty, so the empty answer has Dice 1: a is silent in vain, b's false alarm costs all of it."""
    said = {"a+b": (0.0, "truth"), "a": (1.0, "both"), "b": (0.0, "truth")}
    table = pd.concat([rows({"x": {present: value}}, empty=empty) for present, (value, empty) in said.items()])
    found = shapley(table, resamples=99).set_index("modality")
    assert found["value"].to_dict() == {"a": pytest.approx(0), "b": pytest.approx(-1)}
    assert found["full"].tolist() == [0.0, 0.0]
    silent = rows({"x": dict.fromkeys(["a+b", "a", "b"], 1.0)}, empty="both")
    assert shapley(silent, resamples=99)["value"].tolist() == pytest.approx([0, 0])
    assert shapley(silent, resamples=99)["full"].tolist() == [1.0, 1.0]


def test_what_finds_nothing_of_a_region_that_is_there_starts_from_zero():
    """As by hand without an empty truth: v(nothing) = 0, whichever answers are empty."""
    table = pd.concat([rows({"x": {"a+b": 0.8, "b": 0.5}}), rows({"x": {"a": 0.0}}, empty="prediction")])
    found = shapley(table, resamples=99).set_index("modality")["value"]
    assert found.to_dict() == {"a": pytest.approx(0.15), "b": pytest.approx(0.65)}


def test_cases_with_and_without_the_region_add_up_to_the_score_less_that_of_the_empty_answer():
    """Case x without the region: 0.5 on the mean of nothing, so that the values add up to (1 + 0.8) / 2 - 0.5."""
    table = pd.concat([rows({"x": dict.fromkeys(["a+b", "a", "b"], 1.0)}, empty="both"),
                       rows({"y": {"a+b": 0.8, "a": 0.4, "b": 0.5}})])
    found = shapley(table, resamples=99).set_index("modality")
    assert found["value"].to_dict() == {"a": pytest.approx(0.35 / 2), "b": pytest.approx(0.45 / 2)}
    assert found["full"].tolist() == pytest.approx([0.9, 0.9])
    assert found["value"].sum() == pytest.approx(0.9 - 0.5)


def test_a_modality_that_changes_nothing_is_worth_nothing():
    without = {"": 0.0, "a": 0.3, "b": 0.6, "a+b": 0.7}
    values = {"+".join(one): without["+".join(name for name in one if name != "c")] for one in subsets("abc")}
    assert worth({"x": values})["c"] == pytest.approx(0)


def test_two_modalities_that_can_stand_for_each_other_are_worth_the_same():
    values = {"+".join(one): 0.2 * ("a" in one or "b" in one) + 0.5 * ("c" in one) for one in subsets("abc")}
    found = worth({"x": values})
    assert found == {"a": pytest.approx(0.1), "b": pytest.approx(0.1), "c": pytest.approx(0.5)}


def test_a_modality_that_does_harm_is_worth_less_than_nothing():
    assert worth({"x": {"a+b": 0.5, "a": 0.9, "b": 0.0}})["b"] == pytest.approx(-0.2)


def test_the_order_of_rows_is_irrelevant(scores):
    table = pd.concat([rows(scores, region="WT"), rows(scores)])
    found, shuffled = (shapley(one, resamples=99).sort_values(["region", "modality"], ignore_index=True)
                       for one in (table, table.sample(frac=1, random_state=0)))
    pd.testing.assert_frame_equal(found, shuffled)


def test_the_order_of_modalities_within_a_subset_is_irrelevant(scores):
    table = rows(scores)
    backwards = table.assign(present=[one if case < "case 06" else "+".join(reversed(one.split("+")))
                                      for case, one in zip(table["case"], table["present"], strict=True)])
    pd.testing.assert_frame_equal(shapley(backwards, resamples=99), shapley(table, resamples=99))
    with pytest.raises(ValueError, match="method, policy, region"):
        shapley(pd.concat([table, backwards]))


def test_rows_are_in_the_order_of_the_table(scores):
    found = shapley(pd.concat([rows(scores, region="WT"), rows(scores)]), resamples=99)
    assert found["region"].tolist() == ["WT"] * 4 + ["ET"] * 4
    assert found["modality"].tolist() == [*FOUR, *FOUR]
    assert list(found) == ["method", "policy", "region", "modality", "metric", "value", "low", "high", "holds",
                           "cases", "missing", "full"]


def test_the_interval_is_over_cases(scores):
    found = shapley(rows(scores)).iloc[0]
    values = shapley_by_case(rows(scores)).query("modality == 't1'")["value"]
    assert (found["low"], found["high"]) == pytest.approx(interval(values.to_numpy()))
    assert found["holds"] == "cases only"
    single = shapley(rows({"x": scores["case 00"]})).iloc[0]
    assert np.isnan([single["low"], single["high"]]).all()


def test_the_interval_holds_trainings_where_there_are_several(scores):
    """A training that is better by 0.3 from t1 is worth more of it: by 0.3 for the subsets with t1, so by 0.3."""
    again = rows(scores, seed=1)
    again["value"] += 0.3 * again["present"].str.split("+").map(lambda names: "t1" in names)
    both = pd.concat([rows(scores), again])
    found, one = shapley(both).set_index("modality"), shapley(rows(scores)).set_index("modality")
    assert (found["value"] - one["value"]).to_dict() == pytest.approx(dict(zip(FOUR, (0.15, 0, 0, 0), strict=True)))
    assert set(found["holds"]) == {"trainings and cases"}
    assert found.loc["t1", "high"] - found.loc["t1", "low"] > 2 * (one.loc["t1", "high"] - one.loc["t1", "low"])
    by_case = shapley_by_case(both)
    assert len(by_case) == 12 * 4
    assert by_case.query("modality == 't1'")["value"].mean() == pytest.approx(found.loc["t1", "value"])


def test_a_case_that_lacks_a_subset_is_counted_and_not_used(scores):
    table = rows(scores)
    gone = (table["case"] == "case 03") & (table["present"] == "t2")
    fewer = shapley(table[table["case"] != "case 03"], resamples=99)
    for lacking in (table[~gone], table.assign(value=table["value"].mask(gone))):
        found = shapley(lacking, resamples=99)
        pd.testing.assert_frame_equal(found, fewer.assign(missing=1))
        assert (found["cases"] == 11).all()
    assert shapley_by_case(lacking).query("case == 'case 03'")["value"].isna().all()


@pytest.mark.parametrize("answered", [["a+b"], ["a", "b"]])
def test_a_method_that_does_not_answer_from_every_subset_has_no_value(answered):
    found = shapley(rows({"x": dict.fromkeys(answered, 0.5)}))
    assert found["modality"].tolist() == ["a", "b"]
    assert found[["value", "full"]].isna().all().all()
    assert found[["cases", "missing"]].values.tolist() == [[0, 1]] * 2


def test_runs_of_a_case_are_averaged_and_do_not_count_as_cases(scores):
    higher = {case: {present: value + 0.2 for present, value in values.items()} for case, values in scores.items()}
    mean = {case: {present: value + 0.1 for present, value in values.items()} for case, values in scores.items()}
    found = shapley(pd.concat([rows(scores), rows(higher, seed=1)]), resamples=99)
    about = ["low", "high", "holds"]                # which hold the trainings too
    pd.testing.assert_frame_equal(found.drop(columns=about), shapley(rows(mean), resamples=99).drop(columns=about))


def test_a_run_that_lacks_a_subset_is_not_mixed_with_another(scores):
    other = rows({"case 00": dict.fromkeys(scores["case 00"], 1.0)}, seed=1).iloc[1:]
    found = shapley(pd.concat([rows(scores), other]), resamples=99)
    assert set(found["metric"]) == {"dice"}
    pd.testing.assert_frame_equal(found, shapley(rows(scores), resamples=99))


def test_methods_policies_and_regions_are_apart(scores):
    table = pd.concat([rows(scores), rows(scores, policy="drop"), rows(scores, method="hemis", policy=np.nan)])
    found = shapley(table.assign(fold=None), resamples=99)
    assert found[["method", "policy"]].drop_duplicates().values.tolist() == [["maml", ""], ["maml", "drop"],
                                                                             ["hemis", ""]]
    assert (found["cases"] == 12).all()


def test_what_cannot_be_summarised_is_refused(scores):
    table = rows(scores)
    with pytest.raises(ValueError, match=r"metric='assd'.*dice, nsd"):
        shapley(table, "assd")
    with pytest.raises(ValueError, match=r"'nsd@2'.*\('dice', 'fraction'\)"):
        shapley(table, "nsd@2")
    with pytest.raises(ValueError, match=r"180 .*method, policy, region"):
        shapley(pd.concat([table, table.assign(run="other")]))


def test_zones_by_hand():
    """A lesion voxel on a line of 1.5 mm steps: 1.5 is rim, 3 to 9 surroundings, 10.5 elsewhere."""
    line = np.zeros((1, 1, 9), bool)
    line[..., 0] = True
    found = zones(line, (5, 5, 1.5))
    names = [next(name for name, mask in found.items() if mask[0, 0, i]) for i in range(9)]
    assert names == ["tumour", "rim", *["surroundings"] * 5, *["elsewhere"] * 2]


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.7, 1.3, 5.0)])
def test_zones_partition_the_volume(spacing_mm):
    lesion = np.random.default_rng(0).uniform(size=(20, 20, 20)) > 0.999
    found = zones(lesion, spacing_mm)
    assert list(found) == ["tumour", "rim", "surroundings", "elsewhere"]
    assert (sum(mask.astype(int) for mask in found.values()) == 1).all()
    assert all(mask.dtype == bool and mask.any() for mask in found.values())


def test_zones_are_those_of_the_distance_to_every_voxel_of_the_lesion():
    lesion, spacing = np.random.default_rng(1).uniform(size=(8, 9, 10)) > 0.99, np.array([0.7, 1.3, 2.0])
    every = np.stack(np.indices(lesion.shape), -1) * spacing
    nearest = np.linalg.norm(every[..., None, :] - every[lesion], axis=-1).min(-1)
    found = zones(lesion, tuple(spacing.tolist()))
    np.testing.assert_array_equal(found["rim"], (nearest > 0) & (nearest <= 2))
    np.testing.assert_array_equal(found["surroundings"], (nearest > 2) & (nearest <= 10))


def test_a_spacing_kept_with_few_digits_does_not_move_a_voxel():
    line = np.arange(12).reshape(1, 1, 12) == 0
    for spacing in (0.9999999, 1.0, 1.0000001):
        assert {name: int(mask.sum()) for name, mask in zones(line, (1, 1, spacing)).items()} == {
            "tumour": 1, "rim": 2, "surroundings": 8, "elsewhere": 1}


def test_without_a_lesion_all_is_elsewhere():
    found = zones(np.zeros(SHAPE, np.uint8), (1, 1, 1))
    assert found["elsewhere"].all()
    assert not any(found[name].any() for name in ("tumour", "rim", "surroundings"))
    with pytest.raises(ValueError, match="spacing_mm="):
        zones(np.zeros(SHAPE), (1, 1))


def prediction(maps, modalities=("a", "b"), spacing=1.0):
    """A prediction whose working grid is the file's own."""
    affine = tuple(tuple(row) for row in np.diag([spacing] * 3 + [1.0]).tolist())
    grid = Grid(SHAPE, affine, tuple((0, n) for n in SHAPE), SHAPE)
    return Prediction("x", TASK, modalities, grid, {name: np.float32(one) for name, one in maps.items()})


@pytest.fixture
def truth():
    """Two voxels of tumour; at 1 mm the rest is rim and surroundings, at 100 mm elsewhere."""
    found = np.zeros(SHAPE, np.uint8)
    found[0, 0, :2] = 1
    return found


def test_attention_shares_by_hand(truth):
    """In the tumour a has 0.2 + 0.4, b twice 0.9: a's share is 0.6 / 2.4."""
    a, b = np.full(SHAPE, 0.5), np.full(SHAPE, 0.5)
    a[0, 0, :2], b[0, 0, :2] = (0.2, 0.4), 0.9
    found = shares(prediction({"attention/a": a, "attention/b": b}), truth).set_index(["zone", "modality"])["attention"]
    assert found["tumour"].to_dict() == {"a": pytest.approx(0.25), "b": pytest.approx(0.75)}
    assert found["rim"].to_dict() == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}
    assert found["elsewhere"].isna().all()


def test_contribution_shares_by_hand(truth):
    """Contributions (1, -3) and (5, 6) differ from their means by 2 + 2 and 0.5 + 0.5: a has 4 of 5 in every zone."""
    terms = {"contribution/a": np.stack([np.full(SHAPE, 1.0), np.full(SHAPE, -3.0)]),
             "contribution/b": np.stack([np.full(SHAPE, 5.0), np.full(SHAPE, 6.0)])}
    found = shares(prediction(terms), truth)
    assert list(found) == ["case", "modality", "zone", "attention", "contribution"]
    known = found.set_index(["zone", "modality"])["contribution"]
    assert known["tumour"].to_dict() == {"a": pytest.approx(0.8), "b": pytest.approx(0.2)}
    assert found["attention"].isna().all()


def test_a_logit_that_all_classes_share_decides_nothing(truth):
    random = np.random.default_rng(0)
    terms = {f"contribution/{name}": random.normal(size=(2, *SHAPE)) for name in "ab"}
    shifted = {name: one + random.normal(size=SHAPE) for name, one in terms.items()}
    pd.testing.assert_frame_equal(shares(prediction(terms), truth), shares(prediction(shifted), truth))


@pytest.mark.parametrize("regions", [{"whole": ["rim", "core"], "core": ["core"]}, {"core": ["core"]}])
def test_what_a_scan_adds_to_every_region_decides_each_of_them(truth, regions):
    """Regions do not exclude one another: 3 and 1 added to the log-odds of each are shares of 3/4 and 1/4."""
    task = Task("nested", ["a", "b"], {"background": 0, "rim": 1, "core": 2}, regions=regions, train_on="regions")
    terms = {f"contribution/{name}": np.full((len(regions), *SHAPE), size) for name, size in (("a", 3.0), ("b", 1.0))}
    found = shares(replace(prediction(terms), task=task), truth).set_index(["zone", "modality"])["contribution"]
    assert found["tumour"].to_dict() == {"a": pytest.approx(0.75), "b": pytest.approx(0.25)}


def test_shares_add_up_to_one_in_every_zone(truth):
    random = np.random.default_rng(0)
    maps = {f"attention/{name}": random.uniform(size=SHAPE) for name in "abc"}
    maps |= {f"contribution/{name}": random.normal(size=(2, *SHAPE)) for name in "abc"}
    found = shares(prediction(maps, ("a", "b", "c")), truth, (1, 1, 4.5))
    assert len(found) == 12
    sums = found.groupby("zone")[["attention", "contribution"]].sum().drop("elsewhere")
    np.testing.assert_allclose(sums, 1)


def test_the_spacing_is_that_of_the_files(truth):
    found = shares(prediction({"attention/a": np.ones(SHAPE), "attention/b": np.ones(SHAPE)}, spacing=100.0), truth)
    assert set(found.dropna(subset="attention")["zone"]) == {"tumour", "elsewhere"}


def test_a_method_without_attention_has_unknown_shares(truth):
    found = shares(prediction({}, ("a",)), truth)
    assert found[["zone", "modality"]].values.tolist() == [[zone, "a"] for zone in zones(truth, (1, 1, 1))]
    assert found[["attention", "contribution"]].isna().all().all()


def test_attention_of_zero_has_no_share(truth):
    found = shares(prediction({"attention/a": np.zeros(SHAPE), "attention/b": np.zeros(SHAPE)}), truth)
    assert found["attention"].isna().all()


def test_a_truth_on_another_grid_is_refused(truth):
    with pytest.raises(ValueError, match=r"case x: .*\(1, 3, 4\).*\(2, 3, 4\)"):
        shares(prediction({}), truth[:1])


def case_shares(attention, contribution, modality="a", zone="tumour"):
    return pd.DataFrame({"case": [f"case {i}" for i in range(len(attention))], "modality": modality, "zone": zone,
                         "attention": attention, "contribution": contribution})


def case_values(values):
    """Shapley values by case from {modality: values}."""
    return pd.concat([pd.DataFrame({"method": "maml", "policy": "", "region": "ET", "modality": name, "value": one,
                                    "case": [f"case {i}" for i in range(len(one))]}) for name, one in values.items()])


def test_agreement_by_hand():
    """Ranks of the Shapley shares 0.1, 0.3, 0.2, 0.4 against 1, 2, 3, 4: 1 - 6 (0+1+1+0) / (4 * 15) = 0.8."""
    values = case_values({"a": [0.1, 0.3, 0.2, 0.4], "b": [0.9, 0.7, 0.8, 0.6]})
    found = agreement(case_shares([0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6]), values, "ET")
    assert list(found) == ["modality", "first", "second", "spearman", "p", "cases"]
    assert found[["first", "second"]].values.tolist() == [["attention", "contribution"], ["attention", "shapley"],
                                                          ["contribution", "shapley"]]
    assert found["spearman"].tolist() == pytest.approx([-1, 0.8, -0.8])
    assert found["p"][1] == pytest.approx(stats.spearmanr([1, 2, 3, 4], [1, 3, 2, 4]).pvalue)
    assert (found["cases"] == 4).all()


def test_the_shapley_share_is_of_the_whole_score():
    """Values 0.2, 0.3, 0.4 rise; as shares of 0.2, 0.6, 1.6 they fall."""
    values = case_values({"a": [0.2, 0.3, 0.4], "b": [0.0, 0.3, 1.2]})
    found = agreement(case_shares([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]), values, "ET")
    assert found["spearman"].tolist() == pytest.approx([1, -1, -1])


def test_cases_without_a_share_are_not_counted():
    """Case 0 scores nothing (0.3 - 0.2 - 0.1 is not quite 0), case 1 is unknown: two cases are too few."""
    values = case_values({"a": [0.3, np.nan, 0.2, 0.3, 0.1], "b": [-0.2, np.nan, 0.5, 0.1, 0.1],
                          "c": [-0.1, np.nan, 0.1, 0.1, 0.2]})
    found = agreement(case_shares([0.1, 0.2, 0.3, np.nan, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]), values, "ET")
    assert found["cases"].tolist() == [4, 2, 3]
    assert found["spearman"].isna().tolist() == [False, True, False]


def test_shares_that_never_change_have_no_correlation():
    found = agreement(case_shares([0.5] * 4, [0.1, 0.2, 0.3, 0.4]), case_values({"a": [0.5, 0.6, 0.7, 0.8]}), "ET")
    assert found[["spearman", "p"]].isna().all().all()    # the share of one modality alone is always 1
    assert (found["cases"] == 4).all()


def test_zones_and_regions_that_are_not_there_are_refused():
    some, values = case_shares([0.1], [0.1]), case_values({"a": [0.1]})
    with pytest.raises(ValueError, match=r"zone='rim'.*tumour"):
        agreement(some, values, "ET", "rim")
    with pytest.raises(ValueError, match=r"region='WT'.*ET"):
        agreement(some, values, "WT")
    with pytest.raises(ValueError, match=r"1 rows .*case, modality"):
        agreement(some, pd.concat([values, values.assign(method="hemis")]), "ET")


def test_a_trained_method_goes_from_cases_to_agreement():
    torch.manual_seed(0)
    task = TASKS["liver_phases"]
    predictor = Predictor(build("maml", modalities=task.modalities, classes=2, channels=(4, 6)), task, (16, 16, 16))
    cases = phantoms.liver_phases(3, size=16)
    parts = pd.concat([shares(predictor(case), task.encode(read_label(case.label).array)) for case in cases])
    sums = parts.groupby(["case", "zone"])[["attention", "contribution"]].sum(min_count=1).to_numpy()
    np.testing.assert_allclose(sums[~np.isnan(sums)], 1)
    values = shapley_by_case(evaluate(predictor, cases, "all"))
    found = agreement(parts, values, next(iter(task.regions)))
    assert found["modality"].tolist() == [name for name in task.modalities for _ in range(3)]

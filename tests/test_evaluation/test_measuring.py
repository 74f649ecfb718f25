"""Evaluation: the tidy table, its subsets, its summary."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import COLUMNS, compare_regions, evaluate, formatted, summary
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.evaluation.table import metrics_of, read_table
from maml_toolkit.methods import build
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.sureness import Expected
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, MissingModalityError

BRAIN = TASKS["brats2021"]


def predictor(method="maml", modalities=("t1", "t2", "flair")):
    torch.manual_seed(0)
    return Predictor(build(method, modalities=modalities, classes=4, channels=(4, 6)), BRAIN, (16, 16, 16), run="first")


@pytest.fixture(scope="module")
def cases():
    return phantoms.brains(2, size=(16, 20, 16))


@pytest.fixture(scope="module")
def table(cases):
    return evaluate(predictor(), cases, "all", fold=1, seed=3)


def test_the_table_is_tidy(table):
    assert tuple(table) == COLUMNS
    assert len(table) == 2 * 7 * 3 * 5      # cases x subsets x regions x metrics
    assert not table.drop(columns=["policy"]).isna().any().any()
    assert set(table["unit"]) == {"fraction", "mm", "voxel"}
    assert table[["method", "run", "fold", "seed"]].drop_duplicates().values.tolist() == [["maml", "first", 1, 3]]


def test_present_is_in_the_tasks_order(table):
    assert list(table["present"].unique()) == ["t1+t2+flair", "t1+t2", "t1+flair", "t2+flair", "t1", "t2", "flair"]


def test_a_row_is_the_metric_of_the_prediction(table, cases):
    case = cases[0]
    answer = predictor()(case, present={"t1", "flair"})
    truth = BRAIN.region(BRAIN.encode(np.asarray(case.label.dataobj)), "WT")
    row = table.query("case == @case.id and present == 't1+flair' and region == 'WT' and metric == 'dice'")
    # subsets answered together differ by rounding, which may turn a voxel of an untrained network
    assert row["value"].item() == pytest.approx(dice(BRAIN.region(answer.classes, "WT"), truth), abs=1e-4)


def test_each_and_full_ask_for_fewer_subsets(cases):
    each = evaluate(predictor(), cases[:1], "each")
    assert list(each["present"].unique()) == ["t1+t2+flair", "t1", "t2", "flair"]
    assert list(evaluate(predictor("early_fusion"), cases[:1], "each")["present"].unique()) == ["t1+t2+flair"]
    assert list(evaluate(predictor(), cases[:1], [("t2",)])["present"].unique()) == ["t2"]


def test_a_case_that_lacks_a_modality_has_fewer_rows(cases):
    lacking = Case("b", {name: cases[1].images[name] for name in ("t1", "t2")}, cases[1].label)
    found = evaluate(predictor(), [cases[0], lacking], "each")
    assert list(found.query("case == 'b'")["present"].unique()) == ["t1+t2", "t1", "t2"]


def test_subsets_and_policies_listed_twice_are_measured_once(cases):
    once = evaluate(predictor(), cases[:1], [("t1", "t2")], policies=["heads"])
    twice = evaluate(predictor(), cases[:1], [("t1", "t2"), ("t2", "t1"), ("t2", "t1", "t1")], policies=["heads"] * 2)
    assert len(once) > 0
    pd.testing.assert_frame_equal(twice, once)
    pd.testing.assert_frame_equal(evaluate(predictor(), cases[:1], [("t1", "t2")], policies="heads"), once)


def test_a_case_listed_twice_is_refused_by_its_id(cases):
    with pytest.raises(DataError) as caught:
        evaluate(predictor(), [cases[0], cases[1], cases[0]])
    assert caught.value.case == cases[0].id


def test_a_table_comes_back_from_its_file_as_it_was(cases, tmp_path):
    names = ("001", "1e5", "NA", "null", "TRUE", "-")
    table = pd.concat([evaluate(predictor(), [replace(cases[0], id=id)], fold=0, seed=3) for id in names])
    table = table.assign(region="NA").reset_index(drop=True)
    tables.write(tmp_path / "metrics.csv", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "metrics.csv"), table, check_dtype=False)


def test_a_table_of_something_else_is_refused_by_name(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step\n1,2\n")
    with pytest.raises(DataError, match="metric") as caught:
        read_table(tmp_path / "metrics.csv")
    assert caught.value.path == tmp_path / "metrics.csv"


def test_answers_of_other_classes_than_the_ground_truth_is_read_by_are_refused(cases):
    """Their numbers would be taken for those of the other task: its first class is the second here."""
    (case,) = phantoms.brains(1, size=16)
    task = TASKS["brats2021"]
    names = [task.class_names[0], *reversed(task.class_names[1:])]
    turned = replace(task, labels={name: task.labels[name] for name in names})
    answers = [Predictor(build("maml", modalities=one.modalities, **one.outputs, channels=(4, 6)), one, (16, 16, 16),
                         device="cpu")(case) for one in (task, turned)]
    for given, asked in ((answers, None), (answers[1:], task)):
        with pytest.raises(DataError, match=f"{names[1]}, {names[2]}, {names[3]}.*{names[3]}") as caught:
            evaluate(given, [case], metrics="dice", task=asked)
        assert caught.value.case == case.id
    assert len(evaluate(answers[1:], [case], metrics="dice")) == len(task.regions)


def test_answers_of_other_scans_than_the_task_has_are_refused(cases):
    (answer,) = [predictor()(cases[0])]
    task = replace(BRAIN, modalities=("t1", "t1ce", "t2", "adc"), intensities="mr")
    with pytest.raises(DataError, match="flair") as caught:
        evaluate([answer], cases[:1], task=task)
    assert caught.value.case == cases[0].id


def test_a_case_that_cannot_be_answered_is_refused_before_the_first_is_answered(cases, monkeypatch):
    lacking = replace(cases[1], images={"t1": cases[1].images["t1"]})
    monkeypatch.setattr(Predictor, "sweep", lambda *_, **__: pytest.fail("was computed"))
    with pytest.raises(MissingModalityError) as caught:
        evaluate(predictor("early_fusion"), [cases[0], lacking])
    assert caught.value.case == lacking.id


def test_an_empty_table_is_none():
    (case,) = phantoms.brains(1, size=16)
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate(predictor(), [replace(case, images={"t1": case.images["t1"]})], [{"t2"}])


def test_what_cannot_be_measured_is_refused(cases):
    with pytest.raises(DataError, match=r"\bx\b"):
        evaluate(predictor(), [Case("x", cases[0].images)])
    with pytest.raises(MissingModalityError, match="t9"):
        evaluate(predictor(), cases[:1], [("t9",)])
    with pytest.raises(ValueError, match=r"subsets.*t1"):
        evaluate(predictor(), cases[:1], ["t1", "t2"])
    with pytest.raises(ValueError, match=r"XT.*smallest_mm3.* WT, TC, ET"):
        evaluate(predictor(), cases[:1], smallest_mm3={"ET": 5, "XT": 5})
    with pytest.raises(ValueError, match="subsets='some'"):
        evaluate(predictor(), cases[:1], "some")
    with pytest.raises(ValueError, match="metrics='nsd'"):
        evaluate(predictor(), cases[:1], metrics="nsd")
    with pytest.raises(MissingModalityError, match="early_fusion"):
        evaluate(predictor("early_fusion"), cases[:1], [("t1",)])


def test_empty_regions_are_measured_by_the_rule_and_named():
    truth, answer = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    answer[0] = 2
    found = compare_regions(answer, truth, BRAIN, (1, 1, 1))
    rows = {(row["region"], row["metric"], row["unit"]): row for row in found}
    assert rows["ET", "dice", "fraction"] | {"value": 1.0, "empty": "both"} == rows["ET", "dice", "fraction"]
    assert rows["WT", "dice", "fraction"]["value"] == 0
    assert rows["WT", "hd95", "mm"]["value"] == pytest.approx(np.sqrt(48))
    assert rows["WT", "dice", "fraction"]["empty"] == "truth"


@pytest.fixture
def small():
    about = {"method": "maml", "run": "r", "present": "t1", "region": "ET"}
    return pd.DataFrame([{"case": case, **about, "metric": metric, "unit": unit, "value": value, "empty": empty}
                         for metric, unit, factor in (("dice", "fraction", 1), ("assd", "mm", 4))
                         for case, value, empty in (("a", 0.5 * factor, ""), ("b", 1.0 * factor, "both"))])


def test_the_summary_counts_empty_cases_beside_the_mean(small):
    row = summary(small).query("metric == 'dice'").iloc[0]
    assert (row["mean"], row["cases"], row["empty"]) == (0.75, 2, 1)
    assert row["sd"] == pytest.approx(np.sqrt(0.125))


def test_the_summary_gives_median_and_quartiles_and_an_interval_within_what_can_be():
    values = [0.2, 0.4, 0.7, 0.9, 5.0]
    rows = pd.DataFrame([{"case": str(number), "metric": metric, "unit": unit, "value": min(most, value), "empty": ""}
                         for metric, unit, most in (("dice", "fraction", 1), ("assd", "mm", 9))
                         for number, value in enumerate(values)])
    dice, assd = summary(rows, ["metric", "unit"], intervals=True).to_dict("records")
    assert (assd["median"], assd["q1"], assd["q3"]) == (0.7, 0.4, 0.9)
    assert assd["mean"] == pytest.approx(1.44)
    assert (assd["low"], dice["high"], dice["holds"]) == (0, 1, "cases only")
    assert assd["high"] > 1.44 + 2.776 * stats.sem(values)


def test_a_difference_of_volumes_below_zero_has_its_own_interval():
    """Student's of -6, -5 and -4 ml: -5 -+ 4.303 / sqrt(3); nothing is cut off at 0."""
    rows = pd.DataFrame([{"case": str(number), "metric": "volume_difference", "unit": "ml", "value": value, "empty": ""}
                         for number, value in enumerate([-6.0, -5.0, -4.0])])
    found = summary(rows, ["metric", "unit"], intervals=True).iloc[0]
    assert found["low"] <= -5 - 4.302 / 3**0.5
    assert -5 + 4.302 / 3**0.5 <= found["high"] < 0


def test_the_formatted_table_is_what_a_paper_prints(small):
    row = formatted(small).iloc[0]
    assert row["Dice (%)"] == "75.0 ± 35.4"
    assert (row["ASSD (mm)"], row["median ASSD (mm)"]) == ("3.0 ± 1.4", "3.0 (2.5 to 3.5)")
    assert list(formatted(pd.concat([small, small.assign(run="other")]))["run"]) == ["r", "other"]
    assert formatted(small.query("case == 'a'")).iloc[0]["Dice (%)"] == "50.0"
    assert (row["cases"], row["empty"]) == (2, 1)
    assert formatted(small.query("metric == 'dice'")).iloc[0]["median ASSD (mm)"] == "–"


def test_every_policy_has_rows_of_its_own(cases):
    found = evaluate(predictor(), cases[:1], "all", policies=("fused", "heads"))
    assert found.groupby("policy").size().to_dict() == {"fused": 7 * 3 * 5, "heads": 7 * 3 * 5}
    same = found[(found["present"] == "t1")].pivot(index=["region", "metric", "unit"], columns="policy", values="value")
    np.testing.assert_allclose(same["fused"], same["heads"])


def test_a_region_below_its_smallest_volume_is_dropped_and_measured_beside_the_plain_one():
    truth, answer = np.zeros((10, 10, 10), np.uint8), np.zeros((10, 10, 10), np.uint8)
    answer[:2, :2, :2] = 3                              # 8 voxels of 2 mm³
    rows = pd.DataFrame(compare_regions(answer, truth, BRAIN, (1, 1, 2), {"ET": 16.5}))
    dice_of = rows[rows["metric"] == "dice"].set_index("region")["value"]
    assert (dice_of["ET"], dice_of["ET ≥ 16.5 mm³"], dice_of["WT"]) == (0, 1, 0)
    kept = pd.DataFrame(compare_regions(answer, truth, BRAIN, (1, 1, 2), {"ET": 16}))
    assert kept[kept["metric"] == "dice"].set_index("region").loc["ET ≥ 16 mm³", "value"] == 0
    of_a_turned_scan = pd.DataFrame(compare_regions(answer, truth, BRAIN, (1, 1, 2 - 1e-7), {"ET": 16}))
    assert of_a_turned_scan["value"].tolist() == pytest.approx(kept["value"].tolist())


def test_a_method_that_takes_one_at_a_time_is_measured_from_each(cases):
    found = evaluate(predictor("kdnet"), cases[:1])
    assert list(found["present"].unique()) == ["t1", "t2", "flair"]


def test_policies_are_not_averaged_in_the_summary(small):
    both = pd.concat([small.assign(policy="fused"), small.assign(policy="heads", value=0.0)])
    assert list(formatted(both)["policy"]) == ["fused", "heads"]
    assert formatted(both).iloc[0]["Dice (%)"] == "75.0 ± 35.4"
    assert list(formatted(both)["cases"]) == [2, 2]


def test_metrics_that_are_asked_for_are_rows_of_every_region_and_columns_of_the_summary(cases):
    asked = ["dice", "hd95", "nsd@1", "volume", "lesions@met"]
    found = evaluate(predictor(), cases, [("t1",)], metrics=asked, smallest_mm3={"ET": 5})
    assert len(found) == 2 * 4 * (1 + 2 + 1 + 4 + 8)                # cases x regions x rows of each metric
    pairs = metrics_of(found)
    assert pairs[:3] == [("dice", "fraction"), ("hd95", "mm"), ("nsd@1", "fraction")]
    assert {unit for _, unit in pairs} == {"fraction", "mm", "ml", "count"}
    truth = BRAIN.region(BRAIN.encode(np.asarray(cases[0].label.dataobj)), "WT")
    row = found.query("case == @cases[0].id and region == 'WT' and metric == 'volume_ground_truth'")
    assert row["value"].item() == pytest.approx(truth.sum() * np.prod(cases[0].label.header.get_zooms()) / 1000)
    printed = formatted(found.query("region == 'WT'"), pairs)
    assert [name for name in printed if "(ml)" in name or "count" in name] == [
        "Volume of the ground truth (ml)", "Volume of the prediction (ml)", "Difference of volumes (ml)",
        "Absolute difference of volumes (ml)", "Lesions found (MET) (count)", "Lesions invented (MET) (count)",
        "Lesions missed (MET) (count)"]


def test_the_dice_to_expect_stands_beside_the_real_one_where_it_was_learned(cases, tmp_path):
    lines = {region: Expected(0.25, 0.5) for region in BRAIN.regions}
    one, asked = predictor(modalities=("t1", "t2")), ["dice", "expected_dice"]
    with pytest.raises(ValueError, match=r"expected_dice.*fit"):
        evaluate(one, cases, metrics=asked)
    one.fitted = Fitted(expected_dice={"fused": {2: lines}})
    table = evaluate(one, cases, "all", metrics="expected_dice")        # and the real one unasked
    assert metrics_of(table) == [("dice", "fraction"), ("expected_dice", "fraction")]
    expected = table[table["metric"] == "expected_dice"]
    assert set(expected["present"]) == {"t1+t2"}                        # of single scans nothing was learned
    answer = one(cases[0], uncertainty=True)
    for region, dice_to_expect in answer.sureness.expected_dice.items():
        assert dice_to_expect == pytest.approx(0.25 + 0.5 * answer.sureness.agreement[region])
        row = expected[(expected["case"] == cases[0].id) & (expected["region"] == region)]
        assert row["value"].item() == pytest.approx(dice_to_expect, abs=1e-3)
    shown = formatted(table, metrics_of(table)).set_index(["present", "region"])["Expected Dice (%)"]
    assert shown["t1", "WT"] == "–" != shown["t1+t2", "WT"]
    tables.write(tmp_path / "table.csv", table)
    pd.testing.assert_frame_equal(summary(read_table(tmp_path / "table.csv")), summary(table), check_dtype=False)
    saved = [Prediction.load(one(case, uncertainty=True).save(tmp_path / case.id)) for case in cases]
    again = evaluate(saved, cases, metrics=asked)
    assert (again["metric"] == "expected_dice").sum() == len(expected)
    with pytest.raises(DataError, match=cases[0].id):
        evaluate([one(case) for case in cases], cases, metrics=asked)
    one.fitted = Fitted()
    with pytest.raises(DataError, match="fit"):
        evaluate([one(case, uncertainty=True) for case in cases], cases, metrics=asked)


def test_millilitres_are_printed_with_two_digits(small):
    volumes = small.query("metric == 'assd'").assign(metric="volume_prediction", unit="ml")
    assert formatted(volumes, metrics_of(volumes)).iloc[0]["Volume of the prediction (ml)"] == "3.00 ± 1.41"

"""Experiments: trained once, measured once, refused early."""

import json
from dataclasses import replace
from functools import partial

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from maml_toolkit import experiments
from maml_toolkit.data import phantoms, splits
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import evaluate, measuring
from maml_toolkit.evaluation.measuring import COLUMNS, measured_from
from maml_toolkit.evaluation.table import read_table
from maml_toolkit.experiments import running
from maml_toolkit.methods import build
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.errors import DataError
from maml_toolkit.training.trainer import Trainer

LIVER = TASKS["liver_phases"]
SMALL = {"patch_size": (16, 16, 16), "epochs": 1, "steps_per_epoch": 2}


@pytest.fixture(scope="module")
def cases():
    return phantoms.liver_phases(4, size=16)


def run(folder, systems, cases, folds=None, **settings):
    return experiments.run(systems, folds or splits.kfold(cases, 2), LIVER, folder,
                           **{"channels": (4, 6), "trainer": SMALL, **settings})


@pytest.fixture(scope="module")
def done(cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    systems = experiments.papers_systems([1, 2], LIVER.modalities)
    return folder, run(folder, systems, cases)


def test_every_system_is_trained_in_every_fold_and_measured_from_each_subset(done):
    folder, table = done
    assert tuple(table) == COLUMNS
    assert set(table["method"]) == {"nnUNet", "U-Net, stacked", "OctopusNet", "MS+Ensemble", "MS+MA", "MAML",
                                    "nnUNet (arterial)", "nnUNet (venous)"}
    per_system = table[table["metric"] == "dice"].groupby("method").size()
    assert [per_system[one] for one in ("MAML", "nnUNet", "MS+MA", "nnUNet (venous)")] == [12, 4, 4, 4]
    assert len(list((folder / "runs").iterdir())) == 16
    written = pd.read_csv(folder / "comparison.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(written, table, check_dtype=False)


def test_folds_start_from_seeds_of_their_own(done):
    folder, _ = done
    seeds = [json.loads((folder / "runs" / f"MAML-fold-{fold}-seed-0" / "settings.json").read_text())["trainer"]["seed"]
             for fold in (0, 1)]
    assert seeds == [0, 1]


def test_what_is_done_is_not_done_again(done, cases, monkeypatch):
    folder, table = done
    monkeypatch.setattr(running, "evaluate", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again"))
    again = run(folder, experiments.papers_systems([1, 2], LIVER.modalities), cases)
    pd.testing.assert_frame_equal(again, table)


def test_a_fold_that_is_asked_for_alone_is_that_of_all_folds(done, cases, monkeypatch):
    folder, table = done
    before = (folder / "comparison.csv").read_bytes()
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again, from another seed"))
    alone = run(folder, {"MAML": "maml"}, cases, only=[1])
    expected = table[(table["method"] == "MAML") & (table["fold"] == 1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, expected)
    assert (folder / "comparison.csv").read_bytes() == before


@pytest.mark.parametrize("number", [-1, 2])
def test_a_fold_that_is_not_there_is_refused_before_anything_is_written(cases, tmp_path, number):
    with pytest.raises(ValueError, match=rf"\[{number}\].*0 to 1"):
        run(tmp_path / "new", {"MAML": "maml"}, cases, only=[0, number])
    assert not (tmp_path / "new").exists()


def test_other_subsets_are_measured_without_training(done, cases, monkeypatch):
    folder, _ = done
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again"))
    again = run(folder, {"MAML": "maml", "nnUNet": {"method": "early_fusion", "recipe": "nnunet"}}, cases,
                subsets=[["venous"], ["venous", "arterial"]])
    assert set(zip(again["method"], again["present"], strict=True)) == {
        ("MAML", "venous"), ("MAML", "arterial+venous"), ("nnUNet", "arterial+venous")}


def test_subsets_policies_and_seeds_that_are_listed_twice_count_once(done, cases, monkeypatch):
    folder, _ = done
    once = run(folder, {"MAML": "maml"}, cases, subsets=[["arterial", "venous"]], policies=["heads"])
    monkeypatch.setattr(running, "evaluate", lambda *_, **__: pytest.fail("measured again"))
    twice = run(folder, {"MAML": "maml"}, cases, subsets=[["venous", "arterial"], ["arterial", "venous", "venous"]],
                policies=["heads", "heads"], seeds=[0, 0])
    assert len(once) == 4 * 5
    pd.testing.assert_frame_equal(twice, once)


def other_label(case):
    mask = np.asanyarray(case.label.dataobj) * 0
    mask[:4, :4, :4] = 1
    return {"label": nibabel.Nifti1Image(mask, case.label.affine)}


def other_image(case):
    scan = case.images["venous"]
    noise = np.random.default_rng(0).integers(-500, 500, scan.shape).astype(np.int16)
    return {"images": {**case.images, "venous": nibabel.Nifti1Image(noise, scan.affine)}}


@pytest.mark.parametrize("change", [other_label, other_image])
def test_a_test_case_of_other_contents_is_measured_again(cases, tmp_path, change):
    training, test = cases[:2], cases[2:]
    before = run(tmp_path, {"MAML": "maml"}, cases, folds=[(training, test)])
    changed = [replace(test[0], **change(test[0])), test[1]]
    after = run(tmp_path, {"MAML": "maml"}, cases, folds=[(training, changed)])
    expected = evaluate(Predictor.load(tmp_path / "runs" / "MAML-fold-0-seed-0", "newest"), changed, "each")
    assert after["value"].tolist() == expected["value"].tolist()
    assert before["value"].tolist() != expected["value"].tolist()
    assert run(tmp_path, {"MAML": "maml"}, cases, folds=[(training, test)])["value"].tolist() == \
        before["value"].tolist()


def test_a_training_case_of_other_contents_is_refused(cases, tmp_path):
    run(tmp_path, {"MAML": "maml"}, cases, folds=[(cases[:2], cases[2:])])
    changed = [replace(cases[0], **other_label(cases[0])), cases[1]]
    with pytest.raises(ValueError, match="contents"):
        run(tmp_path, {"MAML": "maml"}, cases, folds=[(changed, cases[2:])])


def test_other_metrics_regions_weights_and_arguments_are_measured_again(cases, monkeypatch):
    methods = [build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6)) for _ in range(2)]
    predictor, other = (Predictor(method, LIVER, (16, 16, 16)) for method in methods)
    asked = partial(measured_from, cases=cases[:1])
    first = asked(predictor)
    assert first == asked(predictor, subsets="full")
    assert asked(predictor, subsets=[["arterial", "venous"]]) == asked(predictor, subsets=[["venous", "arterial"]] * 2)
    others = [asked(other), asked(predictor, subsets="each"), asked(predictor, policies=["heads"]),
              asked(predictor, smallest_mm3={"tumour": 5}), measured_from(predictor, cases[:2])]
    predictor.task = replace(LIVER, regions={"all": ("tumour",)})
    others.append(asked(predictor))
    predictor.task = LIVER
    monkeypatch.setattr(measuring, "VERSION", measuring.VERSION + 1)
    others.append(asked(predictor))
    assert len({first, *others}) == 8


def test_a_table_that_was_changed_since_is_measured_again(cases, tmp_path):
    table = run(tmp_path, {"MAML": "maml"}, cases, folds=[(cases[:2], cases[2:])])
    kept = tmp_path / "runs" / "MAML-fold-0-seed-0" / "comparison.csv"
    kept.write_text(kept.read_text().rsplit("\n", 2)[0] + "\n")
    again = run(tmp_path, {"MAML": "maml"}, cases, folds=[(cases[:2], cases[2:])])
    assert len(again) == len(table) == 2 * 3 * 5


def test_cases_that_every_single_modality_fails_come_with_their_answers(done, cases):
    folder, table = done
    chosen, answers = experiments.rescued(table, folder, cases, count=2)
    assert list(answers) == ["nnUNet (arterial)", "nnUNet (venous)", "MAML (all)"]
    assert [one.case for one in answers["MAML (all)"]] == [case.id for case in chosen]
    assert [one.modalities for one in answers["nnUNet (venous)"]] == [("venous",)] * 2
    dice = table[table["metric"] == "dice"].set_index(["method", "present", "case"])["value"]
    gains = {case.id: dice["MAML", "arterial+venous", case.id] - max(
        dice["nnUNet (arterial)", "arterial", case.id], dice["nnUNet (venous)", "venous", case.id]) for case in cases}
    assert chosen[0].id == max(gains, key=gains.get)
    worst = min(gains, key=gains.get)
    beside = table.assign(region="tumour ≥ 5 mm³", value=((table["case"] == worst)
                                                          & (table["present"] == "arterial+venous")).astype(float))
    assert experiments.rescued(pd.concat([table, beside]), folder, cases, count=2)[0] == chosen


def test_cases_whose_ids_look_like_numbers_are_rescued_from_the_table_on_the_disk(cases, tmp_path):
    named = [replace(case, id=id) for case, id in zip(cases, ("001", "1e5", "NA", "-"), strict=True)]
    run(tmp_path, {"MAML": "maml"}, named, folds=[(named[:2], named[2:])])
    table = read_table(tmp_path / "comparison.csv")
    chosen, answers = experiments.rescued(table, tmp_path, named, count=2)
    assert {case.id for case in chosen} == {"NA", "-"}
    assert [one.case for one in answers["MAML (all)"]] == [case.id for case in chosen]


def test_without_mono_modal_networks_the_joint_system_answers_alone(done, cases):
    folder, table = done
    _, answers = experiments.rescued(table[table["method"] == "MAML"], folder, cases, count=1)
    assert list(answers) == ["MAML (arterial)", "MAML (venous)", "MAML (all)"]
    asked = table[table["method"] == "MAML"].assign(policy="heads")
    _, answers = experiments.rescued(asked, folder, cases, count=1, predictor={"mirror": [2]})
    assert {(own[0].policy, *own[0].how["mirror"]) for own in answers.values()} == {("heads", 2)}
    with pytest.raises(ValueError, match="subsets='each'"):
        experiments.rescued(table[table["method"] == "nnUNet"], folder, cases)


def test_a_system_that_cannot_be_built_is_refused_before_anything_is_trained(cases, tmp_path):
    for systems, message in (({"a": "maml", "b": "mamal"}, "mamal"), ({"a": {"intra_weight": 0}}, "a method in it"),
                             ({"a": {"method": "maml", "modalities": ["adc"]}}, "adc")):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "x", systems, cases)
    assert not (tmp_path / "x").exists()


def test_a_patient_in_two_folds_is_refused_before_anything_is_trained(cases, tmp_path):
    with pytest.raises(DataError, match=r"\bfold 0\b"):
        run(tmp_path / "x", {"a": "maml"}, cases, folds=[(cases[:3], cases[2:])])
    assert not (tmp_path / "x" / "runs").exists()


def test_other_settings_than_before_are_refused(done, cases):
    folder, _ = done
    with pytest.raises(ValueError, match="steps_per_epoch"):
        run(folder, {"MAML": "maml"}, cases, trainer=SMALL | {"steps_per_epoch": 3})


def test_table_3_wants_its_modality():
    assert set(experiments.papers_systems([3], ("t1", "t1ce"), "t1ce")) == {"HeMIS", "U-HVED", "KD-Net", "MAML"}
    with pytest.raises(ValueError, match="3 with one of"):
        experiments.papers_systems([3], ("t1", "t1ce"))


def test_the_name_of_a_run_is_one_that_every_file_system_takes():
    assert experiments.run_name("nnUNet (t1/ce)", 0, 2) == "nnUNet-t1-ce-fold-0-seed-2"
    assert experiments.run_name("MS+MA", 1, 0) == "MS+MA-fold-1-seed-0"


def test_what_would_fail_after_the_training_is_refused_before_it(cases, tmp_path):
    for settings, message in (({"subsets": ["venous"]}, "sets of names"), ({"subsets": [["adc"]]}, "adc"),
                              ({"subsets": "eech"}, "eech"), ({"policies": ["head"]}, "policy='head'"),
                              ({"metrics": ["dice", "expected_dice"]}, "expected_dice"),
                              ({"predictor": {"overlap": 1.5}}, "overlap")):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "x", {"a": "maml"}, cases, **settings)
    with pytest.raises(ValueError, match="letters and digits"):
        run(tmp_path / "x", {"MAML": "maml", "MAML (ρ)": "hemis"}, cases)
    lacking = replace(cases[0], images={"venous": cases[0].images["venous"]})
    with pytest.raises(DataError) as caught:
        run(tmp_path / "x", {"MAML": "maml", "KD-Net": "kdnet"}, [lacking, *cases[1:]])
    assert caught.value.case == lacking.id
    assert not (tmp_path / "x").exists()


def test_a_system_is_measured_on_the_cases_that_it_can_answer(cases, tmp_path):
    venous = [replace(cases[0], images={"venous": cases[0].images["venous"]}), *cases[1:]]
    table = run(tmp_path, {"MAML": "maml", "alone": {"method": "early_fusion", "modalities": ["arterial"]}}, venous,
                [(venous[2:], venous[:2])], subsets="full")
    found = {name: set(own["case"]) for name, own in table.groupby("method")}
    assert found == {"MAML": {cases[0].id, cases[1].id}, "alone": {cases[1].id}}


def test_a_system_gives_the_policies_that_it_knows(cases, tmp_path):
    table = run(tmp_path, {"MAML": "maml", "HeMIS": "hemis"}, cases, policies=["fused", "heads"])
    assert set(zip(table["method"], table["policy"], strict=True)) == {
        ("MAML", "fused"), ("MAML", "heads"), ("HeMIS", "fused")}


def test_by_size_is_fitted_to_patients_on_whom_no_system_was_trained(cases, tmp_path, monkeypatch):
    asked = {"folds": [(cases[:3], cases[3:])], "policies": ["fused", "by-size"], "fit_on": 1}
    table = run(tmp_path, {"MAML": "maml", "HeMIS": "hemis"}, cases, **asked)
    assert set(zip(table["method"], table["policy"], strict=True)) == {
        ("MAML", "fused"), ("MAML", "by-size"), ("HeMIS", "fused")}
    answering = Predictor.load(tmp_path / "runs" / "MAML-fold-0-seed-0", "newest", policy="by-size")
    assert set(answering.fitted.by_size) == {1, 2}
    (held,) = answering.fitted.cases
    for name in ("MAML", "HeMIS"):
        settings = json.loads((tmp_path / "runs" / f"{name}-fold-0-seed-0" / "settings.json").read_text())
        assert sorted([*settings["cases"]["training"], held]) == [case.id for case in cases[:3]]
    expected = evaluate(answering, cases[3:], "each")
    found = table[(table["method"] == "MAML") & (table["policy"] == "by-size")]
    assert found["value"].tolist() == expected["value"].tolist()
    monkeypatch.setattr(running, "evaluate", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(running, "fit_policy", lambda *_, **__: pytest.fail("fitted again"))
    pd.testing.assert_frame_equal(run(tmp_path, {"MAML": "maml", "HeMIS": "hemis"}, cases, **asked), table)
    for fit_on in (0, 3):
        with pytest.raises(ValueError, match=f"fit_on={fit_on}"):
            run(tmp_path / "x", {"MAML": "maml"}, cases, **{**asked, "fit_on": fit_on})
    assert not (tmp_path / "x").exists()


def test_other_volumes_of_either_policy_are_another_table(cases):
    found = []
    for fused, heads in ((4, 5), (6, 5), (4, 6)):
        known = Fitted(smallest_mm3={"fused": {"tumour": fused}, "heads": {"tumour": heads}})
        torch.manual_seed(0)
        predictor = Predictor(build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6)), LIVER,
                              (16, 16, 16), fitted=known, drop_small=True)
        found.append(measured_from(predictor, cases[:1], policies=["fused", "heads"]))
    assert len(set(found)) == 3


def test_other_shares_are_another_table(cases):
    predictor = Predictor(build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6)), LIVER, (16, 16, 16),
                          fitted=Fitted({1: 0, 2: 0.5}))
    before = [measured_from(predictor, cases[:1], policies=policies) for policies in (["fused"], ["fused", "by-size"])]
    predictor.fitted = Fitted({1: 0, 2: 0.6})
    after = [measured_from(predictor, cases[:1], policies=policies) for policies in (["fused"], ["fused", "by-size"])]
    assert before[0] == after[0]
    assert before[1] != after[1]

"""The recipe for few patients, from end to end on phantoms: search, its table, the model that comes of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recipe_files import recipe
from safetensors.torch import load_file

from maml_toolkit import Predictor, Trainer, from_pretrained
from maml_toolkit.data import phantoms
from maml_toolkit.methods import build
from maml_toolkit.prediction import runs
from maml_toolkit.prediction.checkpoints import best
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.shards import output_folder
from maml_toolkit.sharing import is_shared


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two changes on four small brains, and the model of one of them; the recipe's module and its folder."""
    folder, tiny = tmp_path_factory.mktemp("docs") / "results", {"patch_size": (16, 16, 16), "batch_size": 1}
    (folder.parent / "_static").mkdir()
    with recipe("patients") as patients, pytest.MonkeyPatch.context() as patch:
        for name, value in {"RESULTS": folder, "MODELS": folder / "models", "EPOCH": 1}.items():
            patch.setattr(patients, name, value)
        patch.setitem(patients.CHANGES, "base", replace(patients.CHANGES["base"], steps=1, channels=(4, 6),
                                                        trainer=tiny))
        patch.setitem(patients.CHANGES, patients.BEST, replace(patients.RECIPE, steps=2, channels=(4, 6), trainer=tiny))
        cases = phantoms.brains(4, size=20, spacing_mm=(2, 2, 2))
        tables, keep = {}, patients.keep

        def noted(what, table):
            name = "finer" if what == "elsewhere" else table["method"].iloc[0]
            tables[name] = pd.concat([tables[name], table]) if name in tables else table
            keep(what, table)

        patch.setattr(patients, "keep", noted)
        for name in ("base", patients.BEST):
            patients.search(name, cases, folder)
        patients.model(patients.BEST, cases, folder)
        patients.elsewhere(patients.BEST, phantoms.brains(4, size=40), folder)
        patients.maps(patients.BEST, cases, folder)
        tables["mapped"] = patients.mapped()
        yield patients, folder, tables, patients.read("search"), patients.searched()


@pytest.fixture
def model(made, monkeypatch, tmp_path):
    """The model as one that comes with the toolkit, from an empty folder."""
    monkeypatch.setattr(runs, "MODELS", made[1] / "models")
    monkeypatch.chdir(tmp_path)
    return "brain-2mm"


def test_what_is_kept_is_what_was_measured(made):
    _, _, tables, kept, _ = made
    keys = ["method", "fold", "case", "present", "region"]
    for name in ("base", made[0].BEST):
        table = tables[name]
        own = kept[kept["method"] == name].set_index(keys).sort_index()
        expected = table.set_index(keys).sort_index()
        assert len(own) == 4 * 3 * (2 if name == "base" else 15)
        np.testing.assert_allclose(own["value"], expected["value"], atol=5e-5)
        assert own["empty"].tolist() == expected["empty"].tolist()
        assert (own["seconds"] >= 0).all()


def test_a_fold_whose_results_are_kept_is_not_run_again_and_the_others_are(made, monkeypatch, tmp_path):
    patients, folder, tables, *_ = made
    path, asked = tmp_path / "patients-search.csv", []
    whole = pd.read_csv(folder / "patients-search.csv")
    whole[(whole["method"] != "base") | (whole["fold"] == 1)].to_csv(path, index=False)

    def ran(*_, only, **__):
        asked.extend(only)
        return tables["base"][tables["base"]["fold"] == only[0]]

    monkeypatch.setattr(patients, "RESULTS", tmp_path)
    monkeypatch.setattr(patients.experiments, "run", ran)
    cases = phantoms.brains(4, size=20, spacing_mm=(2, 2, 2))
    patients.search("base", cases, folder)
    assert asked == [0]
    key = ["method", "fold", "case"]
    again = pd.read_csv(path).set_index(key).drop(columns="seconds").sort_index()
    pd.testing.assert_frame_equal(again, whole.set_index(key).drop(columns="seconds").sort_index(), check_like=True)
    patients.search("base", cases, folder)
    assert asked == [0]


def test_the_network_that_is_measured_is_the_moving_average_of_those_after_each_epoch(made, tmp_path):
    patients, after = made[0], []

    class Weights(patients.Callback):
        def epoch(self, trainer, row):
            after.append({name: tensor.clone() for name, tensor in trainer.method.state_dict().items()})

    def fit():
        torch.manual_seed(0)
        method = build("early_fusion", modalities=patients.TASK.modalities, **patients.TASK.outputs, channels=(4, 6))
        return Trainer(method, tmp_path, patients.TASK, patch_size=(16, 16, 16), batch_size=1, epochs=3,
                       steps_per_epoch=2, callbacks=[Weights(), patients.Averaged(0.75)]).fit(
            phantoms.brains(2, size=20, spacing_mm=(2, 2, 2)))

    assert len(fit()) == len(fit()) == len(after) == 3
    average = after[0]
    for weights in after[1:]:
        average = {name: 0.75 * average[name] + 0.25 * weights[name] for name in weights}
    for name, weights in Predictor.load(tmp_path, "newest").method.state_dict().items():
        torch.testing.assert_close(weights, average[name])
    assert all((average[name] != weights).any() for name, weights in after[-1].items())


def test_what_was_not_measured_yet_is_said(made, tmp_path, monkeypatch):
    patients = made[0]
    monkeypatch.setattr(patients, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match=r"found no .*leave-one-out\.csv, expected results; run leave-one-out"):
        patients.compared()


def test_every_case_is_tested_by_a_training_that_did_not_see_it(made):
    patients = made[0]
    folds = patients.left_out(phantoms.brains(8, size=8), 2)
    assert sorted(case.id for _, test in folds for case in test) == [f"brain-0-00{n}" for n in range(8)]
    assert all(len(training) == 6 and {one.id for one in training}.isdisjoint(one.id for one in test)
               for training, test in folds)


def test_on_finer_scans_every_case_is_answered_by_the_training_that_did_not_see_it(made):
    patients, _, tables, *_ = made
    coarse = tables[patients.BEST]
    fold = dict(zip(coarse["case"], coarse["fold"], strict=True))
    finer = tables["finer"]
    assert dict(zip(finer["case"], finer["fold"], strict=True)) == fold
    assert set(finer["present"]) == {patients.ALL, "flair"}


def test_the_table_has_a_row_for_each_change_with_the_mean_over_cases(made):
    patients, _, tables, _, shown = made
    _, _, base, best_one = shown.splitlines()
    cells = [cell.strip() for cell in best_one.strip("|").split("|")]
    table = tables[patients.BEST]
    whole = table[(table["present"] == patients.ALL) & (table["region"] == "WT")]
    assert cells[0] == patients.BEST
    assert float(cells[1]) == pytest.approx(100 * whole["value"].mean(), abs=0.06)
    assert base.startswith("| base |")


def test_what_each_scan_says_is_told_of_each_part_of_a_tumour(made):
    patients, folder, tables, *_ = made
    found = pd.read_csv(folder / "patients-maps.csv")
    assert set(found["scan"]) == set(patients.TASK.modalities)
    assert set(found["case"]) == set(tables["base"]["case"])
    np.testing.assert_allclose(found.groupby(["case", "zone"])["attention"].sum(), 1, atol=3e-4)
    oedema = found[(found["zone"] == "oedema") & (found["scan"] == "flair")]["log-odds"]
    assert f"| oedema | flair | {len(oedema)} | WT | {oedema.mean():+.1f} ± {oedema.std():.1f} |" in tables["mapped"]
    checks = pd.read_csv(folder / "patients-maps-checks.csv").query("measure == 'completeness'")
    assert 0 <= checks["value"].item() < 1e-3
    assert (folder.parent / "_static" / "patients-scans.png").stat().st_size > 5000


def test_the_model_goes_by_its_name_and_writes_beside_the_user(made, model, tmp_path):
    predictor = from_pretrained(model, device="cpu")
    assert is_shared(model)
    assert predictor.run == model
    assert predictor.typical.cases == 4
    assert Predictor.load(model).window == (16, 16, 16)
    assert output_folder(model) == Path("brain-2mm/predictions")
    assert output_folder(model, present=["flair", "t1"]) == Path("brain-2mm/predictions_t1+flair")
    assert not list(tmp_path.iterdir())
    case = phantoms.brains(1, size=20, seed=1, spacing_mm=(2, 2, 2))[0]
    assert predictor(case, present="flair").classes.shape == (20, 20, 20)


def test_a_run_of_its_name_comes_first_and_none_is_trained_over_it(made, model, tmp_path):
    task = made[0].TASK
    method = build("early_fusion", modalities=task.modalities, classes=task.classes, channels=(4, 6))
    with pytest.raises(ValueError, match="comes with the toolkit"):
        Trainer(method, model, task, patch_size=(16, 16, 16))
    assert Run(tmp_path / model).model is None
    (tmp_path / model).mkdir()
    Run(model).write_settings({"own": True})
    assert Run(model).model is None
    assert Run(model).settings == {"own": True}


def test_weights_are_kept_in_half_the_bytes_and_answer_as_before(made, model):
    _, folder, *_ = made
    (trained,) = (folder / "model").iterdir()
    half = load_file(best(folder / "models" / model / "checkpoints") / "weights.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    for name, tensor in Predictor.load(trained, device="cpu").method.state_dict().items():
        torch.testing.assert_close(half[name].float(), tensor, atol=1e-6, rtol=2**-10)
    assert {one.dtype for one in from_pretrained(model, device="cpu").method.parameters()} == {torch.float32}


def test_the_card_says_that_the_scores_are_of_other_trainings(made, model):
    patients, folder, tables, *_ = made
    text = (folder / "models" / model / "README.md").read_text(encoding="utf-8")
    of = "2 other trainings of the same kind, each on 2 of the 4 cases and measured on the others"
    assert f"mean over cases and its 95 % interval, which holds trainings and cases, of {of}" in text
    assert f"The scores above are not of these weights: they are of {of}." in text
    assert "4 cases for training, 0 for validation" in text
    assert "| deep_supervision | `true` |" in text       # of the method; its recipe has none
    whole = tables[patients.BEST].query("region == 'WT'").groupby("present")["value"].mean() * 100
    (row,) = (line for line in text.splitlines() if line.startswith("| ● | ● | ● | ● |"))
    assert float(row.split("|")[7].split("[")[0]) == pytest.approx(whole[patients.ALL], abs=0.06)
    (average,) = (line for line in text.splitlines() if line.startswith("| average |"))
    assert float(average.split("|")[7].split("[")[0]) == pytest.approx(whole.mean(), abs=0.06)
    assert not [case for case in tables["base"]["case"] if case in text]


def test_a_model_is_not_made_without_its_scores(made):
    patients, folder, *_ = made
    with pytest.raises(ValueError, match="measure them"):
        patients.model("batch Dice", phantoms.brains(4, size=20), folder)

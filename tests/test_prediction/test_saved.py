"""Predictions that were saved come back value by value, and nobody makes them a second time."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from maml_toolkit import evaluate, explore
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import COLUMNS
from maml_toolkit.methods import build
from maml_toolkit.pictures import report
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.merging import merge
from maml_toolkit.prediction.predicting import predict_cases
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError

LIVER = TASKS["liver_phases"]
ALL = "+".join(LIVER.modalities)


def network(method="maml"):
    torch.manual_seed(0)
    return build(method, modalities=LIVER.modalities, classes=2, channels=(4, 6))


def turned(case, spacing=(1.0, 1.5, 2.0)):
    """The case with axes in another order and direction, and other voxels than the task's."""
    affine = np.array([[0, -spacing[1], 0, 5], [0, 0, spacing[2], -3], [-spacing[0], 0, 0, 7], [0, 0, 0, 1.0]])
    images = {name: nibabel.Nifti1Image(np.asarray(image.dataobj), affine) for name, image in case.images.items()}
    return replace(case, images=images, label=nibabel.Nifti1Image(np.asarray(case.label.dataobj), affine))


@pytest.fixture(params=["straight", "turned"])
def case(request):
    (found,) = phantoms.liver_phases(1, size=(16, 20, 18))
    return turned(found) if request.param == "turned" else found


@pytest.fixture(params=["maml", "late_fusion"])
def prediction(request, case):
    return Predictor(network(request.param), replace(LIVER, spacing_mm=(1.0, 1.0, 1.0)), (16, 16, 16), run="one")(case)


def test_a_saved_prediction_comes_back_value_by_value(prediction, tmp_path):
    found = Prediction.load(prediction.save(tmp_path / "a"))
    for name in ("case", "task", "modalities", "grid", "method", "run", "policy"):
        assert getattr(found, name) == getattr(prediction, name)
    for name in ("classes", "labels", "probabilities", "affine", "classes_in_box"):
        assert np.array_equal(getattr(found, name), getattr(prediction, name)), name
        assert getattr(found, name).dtype == getattr(prediction, name).dtype
    for kind in ("attention", "contributions"):
        one, other = getattr(found, kind), getattr(prediction, kind)
        assert list(one) == list(other)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert list(found.maps) == list(prediction.maps)
    for name in found.maps:
        assert found.in_box(name).shape == prediction.in_box(name).shape
    difference = found.logits - prediction.logits
    assert np.abs(difference - difference.mean(0)).max() < 1e-3
    assert (found.bias is None) == (prediction.bias is None)


def test_what_was_loaded_can_be_saved_again_and_stays_where_it_lies(prediction, tmp_path):
    found = Prediction.load(prediction.save(tmp_path / "a"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    found.save(tmp_path / "a")
    found.save(tmp_path / "b")
    for folder in ("a", "b"):
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} == before


def test_maps_of_another_prediction_than_the_label_maps_are_refused(prediction, tmp_path):
    folder = prediction.save(tmp_path / "a")
    found, early = Prediction.load(folder), Prediction.load(folder)
    np.testing.assert_array_equal(early.probabilities, prediction.probabilities)
    replace(prediction, maps={**prediction.maps, "logits": -prediction.maps["logits"]}).save(folder)
    with pytest.raises(DataError, match="anew") as caught:
        found.probabilities  # noqa: B018
    assert caught.value.path == folder / f"{prediction.case}_prob.nii.gz"
    assert not np.array_equal(Prediction.load(folder).probabilities, prediction.probabilities)


@pytest.fixture
def saved(tmp_path):
    (case,) = phantoms.liver_phases(1, size=16)
    return Predictor(network(), LIVER, (16, 16, 16))(case).save(tmp_path / "saved")


@pytest.mark.parametrize("name", ["prediction.json", *(
    f"liver-0-000_{part}.nii.gz" for part in ("seg", "prob", "attention_venous", "contribution_arterial"))])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_file_that_is_missing_or_damaged_is_named(saved, name, damage):
    path, whole = saved / name, (saved / name).read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:len(whole) // 2])
    elif name.endswith(".json"):
        path.write_text(json.dumps(json.loads(whole) | {"grid": [1, 2]}))
    else:
        nibabel.save(nibabel.Nifti1Image(np.zeros((16, 16, 12), np.uint8), np.eye(4)), path)

    def everything():
        found = Prediction.load(saved)
        return found.probabilities, found.attention, found.contributions

    with pytest.raises(DataError) as caught:
        everything()
    assert caught.value.path == path
    assert caught.value.remedy


@pytest.mark.parametrize("missing", ["case", "policy", "modalities", "task", "grid", "files", "bias"])
def test_a_record_that_lacks_something_is_no_prediction(saved, missing):
    path = saved / "prediction.json"
    about = json.loads(path.read_text())
    del about[missing]
    path.write_text(json.dumps(about))
    with pytest.raises(DataError) as caught:
        Prediction.load(saved)
    assert caught.value.path == path
    assert caught.value.remedy


def test_contributions_are_saved_against_the_background_and_files_from_before_read_alike(tmp_path):
    """Earlier files hold what each scan adds to each logit, with the bias of the head, and no mark."""
    (case,) = phantoms.liver_phases(1, size=16)
    made = Predictor(network(), LIVER, (16, 16, 16))(case)
    folder = made.save(tmp_path / "saved")
    path, about = folder / "prediction.json", json.loads((folder / "prediction.json").read_text())
    assert about["contributions"] == "against the background"
    for name in LIVER.modalities:
        image = nibabel.load(folder / about["files"][f"contribution/{name}"])
        assert not np.asarray(image.dataobj)[..., 0].any()
        raw = np.asarray(image.dataobj) + np.random.default_rng(0).normal(size=(16, 16, 16, 1)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(raw, image.affine), folder / about["files"][f"contribution/{name}"])
    del about["contributions"]
    path.write_text(json.dumps(about | {"bias": [value + 3 for value in about["bias"]]}))
    found = Prediction.load(folder)
    for name in LIVER.modalities:
        np.testing.assert_allclose(found.contributions[name], made.contributions[name], atol=1e-5)
    np.testing.assert_allclose(found.bias, made.bias, atol=1e-6)
    said = found.log_odds("tumour")
    np.testing.assert_allclose(sum(said.shares.values()) + said.bias, made.log_odds("tumour").total, atol=1e-4)


@pytest.fixture
def cases(tmp_path):
    return find_cases(write_cases(phantoms.liver_phases(2, size=16), tmp_path / "data", "folders", LIVER), LIVER)


@pytest.fixture
def run(tmp_path):
    at = Run(tmp_path / "runs" / "one")
    checkpoints.save(at.checkpoints, 1, network())
    at.write_settings({"method": {"modalities": list(LIVER.modalities)}, "task": LIVER.to_json(),
                       "trainer": {"patch_size": [16, 16, 16]}})
    return at


@pytest.fixture
def asked(monkeypatch):
    """The subsets that the network was asked for, one after the other."""
    calls, sweep = [], type(network()).sweep

    def counted(self, images, wanted):
        wanted = list(wanted)
        calls.extend("+".join(name for name in LIVER.modalities if name in one) for one in wanted)
        return sweep(self, images, wanted)

    monkeypatch.setattr(type(network()), "sweep", counted)
    return calls


def test_a_case_is_segmented_once_for_predict_evaluate_report_and_explore(run, cases, asked):
    predict_cases(Predictor.load(run.folder, device="cpu"), cases, run.predictions)
    assert asked == [ALL] * 2
    predictor = Predictor.load(run.folder, device="cpu", saved=run.predictions)
    computed = evaluate(Predictor.load(run.folder, device="cpu"), cases)
    del asked[:]
    table = evaluate(predictor, cases)
    assert table.equals(computed)
    tables.write(run.metrics, table)
    report.run_page(run, cases, predictor)
    explore(cases[0], predictor(cases[0]))
    assert asked == []
    explore(cases[0], predictor.subsets(cases[0], attention=True, contributions=True))
    assert asked == list(LIVER.modalities)
    del asked[:]
    assert evaluate(predictor, cases, "each").equals(evaluate(Predictor.load(run.folder, device="cpu"), cases, "each"))
    assert asked[:4] == [*LIVER.modalities] * 2


def as_before(out):
    """A folder of predictions with the names that earlier versions gave."""
    for about in out.glob("*/prediction.json"):
        case, found = about.parent.name, json.loads(about.read_text())
        files = {name: f"{name.replace('/', '_')}.nii.gz" for name in found["files"]}
        for name, file in files.items():
            (about.parent / found["files"][name]).rename(about.parent / file)
        about.write_text(json.dumps(found | {"files": files}))
        manifest = json.loads((about.parent / "manifest.json").read_text())
        manifest["files"] = {one.name: one.stat().st_size for one in about.parent.iterdir()
                             if one.name != "manifest.json"}
        (about.parent / "manifest.json").write_text(json.dumps(manifest))
        assert not list(about.parent.glob(f"{case}_*"))
    (out / "shards").mkdir()
    (out / "log").rename(out / "shards" / "1-of-1")
    (out / "shards" / "1-of-1" / "record.json").rename(out / "shards" / "1-of-1" / "shard.json")


def test_predictions_that_an_earlier_version_named_are_read_found_measured_and_replaced(run, cases, asked, tmp_path):
    predictor, first = Predictor.load(run.folder, device="cpu", saved=run.predictions), cases[0].id
    predict_cases(predictor, cases, run.predictions)
    arrays = lambda one: (one.labels, one.probabilities, one.attention["venous"])  # noqa: E731
    before, scores = arrays(Prediction.load(run.predictions / first)), evaluate(run.predictions, cases)
    as_before(run.predictions)
    for one, other in zip(arrays(Prediction.load(run.predictions / first)), before, strict=True):
        assert np.array_equal(one, other)
    assert evaluate(run.predictions, cases).equals(scores)
    assert [row["case"] for row in merge(run.predictions).table] == [case.id for case in cases]
    del asked[:]
    report.run_page(run.folder, cases, predictor, path=tmp_path / "page.html")
    assert ALL not in asked
    assert predict_cases(predictor, cases, run.predictions).used == {}
    (run.predictions / first / "manifest.json").unlink()
    assert [*predict_cases(predictor, cases, run.predictions).used] == [first]
    assert (run.predictions / first / f"{first}_seg.nii.gz").exists()
    assert not (run.predictions / first / "labels.nii.gz").exists()


def test_a_subset_that_was_predicted_is_found_beside_the_predictions(run, cases, asked):
    predict_cases(Predictor.load(run.folder, device="cpu"), cases, run.folder / "predictions_venous", present="venous")
    del asked[:]
    Predictor.load(run.folder, device="cpu", saved=run.predictions)(cases[0], "venous")
    assert asked == []


@pytest.mark.parametrize("change", ["weights", "scan", "policy", "maps", "window", "mirror", "members", "drop", "cut"])
def test_a_prediction_that_would_come_out_otherwise_is_made_anew(run, cases, asked, change):
    predict_cases(Predictor.load(run.folder, device="cpu"), cases, run.predictions, attention=change != "maps")
    settings = {"policy": {"policy": "heads"}, "window": {"window": (8, 16, 16)},
                "mirror": {"mirror": (1,)}, "drop": {"drop_small": {"tumour": 4}}}.get(change, {})
    runs = [run.folder] * 2 if change == "members" else run.folder
    predictor = Predictor.load(runs, device="cpu", saved=run.predictions, **settings)
    if change == "weights":
        with torch.no_grad():
            next(predictor.method.parameters()).add_(1e-3)
    elif change == "scan":
        path = cases[0].images["venous"]
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) + 1, image.affine), path)
    elif change == "cut":
        (run.predictions / cases[0].id / f"{cases[0].id}_prob.nii.gz").write_bytes(b"cut")
    del asked[:]
    predictor(cases[0])
    assert set(asked) == {ALL}


def test_a_prediction_saved_over_another_takes_its_manifest_away(run, cases):
    predict_cases(Predictor.load(run.folder, device="cpu"), cases, run.predictions)
    Predictor(network("late_fusion"), LIVER, (16, 16, 16))(cases[0]).save(run.predictions / cases[0].id)
    assert not (run.predictions / cases[0].id / "manifest.json").exists()


def test_saved_predictions_are_measured_as_the_run_that_made_them(run, cases):
    predict_cases(Predictor.load(run.folder, device="cpu"), cases, run.predictions)
    table = evaluate(Predictor.load(run.folder, device="cpu"), cases, smallest_mm3={"tumour": 5})
    assert evaluate(run.predictions, cases, smallest_mm3={"tumour": 5}).equals(table)
    loaded = [Prediction.load(run.predictions / case.id) for case in cases[::-1]]
    assert evaluate(loaded, cases, smallest_mm3={"tumour": 5}).equals(table)


@pytest.fixture
def foreign(cases, tmp_path):
    """Label maps of another program: the ground truth, one voxel along the first axis."""
    folder = tmp_path / "nnunet"
    folder.mkdir()
    for case in cases:
        label = nibabel.load(case.label)
        moved = np.roll(np.asarray(label.dataobj).astype(np.uint8), 1, 0)
        nibabel.save(nibabel.Nifti1Image(moved, label.affine), folder / f"{case.id}.nii.gz")
    return folder


def test_label_maps_of_another_program_are_measured_into_the_same_table(foreign, cases):
    table = evaluate(foreign, cases, task="liver_phases", fold=1)
    assert tuple(table) == COLUMNS
    assert set(table["case"]) == {case.id for case in cases}
    assert table[["method", "run", "policy", "present", "fold"]].drop_duplicates().values.tolist() == [
        ["nnunet", "", "", ALL, 1]]
    distances = table.query("metric == 'hd95' and unit == 'voxel'")["value"]
    assert (distances == 1).all()
    assert table.query("metric == 'dice'")["value"].between(0.5, 1, inclusive="neither").all()


def test_label_maps_on_another_grid_or_with_other_values_are_refused_by_case(foreign, cases):
    path = foreign / f"{cases[1].id}.nii.gz"
    image = nibabel.load(path)
    array = np.asarray(image.dataobj)
    for other in (nibabel.Nifti1Image(array[:, :-1], image.affine), nibabel.Nifti1Image(array, 1.5 * image.affine),
                  nibabel.Nifti1Image(array + 7, image.affine)):
        nibabel.save(other, path)
        with pytest.raises(DataError) as caught:
            evaluate(foreign, cases, task=LIVER)
        assert caught.value.case == cases[1].id
        assert caught.value.remedy


def test_cases_without_an_answer_and_cases_without_ground_truth_are_told_together(foreign, cases):
    (foreign / f"{cases[0].id}.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        evaluate(foreign, [cases[0], replace(cases[1], label=None)], task=LIVER)
    assert len(caught.value.errors) == 2
    assert all(case.id in str(caught.value) for case in cases)


def test_what_cannot_be_asked_of_saved_predictions_is_refused(foreign, cases):
    with pytest.raises(ValueError, match="task"):
        evaluate(foreign, cases)
    with pytest.raises(ValueError, match="subsets"):
        evaluate(foreign, cases, "each", task=LIVER)
    with pytest.raises(ValueError, match="policies"):
        evaluate(foreign, cases, policies=["heads"], task=LIVER)

"""Answers as BIDS derivatives: what lies in the files, what stands beside them, and what the validator says."""

import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from bids_files import errors_of_the_validator

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build
from maml_toolkit.prediction.bids import write_bids
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.errors import DataError

BRAIN = TASKS["brats2021"]
IDS = ("sub-01_ses-1", "sub-01_ses-2")


@pytest.fixture
def data(tmp_path):
    cases = [replace(case, id=id, patient="sub-01") for case, id in zip(phantoms.brains(2, size=16), IDS, strict=True)]
    return write_cases(cases, tmp_path / "data", "bids", BRAIN)


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    network = build("maml", modalities=BRAIN.modalities, classes=4, channels=(4, 6))
    return Predictor(network, BRAIN.with_spacing(1), (16, 16, 16), run="first")


def test_two_answers_of_one_name_are_refused_and_the_first_stays(data, predictor):
    """An earlier call's answer is replaced, as is said; of two in one call nobody would know which it is."""
    (case, *_) = cases = find_cases(data, BRAIN)
    answers = [answer for _, answer in predictor.sweep(case, [case.images], ("fused", "heads"))]
    with pytest.raises(DataError) as caught:
        write_bids(answers, data, cases)
    assert caught.value.case == case.id
    (about,) = (data / "derivatives").rglob("*_dseg.json")
    assert json.loads(about.read_text())["Policy"] == "fused"


def test_an_answer_lies_in_the_derivatives_with_its_classes_probabilities_and_sources(data, predictor):
    cases = find_cases(data, BRAIN)
    predictions = [predictor(case) for case in cases]
    home = write_bids(predictions, data, cases)
    assert home == data / "derivatives" / "maml_toolkit"
    assert sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()) == [
        "dataset_description.json", "dseg.tsv", *(
            f"sub-01/ses-{number}/anat/sub-01_ses-{number}_{suffix}.{ending}" for number in (1, 2)
            for suffix in ("dseg", "probseg") for ending in ("json", "nii.gz"))]
    start = home / "sub-01/ses-2/anat"
    labels = nib.load(start / "sub-01_ses-2_dseg.nii.gz")
    np.testing.assert_array_equal(np.asarray(labels.dataobj), predictions[1].labels)
    assert set(np.unique(labels.dataobj)) <= {0, 1, 2, 4}
    np.testing.assert_allclose(labels.affine, nib.load(cases[1].images["t1"]).affine)
    shares = np.asarray(nib.load(start / "sub-01_ses-2_probseg.nii.gz").dataobj)
    assert shares.shape == (16, 16, 16, 4)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[shares.argmax(-1)], predictions[1].labels)
    about = json.loads((start / "sub-01_ses-2_dseg.json").read_text())
    assert about["Sources"] == [f"bids:raw:sub-01/ses-2/anat/sub-01_ses-2_{name}.nii.gz" for name in (
        "T1w", "ce-GADOLINIUM_T1w", "T2w", "FLAIR")]
    assert (about["Method"], about["Run"], about["Policy"], about["Modalities"], about["Manual"]) == (
        predictions[1].method, "first", predictions[1].policy, list(BRAIN.modalities), False)
    assert json.loads((start / "sub-01_ses-2_probseg.json").read_text())["LabelMap"] == list(BRAIN.class_names)
    assert (home / "dseg.tsv").read_text().splitlines()[1:] == [
        "0\tbackground", "1\tnecrosis", "2\toedema", "4\tenhancing"]
    described = json.loads((home / "dataset_description.json").read_text())
    assert (described["DatasetType"], described["GeneratedBy"][0]["Name"], described["DatasetLinks"]) == (
        "derivative", "maml_toolkit", {"raw": "../.."})
    assert {"Name", "BIDSVersion"} <= set(described)


def test_answers_are_never_taken_for_ground_truth(data, predictor):
    before = find_cases(data, BRAIN)
    write_bids(map(predictor, before), data, before)
    assert find_cases(data, BRAIN) == before
    assert all("derivatives/labels" in case.label.as_posix() for case in before)


def test_a_saved_prediction_gives_the_same_files(data, predictor, tmp_path):
    case = find_cases(data, BRAIN)[0]
    prediction = predictor(case)
    first = write_bids([prediction], tmp_path / "first")
    second = write_bids([Prediction.load(prediction.save(tmp_path / "saved"))], tmp_path / "second")
    names = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(names) == 6
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_an_answer_from_some_of_the_scans_has_a_name_of_its_own(data, predictor):
    case = find_cases(data, BRAIN)[0]
    home = write_bids([predictor(case), predictor(case, present=["t1", "flair"])], data, [case])
    assert sorted(path.name for path in home.rglob("*dseg.nii.gz")) == [
        "sub-01_ses-1_desc-t1flair_dseg.nii.gz", "sub-01_ses-1_dseg.nii.gz"]
    about = json.loads((home / "sub-01/ses-1/anat/sub-01_ses-1_desc-t1flair_dseg.json").read_text())
    assert [source.rpartition("_")[2] for source in about["Sources"]] == ["T1w.nii.gz", "FLAIR.nii.gz"]


def test_the_space_of_the_scans_is_that_of_the_answer(data, predictor):
    case = find_cases(data, BRAIN)[0]
    images = {name: path.rename(path.with_name(re.sub("_(ce-GADOLINIUM_)?([^_]+)$", r"_\1space-SRI24_\2", path.name)))
              for name, path in case.images.items()}
    home = write_bids([predictor(case := replace(case, images=images))], data, [case])
    assert [path.name for path in home.rglob("*dseg.nii.gz")] == ["sub-01_ses-1_space-SRI24_dseg.nii.gz"]


def test_cases_of_other_layouts_get_a_name_and_their_own_files_as_sources(tmp_path, predictor):
    cases = find_cases(write_cases(phantoms.brains(1, size=16), tmp_path / "plain", "folders"), BRAIN)
    home = write_bids(map(predictor, cases), tmp_path / "bids", cases)
    about = json.loads((home / "sub-brain0000/anat/sub-brain0000_dseg.json").read_text())
    assert about["Sources"][0] == "bids:raw:../plain/brain-0-000/brain-0-000_t1.nii.gz"


def test_names_that_clash_are_told_before_anything_is_computed(tmp_path):
    one, two = phantoms.brains(2, size=8)
    with pytest.raises(DataError, match=r"case a_1: .*a-1"):
        write_bids(map(pytest.fail, ["it was computed"]), tmp_path, [replace(one, id="a-1"), replace(two, id="a_1")])
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError):
        write_bids([], tmp_path / "file")


def test_the_validator_of_bids_finds_no_error_in_the_answers(data, predictor):
    cases = find_cases(data, BRAIN)
    write_bids([predictor(cases[0]), predictor(cases[0], present="t1"), predictor(cases[1])], data, cases)
    assert errors_of_the_validator(data) == []

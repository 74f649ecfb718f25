"""Every setting of the device, and every remedy that an error names, is a parameter of the jobs in which it is met."""

import re

import pytest
import torch
from tiny_training import trainer

from maml_toolkit.commands import jobs
from maml_toolkit.data import phantoms
from maml_toolkit.experiments import running
from maml_toolkit.prediction.predictor import MEMORY_REMEDY, Predictor
from maml_toolkit.prediction.runs import Run

TRAINING, PREDICTING = ["2-train", "5-compare"], ["3-predict", "4-evaluate", "5-compare"]


@pytest.fixture(scope="module")
def cases():
    return phantoms.liver_phases(3, size=16)


@pytest.mark.parametrize("job", sorted({*TRAINING, *PREDICTING}))
def test_a_job_takes_device_and_precision(job):
    known = jobs.parameters_of(job)
    assert known["device"].value == known["precision"].value == "auto"


@pytest.mark.parametrize("job", TRAINING)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_makes_a_step_smaller_is_a_parameter_of_the_jobs_that_train(tmp_path, job, precision):
    remedy = trainer(tmp_path, precision=precision)._need()[2]
    named = set(re.findall(r"batch_size|patch_size|channels|accumulate|recompute|precision", remedy))
    assert named >= {"batch_size", "patch_size", "channels", "accumulate", "recompute"}
    assert ("precision" in named) == (precision == "float32")
    assert named <= set(jobs.parameters_of(job))


@pytest.mark.parametrize("job", PREDICTING)
def test_what_makes_a_window_smaller_is_a_parameter_of_the_jobs_that_predict(job):
    named = {"window", "at_once", "maps"} & set(re.findall(r"\w+", MEMORY_REMEDY))
    assert named == {"window", "at_once", "maps"}
    # one set of modalities is predicted at a time in the first, and no map is made in the last
    assert named - set(jobs.parameters_of(job)) <= {"3-predict": {"at_once"}, "5-compare": {"maps"}}.get(job, set())


def test_no_window_is_the_patch_of_the_training(tmp_path, cases):
    trainer(tmp_path, epochs=1).fit(cases)
    assert Predictor.load(tmp_path, window=None).window == (16, 16, 16)
    assert Predictor.load(tmp_path, window=[8, 8, 16]).window == (8, 8, 16)


def test_a_comparison_measures_as_it_is_told_and_again_where_that_changes_answers(tmp_path, cases, monkeypatch):
    trainer(tmp_path, epochs=1).fit(cases[:2])
    asked, evaluate = [], running.evaluate

    def watched(predictor, *given, **settings):
        asked.append((predictor.precision, predictor.window))
        return evaluate(predictor, *given, **settings)

    monkeypatch.setattr(running, "evaluate", watched)
    for given in ({"precision": "bfloat16"}, {"precision": "bfloat16", "device": "cpu", "at_once": 1},
                  {"precision": "float32", "window": (8, 8, 8)}):
        running.measured(Run(tmp_path), cases[2:], "full", given)
    assert asked == [(torch.bfloat16, (16, 16, 16)), (torch.float32, (8, 8, 8))]


def test_a_predictor_computes_on_the_device_and_in_the_precision_it_is_given(tmp_path, cases):
    trainer(tmp_path, epochs=1).fit(cases)
    predictor = Predictor.load(tmp_path, device="cpu", precision="float16")
    assert (predictor.device, predictor.precision) == (torch.device("cpu"), torch.float16)
    half, whole = predictor(cases[0]), Predictor.load(tmp_path, device="cpu", precision="float32")(cases[0])
    assert half.maps["logits"].dtype == whole.maps["logits"].dtype == "float32"
    assert half.maps["logits"] == pytest.approx(whole.maps["logits"], abs=0.05)
    total = sum(half.maps[f"contribution/{name}"] for name in half.modalities) + half.bias[:, None, None, None]
    assert total == pytest.approx(half.maps["logits"] - half.maps["logits"][0], abs=1e-4)

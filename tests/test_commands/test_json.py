"""Commands for programs: JSON on stdout and nothing else, the exit status as without it."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maml_toolkit import Trainer
from maml_toolkit.__main__ import app
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build

LIVER = TASKS["liver_phases"]


def told(*words: str, status: int = 0):
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    write_cases(phantoms.liver_phases(2, 16), folder / "data", "folders")
    torch.manual_seed(0)
    method = build("maml", modalities=LIVER.modalities, classes=2, channels=(2, 4))
    Trainer(method, folder / "run", LIVER, patch_size=(16, 16, 16), batch_size=1, epochs=1, steps_per_epoch=1,
            device="cpu").fit(phantoms.liver_phases(2, 16))
    return folder


def test_audit_names_every_fault_by_case_and_file(data, tmp_path):
    found = told("audit", str(data / "data"), "--task", "liver_phases", "--page", str(tmp_path / "a.html"))
    assert found["task"] == "liver_phases"
    assert len(found["cases"]) == 2
    assert found["lacking"] == [{"scans": [], "cases": ["liver-0-000", "liver-0-001"]}]
    assert [one for one in found["found"] if one["kind"] == "problem"] == []
    broken = tmp_path / "broken"
    write_cases(phantoms.liver_phases(2, 16), broken, "folders")
    next((broken / "liver-0-001").glob("*venous*")).write_bytes(b"no image")
    found = told("audit", str(broken), "--task", "liver_phases", "--page", str(tmp_path / "b.html"), status=1)
    (problem,) = [one for one in found["found"] if one["kind"] == "problem"]
    assert (problem["case"], problem["modality"]) == ("liver-0-001", "venous")
    assert problem["remedy"]
    for gone in ("arterial", "seg"):
        next((broken / "liver-0-000").glob(f"*{gone}*")).unlink()
    found = told("audit", str(broken), "--task", "liver_phases", "--page", str(tmp_path / "c.html"), status=2)
    assert {tuple(one["scans"]): one["cases"] for one in found["lacking"]} == {
        ("arterial", "label"): ["liver-0-000"], (): ["liver-0-001"]}


def test_predict_and_evaluate_say_what_was_done_and_the_means(data):
    found = told("predict", "--run", str(data / "run"), "--data", str(data / "data"), "--device", "cpu",
                 "--uncertainty", "true")
    assert set(found["sureness"]) == {"liver-0-000", "liver-0-001"}
    sure = found["sureness"]["liver-0-000"]
    assert {one["without"] for one in sure["changes"]} == {"arterial", "venous"}
    assert 0 <= sure["agreement"]["tumour"] <= 1
    assert set(found["cases"]) == {"liver-0-000", "liver-0-001"}
    assert not found["failed"]
    found = told("evaluate", "--run", str(data / "run"), "--data", str(data / "data"), "--device", "cpu")
    dice = [one for one in found["means"] if one["metric"] == "dice"]
    assert {one["present"] for one in dice} == {"arterial+venous", "arterial", "venous"}
    assert all(np.isfinite(one["mean"]) and one["cases"] == 2 for one in dice)

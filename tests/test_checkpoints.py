"""Checkpoints are whole or not there, and hold nothing that could be executed."""

import pytest
import torch

from maml_toolkit import checkpoints
from maml_toolkit.methods import build


@pytest.fixture
def method():
    return build("late_fusion", modalities=("t1",), classes=2, channels=(2, 3))


def test_the_two_newest_and_the_best_are_kept(tmp_path, method):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, method, best=step < 3)
        checkpoints.save(tmp_path, step, method)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-step-00000002", "step-00000002", "step-00000003"]


def test_a_save_that_fails_leaves_what_was_there(tmp_path, method, monkeypatch):
    checkpoints.save(tmp_path, 1, method)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, 2, method)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoints.load(checkpoints.newest(tmp_path))


def test_an_unfinished_checkpoint_is_not_found(tmp_path, method):
    checkpoints.save(tmp_path, 1, method)
    (tmp_path / ".writing-step-00000002-1").mkdir()
    assert checkpoints.newest(tmp_path).name == "step-00000001"


def test_the_training_state_comes_back(tmp_path, method):
    path = checkpoints.save(tmp_path, 1, method, {"step": 7, "moment": torch.ones(2)})
    state = checkpoints.load_training(path)
    assert state["step"] == 7
    assert torch.equal(state["moment"], torch.ones(2))


@pytest.mark.parametrize("damage", ["weights.safetensors", "method.json"])
def test_a_damaged_checkpoint_is_named(tmp_path, method, damage):
    path = checkpoints.save(tmp_path, 1, method)
    (path / damage).write_bytes((path / damage).read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.load(path)


def test_a_checkpoint_of_another_version_is_named(tmp_path, method):
    path = checkpoints.save(tmp_path, 1, method)
    (path / "method.json").write_text('{"method": "transformer"}')
    checkpoints.sign(path)
    with pytest.raises(ValueError, match="transformer"):
        checkpoints.load(path)

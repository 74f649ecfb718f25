"""Checkpoints are whole or not there, and hold nothing that could be executed."""

import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from tiny_training import HERE, environment

from maml_toolkit.methods import build
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.checkpoints import CHECKSUMS, METHOD, TRAINING, WEIGHTS, CheckpointError
from maml_toolkit.system import files


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


def test_numbers_of_numpy_come_back_as_plain_ones(tmp_path, method):
    """As of a learning rate from `numpy.logspace`: a checkpoint that holds one could be written and never read."""
    path = checkpoints.save(tmp_path, 1, method, {"groups": [{"lr": np.float64(1e-3), "betas": (np.float32(0.5), 1)}],
                                                  "step": np.int64(7)})
    state = checkpoints.load_training(path)
    assert state == {"groups": [{"lr": 1e-3, "betas": (0.5, 1)}], "step": 7}


@pytest.mark.parametrize("name", [WEIGHTS, METHOD, TRAINING, CHECKSUMS])
@pytest.mark.parametrize("part", [0, 0.3, 0.6, 0.999])
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path, method, name, part):
    path = checkpoints.save(tmp_path, 1, method, {"optimizer": torch.ones(100)})
    content = bytearray((path / name).read_bytes())
    content[int(part * len(content))] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        checkpoints.verify(path)


def test_the_libraries_do_not_find_a_flipped_bit(tmp_path, method):
    """Why there are checksums: the last byte of the weights is a weight's."""
    path = checkpoints.save(tmp_path, 1, method)
    content = bytearray((path / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (path / WEIGHTS).write_bytes(content)
    checkpoints.load_file(path / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"{path}.*{WEIGHTS}"):
        checkpoints.load(path)


@pytest.mark.parametrize("damage", [WEIGHTS, METHOD, CHECKSUMS])
def test_a_file_that_is_cut_or_gone_is_named(tmp_path, method, damage):
    path = checkpoints.save(tmp_path, 1, method)
    (path / damage).write_bytes((path / damage).read_bytes()[:20])
    with pytest.raises(CheckpointError, match=str(path)):
        checkpoints.load(path)
    (path / damage).unlink()
    with pytest.raises(CheckpointError, match=f"{path}.*{damage}"):
        checkpoints.load(path)


class Attack:
    """Unpickled, it leaves a file behind."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def pickled(target):
    return pickle.dumps({"progress": Attack(target)}, protocol=2)


def saved_by_torch(target):
    file = io.BytesIO()
    torch.save({"progress": Attack(target)}, file)
    return file.getvalue()


def zipped(target):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../" * 20 + str(target), "outside")
        archive.writestr("archive/data.pkl", pickled(target))
        archive.writestr("archive/version", "3")
    return file.getvalue()


def tarred(target):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("../" * 20 + str(target), "storages", "tensors", "pickle"):
            content = pickled(target)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("attack", [pickled, saved_by_torch, zipped, tarred])
@pytest.mark.parametrize("name", [WEIGHTS, METHOD, TRAINING])
def test_nothing_in_a_checkpoint_is_executed_or_unpacked(tmp_path, method, name, attack):
    """With checksums that fit: whoever writes the one writes the other."""
    path, target = checkpoints.save(tmp_path / "run", 1, method), tmp_path / "attacked"
    (path / name).write_bytes(attack(target))
    checkpoints.sign(path)
    with pytest.raises(CheckpointError, match=str(path)):
        checkpoints.load_newest(tmp_path / "run")
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
    assert sorted(one.name for one in path.iterdir()) == sorted([WEIGHTS, METHOD, TRAINING, CHECKSUMS])


def test_checksums_lead_nowhere_else(tmp_path, method):
    path = checkpoints.save(tmp_path, 1, method)
    (path / CHECKSUMS).write_text('{"../../secret": "0"}')
    with pytest.raises(CheckpointError, match=WEIGHTS):
        checkpoints.load(path)


def test_a_process_that_is_killed_while_it_saves_loses_nothing(tmp_path):
    """Twelve times; every checkpoint that was reported is there and whole, and the next start cleans up."""
    script = [sys.executable, str(HERE / "tiny_training.py"), "saves", str(tmp_path), "12"]
    ended = subprocess.run(script, env=environment(), capture_output=True, text=True, check=True)
    tries = json.loads(ended.stdout)
    assert len(tries) == 12
    for one in tries:
        assert one["found"] >= one["reported"]
        assert one["hidden after"] == []
    assert sum(bool(one["hidden before"]) for one in tries) >= 3        # killed in the middle of a save


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path, method, monkeypatch):
    """Killed between the renaming of the old one and that of the new."""
    checkpoints.save(tmp_path, 1, method, {"step": 1})
    rename, renamed = files.os.rename, []

    def killed(old, new):
        renamed.append(new)
        if len(renamed) > 1:
            raise KeyboardInterrupt
        rename(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "rename", killed)
        patched.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path, 1, method, {"step": 2})
    assert checkpoints.newest(tmp_path) is None
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoints.load_newest(tmp_path)[1] == {"step": 1}


def test_checkpoints_of_a_future_that_was_given_up_go(tmp_path, method):
    for step in (5, 10, 7):
        checkpoints.save(tmp_path, step, method)
        checkpoints.save(tmp_path, step, method, best=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-step-00000007", "step-00000005", "step-00000007"]


def test_a_checkpoint_of_another_version_is_named(tmp_path, method):
    path = checkpoints.save(tmp_path, 1, method)
    (path / "method.json").write_text('{"method": "transformer"}')
    checkpoints.sign(path)
    with pytest.raises(ValueError, match="transformer"):
        checkpoints.load(path)

"""Disks that are full or read-only, memory that runs out, a loss that is no number: said plainly, and nothing lost."""

import json
import re
import subprocess
import sys

import pytest
import torch
from disks import files_of_at_most, full, mounted, read_only
from tiny_training import environment, spoiled, trainer, weights

from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.checkpoints import CheckpointError
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.training.resuming import PATIENCE

NEEDED = r"could not be written to: (\d+\.\d) MiB are needed, (\d+\.\d) MiB are free"


def at_step(one, at, what):
    """Something that happens at the beginning of a step."""
    step = one.step

    def with_it(stage, batch, optimizer, rate, number):
        if number == at:
            what()
        return step(stage, batch, optimizer, rate, number)

    one.step = with_it
    return one


def goes_on(run, cases, whole):
    """That the run ends as an undisturbed one."""
    trainer(whole).fit(cases)
    resumed = trainer(run, seed=9)
    resumed.fit(cases)
    expected = checkpoints.load_newest(whole / "checkpoints")[0]
    assert torch.equal(torch.cat([one.flatten() for one in expected.parameters()]).detach(), weights(resumed))


def test_on_a_full_disk_the_checkpoints_of_before_stay_and_the_error_says_how_much_is_needed(tmp_path, cases):
    with mounted(tmp_path / "disk", "8m") as disk:
        filling = full(disk)
        one = at_step(trainer(disk / "run", checkpoint_minutes=0), 4, filling.__enter__)
        with pytest.raises(OSError, match=NEEDED) as failed:
            one.fit(cases)
        needed, free = map(float, re.search(NEEDED, str(failed.value)).groups())
        assert needed > free
        assert [path.name for path in sorted((disk / "run" / "checkpoints").iterdir())] == ["step-00000003",
                                                                                            "step-00000004"]
        for path in (disk / "run" / "checkpoints").iterdir():
            checkpoints.verify(path)
        filling.__exit__(None, None, None)
        goes_on(disk / "run", cases, tmp_path / "whole")


def test_where_no_more_may_be_written_the_checkpoints_of_before_stay(tmp_path, cases):
    """A limit on the size of files, as a quota is; it needs no right to mount."""
    limit = files_of_at_most(20_000)
    one = at_step(trainer(tmp_path / "run", checkpoint_minutes=0), 4, limit.__enter__)
    try:
        with pytest.raises(OSError, match=NEEDED + ".*quota"):
            one.fit(cases)
    finally:
        limit.__exit__(None, None, None)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoints.verify(path)
    goes_on(tmp_path / "run", cases, tmp_path / "whole")


def test_a_disk_that_cannot_be_written_is_said_before_anything_is_read(tmp_path, cases, monkeypatch):
    with mounted(tmp_path / "disk", "8m") as disk:
        trainer(disk / "begun", epochs=1).fit(cases)
        monkeypatch.setattr("maml_toolkit.training.trainer.TrainingData", lambda *_: pytest.fail("the cases were read"))
        with read_only(disk):
            for run in ("new", "begun"):
                with pytest.raises(PermissionError, match=rf"{run} .*\(Read-only file system\)"):
                    trainer(disk / run, epochs=2).fit(cases)


def test_a_folder_of_cases_that_cannot_be_written_is_enough(tmp_path, cases):
    with mounted(tmp_path / "disk", "8m") as disk:
        data = write_cases(cases, disk / "data", "folders", TASKS["liver_phases"])
        with read_only(disk):
            trainer(tmp_path / "run", cache=tmp_path / "arrays").fit(find_cases(data, TASKS["liver_phases"]))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_no_number_is_skipped_and_counted(tmp_path, cases, where):
    one = spoiled(trainer(tmp_path), {1, 3, 4}, where)
    history = one.fit(cases)
    assert list(history["skipped"]) == [1, 2]
    assert torch.isfinite(weights(one)).all()
    assert history["loss/total"].notna().all()
    state = checkpoints.load_newest(tmp_path / "checkpoints")[1]
    assert {int(moments["step"]) for moments in state["optimizer"]["state"].values()} == {3}


def test_a_few_such_steps_in_a_row_end_it_and_name_the_cases(tmp_path, cases):
    one = spoiled(trainer(tmp_path, epochs=4), set(range(4, 12)))
    with pytest.raises(FloatingPointError, match=r"\b5 steps.*\b4 to 8\b.*liver-0-00\d"):
        one.fit(cases)
    assert PATIENCE == 5
    assert torch.isfinite(weights(one)).all()
    history = trainer(tmp_path, epochs=4, learning_rate=1e-3).fit(cases, changed=True)
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert json.loads((tmp_path / "settings.json").read_text())["changed"]


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from maml_toolkit.data import phantoms
from tiny_training import trainer
import torch._dynamo
cases = phantoms.liver_phases(2, size=16)
one = trainer(sys.argv[1], patch_size=(128, 128, 128), batch_size=8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
one.fit(cases)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_memory_that_runs_out_is_said_with_the_settings_that_matter(tmp_path):
    ended = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)], env=environment(), text=True,
                           capture_output=True, check=False)
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("MemoryError: a step of batch_size=8 patches of 128x128x128 voxels does not fit into the "
                           "memory of cpu; lower batch_size, patch_size or the method's channels (found [4, 6])"), last


def test_the_best_checkpoint_is_verified_before_it_predicts(tmp_path, cases):
    trainer(tmp_path).fit(cases[:2], cases[2:])
    path = checkpoints.best(tmp_path / "checkpoints") / checkpoints.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best-step-\d+ .*checksum"):
        Predictor.load(tmp_path)
    Predictor.load(tmp_path, "newest")

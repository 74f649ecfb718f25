"""Two processes under torchrun: what they train is what one process trains, and they end and go on together."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from training_worker import LIVER, train
from typer.testing import CliRunner

from maml_toolkit.__main__ import app, options
from maml_toolkit.commands import jobs, launching
from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.patches import PatchSampler
from maml_toolkit.methods import subsets
from maml_toolkit.training import distributed

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="signals and process groups of POSIX"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]

ROOT = Path(__file__).parents[2]
SUBSETS = {"subset_weight": 1.0, "ranking_weight": 0.1}
CURVES = {
    "float64": {"float64": True, "batch_size": 1},
    "float32": {"batch_size": 1},
    "validated": {"batch_size": 1, "epochs": 2, "validate_every": 1, "validation": 3},
    "teacher": {"float64": True, "batch_size": 1, "method": "kdnet", "epochs": 2},
}
"""Jobs of two processes; one process has the same curve with twice the batch."""
DRAWN = {
    "subsets": {"float64": True, "batch_size": 1, "own": SUBSETS, "mixed": True, "epochs": 10},
    "accumulated": {"float64": True, "batch_size": 2, "accumulate": 2, "own": SUBSETS, "mixed": True, "epochs": 10},
}
"""Jobs in which each part of a batch draws its modalities; one process has the curve of two with twice the parts."""
ENDING = {"batch_size": 1, "own": SUBSETS, "mixed": True, "epochs": 4, "steps_per_epoch": 2, "checkpoint_minutes": 0}


def torchrun(folder, *work, processes=2):
    """What torchrun said and its exit status, when so many processes have done some jobs of the worker."""
    listed = folder / "jobs.json"
    listed.write_text(json.dumps(work))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
               str(ROOT / "tests" / "training_worker.py"), str(listed)]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=150)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of all jobs as two processes did them, one after the other."""
    folder = tmp_path_factory.mktemp("two")
    ended = torchrun(folder, *({"run": str(folder / name), **job} for name, job in
                               (CURVES | DRAWN | {"undisturbed": ENDING}).items()))
    assert ended.returncode == 0, ended.stderr
    return folder


def history(run):
    return pd.read_csv(run / "history.csv").drop(columns="seconds")


def weights(run, rank=0):
    return torch.load(run / f"weights-{rank}.pt")


def difference(one, other):
    """The largest over all numbers of two histories."""
    columns = [name for name in one if name.startswith(("loss", "validation"))]
    assert set(columns) == {name for name in other if name.startswith(("loss", "validation"))}
    return (one[columns] - other[columns]).abs().max().max()


def same_weights(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("name", "tolerance"), [
    ("float64", 1e-9), ("teacher", 1e-9),
    # 20 steps of Adam, which divides rounding by rounding where a gradient is nearly 0
    ("float32", 1e-3), ("validated", 1e-3)])
def test_two_processes_have_the_loss_of_one_with_twice_the_batch(two, tmp_path, name, tolerance):
    train(tmp_path, **CURVES[name] | {"batch_size": 2})
    one, both = history(tmp_path), history(two / name)
    assert list(both["step"]) == list(one["step"])
    assert difference(one, both) < tolerance
    assert same_weights(weights(two / name, 0), weights(two / name, 1))


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_subsets_and_absent_modalities_that_differ_between_processes_are_averaged_and_stay_in_step(two, tmp_path, name):
    job = DRAWN[name]
    twice = {"batch_size": 2 * job["batch_size"], "accumulate": 2 * job.get("accumulate", 1)}
    trainer = train(tmp_path, **job | twice)
    drawn = [[subsets.draw(LIVER.modalities, trainer._generator(step, part)) for part in range(2)]
             for step in range(10)]
    assert sum(one != other for one, other in drawn) > 3
    assert same_weights(weights(two / name, 0), weights(two / name, 1))
    assert difference(history(tmp_path), history(two / name)) < 1e-9


def test_a_run_goes_on_in_other_processes_only_with_the_same_batch_and_parts(two, tmp_path):
    finished = two / "undisturbed"
    before = weights(finished)
    train(finished, **ENDING | {"batch_size": 2, "accumulate": 2})
    assert same_weights(before, weights(finished))
    with pytest.raises(ValueError, match=r"trainer\.parts: .*2.*1"):
        train(finished, **ENDING | {"batch_size": 2})
    with pytest.raises(ValueError, match=r"trainer\.batch_size: .*2.*4"):
        train(finished, **ENDING | {"batch_size": 4, "accumulate": 2})


def test_accumulation_is_the_whole_batch(tmp_path):
    for parts in (1, 2, 4):
        train(tmp_path / str(parts), float64=True, batch_size=4, accumulate=parts, epochs=5)
    assert difference(history(tmp_path / "1"), history(tmp_path / "2")) < 1e-9
    assert difference(history(tmp_path / "1"), history(tmp_path / "4")) < 1e-9
    with pytest.raises(ValueError, match=r"batch_size=3.*accumulate=2"):
        train(tmp_path / "odd", batch_size=3, accumulate=2)


@pytest.mark.slow
def test_one_process_that_ends_ends_all_and_they_go_on_bit_for_bit(two, tmp_path):
    run = tmp_path / "run"
    killed = torchrun(tmp_path, {"run": str(run), **ENDING, "dies": [1, 3, "killed"]})
    assert killed.returncode != 0
    assert "Signal 9 (SIGKILL)" in killed.stderr
    assert len(history(run)) == 1
    failed = torchrun(tmp_path, {"run": str(run), **ENDING, "dies": [0, 5, "raises"]})
    assert failed.returncode != 0
    assert "the loss is no number here" in failed.stderr
    assert len(history(run)) == 2
    assert torchrun(tmp_path, {"run": str(run), **ENDING}).returncode == 0
    pd.testing.assert_frame_equal(history(run), history(two / "undisturbed"), check_exact=True)
    assert all(same_weights(weights(run, rank), weights(two / "undisturbed", rank)) for rank in range(2))


def test_shares_together_are_the_batch(tmp_path):
    prepared = prepare_all(phantoms.liver_phases(3, size=16), LIVER)
    augmentation = Augmentation(rotation=1)
    whole = PatchSampler(prepared, (8, 8, 8), 6, seed=3, augmentation=augmentation).batch(5)
    parts = [part for share in range(3)
             for part in PatchSampler(prepared, (8, 8, 8), 2, 3, share, 3, augmentation).batch(5).split(2)]
    assert [part.cases[0] for part in parts] == list(whole.cases)
    images, labels = whole.transformed()
    assert torch.equal(torch.cat([part.transformed()[0]["venous"] for part in parts]), images["venous"])
    assert torch.equal(torch.cat([part.transformed()[1] for part in parts]), labels)


def test_the_seed_and_the_part_change_what_the_loss_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("training_worker.Dying.fit", lambda *_: None)
    seeds = [train(tmp_path, seed=seed) for seed in (0, 1)]
    drawn = {torch.rand(1, generator=one._generator(step, part)).item()
             for one in seeds for step in range(5) for part in range(3)}
    assert len(drawn) == 30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What the job 1-prepare writes."""
    folder = tmp_path_factory.mktemp("prepared")
    data = write_cases(phantoms.liver_phases(4, size=16), folder / "data", "folders", LIVER)
    jobs.run("1-prepare", parameters={"data": data, "task": "liver_phases", "out": folder / "out"}, progress=False)
    return folder / "out"


def of_training(prepared, run, **more):
    return {"prepared": prepared, "run": run, "channels": [4, 6], "patch_size": [16, 16, 16], "batch_size": 1,
            "epochs": 2, "steps_per_epoch": 2, "validation": ["liver-0-003"], **more}


@pytest.mark.slow
def test_a_notebook_launches_the_command_that_leaves_the_run_folder_of_the_job(prepared, tmp_path, capfd):
    settings = {"attention": "released"}
    found = launching.launch(2, **of_training(prepared, tmp_path / "two", method_settings=settings))
    executed = jobs.run("2-train", parameters=of_training(prepared, tmp_path / "one", method_settings=settings,
                                                          batch_size=2), progress=False)
    assert f"Executed notebook: {tmp_path / 'two' / executed.name}" in capfd.readouterr().err
    assert {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*")} == {
        path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*")}
    one = pd.read_csv(tmp_path / "one" / "history.csv")
    assert list(found) == list(one)
    assert difference(one, found) < 1e-3
    written = [cell for cell in nbformat.read(tmp_path / "two" / executed.name, 4).cells if cell.cell_type == "code"]
    assert "image/png" in written[-1].outputs[-1]["data"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_processes_that_a_notebook_launched_end_when_its_cell_is_interrupted(prepared, tmp_path, monkeypatch):
    def interrupted(child):
        while child.poll() is None and not (tmp_path / "run" / "history.csv").exists():
            time.sleep(0.1)
        assert len(those_of(tmp_path / "run")) == 3        # torchrun, and two that train
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "relay", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launching.launch(2, **of_training(prepared, tmp_path / "run", epochs=100_000))
    assert those_of(tmp_path / "run") == []


def those_of(run):
    """The processes that name a run folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] * (str(run).encode() in path.read_bytes())
        except OSError:
            continue
    return found


def test_what_launch_cannot_start_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'epocs'.*'epochs'"):
        launching.launch(2, epocs=3)
    with pytest.raises(ValueError, match="processes=0"):
        launching.launch(0)


def test_parameters_survive_the_command_line():
    known = jobs.parameters_of("2-train")
    given = {"prepared": Path("my data"), "method": "maml", "method_settings": {"attention": "released", "tau": 1e-4},
             "training": ["00006", "--x"], "augmentation": None, "epochs": 3, "run": "007"}
    assert options(launching.as_words({**given, "patch_size": None}, known), known) == {**given, "prepared": "my data"}


def test_the_code_of_a_notebook_runs_with_other_parameters_and_shows_nothing(tmp_path, capsys):
    cells = [nbformat.v4.new_code_cell("at = 'nowhere'  # where", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_markdown_cell("# No code"),
             nbformat.v4.new_code_cell("print(at)\ndisplay(at)\n__import__('pathlib').Path(at).write_text(__name__)\nat;")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "job.ipynb")
    launching.run_silently(tmp_path / "job.ipynb", {"at": tmp_path / "there"})
    assert (tmp_path / "there").read_text() == "__main__"
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="'into'"):
        launching.run_silently(tmp_path / "job.ipynb", {"into": "x"})


def test_commands_for_one_process_are_refused_in_several(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = CliRunner().invoke(app, ["prepare"])
    assert shown.exit_code == 1
    assert "prepare" in shown.output
    assert "WORLD_SIZE=2" in shown.output


def test_an_environment_that_says_half_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"WORLD_SIZE.*4.*LOCAL_RANK"):
        distributed.world()
    for name, value in {"RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.world() == distributed.World(rank=3, size=4, local_rank=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"\b1 GPU.*\b1\b"):
        distributed.own_device(torch.device("cuda"))
    assert distributed.own_device(torch.device("cpu")) == torch.device("cpu")
    assert distributed.own_device(torch.device("cuda:0")) == torch.device("cuda:0")

"""Signals end a training where nothing is lost, say so, and let it go on; a job passes them on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_notebooks import write
from tiny_training import environment, trainer, weights
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.commands import jobs
from maml_toolkit.data import phantoms
from maml_toolkit.prediction import checkpoints
from maml_toolkit.system import processes
from maml_toolkit.system.processes import NAMES, Stopped, noticed

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]


@pytest.fixture(autouse=True)
def _interrupts_are_not_ignored():
    """Whatever started the tests: a job that a shell put into the background ignores Ctrl-C, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def cases():
    return phantoms.liver_phases(3, size=16)


def send(name):
    os.kill(os.getpid(), getattr(signal, name))


def handlers():
    return [signal.getsignal(getattr(signal, name)) for name in NAMES]


def signalled(one, at, *names):
    """Have signals come in the middle of the step `at`."""
    step = one.step

    def with_signal(stage, batch, optimizer, rate, number):
        if number == at:
            for name in names:
                send(name)
        return step(stage, batch, optimizer, rate, number)

    one.step = with_signal
    return one


def goes_on(folder, cases, *validation, seed=9):
    """That the run in this folder ends as one that was never stopped, whatever the weights it is given are."""
    whole, resumed = trainer(folder.parent / "whole"), trainer(folder, seed=seed)
    histories = [one.fit(cases, *validation).drop(columns="seconds") for one in (whole, resumed)]
    assert torch.equal(weights(whole), weights(resumed))
    pd.testing.assert_frame_equal(*histories)
    assert not (folder / "stopped.json").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [3, 5])        # in the middle of an epoch, and in its last step
def test_a_signal_is_answered_at_the_end_of_the_step_with_a_checkpoint(tmp_path, cases, name, at):
    before = handlers()
    ends = KeyboardInterrupt if name == "SIGINT" else Stopped
    with pytest.raises(ends, match=rf"\b{name}\b.*\b{at + 1} steps.*\bstep {at + 1}\b") as ended:
        signalled(trainer(tmp_path / "run"), at, name).fit(cases)
    assert handlers() == before
    assert checkpoints.newest(tmp_path / "run" / "checkpoints").name == f"step-0000000{at + 1}"
    note = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert (note["signal"], note["step"]) == (name, at + 1)
    assert note["when"].startswith("20")
    assert note["go on"] in str(ended.value)
    goes_on(tmp_path / "run", cases)


def test_a_second_signal_of_a_scheduler_changes_nothing(tmp_path, cases):
    with pytest.raises(Stopped, match=r"SIGUSR1.*\b5 steps"):
        signalled(trainer(tmp_path / "run"), 4, "SIGUSR1", "SIGTERM", "SIGTERM").fit(cases)
    goes_on(tmp_path / "run", cases)


def test_who_asks_twice_does_not_wait(tmp_path, cases):
    with pytest.raises(KeyboardInterrupt, match="3 steps are saved"):
        signalled(trainer(tmp_path / "run"), 4, "SIGINT", "SIGINT").fit(cases)
    goes_on(tmp_path / "run", cases)


def test_while_the_cases_are_prepared_a_signal_ends_it_at_once(tmp_path, cases, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("maml_toolkit.data.cache.machine.progress", lambda *_, **__: send("SIGTERM"))
        with pytest.raises(Stopped, match=r"SIGTERM.*\b0 steps"):
            trainer(tmp_path / "run").fit(cases)
    assert json.loads((tmp_path / "run" / "stopped.json").read_text())["step"] == 0
    goes_on(tmp_path / "run", cases, seed=0)


def test_a_validation_is_broken_off_and_done_again(tmp_path, cases):
    one = trainer(tmp_path / "run")
    one.validate = lambda _: send("SIGTERM")
    with pytest.raises(Stopped, match="6 steps are saved"):
        one.fit(cases[:2], cases[2:])
    assert len(one.history()) == 1
    goes_on(tmp_path / "run", cases[:2], cases[2:])


def test_in_another_thread_training_notices_no_signal_and_leaves_the_handlers_alone(tmp_path, cases):
    before, found = handlers(), []
    thread = threading.Thread(target=lambda: found.append((len(trainer(tmp_path).fit(cases)), handlers())))
    thread.start()
    thread.join()
    assert found == [(2, before)]


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with noticed() as notice:
            send("SIGTERM")
            assert notice.signal is None
    finally:
        signal.signal(signal.SIGTERM, before)


SCRIPT = """
import sys
from maml_toolkit.data import phantoms
from tiny_training import trainer
trainer(sys.argv[1], epochs=10000, checkpoint_minutes=0).fit(phantoms.liver_phases(3, size=16))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_script_ends_with_a_status_by_which_it_is_queued_again(tmp_path, name):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment(),
                               stderr=subprocess.DEVNULL)
    wait_for(lambda: checkpoints.newest(tmp_path / "checkpoints"), process)
    process.send_signal(getattr(signal, name))
    assert process.wait(60) == processes.AGAIN == 75
    assert json.loads((tmp_path / "stopped.json").read_text())["signal"] == name


def wait_for(there, process):
    until = time.monotonic() + 120
    while not there() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert there()


def signal_once(path: Path, name):
    """A thread that sends this process a signal once a file is there."""
    def waiting():
        until = time.monotonic() + 120
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.05)
        send(name)

    thread = threading.Thread(target=waiting)
    thread.start()
    return thread


NOTICES = """import os, time
from maml_toolkit.system.processes import noticed
with noticed() as notice:
    open("started", "w").close()
    while notice.signal is None:
        time.sleep(0.01)
    notice.check()"""
IDLES = "import time\nopen('started', 'w').close()\ntime.sleep(600)"


@pytest.mark.parametrize(("cell", "name", "status", "message"), [
    (NOTICES, "SIGTERM", 75, "SIGTERM"), (NOTICES, "SIGUSR1", 75, "SIGUSR1"), (NOTICES, "SIGINT", 130, "SIGINT"),
    (IDLES, "SIGTERM", 75, "stopped by SIGTERM; run it again"),
    (NOTICES.replace("while", "os.kill(os.getpid(), 15)\n    while"), None, 75, "SIGTERM")])
def test_a_job_passes_signals_on_and_ends_with_a_status_of_its_own(here, cell, name, status, message):
    write(here, "2-train", cell)
    before = handlers()
    thread = name and signal_once(here / "started", name)
    shown = CliRunner().invoke(app, ["train"])
    if thread:
        thread.join()
    assert handlers() == before
    assert shown.exit_code == status, shown.output
    assert message in shown.output
    assert "Traceback" not in shown.output


def test_a_job_whose_python_was_killed_says_what_kills_it(here):
    write(here, "2-train", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(jobs.JobError, match=r"(?s)died.*memory"):
        jobs.run("train", progress=False)


def test_an_error_after_a_signal_is_an_error(here):
    write(here, "2-train", NOTICES.replace("notice.check()", "raise ValueError('no such file')"))
    thread = signal_once(here / "started", "SIGTERM")
    with pytest.raises(jobs.JobError, match="no such file") as failed:
        jobs.run("train", progress=False)
    thread.join()
    assert not isinstance(failed.value, jobs.JobStopped)


@pytest.mark.slow
def test_the_command_train_saves_under_sigterm_and_goes_on(tmp_path, cases):
    """As a scheduler does it: SIGTERM to the command, status 75, the same command again."""
    from tiny_training import LIVER

    from maml_toolkit.data.cases import write_cases

    write_cases(cases, tmp_path / "data", "folders", LIVER)
    base = [sys.executable, "-m", "maml_toolkit"]
    subprocess.run([*base, "prepare", "--data", "data", "--task", "liver_phases", "--out", "prepared"], check=True,
                   cwd=tmp_path, env=environment(), capture_output=True)

    def train(run):
        words = {"prepared": "prepared", "run": run, "channels": "[4, 6]", "patch_size": "[16, 16, 16]",
                 "epochs": "40", "steps_per_epoch": "20", "batch_size": "1", "schedule": "poly"}
        return subprocess.Popen([*base, "train", *(f"--{name}={value}" for name, value in words.items())],
                                cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)

    stopped = train("runs/stopped")
    wait_for(lambda: checkpoints.newest(tmp_path / "runs" / "stopped" / "checkpoints"), stopped)
    stopped.send_signal(signal.SIGTERM)
    said = stopped.communicate(timeout=120)[1]
    assert stopped.returncode == 75, said
    assert "stopped by SIGTERM" in said
    note = json.loads((tmp_path / "runs" / "stopped" / "stopped.json").read_text())
    assert 20 <= note["step"] < 800
    for run in ("runs/stopped", "runs/whole"):
        process = train(run)
        said = process.communicate()[1]
        assert process.returncode == 0, said
    ends = [checkpoints.load(tmp_path / "runs" / run / "checkpoints" / "step-00000800") for run in ("stopped", "whole")]
    for name, tensor in ends[0].state_dict().items():
        assert torch.equal(tensor, ends[1].state_dict()[name]), name

"""What a command started ends with it, whatever ends the command: found by the ids of real processes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from maml_toolkit.system import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

STARTS = """
import sys
from maml_toolkit.system import processes
with processes.noticed() as notice, notice.at_once(), processes.child("started", []) as one:
    print(one.pid, flush=True)
    one.wait()
"""
STARTED = """
import os, subprocess, sys, time
from pathlib import Path
if __name__ == "__main__":
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])     # of the same session
    Path("own.txt").write_text(str(own.pid))
    Path("argv.txt").write_text(sys.argv[0])
    try:
        import signal
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        time.sleep(300)
    finally:
        own.terminate()
"""


def stat(pid):
    """State and parent of a process; None for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None


def lives(pid):
    return (found := stat(pid)) is not None and found[0] != "Z"


def below(pid):
    """The ids of the processes that a process started, and of those that they started."""
    every = {int(path.name): stat(path.name) for path in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        found += [other for other, known in every.items() if known and int(known[1]) == one]
    return found[1:]


def until(is_so, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def all_gone(pids):
    left = [] if until(lambda: not any(map(lives, pids)), 30) else [pid for pid in pids if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return not left


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGKILL"])
def test_a_child_and_its_own_end_with_the_process_that_started_it(tmp_path, name):
    if name == "SIGKILL" and sys.platform != "linux":
        pytest.skip("only Linux ends the children of a process that is killed")
    (tmp_path / "started.py").write_text(STARTED)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    parent = subprocess.Popen([sys.executable, "-c", STARTS], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child = int(parent.stdout.readline())
    own = int(until(lambda: (tmp_path / "own.txt").exists() and (tmp_path / "own.txt").read_text()))
    assert lives(child)
    assert lives(own)
    time.sleep(0.2)
    parent.send_signal(getattr(signal, name))
    parent.wait(60)
    parent.stdout.close()
    assert all_gone([child, own])
    assert (tmp_path / "argv.txt").read_text() == str(tmp_path / "started.py")


def test_a_child_whose_parent_is_gone_already_does_not_start():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = subprocess.run([sys.executable, "-m", "maml_toolkit.system.processes", str(gone.pid), "this"],
                          capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout == b""


def test_who_does_not_end_when_asked_is_killed(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE_S", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as one:
        one.stdout.readline()
        processes.end(one)
        assert one.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(("name", "status"), [
    ("SIGTERM", 0), *(pytest.param(*one, marks=pytest.mark.slow) for one in (
        ("SIGINT", 130), ("SIGHUP", 0), ("SIGKILL", -signal.SIGKILL)))])
def test_a_stopped_explorer_takes_its_server_and_its_kernels_with_it(tmp_path, name, status):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, own = tmp_path / "log.txt", tmp_path / "own"
    for folder in (own, tmp_path / "run", tmp_path / "data"):
        folder.mkdir()
    with log.open("w") as file:
        command = subprocess.Popen(
            [sys.executable, "-m", "maml_toolkit", "explore", str(tmp_path / "run"), str(tmp_path / "data"), "--port",
             str(port), "--no-browser"], stdout=file, stderr=file, env={**os.environ, "TMPDIR": str(own)})
    address = until(lambda: re.search(rf"http://127\.0\.0\.1:{port}/\S*token=\w+", log.read_text()))
    assert address, log.read_text()
    with urllib.request.urlopen(address[0], timeout=60) as page:          # which starts a kernel
        page.read(1)
        started = until(lambda: len(found := below(command.pid)) > 1 and found)
    assert started
    command.send_signal(getattr(signal, name))
    assert command.wait(60) == status
    assert all_gone(started)
    assert name == "SIGKILL" or not list(own.iterdir())

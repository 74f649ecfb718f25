"""One process a folder, whatever happens to the process, and whatever the disk can do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from maml_toolkit.system import files, locks
from maml_toolkit.system.locks import LOCK, HeldError, Holder, held

HOLDS = "import sys, time; from pathlib import Path; from maml_toolkit.system.locks import held\n" \
        "with held(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"


@pytest.fixture(params=["flock", "no flock"])
def disk(request, monkeypatch):
    """A disk with the locks of the operating system, and one without."""
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    if request.param == "no flock":
        monkeypatch.setattr(fcntl, "flock", unsupported)
    return request.param


def holding(folder):
    """A process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def write(folder, holder, age_s=0.0):
    path = folder / LOCK
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age_s,) * 2)


def test_the_second_process_names_the_first_and_a_killed_one_is_forgotten(tmp_path, disk):
    process = holding(tmp_path)
    (tmp_path / f"{files.UNFINISHED}x").mkdir()
    with pytest.raises(HeldError, match=rf"\b{process.pid} on \S+ since 20\d\d-"):
        held(tmp_path).__enter__()
    assert (tmp_path / f"{files.UNFINISHED}x").exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with held(tmp_path) as lock:
        assert locks.holder(tmp_path / LOCK).pid == os.getpid()
        assert not (tmp_path / f"{files.UNFINISHED}x").exists()
        lock.check()
    assert (tmp_path / LOCK).read_text() == ""


def test_a_process_does_not_hold_a_folder_twice(tmp_path, disk):
    with held(tmp_path), pytest.raises(HeldError, match=f"process {os.getpid()} "):
        held(tmp_path).__enter__()
    with held(tmp_path):
        pass


def test_another_host_is_believed_while_it_gives_signs_of_life(tmp_path, disk):
    other = replace(Holder.this(), host="node01", pid=7)
    write(tmp_path, other, age_s=locks.STALE_S / 2)
    with pytest.raises(HeldError, match=r"\b7 on node01\b.*\b10 minutes"):
        held(tmp_path).__enter__()
    write(tmp_path, other, age_s=locks.STALE_S + 5)
    with held(tmp_path):
        assert locks.holder(tmp_path / LOCK).host != "node01"


def test_a_later_process_of_the_same_number_is_another_one(tmp_path, disk):
    if not Holder.this().started:
        pytest.skip("this system does not say when a process started")
    write(tmp_path, replace(Holder.this(), started="1"))
    with held(tmp_path):
        pass


def test_the_holder_gives_signs_of_life_and_notices_that_it_was_overtaken(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with held(tmp_path) as lock:
        os.utime(tmp_path / LOCK, (0, 0))
        until = time.monotonic() + 20
        while (tmp_path / LOCK).stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / LOCK).stat().st_mtime > 0
        lock.check()
        write(tmp_path, replace(Holder.this(), host="node01"))
        with pytest.raises(HeldError, match=r"\d+ on node01\b"):
            lock.check()
    assert locks.holder(tmp_path / LOCK).host == "node01"


def test_of_processes_that_come_at_the_same_time_one_goes_on(tmp_path, disk):
    together, done, entered, refused = threading.Barrier(4), threading.Barrier(4), [], []

    def attempt():
        together.wait()
        try:
            with held(tmp_path):
                entered.append(1)
                done.wait()
        except HeldError:
            refused.append(1)
            done.wait()

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (len(entered), len(refused)) == (1, 3)


def test_of_two_that_wrote_at_the_same_moment_the_last_one_counts(tmp_path):
    first, last = (replace(Holder.this(), pid=pid) for pid in (7, 8))
    (tmp_path / LOCK).write_text("".join(json.dumps(asdict(one)) + "\n" for one in (first, last)))
    assert locks.holder(tmp_path / LOCK) == last
    with held(tmp_path) as lock:
        assert locks.holder(tmp_path / LOCK) == lock.own
        assert len((tmp_path / LOCK).read_text().splitlines()) == 1


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"host": 1}', "process 7 on node01"])
def test_a_lock_that_cannot_be_read_is_nobodys(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with held(tmp_path):
        pass

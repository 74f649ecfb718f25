"""One process a folder: a lock that names its holder and is free again once the holder is gone, however it ended.

    lock    {"host": "node01", "pid": 1234, "started": "98765", "since": "2025-01-31T12:00:00+00:00", "key": "…"}

The operating system keeps a second process out and drops the lock when the first one ends (`flock`). Where the disk
has no such locks, or has them for each host alone, what is written in the file counts: on the same host whether that
process lives, on another one whether the file was touched lately, as the holder does twice a minute. An empty file is
a lock that nobody holds.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psutil

from maml_toolkit.system.files import locked, sweep

LOCK = "lock"
"""Name of the file."""
HEARTBEAT_S = 30.0
"""Between two touches of the file."""
STALE_S = 600.0
"""A file that was not touched for so long is nobody's: clocks of hosts differ, and network disks show times late."""
SETTLED_S = 1.0
"""How long a lock without flock waits before it looks whether another process wrote at the same time."""


class HeldError(RuntimeError):
    """Another process works in the folder."""


@dataclass(frozen=True)
class Holder:
    """A process that holds, or held, a lock.

    Attributes:
        host, pid: which process it is.
        started: when the operating system started it, in its own count; tells a process from a later one of its
            number; empty where that is not known.
        since: when it took the lock.
        key: of this one holding.
    """

    host: str
    pid: int
    started: str
    since: str
    key: str

    @classmethod
    def this(cls) -> Holder:
        """This process, now."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(platform.node(), os.getpid(), start_of(os.getpid()), since, uuid.uuid4().hex)

    def lives(self, seen: float) -> bool:
        """Whether it still works, as far as can be told.

        Args:
            seen: when it last touched the file, in seconds since 1970.
        """
        if self.host == platform.node():
            return psutil.pid_exists(self.pid) and start_of(self.pid) == self.started
        return time.time() - seen < STALE_S

    def __str__(self):
        return f"process {self.pid} on {self.host} since {self.since}"


class Lock:
    """A lock that this process holds."""

    def __init__(self, path: Path, own: Holder):
        self.path, self.own = path, own

    def check(self) -> None:
        """Nothing, while it is held.

        Raises:
            HeldError: another process took it over, as one on another host may do when this one was halted for long.
        """
        if (now := holder(self.path)) != self.own:
            raise HeldError(f"{self.path.parent} was taken over by {now or 'another process'} while this one was "
                            "halted; this one leaves it alone")


@contextmanager
def held(folder: Path) -> Iterator[Lock]:
    """Work in a folder, alone; what an earlier process that was killed left half written is removed.

    Args:
        folder: it exists and can be written.

    Raises:
        HeldError: another process holds it: which one, and since when.
    """
    lock = Lock(folder / LOCK, Holder.this())
    with lock.path.open("a+", encoding="utf-8") as file:
        _take(file, lock.path, lock.own)
        ended = threading.Event()
        heart = threading.Thread(target=_beat, args=(lock, ended), daemon=True)
        heart.start()
        try:
            sweep(folder)
            yield lock
        finally:
            ended.set()
            heart.join()
            if holder(lock.path) == lock.own:
                file.truncate(0)


def holder(path: Path) -> Holder | None:
    """Who wrote the lock last; None where it is free, or cannot be read."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8").splitlines()[-1]))
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _take(file: IO[str], path: Path, own: Holder) -> None:
    before, seen = holder(path), path.stat().st_mtime
    if (sure := locked(file)) is False:
        raise _refusal(path, holder(path))
    # flock tells for sure that no process of this host holds it
    if before and (not sure or before.host != own.host) and before.lives(seen):
        raise _refusal(path, before)
    file.truncate(0)
    file.write(json.dumps(asdict(own)) + "\n")       # a line: two that come at the same moment may both write
    file.flush()
    os.fsync(file.fileno())
    if not sure:
        time.sleep(SETTLED_S)
        if (last := holder(path)) != own:
            raise _refusal(path, last)


def _refusal(path: Path, by: Holder | None) -> HeldError:
    elsewhere = by is not None and by.host != platform.node()
    hint = f"; one that is gone without a word is forgotten after {STALE_S / 60:.0f} minutes" if elsewhere else ""
    return HeldError(f"{path.parent} is being written by {by or 'another process'}: wait for it, or end it{hint}")


def _beat(lock: Lock, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        if holder(lock.path) == lock.own:
            with suppress(OSError):      # a disk that is away comes back, or the next save says so
                os.utime(lock.path)


def start_of(pid: int) -> str:
    """When a process was started, as its system counts; empty for one that is gone."""
    if sys.platform == "linux":      # in clock ticks: no correction of the clock changes them
        with suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            return stat.rpartition(")")[2].split()[19]       # the name before it may hold spaces
        return ""
    with suppress(psutil.Error):
        return str(psutil.Process(pid).create_time())
    return ""

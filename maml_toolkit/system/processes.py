"""Other programs as processes that end with the one that started them, however that ends.

    python -m maml_toolkit.system.processes 1234 voila page.ipynb     runs the module voila while process 1234 lives

A stopped process ends its children by itself; one that is killed cannot, so on Linux the operating system is asked to.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 60
"""How long a process may take to end its own, which save first (torchrun kills its after 30 s)."""


@contextmanager
def child(module: str, words: Sequence[str], **settings: Any) -> Iterator[subprocess.Popen]:
    """A module of this Python as a process, which is ended with the block.

    It has a session of its own, so that Ctrl-C reaches it once, from here.

    Args:
        words: of its command line.
        settings: of subprocess.Popen.
    """
    command = [sys.executable, "-m", __name__, str(os.getpid()), module, *words]
    with subprocess.Popen(command, start_new_session=True, **settings) as started:
        try:
            yield started
        finally:
            end(started)


def end(started: subprocess.Popen) -> None:
    """Have a process that still runs end, and those that it started."""
    if started.poll() is None:
        started.terminate()
        try:
            started.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            started.kill()


def end_with(parent: int) -> None:
    """Have the operating system ask this process to end when its parent is gone (on Linux), or end now if it is."""
    if sys.platform == "linux":
        death_signal = 1
        ctypes.CDLL(None).prctl(death_signal, signal.SIGTERM)
    if os.name == "posix" and os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""How processes end: signals are noticed where that loses nothing, and a child ends with the one that started it.

    SIGINT   Ctrl-C, or the stop button of a notebook
    SIGTERM  a scheduler takes the machine away
    SIGHUP   the terminal was closed, or the connection to it lost (not on Windows)
    SIGUSR1  a scheduler will take it away soon (not on Windows)

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
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 75
"""Exit status of a process that was asked to end and can go on later; EX_TEMPFAIL of sysexits.h."""
NAMES = tuple(name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
PATIENCE_S = 60
"""How long a process may take to end its own, which save first (torchrun kills its after 30 s)."""


class Stopped(SystemExit):
    """The process was asked to end. Where nobody catches it, Python ends with the status `AGAIN`."""

    def __init__(self, message: str = ""):
        super().__init__(message)
        self.message, self.code = message, AGAIN

    def __str__(self):
        return self.message


class Notice:
    """Whether one of the signals came.

    Attributes:
        signal: its name; None while none came.
    """

    def __init__(self):
        self.signal: str | None = None
        self._at_once = False

    def check(self) -> None:
        """Nothing, until a signal came.

        Raises:
            Stopped: SIGTERM, SIGHUP or SIGUSR1 came.
            KeyboardInterrupt: SIGINT came.
        """
        if self.signal is not None:
            raise KeyboardInterrupt if self.signal == "SIGINT" else Stopped(self.signal)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A signal that came before or comes in this block raises there and then: nothing would be lost."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _came(self, number: int, _: FrameType | None) -> None:
        twice = self.signal == "SIGINT" and number == signal.SIGINT       # whoever asks twice will not wait
        self.signal = self.signal or signal.Signals(number).name
        if self._at_once or twice:
            self.check()


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None], unless_ignored: Iterable[str] = NAMES) -> Iterator[None]:
    """Have a function handle the signals in this block; the handlers of before are back afterwards.

    In a thread other than the main one Python can handle no signals, so nothing is handled there.

    Args:
        handler: is given the signal's number and the frame that it came in.
        unless_ignored: those that stay ignored where the process ignores them.
    """
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = getattr(signal, name)
                if name not in unless_ignored or signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


@contextmanager
def noticed() -> Iterator[Notice]:
    """Notice signals instead of ending by them, but for those that the process ignores."""
    notice = Notice()
    with handled(notice._came):
        yield notice


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

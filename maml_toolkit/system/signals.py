"""Signals that ask a process to end, noticed at a moment when that loses nothing.

    SIGINT   Ctrl-C, or the stop button of a notebook
    SIGTERM  a scheduler takes the machine away
    SIGHUP   the terminal was closed, or the connection to it lost (not on Windows)
    SIGUSR1  a scheduler will take it away soon (not on Windows)
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 75
"""Exit status of a process that was asked to end and can go on later; EX_TEMPFAIL of sysexits.h."""
NAMES = tuple(name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


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

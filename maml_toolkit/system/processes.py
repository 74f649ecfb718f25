"""What a process is told by its system: signals, which end it without a loss, memory, a home, installed packages.

    SIGINT   Ctrl-C, or the stop button of a notebook
    SIGTERM  a scheduler takes the machine away
    SIGHUP   the terminal was closed, or the connection to it lost (not on Windows)
    SIGUSR1  a scheduler will take it away soon (not on Windows)

    python -m maml_toolkit.system.processes 1234 voila page.ipynb     runs the module voila while process 1234 lives

A stopped process ends its children by itself; one that is killed cannot, so on Linux the operating system is asked to.
A container often runs as a number that has no name and no home, or with one that is only read; IPython, Jupyter and
matplotlib want both.
"""

import ctypes
import getpass
import importlib.metadata
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

AGAIN = 75
"""Exit status of a process that was asked to end and can go on later; EX_TEMPFAIL of sysexits.h."""
NAMES = tuple(name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
PATIENCE_S = 60
"""How long a process may take to end its own, which save first (torchrun kills its after 30 s)."""
FOLDERS = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
"""The variables that say where IPython, Jupyter and matplotlib write."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may have; a file that other systems lack."""
CGROUP_FILES = {"": ("memory.max", "memory.current", "inactive_file"),
                "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}
"""Folder -> files of the limit and of what is held, and what memory.stat calls the part of it that is given back when
needed: in the second and in the first version of Linux' control groups."""


class Stopped(SystemExit):
    """The process was asked to end. Where nobody catches it, Python ends with the status `AGAIN`."""

    def __init__(self, message: str = ""):
        super().__init__(message)
        self.code = AGAIN


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


@contextmanager
def at_home() -> Iterator[None]:
    """Work with an environment in which this process and those that it starts can keep such files; it is put back.

    What the environment names already is left as it is.

    Raises:
        PermissionError: no folder for temporary files can be written.
    """
    place, home = temporary_files(), home_folder()
    names = [] if is_writable(home) else [name for name in FOLDERS if not os.environ.get(name)]
    names += [] if home else ["HOME"]
    with tempfile.TemporaryDirectory(prefix="home-", dir=place, ignore_cleanup_errors=True) as own:
        missing = {name: str(Path(own, name.lower())) for name in names}
        for folder in missing.values():
            Path(folder).mkdir()
        missing |= {} if user_name() else {"USER": f"user{os.getuid() if hasattr(os, 'getuid') else ''}"}
        before = {name: os.environ.get(name) for name in missing}
        os.environ.update(missing)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def home_folder() -> Path | None:
    """The user's home, if there is such a folder."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_dir() else None


def is_writable(folder: Path | None) -> bool:
    """Whether there is such a folder in which this user may write."""
    return folder is not None and os.access(folder, os.W_OK | os.X_OK)


def user_name() -> str:
    """The user's name; nothing where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


def temporary_files() -> str:
    """The folder for temporary files.

    Raises:
        PermissionError: none can be written.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise PermissionError(f"found no folder for temporary files that can be written ({error.strerror}); set TMPDIR "
                              "to one") from error


def free_memory() -> tuple[int, int]:
    """The bytes that nobody uses now, and those that may be used at all, within every limit."""
    memory = psutil.virtual_memory()
    limits = [(memory.total, memory.total - memory.available), *memory_limits()]
    return max(0, min(limit - held for limit, held in limits)), min(limits)[0]


def memory_limits() -> Iterator[tuple[int, int]]:
    """The bytes that a container, or a scheduler on any level, allows, and those that are held of them."""
    for own in control_groups():
        for version, (limit, held, idle) in CGROUP_FILES.items():
            folder = CGROUP_LIMIT.parent / version / own
            with suppress(OSError, ValueError):         # no such file, or the word max
                stat = dict(line.split() for line in text_in(folder / "memory.stat").splitlines())
                yield int(text_in(folder / limit)), int(text_in(folder / held) or 0) - int(stat.get(idle, 0))


def control_groups() -> list[Path]:
    """The control groups of this process, from the root to its own, as relative paths."""
    lines = text_in(Path("/proc/self/cgroup")).splitlines()
    own = {line.split(":", 2)[2].strip("/") for line in lines if line.split(":", 2)[1] in ("", "memory")}
    return sorted({group for one in own for group in (Path(one), *Path(one).parents)} | {Path()})


def installed(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def text_in(path: Path) -> str:
    """What a file says; nothing where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

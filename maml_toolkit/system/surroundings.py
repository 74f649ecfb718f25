"""What the container, the scheduler or the system around a process lets it have: memory, and a home for its files.

A container often runs as a number that has no name and no home, or with one that is only read. IPython, Jupyter and
matplotlib want both.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

FOLDERS = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
"""The variables that say where IPython, Jupyter and matplotlib write."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may have; a file that other systems lack."""
CGROUP_FILES = {"": ("memory.max", "memory.current", "inactive_file"),
                "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}
"""Folder -> files of the limit and of what is held, and what memory.stat calls the part of it that is given back when
needed: in the second and in the first version of Linux' control groups."""


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


def text_in(path: Path) -> str:
    """What a file says; nothing where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""

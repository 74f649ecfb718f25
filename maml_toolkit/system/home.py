"""A place for what libraries keep about themselves, for a user without a home folder, or with one that is only read.

A container often runs as a number that has no name and no home. IPython, Jupyter and matplotlib want both.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDERS = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
"""The variables that say where IPython, Jupyter and matplotlib write."""


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

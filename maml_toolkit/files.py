"""Files and folders that are written whole or not at all: under a temporary name, to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".writing-"
"""How the name of a folder starts while it is being written, or removed."""
REPLACED = ".replaced-"
"""How the name of a folder starts while another one takes its place; 32 digits and its own name follow."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the operating system says where no more can be written."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file; whoever opens it, whenever, sees all of the old content or all of the new.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        # names in another encoding are escaped, in JSON so that they can be read back
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise no_room(path.parent, len(content), error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, at: Path | None = None) -> Iterator[Path]:
    """A folder to write files into; it gets its name, in place of an older one, when the block ends well.

    Args:
        path: its name in the end. An older folder of that name goes as a whole, never a file at a time.
        at: the folder, on the same disk, in which it lies until then; beside `path` when left out.
    """
    temporary, old = ((at or path.parent) / f"{UNFINISHED}{uuid.uuid4().hex}" for _ in range(2))
    if at is None and len(os.fsencode(path.name)) < 200:     # names end at 255
        old = path.with_name(f"{REPLACED}{uuid.uuid4().hex}-{path.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            flush(file)
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():      # the second renaming failed
            os.rename(old, path)
        shutil.rmtree(old, ignore_errors=True)


def writable(folder: Path) -> Path:
    """The folder, made if need be, into which a file could be written just now: said before any compute starts.

    Raises:
        PermissionError: it could not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"the folder {folder} cannot be written ({error.strerror}); choose another") from error
    return folder


def remove(folder: Path) -> None:
    """Remove a folder; a process that is killed meanwhile leaves nothing under its name."""
    going = folder.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    os.rename(folder, going)
    shutil.rmtree(going, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left unfinished in a folder that no other process writes to.

    A folder whose successor had not got its name yet gets it back.
    """
    for old in folder.glob(f"{REPLACED}*"):
        if not (name := old.with_name(old.name[len(REPLACED) + 33:])).exists():
            os.rename(old, name)
    for leftover in (*folder.glob(f"{UNFINISHED}*"), *folder.glob(f"{REPLACED}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob(".*.part"):
        if re.fullmatch(r"\.[0-9a-f]{32}\.part", leftover.name):
            leftover.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_room(path: Path, needed: int, error: Exception) -> OSError:
    """The error for something that could not be written: how much it needs, how much there is.

    Args:
        path: the folder that it was to lie in.
        needed: bytes.
        error: what went wrong.
    """
    free = shutil.disk_usage(path).free
    reason = f"{needed / 2**20:.1f} MiB are needed, {free / 2**20:.1f} MiB are free"
    remedy = "make room" if free < needed else "look at the quota, at the limit on the size of files and at the disk"
    return OSError(getattr(error, "errno", None) or errno.ENOSPC,
                   f"{path} could not be written to: {reason} ({error}); {remedy}, then run it again")


def flush(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk now."""
    if os.name == "nt" and path.is_dir():    # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

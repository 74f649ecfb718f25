"""Files and folders that are written whole or not at all, and JSON files that people write by hand.

What is written lies under a temporary name until it is on the disk, and is renamed then. What is wrong with a JSON file
is told by line and column.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from maml_toolkit.system.errors import DataError, unless

try:
    import fcntl
except ImportError:          # Windows has no such locks
    fcntl = None

UNFINISHED = ".writing-"
"""How the name of a folder starts while it is being written, or removed."""
REPLACED = ".replaced-"
"""How the name of a folder starts while another one takes its place; 32 digits and its own name follow."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the operating system says where no more can be written."""
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
"""What it says of a folder whose name another one has."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file; whoever opens it, whenever, sees all of the old content or all of the new.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    # names in another encoding are escaped, in JSON so that they can be read back
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno in FULL:
            raise no_room(path.parent, len(content), error) from error
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, with the ending of its name; it gets that, in place of an older one, when the block ends well.

    Of several who write one name at the same moment, the last one's stays.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    try:
        with _claimed(temporary, temporary.touch):
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, at: Path | None = None, *, first_stays: bool = False) -> Iterator[Path]:
    """A folder to write files into; it gets its name, in place of an older one, when the block ends well.

    Of several who write one name at the same moment, the last one's stays, whole.

    Args:
        path: its name in the end. An older folder of that name goes as a whole, never a file at a time.
        at: the folder, on the same disk, in which it lies until then; beside `path` when left out.
        first_stays: a folder that has the name by then, as of one who was faster, stays, and this one goes.
    """
    with unfinished_folder(at or path.parent) as temporary:
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            flush(file)
        if first_stays:
            _name_if_free(temporary, path)
        else:
            while not _named(temporary, path, at):
                pass
        flush(path.parent)


@contextmanager
def unfinished_folder(at: Path) -> Iterator[Path]:
    """A folder in another one to write files into; what is not moved out of it goes when the block ends."""
    temporary = at / f"{UNFINISHED}{uuid.uuid4().hex}"
    try:
        with _claimed(temporary, lambda: temporary.mkdir(parents=True)):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_if_free(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in TAKEN:
            raise


def _named(temporary: Path, path: Path, at: Path | None) -> bool:
    """Whether the folder got the name, whose older folder went; another one may have taken it in between."""
    old = (at or path.parent) / f"{UNFINISHED}{uuid.uuid4().hex}"
    if at is None and len(os.fsencode(path.name)) < 200:     # names end at 255
        old = path.with_name(f"{REPLACED}{uuid.uuid4().hex}-{path.name}")
    try:
        with suppress(FileNotFoundError):
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as error:
        if error.errno in TAKEN:                    # perhaps no longer, since a third one may have moved that away
            return False
        raise
    else:
        return True
    finally:
        if old.exists() and not path.exists():      # the second renaming failed
            with suppress(OSError):                 # another one was faster
                os.rename(old, path)
        shutil.rmtree(old, ignore_errors=True)


def locked(file: int | IO, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed; False where somebody else holds it, None without locks on system or disk.

    Args:
        file: the file, or its descriptor.
        shared: with others that share it, once it is free.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _claimed(path: Path, make: Callable[[], None]) -> Iterator[None]:
    """Make a file or folder that `sweep` takes for nobody's as soon as this block, or the process, has ended."""
    descriptor = None
    while descriptor is None:
        make()
        descriptor = os.open(path, os.O_RDONLY) if fcntl else -1
        if fcntl:
            locked(descriptor, shared=True)
        if not path.exists():                       # swept before it was locked
            os.close(descriptor)
            descriptor = None
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_claimed(path: Path, alone: bool) -> bool:
    """Whether somebody is writing it; on a disk without locks nobody is if this process is alone, and else anybody."""
    if fcntl is None:
        return not alone
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        free = locked(descriptor)
        return not (alone if free is None else free)
    finally:
        os.close(descriptor)


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


def writable_file(path: str | Path) -> Path:
    """The file, absolute, which could be written just now, in a folder that is made if need be.

    Raises:
        PermissionError: it could not.
        IsADirectoryError: it is a folder.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected the file to write; name one in it")
    return writable(path.parent) / path.name


def remove(folder: Path) -> None:
    """Remove a folder; a process that is killed meanwhile leaves nothing under its name."""
    going = folder.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    os.rename(folder, going)
    shutil.rmtree(going, ignore_errors=True)


def sweep(folder: Path, alone: bool = True) -> None:
    """Remove what processes that were killed left unfinished in a folder; what somebody is writing just now stays.

    A folder whose successor had not got its name yet gets it back.

    Args:
        alone: no other process writes to the folder; only then is anything removed on a disk without locks.
    """
    for old in folder.glob(f"{REPLACED}*"):
        if not (name := old.with_name(old.name[len(REPLACED) + 33:])).exists():
            with suppress(OSError):                 # its successor came just now
                os.rename(old, name)
    parts = (one for one in folder.glob(".*.part*") if re.fullmatch(r"\.[0-9a-f]{32}\.part(\.\w+)?", one.name))
    for leftover in (*folder.glob(f"{UNFINISHED}*"), *folder.glob(f"{REPLACED}*"), *parts):
        if _is_claimed(leftover, alone):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
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


def as_json(value: Any) -> Any:
    """The value as it comes back from JSON: tuples as lists, numbers and arrays of numpy and torch as Python's own.

    Raises:
        TypeError: there is something in it that JSON cannot say.
    """
    return json.loads(json.dumps(value, default=_of_array))


def _of_array(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"found a {type(value).__name__} among the settings, expected numbers, text, or lists of them")
    return value.tolist()


def same_json(one: Any, other: Any) -> bool:
    """Whether both are the same as JSON, the order of names too: by it a task's classes are numbered."""
    return json.dumps(one) == json.dumps(other)


def read_json(path: str | Path) -> dict[str, Any]:
    """The dictionary in a JSON file, with or without the byte order mark that some editors write.

    Raises:
        DataError: there is no such file, or it is none; where, and what was meant as far as that can be told.
    """
    path = Path(path)
    text = _text(path)
    try:
        found = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise DataError(f"the file is no JSON dictionary: line {error.lineno}, column {error.colno}: {error.msg}",
                        _meant(text, error.pos, error.msg), path=path) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"the file is no JSON dictionary that can be used: {error}", "Correct it.", path=path) from None
    if not isinstance(found, dict):
        raise DataError(f"found a {type(found).__name__} in the file, expected a JSON dictionary",
                        'Write {"name": value, …}.', path=path)
    return found


def _text(path: Path) -> str:
    with unless("the file cannot be read", "Correct the path, or put a JSON file there.", path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"the file is no JSON dictionary in UTF-8: line {line}: found the byte 0x"
                        f"{content[error.start]:02x}", "Save it as UTF-8.", path=path) from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"found the key {twice[0]!r} twice")
    return dict(pairs)


def _no_number(word: str) -> None:
    raise ValueError(f"found {word}, expected a number")


def _meant(text: str, at: int, problem: str) -> str:
    """What to do about the first thing in the text that is not JSON."""
    rest = text[at:].lstrip()
    if re.match(r",?\s*[}\]]", rest) and (rest.startswith(",") or text[:at].rstrip().endswith(",")):
        return "Remove the comma before the closing bracket."
    if rest.startswith(("//", "/*", "#")):
        return "Remove the comment: JSON has none."
    if re.match(r"(True|False|None)\b", rest):
        return "Write true, false and null."
    if re.match(r"['‘’“”„`]|[A-Za-z_]", rest):
        return 'Put names and text in straight double quotes: "name".'
    if "delimiter" in problem:
        return "Write what is missing there: a comma between entries, a colon after a name, or a bracket at the end."
    return "Correct it there." if text.strip() else 'The file is empty; write {"name": value, …}.'

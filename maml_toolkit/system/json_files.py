"""JSON files that people write by hand: what is wrong with one is told by line and column."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from maml_toolkit.system.errors import DataError


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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", "Correct the path, or put a JSON file there.",
                        path=path) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"the file is no JSON dictionary in UTF-8: line {line}: found the byte 0x"
                        f"{content[error.start]:02x}", "Save it as UTF-8: an editor offers it beside the name.",
                        path=path) from None


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

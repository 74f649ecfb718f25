"""What a notebook says its parameters are, and how a given value, or what was typed on a command line, becomes that.

    cases: list[str] = None      # the annotation beside the default

Ids and paths are text: 001 stays 001, and so do 1e5, no and null. Where a list is expected one value is a list of it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

TOKEN = re.compile(r"""\s*([][,]|"(?:[^"\\]|\\.)*"(?=\s*[],])|'(?:[^']|'')*'(?=\s*[],])|[^][,]+)""")
"""Of a list as it is typed: a bracket, a comma, a text in quotes or one without."""

TYPED = {"true": True, "false": False, "null": None, "none": None, "~": None, "": None}
"""What a word stands for where no text is expected."""

WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "None": "nothing",
         "dict": "names with values, such as {name: value}", "list[str]": "a list of texts, such as [a, b]",
         "list[int]": "a list of whole numbers, such as [1, 2]", "list[float]": "a list of numbers, such as [1, 2.5]",
         "list[list[str]]": "a list of lists, such as [[a], [a, b]]"}
"""The kinds of values in words."""


def kind_of(annotation: ast.expr | None) -> str:
    """The annotation as text; nothing where there is none, or one of something else than is known here."""
    return ast.unparse(annotation) if annotation is not None and _is_kind(annotation) else ""


def _is_kind(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_kind(node.left) and _is_kind(node.right)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return ast.unparse(node.value) == {1: "list", 2: "dict"}.get(len(inner)) and all(map(_is_kind, inner))
    return ast.unparse(node) in ("str", "int", "float", "bool", "None", "dict")


def fitted(value: Any, kind: str) -> Any:
    """The value as a parameter of this kind wants it.

    Args:
        value: given in Python.
        kind: its annotation, of str, int, float, bool, None, dict, list[…] and |.

    Raises:
        ValueError: it cannot be one; with what was expected.
    """
    return _fitted(value, ast.parse(kind, mode="eval").body, typed=False)


def from_text(text: str, kind: str, values: Any) -> Any:
    """What was typed on a command line as a parameter of this kind wants it.

    Args:
        text: as it was typed.
        kind: as for `fitted`.
        values: reads names with values.

    Raises:
        ValueError: it cannot be one; with what was expected.
    """
    node = ast.parse(kind, mode="eval").body
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    if "dict" in names and text.lstrip().startswith("{"):
        return _fitted(values(text), node, typed=False)
    bracketed = "list" in names and text.lstrip().startswith("[")
    return _fitted(_listed(text) if bracketed else text, node, typed=True)


def is_text(kind: str) -> bool:
    """Whether such a parameter takes what is typed as it is."""
    return "str" in kind and "[" not in kind


def _fitted(value: Any, kind: ast.expr, typed: bool, alone: bool = True) -> Any:
    """The value as one of this kind.

    Args:
        typed: whether text may stand for something else.
        alone: whether one value may stand for a list of it; not within a list, where it would be another list.
    """
    if isinstance(kind, ast.BinOp):
        for one in (kind.left, kind.right):
            try:
                return _fitted(value, one, typed, alone)
            except ValueError:
                continue
    elif isinstance(kind, ast.Subscript):
        if alone and isinstance(value, str | int | float | PathLike) and not isinstance(value, bool):
            value = _words(value) if typed and isinstance(value, str) else [value]
        if isinstance(value, list | tuple | set | frozenset) and kind.value.id == "list":
            return [_fitted(one, kind.slice, typed, alone=False) for one in value]
        if isinstance(value, Mapping) and kind.value.id == "dict":
            names, values = kind.slice.elts
            return {_fitted(name, names, typed): _fitted(one, values, typed) for name, one in value.items()}
    elif (found := _plain(value, ast.unparse(kind), typed)) is not ...:
        return found
    raise ValueError(f"found {value!r}, expected {_in_words(kind)}")


def _plain(value: Any, kind: str, typed: bool) -> Any:
    """The value as one of a plain kind; ... where it is none."""
    if typed and isinstance(value, str) and kind != "str":
        value = TYPED[value.lower()] if value.lower() in TYPED else _number(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and float(value).is_integer()
    fits = {"str": isinstance(value, str | PathLike) or (whole and isinstance(value, int)), "int": whole,
            "float": number, "bool": isinstance(value, bool), "None": value is None, "dict": isinstance(value, Mapping)}
    if not fits[kind]:
        return ...
    return {"str": str, "int": int}.get(kind, lambda one: one)(value)


def _number(text: str) -> float | str:
    try:
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    except ValueError:
        return text


def _words(text: str) -> list[str]:
    """a b,c as words; a text in quotes is one."""
    quoted = text.strip()[:1] in ("'", '"')
    return [_unquoted(text.strip())] if quoted else re.findall(r"[^,\s]+", text)


def _listed(text: str) -> list:
    """[a, [b, "c, d"]] as a list of text.

    Raises:
        ValueError: a bracket is missing.
    """
    open_lists: list[list] = [[]]
    for token in TOKEN.findall(text.rstrip()):
        if token == "[":
            open_lists.append([])
        elif token == "]" and len(open_lists) > 1:
            done = open_lists.pop()
            open_lists[-1].append(done)
        elif token != "," and token.strip():
            open_lists[-1].append(_unquoted(token.strip()))
    if len(open_lists) != 1 or len(open_lists[0]) != 1:
        raise ValueError(f"found {text!r}, expected one list, such as [a, b], with every bracket closed")
    return open_lists[0][0]


def _unquoted(word: str) -> str:
    if len(word) > 1 and word[0] == word[-1] == "'":
        return word[1:-1].replace("''", "'")
    if len(word) > 1 and word[0] == word[-1] == '"':
        try:
            return json.loads(word)
        except ValueError:
            return word[1:-1]
    return word


def _in_words(kind: ast.expr) -> str:
    if isinstance(kind, ast.BinOp):
        return f"{_in_words(kind.left)}, or {_in_words(kind.right)}"
    name = "dict" if ast.unparse(kind).startswith("dict") else ast.unparse(kind)
    return WORDS.get(name, name)

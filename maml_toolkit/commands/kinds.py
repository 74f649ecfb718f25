"""The kinds of values that a notebook's parameters have, and how what is given or typed becomes one of them.

A kind is an annotation of str, int, float, bool, None, dict, list[…] and |, as text, or the words to choose from, such
as "best | newest". Ids and paths are text: 001 stays 001, and so do 1e5, no and null. Where a list is expected one
value is a list of it.
"""

import ast
import json
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from maml_toolkit.system.errors import nearest

TOKEN = re.compile(r"""\s*([][,]|"(?:[^"\\]|\\.)*"(?=\s*[],])|'(?:[^']|'')*'(?=\s*[],])|[^][,]+)""")
"""Of a list as it is typed: a bracket, a comma, a text in quotes or one without."""
TYPED = {"true": True, "false": False, "null": None, "none": None, "~": None, "": None}
"""What a word stands for where no text is expected."""
WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "None": "nothing",
         "dict": "names with values, such as {name: value}", "list[str]": "a list of texts, such as [a, b]",
         "list[int]": "a list of whole numbers, such as [1, 2]", "list[float]": "a list of numbers, such as [1, 2.5]",
         "list[list[str]]": "a list of lists, such as [[a], [a, b]]"}
"""The kinds of values in words."""


def is_kind(node: ast.expr) -> bool:
    """Whether an annotation is one of those that are known here."""
    if _is_choice(node):
        return re.fullmatch(r"[\w-]+( \| [\w-]+)+", node.value) is not None
    if isinstance(node, ast.BinOp):
        return is_kind(node.left) and is_kind(node.right)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return ast.unparse(node.value) == {1: "list", 2: "dict"}.get(len(inner)) and all(map(is_kind, inner))
    return ast.unparse(node) in ("str", "int", "float", "bool", "None", "dict")


def _is_choice(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def by_its_looks(text: str) -> Any:
    """YAML 1.2's idea of a value; 1.1 takes 00006 for a six, 1e-4 for text and `no` for false."""
    import yaml

    class Values(yaml.SafeLoader):
        yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - the loader's own way

    patterns = {"null": r"null|None|~|", "bool": r"true|True|false|False", "int": r"[-+]?(0|[1-9]\d*)",
                "float": r"[-+]?(\.\d+|(0|[1-9]\d*)(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.inf|\.nan"}
    for tag, pattern in patterns.items():
        Values.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)
    return yaml.load(text, Values)


def from_text(text: str, kind: str) -> Any:
    """What was typed on a command line as a parameter of this kind wants it.

    Raises:
        ValueError: it cannot be one; with what was expected.
    """
    names = set(re.findall(r"\w+", kind))
    if "dict" in names and text.lstrip().startswith("{"):
        return fitted(by_its_looks(text), kind)
    bracketed = "list" in names and text.lstrip().startswith("[")
    return _fitted(_listed(text) if bracketed else text, _parsed(kind), typed=True)


def fitted(value: Any, kind: str) -> Any:
    """A value given in Python as a parameter of this kind wants it.

    Raises:
        ValueError: it cannot be one; with what was expected.
    """
    return _fitted(value, _parsed(kind), typed=False)


def _parsed(kind: str) -> ast.expr:
    return ast.parse(kind, mode="eval").body


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
    elif _is_choice(kind):
        words = kind.value.split(" | ")
        if value in words or (value is None and "None" in words):
            return value
        if typed and TYPED.get(value.lower(), value) is None and "None" in words:
            return None
        words = [one for one in words if one != "None"]
        raise ValueError(f"found {value!r}{nearest(str(value), words)}, expected one of {', '.join(words)}")
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
    tokens = filter(None, map(str.strip, TOKEN.findall(text)))
    try:
        found = ast.literal_eval("".join(one if one in "[]," else repr(_unquoted(one)) for one in tokens))
    except (SyntaxError, ValueError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"found {text!r}, expected one list, such as [a, b], with every bracket closed")
    return found


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

"""Notebooks with parameters: found, read, and given other values, in Python or on a command line.

    cases: list[str] = None      # ids; None: all         the annotation is the kind (kinds.py), the comment the help

Papermill's own `inspect_notebook` does not do: it passes over annotations with |, of which these notebooks have many.
"""

import ast
import json
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from maml_toolkit.commands.kinds import by_its_looks, fitted, from_text, is_kind
from maml_toolkit.system.errors import near_to, nearest, shown

FOLDERS = ("notebooks", "tutorials")
KIND_OF = {bool: "bool", int: "int", float: "float"}
"""The kinds of parameters whose default says enough."""


@dataclass(frozen=True)
class Parameter:
    """What a notebook says about one of its parameters.

    Attributes:
        default: as it is written in the notebook.
        help: the comment beside it.
        kind: its annotation (kinds.py), or what its default is where that is a number or true or false; empty where
            it has none, or another one: it takes whatever it is given.
    """

    name: str
    default: str
    help: str
    kind: str = ""

    @property
    def value(self) -> Any:
        """The default as a value; None where it is computed."""
        try:
            return ast.literal_eval(self.default)
        except ValueError:
            return None


def find(notebook: str | Path) -> Path:
    """The notebook with this path or name, its number left out or not: "train" finds notebooks/2-train.ipynb.

    Names are looked up in the package, then beside it (a checkout), then in the current folder.

    Raises:
        ValueError: there is no such notebook; the nearest name is suggested.
    """
    if Path(notebook).suffix == ".ipynb" and Path(notebook).is_file():
        return Path(notebook).resolve()
    package, known = Path(__file__).parents[1], {}
    for folder in (package, package.parent, Path.cwd()):
        for path in (path for name in FOLDERS for path in sorted((folder / name).glob("*.ipynb"))):
            known.setdefault(path.stem, path)
            known.setdefault(re.sub(r"^\d+-", "", path.stem), path)
    name = Path(notebook).name.removesuffix(".ipynb")
    if name in known and Path(notebook).parent == Path():
        return known[name]
    names = ", ".join(sorted({path.stem for path in known.values()})) or "none, there are none here"
    raise ValueError(f"found no notebook {str(notebook)!r}{nearest(name, known)}, expected a path or one of: {names}")


def parameters_of(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares in its cell tagged `parameters`, in their order."""
    import nbformat

    cells = nbformat.read(find(notebook), as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    comments = {token.start[0]: token.string.lstrip("# ") for token in
                tokenize.generate_tokens(StringIO(source).readline) if token.type == tokenize.COMMENT}
    found = {}
    for line in ast.parse(source).body:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name) and line.value is not None:
            default = ast.get_source_segment(source, line.value) or ""
            kind = getattr(line, "annotation", None)
            said = ast.unparse(kind) if kind is not None and is_kind(kind) else ""
            plain = kind is None and isinstance(line.value, ast.Constant) and KIND_OF.get(type(line.value.value))
            found[target.id] = Parameter(target.id, default, comments.get(line.end_lineno, ""), said or plain or "")
    return found


def check(notebook: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as the notebook wants them: ids and paths as text, one value for a list as a list of it.

    Raises:
        ValueError: it does not declare some of them, which are named with those that are near, their defaults and
            help; or one is of another kind, or not UTF-8.
    """
    expect_utf8(parameters)
    known = parameters_of(notebook)
    if unknown := [name for name in parameters if name not in known]:
        named = ", ".join(f"{name!r}{nearest(name, known)}" for name in unknown)
        near = dict.fromkeys(one for name in unknown if (one := near_to(name, known)))
        listed = "".join(f"\n  {known[one].name} = {known[one].default}  {known[one].help}".rstrip() for one in near)
        raise ValueError(f"{find(notebook).name} has no parameter {named}; its first cell and --help list all "
                         f"{len(known)}" + (f". Near to it:{listed}" if near else f": {', '.join(known) or 'none'}"))
    values = dict(parameters)
    for name, value in parameters.items():
        if known[name].kind and not (value is None and known[name].value is None):
            with _named(name):
                values[name] = fitted(value, known[name].kind)
    return values


@contextmanager
def _named(parameter: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"--{parameter}: {error}") from None


def expect_utf8(values: Mapping[str, Any]) -> None:
    """Nothing, if a notebook, which is JSON, can hold these values.

    Raises:
        ValueError: it cannot; which of them.
    """
    if unsaid := [f"{name} {shown(value)}" for name, value in values.items() if shown(value) != str(value)]:
        raise ValueError(f"found the {', '.join(unsaid)}, which is not UTF-8 and cannot stand in a notebook; rename "
                         "the folder or file, or make a link to it with another name")


def plain(value: Any) -> Any:
    """The value as papermill can write it into a cell."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def options(words: Iterable[str], known: Mapping[str, Parameter], places: Sequence[str] = ()) -> dict[str, Any]:
    """A command line as parameters: `--name value` or `--name=value`; `--name` alone means true.

    Args:
        words: of the command line; - and _ in a name are alike.
        known: the parameters by name.
        places: those that the first words may give, in this order and without their names.

    Raises:
        ValueError: a word that belongs to no option, an option named twice, or a value of another kind.
    """
    found: dict[str, Any] = {}
    words, option = list(words), ""
    for place in places:
        if words and not words[0].startswith("--"):
            found[place] = typed(words.pop(0), known.get(place))
    while words:
        name, equals, text = words.pop(0).partition("=")
        if not name.startswith("--"):
            several = f"; write several values as one list: --{option} '[a, b]'" if option else ""
            first = f"; only {' '.join(map(str.upper, places))} may stand alone, before the options" if places else ""
            raise ValueError(f"found {name!r}, expected --name value{several}{first}")
        name = name.removeprefix("--").replace("-", "_")
        if name in found:
            raise ValueError(f"--{name} was given twice; write several values as one list: --{name} '[a, b]'")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        found[name], option = typed(text, known.get(name)), name
    return found


def as_words(parameters: Mapping[str, Any], known: Mapping[str, Parameter]) -> list[str]:
    """Parameters as a command line that `options` reads back."""
    def is_text(one: Parameter) -> bool:
        in_words = ("str" in one.kind and "[" not in one.kind) or one.kind.startswith("'")
        return in_words if one.kind else isinstance(one.value, str)

    return [f"--{name}={value if isinstance(value, str) and is_text(known[name]) else json.dumps(value)}"
            for name, value in plain(parameters).items() if value is not None or known[name].value is not None]


def typed(text: str, parameter: Parameter | None = None) -> Any:
    """A value written on a command line, of the kind that the parameter is said to be.

    Where nothing is said it is what it looks like: `3`, `0.5`, `1e-4`, `true`, `null`, `[a, b]`; anything else is text.
    A case is often called 00006: numbers with leading zeros stay text, and so does every number where the
    parameter's default is text.

    Raises:
        ValueError: it is of another kind.
    """
    if shown(text) != text:                             # not UTF-8: `check` says so
        return text
    if parameter is not None and parameter.kind:
        with _named(parameter.name):
            return from_text(text, parameter.kind)
    value = by_its_looks(text)
    if parameter is not None and isinstance(parameter.value, str) and not isinstance(value, list | dict):
        return text
    return value

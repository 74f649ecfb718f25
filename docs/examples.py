"""What the notebooks use and show: "used in" of the reference, and the gallery of the pictures in the tutorials.

Both are read from the committed notebooks, so neither is written by hand nor kept twice.
"""

import ast
import base64
import inspect
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import nbformat
from myst_parser.mdit_to_docutils.base import default_slugify
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "maml_toolkit"
WIDTH = 560
"""Pixels of a thumbnail: twice what a page shows, for fine screens."""


@dataclass(frozen=True)
class Cell:
    """A cell of code: the page and the heading it stands under, the names of the package it uses, its pictures."""

    page: str
    title: str
    heading: str
    uses: frozenset[str]
    pictures: tuple[bytes, ...]


@cache
def cells(folder: str) -> tuple[Cell, ...]:
    """All cells of code of the notebooks in a folder of the repository, in the order of reading."""
    return tuple(cell for path in sorted((ROOT / folder).glob("*.ipynb")) for cell in _cells(path))


def _cells(path: Path) -> Iterator[Cell]:
    title, heading, known = "", "", {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for marks, text in re.findall(r"^(#+) (.+)$", cell.source, re.MULTILINE):
                title, heading = (text, text) if marks == "#" else (title, text)
        elif cell.cell_type == "code":
            tree = ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE))
            found = frozenset(_uses(tree, known))
            shown = [output.get("data", {}).get("image/png") for output in cell.outputs]
            yield Cell(f"{path.parent.name}/{path.stem}", title, heading, found,
                       tuple(base64.b64decode(one) for one in shown if one))


def _uses(tree: ast.AST, known: dict[str, object]) -> Iterator[str]:
    """The full names of what of the package is named in code, as the reference has them.

    Args:
        known: what the names stand for that earlier cells imported; those of this one are added.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == PACKAGE:
            known |= {one.asname or one.name: _member(import_module(node.module), one.name) for one in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in known:
            yield from _names(known[node.id])
        elif (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
              and not isinstance(known.get(node.value.id, ""), str)):
            yield from _names(_member(known[node.value.id], node.attr))


def _member(owner: object, name: str) -> object:
    """What an owner calls by a name; of a constant, which does not know its own, the name in full."""
    if inspect.ismodule(owner) and not hasattr(owner, name):
        return import_module(f"{owner.__name__}.{name}")
    found = getattr(owner, name, None)
    if isinstance(found, ModuleType) or hasattr(found, "__qualname__"):
        return found
    home = getattr(owner, "_HOME", {}).get(name)
    return f"{PACKAGE}.{home}.{name}" if home else f"{getattr(owner, '__name__', '')}.{name}"


def _names(found: object) -> Iterator[str]:
    """The name that the reference has for an object: where it is defined."""
    if isinstance(found, str):
        yield found
    elif isinstance(found, ModuleType):
        yield found.__name__
    elif (getattr(found, "__module__", None) or "").startswith(PACKAGE):
        yield f"{found.__module__}.{found.__qualname__}"


@cache
def used_in() -> dict[str, dict[str, str]]:
    """By the full name of what the package offers the pages of the notebooks that use it, and their titles."""
    found: dict[str, dict[str, str]] = {}
    for cell in (*cells("tutorials"), *cells("notebooks")):
        for name in sorted(cell.uses):
            found.setdefault(name, {})[cell.page] = cell.title
    return found


def write_gallery(pages: Path) -> None:
    """Writes the page gallery.md and its thumbnails, each with a link to the section of the tutorial that makes it."""
    (pages / "thumbnails").mkdir()
    shown = [(cell, picture) for cell in cells("tutorials") for picture in cell.pictures]
    lines = ["# Gallery", "", "What the tutorials draw. A picture leads to the section that makes it, a name to its "
             "reference.", "", "````{container} gallery"]
    for number, (cell, picture) in enumerate(shown, 1):
        name = f"thumbnails/{number:02d}.png"
        with Image.open(io.BytesIO(picture)) as whole:
            small = whole.convert("RGB")
            small.thumbnail((WIDTH, WIDTH))
            small.save(pages / name, optimize=True)
        place = f"{cell.page}.ipynb#{default_slugify(cell.heading)}"
        drawn = [f"{{py:obj}}`{one.rpartition('.')[2]} <{one}>`" for one in sorted(cell.uses)
                 if one.startswith(f"{PACKAGE}.pictures.") and one not in sys.modules]
        lines += [f"- [![{cell.heading}]({name})]({place})", "",
                  f"  **{cell.heading}**: {', '.join([f'tutorial {cell.title}', *drawn])}"]
    (pages / "gallery.md").write_text("\n".join([*lines, "````", ""]), encoding="utf-8")

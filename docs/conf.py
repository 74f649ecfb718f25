"""One site that needs no network: the tutorials as they were run, and every module of the package (`make docs`)."""

import inspect
import re
from importlib import import_module

import maml_toolkit

project = "maml_toolkit"
author = "The maml_toolkit authors"
copyright = author
version = release = maml_toolkit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
highlight_language = "none"      # formulas; code says what it is
html_theme = "furo"
html_title = f"maml_toolkit {version}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

nb_execution_mode = "off"        # they are committed with their outputs
nb_mime_priority_overrides = [("html", "image/png", 5)]     # before a widget, which has no kernel here
suppress_warnings = ["ref.python"]    # several classes have an attribute of one name, such as shape

autodoc_default_options = {"members": True, "member-order": "bysource", "no-value": True,
                           "ignore-module-all": True}
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Image", "Features", "Logits", "Labels", "Scalar")}
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Attributes", "params_style")]    # a list: autodoc has the fields of dataclasses already
default_role = "code"


def public_names() -> str:
    """A list of what the package offers at its top, each with its first line and a link to the rest."""
    lines = []
    for name in maml_toolkit.__all__:
        home = import_module(f"maml_toolkit.{maml_toolkit._HOME[name]}")
        found = getattr(maml_toolkit, name)
        if inspect.ismodule(found):
            lines.append(f"- {{py:obj}}`{name} <{found.__name__}>`: {inspect.getdoc(found).splitlines()[0]}")
        elif inspect.isclass(found) or inspect.isfunction(found):
            said = inspect.getdoc(found).splitlines()[0]
            lines.append(f"- {{py:obj}}`{name} <{found.__module__}.{name}>`: {said}")
        else:
            lines.append(f"- {{py:obj}}`{name} <{home.__name__}.{name}>`: {', '.join(f'`{key}`' for key in found)}")
    return "\n".join(lines)


myst_enable_extensions = ["substitution"]
myst_substitutions = {"public_names": public_names()}


def plain_text(app, what, name, docstring, options, lines) -> None:
    """Has a docstring read as it is written.

    An indented paragraph is a formula or a listing, references keep their lines, `*` and `|` are signs.
    """
    found, section, formula = [], "", False
    for before, line in zip(["", *lines], lines, strict=False):
        if line and not line.startswith(" "):
            section, formula = line if re.fullmatch(r"[A-Z][a-z]+:", line) else "", False
        if line.startswith("    ") and not section and not formula and not before.strip():
            formula = True
            found += ["::", ""]
        verbatim = formula or line.lstrip().startswith((">>>", "..."))
        shown = line if verbatim else escaped(line)
        found.append(f"    | {shown[4:]}" if section == "References:" and line.startswith(" ") else shown)
    lines[:] = found


def escaped(line: str) -> str:
    """The line, what would be markup outside backticks made plain."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part)
                   for part in parts)


def setup(app) -> None:
    """Before napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", plain_text, priority=400)

"""One site that needs no network: the tutorials as they were run, and every module of the package (`make docs`)."""

import inspect
import re
from importlib import import_module
from itertools import takewhile

import examples
import formulas
import typer
from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util import logging

import maml_toolkit
from maml_toolkit.__main__ import app as application
from maml_toolkit.commands.notebooks import JOBS
from maml_toolkit.commands.parameters import parameters_of

project = "maml_toolkit"
author = "The maml_toolkit authors"
copyright = author
version = release = maml_toolkit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
highlight_language = "none"      # listings; code says what it is
smartquotes = False              # they make -- of options one dash
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_math_renderer = "mathml"    # drawn by the browser, without a script
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
            full, said = found.__name__, inspect.getdoc(found).splitlines()[0]
        elif inspect.isclass(found) or inspect.isfunction(found):
            full, said = f"{found.__module__}.{name}", inspect.getdoc(found).splitlines()[0]
        else:
            full, said = f"{home.__name__}.{name}", ", ".join(f"`{key}`" for key in found) + "."
        users = [f"[{page.split('/')[1][0]}]({page}.ipynb)" for page in tutorials_with(full)]
        used = f" Used in tutorial{'s' * (len(users) > 1)} {', '.join(users)}." if users else ""
        lines.append(f"- {{py:obj}}`{name} <{full}>`: {said}{used}")
    return "\n".join(lines)


def tutorials_with(name: str) -> dict[str, str]:
    """The tutorials that use something of the package, by its full name: pages and titles."""
    return {page: title for page, title in examples.used_in().get(name, {}).items() if page.startswith("tutorials/")}


def commands() -> str:
    """A section for each command: what it is for, and a table of what may be given to it."""
    sections = []
    for name, one in typer.main.get_command(application).commands.items():
        rows = [(f"`{found.name.upper()}`" if found.param_type_name == "argument"
                 else ", ".join(f"`{option}`" for option in found.opts), found.help or "", found.default)
                for found in one.params if found.name not in ("debug", "version", "help", "show_help", "words")]
        if job := JOBS.get("train" if name == "plan" else name):
            known = parameters_of(job.notebook).values()
            rows[:0] = [(" or ".join([f"`{found.name.upper()}`"] * (found.name in job.places) + [f"`--{found.name}`"]),
                         found.help, found.value) for found in known]
        lines = [f"| {what} | {said.replace('|', '&#124;')} | {'' if default in (None, '') else f'`{default}`'} |"
                 for what, said, default in rows]
        sections.append("\n".join([f"## {name}", "", inspect.cleandoc(one.help or ""), "",
                                   *(["| | | default |", "| --- | --- | --- |", *lines] if lines else [])]))
    return "\n\n".join(sections)


myst_enable_extensions = ["substitution", "dollarmath"]
myst_heading_anchors = 3
myst_substitutions = {"public_names": public_names()}


def plain_text(app, what, name, docstring, options, lines) -> None:
    """Has a docstring read as it is written.

    An indented paragraph is a formula (formulas.py) or a listing, references keep their lines, `*` and `|` are signs.
    """
    found, section, apart = [], "", ""
    for number, line in enumerate(lines):
        if line and not line.startswith(" "):
            section, apart = line if re.fullmatch(r"[A-Z][a-z]+:", line) else "", ""
        if line.startswith("    ") and not section and not apart and not "".join(lines[number - 1:number]).strip():
            made = formulas.latex([*takewhile(lambda one: not one or one.startswith(" "), lines[number:])])
            apart = "formula" if made else "listing"
            found += [".. math::", "", *(f"    {row}" for row in made.splitlines()), ""] if made else ["::", ""]
        if apart == "formula":
            continue
        verbatim = apart or line.lstrip().startswith((">>>", "..."))
        shown = line if verbatim else escaped(line)
        found.append(f"    | {shown[4:]}" if section == "References:" and line.startswith(" ") else shown)
    lines[:] = found


def used_in(app, what, name, found, options, lines) -> None:
    """Says below a docstring which tutorials and jobs use what it describes."""
    users = [f":doc:`{title} </{page}>`" if page.startswith("tutorials/") else f"``{page}.ipynb``"
             for page, title in examples.used_in().get(name, {}).items()]
    lines += ["", f"*Used in* {', '.join(users)}.", ""] if users else []


def escaped(line: str) -> str:
    """The line, what would be markup outside backticks made plain."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part)
                   for part in parts)


def with_commands(app, name, source) -> None:
    """Puts `commands` in their place; a substitution of MyST could hold no headings."""
    source[0] = source[0].replace("{{ commands }}", commands()) if name == "commands" else source[0]


def formula(display: str):
    """A visitor that writes formulas, "inline" or "block", as MathML."""
    def visit(translator, node) -> None:
        made = convert(node.astext(), display=display)
        if "\\" in made or "<mi>&</mi>" in made:
            logging.getLogger(__name__).warning("latex2mathml cannot write %s", node.astext(), location=node)
        translator.body.append(made if display == "inline" else f'<div class="math">{made}</div>\n')
        raise SkipNode
    return visit


def setup(app) -> None:
    """Docstrings are made plain before napoleon reads them, and have their users named after it."""
    app.add_html_math_renderer("mathml", (formula("inline"), None), (formula("block"), None))
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("autodoc-process-docstring", used_in, priority=900)
    app.connect("source-read", with_commands)

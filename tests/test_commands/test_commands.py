"""Every command line that the project prints, in texts, tutorials, recipes and errors, is one that its shell reads."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest
import typer
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.commands import jobs, studies
from maml_toolkit.commands.notebooks import JOBS
from maml_toolkit.commands.parameters import options
from maml_toolkit.data.tasks import TASKS

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(app).commands
START = r"-m (?:-- )?maml_toolkit "
PLACEHOLDER = re.compile(r"\$\(\(.*?\)\)|\$\{?\w+(?:[:}][^\"\s]*)?|\$\d|\{[\w.:]+\}")


def texts():
    """What a reader sees, by name of the file."""
    for pattern in ("*.md", "docs/*.md", "recipes/*", "Makefile", "maml_toolkit/**/*.py"):
        for path in ROOT.glob(pattern):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for folder in ("tutorials", "notebooks"):
        for path in (ROOT / folder).glob("*.ipynb"):
            cells = nbformat.read(path, 4).cells
            yield str(path.relative_to(ROOT)), "\n\n".join(cell.source for cell in cells)


def printed():
    """(file, words) of every command line; one that goes on in three dots is its beginning."""
    for name, text in texts():
        joined = re.sub(r"\\\n\s*|(?<=\")\n\s+(?=--)", " ", re.sub(r'"\n\s+f?"|"\$\{?\w*\[?@.*?"', "", text))
        for found in re.finditer(START + r"([^`\n<|]*)", joined):
            line = re.split(r"\s#|…|\"\"\"|\s*\|\|?\s", PLACEHOLDER.sub("1", found[1]))[0]
            line = line.rstrip(").").strip() if line.count('"') % 2 == 0 else line.replace('"', "").strip()
            if line and (words := shlex.split(line))[0] in COMMANDS:
                yield pytest.param(words, "…" in found[1], id=f"{name}: {' '.join(words)}")
            elif line and not line.startswith("1 "):
                yield pytest.param(shlex.split(line), False, id=f"{name}: {line}")


LINES = [*printed()]


def test_the_lines_are_found():
    """Those of the README, many in the pages, and some of each other kind of place."""
    ids = [one.id for one in LINES]
    assert len([one for one in ids if one.startswith("README.md")]) >= 5
    assert len([one for one in ids if one.startswith("docs/")]) >= 20
    for place in ("recipes/predict.sbatch", "recipes/Snakefile", "recipes/predict-k8s.yaml", "tutorials/2", "Makefile",
                  "maml_toolkit/pictures/report/scans.py"):
        assert any(one.startswith(place) for one in ids), place


@pytest.mark.parametrize(("words", "goes_on"), LINES)
def test_a_printed_command_line_is_read(words, goes_on):
    name, *rest = words
    assert name in COMMANDS
    if "--help" in rest:
        assert CliRunner().invoke(app, words).exit_code == 0
        return
    if not rest or goes_on:                                     # a mention, or a beginning
        return
    read = COMMANDS[name].make_context(name, list(rest)).params         # raises where a word is wrong or missing
    if name == "predict" and studies.is_asked(rest):
        assert not set(options(list(read["words"]), {}, ["run"])) - {*studies.OWN, *studies.SHARED}
        return
    if name in JOBS:
        job = JOBS[name]
        given = options(list(read["words"] or []), jobs.parameters_of(job.notebook), job.places)
        jobs.check(job.notebook, given)
        read = given
    arguments = [one.name for one in COMMANDS[name].params if isinstance(one, typer.core.TyperArgument)]
    assert not {str(read[one]) for one in arguments if one in read} & set(COMMANDS), "a path that reads as a command"
    assert read.get("task") is None or read["task"] in TASKS


def test_dicom_reads_a_folder_and_a_table():
    lines = [one.values[0] for one in LINES if one.id.startswith("docs/dicom.md: dicom")]
    read = [COMMANDS["dicom"].make_context("dicom", words[1:]).params for words in lines]
    assert [tuple(one[name] and str(one[name]) for name in ("folder", "table", "out", "labels")) for one in read] == [
        ("from_pacs", "series.csv", None, None), ("from_pacs", "series.csv", "cases", None),
        ("from_pacs", "series.csv", "drawn", "from_pacs")]
    assert read[2]["name"] == ["GTV=tumour"]


def test_every_repair_that_an_error_names_is_an_option_of_mend():
    known = {option for one in COMMANDS["mend"].params for option in one.opts}
    named = {option for _, text in texts() for option in re.findall(r"\bmend (?:[\w./]+ )*(--[a-z]+)", text)}
    assert {"--prefer", "--fill", "--unit", "--frame", "--label", "--orientation", "--straighten"} <= named
    assert named - {"--help"} <= known


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_help(name):
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 3

"""What stands around the code: the workflow, the templates and hooks, and every command to install something."""

import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.system.errors import with_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = set(PROJECT["project"]["optional-dependencies"])
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
ENTRIES = {*PROJECT["project"]["scripts"],
           *(one.name for one in importlib.metadata.entry_points(group="console_scripts"))}
TEXTS = [path for pattern in ("*.md", ".*.yaml", "docs/*.md", "recipes/*", "binder/*", "Makefile", ".github/**/*.yml",
                              "maml_toolkit/**/*.py", "maml_toolkit/**/*.md", "maml_toolkit/**/*.js",
                              "notebooks/*.ipynb", "tutorials/*.ipynb") for path in sorted(ROOT.glob(pattern))
         if path.is_file()]


def opened(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def lines_of(path):
    """The command lines that a workflow runs."""
    return [line for job in opened(path)["jobs"].values() for step in job["steps"]
            for line in step.get("run", "").splitlines() if line.strip()]


def is_there(words):
    """Whether a command line names something that is installed, or a target of the Makefile."""
    if words[0] == "make":
        return all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
                   for target in words[1:])
    return find_spec(words[2]) is not None if words[:2] == ["python", "-m"] else words[0] in ENTRIES | {"ruff"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_lint_and_tests_on_three_systems_by_commands_that_exist(path):
    (job,) = opened(path)["jobs"].values()
    assert {one.split("-")[0] for one in job["strategy"]["matrix"]["system"]} == {"ubuntu", "macos", "windows"}
    assert job["runs-on"] == "${{ matrix.system }}"
    assert set(opened(path)[True]) == {"push", "pull_request"}       # YAML 1.1 reads `on` as true
    lines = [shlex.split(line) for line in lines_of(path)]
    assert {"ruff", "lint-imports", "pytest"} <= {words[0] for words in lines}
    assert [words for words in lines if not is_there(words)] == []
    assert all("uses" in step or "run" in step for step in job["steps"])


def test_a_command_that_does_not_exist_would_be_seen():
    assert not is_there(["make", "tests"])
    assert not is_there(["python", "-m", "no_such_module"])
    assert not is_there(["mamltoolkit", "doctor"])
    assert is_there(["make", "test", "docs"])
    assert is_there(["maml-toolkit"])


def test_the_workflow_lints_as_the_makefile_does_and_its_lint_passes():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    linted = [line for path in WORKFLOWS for line in lines_of(path) if line.startswith(("ruff", "lint-imports"))]
    assert all(line in makefile for line in linted)
    ruff = next(line for line in linted if line.startswith("ruff"))
    assert subprocess.run([sys.executable, "-m", *shlex.split(ruff)], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("path", [*WORKFLOWS, *FORMS, ROOT / ".pre-commit-config.yaml"], ids=lambda path: path.name)
def test_no_registry_is_named(path):
    named = r"https?://|\b(?:pypi|pythonhosted|conda|pytorch)\.(?:org|com)"
    assert not re.search(named, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_template_asks_for_what_the_doctor_prints(path):
    form = opened(path)
    assert {"name", "description", "body"} <= set(form)
    fields = {one["id"]: one for one in form["body"] if one["type"] != "markdown"}
    asked = fields["doctor"]["attributes"]
    command = re.search(r"`maml-toolkit (.*)`", asked["label"])[1]
    assert asked["render"] == "json"
    printed = json.loads(CliRunner().invoke(app, shlex.split(command)).stdout)
    assert {"about", "name", "found"} <= set(printed[0])


def test_hooks_are_the_tools_that_the_tests_install():
    hooks = [hook for repo in opened(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(is_there(shlex.split(hook["entry"])) for hook in hooks)


def test_types_are_declared_and_packed():
    assert (ROOT / "maml_toolkit" / "py.typed").read_text() == ""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["maml_toolkit"]
    assert not {"exclude", "only-include"} & set(wheel)
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert not [line for line in ignored if line.strip("/") in ("py.typed", "*.typed", "maml_toolkit")]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_install_command_works_from_a_clone(path):
    """There is no release: nothing tells to install the package by its name, and each extra that is named is there."""
    text = re.sub(r"\\n\",\s*\"|\\", "", path.read_text(encoding="utf-8"))
    for command in re.findall(r"pip install[^\n]*", text):
        assert not re.search(r"install[^;#]*[\s'\"]maml[-_]toolkit(?![/.\w])", command.partition(" in your clone")[0])
    assert set(re.findall(r"\.\[([\w,]+)\]", " ".join(re.findall(r"pip install[^\n]*", text)).replace("{", ""))) <= {
        ",".join(names) for names in [[one] for one in EXTRAS] + [["dicom", "registration"]]}
    assert not re.search(r"maml[-_]toolkit\[[\w,]+\]", text)


@pytest.mark.parametrize("extra", ["dicom", "registration", "app", "onnx", "hub", "tensorboard", "mlflow", "view"])
def test_the_command_for_an_extra_names_one(extra):
    words = shlex.split(with_extra(extra).partition(" in ")[0])
    assert words == ["pip", "install", "-e", f".[{extra}]"]
    assert extra in EXTRAS


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_one_command_puts_the_public_address_wherever_it_is_missing(tmp_path):
    (tmp_path / "docs").mkdir()
    pages = ["README.md", "docs/index.md"]
    for name in ("Makefile", *pages):
        shutil.copy(ROOT / name, tmp_path / name)
    missing = {str(path.relative_to(ROOT)) for path in TEXTS if "OWNER/" in path.read_text(encoding="utf-8")}
    assert missing <= {*pages, "Makefile"}
    run = ["make", f"PYTHON={sys.executable}", "address"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode
    subprocess.run([*run, "OWNER=someone"], cwd=tmp_path, capture_output=True, check=True)
    for name in pages:
        before, after = (at.joinpath(name).read_text(encoding="utf-8") for at in (ROOT, tmp_path))
        assert "OWNER" not in after
        assert after.count("someone/maml_toolkit") == before.count("OWNER/maml_toolkit") > 0
        assert len(after.splitlines()) == len(before.splitlines())

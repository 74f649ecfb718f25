"""What the doctor finds, and what it says to do about it."""

import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement
from typer.testing import CliRunner

import maml_toolkit
from maml_toolkit.__main__ import app
from maml_toolkit.commands import doctor
from maml_toolkit.pictures.widgets import backends
from maml_toolkit.system import processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def declared(monkeypatch):
    """Sets what the installed package is said to declare."""
    def say(version=maml_toolkit.__version__, python=">=3.11", requires=(), extras=()):
        fields = {"Version": version, "Requires-Python": python}
        metadata = type("Metadata", (), {"__getitem__": lambda self, name: fields[name],
                                         "get_all": lambda self, name: list(extras)})()
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: metadata)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(requires))
    return say


def by_name(findings) -> dict[str, doctor.Finding]:
    return {one.name: one for one in findings}


def test_every_package_that_the_project_needs_is_looked_at():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = by_name(doctor.packages())
    assert found["torch"].found == importlib.metadata.version("torch")
    assert found["python"].found == ".".join(map(str, sys.version_info[:3]))
    declared = {Requirement(one).name for one in importlib.metadata.requires("maml_toolkit") if "extra" not in one}
    assert declared <= set(found)
    assert set(project["optional-dependencies"]) <= set(doctor.PURPOSES), "say in PURPOSES what the new extra is for"


def test_a_package_that_is_missing_or_too_old_is_a_problem_with_a_remedy(declared):
    declared(requires=["numpy>=2", "numpy<1", "never_heard_of>=3", "gone>=1; python_version < '3'"])
    packages = list(doctor.packages())
    assert [(one.name, one.wrong) for one in doctor.problems(packages)] == [
        ("numpy", "out of range"), ("never_heard_of", "not installed")]
    assert 'pip install "never_heard_of>=3"' in packages[-1].note


def test_another_python_and_another_version_of_the_package_are_problems(declared):
    declared(version="0.0.1", python=">=4")
    assert {one.name: one.wrong for one in doctor.problems(doctor.packages())} == {
        "python": "out of range", "maml_toolkit": "0.0.1 is installed, another is imported"}


def test_a_package_that_was_never_installed_is_said_so(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", absent)
    (only,) = doctor.packages()
    assert "not installed" in only.wrong
    assert "pip install -e" in only.note
    assert list(doctor.extras()) == []


def test_a_missing_extra_is_no_problem_and_says_how_to_get_it(declared):
    declared(extras=["dicom", "app"], requires=[
        "never_heard_of>=3; extra == 'dicom'", "numpy>=2; extra == 'dicom'", "numpy>=2; extra == 'app'"])
    found = by_name(doctor.extras())
    assert found["app"].found == "installed"
    assert found["dicom"].found == "lacks never_heard_of"
    assert 'pip install -e ".[dicom]"' in found["dicom"].note
    assert doctor.problems(found.values()) == []


def test_the_machine_is_described(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(processes, "CGROUP_LIMIT", limit)
    found = by_name(doctor.machine())
    assert found["device chosen"].found.startswith("cpu, ")
    assert found["threads of torch"].found == str(torch.get_num_threads())
    limit.write_text("max\n")
    assert by_name(doctor.machine())["memory"].found.split(" of ")[1] == found["memory"].found.split(" of ")[1]
    limit.write_text("2000000000\n")
    small = by_name(doctor.machine())["memory"]
    assert small.found.endswith("of 2.0 GB")
    assert "batch_size=1" in small.note


@pytest.mark.parametrize(("folder", "limit", "held", "idle"), [
    (".", "memory.max", "memory.current", "inactive_file"),
    ("slurm/job_7", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")])
def test_what_a_container_holds_is_not_free_and_what_it_would_give_back_is(monkeypatch, tmp_path, folder, limit, held,
                                                                           idle):
    monkeypatch.setattr(processes, "CGROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(processes, "control_groups", lambda: [Path(), Path("slurm"), Path("slurm/job_7")])
    computer = SimpleNamespace(total=64 * 10**9, available=60 * 10**9)
    monkeypatch.setattr(processes.psutil, "virtual_memory", lambda: computer)
    assert by_name(doctor.machine())["memory"].found == "60 GB free of 64 GB"
    own = tmp_path / folder
    own.mkdir(parents=True, exist_ok=True)
    (own / limit).write_text("8000000000\n")
    (own / held).write_text("5500000000\n")
    (own / "memory.stat").write_text(f"anon 1\n{idle} 500000000\n")
    assert by_name(doctor.machine())["memory"].found == "3.0 GB free of 8.0 GB"
    (own / held).write_text("9900000000\n")
    assert by_name(doctor.machine())["memory"].found == "0.0 GB free of 8.0 GB"


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="only Linux has control groups")
def test_the_control_groups_of_this_process_start_at_the_root():
    groups = processes.control_groups()
    assert groups[0] == Path()
    assert not any(group.is_absolute() for group in groups)


def test_a_gpu_is_named_with_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda number: SimpleNamespace(name="Some GPU", total_memory=80 * 10**9))
    found = by_name(doctor.devices())
    assert found["cuda:0"].found == "Some GPU, 80 GB"
    assert found["device chosen"].found == "cuda, bfloat16"
    assert "cuda" not in found


def test_a_torch_that_cannot_be_imported_is_a_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (only,) = doctor.devices()
    assert "cannot be imported" in only.wrong


def test_a_viewer_that_does_not_work_says_why(monkeypatch):
    monkeypatch.setattr(backends, "available", lambda: {"picture": "", "other": "it is not installed"})
    assert [(one.found, one.note, one.wrong) for one in doctor.viewers()] == [
        ("works", "", ""), ("does not work here", "it is not installed", "")]


def test_the_command_prints_a_table_or_json_and_its_status_says_whether_something_is_wrong(monkeypatch):
    table = CliRunner().invoke(app, ["doctor"])
    assert table.exit_code == 0
    assert re.search(r"^  torch  +\S+  +>=2", table.stdout, re.MULTILINE)
    assert table.stdout.endswith("no problems found\n")
    listed = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert {"packages", "machine", "extras"} <= {one["about"] for one in listed}
    wrong = doctor.Finding("packages", "torch", "1.0", "out of range", "install it")
    monkeypatch.setattr(doctor, "examine", lambda: [wrong])
    refused = CliRunner().invoke(app, ["doctor"])
    assert refused.exit_code == 1
    assert "WRONG: out of range; install it" in refused.stdout
    assert "1 problem found" in refused.stdout

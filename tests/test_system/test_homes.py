"""Jobs and the explorer work for a user without a home or a name, or say which variable is missing."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tiny_notebooks import text_of, write
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.commands import doctor, jobs
from maml_toolkit.system.processes import FOLDERS, at_home

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]
TELLS = "import getpass, json, os\nprint(json.dumps([getpass.getuser(), dict(os.environ)]))"


def nobody(monkeypatch):
    """The user has a number and nothing else."""
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", *FOLDERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr(getpass, "getuser", lambda: (_ for _ in ()).throw(KeyError("12345")))


@pytest.mark.skipif(os.name == "nt", reason="users of Windows have a name")
def test_a_job_of_a_user_without_home_and_name_runs_in_a_home_that_is_gone_afterwards(here, monkeypatch):
    nobody(monkeypatch)
    user, known = json.loads(text_of(jobs.run(write(here, "2-train", TELLS), progress=False)))
    assert user == "user12345"
    homes = {name: Path(known[name]) for name in ("HOME", *FOLDERS)}
    assert len(set(homes.values())) == 4
    assert not any(path.exists() for path in homes.values())
    assert "HOME" not in os.environ
    assert "USER" not in os.environ


def test_a_home_that_is_only_read_stays_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "chosen")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    before = dict(os.environ)
    with at_home():
        assert os.environ["HOME"] == str(tmp_path)
        assert os.environ["JUPYTER_RUNTIME_DIR"] == "chosen"
        assert Path(os.environ["MPLCONFIGDIR"]).is_dir()
    assert dict(os.environ) == before


def test_a_home_that_is_named_and_not_there_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nonexistent")
    with at_home():
        assert Path(os.environ["HOME"]).is_dir()
    assert list(tmp_path.iterdir()) == []
    assert os.environ["HOME"] == str(tmp_path / "nonexistent")


def test_a_usable_home_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    before = dict(os.environ)
    with at_home():
        assert dict(os.environ) == before


def test_without_a_folder_for_temporary_files_a_job_names_the_variable(here, monkeypatch):
    write(here, "2-train", "open('started', 'w')")

    def none():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    shown = CliRunner().invoke(app, ["train"])
    assert shown.exit_code == 1
    assert "TMPDIR" in shown.output
    assert not (here / "started").exists()
    (wrong,) = doctor.problems(doctor.machine())
    assert wrong.name == "temporary files"
    assert "TMPDIR" in wrong.note


def test_the_doctor_says_that_there_is_no_home(monkeypatch):
    nobody(monkeypatch)
    found = {one.name: one for one in doctor.machine()}["home"]
    assert (found.found, found.wrong) == ("-", "")
    assert "HOME" in found.note


AS_NOBODY = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs util-linux")
def test_a_container_that_runs_as_a_number_trains_and_looks(here):
    """Without an entry in /etc/passwd and with nothing but PATH in the environment."""
    if subprocess.run([*AS_NOBODY, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    write(here, "2-train", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n" + TELLS)
    code = "from maml_toolkit.commands import jobs; print(jobs.run('notebooks/2-train.ipynb', progress=False))"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    done = subprocess.run([*AS_NOBODY, "env", "-i", "PATH=/usr/bin:/bin", f"PYTHONPATH={path}", sys.executable, "-c",
                           code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    user, _ = json.loads(text_of(Path(done.stdout.strip())).splitlines()[-1])
    assert user == "user12345"

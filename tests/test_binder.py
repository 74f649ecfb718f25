"""The folder that repo2docker builds an image from; what needs no Docker and no network is tried."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from maml_toolkit.pictures.widgets.backends import EXTRAS

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"
FIRST = "/lab/tree/tutorials/1-first-segmentation.ipynb"


class NotRedirected(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args):
        return None


def where_it_leads(port: int) -> str:
    """Where Jupyter's front page sends a browser, once it answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NotRedirected)
    for _ in range(300):
        try:
            with opener.open(f"http://127.0.0.1:{port}/"):
                return ""
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.headers["Location"]
        except urllib.error.URLError:
            time.sleep(0.2)
    raise TimeoutError("Jupyter did not answer")


def test_repo2docker_accepts_the_folder(tmp_path):
    cloned = tmp_path / "repository"
    cloned.mkdir()
    for name in ("binder", "constraints.txt", "pyproject.toml"):
        (cloned / name).symlink_to(ROOT / name)
    done = subprocess.run([sys.executable, "-m", "repo2docker", "--no-build", "--debug", "--user-id", "1000",
                           "--user-name", "somebody", str(cloned)],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("binder/requirements.txt", "RUN ./binder/postBuild", 'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"'):
        assert said in done.stdout + done.stderr


def test_the_torch_of_a_binder_is_the_one_that_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for line in (BINDER / "requirements.txt").read_text().splitlines() if not line.startswith(("#", "-"))]
    assert lines == [one for one in project["dependencies"] if Requirement(one).name == "torch"]
    assert (BINDER / "runtime.txt").read_text().strip().removeprefix("python-") in project["requires-python"]


@pytest.mark.parametrize("script", ["postBuild", "start"])
def test_a_script_can_be_run(script):
    assert os.access(BINDER / script, os.X_OK)
    subprocess.run(["bash", "-n", str(BINDER / script)], check=True)


def test_a_binder_has_the_viewer_that_view3d_takes_by_itself():
    (installed,) = re.findall(r"pip install .*", (BINDER / "postBuild").read_text())
    assert f'".[{EXTRAS["niivue"][0]}]"' in installed


def test_what_is_started_has_few_threads_and_keeps_no_memory(tmp_path):
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run([BINDER / "start", sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          check=True)
    environment = json.loads(done.stdout)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["MAML_TOOLKIT_KEEP_MEMORY"] == "0"


def test_jupyter_opens_the_first_tutorial(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    elsewhere = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path)}
    server = subprocess.Popen([BINDER / "start", sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                               f"--port={port}", "--ip=127.0.0.1", "--ServerApp.token="], cwd=ROOT, env=elsewhere,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert where_it_leads(port).removesuffix("?") == FIRST
    finally:
        server.terminate()
        server.wait(30)
    assert (ROOT / FIRST.removeprefix("/lab/tree/")).is_file()

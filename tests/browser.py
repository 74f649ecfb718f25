"""A JupyterLab and a browser for tests of what a reader sees, and a prediction made by hand to look at.

Nothing but 127.0.0.1 is reached: every other request is refused and remembered.
"""

import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import numpy as np
from scipy.ndimage import gaussian_filter

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.prepared import Grid, grid_of
from maml_toolkit.data.preprocessing import nonzero_box
from maml_toolkit.data.tasks import Task
from maml_toolkit.prediction.prediction import Prediction

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
             "--disable-background-networking", "--disable-component-update", "--no-first-run"]


def grid_for(case: Case, box: tuple | None = None) -> Grid:
    """The grid that `prepare` would give a case at its own spacing; the box in canonical voxels."""
    import nibabel as nib
    scan = volumes.read(next(iter(case.images.values())))
    turned = nib.as_closest_canonical(nib.Nifti1Image(scan.array, scan.affine))
    box = box or nonzero_box([np.asarray(turned.dataobj)], turned.shape)
    return grid_of(scan, box, tuple(map(float, nib.affines.voxel_sizes(turned.affine))))


def predicted(case: Case, task: Task, subsets: bool = True, box: tuple | None = None, seed: int = 0) -> Prediction:
    """A prediction with maps as if a network had seen a blurred truth, less of it in every further modality.

    Contributions and bias add up to the logits; each subset is rescaled as MAML does it, N / |S|.
    """
    import nibabel as nib
    grid = grid_for(case, box)
    label = nib.as_closest_canonical(case.label)
    truth = np.roll(task.encode(np.asarray(label.dataobj)), 1, 0)[grid.box_slices]
    random = np.random.default_rng(seed)
    names = [name for name in task.modalities if name in case.images]
    channels = task.answers.members
    seen = np.stack([gaussian_filter(np.isin(truth, one).astype(np.float32), 0.8) for one in channels])
    each = {}
    for number, name in enumerate(names):
        strength = 1.4 / (1 + number) * random.uniform(0.4, 1.6, (len(channels), 1, 1, 1))
        noise = gaussian_filter(random.standard_normal(seen.shape), (0, 2, 2, 2)) * 12
        each[name] = (12 / len(names) * strength * (seen - 0.3) + 0.5 * noise).astype(np.float32)
    attention = {name: (1 / (1 + np.exp(-np.abs(one).mean(0) + 1))).astype(np.float32) for name, one in each.items()}
    bias = np.linspace(0.4, -0.2, len(channels)).astype(np.float32)

    def answer(subset: tuple[str, ...]) -> Prediction:
        terms = {name: each[name] * np.float32(len(names) / len(subset)) for name in subset}
        maps = {"logits": sum(terms.values()) + bias.reshape(-1, 1, 1, 1)}
        maps |= {f"contribution/{name}": one for name, one in terms.items()}
        maps |= {f"attention/{name}": attention[name] for name in subset} if len(subset) > 1 else {}
        return Prediction(case.id, task, subset, grid, maps, bias)

    if not subsets:
        return answer(tuple(names))
    every = [one for size in range(1, len(names) + 1) for one in itertools.combinations(names, size)]
    answers = {frozenset(one): answer(one) for one in every}
    return replace(answers[frozenset(names)], subsets=answers)


@contextmanager
def jupyterlab(folder: Path, theme: str = "JupyterLab Light") -> Iterator[str]:
    """A JupyterLab on a free port of 127.0.0.1 with the folder as its root, ended by its process id.

    Yields:
        Its address up to the path, with the token as `{}` to be formatted into.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    home = folder / ".jupyter"
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
                   "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython")}
    with (folder / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
             "--expose-app-in-browser", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
             "--ServerApp.port_retries=0", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _await(f"http://127.0.0.1:{port}/api/status?token={token}", server, folder / "jupyterlab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {server.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(f"JupyterLab did not answer within a minute: {log.read_text()[-2000:]}")


@dataclass
class Seen:
    """What a page did that it should not have done."""

    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


@contextmanager
def page(width: int = 1400, height: int = 1000) -> Iterator[tuple]:
    """A page of Chromium that reaches nothing but 127.0.0.1, and what it tried."""
    from playwright.sync_api import sync_playwright
    seen = Seen()

    def guard(route):
        parts = urlsplit(route.request.url)
        if parts.scheme in ("data", "blob") or parts.hostname == "127.0.0.1":
            route.continue_()
        else:
            seen.elsewhere.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        try:
            context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
            context.route("**/*", guard)
            tab = context.new_page()
            tab.on("pageerror", lambda error: seen.errors.append(str(error)))
            tab.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
            yield tab, seen
        finally:
            chromium.close()


def notebook(path: Path, *cells: str) -> Path:
    """A notebook of these cells."""
    whole = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    whole.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.write_text(json.dumps(whole))
    return path


def run_all(tab, address: str, timeout_s: float = 120) -> None:
    """Open a notebook in JupyterLab, without its sidebar, and run all of its cells."""
    tab.goto(address)
    tab.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=timeout_s * 1000)
    tab.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
                          timeout=timeout_s * 1000)
    for command in ("application:toggle-left-area", "notebook:run-all-cells"):
        tab.evaluate(f"void window.jupyterapp.commands.execute('{command}')")


CELLS = "[...window.jupyterapp.shell.currentWidget.content.model.cells].filter((cell) => cell.type === 'code')"


def finished(tab, timeout_s: float = 300) -> None:
    """Wait until every code cell has run.

    Raises:
        RuntimeError: one of them failed; its error.
    """
    tab.wait_for_function(f"{CELLS}.every((cell) => cell.executionCount) || {CELLS}.some((cell) => "
                          "cell.outputs.toJSON().some((one) => one.output_type === 'error'))", timeout=timeout_s * 1000)
    outputs = tab.evaluate(f"{CELLS}.flatMap((cell) => cell.outputs.toJSON())")
    for output in outputs:
        if output["output_type"] == "error":
            raise RuntimeError(f"{output['ename']}: {output['evalue']}")


def scroll_to(tab, source: str) -> None:
    """Bring the first code cell with this text into view; JupyterLab draws no others."""
    tab.evaluate("""async (source) => {
        const { content } = window.jupyterapp.shell.currentWidget;
        const number = [...content.model.cells].findIndex((cell) => cell.type === "code" &&
            cell.sharedModel.getSource().includes(source));
        await content.scrollToItem(number, "start");
        content.activeCellIndex = number;
    }""", source)

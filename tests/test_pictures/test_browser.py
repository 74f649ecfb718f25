"""What a reader does with the explorer, in JupyterLab and in the page without code, in a browser without a network."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import CHROMIUM, finished, jupyterlab, page, run_all, scroll_to
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from maml_toolkit import MAML, Predictor, Task, Trainer
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.tasks import TASKS

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")

ROOT = Path(__file__).parents[2]


def parameterized(tutorial: str, folder: Path, parameters: dict) -> str:
    """The name of a copy of a tutorial with other parameters."""
    filled = parameterize_notebook(load_notebook_node(str(ROOT / "tutorials" / tutorial)), parameters,
                                   kernel_name="python3", language="python")
    for cell in filled.cells:
        cell["outputs"] = [] if cell.cell_type == "code" else None
        if cell.cell_type != "code":
            del cell["outputs"]
    nbformat.write(filled, folder / tutorial)
    return tutorial


def numbers(explorer, row: str) -> list[float]:
    """A row of the table: each scan's share (None where it has none), that of the bias, log-odds, probability."""
    named = explorer.page.locator("th:first-child", has_text=re.compile(f"^{row}$"))
    cells = explorer.locator("tbody tr", has=named).locator("td")
    return [None if text == "–" else float(text.replace("−", "-")) for text in cells.all_inner_texts()]


def pixels(explorer, panel: str, folder: Path) -> np.ndarray:
    """What is seen of a panel: (height, width, 3)."""
    path = folder / "panel.png"
    explorer.locator(f"canvas[data-panel={panel}]").screenshot(path=path)
    with Image.open(path) as seen:
        return np.asarray(seen.convert("RGB")).astype(int)


def settled(tab) -> None:
    tab.wait_for_timeout(600)      # a picture is drawn within a frame; what follows it to Python takes longer


def adds_up(row: list[float]) -> bool:
    *terms, logit, _ = row
    return abs(sum(term or 0 for term in terms) - logit) < 0.0015


def press(explorer, control: str, keys: str, times: int) -> None:
    explorer.locator(control).focus()
    for _ in range(times):
        explorer.page.keyboard.press(keys)


def test_a_reader_runs_the_tutorial_moves_a_slider_and_takes_a_scan_away(tmp_path):
    small = {"cases": 8, "size": 32, "patch": 32, "epochs": 1, "steps_per_epoch": 3}
    name = parameterized("6-attention-in-3d.ipynb", tmp_path, small)
    with jupyterlab(tmp_path) as address, page(1500, 1250) as (tab, seen):
        run_all(tab, address.format(name))
        finished(tab)
        scroll_to(tab, "explore(case, prediction)")
        explorer = tab.locator(".maml-explorer").first
        explorer.scroll_into_view_if_needed()
        explorer.locator("canvas[data-panel=venous-axial]").wait_for()
        settled(tab)

        # the notebook left venous alone chosen: Python moves the picture
        assert not explorer.locator("input[name=scan-arterial]").is_checked()
        assert "left out" in explorer.locator("canvas[data-panel=arterial-axial]").get_attribute("aria-label")
        alone = numbers(explorer, "tumour")
        assert alone[0] is None
        assert adds_up(alone)
        hatched = pixels(explorer, "arterial-axial", tmp_path)

        # taken back: other numbers, other pixels
        explorer.locator("input[name=scan-arterial]").check()
        settled(tab)
        both = numbers(explorer, "tumour")
        assert None not in both
        assert adds_up(both)
        assert both[-2] != alone[-2]
        image = pixels(explorer, "arterial-axial", tmp_path)
        assert np.abs(image - hatched).mean() > 10

        # the last scan cannot go
        explorer.locator("input[name=scan-arterial]").uncheck()
        settled(tab)
        explorer.locator("input[name=scan-venous]").click()
        explorer.get_by_text("At least one scan must stay").wait_for()
        explorer.locator("input[name=scan-arterial]").check()
        settled(tab)

        # a slider: the place, the picture and the numbers follow
        place = explorer.locator(".position").inner_text()
        press(explorer, "input[name=axis-2]", "ArrowRight", 4)
        settled(tab)
        assert explorer.locator(".position").inner_text() != place
        moved = pixels(explorer, "arterial-axial", tmp_path)
        assert np.abs(moved - image).mean() > 3
        assert numbers(explorer, "tumour") != both
        assert adds_up(numbers(explorer, "tumour"))

        # a map, at full opacity, has the colours of its scale in the place of the greys
        grey = np.ptp(moved[20:-20, 20:-20], axis=-1).mean()
        explorer.locator("select[name=map]").select_option("contribution")
        press(explorer, "input[name=opacity]", "End", 1)
        settled(tab)
        mapped = pixels(explorer, "arterial-axial", tmp_path)
        assert np.abs(mapped - moved).mean() > 5
        assert np.ptp(mapped[20:-20, 20:-20], axis=-1).mean() > grey + 3
        tab.screenshot(path=tmp_path / "explorer.png")

        # the table is saved as it is shown
        with tab.expect_download() as download:
            explorer.get_by_text("Save table").click()
        saved = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
        shown = numbers(explorer, "tumour")
        assert [float(saved[1][f"contribution_{one}"]) for one in ("arterial", "venous")] == shown[:2]
        with tab.expect_download() as download:
            explorer.get_by_text("Save picture").click()
        with Image.open(download.value.path()) as saved:
            assert saved.size[0] > 500
        assert (seen.errors, seen.elsewhere) == ([], [])


@contextmanager
def served(run: Path, data: Path, log: Path):
    """The page of `python -m maml_toolkit explore` with its token; ended with all that it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as file:
        command = subprocess.Popen([sys.executable, "-m", "maml_toolkit", "explore", str(run), str(data), "--port",
                                    str(port), "--no-browser"], stdout=file, stderr=file, start_new_session=True)
    try:
        for _ in range(600):
            if found := re.search(rf"http://127\.0\.0\.1:{port}/\S*token=\w+", log.read_text()):
                break
            assert command.poll() is None, log.read_text()
            time.sleep(0.1)
        yield found[0]
    finally:
        os.killpg(command.pid, signal.SIGTERM)
        command.wait(20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path, Task]:
    folder, task = tmp_path_factory.mktemp("page"), TASKS["liver_phases"]
    cases = phantoms.liver_phases(2, size=24)
    write_cases(cases, folder / "data", "folders", task)
    method = MAML(task.modalities, task.classes, channels=(4, 6), subset_weight=1)
    Trainer(method, folder / "run", task, patch_size=(16, 16, 16), epochs=1, steps_per_epoch=1).fit(cases)
    return folder / "run", folder / "data", task


def test_a_colleague_opens_the_page_chooses_a_case_takes_a_scan_away_and_saves(trained, tmp_path):
    run, data, _ = trained
    with served(run, data, tmp_path / "log.txt") as address, page(1400, 1100) as (tab, seen):
        tab.goto(address)
        explorer = tab.locator(".maml-explorer")
        explorer.locator("canvas[data-panel=arterial-axial]").wait_for(timeout=120_000)
        assert "import" not in tab.locator("body").inner_text()
        first = explorer.locator("header").inner_text()
        tab.locator("select").first.select_option(index=1)
        tab.wait_for_function("before => { const now = document.querySelector('.maml-explorer header'); "
                              "return now && now.innerText !== before; }", arg=first, timeout=60_000)
        settled(tab)
        both = numbers(explorer, "tumour")
        explorer.locator("input[name=scan-venous]").uncheck()
        settled(tab)
        assert numbers(explorer, "tumour") != both
        assert adds_up(numbers(explorer, "tumour"))
        tab.get_by_role("button", name="Save label map").click()
        tab.get_by_text("Saved in").wait_for(timeout=30_000)
        tab.screenshot(path=tmp_path / "page.png")
        assert (seen.errors, seen.elsewhere) == ([], [])
    saved = list((run / "predictions").glob("*/*_seg.nii.gz"))
    assert [path.parent.name for path in saved] == ["liver-0-001"]
    assert Predictor.load(run).task.modalities == ("arterial", "venous")
    shutil.rmtree(run / "predictions")

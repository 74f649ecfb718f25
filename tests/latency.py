"""How long the explorer takes in a browser, from the reader's hand to the new picture: `python tests/latency.py`.

Four modalities, every subset of them, contours of truth and prediction and the contributions as a map, in JupyterLab
in Chromium without a graphics card. First display: from running the cell to the picture, so packing, sending and
unpacking are in it. Times in ms, median (least to most).
"""

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path

from browser import jupyterlab, notebook, page, run_all

CASE = """
import sys; sys.path.insert(0, {tests!r})
import nibabel as nib, numpy as np
from browser import predicted
from maml_toolkit import TASKS, Case
from maml_toolkit.data import phantoms
from maml_toolkit.pictures.widgets import explore
(case,) = phantoms.brains(1, size=max({shape}))
cut = lambda image: nib.Nifti1Image(np.asarray(image.dataobj)[tuple(map(slice, {shape}))], image.affine)
case = Case(case.id, {{name: cut(image) for name, image in case.images.items()}}, cut(case.label))
prediction = predicted(case, TASKS["brats2021"])
print("case", "at hand")
"""
SHOW = """
async () => {
  const { commands, shell } = window.jupyterapp;
  await commands.execute("notebook:insert-cell-below");
  shell.currentWidget.content.activeCell.model.sharedModel.setSource("explore(case, prediction)");
  const asked = performance.now();
  void commands.execute("notebook:run-cell");
  return asked;
}
"""
LISTEN = ("window.drawn = []; document.addEventListener('maml-explorer-drawn', "
          "(event) => window.drawn.push({...event.detail, at: performance.now()}))")


def latencies(shape: tuple[int, int, int], moves: int = 60) -> dict[str, list[float]]:
    """Milliseconds of each kind of action."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        notebook(Path(folder) / "case.ipynb", CASE.format(tests=str(Path(__file__).parent), shape=shape))
        with jupyterlab(Path(folder)) as address, page(1500, 1250) as (tab, seen):
            tab.add_init_script(LISTEN)
            run_all(tab, address.format("case.ipynb"))
            tab.get_by_text("case at hand").first.wait_for(timeout=600_000)
            asked = tab.evaluate(SHOW)
            tab.wait_for_function("window.drawn.length > 0", timeout=600_000)
            found["first display"] = [tab.evaluate("window.drawn[0].at") - asked]
            explorer = tab.locator(".maml-explorer")
            print(explorer.locator("footer").inner_text().split(" Click or")[0])  # noqa: T201
            explorer.locator("select[name=map]").select_option("contribution")
            explorer.scroll_into_view_if_needed()
            tab.wait_for_timeout(1000)
            found |= {"slider": _slider(tab, explorer, moves), "crosshair": _crosshair(tab, explorer, moves)}
            found |= dict(zip(("modality, first time", "modality, again"), _scans(tab, explorer), strict=True))
            if seen.errors or seen.elsewhere:
                raise RuntimeError(f"the page said {seen.errors} and asked {seen.elsewhere}")
    return found


def _drawn(tab) -> list[float]:
    tab.wait_for_timeout(300)
    return [one["since_input_ms"] for one in tab.evaluate("window.drawn.splice(0)")]


def _slider(tab, explorer, moves: int) -> list[float]:
    _drawn(tab)
    slider = explorer.locator("input[name=axis-2]").bounding_box()
    y = slider["y"] + slider["height"] / 2
    tab.mouse.move(slider["x"] + 0.25 * slider["width"], y)
    tab.mouse.down()
    for move in range(moves):
        tab.mouse.move(slider["x"] + (0.25 + 0.5 * move / moves) * slider["width"], y)
        tab.wait_for_timeout(60)
    tab.mouse.up()
    return _drawn(tab)


def _crosshair(tab, explorer, moves: int) -> list[float]:
    _drawn(tab)
    canvas = explorer.locator("canvas[data-panel=t1-axial]").bounding_box()
    tab.mouse.move(canvas["x"] + 0.3 * canvas["width"], canvas["y"] + 0.3 * canvas["height"])
    tab.mouse.down()
    for move in range(moves):
        share = 0.3 + 0.4 * move / moves
        tab.mouse.move(canvas["x"] + share * canvas["width"], canvas["y"] + share * canvas["height"])
        tab.wait_for_timeout(60)
    tab.mouse.up()
    return _drawn(tab)


def _scans(tab, explorer) -> tuple[list[float], list[float]]:
    """Every subset of four in an order in which each step takes away or brings back one scan; then once more."""
    code = [number ^ number >> 1 for number in range(16)]
    steps = [(before ^ after).bit_length() - 1 for before, after in itertools.pairwise(code)]
    rounds = []
    for _ in range(2):
        _drawn(tab)
        for step in steps[:14]:
            explorer.locator("input[name^=scan-]").nth(3 - step).click()
            tab.wait_for_timeout(700)
        rounds.append(_drawn(tab))
        for step in reversed(steps[:14]):
            explorer.locator("input[name^=scan-]").nth(3 - step).click()
            tab.wait_for_timeout(100)
        tab.wait_for_timeout(1000)
    return rounds[0], rounds[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=json.loads, default=[128, 128, 128], help="voxels, such as [240,240,155]")
    for what, times in latencies(tuple(parser.parse_args().shape)).items():
        range_ms = f"({min(times):.1f} to {max(times):.1f}, {len(times)} times)"
        print(f"{what:22} {statistics.median(times):7.1f} {range_ms}")  # noqa: T201

"""What a reader sees of `view3d` in a browser that reaches nothing but 127.0.0.1."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, jupyterlab, notebook, page, run_all
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")]

CELLS = ("""
import sys
sys.path.insert(0, {tests!r})
from browser import predicted
from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.pictures.widgets import view3d
(case,) = phantoms.liver_phases(1, size=32)
view = view3d(case, predicted(case, TASKS["liver_phases"], subsets=False), backend={backend!r}, map="contribution")
view
""", "print(view)")


def pixels(tab) -> np.ndarray:
    held = tab.locator(".jp-OutputArea canvas").first.screenshot(timeout=120_000)
    return np.asarray(Image.open(io.BytesIO(held)).convert("RGB")).astype(int)


@pytest.mark.parametrize("backend", ["niivue", "auto"])
def test_the_scan_the_map_and_the_surface_are_drawn_without_a_network(tmp_path, backend):
    notebook(tmp_path / "view.ipynb", *(cell.format(tests=str(Path(__file__).parents[1]), backend=backend)
                                        for cell in CELLS))
    with jupyterlab(tmp_path) as address, page() as (tab, seen):
        run_all(tab, address.format("view.ipynb"))
        tab.locator(".jp-OutputArea canvas").first.wait_for(timeout=120_000)
        grey, coloured, until = 0, 0, time.time() + 120
        while (grey < 0.1 or coloured < 0.01) and time.time() < until:
            tab.wait_for_timeout(1000)
            drawn = pixels(tab)
            grey, coloured = (drawn.max(-1) > 25).mean(), (np.ptp(drawn, axis=-1) > 60).mean()
        Image.fromarray(drawn.astype(np.uint8)).save(tmp_path / "canvas.png")
        assert grey > 0.1
        assert coloured > 0.01
        height, width = drawn.shape[:2]
        rendering = drawn[height // 2:, width // 2:]
        # the surface, in the pale colours of what is said at the edge, shows through the grey scan
        assert (np.ptp(rendering, axis=-1) > 10).sum() > 300
        tab.get_by_text("drawn by niivue").last.wait_for(timeout=60_000)
    assert seen.errors == []
    assert seen.elsewhere == []

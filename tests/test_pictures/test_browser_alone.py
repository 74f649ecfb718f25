"""The explorer in a bare page: its log-odds are those of Python, and its table and its map show them."""

import base64
import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from browser import CHROMIUM, page, predicted
from matplotlib.colors import to_rgb
from PIL import Image

from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.pictures.widgets import explore
from maml_toolkit.pictures.widgets.explorer import HERE
from maml_toolkit.pictures.widgets.scene import Scene
from maml_toolkit.prediction.contrast import Contrast

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")

BRATS = TASKS["brats2021"]

LOADED = """async ([source, traits]) => {
    window.explorer = await import(`data:text/javascript;base64,${source}`);
    if (!traits) return;
    const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const arrays = Object.fromEntries(Object.entries(traits.arrays).map(([name, one]) => [name, bytes(one)]));
    const known = { ...traits, arrays };
    const model = { get: (name) => known[name], set: (name, value) => { known[name] = value; }, on() {}, off() {},
        save_changes() {} };
    await window.explorer.default.render({ model, el: document.body });
}"""


def load(tab, widget=None) -> None:
    """The explorer's script in a page, with a widget of it where given."""
    tab.set_content(f"<style>{(HERE / 'explorer.css').read_text()}</style><body></body>")
    traits = None if widget is None else {
        "summary": json.loads(json.dumps(widget.summary)), "voxel": list(widget.voxel), "scans": list(widget.scans),
        "arrays": {name: base64.b64encode(one).decode() for name, one in widget.arrays.items()}}
    tab.evaluate(LOADED, [base64.b64encode((HERE / "explorer.js").read_bytes()).decode(), traits])


def test_the_browsers_shares_and_log_odds_are_those_of_python():
    random = np.random.default_rng(0)
    bias = random.normal(size=4)
    with page() as (tab, seen):
        load(tab)
        for name, against in (("oedema", None), ("WT", None), ("TC", None), ("ET", None), ("TC", "oedema")):
            contrast = Contrast.of(BRATS, name, against)
            terms = {scan: random.normal(0, 3, (4, 1)) for scan in ("t1", "flair")}
            sides = {"over": list(contrast.over), "under": list(contrast.under)}
            total = sum(terms.values())
            weights, found = tab.evaluate(
                "([sides, bias, change]) => [explorer.signedWeights(sides, bias, change), "
                "explorer.logOdds(sides, bias.map((one, k) => one + change[k]))]",
                [sides, bias.tolist(), total[:, 0].tolist()])
            shares, _ = contrast.shares(terms, bias)
            assert found == pytest.approx(contrast.log_odds(bias[:, None] + total).item(), abs=1e-9)
            for scan, one in terms.items():
                assert np.dot(weights, one[:, 0]) == pytest.approx(shares[scan].item(), abs=1e-9)
        assert seen.errors == []


def test_the_table_and_the_map_show_what_was_chosen_against_what_was_chosen(tmp_path):
    (case,) = phantoms.brains(1, size=24)
    prediction = predicted(case, BRATS, subsets=False)
    widget, scene = explore(case, prediction), Scene.of(case, prediction)
    place = tuple(at - edges[0] for at, edges in zip(widget.summary["start"], widget.summary["box"], strict=True))
    with page(1500, 1200) as (tab, seen):
        load(tab, widget)
        tab.locator("select[name=map]").select_option("contribution")

        def shown() -> dict[str, list[str]]:
            tab.wait_for_timeout(300)
            rows = tab.locator("tbody tr:not(.other)").all()
            return {(cells := row.locator("th, td").all_inner_texts())[0]: cells[1:] for row in rows}

        for name, against in (("oedema", None), ("oedema", "necrosis"), ("TC", None), ("WT", None)):
            contrast = Contrast.of(BRATS, name, against)
            tab.locator("select[name=class]").select_option(name)
            if against:
                tab.locator("select[name=against]").select_option(against)
            rows = shown()
            assert rows[name][0] == contrast.against
            *terms, bias, total, probability = (float(text.replace("−", "-")) for text in rows[name][1:])
            logits = prediction.in_box("logits")[(slice(None), *place)]
            expected = contrast.log_odds(logits[:, None]).item()
            assert total == pytest.approx(expected, abs=0.002)
            assert sum(terms) + bias == pytest.approx(expected, abs=0.004)
            for scan, term in zip(BRATS.modalities, terms, strict=True):
                assert term == pytest.approx(scene.maps("contribution", contrast)[scan][place], abs=0.003)
            exact = np.exp(logits[list(contrast.over)]).sum() / np.exp(logits).sum()
            assert probability == pytest.approx(exact, abs=0.002)
            assert f"makes {name} more likely than {contrast.against}" in tab.locator(".key").inner_text()
            assert ("not linear" in tab.locator(".key").inner_text()) != contrast.is_linear
            low = tab.locator(".key span").first.inner_text()
            limit = max(np.percentile(np.abs(one), 99.5) for one in scene.maps("contribution", contrast).values())
            assert -float(low.replace("−", "-")) == pytest.approx(limit, rel=0.05)
        tab.screenshot(path=tmp_path / "explorer.png")
        assert tab.locator("select[name=against] option[value=oedema]").is_disabled()
        assert seen.errors == []


def test_the_uncertainty_is_drawn_over_every_scan_and_said_at_the_crosshair():
    (case,) = phantoms.brains(1, size=24)
    prediction = predicted(case, BRATS, subsets=False)
    nats = np.full(prediction.maps["logits"].shape[1:], np.log(4) / 2, np.float32)
    with page(1500, 1200) as (tab, seen):
        load(tab, explore(case, prediction))
        assert tab.locator("select[name=map] option[value=uncertainty]").is_disabled()
        load(tab, explore(case, replace(prediction, maps={**prediction.maps, "uncertainty": nats})))
        before = tab.locator("canvas[data-panel=t1-axial]").screenshot()
        tab.locator("select[name=map]").select_option("uncertainty")
        tab.wait_for_timeout(300)
        assert tab.locator("canvas[data-panel=t1-axial]").screenshot() != before
        assert "1.39" in tab.locator(".key").inner_text()
        assert re.search("uncertainty 0.(69|70) nats", tab.locator(".note").inner_text())
        assert seen.errors == []


def test_a_network_trained_on_regions_has_a_row_for_each_with_a_probability_of_its_own():
    (case,) = phantoms.brains(1, size=24)
    prediction = predicted(case, replace(BRATS, train_on="regions"))
    widget = explore(case, prediction)
    logits = prediction.logits[(slice(None), *widget.voxel)]
    with page(1500, 1200) as (tab, seen):
        load(tab, widget)

        def shown() -> dict[str, list[float]]:
            tab.wait_for_timeout(300)
            rows = [row.locator("th, td").all_inner_texts() for row in tab.locator("tbody tr:not(.other)").all()]
            return {name: [float(text.replace("−", "-")) for text in cells if text != "–"] for name, _, *cells in rows}

        rows = shown()
        assert list(rows) == list(BRATS.regions)
        for (*terms, total, probability), logit in zip(rows.values(), logits, strict=True):
            assert sum(terms) == pytest.approx(total, abs=0.004)
            assert total == pytest.approx(logit, abs=0.01)
            assert probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.002)
        tab.locator("select[name=map]").select_option("contribution")
        assert tab.locator("select[name=class] option").all_inner_texts() == list(BRATS.regions)
        assert tab.locator("select[name=against] option").all_inner_texts() == ["everything else"]
        tab.locator("input[name=scan-t1]").uncheck()
        fewer = shown()
        assert fewer["TC"] != rows["TC"]
        for *terms, total, _ in fewer.values():
            assert sum(terms) == pytest.approx(total, abs=0.004)
        assert seen.errors == []


def test_what_is_saved_says_what_the_screen_says(tmp_path):
    """The key of the picture where answers are compared, and small intensities in the table."""
    (case,) = phantoms.brains(1, size=24)
    prediction = predicted(case, BRATS, subsets=True)
    small = {name: nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) / 1000, image.affine)
             for name, image in case.images.items()}
    widget = explore(replace(case, images=small), prediction)
    with page(1500, 1200) as (tab, seen):
        load(tab, widget)
        tab.locator("select[name=map]").select_option("difference")
        tab.locator("input[name=scan-flair]").uncheck()
        tab.wait_for_timeout(300)
        with tab.expect_download() as download:
            tab.get_by_text("Save picture").click()
        with Image.open(download.value.path()) as saved:
            key = np.asarray(saved.convert("RGB"))[-50:-28]
        for colour in widget.summary["changes"].values():
            assert (key == np.multiply(to_rgb(colour), 255).round()).all(-1).sum() >= 100
        tab.locator("input[name=scan-flair]").check()
        tab.wait_for_timeout(300)
        with tab.expect_download() as download:
            tab.get_by_text("Save table").click()
        row, *_ = csv.DictReader(Path(download.value.path()).read_text().splitlines())
        _, _, *shown = tab.locator("tbody tr.other").last.locator("th, td").all_inner_texts()
        saved = [float(row[f"intensity_{name}"]) for name in BRATS.modalities]
        assert any(value % 1 for value in saved)
        assert [float(text.replace("−", "-")) for text in shown[:4]] == saved
        assert seen.errors == []

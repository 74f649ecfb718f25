"""The documentation names every module, builds without a warning, and asks no network when it is read."""

import html.parser
import inspect
import json
import math
import re
import runpy
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from browser import CHROMIUM, page
from sphinx.util.inventory import InventoryFile

import maml_toolkit

ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Elements for which a browser asks as it opens a page, and where they say what."""


CUT_OFF = """() => [...document.querySelectorAll("article *")].filter((one) => {
  if (one.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let at = one; at.tagName !== "ARTICLE"; at = at.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return false;
  }
  return true;
}).map((one) => one.outerHTML.slice(0, 100))"""
"""What of a page lies beyond the right edge and cannot be scrolled to within its own frame."""


class Resources(html.parser.HTMLParser):
    """Collects what a page loads."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag in LOADED and (address := dict(attrs).get(LOADED[tag])):
            self.found.append(address)


def resources(page: Path) -> list[str]:
    reader = Resources()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.found


def test_every_module_has_its_place():
    package = Path(maml_toolkit.__file__).parent
    modules = {path.stem for path in package.iterdir()
               if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.stem.startswith("__")}
    listed = re.findall(r"^   maml_toolkit\.(\w+)$", "\n".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")), re.MULTILINE)
    assert sorted(listed) == sorted(modules), "list a new module on the page of docs/ where one would look for it"


@pytest.fixture(scope="module")
def examples() -> dict:
    """What docs/examples.py defines."""
    return runpy.run_path(str(ROOT / "docs" / "examples.py"), run_name="examples")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_live_demo_answers_without_a_scan_with_neither_python_nor_network(width):
    made = runpy.run_path(str(ROOT / "docs" / "demo.py"), run_name="demo")["page"]()
    assert len(made.encode()) < 1.5e6
    with page(width, 800) as (tab, seen):
        tab.set_content(made)
        picture = tab.locator("canvas[data-panel=arterial-axial]")
        picture.wait_for()

        def shown() -> tuple[str, float, list[float]]:
            """The place, the probability of tumour there, and what adds up to its log-odds."""
            tab.wait_for_timeout(400)
            here = tab.locator(".here").inner_text().replace("−", "-")
            probability, *terms = (float(one) for one in re.findall(r"[+-]?\d+\.\d+", here))
            assert ("venous" in here) == tab.locator("input[name=scan-venous]").is_checked()
            assert probability == pytest.approx(1 / (1 + math.exp(-sum(terms))), abs=0.05)
            return tab.locator(".position").inner_text(), probability, terms

        place, _, both = shown()
        before = picture.screenshot()
        tab.locator("input[name=scan-venous]").focus()
        tab.keyboard.press("Space")
        _, _, alone = shown()
        assert (len(both), len(alone)) == (3, 2)
        assert alone[0] != both[0]
        assert picture.screenshot() != before
        picture.focus()
        tab.keyboard.press("ArrowLeft")
        assert shown()[0] != place
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert (seen.errors, seen.elsewhere) == ([], [])


def test_what_a_notebook_uses_is_found_by_the_name_under_which_it_is_documented(examples, tmp_path):
    cells = [{"cell_type": "markdown", "source": "# 1 · Title\n\n## Part"},
             {"cell_type": "code", "source": "from maml_toolkit import evaluate, phantoms as made, Predictor, TASKS\n"
              "%time 1"},
             {"cell_type": "code", "source": "Predictor.load('run')(made.brains(1, size=TASKS['x'])); evaluated = 1"}]
    for cell in cells:
        cell |= {"metadata": {}} | ({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {})
    path = tmp_path / "1-title.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    imports, used = examples["_cells"](path)
    assert imports.uses == frozenset()
    assert used.uses == {
        "maml_toolkit.prediction.predictor.Predictor", "maml_toolkit.prediction.predictor.Predictor.load",
        "maml_toolkit.data.phantoms", "maml_toolkit.data.phantoms.brains", "maml_toolkit.data.tasks.TASKS"}
    assert (used.title, used.heading) == ("1 · Title", "Part")


def test_a_formula_of_a_docstring_becomes_latex_and_a_listing_does_not():
    latex = runpy.run_path(str(ROOT / "docs" / "formulas.py"), run_name="formulas")["latex"]
    rows = latex(["    F_att(S)  = N/|S| sum_{i in S} A_i(S) * F_i     (eq. 2)", "", "    L += mu/2 max(0, sqrt(x^2))"])
    assert rows.splitlines() == [
        r"\begin{align*}",
        r"F_{\text{att}}(S) &= N/|S| \sum_{i \in S} A_{i}(S) * F_{i} && \text{(eq. 2)} \\",
        r"L &{+}= \mu/2 \max(0, \sqrt{x^{2}})", r"\end{align*}"]
    for listing in ("runs/<name>/settings.json   how it was made", "history = launch(2, run=\"runs/first\")",
                    "classes = logits[0].argmax(0)", "memory = per_byte x bytes"):
        assert latex([listing]) is None


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The pages, built without a warning."""
    out = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run([sys.executable, str(ROOT / "docs" / "build.py"), str(out)], capture_output=True, text=True,
                           check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return out


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")
def test_nothing_is_cut_off_on_a_phone_or_a_screen(site):
    pages = (*site.glob("*.html"), *site.glob("tutorials/*.html"), site / "api" / "maml_toolkit.methods.maml.html")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with page() as (tab, seen):
            for one in pages:
                tab.goto(f"http://127.0.0.1:{server.server_port}/{one.relative_to(site).as_posix()}")
                for width in (390, 1280):
                    tab.set_viewport_size({"width": width, "height": 900})
                    assert tab.evaluate(CUT_OFF) == [], (one.name, width)
            assert seen.elsewhere == []
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_the_documentation_asks_no_network_and_names_what_is_public(site, examples):
    out, pages = site, list(site.rglob("*.html"))
    assert len(pages) > 100
    for one in pages:
        for address in resources(one):
            assert not re.match(r"(https?:)?//", address), f"{one.name} loads {address}"
            if not address.startswith("data:"):
                assert (one.parent / re.split("[?#]", address)[0]).exists(), f"{one.name} lacks {address}"
    for notebook in (ROOT / "tutorials").glob("*.ipynb"):
        shown = [one for one in resources(out / "tutorials" / f"{notebook.stem}.html") if one.endswith(".png")]
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        drawn = sum("image/png" in output.get("data", ()) for cell in cells for output in cell.get("outputs", ()))
        written = sum("".join(cell["source"]).count("![") for cell in cells if cell["cell_type"] == "markdown")
        assert len(shown) == drawn + written, notebook.name
    styles = list(out.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name
    shown = (out / "tutorials" / "1-first-segmentation.html").read_text(encoding="utf-8")
    assert "<img" in shown
    assert "arterial+venous" in shown
    assert "_static/demo.html" in resources(out / "index.html")
    pictures = sum(len(cell.pictures) for cell in examples["cells"]("tutorials"))
    gallery = (out / "gallery.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<a [^>]*href="tutorials/[^"#]+#[^"]+"[^>]*>(?:<span[^>]*>)?<img ', gallery)) == pictures
    trainer = (out / "api" / "maml_toolkit.training.trainer.html").read_text(encoding="utf-8")
    assert 'href="../tutorials/1-first-segmentation.html"' in trainer
    described = InventoryFile.loads((out / "objects.inv").read_bytes(), uri="").data
    known = {name for kind in described.values() for name in kind}
    for name in maml_toolkit.__all__:
        home = getattr(maml_toolkit, name)
        module = getattr(home, "__module__", f"maml_toolkit.{maml_toolkit._HOME[name]}")
        assert (home.__name__ if inspect.ismodule(home) else f"{module}.{name}") in known

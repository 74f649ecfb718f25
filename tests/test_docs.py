"""The documentation names every module, builds without a warning, and asks no network when it is read."""

import html.parser
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

import maml_toolkit

ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Elements for which a browser asks as it opens a page, and where they say what."""


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


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning_and_asks_no_network(tmp_path):
    out = tmp_path / "site"
    built = subprocess.run([sys.executable, str(ROOT / "docs" / "build.py"), str(out)], capture_output=True, text=True,
                           check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    pages = list(out.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        for address in resources(page):
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
            if not address.startswith("data:"):
                assert (page.parent / re.split("[?#]", address)[0]).exists(), f"{page.name} lacks {address}"
    for notebook in (ROOT / "tutorials").glob("*.ipynb"):
        shown = [one for one in resources(out / "tutorials" / f"{notebook.stem}.html") if one.endswith(".png")]
        outputs = [output for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
                   for output in cell.get("outputs", ())]
        assert len(shown) == sum("image/png" in output.get("data", ()) for output in outputs), notebook.name
    styles = list(out.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name
    shown = (out / "tutorials" / "1-first-segmentation.html").read_text(encoding="utf-8")
    assert "<img" in shown
    assert "arterial+venous" in shown
    described = InventoryFile.loads((out / "objects.inv").read_bytes(), uri="").data
    known = {name for kind in described.values() for name in kind}
    for name in maml_toolkit.__all__:
        home = getattr(maml_toolkit, name)
        module = getattr(home, "__module__", f"maml_toolkit.{maml_toolkit._HOME[name]}")
        assert (home.__name__ if inspect.ismodule(home) else f"{module}.{name}") in known

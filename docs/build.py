"""Builds the documentation as one folder of pages that needs no network: `python docs/build.py build/docs`.

The tutorials, recipes/README.md, CONTRIBUTING.md and CHANGELOG.md are laid beside the pages first, which name them as
they lie in the repository (`../tutorials/`), and so are the live demo (demo.py) and the pictures of the gallery
(examples.py). A warning is an error.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import demo
import examples
from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parents[1]


def build(out: Path) -> int:
    """Builds into a folder, which is made anew, and returns Sphinx's exit status."""
    shutil.rmtree(out, ignore_errors=True)
    with TemporaryDirectory() as folder:
        pages, made = Path(folder) / "pages", Path(folder) / "made"
        shutil.copytree(ROOT / "docs", pages)
        shutil.copytree(ROOT / "tutorials", pages / "tutorials", ignore=shutil.ignore_patterns(".*", "runs"))
        (pages / "recipes").mkdir()
        for name in ("CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md"):
            shutil.copy(ROOT / name, pages / name)
        for page in pages.glob("*.md"):
            page.write_text(page.read_text(encoding="utf-8").replace("](../", "]("), encoding="utf-8")
        (pages / "_static" / "demo.html").write_text(demo.page(), encoding="utf-8")
        examples.write_gallery(pages)
        return main(["-q", "-W", "--keep-going", "-d", str(made), str(pages), str(out)])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))

"""Builds the documentation as one folder of pages that needs no network: `python docs/build.py build/docs`.

The tutorials, CONTRIBUTING.md and CHANGELOG.md are laid beside the pages first. A warning is an error.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parents[1]


def build(out: Path) -> int:
    """Builds into a folder, which is made anew, and returns Sphinx's exit status."""
    shutil.rmtree(out, ignore_errors=True)
    with TemporaryDirectory() as folder:
        pages, made = Path(folder) / "pages", Path(folder) / "made"
        shutil.copytree(ROOT / "docs", pages)
        shutil.copytree(ROOT / "tutorials", pages / "tutorials", ignore=shutil.ignore_patterns(".*", "runs"))
        for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
            shutil.copy(ROOT / name, pages / name)
        return main(["-q", "-W", "--keep-going", "-d", str(made), str(pages), str(out)])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))

"""Puts a tutorial that was run where it is committed: without the times of the run, its pictures in 64 levels a colour.

    python tutorials/stored.py build/tutorials/1-first-segmentation.ipynb
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image

HERE = Path(__file__).parent


def smaller(png: str) -> str:
    """The same picture in 64 levels of each colour, or what was given if that is shorter; both in base64."""
    written = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.point(lambda value: value // 4 * 4 + value // 64).save(written, "PNG", optimize=True)
    return min(png, base64.b64encode(written.getvalue()).decode(), key=len)


def stored(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with no metadata but tags and language, and smaller pictures."""
    notebook.metadata = {"language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])
    return notebook


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        nbformat.write(stored(nbformat.read(path, 4)), HERE / path.name)

"""Notebooks of a few lines for the tests of jobs."""

from pathlib import Path

import nbformat

PARAMETERS = '''run = "runs/tiny"
steps = 3  # how many; a = b is no parameter
rates = [0.1,
         0.2]   # one a stage
case = None
loud = False
'''


def write(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def text_of(executed: Path) -> str:
    cells = [cell for cell in nbformat.read(executed, 4).cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)

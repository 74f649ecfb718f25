"""What the cards of objects are made of: titles, tables, pictures side by side, curves, and faults in red.

GitHub drops styles, a dark theme turns the page around: so what must be seen is a word or a picture, texts have the
colour of the page, and pictures have their own ground.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation.printing import NO_VALUE
from maml_toolkit.pictures.plots.charts import learning_curves
from maml_toolkit.pictures.plots.look import one_look
from maml_toolkit.pictures.report.pages import image, png
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.errors import counted
from maml_toolkit.system.showing import Facts

PICTURES = 36_000
"""Bytes that the pictures of a card may have; a third more as text, which leaves room for words below 60 kB."""
SIDES = (128, 104, 80, 64, 48, 32)
"""Pixels along the longer side of a picture: the first with which all of them are small enough."""
TILES, A_ROW, ROWS = 24, 6, 40
"""The most pictures of a card, in a row, and the most rows of a table."""
RED = "#e5383b"
"""Legible on white and on black."""
LEFT = 'style="text-align:left;vertical-align:top"'

Tile = tuple[str, np.ndarray | None, str]
"""Title, picture (grey or coloured bytes; None is hatched) and what stands below it, as HTML."""


def of_facts(facts: Facts) -> str:
    """A title, a row for each fact, and in red what is wrong."""
    return "".join([title(facts.title), table_of(facts.rows, facts.marked), in_red(facts.faults)])


def title(text: str) -> str:
    """What an object is."""
    return f"<p><b>{escape(text)}</b></p>" if text else ""


def fault(text: str) -> str:
    """What is wrong, in red."""
    return f'<b style="color:{RED}">{escape(text)}</b>'


def table_of(rows: Mapping[str, str], marked: Sequence[str] = ()) -> str:
    """Names and texts, some of them in bold; empty ones are left out."""
    return rows_of((), [[escape(name), f"<b>{escape(text)}</b>" if name in marked else escape(text)]
                        for name, text in rows.items() if text])


def rows_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table from cells that are HTML already."""
    head = "".join(f"<th {LEFT}>{escape(name)}</th>" for name in columns)
    lines = "".join("<tr>" + "".join(f"<td {LEFT}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{lines}</table>" if lines or head else ""


def tiles(shown: Sequence[Tile]) -> str:
    """Pictures side by side, small enough together."""
    hidden = len(shown) - TILES
    shown = shown[:TILES]
    shape = next((pixels.shape[:2] for _, pixels, _ in shown if pixels is not None), (1, 1))
    for side in SIDES:
        row, column = np.indices([max(1, round(side * n / max(shape))) for n in shape])
        hatched = np.where((row + column) % 12 < 2, 120, 205).astype(np.uint8)
        files = [png(hatched if pixels is None else pixels, side) for _, pixels, _ in shown]
        if sum(map(len, files)) <= PICTURES:
            break
    cells = [f'<b>{escape(name)}</b><br>{image(file, name)}<br>{below}'
             for (name, _, below), file in zip(shown, files, strict=True)]
    more = f"<p>and {counted(hidden, 'scan')} more</p>" if hidden > 0 else ""
    return rows_of((), [cells[first:first + A_ROW] for first in range(0, len(cells), A_ROW)]) + more


def curves(history: pd.DataFrame, task: Task | None) -> str:
    """How a training went, as a picture; nothing before its first epoch has ended."""
    if not len(history):
        return ""
    figure = Figure(figsize=(8.6, 2.5), dpi=88, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    with one_look():
        for ax in learning_curves(history, figure.subplots(1, 2), task):
            if ax.lines:        # beside the lines, not over them
                ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    canvas.draw()
    return f"<p>{image(png(np.asarray(canvas.buffer_rgba())[..., :3]), 'loss and validation Dice by epoch')}</p>"


def best_of(run: Run, history: pd.DataFrame) -> str:
    """The best mean validation Dice so far and its epoch, in words."""
    return "Dice {:.3f} in epoch {}".format(*found) if (found := run.best(history)) else ""


def in_red(faults: Sequence[str]) -> str:
    """What is wrong, one below the other."""
    shown = "".join(f"<li>{fault(one[:400])}</li>" for one in faults[:8])
    more = f"<li>{fault(f'and {len(faults) - 8} more')}</li>" if len(faults) > 8 else ""
    return f"<ul>{shown}{more}</ul>" if shown else ""


def and_more(rows: int) -> str:
    """How many rows of a table are not shown."""
    return f"<p>and {rows - ROWS} more</p>" if rows > ROWS else ""


def first_rows(table: pd.DataFrame) -> str:
    """The first rows of a table, numbers in four digits; what all rows share is said once, nothing is left out."""
    table = table.dropna(axis=1, how="all")
    shared = {name: str(values.iloc[0]) for name, values in table.items()
              if len(table) > 1 and values.nunique(dropna=False) == 1}
    own = table.drop(columns=list(shared))
    cells = [[escape(_number(cell)) for cell in row] for row in own.head(ROWS).itertuples(index=False)]
    same = ", ".join(f"{name} {text}" for name, text in shared.items() if text)
    return (f"<p>{escape(same)}</p>" if same else "") + rows_of(list(map(str, own.columns)), cells) + and_more(len(own))


def _number(cell: Any) -> str:
    return str(cell) if not isinstance(cell, float) else NO_VALUE if np.isnan(cell) else f"{cell:.4g}"

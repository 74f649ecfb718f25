"""What every page is made of: one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from scipy.ndimage import binary_erosion

import maml_toolkit
from maml_toolkit.pictures.plots.look import ON_IMAGES
from maml_toolkit.system.errors import DataError, shown
from maml_toolkit.system.files import writable, write_whole

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML file from the parts of its body."""
    return shown(f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
                 f'<style>{STYLE}</style></head><body>{"".join(body)}<footer>maml_toolkit {maml_toolkit.__version__}, '
                 f"{date.today().isoformat()}. Research use only.</footer></body></html>")


def written(path: str | Path, title: str, body: Iterable[str]) -> Path:
    """The file of a page, whose folder is tried before the parts of its body are made."""
    path = writable(Path(path).absolute().parent) / Path(path).name
    write_whole(path, page(title, body))
    return path


def picture(pixels: np.ndarray, caption: str) -> str:
    """A figure with its picture inside: grey (rows, columns) or coloured (rows, columns, 3) bytes."""
    file = io.BytesIO()
    plt.imsave(file, np.ascontiguousarray(pixels), format="png", cmap="gray", vmin=0, vmax=255)
    return _figure(file, "png", caption)


def outlined(grey: np.ndarray, label: np.ndarray | None, values: Iterable[Sequence[int]] = (),
             colours: Iterable[str] = ON_IMAGES) -> np.ndarray:
    """A grey picture with a line in a colour of its own around each class of a label, if that has its shape.

    Args:
        values: of each class, without the background; each value is one where they are left out.
        colours: of the classes, such as `look.class_colours`.
    """
    coloured = np.repeat(grey[..., None], 3, axis=-1)
    if label is None or label.shape != grey.shape:
        return coloured
    values = list(values) or [(value,) for value in np.unique(label).tolist() if value]
    for own, colour in zip(values, cycle(colours), strict=False):
        mask = np.isin(label, own)
        coloured[mask & ~binary_erosion(mask, border_value=1)] = np.multiply(to_rgb(colour), 255)
    return coloured


def drawn(draw: Callable[[], Any], caption: str, *, kind: str = "png") -> str:
    """A figure that a function of `plots` draws, with its picture inside.

    Args:
        kind: "png", or "jpeg" for pictures that are mostly of scans, a fifth of the size.
    """
    before = set(plt.get_fignums())
    draw()
    figures = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    file = io.BytesIO()
    figures[-1].savefig(file, format=kind, dpi=110, bbox_inches="tight")
    for figure in figures:
        plt.close(figure)
    return _figure(file, kind, caption, ' class="drawn"')


def _figure(file: io.BytesIO, kind: str, caption: str, more: str = "") -> str:
    data = base64.b64encode(file.getvalue()).decode()
    return (f'<figure{more}><img alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table from cells that are HTML already, its rows marked as "error" or "warning" where they are one."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    start = f'<tr class="{kind}">' if kind else "<tr>"
    lines = "".join(start + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def findings(title: str, kind: str, found: Sequence[DataError], local: Callable[[str], str]) -> str:
    """A section with what is wrong and what to do about it; nothing where nothing is."""
    rows = [(escape(one.case or "the data set"), escape(one.modality or ""),
             f'{escape(local(one.problem))}<div class="remedy">{code(local(one.remedy))}</div>'
             f'<div class="file">{escape(local(str(one.path or "")))}</div>') for one in found]
    return f"<h2>{title}</h2>{table(['Case', 'Scan', 'What was found, and what to do'], rows, kind)}" if rows else ""


def code(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def shortened(source: str | Path | None) -> Callable[[str], str]:
    """A function that shows paths relative to the data set."""
    if source is None:
        return lambda text: text
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    ways = {f"{one}{os.sep}" for one in (folder, folder.absolute(), folder.resolve())} - {f".{os.sep}"}
    longest_first = sorted(map(re.escape, ways), key=len, reverse=True)
    return partial(re.compile("|".join(longest_first)).sub, "")

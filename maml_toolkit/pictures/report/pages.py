"""What every page is made of: one HTML file that needs no network and no other file."""

import base64
import io
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from nibabel.affines import voxel_sizes
from PIL import Image
from scipy.ndimage import binary_erosion

import maml_toolkit
from maml_toolkit.data.tasks import Task
from maml_toolkit.pictures.plots.look import value_colour
from maml_toolkit.system.errors import DataError, alike, few, shown
from maml_toolkit.system.files import writable_file, write_whole

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
NUMBER = re.compile(r"[-+−–\d]|$")
"""How a cell with a number begins; one without a value is empty."""


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML file under one heading from the parts of its body."""
    return shown('<!doctype html><html lang="en"><head><meta charset="utf-8">'
                 '<meta name="viewport" content="width=device-width, initial-scale=1">'
                 f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
                 f'{"".join(body)}<footer>maml_toolkit {maml_toolkit.__version__}, {date.today().isoformat()}. '
                 "Research use only.</footer></body></html>")


def written(path: str | Path, title: str, body: Iterable[str]) -> Path:
    """The file of a page, whose folder is tried before the parts of its body are made."""
    path = writable_file(path)
    write_whole(path, page(title, body))
    return path


def picture(pixels: np.ndarray, caption: str, says: str) -> str:
    """A figure with its picture inside: grey (rows, columns) or coloured (rows, columns, 3) bytes.

    Args:
        says: what is seen, for those who do not see it.
    """
    return f"<figure>{image(png(pixels), says)}<figcaption>{escape(caption)}</figcaption></figure>"


def png(pixels: np.ndarray, side: int | None = None) -> bytes:
    """A small file of at most 256 colours, the longer side as asked for.

    A channel keeps every sixth of its values, so that slices with lines have few colours and need none that is near.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if side is not None:
        scale = side / max(picture.size)
        size = [max(1, round(n * scale)) for n in picture.size]
        picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    coloured = picture.convert("RGB")
    rounded = coloured.point(lambda value: value // 6 * 6 + 3)
    few_colours = rounded.quantize(256) if rounded.getcolors(256) else coloured.quantize(64)
    file = io.BytesIO()
    few_colours.save(file, "png", optimize=True)
    return file.getvalue()


def image(file: bytes, says: str, kind: str = "png") -> str:
    """A picture inside the page."""
    return f'<img alt="{escape(says)}" src="data:image/{kind};base64,{base64.b64encode(file).decode()}">'


def swatch(colour: str) -> str:
    """A square of a colour; a picture, since styles are dropped on the way to some readers."""
    return image(png(np.full((12, 12, 3), np.multiply(to_rgb(colour), 255).round(), np.uint8)), "colour")


def legend(colours: Mapping[str, str]) -> str:
    """What has which colour, in a line."""
    return " ".join(f"{swatch(colour)} {escape(name)}" for name, colour in colours.items())


def outlined(grey: np.ndarray, label: np.ndarray | None, values: Iterable[Sequence[int]] = (),
             colours: Iterable[str] = ()) -> np.ndarray:
    """A grey picture with a line in a colour of its own around each class of a label, if that has its shape.

    Args:
        values: of each class, without the background; each value is one where they are left out, with the same colour
            in every picture.
        colours: of the classes, such as `look.class_colours`.
    """
    coloured = np.repeat(grey[..., None], 3, axis=-1)
    if label is None or label.shape != grey.shape:
        return coloured
    values = list(values)
    if not values:
        values = [(value,) for value in np.unique(label).tolist() if value]
        colours = [value_colour(value) for (value,) in values]
    for own, colour in zip(values, cycle(colours), strict=False):
        coloured[edge_of(np.isin(label, own))] = np.multiply(to_rgb(colour), 255)
    return coloured


def edge_of(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch others inside the picture."""
    return mask & ~binary_erosion(mask, border_value=1)


def drawn(draw: Callable[[], Any], caption: str, *, kind: str = "png") -> str:
    """A figure that a function of `plots` draws, with its picture inside.

    A title above all of its panels becomes part of the caption, where it wraps and can be copied. Who does not see the
    picture is told the panels' titles and the legend.

    Args:
        kind: "png", or "jpeg" for pictures that are mostly of scans, a fifth of the size.
    """
    before = set(plt.get_fignums())
    draw()
    figures = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    caption = " ".join([*figures[-1].get_suptitle().split(), caption])
    figures[-1].suptitle("")
    legends = [*figures[-1].legends, *filter(None, (ax.get_legend() for ax in figures[-1].axes))]
    says = [*(ax.get_title() for ax in figures[-1].axes), *(one.get_text() for own in legends for one in own.texts)]
    file = io.BytesIO()
    figures[-1].savefig(file, format=kind, dpi=110, bbox_inches="tight")
    for figure in figures:
        plt.close(figure)
    return (f'<figure class="drawn">{image(file.getvalue(), ", ".join(dict.fromkeys(filter(None, says))), kind)}'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table from cells that are HTML already, a row's name first; columns of numbers stand on the right.

    Args:
        columns: their heads; none for names and what is said of each.
        caption: what the rows are, and of means over which cases.
    """
    rows = list(rows)
    of = [' class="number"' if columns and number and any(cells) and all(map(NUMBER.match, cells)) else ""
          for number, cells in enumerate(zip(*rows, strict=True))]
    head = "".join(f'<th scope="col"{more}>{escape(name)}</th>' for name, more in zip(columns, of, strict=False))
    lines = "".join(f'<tr><th scope="row">{name}</th>' + "".join(
        f"<td{more}>{cell}</td>" for cell, more in zip(cells, of[1:], strict=True)) + "</tr>" for name, *cells in rows)
    head = head and f"<thead><tr>{head}</tr></thead>"
    about = f"<caption><span>{escape(caption)}</span></caption>"
    return wide(f"<table>{about}{head}<tbody>{lines}</tbody></table>", caption)


def wide(html: str, says: str, kind: str = "") -> str:
    """What may be wider than the screen, to be moved by keys and fingers without the rest of the page."""
    return f'<div class="wide {kind}" role="region" tabindex="0" aria-label="{escape(says)}">{html}</div>'


def voxel_size(affine: np.ndarray) -> str:
    """Of a voxel in mm, along each axis of the array."""
    return " x ".join(f"{mm:.3g}" for mm in voxel_sizes(affine))


def made_of(task: Task) -> str:
    """Which classes each region is made of, in a line."""
    return ", ".join(f"{region} = {' + '.join(own)}" for region, own in task.regions.items())


def anchor(case: str | None) -> str:
    """The place of a case on a page."""
    return escape(f"case-{quote(case or '', safe='')}")


def files(path: str | Path, found: Iterable[Path]) -> str:
    """Where the files lie that a page is about: links to those below its folder, the bare names of others."""
    folder, names = Path(path).absolute().parent, []
    for one in (one.absolute() for one in found if one.exists()):
        name = escape(one.name + "/" * one.is_dir())
        within = one.is_relative_to(folder)
        names.append(f'<a href="{quote(one.relative_to(folder).as_posix())}">{name}</a>' if within else name)
    return ", ".join(names)


def findings(title: str, kind: str, found: Sequence[DataError], local: Callable[[str], str],
             known: Collection[str] = ()) -> str:
    """A section with what is wrong, grouped as `grouped` does, and what to do about it; nothing where nothing is.

    Args:
        kind: "error" or "warning".
        local: makes paths relative to the data set.
        known: the cases that have a place on this page, which are linked to it.
    """
    items = []
    for ones in alike(found):
        ids = dict.fromkeys(one.case for one in ones)
        cases = ", ".join(f'<a href="#{anchor(id)}">{escape(id)}</a>' if id in known else escape(id or "the data set")
                          for id in ids)
        names = {str(one.path): _within(local(str(one.path))) for one in ones if one.path}
        problem, remedy = (_replaced(text, names, local) for text in (ones[0].problem, ones[0].remedy))
        scan, files = f", {escape(ones[0].modality)}" if ones[0].modality else "", [*dict.fromkeys(names.values())]
        items.append(f'<li class="{kind}"><b>{cases}{scan}</b>: {escape(problem)}<div class="remedy">'
                     f'{code(remedy)}</div><div class="file">{escape(few(files))}</div></li>')
    return f'<h2>{title}</h2><ul class="findings">{"".join(items)}</ul>' if items else ""


def _within(path: str) -> str:
    """A path below the data set; of another file the bare name, since folders carry names of people."""
    return Path(path).name if Path(path).is_absolute() or Path(path).parts[:1] == ("..",) else path


def _replaced(text: str, names: Mapping[str, str], local: Callable[[str], str]) -> str:
    """A text with these names in the place of paths."""
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return local(text)


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

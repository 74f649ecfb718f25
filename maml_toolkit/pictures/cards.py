"""How objects show themselves in a notebook: static HTML with small pictures inside, without script and widget.

GitHub drops styles, a dark theme turns the page around: so what must be seen is a word or a picture, texts have the
colour of the page, and pictures have their own ground.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import singledispatch
from html import escape
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import binary_erosion

from maml_toolkit.data import volumes
from maml_toolkit.data.case import Case, Cases
from maml_toolkit.data.findings import found_in_case
from maml_toolkit.data.reading import describing, read_case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.evaluation.printing import MISSING, NO_VALUE, PRESENT
from maml_toolkit.evaluation.table import Table, formatted, metrics_of, read_table
from maml_toolkit.pictures.plots.curves import learning_curves
from maml_toolkit.pictures.plots.look import class_colours, one_look
from maml_toolkit.pictures.plots.slices import map_scale
from maml_toolkit.pictures.plots.view import Plane, brightness, inside_largest_section, window
from maml_toolkit.pictures.report.pages import outlined, shortened
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.saved import SavedMaps
from maml_toolkit.system.errors import DataError, counted, few
from maml_toolkit.system.showing import Facts

PICTURES = 36_000
"""Bytes that the pictures of a card may have; a third more as text, which leaves room for words below 60 kB."""
SIDES = (128, 104, 80, 64, 48, 32)
"""Pixels along the longer side of a picture: the first with which all of them are small enough."""
TILES, A_ROW, ROWS = 24, 6, 40
"""The most pictures of a card, in a row, and the most rows of a table."""
READ = 2**27
"""Voxels of a case that are read for its pictures; a larger one shows what its headers say."""
RED = "#e5383b"
"""Legible on white and on black."""
LEFT = 'style="text-align:left;vertical-align:top"'

Tile = tuple[str, np.ndarray | None, str]
"""Title, picture (grey or coloured bytes; None is hatched) and what stands below it, as HTML."""


@singledispatch
def card(thing: Any) -> str:
    """The HTML of an object; of one that has none of its own, its facts."""
    return of_facts(thing.facts())


@card.register
def _(facts: Facts) -> str:
    return of_facts(facts)


@card.register
def _(case: Case) -> str:
    task, local = case.task or _unknown(case), shortened(_folder(case))
    about = f"Case {case.id}" + (f", patient {case.patient}" if case.patient not in (None, case.id) else "")
    try:
        sizes = {name: volumes.read_header(source) for name, source in case.images.items()}
    except DataError:
        sizes = {}                      # the reading says what is wrong
    if sum(prod(shape) for shape, _ in sizes.values()) > READ:
        rows = {name: _grid_in_words(*grid) for name, grid in sizes.items()}
        return of_facts(Facts(about, {**rows, "pictures": "too large to be read for a glance; see plots.case_slices"}))
    reading = read_case(case, task, checked_labels=case.task is not None)
    seen = {one.name: one for one in found_in_case(case, reading, task).seen}
    label, shown = seen.get("label"), []
    known = ([*task.labels.values()][1:], class_colours(task).values()) if case.task else ()
    for name in dict.fromkeys((*task.modalities, *case.images)):
        if name in seen:
            shown.append((name, outlined(seen[name].picture, label.picture if label is not None else None, *known),
                          _grid_in_words(seen[name].shape, seen[name].affine)))
        else:
            shown.append((name, None, fault("cannot be read") if name in case.images else "not acquired"))
    errors = [*reading.errors, *(describing(case, task, False) if case.task else ())]
    faults = [local((f"{one.modality}: " if one.modality else "") + one.problem.rstrip(".") +
                    (f". {one.remedy}" if one.remedy else "")) for one in errors]
    odd = {f"odd ({number})": local(one.problem) for number, one in enumerate(reading.oddities[:5], 1)}
    found = ""
    if label is not None:
        volume = reading.stored["label"].label()
        values = dict(zip(*map(np.ndarray.tolist, np.unique(volume.array, return_counts=True)), strict=True))
        found = _volumes(task if case.task else None, values, volume.affine)
    nothing = {} if found else {"label": "none" if case.label is None else "cannot be read"}
    return "".join([title(about), tiles(shown), found, table_of({**nothing, **odd}), _faults(faults)])


@card.register
def _(cases: Cases) -> str:
    names = [*cases.modalities, "label"]
    has = [tuple(name in case.files for name in names) for case in cases]
    gone = {case.id: [name for name, source in case.files.items()
                      if isinstance(path := volumes.path_of(source), Path) and not path.exists()] for case in cases}
    counts = [f"{name} ({sum(one[number] for one in has)})" for number, name in enumerate(names)]
    if len(cases) <= ROWS:
        rows = [[escape(case.id), *_marks(own, names, gone[case.id])] for case, own in zip(cases, has, strict=True)]
    else:
        kinds = {own: [case.id for case, one in zip(cases, has, strict=True) if one == own] for own in sorted(
            set(has), reverse=True)}
        rows = [[escape(f"{len(ids)}: {few(ids, 2)}"), *_marks(own, names)] for own, ids in kinds.items()]
    patients = len({case.patient or case.id for case in cases})
    tasks = sorted({case.task.name for case in cases if case.task})
    about = counted(len(cases), "case") + (f" of {counted(patients, 'patient')}" if patients != len(cases) else "")
    faults = [f"{id}: {', '.join(names)} gone, the file is not there" for id, names in gone.items() if names]
    return "".join([title(about + (f", task {', '.join(tasks)}" if tasks else "")),
                    rows_of(["", *counts], rows[:ROWS]), _more(len(rows)), _faults(faults)])


@card.register
def _(task: Task) -> str:
    classes = [[swatch(colour), escape(name), ", ".join(map(str, task.labels[name])),
                escape(", ".join(region for region, own in task.regions.items() if name in own))]
               for name, colour in {task.class_names[0]: "0.15", **class_colours(task)}.items()]
    kinds = {kind: [name for name in task.modalities if task.intensities[name] == kind]
             for kind in dict.fromkeys(task.intensities.values())}
    rows = {"scans": "; ".join(f"{', '.join(names)} ({kind})" for kind, names in kinds.items())
            + f"; others are registered onto {task.reference}",
            **{f"region {name}": "{" + ", ".join(own) + "}" for name, own in task.regions.items()},
            **({"trained on": "regions"} if task.train_on == "regions" else {}),
            "grid": "median spacing of the training cases" if task.spacing_mm is None else
            f"{' x '.join(f'{mm:g}' for mm in task.spacing_mm)} mm",
            **({"sides": task.about_sides} if task.about_sides else {}),
            **({"not labelled": f"the value {task.ignore}"} if task.ignore is not None else {})}
    return "".join([title(f"Task {task.name}"), rows_of(["", "class", "values", "in"], classes), table_of(rows)])


@card.register
def _(prediction: Prediction) -> str:
    task, classes = prediction.task, prediction.classes_in_box
    found = Volume(classes, prediction.grid.box_affine)
    counts = np.bincount(classes.ravel(), minlength=task.classes).tolist()
    voxels = {task.labels[name][0]: count for name, count in zip(task.class_names, counts, strict=True)}
    at = inside_largest_section(found) if classes.any() else np.floor_divide(classes.shape, 2)
    plane = Plane.through((found.affine @ [*at, 1])[:3], found)
    section, faults = plane.cut(found, order=0).astype(int), []
    scan = None
    with _said(faults):
        scan = _scan_behind(prediction, plane)
    grey = np.zeros(section.shape, np.uint8) if scan is None else scan[1]
    coloured = outlined(grey, section, [(number,) for number in range(1, task.classes)], class_colours(task).values())
    shown = [_upright(f"found{f', on {scan[0]}' if scan else ''}", coloured, plane, "axial, largest section")]
    means = ""
    with _said(faults):
        if section.any():
            contrast = _contrast(section, task)
            if maps := _contributions(prediction, plane, section, contrast):
                shown += maps
                means = f"<p>{escape(contrast.sentence)} The numbers are means inside the outline, in log-odds.</p>"
    by = ", ".join(filter(None, (prediction.method, prediction.run and f"run {prediction.run}", prediction.policy)))
    told = {name: text for name, text in (("by", by), ("how sure", str(prediction.sureness or ""))) if text}
    return "".join([title(f"Case {prediction.case}: {prediction.used}"), table_of(told),
                    tiles(shown), means, _volumes(task, voxels, found.affine), _faults(faults)])


@card.register
def _(run: Run) -> str:
    faults: list[str] = []
    made, stands, history, measured, saved = {}, "", pd.DataFrame(), None, 0
    with _said(faults):
        made = run.settings
        stands = run.stands
    with _said(faults):
        history = run.epochs()
    with _said(faults):
        measured = read_table(run.metrics) if run.metrics.exists() else None
    with suppress(OSError):
        saved = len([*run.predictions.glob("*/prediction.json")])
    method, trainer = made.get("method", {}), made.get("trainer", {})
    cases = {f"{part} cases": str(len(ids)) for part, ids in made.get("cases", {}).items()}
    rows = {"stands": stands, "method": f"{method.get('method')} of {', '.join(method.get('modalities', ()))}" if method
            else "", "task": made.get("task", {}).get("name", ""), **cases,
            **{name: _value(trainer[name]) for name in ("recipe", "patch_size", "batch_size", "learning_rate")
               if name in trainer},
            "best validation": best_of(history), "predictions": str(saved or ""), "folder": str(run.folder)}
    parts = [of_facts(Facts(f"Run {run.name}", rows, ("stands",), faults)), curves(history)]
    return "".join([*parts, *([_summary(measured)] if measured is not None else [])])


@card.register
def _(table: Table) -> str:
    if {"value", "case", "metric"} <= set(table.columns) and len(table):
        return title(table.about) + _summary(table)
    return title(table.about) + _html(table)


def of_facts(facts: Facts) -> str:
    """A title, a row for each fact, and in red what is wrong."""
    return "".join([title(facts.title), table_of(facts.rows, facts.marked), _faults(facts.faults)])


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
        hatched = _hatch(*(max(1, round(side * n / max(shape))) for n in shape))
        files = [png(hatched if pixels is None else pixels, side) for _, pixels, _ in shown]
        if sum(map(len, files)) <= PICTURES:
            break
    cells = [f'<b>{escape(name)}</b><br>{image(file, name)}<br>{below}'
             for (name, _, below), file in zip(shown, files, strict=True)]
    more = f"<p>and {counted(hidden, 'scan')} more</p>" if hidden > 0 else ""
    return rows_of((), [cells[first:first + A_ROW] for first in range(0, len(cells), A_ROW)]) + more


def png(pixels: np.ndarray, side: int | None = None) -> bytes:
    """A small file of at most 256 colours, the longer side as asked for.

    A channel keeps every sixth of its values, so that slices with lines have few colours and need none that is near.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if side is not None:
        scale = side / max(picture.size)
        size = [max(1, round(n * scale)) for n in picture.size]
        picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    rounded = np.asarray(picture.convert("RGB"), np.uint32) // 6 * 6 + 3
    codes, index = np.unique(rounded @ (1 << 16, 1 << 8, 1), return_inverse=True)
    if len(codes) > 256:
        few_colours = picture.convert("RGB").quantize(64)
    else:
        few_colours = Image.fromarray(index.reshape(rounded.shape[:2]).astype(np.uint8), "P")
        few_colours.putpalette(np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1).astype(np.uint8).tobytes())
    file = io.BytesIO()
    few_colours.save(file, "png", optimize=True)
    return file.getvalue()


def image(file: bytes, says: str) -> str:
    """A picture inside the page."""
    return f'<img alt="{escape(says)}" src="data:image/png;base64,{base64.b64encode(file).decode()}">'


def swatch(colour: str) -> str:
    """A square of a colour; a picture, since styles are dropped on the way to some readers."""
    return image(png(np.full((12, 12, 3), np.multiply(to_rgb(colour), 255).round(), np.uint8)), "colour")


def classes_of(task: Task) -> str:
    """Which class has which colour, in a line."""
    return " ".join(f"{swatch(colour)} {escape(name)}" for name, colour in class_colours(task).items())


def curves(history: pd.DataFrame) -> str:
    """How a training went, as a picture; nothing before its first epoch has ended."""
    if not len(history):
        return ""
    figure = Figure(figsize=(8.6, 2.5), dpi=88, layout="constrained", facecolor="white")
    with one_look():
        for ax in learning_curves(history, figure.subplots(1, 2)):
            if ax.lines:        # beside the lines, not over them
                ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return f"<p>{image(drawn(figure), 'loss and validation Dice by epoch')}</p>"


def drawn(figure: Figure) -> bytes:
    """A figure as a small file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return png(np.asarray(Image.open(file).convert("RGB")))


def best_of(history: pd.DataFrame) -> str:
    """The best mean validation Dice so far and its epoch, in words."""
    dice = history.filter(regex="^validation/dice/").mean(axis=1).dropna()
    return f"Dice {dice.max():.3f} in epoch {int(history['epoch'][dice.idxmax()])}" if len(dice) else ""


@contextmanager
def _said(faults: list[str]) -> Iterator[None]:
    """What goes wrong in the block is said among the faults, and the rest is shown all the same."""
    try:
        yield
    except Exception as error:          # whatever a damaged file may raise
        faults.append(str(error))


def _faults(faults: Sequence[str]) -> str:
    shown = "".join(f"<li>{fault(one[:400])}</li>" for one in faults[:8])
    more = f"<li>{fault(f'and {len(faults) - 8} more')}</li>" if len(faults) > 8 else ""
    return f"<ul>{shown}{more}</ul>" if shown else ""


def _more(rows: int) -> str:
    return f"<p>and {rows - ROWS} more</p>" if rows > ROWS else ""


def _value(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _marks(has: Sequence[bool], names: Sequence[str], gone: Sequence[str] = ()) -> list[str]:
    return [fault("gone") if name in gone else PRESENT if one else MISSING
            for name, one in zip(names, has, strict=True)]


def _grid_in_words(shape: Sequence[int], affine: np.ndarray) -> str:
    sizes = " x ".join(f"{mm:.3g}" for mm in np.linalg.norm(affine[:3, :3], axis=0))
    return f"{' x '.join(map(str, shape))}<br>{sizes} mm"


def _unknown(case: Case) -> Task:
    """Stands for the task of a case that was found by none: what its values mean is not known."""
    return Task("unknown", tuple(case.images) or ("scan",), {"background": 0, "label": 1})


def _folder(case: Case) -> Path | None:
    return next((Path(path).parent for source in case.files.values() if (path := volumes.path_of(source))), None)


def _volumes(task: Task | None, voxels: Mapping[int, int], affine: np.ndarray) -> str:
    """The volume of each class with its colour, and of each region; of each value where nobody knows what it means.

    Args:
        voxels: how many have each value of a label file.
    """
    def ml(values: Iterable[int]) -> str:
        return f"{abs(np.linalg.det(affine[:3, :3])) / 1000 * sum(voxels.get(one, 0) for one in values):.2f} ml"

    if task is None:
        return table_of({f"value {value}": ml([value]) for value in voxels if value} or {"label": "empty"})
    regions = {name: own for name, own in task.regions.items() if own != (name,)}
    return rows_of((), [
        *([swatch(colour), escape(name), ml(task.labels[name])] for name, colour in class_colours(task).items()),
        *(["", f"<b>{escape(name)}</b> = {escape(' + '.join(own))}",
           ml(value for one in own for value in task.labels[one])] for name, own in regions.items())])


def _hatch(rows: int, columns: int) -> np.ndarray:
    row, column = np.mgrid[:rows, :columns]
    return np.where((row + column) % 12 < 2, 120, 205).astype(np.uint8)


def _upright(name: str, pixels: np.ndarray, plane: Plane, below: str) -> Tile:
    """A picture of a plane, its first row at the top and its pixels square."""
    width, height = plane.spacing_mm * plane.size
    finest = min(plane.spacing_mm)
    rows, columns = (np.linspace(0, n - 1, max(1, round(mm / finest))).round().astype(int)
                     for n, mm in zip(pixels.shape[:2], (height, width), strict=True))
    return name, pixels[::-1][np.ix_(rows, columns)], below


def _scan_behind(prediction: Prediction, plane: Plane) -> tuple[str, np.ndarray] | None:
    """The name and the grey slice of a scan that was used, if its case is at hand."""
    if prediction.source is None:
        return None
    task = prediction.task
    name = task.reference if task.reference in prediction.modalities else prediction.modalities[0]
    scan = volumes.read(prediction.source.images[name], case=prediction.case, modality=name)
    shown = window(scan.array, task.intensities[name])
    return name, (255 * brightness(plane.cut(scan, outside=shown[0]), *shown)).astype(np.uint8)


def _contributions(prediction: Prediction, plane: Plane, section: np.ndarray, contrast: Contrast) -> list[Tile]:
    """The share of each scan in the log-odds of a class, and its mean where the class was found."""
    task, maps = prediction.task, prediction.maps
    known = [name for name in prediction.modalities if f"contribution/{name}" in maps]
    if not known:
        return []
    affine = prediction.grid.box_affine if isinstance(maps, SavedMaps) else prediction.grid.working_affine
    inside = np.isin(section, contrast.classes)
    cuts, _ = contrast.shares({name: np.stack([plane.cut(Volume(one, affine)) for one in maps[f"contribution/{name}"]])
                               for name in known}, prediction.bias)
    scale, found = map_scale("contribution", [*cuts.values()]), []
    for name in task.modalities:
        if name in cuts:
            pixels = scale.to_rgba(cuts[name], bytes=True)[..., :3]
            pixels[inside & ~binary_erosion(inside, border_value=1)] = 0
            found.append(_upright(name, pixels, plane, f"{cuts[name][inside].mean():+.2f} for "
                                                       f"{escape(contrast.name)}"))
        else:
            found.append((name, None, "not used"))
    return found


def _contrast(section: np.ndarray, task: Task) -> Contrast:
    """The class that is largest in a picture of classes, against the background; or the region that paints it."""
    largest = int(np.bincount(section[section > 0], minlength=task.classes).argmax())
    return Contrast.of(task, task.answers.named(largest))


def _summary(measured: pd.DataFrame) -> str:
    return _html(formatted(measured, metrics_of(measured)))


def _html(table: pd.DataFrame) -> str:
    """The first rows of a table, numbers in four digits; what all rows share is said once, nothing is left out."""
    table = table.dropna(axis=1, how="all")
    shared = {name: str(values.iloc[0]) for name, values in table.items()
              if len(table) > 1 and values.nunique(dropna=False) == 1}
    own = table.drop(columns=list(shared))
    cells = [[escape(_number(cell)) for cell in row] for row in own.head(ROWS).itertuples(index=False)]
    same = ", ".join(f"{name} {text}" for name, text in shared.items() if text)
    return (f"<p>{escape(same)}</p>" if same else "") + rows_of(list(map(str, own.columns)), cells) + _more(len(own))


def _number(cell: Any) -> str:
    return str(cell) if not isinstance(cell, float) else NO_VALUE if np.isnan(cell) else f"{cell:.4g}"

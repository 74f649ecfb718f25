"""How objects show themselves in a notebook: static HTML with small pictures inside, without script and widget."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import singledispatch
from html import escape
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maml_toolkit.data import volumes
from maml_toolkit.data.case import Case, Cases
from maml_toolkit.data.findings import Seen, found_in_case
from maml_toolkit.data.geometry import voxel_ml
from maml_toolkit.data.reading import describing, read_case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.evaluation.printing import MISSING, PRESENT
from maml_toolkit.evaluation.table import Table, formatted, metrics_of, read_table
from maml_toolkit.pictures import pieces
from maml_toolkit.pictures.pieces import fault, in_red, of_facts, rows_of, table_of, tiles, title
from maml_toolkit.pictures.plots.look import class_colours, value_colour
from maml_toolkit.pictures.plots.slices import map_scale
from maml_toolkit.pictures.plots.view import Plane, brightness, inside_largest_section, window
from maml_toolkit.pictures.report.pages import edge_of, outlined, shortened, swatch, voxel_size
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.saved import SavedMaps
from maml_toolkit.system.errors import DataError, counted, few
from maml_toolkit.system.showing import Facts, edges

READ = 2**27
"""Voxels of a case that are read for its pictures; a larger one shows what its headers say."""


@singledispatch
def card(thing: Any) -> str:
    """The HTML of an object; of one that has none of its own, its facts."""
    return of_facts(thing.facts())


@card.register
def _(facts: Facts) -> str:
    return of_facts(facts)


@card.register
def _(case: Case) -> str:
    # what the values of a case mean that was found by no task is not known
    task = case.task or Task("unknown", tuple(case.images) or ("scan",), {"background": 0, "label": 1})
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
    found = ""
    if "label" in seen:
        volume = reading.stored["label"].label()
        values = dict(zip(*map(np.ndarray.tolist, np.unique(volume.array, return_counts=True)), strict=True))
        found = _volumes(case.task, values, volume.affine)
    nothing = {} if found else {"label": "none" if case.label is None else "cannot be read"}
    local = shortened(next((Path(path).parent for source in case.files.values() if (path := volumes.path_of(source))),
                           None))
    odd = {f"odd ({number})": local(one.problem) for number, one in enumerate(reading.oddities[:5], 1)}
    errors = [*reading.errors, *(describing(case, task, False) if case.task else ())]
    faults = [local((f"{one.modality}: " if one.modality else "") + one.problem.rstrip(".") +
                    (f". {one.remedy}" if one.remedy else "")) for one in errors]
    return "".join([title(about), tiles(_scans(case, task, seen)), found, table_of({**nothing, **odd}),
                    in_red(faults)])


@card.register
def _(cases: Cases) -> str:
    names = [*cases.modalities, "label"]
    has = [tuple(name in case.files for name in names) for case in cases]
    gone = {case.id: [name for name, source in case.files.items()
                      if isinstance(path := volumes.path_of(source), Path) and not path.exists()] for case in cases}
    counts = [f"{name} ({sum(one[number] for one in has)})" for number, name in enumerate(names)]
    if len(cases) <= pieces.ROWS:
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
                    rows_of(["", *counts], rows[:pieces.ROWS]), pieces.and_more(len(rows)), in_red(faults)])


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
    scan = _tried(lambda: _scan_behind(prediction, plane), faults)
    grey = np.zeros(section.shape, np.uint8) if scan is None else scan[1]
    coloured = outlined(grey, section, [(number,) for number in range(1, task.classes)], class_colours(task).values())
    shown = [_upright(f"found{f', on {scan[0]}' if scan else ''}", coloured, plane, "axial, largest section")]
    maps, means = _tried(lambda: _contributions(prediction, plane, section), faults, ([], ""))
    by = ", ".join(filter(None, (prediction.method, prediction.run and f"run {prediction.run}", prediction.policy)))
    told = {name: text for name, text in (("by", by), ("how sure", str(prediction.sureness or ""))) if text}
    return "".join([title(f"Case {prediction.case}: {prediction.used}"), table_of(told),
                    tiles([*shown, *maps]), means, _volumes(task, voxels, found.affine), in_red(faults)])


@card.register
def _(run: Run) -> str:
    faults: list[str] = []
    made, stands = _tried(lambda: run.settings, faults, {}), _tried(lambda: run.stands, faults, "")
    history = _tried(run.epochs, faults, pd.DataFrame())
    measured = _tried(lambda: read_table(run.metrics) if run.metrics.exists() else None, faults)
    saved = _tried(lambda: len([*run.predictions.glob("*/prediction.json")]), [])
    method, trainer = made.get("method", {}), made.get("trainer", {})
    if run.is_older(run.metrics):
        faults.append("The run went on since it was measured: the scores are of earlier weights.")
    task = _tried(lambda: Task.from_json(made["task"]) if made.get("task") else None, faults)
    cases = {f"{part} cases": str(len(ids)) for part, ids in made.get("cases", {}).items()}
    rows = {"stands": stands, "method": f"{method.get('method')} of {', '.join(method.get('modalities', ()))}" if method
            else "", "task": made.get("task", {}).get("name", ""), **cases,
            **{name: _value(trainer[name]) for name in ("recipe", "patch_size", "batch_size", "learning_rate")
               if name in trainer},
            "best validation": pieces.best_of(run, history), "predictions": str(saved or ""), "folder": str(run.folder)}
    return (of_facts(Facts(f"Run {run.name}", rows, ("stands",), faults)) + pieces.curves(history, task)
            + ("" if measured is None else _summary(measured)))


@card.register
def _(table: Table) -> str:
    if {"value", "case", "metric"} <= set(table.columns) and len(table):
        return title(table.about) + _summary(table)
    return title(table.about) + pieces.first_rows(table)


def _tried(read: Callable[[], Any], faults: list[str], instead: Any = None) -> Any:
    """What is read; what goes wrong is said among the faults, and the rest is shown all the same."""
    try:
        return read()
    except Exception as error:          # whatever a damaged file may raise
        faults += [str(error)] if str(error) not in faults else []
        return instead


def _value(value: Any) -> str:
    return edges(value) if isinstance(value, list | tuple) else str(value)


def _marks(has: Sequence[bool], names: Sequence[str], gone: Sequence[str] = ()) -> list[str]:
    return [fault("gone") if name in gone else PRESENT if one else MISSING
            for name, one in zip(names, has, strict=True)]


def _grid_in_words(shape: Sequence[int], affine: np.ndarray) -> str:
    return f"{' x '.join(map(str, shape))}<br>{voxel_size(affine)} mm"


def _scans(case: Case, task: Task, seen: Mapping[str, Seen]) -> list[pieces.Tile]:
    """A tile for each scan of a case and of its task, those that could not be seen too."""
    label = seen["label"].picture if "label" in seen else None
    known = ([*task.labels.values()][1:], class_colours(task).values()) if case.task else ()
    shown = []
    for name in dict.fromkeys((*task.modalities, *case.images)):
        if name in seen:
            shown.append((name, outlined(seen[name].picture, label, *known),
                          _grid_in_words(seen[name].shape, seen[name].affine)))
        else:
            shown.append((name, None, fault("cannot be read") if name in case.images else "not acquired"))
    return shown


def _volumes(task: Task | None, voxels: Mapping[int, int], affine: np.ndarray) -> str:
    """The volume of each class with its colour, and of each region; of each value where nobody knows what it means.

    Args:
        voxels: how many have each value of a label file.
    """
    def ml(values: Iterable[int]) -> str:
        return f"{voxel_ml(affine) * sum(voxels.get(one, 0) for one in values):.2f} ml"

    if task is None:
        rows = [[swatch(value_colour(value)), f"value {value}", ml([value])] for value in voxels if value]
        return rows_of((), rows) if rows else table_of({"label": "empty"})
    regions = {name: own for name, own in task.regions.items() if own != (name,)}
    return rows_of((), [
        *([swatch(colour), escape(name), ml(task.labels[name])] for name, colour in class_colours(task).items()),
        *(["", f"<b>{escape(name)}</b> = {escape(' + '.join(own))}",
           ml(value for one in own for value in task.labels[one])] for name, own in regions.items())])


def _upright(name: str, pixels: np.ndarray, plane: Plane, below: str) -> pieces.Tile:
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


def _contributions(prediction: Prediction, plane: Plane, section: np.ndarray) -> tuple[list[pieces.Tile], str]:
    """The share of each scan in the log-odds of the class that is largest in a picture, and what the tiles say."""
    task, maps = prediction.task, prediction.maps
    known = [name for name in prediction.modalities if f"contribution/{name}" in maps]
    if not known or not section.any():
        return [], ""
    largest = int(np.bincount(section[section > 0], minlength=task.classes).argmax())
    contrast = Contrast.of(task, task.answers.named(largest))
    affine = prediction.grid.box_affine if isinstance(maps, SavedMaps) else prediction.grid.working_affine
    inside = np.isin(section, contrast.classes)
    cuts, _ = contrast.shares({name: np.stack([plane.cut(Volume(one, affine)) for one in maps[f"contribution/{name}"]])
                               for name in known}, prediction.bias)
    scale, found = map_scale("contribution", [*cuts.values()]), []
    for name in task.modalities:
        if name in cuts:
            pixels = scale.to_rgba(cuts[name], bytes=True)[..., :3]
            pixels[edge_of(inside)] = 0
            found.append(_upright(name, pixels, plane, f"{cuts[name][inside].mean():+.2f} for "
                                                       f"{escape(contrast.name)}"))
        else:
            found.append((name, None, "not used"))
    return found, f"<p>{escape(contrast.sentence)} The numbers are means inside the outline, in log-odds.</p>"


def _summary(measured: pd.DataFrame) -> str:
    return pieces.first_rows(formatted(measured, metrics_of(measured)))

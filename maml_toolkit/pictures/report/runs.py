"""The page of a run: how it was trained, what it scores, what each scan is worth, its worst and its best cases."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from maml_toolkit.data.cases import Case
from maml_toolkit.data.checksums import content
from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation import formatted, shapley, subset_table
from maml_toolkit.evaluation.table import metrics_of, one_metric, read_table
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.report.cases import case_pictures
from maml_toolkit.pictures.report.pages import drawn, table, written
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import machine, tables

PACKAGES = ("maml_toolkit", "torch", "torchio", "nibabel", "numpy", "scipy", "SimpleITK")
"""Whose versions a number depends on."""


MEASURED = ("value", "low", "high", "chance", "count", "cases", "share", "seed")
"""The columns with numbers of the tables about maps."""


def run_page(run: str | Path | Run, cases: Sequence[Case] = (), predictor: Predictor | None = None,
             *, shown: int = 2, path: str | Path | None = None) -> Path:
    """One page about a run, from what lies in its folder.

    Args:
        run: a run folder; what it does not hold yet (metrics, subsets) is left out of the page.
        cases, predictor: with both, the page shows the worst and the best of these cases and where the answer came
            from; one whose prediction was not saved is segmented once more. Cases that were not measured are left out.
        shown: how many of the worst and how many of the best cases.
        path: of the HTML file; report.html of the run when left out.

    Raises:
        ValueError: the folder holds no run.
    """
    run = Run(run)
    if not run.settings:
        raise ValueError(f"{run.folder} holds no run (no settings.json); expected a folder that a Trainer wrote")
    return written(path or run.folder / "report.html", f"Run {run.name}", _parts(run, cases, predictor, shown))


def _parts(run: Run, cases: Sequence[Case], predictor: Predictor | None, shown: int) -> Iterator[str]:
    task = Task.from_json(run.settings["task"])
    measured = read_table(run.metrics) if run.metrics.exists() else None
    if measured is not None:
        cases = [case for case in cases if case.id in set(measured["case"])]
    yield f"<h1>{escape(run.name)}</h1>"
    if run.history.exists():
        history = run.epochs()
        yield "<h2>Training</h2>"
        yield drawn(lambda: plots.learning_curves(history), f"{len(history)} epochs")
    if measured is None:
        yield '<p class="verdict">Nothing was measured yet: <code>python -m maml_toolkit evaluate</code></p>'
    else:
        yield from _scores(measured)
        yield from _subsets(measured, task)
        if cases and predictor:
            yield from _cases(measured, cases, predictor, shown)
    yield from _maps(run.folder)
    yield from _settings(run, cases, task)


def _scores(measured: pd.DataFrame) -> Iterator[str]:
    yield "<h2>Scores</h2>"
    rows = formatted(measured, metrics_of(measured), intervals=True).drop(columns="method")
    yield table(list(rows), [[escape(str(cell)) for cell in row] for row in rows.to_numpy().tolist()])
    several = measured["case"].nunique() > 1
    yield ("<p>" + ("Mean ± standard deviation over cases and a 95 % interval of the mean; of distances also median "
                    "and quartiles. They rest on one training: the interval holds other cases, not another training. "
                    if several else "One case, so neither spread nor interval. ") +
           "<i>empty</i> counts cases in which ground truth or prediction holds no voxel of the region: both empty is "
           "Dice 100 and distance 0, one empty is Dice 0 and the diagonal of the image as distance. NSD, the surface "
           "Dice, is 100 and 0 there. Lesions are counted as BraTS 2023 does.</p>")
    yield drawn(lambda: plots.scores(measured), "Dice of every case")


def _subsets(measured: pd.DataFrame, task: Task) -> Iterator[str]:
    """The table over all subsets and what each modality is worth, where all were measured."""
    present = set(measured["present"])
    modalities = [name for name in task.modalities if any(name in one.split("+") for one in present)]
    if len(present) < 2 ** len(modalities) - 1 or len(modalities) < 2:
        return
    yield "<h2>Any subset of the scans</h2>"
    for policy, part in measured.groupby("policy", sort=False):
        yield f"<h3>{escape(str(policy))}</h3>{subset_table(part, task, modalities=modalities).html()}"
    yield "<h2>What each scan is worth</h2>"
    values = shapley(measured)
    yield drawn(lambda: plots.shapley_bars(values), "Exact Shapley values of the Dice; those of a region add up to the "
                                                    "Dice from all scans, minus that of an empty answer")


def _cases(measured: pd.DataFrame, cases: Sequence[Case], predictor: Predictor, shown: int) -> Iterator[str]:
    dice = one_metric(measured, "dice")
    largest = max(dice["present"].unique(), key=lambda one: len(one.split("+")))
    by_case = dice[dice["present"] == largest].groupby("case")["value"].mean().sort_values()
    known = {case.id: case for case in cases}
    ids = [id for id in by_case.index if id in known]
    for heading, chosen in (("Worst cases", ids[:shown]), ("Best cases", ids[::-1][:min(shown, len(ids) - shown)])):
        if chosen:
            yield f"<h2>{heading}</h2>"
        for id in chosen:
            yield from _one_case(known[id], predictor, float(by_case[id]))


def _one_case(case: Case, predictor: Predictor, dice: float) -> Iterator[str]:
    prediction = predictor(case)
    yield f"<h3>{escape(case.id)}: mean Dice {100 * dice:.1f} %</h3>"
    yield from case_pictures(case, predictor.task, prediction)


MEANING = {
    "completeness": "how far contributions and bias miss the log-odds, at the worst voxel",
    "pointing": "how often a scan's map is largest at most 3 mm from the lesion",
    "pointing_mm": "how far from the lesion it is largest, in mm",
    "deletion_over_random": "how much sooner the lesion goes when parts are replaced in the map's order than at random",
    "insertion_over_random": "how much sooner it comes when they are put back so",
    "deletion_over_distance": "the same as against the order of the distance from the lesion",
    "insertion_over_distance": "and put back",
}
"""What a measure of the maps says, in a line."""


def _maps(folder: Path) -> Iterator[str]:
    """What was measured of attention and contributions: maps.csv, deletion.csv and randomisation.csv of the run."""
    if not (folder / "maps.csv").exists():
        return
    maps = tables.read(folder / "maps.csv", MEASURED)
    yield "<h2>Are the maps worth looking at?</h2>"
    rows = [[escape(MEANING[one.measure]), escape(one.map), f"{one.value:.3g}",
             "" if np.isnan(one.low) else f"[{one.low:.3g}, {one.high:.3g}]",
             "" if np.isnan(one.chance) else f"{one.chance:.2g}", str(one.cases)]
            for one in maps[maps["modality"] == "all"].itertuples() if one.measure in MEANING]
    yield table(["measure", "map", "value", "95 % interval", "chance", "cases"], rows)
    if (folder / "deletion.csv").exists() and len(curves := tables.read(folder / "deletion.csv", MEASURED)):
        for measure in ("deletion", "insertion"):
            yield drawn(lambda measure=measure: plots.deletion_curves(curves, measure),
                        "probability of the lesion while parts are replaced, or put back: the steeper, the better "
                        "the order")
    if (folder / "randomisation.csv").exists():
        layers = tables.read(folder / "randomisation.csv", MEASURED)
        yield drawn(lambda: plots.randomisation_curves(layers),
                    "what is left of each map while layers are drawn anew: a map that stays shows the scan, not what "
                    "was learned")


def _settings(run: Run, cases: Sequence[Case], task: Task) -> Iterator[str]:
    settings = run.settings
    yield "<h2>How it was made</h2>"
    facts = [(name, ", ".join(f"{key} = {value}" for key, value in settings[name].items()))
             for name in ("method", "trainer") if name in settings]
    facts += [(f"{part} cases", f"{len(ids)}: {', '.join(ids)}") for part, ids in settings.get("cases", {}).items()]
    if cases:
        facts.append(("test cases", f"{len(cases)}: {', '.join(case.id for case in cases)}"))
        facts.append(("their files", f"SHA-256 {contents(cases, task)}"))
    facts.append(("task", json.dumps(settings["task"], ensure_ascii=False)))
    facts.append(("versions", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)))
    facts.append(("machine", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"))
    yield table(["", ""], [[escape(name), escape(text)] for name, text in facts])


def contents(cases: Sequence[Case], task: Task) -> str:
    """Changes when a byte of a scan of the task or of a label does; the first 16 hexadecimal digits of a SHA-256."""
    of = {case.id: content(case, task) for case in machine.progress(cases, desc="checksum", unit="case")}
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"

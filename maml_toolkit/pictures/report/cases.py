"""The page of one case: what was found in it, from which scans, and where; to be looked at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.report.pages import drawn, table, written
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.sureness import Sureness

UNCERTAIN = ("where all that was asked, every scan and all but each one, does not say the same: 0 where it does for "
             "certain, largest where every class is as likely")


def how_sure(sure: Sureness) -> Iterator[str]:
    """What is to be expected of an answer, and what becomes of it without each of its scans."""
    dice = sure.expected_dice
    rows = []
    for region, nats in sure.entropy.items():
        line, agreed = sure.expected.get(region), sure.agreement.get(region)
        rows.append([escape(region), f"{100 * dice[region]:.0f} %" if line else "not learned",
                     "" if line is None or line.error is None else f"{100 * line.error:.0f} in {line.cases} cases",
                     "" if agreed is None else f"{100 * agreed:.0f} %", f"{nats:.2f}"])
    yield table(["", "expected Dice", "off by, on average", "agreement without each scan", "uncertainty (nats)"], rows)
    if sure.worst:
        yield "<ul>" + "".join(f"<li>{escape(str(one))}</li>" for one in sure.worst) + "</ul>"


def case_page(case: Case, prediction: Prediction, path: str | Path, facts: Mapping[str, str] | None = None) -> Path:
    """One page about one case: who answered from which scans, the volume of each class and region, slices, maps.

    Args:
        case: whose scans are shown.
        prediction: of it.
        path: of the HTML file.
        facts: what else to say, by its name.
    """
    return written(path, f"Case {case.id}", _parts(case, prediction, facts or {}))


def case_pictures(case: Case, task: Task, prediction: Any) -> Iterator[str]:
    """Slices of a case with what was found, and what each scan said about it."""
    known = "prediction" if case.label is None else "ground truth and prediction"
    yield drawn(lambda: plots.case_slices(case, task, prediction=prediction), known)
    if prediction.contributions:
        yield drawn(lambda: plots.contribution_maps(case, prediction, task),
                    "red: this scan makes the class more likely than the background, blue: less likely; the shares of "
                    "the scans and of the bias add up to the log-odds. Outside the box around the body nothing is "
                    "computed")
    if prediction.uncertainty is not None:
        yield drawn(lambda: plots.uncertainty_map(case, prediction, task), UNCERTAIN)
    if prediction.attention:
        yield drawn(lambda: plots.attention_maps(case, prediction, task),
                    "attention has no sign and is no probability over scans; read it beside the contributions")


def _parts(case: Case, prediction: Prediction, facts: Mapping[str, str]) -> Iterator[str]:
    task, used = prediction.task, prediction.modalities
    absent = escape(", ".join(name for name in task.modalities if name not in used))
    yield f"<h1>{escape(case.id)}</h1>"
    yield (f'<p class="verdict">Segmented by {escape(prediction.method)} of the run {escape(prediction.run)} from '
           f"<b>{escape(', '.join(used))}</b>{f', without {absent}' if absent else ''}. A network draws what it has "
           "learned, and may be wrong without a sign of it: look at every slice before anything is done with this.</p>")
    yield table(["", ""], [[escape(name), escape(text)] for name, text in facts.items()])
    yield "<h2>What was found</h2>"
    voxel_ml, classes = abs(np.linalg.det(prediction.affine[:3, :3])) / 1000, prediction.classes
    regions = {name: (name,) for name in task.class_names[1:]} | dict(task.regions)
    ml = {name: voxel_ml * np.isin(classes, [task.class_names.index(one) for one in of]).sum()
          for name, of in regions.items()}
    yield table(["", "made of", "ml"], [[escape(name), escape(", ".join(of)), f"{ml[name]:.2f}"]
                                        for name, of in regions.items()])
    if prediction.sureness:
        yield "<h2>How sure</h2>"
        yield from how_sure(prediction.sureness)
    yield "<h2>Where</h2><p>One axial slice, through its largest cross-section; the patient's right is on the left.</p>"
    yield from case_pictures(case, task, prediction)

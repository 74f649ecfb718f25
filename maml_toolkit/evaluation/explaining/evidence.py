"""What each modality's map says for a class, voxel by voxel, and the table that whatever is measured of it goes into.

    e_{i,k}(x) = c_{i,k}(x) - c_{i,0}(x)          "contribution": what modality i adds to class k over the background
    e_i(x)     = A_i(x), mean over its channels   "attention", which speaks for no class
    e_k(x)     = logit_k(x) - logit_0(x)          "answer", of all modalities: a yardstick, not a map

Only the difference of two classes' contributions decides anything (`prediction.contrast`). Of a network that was
trained on regions k is a region, and its own channel says it all: e_{i,k} = c_{i,k}, e_k = logit_k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from maml_toolkit.data.cases import Case
from maml_toolkit.data.label_sets import closed
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.evaluation.measuring import expect_labelled, ground_truth
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine

MAPS = ("contribution", "attention")

COLUMNS = ("case", "method", "run", "map", "class", "modality", "measure", "value", "count", "chance")

Shown = Mapping[str, np.ndarray]
"""By modality, a mask of what it shows of the lesion, on the grid of the case's files."""


def evidence(prediction: Prediction, kind: str, label: int = 1) -> dict[str, np.ndarray]:
    """What each modality's map says for a class against the background, on the grid of the case's files.

    Args:
        prediction: with its maps.
        kind: "contribution", "attention" (whatever the class), or "answer": the fused logits, under the name "all".
        label: the class, 1 or more; or the region, 0 or more, where regions are trained on.

    Raises:
        ValueError: another kind.
    """
    contrast = Contrast.of(prediction.task, prediction.task.answers.names[label])
    if kind == "contribution":
        return contrast.shares(prediction.contributions)[0]
    if kind == "attention":
        return dict(prediction.attention)
    if kind == "answer":
        return {"all": contrast.log_odds(prediction.logits)}
    raise ValueError(f"found kind={kind!r}, expected 'contribution', 'attention' or 'answer'")


def claims(prediction: Prediction, truth: np.ndarray,
           kinds: Sequence[str] = MAPS) -> Iterator[tuple[str, str, np.ndarray, dict[str, np.ndarray]]]:
    """Each map: its kind, the class it speaks for, where that class truly is, and its `evidence`.

    Contributions and the answer speak for each foreground class (or region) that the case has, attention for all of
    them together, under the name "".

    Raises:
        ValueError: the prediction has no maps.
    """
    check_maps(prediction)
    answers = prediction.task.answers
    each = {label: (answers.names[label], answers.mask(truth, label)) for label in answers.found}
    for kind in kinds:
        for label, (name, there) in {0: ("", truth > 0)}.items() if kind == "attention" else each.items():
            if there.any() and (found := evidence(prediction, kind, label)):
                yield kind, name, there, found


def labelled(predictor: Predictor, cases: Sequence[Case]) -> Iterator[tuple[PreparedCase, np.ndarray]]:
    """Each case as the network reads it, with the true class of each voxel on the grid of its files.

    What the label leaves open is background here.

    Raises:
        DataError: a case without label or listed twice, said before the first is read, or one that cannot be read.
    """
    expect_labelled(cases)
    for case in machine.progress(cases, desc="maps", unit="case"):
        yield prepare(replace(case, label=None), predictor.task), closed(ground_truth(case, predictor.task).array)


def check_grid(prediction: Prediction, truth: np.ndarray, shown: Shown | None = None) -> None:
    """Nothing, if truth and masks lie on the grid of the case's files and every modality used has a mask.

    Raises:
        ValueError: they do not, or one has none.
    """
    if shown is not None and (lacking := [name for name in prediction.modalities if name not in shown]):
        raise ValueError(f"case {prediction.case}: found no mask of what {', '.join(lacking)} shows, expected one for "
                         "each modality; where one shows nothing, give an empty mask")
    shapes = {"truth": truth.shape, **{f"mask of {name}": mask.shape for name, mask in (shown or {}).items()}}
    if wrong := {name: shape for name, shape in shapes.items() if shape != tuple(prediction.grid.shape)}:
        raise ValueError(f"case {prediction.case}: found the shapes {wrong}, expected {tuple(prediction.grid.shape)}, "
                         "the grid of the case's files; take truth and masks from there")


def check_maps(prediction: Prediction) -> None:
    """Nothing, if the prediction has contributions or attention.

    Raises:
        ValueError: it has neither.
    """
    if not any(name.startswith(MAPS) for name in prediction.maps):
        raise ValueError(f"the prediction of case {prediction.case} holds no maps, expected contributions or "
                         "attention; choose a method that has them, and more than one modality for attention")


def score(prediction: Prediction, kind: str, label: str, modality: str, measure: str, value: float, count: int,
          chance: float = np.nan) -> dict:
    """A row of the table, still without method and run."""
    return {"case": prediction.case, "map": kind, "class": label, "modality": modality, "measure": measure,
            "value": value, "count": count, "chance": chance}


def tidy(rows: Sequence[dict], predictor: Predictor | None = None) -> pd.DataFrame:
    """The rows as a table with `COLUMNS`; method and run are those of the predictor, or of the rows, or empty."""
    about = {} if predictor is None else {"method": predictor.method.name, "run": predictor.run}
    return pd.DataFrame([{"method": "", "run": "", **one, **about} for one in rows], columns=list(COLUMNS))

"""Whether maps add up, point at the lesion and name the scan that shows it.

What each modality's map says for a class, voxel by voxel:

    e_{i,k}(x) = c_{i,k}(x) - c_{i,0}(x)          "contribution": what modality i adds to class k over the background
    e_i(x)     = A_i(x), mean over its channels   "attention", which speaks for no class
    e_k(x)     = logit_k(x) - logit_0(x)          "answer", of all modalities: a yardstick, not a map

Only the difference of two classes' contributions decides anything (`prediction.contrast`). Of a network that was
trained on regions k is a region, and its own channel says it all: e_{i,k} = c_{i,k}, e_k = logit_k. With the bias b and
the probabilities p:

    completeness   = max_{x,k} |sum_i e_{i,k}(x) + b_k - b_0 - log(p_k(x) / p_0(x))|, rounding alone of a linear head
    pointing       : does argmax_x e_{i,k}(x) lie at most 3 mm from the part of the lesion that modality i shows?
    right modality : of the lesion's voxels x that only modality j shows, the share where argmax_i e_{i,y(x)}(x) = j,
                     y(x) the true class

Which part of a lesion a modality shows is known of phantoms only (`data.phantoms.visible_parts`). Whether the answer
follows the maps, and the maps follow what was learned, is in perturbation.py and learned.py.

References:
    Top-Down Neural Attention by Excitation Backprop, Zhang et al., International Journal of Computer Vision 2018,
        https://arxiv.org/abs/1608.00507 (the pointing game)
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from maml_toolkit.data.cases import Case
from maml_toolkit.data.label_sets import closed
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.evaluation.intervals import CASES_ONLY, TRAINING, arranged, limits
from maml_toolkit.evaluation.measuring import expect_labelled, ground_truth
from maml_toolkit.evaluation.worth import SLACK_MM, check_grid
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine
from maml_toolkit.system.errors import expect_one_of, few

MAPS = ("contribution", "attention")

KINDS = (*MAPS, "answer")
"""The maps, and as a yardstick the fused logits that they explain."""

COLUMNS = ("case", "method", "run", "map", "class", "modality", "measure", "value", "count", "chance")

Masks = Mapping[str, np.ndarray]
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
    expect_one_of("kind", kind, KINDS)
    contrast = Contrast.of(prediction.task, prediction.task.answers.names[label])
    if kind == "contribution":
        return contrast.shares(prediction.contributions)[0]
    if kind == "attention":
        return dict(prediction.attention)
    return {"all": contrast.log_odds(prediction.logits)}


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
    about = {} if predictor is None else {"method": predictor.name, "run": predictor.run}
    return pd.DataFrame([{"method": "", "run": "", **one, **about} for one in rows], columns=list(COLUMNS))


SHARES = ("pointing", "right_modality", "right_modality_found", "deletion_area", "insertion_area")
"""The measures between 0 and 1."""

HIT_MM = 3
"""How far from its target a map's largest voxel may lie."""


def map_scores(predictor: Predictor, cases: Sequence[Case],
               shown: Mapping[str, Masks] | None = None) -> pd.DataFrame:
    """Completeness, pointing game and, where it is known what each modality shows, right modality, of every case.

    Args:
        predictor: of a method that has contributions or attention.
        cases: with labels; all modalities that a case has are used.
        shown: by case id, the masks of `data.phantoms.visible_parts`.

    Returns:
        The rows of `completeness`, `pointing_game` and `right_modality`, with the names of method and run.

    Raises:
        DataError: a case without label, or one that cannot be read.
        ValueError: the method has no maps, or `shown` lacks a case.
    """
    if shown is not None and (lacking := [case.id for case in cases if case.id not in shown]):
        raise ValueError(f"found no masks of {few(lacking)} in shown, expected those of every case; add them")
    parts = []
    for prepared, truth in labelled(predictor, cases):
        prediction = predictor.predict(prepared)
        masks = None if shown is None else shown[prepared.id]
        parts.append(pointing_game(prediction, truth, masks))
        if prediction.contributions and prediction.policy != "by-size":     # a mixture of probabilities does not add up
            parts.append(completeness(prediction))
        if masks is not None and len(prediction.modalities) > 1:
            parts.append(right_modality(prediction, truth, masks))
    return tidy([row for part in parts for row in part.to_dict("records")], predictor)


def completeness(prediction: Prediction) -> pd.DataFrame:
    """How far contributions and bias are from adding up to the log-odds of each class against the background: one row.

    It is the largest error over the classes and over the `count` voxels of the working grid. Some 1e-6 is float32's
    rounding; more than 1e-4 is a fault.

    Raises:
        ValueError: the prediction has no contributions.
    """
    terms = [array for name, array in prediction.maps.items() if name.startswith("contribution/")]
    if not terms:
        raise ValueError(f"the prediction of case {prediction.case} holds no contributions, expected one of each "
                         "modality; predict with contributions=True and a method that has them")
    bias = 0 if prediction.bias is None else prediction.bias[:, None, None, None]
    said = np.sum(terms, axis=0, dtype=np.float64) + bias
    against_background = prediction.task.answers.against_background
    error = np.abs(against_background(said) - against_background(prediction.maps["logits"]))
    return tidy([score(prediction, "contribution", "", "all", "completeness", float(error.max()), error[0].size)])


def pointing_game(prediction: Prediction, truth: np.ndarray, shown: Masks | None = None) -> pd.DataFrame:
    """Whether each modality's map is largest where that modality shows the lesion.

    Args:
        prediction: with its maps.
        truth: class of each voxel, 0 the background, on the grid of the case's files.
        shown: what each modality shows of the lesion; the whole lesion when left out.

    Returns:
        Two rows for each map, foreground class (attention: all of them together) and modality that shows some of it:
        "pointing", 1 where the map's largest voxel lies at most 3 mm from what is shown, else 0, with the `chance` of
        a voxel drawn anywhere in the grid's box to do so; and "pointing_mm", how far it lies, in mm.

    Raises:
        ValueError: no maps, truth or masks on another grid, or a modality without mask.
    """
    check_grid(prediction, truth, shown)
    grid, spacing_mm = prediction.grid, prediction.grid.file_spacing_mm
    inside = grid.to_file(np.ones(grid.box_shape, bool))
    rows = []
    for kind, label, lesion, found in claims(prediction, truth):
        for name, claim in found.items():
            target = lesion if shown is None else lesion & (shown[name] != 0)
            if target.any():
                place = np.unravel_index(np.where(inside, claim, -np.inf).argmax(), claim.shape)
                far = float(np.linalg.norm((np.argwhere(target) - place) * spacing_mm, axis=1).min())
                about, chance = (prediction, kind, label, name), _share_near(target, inside, spacing_mm)
                rows += [score(*about, "pointing", float(far <= HIT_MM + SLACK_MM), 1, chance),
                         score(*about, "pointing_mm", far, 1)]
    return tidy(rows)


def right_modality(prediction: Prediction, truth: np.ndarray, shown: Masks) -> pd.DataFrame:
    """Where only one modality shows the lesion, how often its map is the largest of all modalities.

    A map that always names the same modality is right everywhere for that one and nowhere for the others, so rows of
    different modalities are to be read together. And what shows a voxel is not all that an answer rests on: a part that
    one scan shows may count as lesion only because the other scan shows the part beside it. A share below 1 says that
    the map does not name the scan that shows the voxel, not that it is wrong about the network.

    Args:
        prediction: from two or more modalities, with its maps.
        truth: class of each voxel, 0 the background, on the grid of the case's files.
        shown: what each modality shows of the lesion.

    Returns:
        For each map and modality that shows what no other modality used shows, two rows: "right_modality", the share
        of these voxels, `count` in number, where its map is the largest; and "right_modality_found", the same among
        those to which the network gave their true class, the only ones where it can have had a reason. `chance` is
        1 / modalities.

    Raises:
        ValueError: a prediction from a single modality, truth or masks on another grid, or a modality without mask.
    """
    check_grid(prediction, truth, shown)
    names = prediction.modalities
    if len(names) < 2:
        raise ValueError(f"case {prediction.case} was answered from {names[0]} alone, expected two or more modalities; "
                         "there is nothing to choose between")
    masks = np.stack([shown[name] != 0 for name in names]) & (truth > 0)
    alone = masks.sum(0) == 1
    among = {"right_modality": alone, "right_modality_found": alone & (prediction.classes == truth)}
    rows = []
    for kind in MAPS:
        if (largest := _largest(prediction, truth, kind)) is not None:
            for (number, name), (measure, where) in itertools.product(enumerate(names), among.items()):
                if (voxels := masks[number] & where).any():
                    share = float((largest[voxels] == number).mean())
                    rows.append(score(prediction, kind, "", name, measure, share, int(voxels.sum()), 1 / len(names)))
    return tidy(rows)


def map_summary(scores: pd.DataFrame, resamples: int = 9999, seed: int = 0) -> pd.DataFrame:
    """What the rows of `map_scores`, or rows like them, say of all cases together.

    Args:
        scores: of one or several methods; runs of a case (run, and fold and seed where the rows have them) are pooled.
        resamples, seed: of the bootstrap over cases where there is one training.

    Returns:
        A row for each method, map, measure and modality, and one for "all" modalities together: `value`, the mean of
        the values weighted by their `count`, so that every voxel and every hit counts once (completeness: the
        largest); `low` and `high`, its 95 % interval, NaN below two cases, and `holds`: "trainings and cases" where
        there are several trainings (intervals.py, of the linear part of the ratio), else "cases only"; the mean
        `chance`; and the number of `cases`.
    """
    rows = []
    known = scores.dropna(subset="value")
    for (method, kind, measure), part in known.groupby(["method", "map", "measure"], sort=False):
        parts = dict(list(part.groupby("modality", sort=False)))
        for modality, one in (parts if len(parts) == 1 else {**parts, "all": part}).items():
            rows.append({"method": method, "map": kind, "measure": measure, "modality": modality,
                         **_pooled(one, measure, resamples, seed), "cases": one["case"].nunique()})
    return pd.DataFrame(rows)


def _share_near(target: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """The share of the voxels inside that a map may point at for a hit; distances are taken around the target only."""
    margins = [int(HIT_MM / mm) + 1 for mm in spacing_mm]
    around = tuple(slice(max(0, one.start - margin), one.stop + margin) for one, margin in
                   zip(ndimage.find_objects(target.astype(np.uint8))[0], margins, strict=True))
    far = ndimage.distance_transform_edt(~target[around], sampling=spacing_mm)
    return float((inside[around] & (far <= HIT_MM + SLACK_MM)).sum() / inside.sum())


def _largest(prediction: Prediction, truth: np.ndarray, kind: str) -> np.ndarray | None:
    """At each voxel of the lesion the number of the modality with the largest evidence for the true class."""
    largest = None
    answers = prediction.task.answers
    for label in answers.found:                       # of regions the last one that has a voxel speaks for it
        if found := evidence(prediction, kind, label):
            one = np.stack([found[name] for name in prediction.modalities]).argmax(0)
            largest = one if largest is None else np.where(answers.mask(truth, label), one, largest)
    return largest


def _pooled(part: pd.DataFrame, measure: str, resamples: int, seed: int) -> dict[str, float]:
    """Mean weighted by count, its interval over cases, and the mean chance; the largest value of completeness."""
    chance = float(np.average(part["chance"], weights=part["count"]))
    if measure == "completeness":
        return {"value": float(part["value"].max()), "low": np.nan, "high": np.nan, "holds": CASES_ONLY,
                "chance": chance}
    each = [*(name for name in ("run", *TRAINING) if name in part), "case"]
    sums = part.assign(weighted=part["value"] * part["count"]).groupby(each, dropna=False)[["weighted", "count"]].sum()
    value = _ratio(*sums.to_numpy().T)
    linear = value + (sums["weighted"] - value * sums["count"]) / sums["count"].mean()
    found = limits(arranged(linear.reset_index(name="value")), resamples=0)
    if found["holds"] == CASES_ONLY and len(cases := sums.groupby("case").sum()) > 1:
        ends = stats.bootstrap(tuple(cases.to_numpy().T), _ratio, paired=True, n_resamples=resamples, batch=1000,
                               method="percentile", rng=np.random.default_rng(seed)).confidence_interval
        found |= {"low": ends.low, "high": ends.high}
    low, high = np.clip([found["low"], found["high"]], *(0, 1) if measure in SHARES else (-np.inf, np.inf)).tolist()
    return {"value": float(value), "low": low, "high": high, "holds": found["holds"], "chance": chance}


def _ratio(weighted: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
    return weighted.sum(axis) / count.sum(axis)

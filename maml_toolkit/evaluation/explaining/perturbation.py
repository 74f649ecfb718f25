"""Does the answer follow the maps? Parts of the scans are replaced in the order of a map: deletion and insertion.

A part is a cube B of one modality i, near what was predicted of class k; a map ranks all parts of all modalities by

    E_{i,B} = sum_{x in B} e_{i,k}(x)                              (e as in maps.py)

and with p the mean probability of class k over the voxels that were predicted as k before anything was replaced,

    deletion(s)  = p with the first share s of the parts replaced,        area = integral over s from 0 to 1
    insertion(s) = p with all parts but the first share s replaced

An order that knows what the network goes by makes the one fall and the other rise early. Two orders that know nothing
of the network stand beside it: parts at random, and parts by their distance from the predicted lesion, deepest first
and of all modalities at once, which says how much of a map's success comes from nothing but lying on the lesion. Among
all parts within 10 mm even a perfect map is hardly better than that, since either has the lesion gone after a few per
cent; among the parts on the lesion (`reach_mm=0`) it is, if it knows which modality matters where.

Evidence is summed with its sign. By its size alone, what speaks most strongly against the class would go first.

What is put in their place has no lesion in it: "mean", 0 in the normalised image and so the modality's mean, or
"surroundings", the median of the modality within 10 mm of the predicted lesion. On CT the mean is taken over air too
and may be darker than any organ, which looks like a lesion of its own; the surroundings look like nothing. Voxels that
are exactly 0, outside a skull-stripped brain, stay so. A replaced cube still changes the answer elsewhere: a U-Net
sees far, and an instance norm sees the whole window.

References:
    RISE: Randomized Input Sampling for Explanation of Black-box Models, Petsiuk et al., BMVC 2018,
        https://arxiv.org/abs/1806.07421 (deletion and insertion)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import ndimage

from maml_toolkit.data.cases import Case
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.evaluation.explaining.maps import MAPS, check_maps, tidy
from maml_toolkit.evaluation.worth import SLACK_MM, SURROUNDINGS_MM
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine
from maml_toolkit.system.errors import expect_one_of

NEUTRAL = ("mean", "surroundings")
CURVE = ["case", "method", "run", "class", "order", "seed", "measure"]


def deletion(predictor: Predictor, cases: Sequence[Case], *, steps: int = 10, block: int = 4,
             reach_mm: float = SURROUNDINGS_MM, seeds: Sequence[int] = (0, 1, 2),
             neutral: str = "mean") -> pd.DataFrame:
    """Deletion and insertion curves of each case by its maps, at random, and by the distance from the lesion.

    The shares replaced are (0 / steps)^2, (1 / steps)^2, …, 1, close together where a lesion's worth of parts goes.
    A case costs 2 (steps - 1) predictions for each order, and 2 more.

    Args:
        predictor: of a method that has contributions or attention.
        cases: with or without labels.
        steps: of each curve.
        block: edge of a cube, in voxels of the working grid.
        reach_mm: how far from the predicted lesion a cube may begin. With 0 every part lies on the lesion, where being
            near it is no merit.
        seeds: of the random orders, one each.
        neutral: what replaces a part, "mean" or "surroundings".

    Returns:
        A row for each point of a curve: case, method, run, class, `order` ("contribution", "attention", "random" or
        "distance"), seed, `measure` ("deletion" or "insertion"), `share` of the parts that were deleted or inserted,
        and `value`, the mean probability. Cases have the classes that were predicted in them; none, no rows.

    Raises:
        DataError: a case that cannot be read.
        ValueError: a method without maps, no seed, another word for neutral, or numbers below 1.
    """
    expect_one_of("neutral", neutral, NEUTRAL)
    if min(steps, block, len(seeds)) < 1 or reach_mm < 0:
        raise ValueError(f"found steps={steps}, block={block}, seeds={list(seeds)} and reach_mm={reach_mm}, expected "
                         "at least 1, 1, one seed and 0 mm")
    shares, rows = (np.arange(steps + 1) / steps) ** 2, []
    for case in machine.progress(cases, desc="deleting", unit="case"):
        prepared = prepare(replace(case, label=None), predictor.task)
        prediction = predictor.predict(prepared)
        check_maps(prediction)
        answers = predictor.task.answers
        classes = answers.classes(prediction.maps["logits"])
        for label in (one for one in answers.found if answers.mask(classes, one).any()):
            parts = _Parts.near(prepared, prediction, label, block, reach_mm, neutral)
            rows += [{"case": case.id, "method": predictor.name, "run": predictor.run,
                      "class": answers.names[label], **point}
                     for point in _curves(predictor, parts, _orders(prediction, parts, seeds), shares)]
    return pd.DataFrame(rows, columns=[*CURVE, "share", "value"])


def areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Areas under the curves of `deletion`, and by how much each order is better than random and than distance.

    Returns:
        Rows as those of `map_scores`, `map` being the order and `modality` "all": "deletion_area" and
        "insertion_area", 0 to 1, mean over the seeds; "deletion_over_random", "insertion_over_random",
        "deletion_over_distance" and "insertion_over_distance": the difference of the areas, positive where the order
        is better than what it is compared with. `map_summary` gives their means with intervals.

    Raises:
        ValueError: there are no curves.
    """
    if curves.empty:
        raise ValueError("found no curves, expected those of `deletion`; no case had a lesion predicted in it")
    found = curves.groupby(CURVE, sort=False)[["share", "value"]].apply(
        lambda one: float(np.trapezoid(one["value"], one["share"])))
    found = found.groupby([name for name in CURVE if name != "seed"], sort=False).mean().unstack("order")
    rows = []
    for (case, method, run, label, measure), orders in found.iterrows():
        sign = -1 if measure == "deletion" else 1
        for order, area in orders.items():
            about = {"case": case, "method": method, "run": run, "map": order, "class": label, "modality": "all",
                     "count": 1, "chance": np.nan}
            rows.append({**about, "measure": f"{measure}_area", "value": area})
            rows += [{**about, "measure": f"{measure}_over_{other}", "value": sign * (area - orders[other])}
                     for other in ("random", "distance") if other != order]
    return tidy(rows)


@dataclass(frozen=True)
class _Parts:
    """The cubes of a case near what was predicted of a class, and what to put in their place.

    Attributes:
        case: as the network reads it.
        label: the class, or the region.
        lesion: where it was predicted, on the working grid.
        cube: number of the cube that each voxel belongs to, -1 far from the lesion.
        neutral: by modality used, the value that replaces a part.
    """

    case: PreparedCase
    label: int
    lesion: np.ndarray
    cube: np.ndarray
    neutral: dict[str, float]

    @classmethod
    def near(cls, case: PreparedCase, prediction: Prediction, label: int, block: int, reach_mm: float,
             neutral: str) -> _Parts:
        """The cubes that come within a reach of what was predicted."""
        answers = prediction.task.answers
        lesion = answers.mask(answers.classes(prediction.maps["logits"]), label)
        far = ndimage.distance_transform_edt(~lesion, sampling=case.grid.spacing_mm) - SLACK_MM
        places = np.indices(lesion.shape) // block
        every = np.ravel_multi_index(tuple(places), tuple(places.max((1, 2, 3)) + 1))
        kept = np.unique(every[far <= reach_mm])
        cube = np.where(np.isin(every, kept), np.searchsorted(kept, every), -1)
        beside = {name: case.images[name][~lesion & (far <= SURROUNDINGS_MM) & (case.images[name] != 0)]
                  for name in prediction.modalities}
        return cls(case, label, lesion, cube, {name: float(np.median(one)) if neutral == "surroundings" and one.size
                                               else 0.0 for name, one in beside.items()})

    @property
    def count(self) -> int:
        """How many cubes there are."""
        return int(self.cube.max()) + 1

    def summed(self, values: np.ndarray) -> np.ndarray:
        """The sum of a map over each cube."""
        return np.bincount(self.cube[self.cube >= 0], values[self.cube >= 0].astype(float), self.count)

    def without(self, gone: np.ndarray) -> PreparedCase:
        """The case with some parts replaced, of which (modalities, cubes) says whether they are."""
        images = dict(self.case.images)
        for (name, value), of_modality in zip(self.neutral.items(), gone, strict=True):
            here = np.append(of_modality, False)[self.cube] & (images[name] != 0)     # -1 finds the last: nothing
            images[name] = np.where(here, np.float32(value), images[name])
        return replace(self.case, images=images)


def _orders(prediction: Prediction, parts: _Parts, seeds: Sequence[int]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name and seed of each order, and the rank of each part in it: (modalities, cubes), 0 the first."""
    for kind in MAPS:
        claims = {name: prediction.maps.get(f"{kind}/{name}") for name in prediction.modalities}
        if all(one is not None for one in claims.values()):
            if kind == "contribution":
                contrast = Contrast.of(prediction.task, prediction.task.answers.names[parts.label])
                claims, _ = contrast.shares(claims)
            yield kind, 0, _ranks(np.stack([parts.summed(one) for one in claims.values()]), 0)
    depth = (ndimage.distance_transform_edt(there, sampling=prediction.grid.spacing_mm)
             for there in (parts.lesion, ~parts.lesion))
    inwards = parts.summed(np.subtract(*depth)) / parts.summed(np.ones(parts.lesion.shape))
    yield "distance", 0, _ranks(np.stack([inwards] * len(prediction.modalities)), 0)
    for seed in seeds:
        yield "random", seed, _ranks(np.zeros((len(prediction.modalities), parts.count)), seed)


def _ranks(worth: np.ndarray, seed: int) -> np.ndarray:
    """0 for the part of largest worth, and so on; equal ones in random order."""
    order = np.lexsort((np.random.default_rng(seed).random(worth.size), -worth.ravel()))
    return order.argsort().reshape(worth.shape)


def _curves(predictor: Predictor, parts: _Parts, orders: Iterable[tuple[str, int, np.ndarray]],
            shares: np.ndarray) -> Iterator[dict]:
    """The points of deletion and insertion in each order."""
    known: dict[bytes, float] = {}      # the ends of all curves are the same two
    for order, seed, ranks in orders:
        for share in shares:
            first = ranks < round(share * ranks.size)
            for measure, gone in (("deletion", first), ("insertion", ~first)):
                if (key := gone.tobytes()) not in known:
                    known[key] = _probability(predictor, parts, gone)
                yield {"order": order, "seed": seed, "measure": measure, "share": float(share), "value": known[key]}


def _probability(predictor: Predictor, parts: _Parts, gone: np.ndarray) -> float:
    """Mean probability of the class, where it was predicted from the whole scans, with some parts replaced."""
    answer = predictor.predict(parts.without(gone), tuple(parts.neutral), attention=False, contributions=False)
    probabilities = answer.task.answers.probabilities(answer.maps["logits"])
    return float(probabilities[parts.label][parts.lesion].mean())

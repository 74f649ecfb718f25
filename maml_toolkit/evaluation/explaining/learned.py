"""Do the maps follow what was learned? Weights drawn anew, layer after layer; and whole networks trained anew.

    randomisation : Spearman's correlation of a map with itself after the weights of the last layer, then of the one
                    before too, and so on, were replaced by those that a training starts from
    repeatability : mean over pairs of trainings of Spearman's correlation of their maps of the same case

both over the voxels within 10 mm of the lesion. A map that stays alike when weights are drawn anew shows the scan, not
what was learned. A linear head drawn anew may turn a map's sign, so correlations of several draws scatter around 0
instead of being 0; what is left of a map is told by their size.

References:
    Sanity Checks for Saliency Maps, Adebayo et al., NeurIPS 2018, https://arxiv.org/abs/1810.03292 (cascading
        randomisation)
    The proof and measurement of association between two things, Spearman, American Journal of Psychology 1904
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
import torch

from maml_toolkit.data.cases import Case
from maml_toolkit.evaluation.explaining.maps import COLUMNS, KINDS, claims, evidence, labelled, score, tidy
from maml_toolkit.evaluation.worth import spearman, zones
from maml_toolkit.methods import Method
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.files import same_json

UNUSED = 2**31
"""No training is given a seed from here on: maps would be compared with those of the weights that they came from."""

MAML_LAYERS = {"classifier": "classifier.*", "attention, second": "aware.attend.*.[34].*",
               "attention, first": "aware.attend.*.[01].*", "fusion": "aware.fuse.*", "decoders": "streams.*.decoder.*",
               "encoders": "streams.*.encoder.*"}
"""The layers of MAML from the answer's side: the modality-aware module's, and then what makes its features."""


def randomisation(predictor: Predictor, cases: Sequence[Case], layers: Mapping[str, str] = MAML_LAYERS,
                  seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """How alike the maps stay while one layer after another is drawn anew; the predictor's own method is not touched.

    Args:
        predictor: of a trained method.
        cases: with labels.
        layers: name of each layer -> pattern (of `fnmatch`) of its parameters' names, in the order in which they
            are drawn anew; each stays so while the next ones follow.
        seeds: of the weights, one draw each.

    Returns:
        The columns of `map_scores` and `layer`, `seed`: for each case, map, class and modality the correlation,
        -1 to 1, after nothing was drawn ("nothing", 1 but for rounding), then after each layer. NaN where a map is
        the same everywhere. The map "answer", the fused logits, is the yardstick.

    Raises:
        DataError: a case without label, or one that cannot be read.
        ValueError: a pattern that fits no parameter, no seed, or several runs that answer together.
    """
    if predictor.others:
        raise ValueError(f"found {len(predictor.members)} runs that answer together, expected one whose weights are "
                         "drawn anew; give a Predictor of one run")
    names = [name for name, _ in predictor.method.named_parameters()]
    drawn = {layer: [name for name in names if fnmatchcase(name, pattern)] for layer, pattern in layers.items()}
    if empty := [f"{layer} ({layers[layer]})" for layer, found in drawn.items() if not found]:
        raise ValueError(f"found no parameters of {', '.join(empty)}, expected patterns that fit names such as "
                         f"{', '.join(names[:3])}; name the layers of {predictor.method.name} in layers")
    if not seeds:
        raise ValueError("found no seed, expected at least one; each draws the weights once")
    rows, about = [], {"method": predictor.method.name, "run": predictor.run}
    for prepared, truth in labelled(predictor, cases):
        original = predictor.predict(prepared)
        for seed in dict.fromkeys(seeds):
            changed = copy.copy(predictor)
            changed.method = copy.deepcopy(predictor.method)
            fresh = dict(untrained(predictor.method, seed).named_parameters())
            for layer in ("nothing", *layers):
                with torch.no_grad():
                    for name in drawn.get(layer, []):
                        changed.method.get_parameter(name).copy_(fresh[name])
                rows += [{**row, **about, "layer": layer, "seed": seed}
                         for row in _alike([original, changed.predict(prepared)], truth, "randomisation")]
    return pd.DataFrame(rows, columns=[*COLUMNS, "layer", "seed"])


def repeatability(predictors: Sequence[Predictor], cases: Sequence[Case]) -> pd.DataFrame:
    """Whether the maps come out again when the same method is trained anew.

    Args:
        predictors: two or more of one method and its modalities, trained from other seeds.
        cases: with labels.

    Returns:
        The columns of `map_scores`: for each case, map, class and modality the mean correlation, -1 to 1, over `count`
        pairs of predictors; NaN where a map is the same everywhere. The map "answer", the fused logits, is the
        yardstick: maps can hardly repeat better than the answers that they explain.

    Raises:
        DataError: a case without label, or one that cannot be read.
        ValueError: fewer than two predictors, or different methods, modalities or tasks.
    """
    about = {(one.method.name, tuple(one.method.modalities)) for one in predictors}
    if len(predictors) < 2 or len(about) > 1:
        raise ValueError(f"found {len(predictors)} predictors of {sorted(about)}, expected two or more of one method "
                         "and the same modalities")
    first = predictors[0].task.to_json()
    if others := [one.run or one.name for one in predictors if not same_json(one.task.to_json(), first)]:
        raise ValueError(f"found other tasks in {', '.join(others)} than in the first, expected one, whose "
                         "classes and grid the maps share; leave them out")
    rows = []
    for prepared, truth in labelled(predictors[0], cases):
        rows += _alike([one.predict(prepared) for one in predictors], truth, "repeatability")
    return tidy(rows, predictors[0]).assign(run="+".join(one.run for one in predictors))


def untrained(method: Method, seed: int) -> Method:
    """The same method with fresh weights, none that a training began with; torch's random state is left as it was."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(UNUSED + seed)
        return type(method)(**method.settings)


def _alike(predictions: Sequence[Prediction], truth: np.ndarray, measure: str) -> list[dict]:
    """For each map, class and modality the mean correlation over the pairs of predictions, near the lesion."""
    near = ~zones(truth > 0, predictions[0].grid.file_spacing_mm)["elsewhere"]
    rows = []
    for kind, label, _, first in claims(predictions[0], truth, KINDS):
        number = predictions[0].task.answers.names.index(label) if label else 0
        all_claims = [first, *(evidence(one, kind, number) for one in predictions[1:])]
        for name in first:
            values = [spearman(one[name][near], other[name][near])[0]
                      for one, other in itertools.combinations(all_claims, 2)]
            rows.append(score(predictions[0], kind, label, name, measure, float(np.mean(values)), len(values)))
    return rows

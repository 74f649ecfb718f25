"""What is each modality worth? Exact Shapley values of the score, and where attention and contributions lie.

    phi_i = sum_{S without i} |S|! (N - |S| - 1)! / N! · (v(S + i) - v(S)),     sum_i phi_i = v(all) - v(nothing)

v(S) is the Dice of one case answered from the modalities S; v(nothing) is that of the empty answer, 1 where the
ground truth has nothing of the region and 0 elsewhere, so that no modality earns for saying nothing. The network that
answers from every subset gives the other 2^N - 1 values, so nothing is sampled or approximated. Shapley values say
what a modality adds to the score; inside the network two things claim to say it voxel by voxel, and their share in a
zone Z is

    attention share_i     = sum_{x in Z} A_i(x) / sum_j sum_{x in Z} A_j(x)
    contribution share_i  = the same with  sum_k |c_{i,k}(x) - mean_k c_{i,k}(x)|  in the place of A_i(x)

The mean over the classes k is taken away because a logit that all classes share decides nothing; of a network that was
trained on regions every logit decides by itself, and none is taken away. `agreement` tells whether the three say the
same.

References:
    A value for n-person games, Shapley, Contributions to the Theory of Games II, Princeton 1953
    Here Comes the Explanation: A Shapley Perspective on Multi-contrast Medical Image Segmentation, Ren et al., 2025,
        https://arxiv.org/abs/2504.04645
    The proof and measurement of association between two things, Spearman, American Journal of Psychology 1904
"""

import itertools
from collections.abc import Mapping, Sequence
from math import factorial

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from maml_toolkit.evaluation.intervals import TRAINING, arranged, limits
from maml_toolkit.evaluation.metrics import Stems
from maml_toolkit.evaluation.table import check_each_once, one_metric
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.system.errors import expect_one_of

RIM_MM, SURROUNDINGS_MM = 2, 10
"""How far the rim and the surroundings reach from the lesion."""

SLACK_MM = 1e-3
"""Spacings kept as float32 are off by less, and so are distances of a few voxels."""

TRUTH_EMPTY = ("truth", "both")
"""What the column `empty` says where the ground truth has nothing of the region."""

EMPTY_IS_KNOWN = Stems({"dice", "nsd"})
"""The metrics of which the empty answer has 1 where the ground truth is empty and 0 elsewhere."""

GROUP = ["method", "policy", "region"]


def shapley(table: pd.DataFrame, metric: str = "dice", resamples: int = 9999, seed: int = 0) -> pd.DataFrame:
    """What each modality is worth: its Shapley value, mean over the cases with a 95 % interval (intervals.py).

    Args:
        table: the tidy table of `evaluate(subsets="all")`, of one or several methods and policies.
        metric: one of which the value of the empty answer is known: "dice", or "nsd@2" and the like.
        resamples, seed: of the bootstrap where an interval holds cases only.

    Returns:
        A row for each method, policy, region and modality: the `metric`; `value`, a fraction,
        negative where the modality does harm; `low` and `high`, NaN below two cases, and `holds`: "trainings and
        cases" where there are several trainings, else "cases only"; `cases` that were used, and `missing`: those that
        lack the score of one of the subsets; `full`: mean score from all modalities over the cases used, to which the
        values and the mean score of the empty answer add up. Value and full are NaN where no case was answered from
        every subset.

    Raises:
        ValueError: another metric, nothing in this metric, or rows that cannot be told apart.
    """
    rows = []
    for names, part in _by_training(table, metric).groupby([*GROUP, "modality"], sort=False):
        found = limits(arranged(part.dropna()), resamples, seed)
        by_case = part.groupby("case")[["value", "full"]].mean()
        known = int(by_case["value"].notna().sum())
        rows.append({**dict(zip([*GROUP, "modality"], names, strict=True)), "metric": metric,
                     "value": by_case["value"].mean(), "low": found["low"], "high": found["high"],
                     "holds": found["holds"], "cases": known, "missing": len(by_case) - known,
                     "full": by_case["full"].mean()})
    return pd.DataFrame(rows)


def shapley_by_case(table: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """The Shapley value of each modality in each case, which `shapley` summarises; the arguments are the same.

    The modalities are all that a method and policy were given in a region. Runs (fold and seed) of a case
    that answered from every subset are averaged; a case without such a run has NaN.

    Returns:
        A row for each method, policy, region, modality and case: `value`.

    Raises:
        ValueError: as `shapley`.
    """
    each = _by_training(table, metric).groupby([*GROUP, "case", "modality"], sort=False)
    return each["value"].mean().reset_index()


def _by_training(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The Shapley value in each case and training (numbered in `seed`), and beside it the score from all modalities."""
    parts = []
    for names, part in _chosen(table, metric).groupby(GROUP, sort=False):
        modalities = _modalities(part["present"])
        scores = _scores(part, modalities)
        values = pd.DataFrame(scores.to_numpy() @ _weights(len(modalities)), scores.index, modalities)
        values = pd.DataFrame({"case": sorted(part["case"].unique())}).merge(
            values.assign(full=scores.iloc[:, -1]).reset_index(), how="left", on="case")
        parts.append(values.melt(["case", "seed", "full"], var_name="modality").assign(
            **dict(zip(GROUP, names, strict=True))))
    return pd.concat(parts, ignore_index=True)


def zones(lesion: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, np.ndarray]:
    """Parts of a volume by their distance from a lesion; every voxel is in one of them.

    Distances are those between the centres of voxels, so a zone may be empty where voxels are large.

    Args:
        lesion: true or not 0 inside.
        spacing_mm: of the voxels, on each axis.

    Returns:
        Masks of the lesion's shape: "tumour", "rim" (outside, up to 2 mm from it), "surroundings" (up to 10 mm),
        "elsewhere"; without a lesion, all is elsewhere.

    Raises:
        ValueError: the spacing has another number of axes than the lesion.
    """
    inside = np.asarray(lesion) != 0
    if len(spacing_mm) != inside.ndim:
        raise ValueError(f"found spacing_mm={tuple(spacing_mm)}, expected one for each of {inside.ndim} axes")
    far = np.full(inside.shape, np.inf)
    if inside.any():
        far = ndimage.distance_transform_edt(~inside, sampling=spacing_mm) - SLACK_MM
    return {"tumour": inside, "rim": ~inside & (far <= RIM_MM),
            "surroundings": (far > RIM_MM) & (far <= SURROUNDINGS_MM), "elsewhere": far > SURROUNDINGS_MM}


def shares(prediction: Prediction, truth: np.ndarray, spacing_mm: Sequence[float] | None = None) -> pd.DataFrame:
    """How attention and contributions to the decision are shared between the modalities of a prediction, by zone.

    Args:
        prediction: with its attention and contributions.
        truth: class of each voxel, 0 the background, on the grid of the case's files.
        spacing_mm: of that grid; the prediction's own when left out.

    Returns:
        A row for each zone and modality used: case, modality, zone, and the shares `attention` and `contribution`,
        0 to 1, which add up to 1 over the modalities of a zone. NaN where a zone is empty or holds no attention, and
        everywhere for what the method does not have (attention also where it answered from one modality).

    Raises:
        ValueError: the ground truth lies on another grid.
    """
    check_grid(prediction, truth)
    spacing_mm = prediction.grid.file_spacing_mm if spacing_mm is None else spacing_mm
    of_answer = prediction.task.answers.deciding
    deciding = {name: np.abs(of_answer(terms)).sum(0) for name, terms in prediction.contributions.items()}
    rows = []
    for zone, mask in zones(truth > 0, spacing_mm).items():
        attention, contribution = (_shared(maps, mask) for maps in (prediction.attention, deciding))
        rows += [{"case": prediction.case, "modality": name, "zone": zone, "attention": attention.get(name, np.nan),
                  "contribution": contribution.get(name, np.nan)} for name in prediction.modalities]
    return pd.DataFrame(rows)


def check_grid(prediction: Prediction, truth: np.ndarray, shown: Mapping[str, np.ndarray] | None = None) -> None:
    """Nothing, if ground truth and masks lie on the grid of the case's files and every modality used has a mask.

    Args:
        shown: by modality, a mask of what it shows of the lesion.

    Raises:
        ValueError: they do not, or one has none.
    """
    if shown is not None and (lacking := [name for name in prediction.modalities if name not in shown]):
        raise ValueError(f"case {prediction.case}: found no mask of what {', '.join(lacking)} shows, expected one for "
                         "each modality; where one shows nothing, give an empty mask")
    shapes = {"ground truth": truth.shape, **{f"mask of {name}": mask.shape for name, mask in (shown or {}).items()}}
    if wrong := {name: shape for name, shape in shapes.items() if shape != tuple(prediction.grid.shape)}:
        raise ValueError(f"case {prediction.case}: found the shapes {wrong}, expected {tuple(prediction.grid.shape)}, "
                         "the grid of the case's files; take ground truth and masks from there")


def agreement(shares: pd.DataFrame, shapley_by_case: pd.DataFrame, region: str, zone: str = "tumour") -> pd.DataFrame:
    """Do attention, contributions and Shapley values say the same? Spearman's rank correlation over cases.

    A case's Shapley share is its value divided by the sum over the modalities; NaN where that sum is 0.
    Shares of two modalities mirror each other, so both then have the same correlations.

    Args:
        shares: those of several cases, one after another.
        shapley_by_case: of one method and policy.
        region: whose Shapley values are used.
        zone: whose shares are used.

    Returns:
        A row for each modality and pair of the three: `first`, `second`, `spearman` (-1 to 1), `p` (of scipy's t
        approximation, rough below some 20 cases) and `cases` in which both are known. Correlation and p are NaN below
        three cases, or where one side never changes.

    Raises:
        ValueError: an unknown region or zone, or a case and modality that has several rows.
    """
    inside = _one_row_each(shares, "zone", zone)
    values = _one_row_each(shapley_by_case, "region", region)
    whole = values.groupby("case")["value"].transform("sum", min_count=1)
    values = values.assign(shapley=(values["value"] / whole).where(whole.abs() > 1e-9))    # 0 but for rounding
    joined = inside.merge(values[["case", "modality", "shapley"]], on=["case", "modality"], how="left")
    rows = []
    for modality, part in joined.groupby("modality", sort=False):
        for first, second in itertools.combinations(("attention", "contribution", "shapley"), 2):
            rows.append({"modality": modality, "first": first, "second": second, **_correlated(part[[first, second]])})
    return pd.DataFrame(rows)


def _chosen(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of one metric, each of them once."""
    if metric not in EMPTY_IS_KNOWN:
        raise ValueError(f"found metric={metric!r}, expected one of {', '.join(sorted(EMPTY_IS_KNOWN))}: of another, "
                         "such as the image's diagonal as a distance, the value of the empty answer is in no table")
    values = one_metric(table, metric)
    values = values.assign(policy=values["policy"].astype(object).where(values["policy"].notna(), ""))
    check_each_once(values, [*GROUP, "case", *TRAINING, "present"])
    return values


def _modalities(present: pd.Series) -> list[str]:
    """All that are named, in the order of the largest subset."""
    largest_first = sorted(present.unique(), key=lambda names: (-names.count("+"), names))
    return list(dict.fromkeys(name for names in largest_first for name in names.split("+")))


def _scores(part: pd.DataFrame, modalities: list[str]) -> pd.DataFrame:
    """v(S) of the cases and trainings (rows) that have it for every S; bit i of a column's number: modality i is in S.

    Column 0 is v(nothing), the Dice of the empty answer.
    """
    codes = {names: sum(1 << modalities.index(name) for name in names.split("+")) for names in part["present"].unique()}
    runs = part.assign(code=part["present"].map(codes), seed=part.groupby(TRAINING, dropna=False).ngroup())
    scores = runs.pivot(index=["case", "seed"], columns="code", values="value")
    scores = scores.reindex(columns=range(1, 2**len(modalities))).dropna()
    nothing = part["empty"].isin(TRUTH_EMPTY).groupby(part["case"]).any().astype(float)
    scores.insert(0, 0, scores.index.get_level_values("case").map(nothing))
    return scores


def _weights(count: int) -> np.ndarray:
    """Of v(S) in phi_i, (2^N, N): rows are the subsets as `_scores` numbers them.

    >>> _weights(2).tolist()
    [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    """
    weights = np.empty((2**count, count))
    for code, i in np.ndindex(2**count, count):
        size, has = code.bit_count(), code >> i & 1
        others = size - has
        weights[code, i] = (1 if has else -1) * factorial(others) * factorial(count - others - 1) / factorial(count)
    return weights


def _shared(maps: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, float]:
    """Share of each map in the sum of all inside a mask; NaN where that is 0."""
    sums = {name: float(one[mask].sum(dtype=float)) for name, one in maps.items()}
    whole = sum(sums.values()) or np.nan
    return {name: one / whole for name, one in sums.items()}


def _one_row_each(table: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """The rows of one zone or region, a case and modality once."""
    expect_one_of(column, value, sorted(table[column].unique()))
    found = table[table[column] == value]
    check_each_once(found, ["case", "modality"], "keep one method, policy and run")
    return found


def _correlated(pair: pd.DataFrame) -> dict[str, float]:
    """Spearman's correlation of two columns where both are known, its p, and in how many cases that is."""
    known = pair.dropna().to_numpy(float)
    statistic, p = spearman(*known.T, fewest=3)
    return {"spearman": statistic, "p": p, "cases": len(known)}


def spearman(one: np.ndarray, other: np.ndarray, fewest: int = 2) -> tuple[float, float]:
    """Spearman's correlation, -1 to 1, and its p; NaN below so many values, or where one of the two never changes."""
    if len(one) < fewest or np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan, np.nan
    found = stats.spearmanr(one, other)
    return float(found.statistic), float(found.pvalue)

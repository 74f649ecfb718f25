"""How well one mask agrees with another: Dice, ASSD and HD95, and what else clinicians and challenges ask for.

    Dice = 2 |P ∩ T| / (|P| + |T|)
    ASSD = (Σ_{p ∈ ∂P} d(p, ∂T) + Σ_{t ∈ ∂T} d(t, ∂P)) / (|∂P| + |∂T|)
    HD95 = max(percentile_95 of d(p, ∂T), percentile_95 of d(t, ∂P))
    NSD at τ = (area of ∂P with d(p, ∂T) ≤ τ + area of ∂T with d(t, ∂P) ≤ τ) / (area of ∂P + area of ∂T)

surfaces.py says what a surface is: its voxels for ASSD and HD95, its elements for NSD, the surface Dice. ASSD is pooled
over both surfaces, as in MONAI's `symmetric=True` and in medpy. HD95 has two definitions in use: the larger of the two
directed percentiles, as in MONAI (default), and the percentile of the pooled distances, as in medpy (`pooled=True`).
One far false positive can lie between them by a factor of fifty, so a table must say which it is.

An empty mask has no surface. The rule, here and nowhere else: two empty masks agree (Dice and NSD 1, distances 0);
one empty mask is as wrong as can be (Dice and NSD 0, distances the image's diagonal √Σ (voxels · spacing)², so that a
missed lesion never improves a mean). `Agreement` says which masks were empty, so that they can be counted. Lesions have
a rule of their own, that of BraTS, in lesions.py; the volume of an empty mask is 0.

References:
    Maier-Hein et al., Metrics reloaded: recommendations for image analysis validation, Nature Methods 2024,
    https://doi.org/10.1038/s41592-023-02151-z
    Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy, 2021 (NSD),
    https://doi.org/10.2196/26151
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from maml_toolkit.data.label_sets import overlap
from maml_toolkit.evaluation.lesions import RULES, lesion_wise
from maml_toolkit.evaluation.surfaces import VOXELS, Elements, box, checked, distances, surface_elements, surface_voxels

VERSION = 2
"""Of these definitions: raised wherever a number could come out otherwise, so that kept tables are measured anew."""

METRICS = ("dice", "assd", "hd95")
"""What is measured unless other metrics are asked for."""

KNOWN = re.compile(rf"dice|expected_dice|assd|hd95|volume|nsd@\d+(\.\d+)?|lesions(@({'|'.join(RULES)}))?")
"""The metrics that can be asked for."""

ROUNDING_MM = 1e-6
"""By which a distance may miss a tolerance: three voxels of 0.7 mm are within 2.1 mm."""

TITLES = {
    "dice": "Dice", "expected_dice": "Expected Dice", "assd": "ASSD", "hd95": "HD95", "nsd": "NSD",
    "volume_ground_truth": "Volume of the ground truth",
    "volume_prediction": "Volume of the prediction", "volume_difference": "Difference of volumes",
    "volume_absolute_difference": "Absolute difference of volumes", "lesion_dice": "Lesion-wise Dice",
    "lesion_hd95": "Lesion-wise HD95", "lesion_tp": "Lesions found", "lesion_fp": "Lesions invented",
    "lesion_fn": "Lesions missed", "lesion_sensitivity": "Sensitivity for lesions",
    "lesion_precision": "Precision for lesions", "lesion_f1": "F1 for lesions"}
"""Metrics as they are printed, in short for what follows @ in their names."""

LESION_UNITS = {"hd95": "mm", "tp": "count", "fp": "count", "fn": "count"}
"""Of what `lesion_wise` finds; the others are fractions."""


class Stems(frozenset):
    """Names of metrics that hold whatever follows @ in them: with "nsd" among them, "nsd@2" is one of them."""

    def __contains__(self, metric: object) -> bool:
        return super().__contains__(str(metric).partition("@")[0])


SIGNED = Stems({"volume_difference"})
"""The metrics that may be below 0."""


def title(metric: str) -> str:
    """A metric's name as it is printed: Dice, ASSD, HD95, NSD at 2 mm, Lesion-wise Dice (MET).

    >>> title("nsd@2"), title("lesion_hd95@met")
    ('NSD at 2 mm', 'Lesion-wise HD95 (MET)')
    """
    stem, _, setting = metric.partition("@")
    name = TITLES.get(stem, stem)
    return f"{name} at {setting} mm" if stem == "nsd" else f"{name} ({setting.upper()})" if setting else name


def asked(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Metrics that somebody asked for, each once.

    Raises:
        ValueError: there is none, or an unknown one.
    """
    names = tuple(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    if not names or not all(isinstance(one, str) and KNOWN.fullmatch(one) for one in names):
        raise ValueError(f"found metrics={metrics!r}, expected some of 'dice', 'expected_dice', 'assd', 'hd95', "
                         "'volume', 'nsd@2' (the surface Dice at 2 mm, or at another tolerance), 'lesions' (as BraTS "
                         f"2023 GLI), 'lesions@met' (or another of {', '.join(RULES)})")
    return names


class Measurement(NamedTuple):
    """One number of a table: `unit` is fraction (0 to 1), mm, voxel, ml or count."""

    metric: str
    unit: str
    value: float


@dataclass(frozen=True)
class Agreement:
    """What `measure` found: iterate over it for the measurements.

    Attributes:
        measurements: in the order in which they were asked for.
        prediction_empty, truth_empty: whether the rule for empty masks spoke instead of the formulas.
    """

    measurements: tuple[Measurement, ...]
    prediction_empty: bool
    truth_empty: bool

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.measurements)


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Overlap of two masks, 2 |P ∩ T| / (|P| + |T|), from 0 (none) to 1 (equal); 1 for two empty masks.

    >>> dice(np.ones((2, 2, 2)), np.ones((2, 2, 2)))
    1.0

    Here and below, masks are arrays (depth, height, width) of one shape, of booleans or of the numbers 0 and 1.

    Raises:
        ValueError: an array that is no mask, or two of different shapes.
    """
    prediction, truth, _ = checked(prediction, truth)
    return overlap(prediction, truth)


def assd(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float | int] = VOXELS) -> float:
    """Average symmetric surface distance of two masks, 0 or more, in mm; in voxels without a spacing.

    The mean of the distances from every surface voxel of one mask to the surface of the other, pooled over both. Two
    empty masks are 0 apart, an empty one and one that is not are the diagonal of the image apart.

    Args:
        prediction, truth: as for `dice`.
        spacing_mm: size of a voxel on each axis, in the order of the axes.

    Raises:
        ValueError: an array that is no mask, two of different shapes, or a spacing that is not three positive
            numbers.
    """
    prediction, truth, spacing = checked(prediction, truth, spacing_mm)
    return _assd(*distances(*surface_voxels(prediction, truth), spacing))


def hd95(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float | int] = VOXELS,
         pooled: bool = False) -> float:
    """95 % Hausdorff distance of two masks, 0 or more, in mm; in voxels without a spacing.

    Args:
        prediction, truth, spacing_mm: as for `assd`, empty masks too.
        pooled: the percentile of both surfaces' distances (medpy) instead of the larger of the two directed
            percentiles (MONAI).

    Raises:
        ValueError: as `assd`.
    """
    prediction, truth, spacing = checked(prediction, truth, spacing_mm)
    both = distances(*surface_voxels(prediction, truth), spacing)
    return float(np.percentile(np.concatenate(both), 95)) if pooled else _hd95(*both)


def nsd(prediction: np.ndarray, truth: np.ndarray, tolerance_mm: float,
        spacing_mm: Sequence[float | int] = VOXELS) -> float:
    """Surface Dice at a tolerance: which share of both surfaces lies so close to the other, from 0 to 1.

    By area of surface elements, as surface-distance of DeepMind and MONAI's `use_subvoxels=True`. Two empty masks
    have 1, an empty one and one that is not have 0.

    Args:
        prediction, truth, spacing_mm: as for `assd`.
        tolerance_mm: the largest distance that counts as close, in mm; in voxels without a spacing.

    Raises:
        ValueError: as `assd`, or a tolerance below 0.
    """
    if not 0 <= tolerance_mm < np.inf:
        raise ValueError(f"tolerance_mm is {tolerance_mm}, expected millimetres, 0 or more")
    return _nsd(_elements(*checked(prediction, truth, spacing_mm)), tolerance_mm)


def measure(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float | int], voxels: bool = True,
            metrics: str | Sequence[str] = METRICS) -> Agreement:
    """Several metrics of two masks at once, distances in mm and, unless told otherwise, in voxels.

    These can be asked for, each with its rows in a table:

        dice                    `dice`, in fraction
        expected_dice           nothing: two masks do not tell it, an answer does (`evaluate`)
        assd, hd95              `assd` and `hd95`, in mm and voxel
        nsd@2, nsd@0.5, …       `nsd` at 2 mm, 0.5 mm, …, in fraction
        volume                  volume_ground_truth, volume_prediction, volume_difference (prediction - ground
                                truth) and volume_absolute_difference, in ml
        lesions, lesions@met    `lesion_wise` of BraTS 2023's challenge GLI, or of another: lesion_dice,
                                lesion_hd95, …, their names followed by @met as asked

    ASSD and HD95 share one search for the nearest surface voxels, and NSD at all tolerances one for surface elements.

    Args:
        prediction, truth, spacing_mm: as for `assd`.
        voxels: whether ASSD and HD95 are given in voxels too.
        metrics: what to measure, in this order.

    Example:
        >>> mask = np.zeros((4, 4, 4), bool)
        >>> mask[1:3, 1:3, 1:3] = True
        >>> for metric, unit, value in measure(mask, np.roll(mask, 1, axis=0), (2.0, 1.0, 1.0)):
        ...     print(metric, unit, round(value, 2))
        dice fraction 0.5
        assd mm 1.0
        assd voxel 0.5
        hd95 mm 2.0
        hd95 voxel 1.0

    Raises:
        ValueError: as `assd`, or an unknown metric.
    """
    names, (prediction, truth, spacing) = asked(metrics), checked(prediction, truth, spacing_mm)
    around = box(prediction, truth)
    inside = prediction[around], truth[around]
    if {"assd", "hd95"} & set(names):
        surfaces = surface_voxels(prediction, truth, around)
        found = {"mm": distances(*surfaces, spacing)}
        if voxels:
            found["voxel"] = found["mm"] if tuple(spacing_mm) == VOXELS else distances(*surfaces, np.array(VOXELS))
    elements = _elements(*inside, spacing) if any(name.startswith("nsd") for name in names) else None
    rows: list[Measurement] = []
    for name in names:
        stem, at, setting = name.partition("@")
        if stem == "dice":
            rows.append(Measurement(name, "fraction", overlap(*inside)))
        elif stem == "nsd":
            rows.append(Measurement(name, "fraction", _nsd(elements, float(setting))))
        elif stem == "volume":
            rows += (Measurement(f"volume_{of}", "ml", ml) for of, ml in _volumes(*inside, spacing).items())
        elif stem == "lesions":
            rows += (Measurement(f"lesion_{of}{at}{setting}", LESION_UNITS.get(of, "fraction"), value)
                     for of, value in lesion_wise(*inside, spacing_mm, setting or "gli").items())
        elif stem in ("assd", "hd95"):
            rows += (Measurement(name, unit, (_assd if name == "assd" else _hd95)(*both))
                     for unit, both in found.items())
    return Agreement(tuple(rows), prediction_empty=not inside[0].any(), truth_empty=not inside[1].any())


def dice_of(shared: ArrayLike, voxels: ArrayLike) -> np.ndarray:
    """Dice from the voxels that two masks share, and those of the one and of the other together.

    >>> dice_of([3, 0], [8, 0]).tolist()
    [0.75, 1.0]
    """
    shared, voxels = np.asarray(shared, float), np.asarray(voxels, float)
    return np.where(voxels > 0, 2 * shared / np.maximum(voxels, 1), 1.0)


def _assd(outwards: np.ndarray, inwards: np.ndarray) -> float:
    return float(np.concatenate([outwards, inwards]).mean())


def _hd95(outwards: np.ndarray, inwards: np.ndarray) -> float:
    return float(max(np.percentile(outwards, 95), np.percentile(inwards, 95)))


def _volumes(prediction: np.ndarray, truth: np.ndarray, spacing: np.ndarray) -> dict[str, float]:
    predicted, true = (float(np.count_nonzero(mask) * spacing.prod() / 1000) for mask in (prediction, truth))
    return {"ground_truth": true, "prediction": predicted, "difference": predicted - true,
            "absolute_difference": abs(predicted - true)}


def _elements(prediction: np.ndarray, truth: np.ndarray, spacing: np.ndarray) -> tuple[Elements, Elements] | float:
    """Both masks' surface elements or, if a mask has none, the NSD by the rule for empty masks."""
    some = prediction.any(), truth.any()
    return surface_elements(prediction, truth, spacing) if all(some) else float(not any(some))


def _nsd(elements: tuple[Elements, Elements] | float, tolerance_mm: float) -> float:
    if isinstance(elements, float):
        return elements
    distances_mm, areas_mm2 = (np.concatenate(both) for both in zip(*elements, strict=True))
    return float(areas_mm2[distances_mm <= tolerance_mm + ROUNDING_MM].sum() / areas_mm2.sum())

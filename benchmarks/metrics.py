"""Rows of Dice, ASSD and HD95 against MONAI's and medpy's calls, values compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from benchmarks import peers
from benchmarks.rows import Row, against, timed
from benchmarks.settings import Settings
from benchmarks.timing import alternating
from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation.metrics import measure

Masks = list[tuple[np.ndarray, np.ndarray]]
PEERS: dict[str, tuple[str, Callable]] = {"MONAI": ("monai", peers.monai_metrics),
                                          "medpy": ("medpy", peers.medpy_metrics)}
GOALS = {"BraTS": {"MONAI": 0.25, "medpy": 0.02}, "liver": {"MONAI": 0.25, "medpy": 0.02},
         "small tumour": {"MONAI": 0.01, "medpy": 0.02}}


def against_peers(settings: Settings) -> Iterable[Row]:
    """Three regions of a brain, a large liver and a small tumour in it, against each peer."""
    for name, (masks, spacing_mm) in cases(settings).items():
        shape = "x".join(map(str, masks[0][0].shape))
        what = f"Dice + ASSD + HD95, {name} {shape}, {len(masks)} region{'s' if len(masks) > 1 else ''}"
        goals = {peer: (package, GOALS[name][peer]) for peer, (package, _) in PEERS.items()}

        def measured(peer: str, goal: float, masks: Masks = masks, spacing_mm: Sequence[float] = spacing_mm,
                     what: str = what) -> Row:
            values: dict[str, list[list[float]]] = {}

            def side(one: str, compute: Callable, values: dict = values, masks: Masks = masks) -> Callable[[], None]:
                compute(*blob((8, 8, 8), 0.3), spacing_mm)      # imports; the masks need no turn to warm up
                return lambda: values.update({one: [compute(*pair, spacing_mm) for pair in masks]})

            times = alternating({"ours": side("ours", own), peer: side(peer, PEERS[peer][1])}, settings.pairs, warm=0)
            return timed("metrics", what, "ours", peer, times, goal, difference(values["ours"], values[peer], peer))

        yield from against(goals, measured, "metrics", what)


def own(answer: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    """Dice, ASSD and HD95 in mm by ours."""
    return [one.value for one in measure(answer, truth, spacing_mm, voxels=False)]


def difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], peer: str) -> str:
    """How far the values of the regions lie apart where the definitions agree (medpy pools HD95)."""
    agreeing = slice(None) if peer == "MONAI" else slice(2)
    largest = np.abs(np.subtract(ours, theirs)[:, agreeing]).max()
    return f"values differ by at most {largest:.0e}" + ("; medpy pools HD95, not compared" if peer == "medpy" else "")


def cases(settings: Settings) -> dict[str, tuple[Masks, tuple[float, float, float]]]:
    """Name -> (answer, truth) of each region, and spacing in mm; an answer is a truth that moved, and an island."""
    task = TASKS["brats2021"]
    (brain,) = phantoms.brains(1, size=settings.case)
    classes = task.encode(np.asarray(brain.label.dataobj))
    regions = [task.region(classes, name) for name in task.regions]
    return {"BraTS": ([(moved(region), region) for region in regions], (1.0, 1.0, 1.0)),
            "liver": ([blob(settings.liver, 0.29)], (0.8, 0.8, 1.5)),
            "small tumour": ([blob(settings.liver, 0.02)], (0.8, 0.8, 1.5))}


def blob(shape: Sequence[int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A bumpy ellipsoid, its radius a share of each axis, and the same one moved."""
    axes = np.ogrid[tuple(slice(-0.5, 0.5, complex(0, n)) for n in shape)]
    bumps = 1 + 0.1 * np.sin(40 * axes[0]) * np.sin(40 * axes[1]) * np.sin(40 * axes[2])
    truth = sum(axis**2 for axis in axes) < (radius * bumps) ** 2
    return moved(truth), truth


def moved(mask: np.ndarray) -> np.ndarray:
    """The mask two voxels further on one axis, and a false positive of 27 voxels in a corner of its box."""
    answer = np.roll(mask, 2, axis=0)
    if mask.any():
        corner = np.argwhere(mask).min(0)
        answer[tuple(slice(n, n + 3) for n in corner)] = True
    return answer

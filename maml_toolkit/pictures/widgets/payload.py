"""A scene as bytes that a browser draws without asking again, and a plain description of what they are.

    value = step · integer,      q_i = round(C_i / step) − round(C_{i−1} / step),      C_i = bias + c_1 + … + c_i

Contributions are those against the background and rounded on their running sum, so bias and contributions as kept add
up to the log-odds within half a step. Every array is stored with its first axis (left-right) fastest and compressed
with zlib.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib as mpl
import nibabel
import numpy as np
from isal import isal_zlib

from maml_toolkit.data.findings import CT_WINDOW_HU
from maml_toolkit.data.tasks import Task
from maml_toolkit.pictures.plots.look import CHANGES, SOURCES, nesting, region_colours
from maml_toolkit.pictures.plots.view import SHOWN_PERCENTILES, window
from maml_toolkit.pictures.widgets.scene import Scene, adds_up, mapped
from maml_toolkit.prediction.contrast import REST, Contrast

STEP = 0.001
"""Finest step of contributions and logits, which a table of three decimals shows exactly; 16 bits reach ±32.8."""

MAPS_MB = 256
"""Above this size of all maps only every second (third, …) voxel of them is sent unless told otherwise."""


def packed(scene: Scene, downsample: int | None = None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Description and compressed arrays of a scene.

    Args:
        downsample: maps hold every n-th voxel on each axis; the smallest n with which all of them take at most
            MAPS_MB when left out. Images, labels and predicted classes hold every voxel.

    Raises:
        ValueError: downsample is smaller than 1.
    """
    every = _every(scene) if downsample is None else downsample
    if every < 1:
        raise ValueError(f"found downsample={downsample}, expected 1 or larger")
    arrays, modalities, answers = {}, [], []
    for name in scene.task.modalities:
        image, facts = coded_image(scene.images.get(name), scene.task.intensities[name])
        modalities.append({"name": name, **facts})
        if image is not None:
            arrays[f"image/{name}"] = image
    if scene.drawn is not None:
        arrays["truth"] = scene.drawn
    for number in range(len(scene.answers)):
        coded, facts = coded_answer(scene, number, every)
        arrays |= coded
        answers.append(facts)
    blobs = {name: isal_zlib.compress(np.swapaxes(array, -1, -3).tobytes(), 1) for name, array in arrays.items()}
    task = scene.task
    return {
        "case": scene.case, "task": task.name, "modalities": modalities, "answers": answers,
        "classes": list(task.class_names), **_sides(task), "truth": scene.drawn is not None,
        "most_nats": task.answers.most_nats,
        "empty": not scene.classes[0].any(),
        "regions": [{"name": name, "colour": colour, "below": nesting(task)[name],
                     "classes": [task.class_names.index(one) for one in task.regions[name]]}
                    for name, colour in region_colours(task).items()],
        "sources": {"truth": SOURCES["ground truth"], "prediction": SOURCES["prediction"]},
        "changes": CHANGES,
        "shape": list(scene.grid.canonical_shape), "affine": scene.affine.tolist(),
        "spacing": nibabel.affines.voxel_sizes(scene.affine).tolist(),
        "to_file": scene.to_file.astype(int).tolist(), "box": [list(edges) for edges in scene.grid.box],
        "start": list(scene.start), "every": every,
        "window": _window(scene),
        "colours": {name: mpl.colormaps[name](np.arange(256), bytes=True)[:, :3].ravel().tolist()
                    for name in ("cividis", "RdBu_r")},     # red green blue, 0 to 255, one colour after another
        "arrays": {name: {"type": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()},
        **_memory(arrays, blobs, len(answers)),
    }, blobs


def coded_image(image: np.ndarray | None, kind: str) -> tuple[np.ndarray | None, dict[str, Any]]:
    """An image as small integers, and how they become intensities again: low + step · integer.

    A CT is kept in whole HU (int16). An MR has 255 steps between its lowest and its 99.95 percentile of non-zero
    voxels (uint8) and 0 where it is exactly 0; what is taken as it is has 256 steps between those of all voxels.

    Returns:
        The array and `present`, `kind`, `low`, `step`, but for CT also `percentiles`: the intensities of these
        voxels at 0, 0.5, … 100 percent.
    """
    if image is None:
        return None, {"present": False, "kind": kind}
    if kind == "ct":
        whole = np.clip(np.rint(image), -32768, 32767).astype("<i2")
        return whole, {"present": True, "kind": kind, "low": 0.0, "step": 1.0}
    signal = image[image != 0 if kind == "mr" else ...]
    quantiles = np.percentile(signal if signal.size else np.zeros(1), np.linspace(0, 100, 201))
    low, high = float(quantiles[0]), float(np.percentile(signal, 99.95)) if signal.size else 1.0
    first = int(kind == "mr")       # 0 stands for nothing there
    step = max(high - low, 1e-6) / (255 - first)
    coded = np.clip(np.rint((image - low) / step) + first, first, 255)
    coded = (np.where(image == 0, 0, coded) if first else coded).astype(np.uint8)
    return coded, {"present": True, "kind": kind, "low": low - first * step, "step": step,
                   "percentiles": [float(value) for value in quantiles]}


def coded_answer(scene: Scene, number: int, every: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An answer as small integers, of its maps every n-th voxel of the box, and what they mean.

    Args:
        number: of the answer, which stands in the names of the arrays.

    Returns:
        Arrays "classes/0", "attention/0/<modality>" (uint8, 255 is 1), "uncertainty/0" (uint8, 255 is `most_nats`),
        "contribution/0/<modality>" (channels, …) and, where these do not add up to the answer, "logits/0" (the same),
        as int16, both minus those of the background, which comes first (`Classes.with_background`); and `modalities`,
        `bias`, `step` (of contributions and logits), `attention` and `contributions`: of which modalities there are
        maps, `uncertainty`: over which it can be drawn; `sums`: whether contributions and bias are those of the answer;
        `gap`: how far they miss its log-odds.
    """
    answer, with_background = scene.answers[number], scene.task.answers.with_background
    attention, terms = ({name: _sampled(answer.in_box(f"{kind}/{name}"), every) for name in mapped(answer, kind)}
                        for kind in ("attention", "contribution"))
    terms = {name: with_background(one) for name, one in terms.items()}
    logits = with_background(_sampled(answer.in_box("logits"), every))
    coded = {f"attention/{number}/{name}": np.rint(np.clip(one, 0, 1) * 255).astype(np.uint8)
             for name, one in attention.items()}
    coded[f"classes/{number}"] = scene.classes[number]
    unsure = "uncertainty" in answer.maps
    if unsure:
        shares = _sampled(answer.in_box("uncertainty"), every) / scene.task.answers.most_nats
        coded[f"uncertainty/{number}"] = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    facts = {"modalities": list(answer.modalities), "attention": [*attention], "contributions": [*terms],
             "uncertainty": [*scene.images] * unsure, "bias": None, "gap": 0.0,
             "sums": adds_up(answer)}
    bias = with_background(np.zeros(len(logits)) if answer.bias is None else np.asarray(answer.bias, float))
    kept = [*terms.values(), *[logits] * (not facts["sums"])]
    step = step_for(float(max(np.abs(one).max() for one in kept) + np.abs(bias).max()))
    if not facts["sums"]:
        coded[f"logits/{number}"] = np.rint(logits / step).astype("<i2")
    if not terms:
        return coded, {**facts, "step": step}
    facts |= {"bias": np.rint(bias / step).astype(int).tolist(), "step": step,
              "gap": float(np.abs(sum(terms.values()) + bias.reshape(-1, 1, 1, 1) - logits).max())}
    return coded | {f"contribution/{number}/{name}": one for name, one in rounded_sum(terms, bias, step)}, facts


def rounded_sum(terms: Mapping[str, np.ndarray], bias: np.ndarray, step: float) -> Iterator[tuple[str, np.ndarray]]:
    """Each term (classes, …) in whole steps (int16), rounded so that all of them and the bias keep their sum.

    >>> terms = {"t1": np.full((1, 1, 1, 1), 0.4), "t2": np.full((1, 1, 1, 1), 0.4)}
    >>> [(name, int(one.item())) for name, one in rounded_sum(terms, np.zeros(1), 1.0)]
    [('t1', 0), ('t2', 1)]
    """
    total = np.asarray(bias, float).reshape(-1, 1, 1, 1) / step
    before = np.rint(total)
    for name, values in terms.items():
        total = total + values / step
        after = np.rint(total)
        yield name, (after - before).astype("<i2")
        before = after


def step_for(largest: float) -> float:
    """The smallest multiple of STEP in which 16 bits reach a value."""
    return round(STEP * max(1, math.ceil(largest / STEP / 32000)), 6)


def _sides(task: Task) -> dict[str, Any]:
    """What the log-odds may be of, with the contrast that `Contrast.of` gives it, and against what.

    Each class, then each region; or each region alone, one channel further back, where regions are trained on.
    """
    exclusive = task.train_on == "classes"
    names = dict.fromkeys((*task.class_names * exclusive, *task.regions))
    sides = [Contrast.of(task, name) for name in names if len(task.regions.get(name, ())) < task.classes]
    return {"sides": [{"name": one.name, "classes": [channel + (not exclusive) for channel in one.over],
                       "against": one.against} for one in sides],
            "against": [*(one.name for one in sides if exclusive), REST], "exclusive": exclusive,
            "channels": len(task.answers.names) + (not exclusive),
            "named": [task.answers.named(number) for number in range(task.classes)]}


def _every(scene: Scene) -> int:
    """Of how many voxels on each axis the maps hold one, to stay within MAPS_MB."""
    channels = len(scene.task.answers.names)
    each = sum(len(mapped(one, "attention")) + 2 * channels * (len(mapped(one, "contribution")) + (not adds_up(one)))
               for one in scene.answers)
    return next(n for n in range(1, 100) if each * math.prod(scene.grid.box_shape) / n**3 <= MAPS_MB * 1e6 or n == 99)


def _sampled(array: np.ndarray, every: int) -> np.ndarray:
    """The middle voxel of each block of n voxels on the last three axes."""
    chosen = [np.minimum(np.arange(0, size, every) + every // 2, size - 1) for size in array.shape[-3:]]
    return array if every == 1 else array[(..., *np.ix_(*chosen))]


def _memory(arrays: Mapping[str, np.ndarray], blobs: Mapping[str, bytes], answers: int) -> dict[str, Any]:
    """What was sent and what it takes in the browser, in MB (10^6 bytes), and the same in words."""
    sent, unpacked = sum(map(len, blobs.values())) / 1e6, sum(array.nbytes for array in arrays.values()) / 1e6
    subsets = sum(array.nbytes for name, array in arrays.items() if not name.startswith(("image/", "truth"))) / 1e6
    return {"sent_mb": sent, "unpacked_mb": unpacked, "subsets_mb": subsets, "memory": (
        f"{sent:.1f} MB sent once, {unpacked:.1f} MB unpacked, of which {subsets:.1f} MB for {answers} "
        f"{'answer' if answers == 1 else 'answers'}")}


def _window(scene: Scene) -> dict[str, list[float]]:
    """What is shown at first: percentiles of an MR, level and width of a CT in HU."""
    scans = [image.ravel()[::7] for name, image in scene.images.items() if scene.task.intensities[name] == "ct"]
    low, high = window(np.concatenate(scans), "ct") if scans else CT_WINDOW_HU
    return {"mr": list(SHOWN_PERCENTILES), "ct": [float(round((low + high) / 2)), float(max(1, round(high - low)))]}

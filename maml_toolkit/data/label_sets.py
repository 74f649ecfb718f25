"""Labels that leave something open: voxels that nobody labelled, and cases of which only some classes were drawn.

    0 to 127     a class, 0 the background
    128 to 254   128 + sum over k of 2^(k-1): the background, or one of these foreground classes k
    255          anything: the voxel counts nowhere

A case in which a class was not drawn may show it wherever its label says background.

References:
    Marginal loss and exclusion loss for partially supervised multi-organ segmentation, Shi et al., Medical Image
    Analysis 2021, https://arxiv.org/abs/2007.03868
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maml_toolkit.system.errors import DataError, nearest

if TYPE_CHECKING:
    from maml_toolkit.data.tasks import Task

SETS = 128
"""The first value that is no class."""

IGNORED = 255
"""The voxel counts nowhere."""

MOST = 7
"""Foreground classes of a task with cases of which some were not drawn: each is a bit."""


def undrawn(labelled: Sequence[str] | None, task: Task) -> list[int]:
    """The foreground classes, as numbers, that the label of a case does not hold.

    Args:
        labelled: names of the classes that it holds; None for all. The background may be among them.

    Raises:
        DataError: a name that is no class, or more classes in the task than can be left out.
    """
    if labelled is None:
        return []
    if unknown := [name for name in labelled if name not in task.labels]:
        raise DataError(f"found {', '.join(map(repr, unknown))} in labelled, expected {', '.join(task.class_names)}",
                        "Name the classes that this label holds, joined by +"
                        + "".join(nearest(name, task.class_names) for name in unknown) + ".")
    open_ones = [number for number, name in enumerate(task.class_names) if number and name not in labelled]
    if open_ones and task.classes - 1 > MOST:
        raise DataError(f"found a label that holds only {', '.join(labelled)} for a task of {task.classes - 1} "
                        f"foreground classes, expected at most {MOST} where classes are left out",
                        "Take a task of fewer classes, or leave the case out.")
    return open_ones


def opened(classes: np.ndarray, undrawn: Sequence[int], task: Task) -> np.ndarray:
    """The same labels (uint8), in which the background may be each of the classes that were not drawn."""
    if not undrawn:
        return classes
    value = IGNORED if len(undrawn) == task.classes - 1 else SETS + sum(2 ** (number - 1) for number in undrawn)
    return np.where(classes == 0, np.uint8(value), classes)


def closed(classes: np.ndarray, ignored: bool = True) -> np.ndarray:
    """The labels with the background in place of what is open, and unless told otherwise of what is ignored."""
    is_open = (classes >= SETS) & (ignored or classes != IGNORED)
    return np.where(is_open, classes.dtype.type(0), classes) if is_open.any() else classes


def compared_masks(answer: np.ndarray, truth: np.ndarray, task: Task) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each region with its mask in an answer and in the ground truth, from which the ignored voxels are gone.

    A region with a class that was not drawn is left out: nobody knows where it ends.
    """
    known = truth != IGNORED
    sets = np.unique(truth[known & (truth >= SETS)]).tolist()
    for region, names in task.regions.items() if known.any() else ():
        numbers = [task.class_names.index(name) for name in names]
        if not any(one - SETS & 2 ** (number - 1) for one in sets for number in numbers):
            yield region, task.region(answer, region) & known, task.region(truth, region)


def overlap(one: np.ndarray, other: np.ndarray, empty: float = 1.0) -> float:
    """Dice of two masks of booleans, 0 to 1; for two empty ones what is told."""
    voxels = np.count_nonzero(one) + np.count_nonzero(other)
    return float(2 * np.count_nonzero(one & other) / voxels) if voxels else empty

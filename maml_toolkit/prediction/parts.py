"""Connected parts of a region that are too small to be believed; voxels that touch at a corner are one part."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from maml_toolkit.data.tasks import Task


def parts_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the part of each voxel, 0 outside, and the voxels of each part; that of the outside is 0."""
    numbers = np.zeros(mask.shape, np.int32)
    for box in ndimage.find_objects(mask.astype(np.uint8)):
        ndimage.label(mask[box], np.ones((3, 3, 3)), output=numbers[box])
    voxels = np.bincount(numbers.ravel(), minlength=1)
    voxels[0] = 0
    return numbers, voxels


def without_small(classes: np.ndarray, task: Task, smallest_mm3: Mapping[str, float], voxel_mm3: float,
                  logits: Callable[[], np.ndarray]) -> np.ndarray:
    """An answer without the parts of regions that are smaller than told, one region after the other as the task does.

    A voxel of such a part gets what the network would have said without the classes of the region: a crumb of enhancing
    tumour becomes tumour core where that is likeliest else.

    Args:
        classes: of each voxel.
        smallest_mm3: region -> the least volume of a part that stays.
        voxel_mm3: volume of a voxel.
        logits: gives (channels, …) on the same grid; asked where something is dropped.
    """
    answers = task.answers
    for region in task.regions:
        numbers, voxels = parts_of(task.region(classes, region)) if smallest_mm3.get(region) else (None, np.zeros(1))
        small = (voxels > 0) & (voxels * voxel_mm3 < smallest_mm3.get(region, 0))
        if small.any():
            gone = small[numbers]
            scores = logits()[:, gone]
            scores[task.region(np.array(answers.painted), region)] = -np.inf
            classes = classes.copy()
            classes[gone] = answers.classes(scores)
    return classes


def check_smallest(smallest_mm3: Mapping[str, float] | None, task: Task) -> None:
    """Nothing, if smallest volumes are given for regions of the task.

    Raises:
        ValueError: one is for something else.
    """
    if unknown := [name for name in smallest_mm3 or () if name not in task.regions]:
        raise ValueError(f"found {', '.join(map(str, unknown))} in smallest_mm3, expected regions of task {task.name}: "
                         f"{', '.join(task.regions)}")

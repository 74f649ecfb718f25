"""What the channels of a network's answer say: of which class a voxel is, or of each region whether it is in it.

    trained on classes   p_k = exp(x_k) / sum_j exp(x_j)     a voxel is of the class with the largest p_k
    trained on regions   p_r = 1 / (1 + exp(-x_r))           a voxel is in every region with p_r > 1/2; painted one
                                                             after the other, the last of them says the class

Regions overlap (the enhancing tumour lies within the tumour core), and a label map holds one class a voxel. Each region
is painted in the class that no later region has: whole tumour as oedema, over it the core as necrosis, over that the
enhancing tumour, as nnU-Net's `regions_class_order` says it.

References:
    nnU-Net's region-based training, https://github.com/MIC-DKFZ/nnUNet, documentation/region_based_training.md
    No New-Net, Isensee et al., BrainLes 2018, https://arxiv.org/abs/1809.10483
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from maml_toolkit.data.tasks import Task

TRAIN_ON = ("classes", "regions")
"""What the channels of a network may be."""


@dataclass(frozen=True)
class Classes:
    """A channel for each class, the background first; they exclude one another.

    Attributes:
        names: of the channels.
        members: of each channel, the numbers of the classes that it stands for.
        painted: of each channel, the class that it puts into a label map.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    painted: tuple[int, ...]

    @property
    def found(self) -> range:
        """The channels of what is looked for, all but the background."""
        return range(1, len(self.names))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Of logits (channels, …), in the same shape."""
        from scipy.special import softmax  # scipy takes longer to load than all that a task needs

        return softmax(logits, axis=0)

    @property
    def most_nats(self) -> float:
        """The largest `entropy` that there is: that of all channels being as likely."""
        return float(np.log(len(self.names)))

    def entropy(self, probabilities: np.ndarray) -> np.ndarray:
        """Of each voxel (…), -sum_k p_k ln p_k nats; of regions the mean of their entropies, each in it or not."""
        return _surprise(probabilities).sum(0)

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Logits with these probabilities; of classes, up to a number that all channels of a voxel share."""
        return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))

    def classes(self, logits: np.ndarray) -> np.ndarray:
        """Class of each voxel (…), from logits (channels, …)."""
        return logits.argmax(0)

    def classes_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Class of each voxel (…), from probabilities (channels, …)."""
        return probabilities.argmax(0)

    def against_background(self, terms: Any) -> Any:
        """Logits, what a scan adds to them, or a bias, (channels, …), minus those of the background."""
        return terms - terms[:1]

    def with_background(self, terms: Any) -> Any:
        """`against_background`, the background's own, which are 0, before the others."""
        return self.against_background(terms)

    def deciding(self, terms: Any) -> Any:
        """What a scan adds to the logits, (channels, …), without what it adds to all alike, which decides nothing."""
        return terms - terms.mean(0)

    def named(self, number: int) -> str:
        """The name of the channel that paints a class."""
        return self.names[self.painted.index(number)] if number in self.painted else self.names[self.found[0]]

    def mask(self, classes: np.ndarray, channel: int) -> np.ndarray:
        """Where a channel's class, or its region, is in an array of classes."""
        return np.isin(classes, self.members[channel])

    def outside(self, logits: np.ndarray, outside: float) -> None:
        """Turn logits that are `outside` in every channel into those of the background, in place."""
        logits[0][(logits == outside).all(0)] = 0


@dataclass(frozen=True)
class Regions(Classes):
    """A channel for each region, in the order of the task; one does not exclude another."""

    @property
    def found(self) -> range:
        """Every channel."""
        return range(len(self.names))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Of logits (channels, …), each for itself."""
        from scipy.special import expit

        return expit(logits)

    @property
    def most_nats(self) -> float:
        """That of every region being as likely as not."""
        return float(np.log(2))

    def entropy(self, probabilities: np.ndarray) -> np.ndarray:
        """Of each voxel (…), the mean over regions of -p ln p - (1 - p) ln(1 - p) nats."""
        return (_surprise(probabilities) + _surprise(1 - probabilities)).mean(0)

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Logits with these probabilities, as far as float32 tells them from 0 and 1."""
        limits = np.finfo(np.float32)
        inside = np.clip(probabilities, limits.tiny, 1 - limits.epsneg)
        return np.log(inside) - np.log1p(-inside)

    def classes(self, logits: np.ndarray) -> np.ndarray:
        """Class of each voxel (…), the regions painted one over the other."""
        return self._painted(logits > 0)

    def classes_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Class of each voxel (…), from probabilities (channels, …)."""
        return self._painted(probabilities > 0.5)

    def against_background(self, terms: Any) -> Any:
        """The same: the logit of a region is its log-odds against everything else already."""
        return terms

    def with_background(self, terms: Any) -> Any:
        """The same behind a channel of zeros."""
        return np.concatenate([np.zeros_like(terms[:1]), terms])

    def deciding(self, terms: Any) -> Any:
        """The same: each region is decided by itself."""
        return terms

    def outside(self, logits: np.ndarray, outside: float) -> None:
        """Nothing: what is in no region is background."""

    def _painted(self, inside: np.ndarray) -> np.ndarray:
        classes = np.zeros(inside.shape[1:], np.intp)
        for mask, number in zip(inside, self.painted, strict=True):
            classes[mask] = number
        return classes


def _surprise(probabilities: np.ndarray) -> np.ndarray:
    """-p ln p, 0 where p is."""
    inside = np.clip(probabilities, np.finfo(np.float32).tiny, 1)
    return -inside * np.log(inside)


def answers_of(task: Task) -> Classes:
    """What the channels of a network for this task are."""
    if task.train_on == "classes":
        numbers = tuple(range(task.classes))
        return Classes(task.class_names, tuple((number,) for number in numbers), numbers)
    return Regions(tuple(task.regions), tuple(_numbers(task, names) for names in task.regions.values()),
                   tuple(task.class_names.index(own[0]) for own in own_classes(task)))


def own_classes(task: Task) -> Iterator[list[str]]:
    """Of each region of a task the classes that no later region has."""
    regions = list(task.regions.values())
    for number, names in enumerate(regions):
        yield [name for name in dict.fromkeys(names) if not any(name in later for later in regions[number + 1:])]


def without_order(task: Task) -> Iterator[str]:
    """Why regions cannot be painted one after the other so that every class that is in one comes out as it was."""
    for region, own in zip(task.regions, own_classes(task), strict=True):
        if len(own) != 1:
            what = f"the classes {', '.join(own)}" if own else "no class"
            yield (f"train_on is 'regions', and the region {region} has {what} for itself that no later region has, "
                   "expected one; " + ("make a region of each of them but one, or one class that has their values"
                                       if own else "list larger regions before those within them"))


def _numbers(task: Task, names: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted({task.class_names.index(name) for name in names}))

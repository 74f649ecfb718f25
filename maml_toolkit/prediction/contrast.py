"""What each scan says for some classes against others: its share in their log-odds.

Softmax sees differences alone: what is added to the logits of all classes changes nothing, so what a scan adds to the
logit of one class means nothing by itself. Of classes R against others Q, with logits y_k = b_k + sum_i c_{i,k},

    log sum_{k in R} p_k - log sum_{k in Q} p_k = lse_R(y) - lse_Q(y),     lse_R(y) = log sum_{k in R} exp y_k

Of one class k against one other r this is linear, and the share of scan i is c_{i,k} - c_{i,r}, that of the bias
b_k - b_r. Of several classes it is not. There the bias has what it says alone, lse_R(b) - lse_Q(b), and scan i has

    s_i = sum_{k in R} w_k c_{i,k} - sum_{k in Q} v_k c_{i,k}
    w = (1 - t) softmax_R(b) + t softmax_R(y)

and v is the same of Q. lse is convex, so its rise from b to y lies between those that its slopes at both ends (softmax)
would give; t in [0, 1] is the place where it lies, and the shares add up to the log-odds exactly. Up to two classes on
a side they are the Aumann-Shapley values along the straight line from the bias to the answer, of more an approximation
that adds up too.

A network that was trained on regions has a sigmoid for each. Its logit is the log-odds of the region against everything
else, and its contributions are the shares; of one region against another it says nothing.

References:
    Values of Non-Atomic Games, Aumann and Shapley, Princeton 1974
    Axiomatic Attribution for Deep Networks, Sundararajan et al., ICML 2017, https://arxiv.org/abs/1703.01365
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax

from maml_toolkit.data.tasks import Task
from maml_toolkit.system.errors import expect_one_of

REST = "everything else"
"""Stands for all classes that are not on the other side."""


@dataclass(frozen=True)
class Contrast:
    """Some classes of a task against others.

    Attributes:
        name, against: what stands on each side, in words.
        over, under: numbers of the channels there; no class stands on both. Of a network that was trained on regions
            `over` is one of them, and `under` is empty.
        classes: numbers of the classes that `over` stands for.
    """

    name: str
    against: str
    over: tuple[int, ...]
    under: tuple[int, ...]
    classes: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, name: str, against: str | None = None) -> Contrast:
        """A class against the background, or a region against everything else, unless something else is named.

        A name that both a class and a region have is the region's against everything else, and else the class's.

        Args:
            name, against: classes or regions of the task, or "everything else".

        Raises:
            ValueError: an unknown name, a class that would stand on both sides, or of a task that is trained on
                regions something else than a region against everything else.
        """
        if task.train_on == "regions":
            if name not in task.regions or against not in (None, REST):
                raise ValueError(f"found {name} against {against or REST}, expected one of {', '.join(task.regions)} "
                                 f"against {REST}: task {task.name} is trained on regions")
            channel = task.answers.names.index(name)
            return cls(name, REST, (channel,), (), task.answers.members[channel])
        over = _classes(task, name, region_first=against == REST)
        if against is None:
            against = task.class_names[0] if name in task.class_names[1:] else REST
        under = tuple(one for one in range(task.classes) if one not in over) if against == REST \
            else _classes(task, against)
        if set(over) & set(under) or not under:
            raise ValueError(f"found {name} against {against}, expected two sides without a class in common; choose "
                             "another class or region for one of them")
        return cls(name, task.class_names[under[0]] if len(under) == 1 else against, over, under, over)

    @property
    def is_linear(self) -> bool:
        """Whether shares are plain differences, of one class against one, or those of a region's own channel."""
        return len(self.over) == 1 and len(self.under) <= 1

    @property
    def label(self) -> str:
        """What a map of shares shows, for its colour bar."""
        return f"log-odds of {self.name} against {self.against}"

    @property
    def sentence(self) -> str:
        """What the colours of a map of shares mean."""
        return f"Red: this scan makes {self.name} more likely than {self.against}; blue: less likely."

    @property
    def remark(self) -> str:
        """That several classes are not linear, in a sentence; nothing where it is one against one."""
        return "" if self.is_linear else ("The log-odds of several classes are not linear in what the scans say, so "
                                          "each class is weighed by its part in the answer; the shares add up exactly.")

    def log_odds(self, logits: np.ndarray) -> np.ndarray:
        """Of logits (classes, …), as (…): the logarithm of the ratio of both sides' probabilities."""
        if self.is_linear:
            return self._difference(logits)
        return logsumexp(logits[list(self.over)], axis=0) - logsumexp(logits[list(self.under)], axis=0)

    def shares(self, terms: Mapping[str, np.ndarray],
               bias: np.ndarray | None = None) -> tuple[dict[str, np.ndarray], float]:
        """The share of each scan in the log-odds, and that of the bias; they sum to `log_odds` of terms + bias.

        Args:
            terms: what each scan adds to the logits, (classes, …); what is added to all classes alike is nothing.
            bias: (classes,), or None for zeros.

        Returns:
            By scan (…), and a number.
        """
        if not terms:
            return {}, 0.0
        bias = np.zeros(len(next(iter(terms.values())))) if bias is None else np.asarray(bias, float)
        if self.is_linear:
            return {name: self._difference(one) for name, one in terms.items()}, float(self._difference(bias))
        found, of_bias = dict.fromkeys(terms, 0.0), 0.0
        for sign, side in ((1, list(self.over)), (-1, list(self.under))):
            parts = {name: one[side].astype(float) for name, one in terms.items()}
            weights = sign * _weights(sum(parts.values()), bias[side])
            found = {name: found[name] + (weights * one).sum(0) for name, one in parts.items()}
            of_bias += sign * logsumexp(bias[side])
        return {name: one.astype(terms[name].dtype) for name, one in found.items()}, float(of_bias)

    def _difference(self, values: np.ndarray) -> Any:
        return values[self.over[0]] - values[self.under[0]] if self.under else values[self.over[0]]


@dataclass(frozen=True)
class LogOdds:
    """The log-odds of a contrast at every voxel, and the shares of which they are the sum.

    Attributes:
        contrast: what against what.
        total: log of the ratio of both sides' probabilities, (depth, height, width).
        shares: of each modality, like `total`; with `bias` they add up to it wherever the network was run, but not of
            an answer by the policy "by-size". Empty where the answer is no sum over modalities.
        bias: share of the bias, the same at every voxel.
    """

    contrast: Contrast
    total: np.ndarray
    shares: dict[str, np.ndarray]
    bias: float


def _classes(task: Task, name: str, region_first: bool = False) -> tuple[int, ...]:
    """The numbers of the classes that a class or a region stands for; of one name for both, the class unless told."""
    expect_one_of("class", name, dict.fromkeys((*task.class_names, *task.regions)))
    if name in task.class_names and not (region_first and name in task.regions):
        return (task.class_names.index(name),)
    return tuple(task.class_names.index(one) for one in task.regions[name])


def _weights(change: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The weights of classes with which their changes (n, …) from a bias (n,) sum to the change of lse."""
    bias = bias.reshape(-1, *[1] * (change.ndim - 1))
    before, after = softmax(bias, axis=0), softmax(bias + change, axis=0)
    lowest, highest = (before * change).sum(0), (after * change).sum(0)
    rise = logsumexp(bias + change, axis=0) - logsumexp(bias)
    apart = highest - lowest            # 0 where all classes change alike, and then any weights will do
    place = np.clip((rise - lowest) / np.where(apart > 0, apart, 1), 0, 1)
    return before + place * (after - before)

"""The answers for one case, put together while the windows go by: what each subset of the scans says by each policy.

With uncertainty the answers without one of the scans are put together too, the probabilities of all that is asked are
summed, and of several members the class maps of each are kept: what sureness.py makes its numbers of.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.methods.method import Segmentation
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.sureness import expecting, unsure
from maml_toolkit.prediction.windows import Sums
from maml_toolkit.system.errors import DataError, expect_one_of

if TYPE_CHECKING:
    from maml_toolkit.prediction.predictor import Predictor

POLICIES = ("fused", "heads", "by-size")
"""Who answers: what the method makes of all modalities together, the mean of what each says alone, or a mixture of both
whose shares depend on the number of scans."""

SUMMED = ("fused", "heads")
"""The answers that are summed over windows; the policy "by-size" is mixed of both."""

Key = tuple[frozenset[str], str]
"""A subset of the scans, and a policy or one of the answers of which it is made."""


def summed_for(policy: str) -> tuple[str, ...]:
    """The answers of which a policy is made."""
    return SUMMED if policy == "by-size" else (policy,)


def check_policies(policies: str | Iterable[str]) -> list[str]:
    """The policies, or the one, each once.

    Raises:
        ValueError: one is none.
    """
    found = list(dict.fromkeys([policies] if isinstance(policies, str) else policies))
    for one in found:
        expect_one_of("policy", one, POLICIES)
    return found


class Answering:
    """The sums over windows of one case.

    Args:
        predictor: whose members answer.
        subsets, policies: of the predictions that are wanted.
        maps: the kinds that are kept of them: "attention", "contributions", "uncertainty".
        shape: of the volume that the windows cover.
    """

    def __init__(self, predictor: Predictor, subsets: Sequence[frozenset[str]], policies: Sequence[str],
                 maps: Collection[str], shape: Sequence[int]):
        self.predictor, self.policies, self.maps, self.shape = predictor, policies, maps, tuple(shape)
        self.voices = {subset: predictor.voices(subset, "uncertainty" in maps) for subset in subsets}
        self.asked = list(dict.fromkeys(one for own in self.voices.values() for one in own))
        self.kinds = [kind for kind in SUMMED if any(kind in summed_for(policy) for policy in policies)]
        self.weights = predictor.weights.to(predictor.sums_on)
        self.total = torch.zeros(self.shape, device=predictor.sums_on)
        self.sums = self._none_yet(self.asked, self.kinds)
        self.said = self._none_yet(subsets if "uncertainty" in maps else (), policies)
        self.each: list[dict[Key, np.ndarray]] = []     # class maps of every member so far

    def begin(self) -> None:
        """The next member's windows follow."""
        apart = bool(self.said and self.predictor.others)
        self.own = self._none_yet(self.voices if apart else (), self.kinds)
        self.before = self.total.clone() if apart else self.total

    def add(self, subset: frozenset[str], answer: Segmentation, place: tuple[slice, ...], flip: tuple[int, ...],
            member: int) -> None:
        """What a member says of one window from a subset, turned back."""
        by = {kind: answer if kind == "fused" else answer.by_heads() for kind in self.kinds}
        kept = self.maps if subset in self.voices else ()
        for kind, one in by.items():
            maps = {"logits": one.logits[0]}
            if "attention" in kept:
                maps |= {f"attention/{name}": values[0].mean(0) for name, values in one.attention.items()}
            if "contributions" in kept:
                maps |= {f"contribution/{name}": values[0] for name, values in one.contributions.items()}
            self.sums[subset, kind].add(maps, place, self.predictor.weights, flip)
            self.sums[subset, kind].biases[member] = one.bias
            if (subset, kind) in self.own:
                self.own[subset, kind].add({"logits": maps["logits"]}, place, self.predictor.weights, flip)
        for (wanted, policy), sums in self.said.items():
            if subset in self.voices[wanted]:
                logits = self._mixed([by[kind].logits[0].float() for kind in summed_for(policy)], policy, len(subset))
                found = {"probabilities": self.predictor.method.activation.probabilities(logits)}
                sums.add(found, place, self.predictor.weights, flip)

    def seen(self, place: tuple[slice, ...]) -> None:
        """A window was answered from every subset."""
        self.total[place] += self.weights

    def end(self, inside: tuple[slice, ...]) -> None:
        """A member has seen all windows; `inside` is what they hold of the case."""
        if self.own:
            total = self.total - self.before
            self.each.append({key: self._classes(self._logits(self.own, *key, total, inside)) for key in self.said})

    def predictions(self, case: PreparedCase, inside: tuple[slice, ...]) -> dict[Key, Prediction]:
        """By subset and policy, once all members have seen all windows."""
        found = {key: self._averaged(case, *key, inside) for key in itertools.product(self.asked, self.policies)}
        for (subset, policy), sums in self.said.items():
            voices = self.voices[subset]
            mean = (sums.mean("probabilities", self.total) / len(voices))[(..., *inside)].cpu().numpy()
            without = {"".join(subset - other): self._classes(found[other, policy].maps["logits"])
                       for other in voices[1:]}
            answer = unsure(found[subset, policy], mean, without, [classes[subset, policy] for classes in self.each])
            found[subset, policy] = expecting(answer, self.predictor.fitted.lines(policy, len(subset)))
        return {key: found[key] for key in itertools.product(self.voices, self.policies)}

    def _none_yet(self, subsets: Iterable[frozenset[str]], ways: Sequence[str]) -> dict[Key, Sums]:
        return {key: Sums(self.shape, self.predictor.sums_on) for key in itertools.product(subsets, ways)}

    def _averaged(self, case: PreparedCase, subset: frozenset[str], policy: str,
                  inside: tuple[slice, ...]) -> Prediction:
        """The prediction that the sums over windows hold.

        Raises:
            DataError: what the network computed is no number; a label map of it would look like any other.
        """
        predictor, first = self.predictor, self.sums[subset, summed_for(policy)[0]]
        answers = predictor.task.answers
        maps = {"logits": self._logits(self.sums, subset, policy, self.total, inside)}
        if wrong := np.count_nonzero(~(maps["logits"] < np.inf)):
            raise DataError(f"found {wrong} values of the answer that are no numbers, in {predictor.precision}, "
                            "expected none", "Predict in float32; where that does not help, take another checkpoint.",
                            case=case.id)
        for name in first.names:
            if name != "logits":
                values = first.mean(name, self.total)[(..., *inside)].cpu().numpy()
                maps[name] = answers.against_background(values) if name.startswith("contribution/") else values
        bias = first.bias       # waits for the device
        bias = None if bias is None else answers.against_background(bias)
        return Prediction(case.id, predictor.task, predictor.method.present(subset), case.grid, maps, bias,
                          method=predictor.name, run=predictor.run, policy=policy, how=predictor.how(policy))

    def _classes(self, logits: np.ndarray) -> np.ndarray:
        return self.predictor.task.answers.classes(logits)

    def _logits(self, sums: Mapping[Key, Sums], subset: frozenset[str], policy: str, total: Tensor,
                inside: tuple[slice, ...]) -> np.ndarray:
        parts = [sums[subset, kind].mean("logits", total) for kind in summed_for(policy)]
        return self._mixed(parts, policy, len(subset))[(..., *inside)].cpu().numpy()

    def _mixed(self, logits: Sequence[Tensor], policy: str, size: int) -> Tensor:
        """The logits of a policy from those of which it is made, from so many scans."""
        if len(logits) == 1:
            return logits[0]
        return self.predictor.method.activation.mixed(*logits, self.predictor.fitted.by_size[size])

"""What a training takes, counted without computing it: parameters, bytes and FLOP of a step, and of what follows it.

torch's fake tensors have a size and no values: a step runs as it would, loss and backward included, and every storage
is counted from the operation that makes it to its end.
"""

from __future__ import annotations

import gc
import inspect
import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import comb, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from maml_toolkit.methods import Method, build, subsets
from maml_toolkit.networks.execution import set_execution
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine

PER_PARAMETER = 16
"""Bytes of a weight: itself, its gradient and Adam's two moments, in float32; 2 more for a half precision's copy."""
LARGE = 256
"""Edge of the patch that is counted: so large that nothing but the patch matters."""


@dataclass(frozen=True)
class Counted:
    """What a step takes.

    Attributes:
        weights: bytes that the parameters take, gradients and the optimiser included.
        per_patch: bytes that each patch adds at the moment when there are most.
        flop: of the convolutions for each patch, forward and backward, in all stages of the training together; of
            methods that draw subsets of the modalities, in the step that takes most.
    """

    weights: float
    per_patch: float
    flop: float

    def peak(self, patches: int) -> float:
        """Bytes of all tensors with so many patches in memory."""
        return self.weights + patches * self.per_patch


class Alive(TorchDispatchMode):
    """Adds up the bytes of the storages that there are; `peak` is the most that they were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operation(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and (storage := value.untyped_storage()) not in self._known:
                self._change(storage.nbytes())
                self._known[storage] = weakref.finalize(storage, self._change, -storage.nbytes())
        return found

    def _change(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def counted(method: Mapping[str, Any], patch_size: Sequence[int], precision: str, recompute: bool = False) -> Counted:
    """What a step takes for each of its patches, in a second: both grow with the voxels.

    Args:
        method: arguments of `methods.build`, JSON values, its name among them.
        patch_size: voxels on each axis.
        precision: "float32", "bfloat16" or "float16".
        recompute: as the Trainer's.
    """
    voxels, parameters, most, flop = _counted(json.dumps(method), precision, recompute, None)
    weights = parameters * (PER_PARAMETER + (0 if precision == "float32" else 2))
    return Counted(weights, most * prod(patch_size) / voxels, flop * prod(patch_size) / voxels)


@contextmanager
def uncollected() -> Iterator[None]:
    """A block in which Python frees no cycles of objects, which it does at moments that nobody can tell."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def large(network: Method) -> tuple[list[int], dict[str, Tensor]]:
    """The voxels on each axis of a large patch that a method can take, and images of zeros of it."""
    patch = [LARGE // step * step for step in network.divisor]
    return patch, {name: torch.zeros(1, 1, *patch) for name in network.modalities}


@cache
def _counted(method: str, precision: str, recompute: bool, drawn: int | None) -> tuple[int, int, int, int]:
    """Voxels of a large patch, parameters, bytes alive at the most but those of weights, FLOP.

    Args:
        drawn: how many modalities, where any are; None is what takes most.
    """
    with uncollected(), FakeTensorMode(), Alive() as alive:
        network = build(**json.loads(method)).train()
        set_execution(network, recompute)
        patch, images = large(network)
        labels, flop, most = torch.zeros(1, *patch, dtype=torch.long), 0, 0
        for stage in network.stages():
            before, alive.peak = alive.now, alive.now
            with FlopCounterMode(display=False) as counter, subsets.drawing(drawn or network.heaviest_draw):
                with machine.autocast(torch.device("cpu"), machine.PRECISIONS[precision]):
                    terms = stage.loss(images, labels, torch.Generator())
                terms.pop("total").backward()
            most, flop = max(most, alive.peak - before), flop + counter.get_total_flops()
            del terms
            network.zero_grad()
        return prod(patch), network.parameter_count, most, flop


@cache
def typical_share(method: str) -> float:
    """FLOP of a step over those of the one that takes most, as the mean over all subsets that may be drawn."""
    settings = build(**json.loads(method)).settings
    if "subset_sampling" not in settings:
        return 1.0
    count, sampling = len(settings["modalities"]), settings["subset_sampling"]
    sizes = range(1, count + 1)
    if sampling == "nested":                # of S+, which is never smaller than this
        least = min(count, subsets.NESTED_LEAST[not settings["intra_weight"]])
        sizes = range(least, count + 1)
    flop = [_counted(method, "float32", False, size)[3] for size in sizes]
    chances = [comb(count, size) if sampling == "uniform" else 1 for size in sizes]
    return float(np.average(flop, weights=chances) / _counted(method, "float32", False, None)[3])


@cache
def end_of(method: str) -> tuple[float, int]:
    """What a training of a method (as JSON) takes at its end to learn from a validation case (evaluation/fitting.py).

    Returns:
        For the time how many answers from all modalities have as many FLOP, and for the memory how many values are
        held for each voxel of the case.
    """
    with uncollected(), FakeTensorMode(), torch.no_grad():
        network = build(**json.loads(method)).eval()
        _, images = large(network)
        every = network.answerable(set(network.modalities))
        with FlopCounterMode(display=False) as one:
            network({name: images[name] for name in every[0]})
        with FlopCounterMode(display=False) as all_of_them:
            for _ in network.sweep(images, every):
                pass
    swept, policies = all_of_them.get_total_flops() / one.get_total_flops(), 3 if network.tells_each else 1
    at_once = inspect.signature(Predictor.__init__).parameters["at_once"].default
    held = every[:at_once]
    asked = {part for one in held for part in every if part <= one and len(part) + 1 >= len(one)}   # as its `voices`
    # fit_policy sweeps, fit_smallest answers, fit_expected_dice sweeps: of all that are asked it holds the sums of each
    # part and the answer by each policy, of each subset what all say together by each policy
    return (swept * (1 + network.tells_each) + 1,
            network.outputs * (len(asked) * (1 + network.tells_each + policies) + len(held) * policies))

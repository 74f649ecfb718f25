"""What a training step takes, counted without computing it: torch's fake tensors have a size and no values.

The step runs as it would, loss, backward and optimiser included, and every storage is counted from the operation that
makes it to its end. What a device's allocator and its libraries add is measured (measuring.py).
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from maml_toolkit.methods import build
from maml_toolkit.networks.recomputing import set_recompute
from maml_toolkit.system import machine

PER_PARAMETER = 16
"""Bytes of a weight: itself, its gradient and Adam's two moments, in float32; 2 more for a half precision's copy."""
LARGE = 256
"""Edge of the patch that is counted: so large that nothing but the patch matters."""


@dataclass(frozen=True)
class Counted:
    """What a step takes.

    Attributes:
        parameters: of the network.
        weights: bytes that they take, gradients and the optimiser included.
        per_patch: bytes that each patch adds at the moment when there are most.
        flop: of the convolutions for each patch, forward and backward, in all stages of the training together.
    """

    parameters: int
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
        self._add(value.untyped_storage() for value in tree_leaves(found) if isinstance(value, Tensor))
        return found

    def _add(self, storages: Iterable[Any]) -> None:
        for storage in storages:
            if storage not in self._known:
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                self._known[storage] = weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size


def counted(method: Mapping[str, Any], patch_size: Sequence[int], precision: str, recompute: bool = False) -> Counted:
    """What a step takes for each of its patches, in a second: both grow with the voxels.

    Args:
        method: arguments of `methods.build`, JSON values, its name among them.
        patch_size: voxels on each axis.
        precision: "float32", "bfloat16" or "float16".
        recompute: as the Trainer's.
    """
    voxels, parameters, most, flop = _counted(json.dumps(method), precision, recompute)
    weights = parameters * (PER_PARAMETER + (0 if precision == "float32" else 2))
    return Counted(parameters, weights, most * prod(patch_size) / voxels, flop * prod(patch_size) / voxels)


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


@cache
def _counted(method: str, precision: str, recompute: bool) -> tuple[int, int, int, int]:
    """Voxels of a large patch, parameters, bytes alive at the most but those of weights, FLOP."""
    with uncollected(), FakeTensorMode(), Alive() as alive:
        network = build(**json.loads(method)).train()
        set_recompute(network, recompute)
        patch = [LARGE // step * step for step in network.divisor]
        images = {name: torch.zeros(1, 1, *patch) for name in network.modalities}
        labels, flop, most = torch.zeros(1, *patch, dtype=torch.long), 0, 0
        for stage in network.stages():
            before, alive.peak = alive.now, alive.now
            with FlopCounterMode(display=False) as counter:
                with machine.autocast(torch.device("cpu"), machine.PRECISIONS[precision]):
                    terms = stage.loss(images, labels, torch.Generator())
                terms.pop("total").backward()
            most, flop = max(most, alive.peak - before), flop + counter.get_total_flops()
            del terms
            network.zero_grad()
        return prod(patch), sum(one.numel() for one in network.parameters()), most, flop

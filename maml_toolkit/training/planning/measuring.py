"""What a training step takes: counted without computing it, and measured here in small steps.

    memory  = base + per_byte x bytes counted
    seconds = parts x per_part + per_flop x FLOP counted

To count, torch's fake tensors have a size and no values: the step runs as it would, loss and backward included, and
every storage is counted from the operation that makes it to its end. What a device's allocator and its libraries add is
measured in a process of its own: two sizes of patch, and a line through them each. The peak is that of the whole
process, Python and torch included, from VmHWM on Linux: `ru_maxrss` of a child starts at what its parent held when it
was made.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary
from tqdm import tqdm

from maml_toolkit.data.cases import Case
from maml_toolkit.data.patches import PatchSampler
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import build
from maml_toolkit.networks.execution import set_execution
from maml_toolkit.system import machine, processes
from maml_toolkit.training import distributed
from maml_toolkit.training.trainer import Trainer

PER_PARAMETER = 16
"""Bytes of a weight: itself, its gradient and Adam's two moments, in float32; 2 more for a half precision's copy."""
LARGE = 256
"""Edge of the patch that is counted: so large that nothing but the patch matters."""
EDGES = (16, 24, 32, 40, 48, 64, 96, 128)
"""Of the cubes that are measured."""
STAGES = 3
"""Of the networks that are measured: what is below them differs little, and small cubes cannot be halved more often."""
FLOP = {"cpu": 60e9, "mps": 1e12, "cuda": 4e12}
"""Of the larger step that is measured, for each core of a CPU: about a second."""
_RUN = """
import importlib, json, sys
module, function, settings = json.load(sys.stdin)
found = getattr(importlib.import_module(module), function)(**settings)
from maml_toolkit.training.planning.measuring import peak_mib
print("\\n" + json.dumps({**(found or {}), "peak_mib": peak_mib()}))
"""


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
        set_execution(network, recompute)
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


@dataclass(frozen=True)
class Costs:
    """What a device makes of what was counted.

    Attributes:
        base: bytes that are there before the network.
        per_byte: bytes held for each one counted; more than 1 by an allocator's gaps and what operations hold inside.
        per_part: seconds for each part of a batch, however small.
        per_flop: seconds.
        share: of its cores that a CPU gave while it was measured; 1 where nobody else used them.
    """

    base: float
    per_byte: float
    per_part: float
    per_flop: float
    share: float = 1.0

    def memory(self, step: Counted, patches: int) -> float:
        """Bytes of a step with so many patches in memory at a time."""
        return self.base + self.per_byte * step.peak(patches)

    def seconds(self, step: Counted, patches: int, parts: int = 1) -> float:
        """Of a step of so many patches, in so many parts."""
        return parts * self.per_part + self.per_flop * step.flop * patches

    @classmethod
    def through(cls, first: Mapping[str, float], second: Mapping[str, float]) -> Costs:
        """From two steps, the smaller first: bytes, peak, flop and seconds, and what share of the cores they had."""
        base, per_byte = line((first["bytes"], first["peak"]), (second["bytes"], second["peak"]))
        per_part, per_flop = line((first["flop"], first["seconds"]), (second["flop"], second["seconds"]))
        return cls(base, per_byte, per_part, per_flop, second["share"])


def line(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Start and slope of the line through two points; through the origin and the second where either would be below 0.

    >>> line((1, 5), (3, 9))
    (3.0, 2.0)
    >>> line((1, 9), (4, 8))
    (0.0, 2.0)
    """
    slope = (second[1] - first[1]) / (second[0] - first[0])
    start = first[1] - slope * first[0]
    return (start, slope) if slope > 0 and start >= 0 else (0.0, second[1] / second[0])


def free_memory(device: torch.device) -> int:
    """Bytes that nobody uses now: of the GPU, or this process's part of those of the computer or its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return processes.free_memory()[0] // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def measured(method: Mapping[str, Any], device: torch.device, precision: str) -> Costs:
    """Memory and time of small steps of a method here; measured once for each method, device and precision.

    Args:
        method: arguments of `methods.build`, its name among them, without strides and kernels.
        device, precision: where and in which.

    Raises:
        MemoryError: not even these fit.
    """
    return _measured(json.dumps({**method, "channels": list(method["channels"])[:STAGES]}), str(device), precision)


@cache
def _measured(arguments: str, device: str, precision: str) -> Costs:
    method, threads = json.loads(arguments), torch.get_num_threads()
    limit = FLOP[torch.device(device).type] * (threads if device == "cpu" else 1)
    allowed = limit / counted(method, (32, 32, 32), precision).flop * 32**3
    second = max(edge for edge in EDGES[1:] if edge**3 <= allowed or edge == EDGES[1])
    sizes = [max((edge for edge in EDGES if 4 * edge**3 <= second**3), default=EDGES[0]), second]
    counts = [counted(method, (edge,) * 3, precision) for edge in sizes]
    if distributed.world().first:
        tqdm.write(f"measuring steps of {'-'.join(map(str, method['channels']))} channels on {device} …", sys.stderr)
    try:
        found = apart(__name__, "small_steps", {"WORLD_SIZE": "1", "RANK": "0"}, method=method, sizes=sizes,
                      precision=precision, device=device, threads=threads)["steps"]
    except RuntimeError as error:
        if "MemoryError" in str(error) or "ended with -9" in str(error):
            raise MemoryError(f"a step of {sizes[1]}^3 voxels does not fit into the memory of {device}; end other "
                              "programs, or take another device") from error
        raise
    return Costs.through(*({**one, "bytes": count.peak(1), "flop": count.flop}
                           for one, count in zip(found, counts, strict=True)))


def small_steps(method: dict[str, Any], sizes: Sequence[int], precision: str, device: str,
                threads: int, batch_size: int = 1, **trainer: Any) -> dict[str, list[dict[str, float]]]:
    """For each size of patch the peak of memory in bytes and the seconds of a step; for a process of its own."""
    torch.set_num_threads(threads)
    return {"steps": [one_size(method, (edge,) * 3, batch_size, precision, device, **trainer) for edge in sizes]}


def one_size(method: dict[str, Any], patch_size: Sequence[int], batch_size: int, precision: str, device: str,
             seconds: float = 1.0, **trainer: Any) -> dict[str, float]:
    """Peak, seconds and share of the cores of the Trainer's step, augmentation included; the first only warms."""
    network = build(**method)
    labels = {"background": 0, **{f"class {value}": value for value in range(1, network.classes)}}
    names, numbers = list(labels), network.settings.get("regions", [])
    regions = {str(number): [names[one] for one in region] for number, region in enumerate(numbers)}
    task = Task("measured", network.modalities, labels, regions, "mr", (1, 1, 1),
                train_on="regions" if regions else "classes")
    used = Trainer(network, "unused", task, patch_size=patch_size, batch_size=batch_size, precision=precision,
                   device=device, **trainer)
    network.to(used.device).train()
    batch = PatchSampler([noise(task, [edge + 8 for edge in patch_size])], patch_size, batch_size,
                         augmentation=used.recipe.augmentation).batch(0)
    best = {"seconds": 0.0, "share": 1.0}
    for stage in network.stages():
        optimizer, times = used.optimizer(stage), []
        while len(times) < 3 or (sum(one for one, _ in times[1:]) < seconds and len(times) < 10):
            begun, cpu = time.perf_counter(), time.process_time()
            used.step(stage, batch, optimizer, 1e-4, len(times)).found()
            times.append((time.perf_counter() - begun, time.process_time() - cpu))
        wall, cpu = min(times[1:])
        best["seconds"] += wall
        best["share"] = min(1.0, cpu / wall / torch.get_num_threads())
    return {**best, "peak": peak_bytes(used.device)}


def noise(task: Task, shape: Sequence[int]) -> Any:
    """A prepared case of noise with every class."""
    random = np.random.default_rng(0)
    images = {name: nibabel.Nifti1Image(random.normal(5, 1, shape).astype(np.float32), np.eye(4))
              for name in task.modalities}
    label = nibabel.Nifti1Image(random.integers(0, task.classes, shape).astype(np.uint8), np.eye(4))
    return prepare(Case("noise", images, label), task)


def peak_bytes(device: torch.device) -> float:
    """The most that this process held so far, on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else peak_mib() * 2**20


def apart(module: str, function: str, environment: Mapping[str, str] | None = None, **settings: Any) -> dict:
    """What a function of ours returns (JSON values) in a new process, and `peak_mib` of that process.

    Raises:
        RuntimeError: it failed; the message ends with what it wrote.
    """
    done = subprocess.run([sys.executable, "-c", _RUN], input=json.dumps([module, function, settings]), text=True,
                          capture_output=True, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode:
        raise RuntimeError(f"{module}.{function} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """The most memory that this process held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(one for one in status.read_text(encoding="utf-8").splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss) / 2**20

"""What a device makes of what was counted (counting.py): two small steps measured, and a line through them each.

    memory  = base + per_byte x bytes counted
    seconds = parts x per_part + per_flop x FLOP counted

The steps run in a process of its own, for the peak of its memory. What allocator and libraries add is in it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import nibabel
import numpy as np
import torch
from tqdm import tqdm

from maml_toolkit.data.cases import Case
from maml_toolkit.data.patches import PatchSampler
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import build, subsets
from maml_toolkit.system import processes
from maml_toolkit.system.apart import apart, peak_mib
from maml_toolkit.system.showing import widths
from maml_toolkit.training import distributed
from maml_toolkit.training.planning.counting import Counted, counted, typical_share
from maml_toolkit.training.trainer import Trainer

EDGES = (16, 24, 32, 40, 48, 64, 96, 128)
"""Of the cubes that are measured."""
STAGES = 3
"""Of the networks that are measured: what is below them differs little, and small cubes cannot be halved more often."""
FLOP = {"cpu": 60e9, "mps": 1e12, "cuda": 4e12}
"""Of the larger step that is measured, for each core of a CPU: about a second."""


@dataclass(frozen=True)
class Costs:
    """What a device makes of what was counted.

    Attributes:
        base: bytes that are there before the network.
        per_byte: bytes held for each one counted; more than 1 by an allocator's gaps and what operations hold inside.
        per_part: seconds for each part of a batch, however small.
        per_flop: seconds, of steps as they are drawn.
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


def available_memory(device: torch.device) -> int:
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
        tqdm.write(f"measuring steps of {widths(method['channels'])} channels on {device} …", sys.stderr)
    try:
        found = apart(__name__, "small_steps", {"WORLD_SIZE": "1", "RANK": "0"}, method=method, sizes=sizes,
                      precision=precision, device=device, threads=threads)["steps"]
    except RuntimeError as error:
        if "MemoryError" in str(error) or "ended with -9" in str(error):
            raise MemoryError(f"a step of {sizes[1]}^3 voxels does not fit into the memory of {device}; end other "
                              "programs, or take another device") from error
        raise
    base, per_byte = line(*((count.peak(1), one["peak"]) for one, count in zip(found, counts, strict=True)))
    per_part, per_flop = line(*((count.flop, one["seconds"]) for one, count in zip(found, counts, strict=True)))
    return Costs(base, per_byte, per_part, per_flop * typical_share(arguments), found[-1]["share"])


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
            with subsets.drawing(network.heaviest_draw):
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

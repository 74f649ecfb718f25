"""How large the benchmark is: the defaults are those of its goals; tests take tiny ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maml_toolkit.data.tasks import Task
from maml_toolkit.system import machine


@dataclass(frozen=True)
class Settings:
    """Sizes of what is measured.

    Attributes:
        channels: of every U-Net.
        size: of training patches, voxels on each axis.
        batch_size: patches a step.
        pairs: turns of each row.
        counts: numbers of modalities for which steps are measured.
        case: voxels of a case, for predictions and metrics.
        liver: voxels of a large CT, for metrics.
        window: of predictions, voxels on each axis.
        patch: of augmentation, voxels on each axis.
        workers: processes that load and augment.
        patches: that these make in a turn.
        memory_size, memory_modalities: of the step with recomputation.
        scaling_counts, scaling_sizes: of the rows on how cost grows.
        precision: as in machine.py.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256, 320)
    size: int = 64
    batch_size: int = 2
    pairs: int = 5
    counts: tuple[int, ...] = (2, 4)
    case: tuple[int, int, int] = (240, 240, 155)
    liver: tuple[int, int, int] = (512, 512, 198)
    window: int = 96
    patch: int = 128
    workers: int = 2
    patches: int = 4
    memory_size: int = 96
    memory_modalities: int = 4
    scaling_counts: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    scaling_sizes: tuple[int, ...] = (32, 48, 64, 96, 128)
    precision: str = "auto"
    device: torch.device = field(default_factory=machine.choose_device)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From the parameters of a notebook, where lists stand for tuples and None for the default."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value
                      for name, value in given.items() if value is not None})


def task_of(modalities: int, classes: int = 4) -> Task:
    """A task of so many scans and classes."""
    labels = {("background" if value == 0 else f"class_{value}"): value for value in range(classes)}
    return Task("benchmark", tuple(f"scan_{number}" for number in range(modalities)), labels, intensities="mr")


def held_batch(task: Task, size: int, batch_size: int, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Random images and labels, (batch, 1, size, size, size) and (batch, size, size, size)."""
    random = torch.Generator().manual_seed(0)
    shape = (batch_size, 1, size, size, size)
    images = {name: torch.randn(shape, generator=random).to(device) for name in task.modalities}
    labels = torch.randint(0, task.classes, (batch_size, size, size, size), generator=random).to(device)
    return images, labels


def finished(device: torch.device) -> None:
    """Wait until the device did what it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def subsets_of(names: tuple[str, ...]) -> Iterator[frozenset[str]]:
    """Every non-empty subset."""
    for number in range(1, 2 ** len(names)):
        yield frozenset(name for bit, name in enumerate(names) if number >> bit & 1)

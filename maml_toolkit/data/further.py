"""TorchIO's transforms as further augmentation, drawn from the seed of a patch, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchio
from torch import Tensor


@dataclass(frozen=True)
class Further:
    """TorchIO transforms that a patch goes through after our own augmentation, in this order, on the CPU.

    Args:
        transforms: such as `torchio.RandomGhosting()`; images and labels go through them together.

    Raises:
        TypeError: one is no transform of TorchIO.
    """

    transforms: tuple[Any, ...]

    def __post_init__(self):
        if wrong := [one for one in self.transforms if not isinstance(one, torchio.Transform)]:
            raise TypeError(f"found {wrong[0]!r} among the augmentation, expected an Augmentation and transforms of "
                            "TorchIO")

    def settings(self) -> list[dict[str, Any]]:
        """Each transform by its name and its plain values, to know a run's settings again."""
        return [{"transform": type(one).__name__, **{name: value for name, value in sorted(vars(one).items())
                                                     if isinstance(value, (str, int, float, bool, list, tuple))}}
                for one in self.transforms]

    def __call__(self, images: Tensor, labels: Tensor, names: Sequence[str], spacing_mm: Sequence[float],
                 seed: int) -> tuple[Tensor, Tensor]:
        """The patch after all transforms, on the device that it was on; torch's own random numbers stay what they were.

        Args:
            images: (modalities, depth, height, width).
            labels: (depth, height, width).
            names: of the modalities.
            spacing_mm: of the voxels.
            seed: of everything drawn.

        Raises:
            ValueError: a transform changed the size of the patch.
        """
        affine = np.diag([*spacing_mm, 1.0])
        subject = torchio.Subject({
            **{name: torchio.ScalarImage(tensor=image[None].cpu(), affine=affine)
               for name, image in zip(names, images, strict=True)},
            "labels of the patch": torchio.LabelMap(tensor=labels[None].cpu(), affine=affine)})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for transform in self.transforms:
                subject = transform(subject)
        changed = torch.cat([subject[name].data for name in names])
        if changed.shape != images.shape:
            raise ValueError(f"found a patch of {tuple(changed.shape[1:])} voxels behind the transforms of TorchIO, "
                             f"expected {tuple(images.shape[1:])}; leave out those that crop, pad or resample")
        classes = subject["labels of the patch"].data[0]
        return changed.to(images.device, images.dtype), classes.to(labels.device, labels.dtype)

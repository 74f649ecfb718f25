"""TorchIO's transforms as further augmentation, after our own.

    Trainer(…, augmentation=[Augmentation(), torchio.RandomGhosting()])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_toolkit.data.augmentation import Augmentation


def apart(augmentation: Augmentation | Sequence[Any] | str | None) -> tuple[Augmentation | str | None, Further | None]:
    """Our own augmentation, and what of TorchIO follows it in a list of both; what is no list as it is.

    Raises:
        ValueError: an Augmentation that is not the first.
        TypeError: something that is no transform of TorchIO.
    """
    if not isinstance(augmentation, list | tuple):
        return augmentation, None
    if any(isinstance(one, Augmentation) for one in augmentation[1:]):
        raise ValueError(f"found augmentation={augmentation}, expected one Augmentation at most, before what is of "
                         "TorchIO; make one of several, and put it first")
    own = next((one for one in augmentation if isinstance(one, Augmentation)), None)
    further = tuple(augmentation[own is not None:])
    return own, Further(further) if further else None


@dataclass(frozen=True)
class Further:
    """TorchIO transforms that a patch goes through after our own augmentation, in this order, on the CPU.

    What they draw follows from the seed of the patch, so that a resumed run sees the same.

    Args:
        transforms: such as `torchio.RandomGhosting()`; images and labels go through them together.

    Raises:
        TypeError: one is no transform of TorchIO.
    """

    transforms: tuple[Any, ...]

    def __post_init__(self):
        import torchio  # which takes a second to load

        if wrong := [one for one in self.transforms if not isinstance(one, torchio.Transform)]:
            raise TypeError(f"found {wrong[0]!r} among the augmentation, expected an Augmentation and transforms of "
                            "TorchIO")

    def settings(self) -> list[dict[str, Any]]:
        """Each transform by its name and its plain values, to know a run's settings again."""
        return _plain(self.transforms)

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
        import torchio

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


def _plain(value: Any) -> Any:
    """A value of a transform as JSON has it, or a transform by its values, those of which it is made (OneOf) too."""
    import torchio

    if isinstance(value, torchio.Transform):
        return {"transform": type(value).__name__, **{name: _plain(one) for name, one in sorted(vars(value).items())
                                                      if isinstance(one, (str, int, float, bool, list, tuple))},
                **({"chances": [[_plain(one), chance] for one, chance in value.transforms_dict.items()]}
                   if isinstance(value, torchio.OneOf) else {})}
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value

"""The contract of a method: images by modality in, logits and their explanation out, the loss on the method.

A missing modality is a missing key, never a channel of zeros, and what is absent is not computed.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from maml_toolkit.errors import MissingModalityError
from maml_toolkit.shapes import Features, Image, Labels, Logits, Scalar
from maml_toolkit.tasks import check_names


@dataclass(frozen=True)
class Segmentation:
    """What a method says of a batch.

    Attributes:
        logits: the fused answer, (batch, classes, depth, height, width).
        per_modality: what each modality says alone, where the method knows.
        attention: A_i by modality, in [0, 1], (batch, channels, …); empty where the method has none.
        bias: of the head that answered, (classes,), or None.
    """

    logits: Logits
    per_modality: dict[str, Logits] = field(default_factory=dict)
    attention: dict[str, Features] = field(default_factory=dict)
    bias: Tensor | None = None
    explain: Callable[[], dict[str, Tensor]] = field(default=dict, repr=False)

    @cached_property
    def contributions(self) -> dict[str, Logits]:
        """The signed share of each modality in the logits, computed when first asked for.

        Over the modalities they sum to logits - bias, up to float32 rounding. Empty for a method whose
        fusion is not linear.
        """
        return self.explain()


@dataclass(frozen=True)
class Stage:
    """A part of the training: the loss of these parameters, until the budget is spent."""

    name: str
    loss: Callable[..., dict[str, Tensor]]
    parameters: list[nn.Parameter]


class Method(nn.Module, abc.ABC):
    """A way to segment from several modalities.

    Args:
        modalities: the names of those it is built for; their order has no influence on the answer.
        classes: number of classes, the background included.
        own: the method's other arguments, plain JSON values, from which a checkpoint rebuilds it.

    Raises:
        ValueError: names that are no names, or fewer than two classes.
    """

    name: ClassVar[str]
    """Under which METHODS lists it."""
    divisor: tuple[int, int, int]
    """Each axis of an image is a multiple of this."""

    def __init__(self, modalities: Sequence[str], classes: int, **own):
        super().__init__()
        self.modalities = check_names(modalities)
        if classes < 2:
            raise ValueError(f"found classes={classes}, expected the background and at least one more, so 2 or more")
        self.classes = classes
        self.settings = json.loads(json.dumps({"modalities": self.modalities, "classes": classes, **own}))

    @abc.abstractmethod
    def forward(self, images: dict[str, Image]) -> Segmentation:
        """The answer from the modalities that are keys of `images`, each (batch, 1, depth, height, width).

        Raises:
            MissingModalityError: no modality, an unknown one, or a set that the method does not accept.
            ValueError: images of different or indivisible sizes.
        """

    @abc.abstractmethod
    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """The terms of the training loss by name, "total" among them; all randomness comes from `generator`."""

    def accepts(self, present: Set[str]) -> bool:
        """Whether it answers from exactly these of its modalities; any non-empty set unless said otherwise."""
        return bool(present)

    def stages(self) -> list[Stage]:
        """What is trained, in order: everything at once unless said otherwise."""
        return [Stage("train", self.loss, list(self.parameters()))]

    def subsets(self, images: dict[str, Image],
                subsets: Iterable[Set[str]]) -> dict[frozenset[str], Segmentation]:
        """The answers from several subsets of the same images."""
        return {frozenset(subset): self({name: images[name] for name in subset}) for subset in subsets}

    def present(self, names: Iterable[str]) -> tuple[str, ...]:
        """These modalities in the method's own order, if it answers from them.

        Raises:
            MissingModalityError: none, an unknown one, or a set that the method does not accept.
        """
        names = set(names)
        if unknown := sorted(names - set(self.modalities)):
            raise MissingModalityError(f"{self.name} was given the modalities {unknown}, expected some of "
                                       f"{list(self.modalities)}")
        if not names:
            raise MissingModalityError(f"{self.name} was given no modality, expected some of {list(self.modalities)}")
        if not self.accepts(names):
            missing = [name for name in self.modalities if name not in names]
            raise MissingModalityError(f"{self.name} does not answer from {sorted(names)} alone, {missing} missing",
                                       "Use a method that does (maml, late_fusion), or complete the case.")
        return tuple(name for name in self.modalities if name in names)

    def checked(self, images: dict[str, Image]) -> dict[str, Image]:
        """The images in the method's own order, after the checks that `forward` promises."""
        ordered = {name: images[name] for name in self.present(images)}
        sizes = {name: tuple(image.shape) for name, image in ordered.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the images have different shapes: {sizes}; resample them onto one grid")
        size = next(iter(sizes.values()))
        if len(size) != 5 or size[1] != 1:
            raise ValueError(f"found images of shape {size}, expected (batch, 1, depth, height, width)")
        self.check_size(size[2:])
        return ordered

    def check_size(self, size: Sequence[int]) -> None:
        """Nothing, if an image or patch of this size can go through the network.

        Raises:
            ValueError: it does not divide, or it would shrink to a single voxel, which cannot be normalised.
        """
        if len(size) != 3 or any(n < 1 or n % d for n, d in zip(size, self.divisor, strict=True)):
            raise ValueError(f"found a patch of {tuple(size)} voxels, expected three multiples of {self.divisor}, by "
                             "which the network divides them; change the patch, or give the method fewer channels")
        if tuple(size) == tuple(self.divisor):
            raise ValueError(f"found a patch of {tuple(size)} voxels, which the network shrinks to a single one, "
                             f"expected more than {self.divisor}; enlarge the patch, or give fewer channels")

"""The contract of a method: images by modality in, logits and their explanation out, the loss on the method.

A missing modality is a missing key, never a channel of zeros, and what is absent is not computed.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral, Number
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from maml_toolkit.data.tasks import check_names
from maml_toolkit.methods.losses import SOFTMAX, Sigmoid, Softmax, deeply_supervised
from maml_toolkit.networks.unet import CHANNELS, Heads, every_stage, total_stride
from maml_toolkit.system import machine
from maml_toolkit.system.errors import MissingModalityError, nearest
from maml_toolkit.system.files import as_json
from maml_toolkit.system.shapes import Features, Image, Labels, Logits, Scalar
from maml_toolkit.system.showing import Facts, Shown, edges, in_lines, widths


@dataclass(frozen=True)
class Segmentation:
    """What a method says of a batch.

    Attributes:
        logits: the fused answer, (batch, classes, depth, height, width); where regions are trained on, these and all
            that is said of classes below has a channel for each region instead.
        per_modality: what each modality says alone, where the method knows.
        attention: A_i by modality, in [0, 1], (batch, channels, …); empty where the method has none.
        bias: of the head that answered, (classes,), or None.
        explain: makes the contributions.
        activation: that makes probabilities of the logits.
    """

    logits: Logits
    per_modality: dict[str, Logits] = field(default_factory=dict)
    attention: dict[str, Features] = field(default_factory=dict)
    bias: Tensor | None = None
    explain: Callable[[], dict[str, Tensor]] = field(default=dict, repr=False)
    activation: Softmax = SOFTMAX

    @cached_property
    def contributions(self) -> dict[str, Logits]:
        """The signed share of each modality in the logits, computed when first asked for.

        Over the modalities they sum to logits - bias, up to float32 rounding. Only differences between classes mean
        anything; a Prediction holds those against the background. Empty for a method whose fusion is not linear.
        """
        return self.explain()

    def by_heads(self) -> Segmentation:
        """The policy that needs no fusion: the mean probability of what each modality says alone.

        Raises:
            ValueError: the method does not know what each modality says.
        """
        if not self.per_modality:
            raise ValueError("this method has no answer of each modality, so there is no mean of heads; use the policy "
                             "'fused'")
        return Segmentation(self.activation.mean(list(self.per_modality.values())), self.per_modality,
                            activation=self.activation)

    def by_size(self, share: float) -> Segmentation:
        """The mixture of the fused answer and that of the heads, which has this share of it, 0 to 1.

        Attention, contributions and bias stay those of the fused part: they add up to its logits, not to these.

        Raises:
            ValueError: the method does not know what each modality says.
        """
        return replace(self, logits=self.activation.mixed(self.logits, self.by_heads().logits, share))


def three(size: Sequence[int]) -> tuple[int, ...]:
    """The size of a patch or window as a tuple.

    Raises:
        ValueError: a single number, or one that is not whole.
    """
    if isinstance(size, Number) or len(size) == 1 or not all(isinstance(n, Integral) for n in size):
        raise ValueError(f"found a patch of {size}, expected the voxels on each axis, such as (64, 64, 64)")
    return tuple(map(int, size))


@dataclass(frozen=True)
class Stage:
    """A part of the training: the loss of these parameters, until the budget is spent."""

    name: str
    loss: Callable[..., dict[str, Tensor]]
    parameters: list[nn.Parameter]


class Method(Shown, nn.Module, abc.ABC):
    """A way to segment from several modalities, built from nnU-Net's U-Net.

    From the first one on the process keeps freed memory (`system.machine.keep_memory`): an answer on a CPU takes about
    half the time and a quarter more memory. MAML_TOOLKIT_KEEP_MEMORY=0 in the environment prevents it.

    Args:
        modalities: the names of those it is built for; their order has no influence on the answer.
        classes: number of classes, the background included.
        channels: width of each U-Net stage, full resolution first.
        strides, kernels: for each stage and axis, as `networks.unet.layout` makes them; 2s and 3s.
        deep_supervision: whether the lower decoder levels are supervised too, as nnU-Net does.
        batch_dice: whether the Dice loss takes the batch as one volume.
        own: the arguments that only this method has, plain JSON values.
        regions: where regions are trained on, the numbers of the classes of each (`Task.outputs` has them).

    Attributes:
        settings: all arguments, from which a checkpoint rebuilds the method.
        outputs: channels of its logits, one for each class or each region.
        activation: that makes probabilities of them, and the loss that belongs to it.
        plan: channels, strides and kernels of every stage of its U-Nets.
        divisor: each axis of an image is a multiple of this.

    Raises:
        ValueError: names that are no names, fewer than two classes, or stages that do not fit each other.
    """

    name: ClassVar[str]
    """Under which METHODS lists it."""
    needs_all: ClassVar[bool] = False
    """Whether it answers from nothing less than all of its modalities."""
    stacked: ClassVar[str] = ""
    """Its U-Net that reads all modalities as channels, where it has one."""
    painting: ClassVar[str] = ""
    """Its part whose heads say images, not classes, where it has one."""
    tells_each: bool = False
    """Whether its answer holds what each modality says alone, of which the policy "heads" takes the mean."""

    def __init__(self, modalities: Sequence[str], classes: int, channels: Sequence[int] = CHANNELS,
                 strides: Sequence[Sequence[int]] | None = None, kernels: Sequence[Sequence[int]] | None = None,
                 deep_supervision: bool = False, batch_dice: bool = False, own: Mapping[str, Any] | None = None,
                 regions: Sequence[Sequence[int]] | None = None):
        super().__init__()
        machine.keep_memory()
        self.modalities = check_names(modalities)
        if isinstance(channels, int):
            raise ValueError(f"found channels={channels!r}, expected the width of every stage, such as (8, 16, 32)")
        if classes < 2:
            raise ValueError(f"found classes={classes}, expected the background and at least one more, so 2 or more")
        if regions is not None and not (regions and all(set(one) and set(one) <= {*range(1, classes)}
                                                        for one in regions)):
            raise ValueError(f"found regions={regions}, expected for each region the numbers of its classes, 1 to "
                             f"{classes - 1}; take both from the task: **task.outputs")
        self.classes, self.outputs = classes, len(regions or range(classes))
        self.activation = Sigmoid(tuple(map(tuple, regions))) if regions else SOFTMAX
        self.settings = as_json(
            {"modalities": self.modalities, "classes": classes, "channels": list(channels), "strides": strides,
             "kernels": kernels, "deep_supervision": deep_supervision, "batch_dice": batch_dice, **(own or {}),
             **({"regions": regions} if regions else {})})
        self.plan = (tuple(channels), *every_stage(channels, strides, kernels))
        self.divisor = total_stride(self.plan[1])
        self.deep_supervision, self.batch_dice = deep_supervision, batch_dice

    @property
    def parameter_count(self) -> int:
        """Of all weights; one that several parts share counts once."""
        return sum(one.numel() for one in self.parameters())

    def facts(self) -> Facts:
        """What it is made of: its parts, each with the modalities that have one of their own, and their parameters."""
        parts = {}
        for name, part in self.named_children():
            own = f" for each of {', '.join(part)}" if isinstance(part, nn.ModuleDict) and len(part) else ""
            count = sum(one.numel() for one in part.parameters())
            parts[name] = f"{count:,} parameters{own}" if count else ""
        plain = ("modalities", "classes", "channels", "strides", "kernels")
        own = {name: str(value) for name, value in self.settings.items() if name not in plain}
        where = next(iter(self.parameters()), torch.empty(0)).device
        return Facts(f"{self.name} of {', '.join(self.modalities)}", {
            "classes": str(self.classes), "U-Net": f"{widths(self.plan[0])} channels, sizes divided by "
            f"{edges(self.divisor)}", "parameters": f"{self.parameter_count:,}, on {where}",
            **{name: text for name, text in parts.items() if text}, **own}, marked=("parameters",))

    def __repr__(self) -> str:
        parts = [f"{len(part)} {name}" if isinstance(part, nn.ModuleDict) else name
                 for name, part in self.named_children() if any(True for _ in part.parameters())]
        return in_lines(f"{self.name} of {', '.join(self.modalities)}: {self.classes} classes, "
                        f"{self.parameter_count:,} parameters",
                        f"{', '.join(parts)}; U-Net of {widths(self.plan[0])} channels")

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

    def supervised(self, levels: list[Tensor], labels: Labels) -> Scalar:
        """Dice + cross-entropy of the logits of every decoder level, full resolution first (`deeply_supervised`)."""
        return deeply_supervised(levels, labels, self.batch_dice, self.activation)

    def expect_answers(self, outputs: Mapping[str, Any], task: str) -> None:
        """Nothing, if its logits have the channels that a task asks for.

        Args:
            outputs: of the task (`Task.outputs`).
            task: its name.

        Raises:
            ValueError: they are others.
        """
        own = {name: self.settings[name] for name in ("classes", "regions") if name in self.settings}
        if own != outputs:
            raise ValueError(f"the method answers {own}, the task {task} asks for {outputs}; make the method with "
                             "**task.outputs, or choose another task")

    def accepts(self, present: Set[str]) -> bool:
        """Whether it answers from exactly these of its modalities; all or any non-empty set, unless said otherwise."""
        return set(present) == set(self.modalities) if self.needs_all else bool(present)

    def joins(self, present: Collection[str]) -> bool:
        """Whether a case with these trains what joins several modalities; any does unless said otherwise."""
        return True

    def learns_from(self, present: Set[str]) -> bool:
        """Whether it trains on cases that have exactly these; on those that it answers from unless said otherwise."""
        return self.accepts(present)

    def stages(self) -> list[Stage]:
        """What is trained, in order: everything at once unless said otherwise."""
        return [Stage("train", self.loss, list(self.parameters()))]

    def adopted(self, name: str, tensor: Tensor, other: Method) -> Tensor:
        """A tensor of another method of this kind as this one's of that name.

        As it is, unless said otherwise or that of the first convolution of a U-Net of all modalities (`restacked`).

        Args:
            name: in the state of both.
            tensor: of the other method, which may have other modalities.
            other: the other method.
        """
        return self.restacked(tensor, other) if name == f"{self.stacked}.encoder.stages.0.0.0.weight" else tensor

    def restacked(self, tensor: Tensor, other: Method, first: str | None = None, axis: int = 1) -> Tensor:
        """A weight that reads the other method's modalities, stacked along an axis, as one that reads this method's.

        What reads a new modality is zero at first. Where `first` is named, it is stacked before the others.
        """
        theirs, own = (sorted(one.modalities, key=lambda name: name != first) for one in (other, self))
        known = dict(zip(theirs, tensor.chunk(len(theirs), axis), strict=True))
        return torch.cat([known.get(name, torch.zeros_like(known[theirs[0]])) for name in own], axis)

    def sweep(self, images: dict[str, Image],
              wanted: Iterable[Set[str]]) -> Iterator[tuple[frozenset[str], Segmentation]]:
        """The answers from several subsets of the same images, one at a time, so that memory holds one."""
        for subset in wanted:
            yield frozenset(subset), self({name: images[name] for name in subset})

    def subsets(self, images: dict[str, Image], wanted: Iterable[Set[str]]) -> dict[frozenset[str], Segmentation]:
        """The answers of `sweep`, all at once."""
        return dict(self.sweep(images, wanted))

    def answerable(self, present: Set[str]) -> list[frozenset[str]]:
        """Every set of these modalities that it answers from, the largest first."""
        ordered = [name for name in self.modalities if name in present]
        return [frozenset(one) for size in range(len(ordered), 0, -1)
                for one in itertools.combinations(ordered, size) if self.accepts(set(one))]

    @property
    def heaviest_draw(self) -> int:
        """How many modalities are drawn in the training step that takes most, where any are (subsets.py)."""
        return len(self.modalities)

    def largest(self, present: Set[str]) -> list[frozenset[str]]:
        """The largest sets of these modalities that it answers from: one set of all, for nearly every method."""
        answerable = self.answerable(present)
        return [one for one in answerable if len(one) == len(answerable[0])]

    def present(self, names: Iterable[str], training: bool = False) -> tuple[str, ...]:
        """These modalities in the method's own order, if it answers from them (or trains on them).

        Raises:
            MissingModalityError: none, an unknown one, or a set that the method does not accept.
        """
        names = set(names)
        if unknown := sorted(names - set(self.modalities)):
            meant = "".join(nearest(name, self.modalities) for name in unknown)
            raise MissingModalityError(f"{self.name} was given the modalities {unknown}, expected some of "
                                       f"{list(self.modalities)}", f"Use the names that it was made with{meant}.")
        if not names:
            raise MissingModalityError(f"{self.name} was given no modality, expected some of {list(self.modalities)}",
                                       "Give at least one scan, under its modality's name.")
        if not (self.learns_from if training else self.accepts)(names):
            if not training and (fewer := self.largest(names)):
                raise MissingModalityError(f"{self.name} does not answer from {sorted(names)} together",
                                           "Ask for " + " or ".join(repr(sorted(one)) for one in fewer) + ".")
            missing = [name for name in self.modalities if name not in names]
            raise MissingModalityError(f"{self.name} does not {'train on' if training else 'answer from'} "
                                       f"{sorted(names)} alone, {missing} missing",
                                       "Use a method that does (maml, late_fusion), or complete the case.")
        return tuple(name for name in self.modalities if name in names)

    def checked(self, images: dict[str, Image], training: bool = False) -> dict[str, Image]:
        """The images in the method's own order, after the checks that `forward` promises."""
        if not isinstance(images, Mapping):
            raise TypeError(f"found a {type(images).__name__}, expected a dictionary of images by modality, such as "
                            f"{{{self.modalities[0]!r}: tensor}}")
        ordered = {name: images[name] for name in self.present(images, training)}
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


class OneDecoder(Method):
    """A method that answers by one decoder and its heads; what a new one has to say is how `levels` come about."""

    heads: Heads

    @abc.abstractmethod
    def levels(self, images: dict[str, Image]) -> list[Tensor]:
        """Features of every decoder level, full resolution first."""

    def stages_of(self, images: dict[str, Image]) -> list[tuple[Tensor, ...]]:
        """For every level what each modality's own encoder says, full resolution first."""
        return list(zip(*(self.encoders[name](image) for name, image in self.checked(images).items()), strict=True))

    def forward(self, images: dict[str, Image]) -> Segmentation:
        """The answer from these modalities; behind the fusion no part of it belongs to one of them."""
        head = self.heads.finest
        return Segmentation(head(self.levels(images)[0]), bias=head.bias, activation=self.activation)

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """Dice + cross-entropy: `total`."""
        return {"total": self.supervised(self.heads(self.levels(images)), labels)}

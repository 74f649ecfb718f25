"""nnU-Net's 3-D U-Net, in pieces that a method can cut: encoder, decoder, heads.

Each stage is twice (convolution - instance norm - leaky ReLU 0.01); a strided convolution goes down, a
transposed convolution with kernel = stride goes up, the skip is joined by concatenation, and a 1x1x1 head
reads the classes off a decoder level. Weights start as in He et al., heads included, biases at 0; those of transposed
convolutions start without a checkerboard (`he_initialisation`).

Two choices keep the numbers and save time: a convolution before an instance norm has no bias (the norm
cancels it; nnU-Net's have one), and the instance norm is whichever operation is best on the device
(execution.py).

References:
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et
    al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from maml_toolkit.networks.execution import Block, Convolution, InstanceNorm, stacked_through
from maml_toolkit.system import machine
from maml_toolkit.system.shapes import Features, Logits

CHANNELS = (32, 64, 128, 256, 320, 320)
"""nnU-Net's widths, from full resolution to the bottleneck."""

Axes = Sequence[int]
"""One whole number for each of the three axes."""


class Head(Block, nn.Conv3d):
    """The 1x1x1 convolution from features to logits, in float32 or better also under autocast.

    Logits in bfloat16 have two to three digits: too few to add contributions up to them, and to sum windows.
    """

    compiles = False

    def __init__(self, channels: int, classes: int):
        super().__init__(channels, classes, kernel_size=1)

    def forward(self, features: Features) -> Logits:
        """Scores of the classes: W · features + b."""
        def scores(features: Tensor) -> Tensor:
            with machine.exact_convolutions(features.device):
                return self._conv_forward(features.to(self.weight.dtype), self.weight, self.bias)

        return self.through(scores, features)    # or the copy in float32 would be kept

    def without_bias(self, features: Features) -> Logits:
        """W · features: what these features contribute to the logits."""
        with machine.exact_convolutions(features.device):
            return functional.conv3d(features.to(self.weight.dtype), self.weight)


class Encoder(Block):
    """The contracting path: an image in, the features of every stage out, full resolution first.

    Args:
        in_channels: of the image.
        channels, strides, kernels: of each stage.
        streams: how many networks' features every later stage reads, stacked as channels.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], strides: Sequence[Axes], kernels: Sequence[Axes],
                 streams: int = 1):
        super().__init__()
        ins = (in_channels, *(streams * width for width in channels[:-1]))
        self.stages = nn.ModuleList(
            nn.Sequential(convolution(before, width, kernel, stride), convolution(width, width, kernel))
            for before, width, kernel, stride in zip(ins, channels, kernels, strides, strict=True))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every stage, full resolution first."""
        features = [self.through(self.stages[0], image)]
        for stage in self.stages[1:]:
            features.append(stage(features[-1]))
        return features


class Decoder(Block):
    """The expanding path: the encoder's features in, the features of every level out, full resolution first.

    Args:
        channels, strides, kernels: of each stage.
        skips: width of what comes over from each stage, where it is not that of the stage.
        streams: how many networks' features go up together, stacked as channels.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[Axes], kernels: Sequence[Axes],
                 skips: Sequence[int] | None = None, streams: int = 1):
        super().__init__()
        skips = skips or channels
        belows = [streams * width for width in (*channels[1:-1], skips[-1])]
        coarse_to_fine = list(zip(channels, skips, belows, strides[1:], kernels, strict=False))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose3d(below, width, tuple(stride), tuple(stride), bias=False)
                                for width, _, below, stride, _ in coarse_to_fine)
        self.levels = nn.ModuleList(
            nn.Sequential(convolution(width + skip, width, kernel), convolution(width, width, kernel))
            for width, skip, _, _, kernel in coarse_to_fine)

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        """Features of every decoder level, full resolution first."""
        levels = [skips[-1]]
        for number, skip in enumerate(reversed(skips[:-1])):
            levels.append(self.level(number, levels[-1], skip))
        return levels[:0:-1]

    def level(self, number: int, below: Tensor, skip: Tensor) -> Tensor:
        """One level, the coarsest being number 0, from the features below it and those that come over."""
        def joined(below: Tensor, skip: Tensor) -> Tensor:
            first, second = self.levels[number]
            return second(stacked_through(first, self.up[number](below), skip))

        return self.through(joined, below, skip) if number == len(self.levels) - 1 else joined(below, skip)


class Heads(nn.Module):
    """The head at full resolution and, for deep supervision, one at each lower decoder level but the lowest.

    nnU-Net has a head at the lowest level too and gives it the weight 0; here it is left out.
    """

    def __init__(self, channels: Sequence[int], classes: int, deep_supervision: bool = False):
        super().__init__()
        widths = channels[:max(1, len(channels) - 2)] if deep_supervision else channels[:1]
        self.levels = nn.ModuleList(Head(width, classes) for width in widths)
        self.apply(he_initialisation)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Logits of each supervised level, full resolution first; (batch, classes, depth, height, width) each."""
        return [head(features) for head, features in zip(self.levels, levels, strict=False)]

    @property
    def finest(self) -> Head:
        """The head at full resolution: the one that answers."""
        return self.levels[0]


class UNet(nn.Module):
    """Encoder and decoder: an image in, the features of every decoder level out, full resolution first.

    Args:
        in_channels: of the image.
        channels: width of each stage, full resolution first.
        strides: for each stage the step on each axis by which it is coarser than the one before; 1, then 2s.
        kernels: for each stage the size of its convolutions on each axis; 3s.

    Raises:
        ValueError: fewer than two stages, or strides or kernels for another number of them.
    """

    def __init__(self, in_channels: int, channels: Sequence[int] = CHANNELS, strides: Sequence[Axes] | None = None,
                 kernels: Sequence[Axes] | None = None):
        super().__init__()
        strides, kernels = every_stage(channels, strides, kernels)
        self.encoder = Encoder(in_channels, channels, strides, kernels)
        self.decoder = Decoder(channels, strides, kernels)
        self.apply(he_initialisation)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every decoder level; the first has the image's size and `channels[0]` channels."""
        return self.decoder(self.encoder(image))


def every_stage(channels: Sequence[int], strides: Sequence[Axes] | None,
                kernels: Sequence[Axes] | None) -> tuple[list[Axes], list[Axes]]:
    """Strides and kernels of every stage; where left out, every axis is halved at each stage and every kernel is 3.

    Raises:
        ValueError: fewer than two stages, or strides or kernels for another number of them.
    """
    stages = len(channels)
    strides = list(strides or [(1, 1, 1), *[(2, 2, 2)] * (stages - 1)])
    kernels = list(kernels or [(3, 3, 3)] * stages)
    if stages < 2 or len(strides) != stages or len(kernels) != stages:
        raise ValueError(f"found {stages} channels, {len(strides)} strides and {len(kernels)} kernels; expected "
                         "one of each for every stage, and at least two stages")
    return strides, kernels


def convolution(ins: int, outs: int, kernel: Axes, stride: Axes = (1, 1, 1)) -> nn.Sequential:
    """Convolution - instance norm - leaky ReLU."""
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(Convolution(ins, outs, tuple(kernel), tuple(stride), padding, bias=False),
                         InstanceNorm(outs), nn.LeakyReLU(0.01, inplace=True))


def he_initialisation(module: nn.Module) -> None:
    """Kaiming-normal weights for the leaky ReLU, biases zero, as nnU-Net does; for `nn.Module.apply`.

    Each voxel that a transposed convolution makes of one starts with the same weights (Aitken et al. 2017,
    https://arxiv.org/abs/1707.02937). With weights of its own for each, as in nnU-Net, a checkerboard is left in every
    map.
    """
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.ConvTranspose3d):
        with torch.no_grad():
            module.weight.copy_(module.weight[..., :1, :1, :1].clone().expand_as(module.weight))


@torch.no_grad()
def orthogonal_initialisation(heads: Sequence[Head], contrasts: bool = True) -> None:
    """Start heads that read the same channels along directions of their own, pairwise orthogonal; biases zero.

    What decides between K classes are the rows of a head with their mean over the classes taken out: K - 1 directions
    of the channel space. Those of all heads together are orthogonal, or as far from parallel as they can be where there
    are more of them than channels, and as long as He initialisation makes them in the mean (sqrt 2 each).

    Args:
        heads: of as many rows.
        contrasts: whether only differences between the rows decide, as before a softmax. Else each row decides by
            itself, as before a sigmoid, and is a direction of its own.
    """
    classes, channels = heads[0].weight.shape[:2]
    free = classes - contrasts
    directions = spread_directions(len(heads) * free, channels) * 2**0.5
    for head, own in zip(heads, directions.split(free), strict=True):
        # an orthonormal basis, (classes, classes - 1), of what sums to 0 over the classes
        basis = (torch.linalg.qr(torch.eye(classes)[:, 1:] - 1 / classes)[0] @ rotation(free) if contrasts
                 else torch.eye(classes))
        head.weight.copy_((basis @ own).view_as(head.weight))
        nn.init.zeros_(head.bias)


def rotation(size: int) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(size, size))[0]


def spread_directions(count: int, size: int, rounds: int = 300) -> Tensor:
    """Random unit vectors (count, size) whose largest |cosine| is as small as it can be, 0 where count <= size.

    More vectors than dimensions push each other away as lines, at first all of them, at last only the closest.
    """
    if count <= size:
        return rotation(size)[:count]
    found = functional.normalize(torch.randn(count, size))
    for done in (number / (rounds - 1) for number in range(rounds)):
        cosines = (found @ found.T).fill_diagonal_(0)
        push = (cosines.abs() / cosines.abs().max()) ** (2 + 60 * done) * cosines.sign()
        found = functional.normalize(found - 0.3 * (1 - done) * functional.normalize(push @ found))
    return found


def layout(patch_size: Axes, spacing_mm: Sequence[float], stages: int) -> dict[str, list[list[int]]]:
    """Strides and kernels for a patch of this size and spacing by nnU-Net's rule, to hand to a method.

    An axis is halved while it keeps at least 4 voxels and is not twice as coarse as the finest axis that
    can still be halved; its kernel is 1 until the grid is that close to isotropic on it, then 3.

    >>> layout((64, 64, 16), (1, 1, 4), stages=4)["strides"]
    [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    >>> layout((64, 64, 16), (1, 1, 4), stages=4)["kernels"]
    [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3]]

    Returns:
        {"strides": [stage][axis], "kernels": [stage][axis]}.

    Raises:
        ValueError: the patch is too small for so many stages, or does not divide by its strides.
    """
    strides, kernels = halvings(patch_size, spacing_mm, stages)
    divisor = total_stride(strides)
    if any(n % d for n, d in zip(patch_size, divisor, strict=True)):
        raise ValueError(f"found patch_size {tuple(patch_size)}, expected multiples of {divisor} for {stages} stages "
                         "on this grid")
    return {"strides": strides, "kernels": kernels}


def planned_patch(shape: Axes, spacing_mm: Sequence[float], voxels: int, stages: int) -> list[int]:
    """The patch of at most so many voxels by nnU-Net's rule: as wide in millimetres on every axis as the case allows.

    It starts as 256^3 voxels with equal edges in millimetres, is cut to the shape, and then loses voxels where
    it covers the largest share of the shape.

    >>> planned_patch((240, 240, 155), (1, 1, 1), voxels=128**3, stages=6)
    [128, 160, 96]
    >>> planned_patch((192, 192, 19), (0.5, 0.5, 3), voxels=64**3, stages=5)
    [144, 144, 12]

    Args:
        shape: of a typical case on the working grid.
        spacing_mm: of that grid.
        voxels: the budget; memory and time go with it.
        stages: of the U-Net.

    Raises:
        ValueError: so few voxels cannot be halved for so many stages.
    """
    edge_mm = (256**3 * prod(spacing_mm)) ** (1 / 3)
    size = [min(round(edge_mm / mm), n) for mm, n in zip(spacing_mm, shape, strict=True)]
    while True:
        divisor = total_stride(halvings(size, spacing_mm, stages)[0])
        size = [-(-n // d) * d for n, d in zip(size, divisor, strict=True)]
        if prod(size) <= voxels:
            return size
        share = [n / whole if n > d else 0 for n, whole, d in zip(size, shape, divisor, strict=True)]
        axis = share.index(max(share))
        size[axis] -= divisor[axis]


def halvings(size: Axes, spacing_mm: Sequence[float], stages: int) -> tuple[list[list[int]], list[list[int]]]:
    """Strides and kernels of every stage by the rule that `layout` states, wherever the size divides or not.

    Raises:
        ValueError: the size is too small for so many stages.
    """
    asked, size, spacing, strides, kernels = tuple(size), list(size), list(spacing_mm), [[1, 1, 1]], []
    kernel = [1, 1, 1]
    for _ in range(stages - 1):
        kernel = [3 if k == 3 or mm < 2 * min(spacing) else 1 for k, mm in zip(kernel, spacing, strict=True)]
        kernels.append(kernel)
        large = [axis for axis in range(3) if size[axis] >= 8]
        if not large:
            raise ValueError(f"a patch of {asked} voxels is halved {len(strides) - 1} times before every axis has "
                             f"under 8 voxels, which makes {len(strides)} stages; {stages} channels were given. Give "
                             "fewer channels or a larger patch.")
        finest = min(spacing[axis] for axis in large)
        strides.append([2 if axis in large and spacing[axis] < 2 * finest else 1 for axis in range(3)])
        size = [n // step for n, step in zip(size, strides[-1], strict=True)]
        spacing = [mm * step for mm, step in zip(spacing, strides[-1], strict=True)]
    return strides, [*kernels, [3, 3, 3]]


def total_stride(strides: Sequence[Axes]) -> tuple[int, int, int]:
    """By how much each axis is divided at the bottleneck."""
    return tuple(prod(stride[axis] for stride in strides) for axis in range(3))

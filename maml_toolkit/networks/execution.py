"""How a network is executed, its values the same: instance norm, convolutions, activation checkpointing, compiled.

Instance norm is computed by the operation that is best on the device, to the same values up to rounding:

    y = (x - mean) / sqrt(variance + 1e-5) * weight + bias,     mean and variance over the voxels of a sample's channel

On a CPU that is `group_norm` with a group for each channel, 2 to 4 times faster than `instance_norm`. On a GPU autocast
has `group_norm` read and write float32, which keeps twice the memory of every map for the gradient, and `instance_norm`
stays in the type of its input, its sums in float32.

Convolutions in float32 on a CPU are kept from im2col, 27 copies of the features, in two places. torch takes it for a
single sample where channels x depth x height are few (`use_mkldnn` in its Convolution.cpp), as in every network's lower
stages: cut along its depth into a batch of two, such a sample goes to oneDNN. And oneDNN takes it, without AVX-512, for
the gradient of the weights where the depth is padded: here the depth is padded before.

Activation checkpointing takes less memory for more time: what full-resolution layers hold inside is not kept, and
computed again for the gradient. Nearly all of a step's memory is in maps at full resolution: for four modalities what
97 maps of 32 channels take, of which 34 remain. Half of a U-Net's multiplications are below, and are not done twice: a
step takes 1.18 of its CPU time (two modalities, 48^3, batch 1, one thread). Values and gradients are the same, in
bfloat16 up to the order of sums where a method uses a weight twice (octopusnet).

Compiled by torch are the streams: encoders, decoders and the attention, each a program; the weights keep their names.
What lies between them (losses, what a method draws) runs as it is written. The first step of a size takes minutes.
Rounding differs a little. HyperPairing-Net, whose streams read each other within a stage, stays as it is. On a CPU it
rarely pays: of the plain step's CPU time a compiled one takes 1.14 in bfloat16 (32^3) and 0.81 in float32 (16^3), for
two modalities in batches of 2 and widths of 16 to 64, after three to five minutes on two busy cores.

References:
    Instance Normalization: The Missing Ingredient for Fast Stylization, Ulyanov et al., 2016,
    https://arxiv.org/abs/1607.08022
    Training Deep Nets with Sublinear Memory Cost, Chen et al., 2016, https://arxiv.org/abs/1604.06174
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

BY_GROUPS = {"cpu"}
"""Types of device on which instance norm is computed as `group_norm`."""


class InstanceNorm(nn.GroupNorm):
    """Instance norm with a learned weight and bias of each channel; its state is that of `GroupNorm(C, C)`.

    Args:
        channels: C, of the features.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """The features (batch, C, …), normalised for each sample and channel."""
        if features.device.type in BY_GROUPS:
            return super().forward(features)
        return functional.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)


FOR_ONEDNN = 20480
"""Channels x depth x height of a single sample, above which torch takes oneDNN for float32 on a CPU."""


class Convolution(nn.Conv3d):
    """A convolution, by the operation that is best on the device."""

    def __init__(self, ins: int, outs: int, kernel: int | tuple[int, ...], stride: int | tuple[int, ...] = 1,
                 padding: int | tuple[int, ...] = 0, bias: bool = True):
        super().__init__(ins, outs, kernel, stride, padding, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """W * features + b."""
        return convolved(features, self.weight, self.bias, self.stride, self.padding)


def convolved(features: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1, 1, 1),
              padding: Sequence[int] = (1, 1, 1)) -> Tensor:
    """`conv3d` of features (batch, C, depth, height, width), in float32 on a CPU by the fast kernels of oneDNN."""
    in_float32 = features.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    as_written = torch.compiler.is_compiling() or torch.jit.is_tracing()       # a program is for any device
    if features.device.type == "cpu" and in_float32 and prod(weight.shape[2:]) > 1 and not as_written:
        return ByOneDNN.apply(features, weight, bias, tuple(stride), tuple(padding))
    return functional.conv3d(features, weight, bias, tuple(stride), tuple(padding))


class ByOneDNN(torch.autograd.Function):
    """A convolution for which oneDNN has fast kernels, forward and backward; keeps what `conv3d` keeps.

    Args:
        features, weight, bias, stride, padding: as of `conv3d`, each stride and padding a tuple of three.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...],
                padding: tuple[int, ...]) -> Tensor:
        """Values as of `conv3d`."""
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.padding, ctx.biased = stride, padding, bias is not None
        outs = (features.shape[2] + 2 * padding[0] - weight.shape[2]) // stride[0] + 1
        ctx.halved = len(features) == 1 and prod(features.shape[:4]) <= FOR_ONEDNN and outs > 1
        if not ctx.halved:
            return functional.conv3d(features, weight, bias, stride, padding)
        half = (outs + 1) // 2              # of an odd depth the middle is in both
        halves = cut(features, weight.shape[2], stride[0], padding[0], outs)
        found = functional.conv3d(halves, weight, bias, stride, (0, *padding[1:]))
        return torch.cat([found[:1], found[1:, :, 2 * half - outs:]], dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of features, weight and bias."""
        features, weight = ctx.saved_tensors
        pad, *others = ctx.padding
        to_features, to_weight, to_bias = *ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]

        def gradients(gradient: Tensor, features: Tensor, pad: int, *asked: bool) -> tuple[Tensor | None, ...]:
            return torch.ops.aten.convolution_backward(
                gradient, features, weight, [len(weight)] if ctx.biased else None, ctx.stride, (pad, *others),
                (1, 1, 1), False, (0, 0, 0), 1, asked)

        if not ctx.halved:
            of_features = of_weight = of_bias = None
            if to_weight or to_bias:
                padded = functional.pad(features, (0, 0, 0, 0, pad, pad))
                _, of_weight, of_bias = gradients(gradient, padded, 0, False, to_weight, to_bias)
                del padded                  # as large as the gradient of the features, which comes next
            if to_features:
                of_features, _, _ = gradients(gradient, features, pad, True, False, False)
            return of_features, of_weight, of_bias, None, None
        depth, step, outs = weight.shape[2], ctx.stride[0], gradient.shape[2]
        half = (outs + 1) // 2
        halves = cut(features, depth, step, pad, outs)
        of_both = torch.cat([gradient[:, :, :half], gradient[:, :, outs - half:]])
        of_both[1, :, :2 * half - outs] = 0
        of_halves, of_weight, of_bias = gradients(of_both, halves, 0, to_features, to_weight, to_bias)
        if not to_features:
            return None, of_weight, of_bias, None, None
        reach, second, size = halves.shape[2], (outs - half) * step, features.shape[2]
        whole = features.new_zeros(1, features.shape[1], size + 2 * pad, *features.shape[3:])
        whole[:, :, :reach] = of_halves[:1]
        whole[:, :, second:second + reach] += of_halves[1:]
        return whole[:, :, pad:pad + size], of_weight, of_bias, None, None


def cut(features: Tensor, depth: int, step: int, pad: int, outs: int) -> Tensor:
    """What the first and the last half of `outs` values along the depth are made of, as a batch of two."""
    half = (outs + 1) // 2
    reach, second = (half - 1) * step + depth, (outs - half) * step
    padded = functional.pad(features, (0, 0, 0, 0, pad, pad))
    return torch.cat([padded[:, :, :reach], padded[:, :, second:second + reach]])


class Block(nn.Module):
    """A part of a network that can be told how to run.

    Attributes:
        recompute: whether layers do not keep what they hold inside; no part of the weights or of a checkpoint.
        compiles: whether it is compiled as a program of its own, where the network is to be compiled.
    """

    recompute = False
    compiles: ClassVar[bool] = True

    def through(self, layers: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """layers(*inputs); where `recompute` says so, only inputs and output are kept for the gradient."""
        if not self.recompute or not torch.is_grad_enabled():
            return layers(*inputs)
        return checkpoint(layers, *inputs, use_reentrant=False, preserve_rng_state=False)


def set_execution(network: nn.Module, recompute: bool = False, compiled: bool = False) -> None:
    """Switch activation checkpointing and compilation on or off, for a network and all that it is made of."""
    for module in network.modules():
        if isinstance(module, Block):
            module.recompute = recompute
            if compiled and module.compiles:
                module.compile(dynamic=False)
            else:
                module._compiled_call_impl = None


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor in half precision as float32, any other as it is: for sums that two to three digits would spoil."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def stacked_through(layers: nn.Sequential, *parts: Tensor) -> Tensor:
    """layers(torch.cat(parts, 1)), the stacked features let go after the first layer.

    A Sequential holds its input to its end, and stacked features at full resolution are the largest of all: 108 of 1352
    MiB of a prediction (four modalities, windows of 96^3, 32 channels).
    """
    first, *others = layers
    features = first(torch.cat(parts, dim=1))
    for layer in others:
        features = layer(features)
    return features

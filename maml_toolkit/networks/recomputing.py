"""Less memory for more time: what full-resolution layers hold inside is not kept, and computed again for the gradient.

Nearly all of a step's memory is in maps at full resolution: for four modalities what 97 maps of 32 channels take, of
which 34 remain. Half of a U-Net's multiplications are below, and are not done twice: a step takes 1.18 of its CPU
time (two modalities, 48^3, batch 1, one thread).
Values and gradients are the same, in bfloat16 up to the order of sums where a method uses a weight twice (octopusnet).

References:
    Training Deep Nets with Sublinear Memory Cost, Chen et al., 2016, https://arxiv.org/abs/1604.06174
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """A network of which some layers can be told not to keep what they hold inside.

    Attributes:
        recompute: whether they are; no part of the weights or of what a checkpoint holds.
    """

    recompute = False

    def through(self, layers: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """layers(*inputs); where `recompute` says so, only inputs and output are kept for the gradient."""
        if not self.recompute or not torch.is_grad_enabled():
            return layers(*inputs)
        return checkpoint(layers, *inputs, use_reentrant=False, preserve_rng_state=False)


def set_recompute(network: nn.Module, recompute: bool) -> None:
    """Switch it for a network and all that it is made of."""
    for module in network.modules():
        if isinstance(module, Recomputing):
            module.recompute = recompute


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

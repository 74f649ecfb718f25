"""Instance norm by the operation that is best on the device, with the same parameters and the same values to rounding.

    y = (x - mean) / sqrt(variance + 1e-5) * weight + bias,     mean and variance over the voxels of a sample's channel

On a CPU that is `group_norm` with a group for each channel, 2 to 4 times faster than `instance_norm`. On a GPU autocast
has `group_norm` read and write float32, which keeps twice the memory of every map for the gradient, and `instance_norm`
stays in the type of its input, its sums in float32.

References:
    Instance Normalization: The Missing Ingredient for Fast Stylization, Ulyanov et al., 2016,
    https://arxiv.org/abs/1607.08022
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

BY_GROUPS = {"cpu"}
"""Types of device on which it is computed as `group_norm`."""


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

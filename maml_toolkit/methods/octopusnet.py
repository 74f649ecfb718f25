"""OctopusNet, middle fusion: an encoder per modality, one decoder.

    skip_l = f_l([E_1,l; …; E_N,l])     at every level l, f_l a convolution back to the level's width

It needs every modality that it was built for. The abstract names independent encoders and one fusion
decoder; that f_l is a convolution - instance norm - leaky ReLU with the stage's own kernel is this file's
choice.

References:
    OctopusNet: A Deep Learning Segmentation Network for Multi-modal Medical Images, Chen et al., MMMI 2019,
    https://arxiv.org/abs/1906.02031
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maml_toolkit.methods.method import OneDecoder
from maml_toolkit.networks.unet import Decoder, Encoder, Heads, convolution, he_initialisation
from maml_toolkit.system.shapes import Image


class OctopusNet(OneDecoder):
    """An encoder per modality, fused at every level, one decoder. Arguments: those of every Method."""

    name, needs_all = "octopusnet", True

    def __init__(self, modalities: Sequence[str], classes: int, **unet):
        super().__init__(modalities, classes, **unet)
        channels, _, kernels = self.plan
        self.encoders = nn.ModuleDict({name: Encoder(1, *self.plan) for name in self.modalities})
        self.fuse = nn.ModuleList(convolution(len(self.modalities) * width, width, kernel)
                                  for width, kernel in zip(channels, kernels, strict=True))
        self.decoder = Decoder(*self.plan)
        self.heads = Heads(channels, self.outputs, self.deep_supervision)
        self.apply(he_initialisation)

    def adopted(self, name: str, tensor: Tensor, other: OctopusNet) -> Tensor:
        """What fuses another OctopusNet; what reads a new modality is zero at first."""
        return self.restacked(tensor, other) if name.startswith("fuse.") and tensor.dim() > 1 else tensor

    def levels(self, images: dict[str, Image]) -> list[Tensor]:
        """Features of every decoder level, full resolution first."""
        return self.decoder([fuse(torch.cat(level, dim=1))
                             for fuse, level in zip(self.fuse, self.stages_of(images), strict=True)])

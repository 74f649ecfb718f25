"""Early fusion: one U-Net that sees the modalities stacked as channels. This is nnU-Net.

With one modality it is the mono-modal baseline of the paper's Table 2. It needs every modality that it was
built for.

References:
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et
    al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maml_toolkit.methods.method import OneDecoder
from maml_toolkit.networks.unet import Heads, UNet
from maml_toolkit.system.shapes import Image


class EarlyFusion(OneDecoder):
    """One U-Net on stacked modalities. Arguments: those of every Method."""

    name, needs_all = "early_fusion", True

    def __init__(self, modalities: Sequence[str], classes: int, **unet):
        super().__init__(modalities, classes, **unet)
        self.unet = UNet(len(self.modalities), *self.plan)
        self.heads = Heads(self.plan[0], classes, self.deep_supervision)

    def levels(self, images: dict[str, Image]) -> list[Tensor]:
        """Features of every decoder level, full resolution first."""
        return self.unet(torch.cat(list(self.checked(images).values()), dim=1))

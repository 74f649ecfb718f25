"""Early fusion: one U-Net that sees the modalities stacked as channels. This is nnU-Net's network.

Trained by the recipe `nnunet` it is nnU-Net; by `paper` it is called "U-Net, stacked". With one modality it is the
mono-modal baseline of the paper's Table 2. It needs every modality that it was built for, unless it was trained
without some (modality dropout): a channel that is absent is then zero, the mean of a normalised scan.

References:
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et
    al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z
    ModDrop: adaptive multi-modal gesture recognition, Neverova et al., TPAMI 2016, https://arxiv.org/abs/1501.00102
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maml_toolkit.methods import subsets
from maml_toolkit.methods.method import OneDecoder
from maml_toolkit.networks.unet import Heads, UNet
from maml_toolkit.system.shapes import Image, Labels, Scalar


class EarlyFusion(OneDecoder):
    """One U-Net on stacked modalities.

    Args:
        modalities, classes, unet: as for every Method.
        dropout: chance of each modality to be left out of a training step, never all of them; above 0 any subset of
            the modalities is answered and trained on.

    Raises:
        ValueError: a chance outside 0 to 1.
    """

    name, stacked = "early_fusion", "unet"

    def __init__(self, modalities: Sequence[str], classes: int, dropout: float = 0.0, **unet):
        if not 0 <= dropout < 1:
            raise ValueError(f"found dropout={dropout}, expected a chance from 0 to below 1")
        super().__init__(modalities, classes, own={"dropout": dropout}, **unet)
        self.dropout, self.needs_all = dropout, dropout == 0
        self.unet = UNet(len(self.modalities), *self.plan)
        self.heads = Heads(self.plan[0], self.outputs, self.deep_supervision)

    def levels(self, images: dict[str, Image]) -> list[Tensor]:
        """Features of every decoder level, full resolution first."""
        images = self.checked(images)
        if len(images) < len(self.modalities):
            absent = torch.zeros_like(next(iter(images.values())))
            images = {name: images.get(name, absent) for name in self.modalities}
        return self.unet(torch.cat(list(images.values()), dim=1))

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """Dice + cross-entropy: `total`; from some of the modalities where some are dropped."""
        kept = subsets.keep(self.present(images, training=True), generator, self.dropout)
        levels = self.levels({name: images[name] for name in kept})
        return {"total": self.supervised(self.heads(levels), labels)}

"""Late fusion (the paper's MS+Ensemble): a U-Net per modality, trained alone, their probabilities averaged.

    logits(S) = log( 1/|S| sum_{i in S} softmax(h_i(F_i)) )

Any non-empty subset of the modalities works as it is. The networks share nothing and every loss term
belongs to one of them, so training them at once with Adam is training each alone.

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842 (MS+Ensemble of its Table 1)
"""

from collections.abc import Sequence

import torch
from torch import nn

from maml_toolkit.methods.method import Method, Segmentation
from maml_toolkit.networks.unet import Heads, UNet
from maml_toolkit.system.shapes import Image, Labels, Scalar


class LateFusion(Method):
    """Independent U-Nets, averaged. Arguments: those of every Method."""

    name, tells_each = "late_fusion", True

    def __init__(self, modalities: Sequence[str], classes: int, **unet):
        super().__init__(modalities, classes, **unet)
        self.streams = nn.ModuleDict({name: UNet(1, *self.plan) for name in self.modalities})
        self.heads = nn.ModuleDict({name: Heads(self.plan[0], self.outputs, self.deep_supervision)
                                    for name in self.modalities})

    def forward(self, images: dict[str, Image]) -> Segmentation:
        """The log of the mean probability; what each modality says alone is beside it."""
        alone = {name: self.heads[name].finest(self.streams[name](image)[0])
                 for name, image in self.checked(images).items()}
        return Segmentation(self.activation.mean(list(alone.values())), alone, activation=self.activation)

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """Dice + cross-entropy of each network: `intra/<modality>`, and their sum `total`."""
        terms = {f"intra/{name}": self.supervised(self.heads[name](self.streams[name](image)), labels)
                 for name, image in self.checked(images).items()}
        return terms | {"total": sum(terms.values())}

"""U-HeMIS: per modality an encoder, at every skip the mean and the variance over the modalities present.

    z_l(S) = [ mean_{i in S} E_i,l ; 1/|S| sum_{i in S} (E_i,l - mean)^2 ]        variance 0 for one modality
    y(S)   = decoder(z_0, z_1, …)                                                 the front end
    L      = Dice + cross-entropy of y(S), S drawn in every step

Any non-empty subset works. HeMIS itself is not a U-Net; taking the moments at every skip is what later work
calls U-HeMIS. Drawing S uniformly over the subsets is the random dropping of modalities in training.

References:
    HeMIS: Hetero-Modal Image Segmentation, Havaei et al., MICCAI 2016, https://arxiv.org/abs/1607.05194
    Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation, Dorent et al.,
    MICCAI 2019, https://arxiv.org/abs/1907.11150 (U-HeMIS)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maml_toolkit.methods import subsets
from maml_toolkit.methods.method import OneDecoder
from maml_toolkit.networks.execution import at_least_float32
from maml_toolkit.networks.unet import Decoder, Encoder, Heads, he_initialisation
from maml_toolkit.system.errors import expect_one_of
from maml_toolkit.system.shapes import Image, Labels, Scalar


class HeMIS(OneDecoder):
    """Moments over the modalities present.

    Args:
        modalities, classes, unet: as for every Method.
        subset_sampling: how S is drawn in training, "uniform" or "by-size" (subsets.py).

    Raises:
        ValueError: another way of sampling.
    """

    name = "hemis"

    def __init__(self, modalities: Sequence[str], classes: int, *, subset_sampling: str = "uniform", **unet):
        super().__init__(modalities, classes, own={"subset_sampling": subset_sampling}, **unet)
        expect_one_of("subset_sampling", subset_sampling, subsets.SAMPLING)
        self.subset_sampling = subset_sampling
        self.encoders = nn.ModuleDict({name: Encoder(1, *self.plan) for name in self.modalities})
        self.decoder = Decoder(*self.plan, skips=[2 * width for width in self.plan[0]])
        self.heads = Heads(self.plan[0], self.outputs, self.deep_supervision)
        self.apply(he_initialisation)

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """Dice + cross-entropy of the answer from a drawn subset: `total`."""
        drawn = subsets.draw(self.present(images), generator, self.subset_sampling)
        return super().loss({name: images[name] for name in drawn}, labels, generator)

    def levels(self, images: dict[str, Image]) -> list[Tensor]:
        """Features of every decoder level, full resolution first."""
        return self.decoder([moments(level) for level in self.stages_of(images)])


def moments(features: Sequence[Tensor]) -> Tensor:
    """Mean and variance over the modalities, stacked as channels; in float32 or better."""
    stack = at_least_float32(torch.stack(features))
    return torch.cat((stack.mean(0), stack.var(0, correction=0)), dim=1)

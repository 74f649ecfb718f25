"""U-HVED: each modality's encoder tells a Gaussian at every level, and the Gaussians are multiplied.

    q_i,l  = N(mu_i,l, exp(s_i,l))                    from the encoder of modality i
    q_l(S) = N(0, 1) · prod_{i in S} q_i,l:           T_i = 1 / (exp(s_i) + 1e-7)
             mu = sum_i mu_i T_i / (1 + sum_i T_i),   variance = 1 / (1 + sum_i T_i)
    z_l    = a sample of q_l in training, mu at inference
    y(S)   = decoder(z_0, z_1, …),   x_i(S) = decoder_i(z_0, z_1, …) for every modality
    L      = Dice + cross-entropy of y(S) + 0.1 KL(q(S) || N(0, 1)) + 0.1 mean_i (x_i(S) - image_i)^2

Any non-empty subset works. S is drawn by size first; the images of all modalities that the case has are
reconstructed, those outside S too. The paper's network has four levels of 8 to 64 channels; here it has the
levels and widths of the U-Nets that it is compared with. This file's choices: a 1x1x1 convolution to mu and
s, s kept within ±10, KL and squared error as means over channels and voxels, the KL also over levels.

References:
    Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation, Dorent et al.,
    MICCAI 2019, https://arxiv.org/abs/1907.11150
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from maml_toolkit.methods import subsets
from maml_toolkit.methods.method import OneDecoder
from maml_toolkit.networks.execution import at_least_float32
from maml_toolkit.networks.unet import Decoder, Encoder, Head, Heads, he_initialisation
from maml_toolkit.system.errors import expect_one_of
from maml_toolkit.system.shapes import Features, Image, Labels, Scalar

LARGEST_LOG_VARIANCE = 10.0
"""exp(±10) is as sure or as unsure as a feature need be, and far from overflow."""


class UHVED(OneDecoder):
    """Products of Gaussian experts at every level.

    Args:
        modalities, classes, unet: as for every Method.
        kl_weight, reconstruction_weight: 0.1 each.
        subset_sampling: how S is drawn in training, "by-size" as in the paper or "uniform" (subsets.py).

    Raises:
        ValueError: a negative weight or another way of sampling.
    """

    name, painting = "uhved", "painters"

    def __init__(self, modalities: Sequence[str], classes: int, *, kl_weight: float = 0.1,
                 reconstruction_weight: float = 0.1, subset_sampling: str = "by-size", **unet):
        super().__init__(modalities, classes, own={
            "kl_weight": kl_weight, "reconstruction_weight": reconstruction_weight,
            "subset_sampling": subset_sampling}, **unet)
        expect_one_of("subset_sampling", subset_sampling, subsets.SAMPLING)
        if kl_weight < 0 or reconstruction_weight < 0:
            raise ValueError(f"found kl_weight={kl_weight} and reconstruction_weight={reconstruction_weight}, "
                             "expected 0 or more")
        self.kl_weight, self.reconstruction_weight = kl_weight, reconstruction_weight
        self.subset_sampling, channels = subset_sampling, self.plan[0]
        self.encoders = nn.ModuleDict({name: Encoder(1, *self.plan) for name in self.modalities})
        self.experts = nn.ModuleDict({name: nn.ModuleList(nn.Conv3d(width, 2 * width, 1) for width in channels)
                                      for name in self.modalities})
        self.decoder = Decoder(*self.plan)
        self.heads = Heads(channels, self.outputs, self.deep_supervision)
        self.reconstructors = nn.ModuleDict({name: Decoder(*self.plan) for name in self.modalities})
        self.painters = nn.ModuleDict({name: Head(channels[0], 1) for name in self.modalities})
        self.apply(he_initialisation)

    def levels(self, images: dict[str, Image]) -> list[Tensor]:
        """Of the decoder at the means, S the keys of `images`: the same images give the same answer."""
        return self.decoder([mean for mean, _ in self.latent(images)])

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """`segmentation`, `kl`, `reconstruction`, and their weighted sum `total`, from samples of a drawn subset."""
        images = self.checked(images)
        drawn = subsets.draw(tuple(images), generator, self.subset_sampling)
        latent = self.latent({name: images[name] for name in drawn})
        sample = [mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, device=mean.device,
                                                       dtype=mean.dtype) for mean, variance in latent]
        repainted = {name: self.painters[name](self.reconstructors[name](sample)[0]) for name in images}
        terms = {
            "segmentation": self.supervised(self.heads(self.decoder(sample)), labels),
            "kl": sum(divergence_from_prior(mean, variance) for mean, variance in latent) / len(latent),
            "reconstruction": sum(functional.mse_loss(repainted[name], image.to(repainted[name].dtype))
                                  for name, image in images.items()) / len(images)}
        return terms | {"total": terms["segmentation"] + self.kl_weight * terms["kl"]
                        + self.reconstruction_weight * terms["reconstruction"]}

    def latent(self, images: dict[str, Image]) -> list[tuple[Tensor, Tensor]]:
        """Mean and variance of q_l(S) for every level, full resolution first."""
        names = self.present(images)
        return [product_of_experts([self.experts[name][level](own) for name, own in zip(names, stages, strict=True)])
                for level, stages in enumerate(self.stages_of(images))]


def product_of_experts(experts: Sequence[Tensor]) -> tuple[Features, Features]:
    """Mean and variance of N(0, 1) times the experts; each tells mu and log variance, stacked as channels."""
    total, weighted = 1.0, 0.0
    for expert in experts:
        mean, log_variance = at_least_float32(expert).chunk(2, dim=1)
        precision = 1 / (log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE).exp() + 1e-7)
        total, weighted = total + precision, weighted + mean * precision
    return weighted / total, 1 / total


def divergence_from_prior(mean: Features, variance: Features) -> Scalar:
    """KL(N(mean, variance) || N(0, 1)), the mean over channels and voxels."""
    return 0.5 * (mean**2 + variance - variance.log() - 1).mean()

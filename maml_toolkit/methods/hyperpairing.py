"""HyperPairing-Net: a U-Net per modality whose stages read each other's features, and a loss that pairs them.

    E_i,s  = stage_i,s([E_1,s-1; …; E_N,s-1])                      encoder, own features first
    D_i,l  = level_i,l(up_i,l([D_1,l+1; …; D_N,l+1]), E_i,l)       decoder
    y      = W [D_1,0; …; D_N,0] + b
    L      = Dice + cross-entropy + w · mean_{i<j} (1 - cos(E_i, E_j))     E_i: lowest stage as one vector

The streams exchange features between and within encoder and decoder, so it needs every modality that it was
built for. From the abstract: two interconnected streams and a pairing loss on high-level features. From
memory: the loss's cosine form and its weight 0.5. This file's choice: which stages are connected (all), and
that the skips stay within a stream.

References:
    Hyper-Pairing Network for Multi-Phase Pancreatic Ductal Adenocarcinoma Segmentation, Zhou et al., MICCAI
    2019, https://arxiv.org/abs/1909.00906
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from maml_toolkit.methods.method import OneDecoder
from maml_toolkit.networks.execution import at_least_float32
from maml_toolkit.networks.unet import Decoder, Encoder, Heads, he_initialisation
from maml_toolkit.system.shapes import Image, Labels, Scalar


class HyperPairing(OneDecoder):
    """Interconnected U-Nets.

    Args:
        modalities, classes, unet: as for every Method.
        pairing_weight: w; 0.5 from memory.

    Raises:
        ValueError: a negative weight.
    """

    name, needs_all = "hyperpairing", True

    def __init__(self, modalities: Sequence[str], classes: int, *, pairing_weight: float = 0.5, **unet):
        super().__init__(modalities, classes, own={"pairing_weight": pairing_weight}, **unet)
        if pairing_weight < 0:
            raise ValueError(f"found pairing_weight={pairing_weight}, expected 0 or more")
        self.pairing_weight, streams = pairing_weight, len(self.modalities)
        self.encoders = nn.ModuleDict({name: Encoder(1, *self.plan, streams=streams) for name in self.modalities})
        self.decoders = nn.ModuleDict({name: Decoder(*self.plan, streams=streams) for name in self.modalities})
        self.heads = Heads([streams * width for width in self.plan[0]], self.outputs, self.deep_supervision)
        self.apply(he_initialisation)

    def adopted(self, name: str, tensor: Tensor, other: HyperPairing) -> Tensor:
        """What reads the streams of another one; what reads a new stream is zero at first."""
        part, stream, *layer = name.split(".")
        if part == "heads" and layer[-1] == "weight":
            return self.restacked(tensor, other)
        if part == "encoders" and layer[1] != "0" and layer[2:] == ["0", "0", "weight"]:
            return self.restacked(tensor, other, first=stream)
        return self.restacked(tensor, other, stream, axis=0) if layer[0] == "up" else tensor

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """`segmentation`, `pairing`, and `total` = segmentation + w · pairing."""
        stages = self.encoded(images)
        terms = {"segmentation": self.supervised(self.heads(self.decoded(stages)), labels),
                 "pairing": pairing(stages[-1])}
        return terms | {"total": terms["segmentation"] + self.pairing_weight * terms["pairing"]}

    def levels(self, images: dict[str, Image]) -> list[Tensor]:
        """Stacked features of every decoder level; every stream has read the others."""
        return self.decoded(self.encoded(images))

    def encoded(self, images: dict[str, Image]) -> list[dict[str, Tensor]]:
        """Features of every encoder stage by modality, full resolution first."""
        features = [self.checked(images)]
        for number in range(len(self.plan[0])):
            features.append({name: self.encoders[name].stages[number](
                stacked(features[-1], first=name) if number else features[-1][name]) for name in self.modalities})
        return features[1:]

    def decoded(self, stages: list[dict[str, Tensor]]) -> list[Tensor]:
        """Stacked features of every decoder level, full resolution first."""
        levels = [stages[-1]]
        for number, skips in enumerate(reversed(stages[:-1])):
            levels.append({name: self.decoders[name].level(number, stacked(levels[-1], first=name), skips[name])
                           for name in self.modalities})
        return [torch.cat(list(level.values()), dim=1) for level in levels[:0:-1]]


def stacked(features: dict[str, Tensor], first: str) -> Tensor:
    """The features of all modalities as channels, one modality's first."""
    return torch.cat([features[first], *(own for name, own in features.items() if name != first)], dim=1)


def pairing(features: dict[str, Tensor]) -> Scalar:
    """Mean over pairs of modalities of 1 - cosine of their features, 0 where all are equal; 0 for one modality."""
    vectors = [at_least_float32(own.flatten(1)) for own in features.values()]
    distances = [1 - functional.cosine_similarity(one, other).mean()
                 for one, other in itertools.combinations(vectors, 2)]
    return sum(distances) / len(distances) if distances else vectors[0].new_zeros(())

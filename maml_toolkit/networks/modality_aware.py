"""The modality-aware module: features of several modalities fused by attention, for one subset or for many at once.

    F_dual(S) = b + N/|S| sum_{i in S} W_i * F_i
    A_i(S)    = sigmoid(f_a([F_dual(S); F_i]; theta_i))                                            (eq. 1)
    F_att(S)  = N/|S| sum_{i in S} A_i(S) * F_i                                                    (eq. 2)

The fusion and the first convolution of f_a = g(V_i * F_i + U_i * F_dual) are linear, so that what they make of
one modality, or of a pair, serves every subset:

    V_i * F_i + U_i * F_dual(S) = (V_i * F_i + U_i * b) + N/|S| sum_{j in S} U_i * (W_j * F_j)

For N modalities that is N^2 + 2 N convolutions of C to C channels for all subsets together, where the full set
alone takes 3 N; g (instance norm, the second convolution, the sigmoid) is what remains for each subset.

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from maml_toolkit.data.tasks import check_names
from maml_toolkit.networks.execution import (
    Block,
    Convolution,
    InstanceNorm,
    at_least_float32,
    convolved,
    stacked_through,
)
from maml_toolkit.system.errors import expect_one_of
from maml_toolkit.system.shapes import Features

ATTENTION_FORMS = ("paper", "released")


class ModalityAwareModule(Block):
    """Fuses features of several modalities by attention that knows which modality it looks at (eq. 1 and 2).

    Args:
        modalities: names of all N; a call may have fewer.
        channels: C, of each modality's features and of the fused ones.
        attention: the form of f_a, "paper" or "released" (see the head of methods/maml.py).

    Raises:
        ValueError: another form of attention.
    """

    def __init__(self, modalities: Sequence[str], channels: int, attention: str = "paper"):
        super().__init__()
        expect_one_of("attention", attention, ATTENTION_FORMS)
        self.modalities, self.channels, self.attention = check_names(modalities), channels, attention
        self.fuse = Convolution(len(self.modalities) * channels, channels, 3, padding=1)
        self.attend = nn.ModuleDict({name: attention_layers(channels, attention) for name in self.modalities})

    def forward(self, features: dict[str, Features]) -> tuple[Features, dict[str, Features], Features]:
        """F_dual, A_i by modality in (0, 1), and F_att, from F_i by modality; each (batch, C, depth, height, width).

        Raises:
            ValueError: features of no modality, or of one that the module was not built for.
        """
        if not features or set(features) - set(self.modalities):
            raise ValueError(f"found features of {sorted(features)}, expected some of {list(self.modalities)}")
        features = {name: features[name] for name in self.modalities if name in features}
        fused = self.fused(features)
        attention = {name: self.attention_map(name, fused, own) for name, own in features.items()}
        return fused, attention, self.attended(features, attention)

    def attended(self, features: dict[str, Features], attention: Mapping[str, Features]) -> Features:
        """F_att(S) of eq. 2."""
        return sum(self.weighted(attention[name], own, len(features)) for name, own in features.items())

    def scale(self, present: int) -> float:
        """N/|S|: keeps sums over the modalities present at the size of sums over all."""
        return len(self.modalities) / present

    def fused(self, features: dict[str, Features]) -> Features:
        """F_dual(S) = b + N/|S| sum_{i in S} W_i * F_i; the whole convolution where all are there."""
        stacked = torch.cat(list(features.values()), dim=1)
        if len(features) == len(self.modalities):
            return self.fuse(stacked)
        weight = self.scale(len(features)) * torch.cat([self._weight(name) for name in features], dim=1)
        return convolved(stacked, weight, self.fuse.bias)

    def attention_map(self, modality: str, fused: Features, own: Features) -> Features:
        """A_i of eq. 1, in (0, 1)."""
        def layers(*pair: Tensor) -> Tensor:
            return torch.sigmoid(stacked_through(self.attend[modality], *pair))

        return self.through(layers, *((fused, own) if self.attention == "paper" else (own, fused)))

    def weighted(self, attention: Features, own: Features, present: int) -> Features:
        """N/|S| A_i * F_i, in float32 or better, so that contributions add up to logits under autocast too."""
        product = at_least_float32(attention * own)
        return product if present == len(self.modalities) else self.scale(present) * product

    def sweep(self, features: dict[str, Features], subsets: Iterable[Iterable[str]],
              most_maps: int) -> Iterator[dict[str, Features]]:
        """For each subset its A_i by modality, as `forward` gives them up to rounding, for little more than one call.

        Where the subsets are so few that sharing costs more than it saves (one subset, as in most predictions: 12
        convolutions for four modalities instead of 24), each is computed as `forward` does.

        Args:
            features: F_i of every modality that is in any of the subsets.
            subsets: of at least one modality each.
            most_maps: how many maps of C channels may be held for what pairs of modalities share; what finds no
                room is computed anew for each subset, so memory does not grow with their number.
        """
        subsets = [frozenset(subset) for subset in subsets]
        names = [name for name in self.modalities if any(name in subset for subset in subsets)]
        # convolutions of C to C channels: 3 for each modality of each subset, or N^2 + 2 N for all together
        if sum(3 * len(subset) for subset in subsets) <= len(names) ** 2 + 2 * len(names):
            for subset in subsets:
                own = {name: features[name] for name in names if name in subset}
                fused = self.fused(own)
                yield {name: self.attention_map(name, fused, one) for name, one in own.items()}
            return
        parts = {name: convolved(features[name], self._weight(name)) for name in names}
        own = {name: self._own(name, features[name]) for name in names}
        roomy = names[:most_maps // len(names)]
        pairs = {name: {other: self._seen(name, parts[other]) for other in names} for name in roomy}
        for subset in subsets:
            within, scale = [name for name in names if name in subset], self.scale(len(subset))
            fused = sum(parts[name] for name in within) if set(within) - set(pairs) else None
            attention = {}
            for name in within:
                seen = sum(pairs[name][other] for other in within) if name in pairs else self._seen(name, fused)
                attention[name] = torch.sigmoid(self.attend[name][1:](torch.add(own[name], seen, alpha=scale)))
            yield attention

    def _weight(self, modality: str) -> Tensor:
        """W_i: the part of the fusion that reads one modality."""
        return self.fuse.weight.split(self.channels, dim=1)[self.modalities.index(modality)]

    def _first(self, modality: str) -> tuple[Tensor, Tensor]:
        """U_i and V_i: the parts of f_a's first convolution that read F_dual and F_i."""
        parts = self.attend[modality][0].weight.split(self.channels, dim=1)
        return parts if self.attention == "paper" else parts[::-1]

    def _own(self, modality: str, features: Features) -> Features:
        """V_i * F_i + U_i * b; at the border less of b is seen, so it is a map too."""
        dual, own = self._first(modality)
        of_bias = (dual * self.fuse.bias.view(1, -1, 1, 1, 1)).sum(dim=1, keepdim=True)
        ones = features.new_ones((1, 1, *features.shape[2:]))
        return convolved(features, own) + convolved(ones, of_bias)

    def _seen(self, modality: str, fused: Features) -> Features:
        """U_i * F_dual, without the bias."""
        return convolved(fused, self._first(modality)[0])


class Pointwise(nn.Conv3d):
    """A 1x1x1 convolution, as a product of matrices in bfloat16 on a CPU.

    oneDNN's convolution copies the features into another layout and back. With the norms around it, forward and
    backward take 0.62 to 0.75 of its time (32 channels, 64^3 and 96^3; in float32 the convolution is faster).
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=1, bias=False)

    def forward(self, features: Features) -> Features:
        """W · features."""
        if features.device.type != "cpu" or features.dtype != torch.bfloat16:
            return super().forward(features)
        weight = self.weight.flatten(1).expand(len(features), -1, -1)
        return torch.bmm(weight, features.flatten(2)).unflatten(2, features.shape[2:])


def attention_layers(channels: int, form: str) -> nn.Sequential:
    """f_a of eq. 1 up to its sigmoid: two C-channel maps in, one out."""
    first = [Convolution(2 * channels, channels, 3, padding=1, bias=False), InstanceNorm(channels),
             nn.LeakyReLU(0.01, inplace=True)]
    if form == "released":
        return nn.Sequential(*first, Convolution(channels, channels, 3, padding=1))
    return nn.Sequential(*first, Pointwise(channels), InstanceNorm(channels),
                         nn.LeakyReLU(0.01, inplace=True))

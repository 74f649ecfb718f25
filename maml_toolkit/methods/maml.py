"""MAML: one U-Net per modality, joined by the modality-aware module, trained by mutual learning.

Per modality i a U-Net gives F_i, the features of its last decoder block, and its own head gives h_i(F_i).

    F_dual = Conv3x3x3([F_1; …; F_N])                   from N C to C channels, with bias, nothing after it
    A_i    = sigmoid(f_a([F_dual; F_i]))                one value for each channel and voxel       (eq. 1)
    F_att  = sum_i A_i * F_i                                                                       (eq. 2)
    joint  = Conv1x1x1(F_att)
    L      = lambda sum_i L_intra(h_i(F_i), Y) + L_joint(joint, Y)                                 (eq. 3)

From a subset S of the modalities, where the paper has only "all" and "one":

    F_dual(S) = b + N/|S| sum_{i in S} W_i * F_i
    F_att(S)  = N/|S| sum_{i in S} A_i(S) * F_i
    y(S)      = joint(F_att(S)) if |S| >= 2, else h_i(F_i)

so that S = all is the paper's forward exactly and |S| = 1 its single-modality inference exactly. The joint
head is linear: c_i = N/|S| W · (A_i * F_i) is the exact, signed contribution of modality i to the logits.

Where the paper and its authors' release differ, this follows the paper, and has the release's form of the
attention as an argument:

    f_a                  paper: conv3 - IN - LReLU - conv1 - IN - LReLU, input [F_dual; F_i]; its last LReLU keeps
                         A above about 0.49. Release: conv3 - IN - LReLU - conv3, input [F_i; F_dual].
    C                    paper 32, release 16: `channels[0]`
    loss weights         paper lambda = 0.5, deep supervision not mentioned; release: joint at full resolution
                         with weight w_0 and deep-supervised intra terms w_0, w_1, … = 1, 1/2, … normalised to 1
    optimiser            paper Adam 3e-4 and 600 epochs; release SGD 1e-2, momentum 0.99, poly 0.9, 1000 epochs
    augmentation         paper: mirror, rotation, deformation, gamma; release: no deformation, seven others
    intensities          paper: clip to 0.5-99.5 %, zero mean, unit variance per case; release: nnU-Net's
    patch                paper 128^3, release nnU-Net's planner
    split                paper: a fifth for testing (liver), 3 folds (BraTS); release: KFold(3, shuffle, 12345)
    post-processing      paper none; release keeps or drops components as nnU-Net does

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn
from torch.nn import functional

from maml_toolkit.losses import MutualLearningLoss
from maml_toolkit.methods.method import Method, Segmentation
from maml_toolkit.networks.unet import CHANNELS, Head, Heads, UNet
from maml_toolkit.shapes import Features, Image, Labels, Scalar
from maml_toolkit.tasks import check_names

ATTENTION_FORMS = ("paper", "released")


class ModalityAwareModule(nn.Module):
    """Fuses features of several modalities by attention that knows which modality it looks at (eq. 1 and 2).

    Args:
        modalities: names of all N; a call may have fewer.
        channels: C, of each modality's features and of the fused ones.
        attention: the form of f_a, "paper" or "released" (see this file's head).

    Raises:
        ValueError: another form of attention.
    """

    def __init__(self, modalities: Sequence[str], channels: int, attention: str = "paper"):
        super().__init__()
        if attention not in ATTENTION_FORMS:
            raise ValueError(f"found attention={attention!r}, expected one of {ATTENTION_FORMS}")
        self.modalities, self.channels, self.attention = check_names(modalities), channels, attention
        self.fuse = nn.Conv3d(len(self.modalities) * channels, channels, 3, padding=1)
        self.attend = nn.ModuleDict({name: attention_layers(channels, attention) for name in self.modalities})

    def forward(self, features: dict[str, Features]) -> tuple[Features, dict[str, Features], Features]:
        """F_dual, A_i by modality, and F_att, from F_i by modality; each (batch, C, depth, height, width)."""
        features = {name: features[name] for name in self.modalities if name in features}
        fused = self.fused(features)
        attention = {name: self.attention_map(name, fused, own) for name, own in features.items()}
        attended = sum(self.weighted(attention[name], own, len(features)) for name, own in features.items())
        return fused, attention, attended

    def scale(self, present: int) -> float:
        """N/|S|: keeps sums over the modalities present at the size of sums over all."""
        return len(self.modalities) / present

    def fused(self, features: dict[str, Features]) -> Features:
        """F_dual(S) = b + N/|S| sum_{i in S} W_i * F_i; the whole convolution where all are there."""
        stacked = torch.cat(list(features.values()), dim=1)
        if len(features) == len(self.modalities):
            return self.fuse(stacked)
        of_modality = dict(zip(self.modalities, self.fuse.weight.split(self.channels, dim=1), strict=True))
        weight = self.scale(len(features)) * torch.cat([of_modality[name] for name in features], dim=1)
        return functional.conv3d(stacked, weight, self.fuse.bias, padding=1)

    def attention_map(self, modality: str, fused: Features, own: Features) -> Features:
        """A_i of eq. 1, in (0, 1)."""
        pair = (fused, own) if self.attention == "paper" else (own, fused)
        return torch.sigmoid(self.attend[modality](torch.cat(pair, dim=1)))

    def weighted(self, attention: Features, own: Features, present: int) -> Features:
        """N/|S| A_i * F_i, in float32 or better, so that contributions add up to logits under autocast too."""
        product = attention * own
        product = product.to(torch.promote_types(product.dtype, torch.float32))
        return product if present == len(self.modalities) else self.scale(present) * product


class MAML(Method):
    """Modality-aware mutual learning.

    >>> model = MAML(modalities=("arterial", "venous"), classes=2, channels=(4, 8))
    >>> scan = torch.zeros(1, 1, 8, 8, 8)
    >>> model({"arterial": scan, "venous": scan}).logits.shape
    torch.Size([1, 2, 8, 8, 8])
    >>> model({"venous": scan}).logits.shape
    torch.Size([1, 2, 8, 8, 8])

    Args:
        modalities, classes, unet: as for every Method; `channels[0]` is C, and with `deep_supervision` the
            modality heads are supervised at lower resolutions too.
        attention: the form of f_a, "paper" or "released".
        intra_weight: lambda of eq. 3. With 0 there are no modality heads (the paper's MS+MA), and a
            single modality is refused.

    Raises:
        ValueError: an argument out of its range.
    """

    name = "maml"

    def __init__(self, modalities: Sequence[str], classes: int, channels: Sequence[int] = CHANNELS, *,
                 attention: str = "paper", intra_weight: float = 0.5, **unet):
        super().__init__(modalities, classes, channels,
                         own={"attention": attention, "intra_weight": intra_weight}, **unet)
        if intra_weight < 0 or (intra_weight == 0 and (self.deep_supervision or len(self.modalities) == 1)):
            raise ValueError(f"found intra_weight={intra_weight} with deep_supervision={self.deep_supervision} and "
                             f"{len(self.modalities)} modalities; expected 0 or more, and more than 0 for deep "
                             "supervision and for a single modality, which need the modality heads")
        self.streams = nn.ModuleDict({name: UNet(1, *self.plan) for name in self.modalities})
        self.heads = nn.ModuleDict({name: Heads(channels, classes, self.deep_supervision) for name in self.modalities}
                                   if intra_weight > 0 else {})
        # A single modality is answered by its own head; nothing would ever train what joins several.
        if len(self.modalities) > 1:
            self.aware = ModalityAwareModule(self.modalities, channels[0], attention)
            self.classifier = Head(channels[0], classes)
        self.mutual_learning = MutualLearningLoss(intra_weight, self.batch_dice)

    def accepts(self, present: Set[str]) -> bool:
        """Any non-empty set; at least two modalities where there are no modality heads."""
        return len(present) >= (1 if self.heads else 2)

    def forward(self, images: dict[str, Image]) -> Segmentation:
        """y(S) with attention and contributions, S the keys of `images`."""
        return self.answer({name: self.streams[name](image)[0] for name, image in self.checked(images).items()})

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """Eq. 3 over the modalities that the images have: `joint`, `intra/<modality>`, `total`."""
        levels = {name: self.streams[name](image) for name, image in self.checked(images).items()}
        intra = {name: self.heads[name](own) for name, own in levels.items()} if self.heads else {}
        joint = self.joint({name: own[0] for name, own in levels.items()}).logits if len(levels) > 1 else None
        return self.mutual_learning(joint, intra, labels)

    def answer(self, features: dict[str, Features]) -> Segmentation:
        """y(S) from the features of the modalities in S."""
        if len(features) > 1:
            return self.joint(features)
        ((name, own),) = features.items()
        head = self.heads[name].finest
        logits = head(own)
        return Segmentation(logits, {name: logits}, bias=head.bias,
                            explain=lambda: {name: head.without_bias(own)})

    def joint(self, features: dict[str, Features]) -> Segmentation:
        """joint(F_att(S)), |S| >= 2; what each modality says alone is there where heads are."""
        _, attention, attended = self.aware(features)

        def contributions() -> dict[str, Tensor]:
            return {name: self.classifier.without_bias(self.aware.weighted(attention[name], own, len(features)))
                    for name, own in features.items()}

        alone = {name: self.heads[name].finest(own) for name, own in features.items()} if self.heads else {}
        return Segmentation(self.classifier(attended), alone, attention, self.classifier.bias, contributions)


def attention_layers(channels: int, form: str) -> nn.Sequential:
    """f_a of eq. 1 up to its sigmoid: two C-channel maps in, one out."""
    first = [nn.Conv3d(2 * channels, channels, 3, padding=1, bias=False), nn.GroupNorm(channels, channels),
             nn.LeakyReLU(0.01, inplace=True)]
    if form == "released":
        return nn.Sequential(*first, nn.Conv3d(channels, channels, 3, padding=1))
    return nn.Sequential(*first, nn.Conv3d(channels, channels, 1, bias=False), nn.GroupNorm(channels, channels),
                         nn.LeakyReLU(0.01, inplace=True))

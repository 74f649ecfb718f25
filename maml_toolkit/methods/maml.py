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
Trained for any subset, S+ and S- drawn in every step from the modalities that the case has ("all"), S- within S+:

    L     += mu/2 [L(y(S+), Y) + L(y(S-), Y)] + rho max(0, L(y(S+), Y) - sg L(y(S-), Y))
             + tau sum_x w(x) KL(sg p_all(x) || p_S-(x)) / sum_x w(x)

where sg lets no gradient through and p = softmax(y), of regions sigmoid(y). The second term says that more modalities
shall not do worse.
w = 1, or 0.05 for voxels that are more than 3 from the foreground. Where S+ = all, its loss is the joint term of eq. 3
already, and mu L(y(S-), Y) is the first term. For a case that has n modalities, `subset_sampling` draws

    uniform, by-size     S+ = all, S- any non-empty subset (subsets.py). A single modality with a head repeats its intra
                         term and all repeat the joint term: of uniform draws 3 of 3 (n = 2), 4 of 7 (n = 3) and 5 of 15
                         (n = 4), of by-size draws all, 2/3 and 1/2.
    nested               S+ of 3 to n modalities, S- of 2 or more of them but not all. What both say is new, or S+ = all
                         and known: no answer is computed twice. For n = 3, S+ = all and S- is a pair; for n <= 2 eq. 3
                         has every answer, and nothing is added. Without heads S+ may be a pair, S- then is one of it.

mu = rho = tau = 0 is the paper; mu = 1, rho = 0.1 this toolkit's recipe.

Every head h_i and the joint classifier pull the streams in a direction of their own of the C channels. Drawn
independently they may start parallel or opposed (random cosines have a spread of 1/sqrt(C): 0.35 for 8 channels), and
the result hangs on it; they start orthogonal to each other here, all of one length (`start`).

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

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set

import torch
from torch import Tensor, nn

from maml_toolkit.methods import subsets
from maml_toolkit.methods.losses import SOFTMAX, MutualLearningLoss
from maml_toolkit.methods.method import Method, Segmentation
from maml_toolkit.networks.modality_aware import ModalityAwareModule
from maml_toolkit.networks.unet import CHANNELS, Head, Heads, UNet, orthogonal_initialisation
from maml_toolkit.system.errors import expect_one_of
from maml_toolkit.system.shapes import Features, Image, Labels, Logits, Scalar

STARTS = ("orthogonal", "independent")


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
            single modality is refused, unless `subset_weight` trains it to go through the attention too.
        subset_weight, ranking_weight, distillation_weight: mu, rho and tau above; all 0 is the paper's loss.
        subset_sampling: how S+ and S- are drawn in training, "uniform", "by-size" or "nested", as said above.
        distillation_weighting: w, "uniform" (1 everywhere) or "foreground".
        start: of the heads and the joint classifier: "orthogonal" to each other, or "independent" of each other, as in
            the release.

    Raises:
        ValueError: an argument out of its range.
    """

    name = "maml"
    sweep_maps = 32
    """How many maps of C channels a sweep holds for what pairs of modalities share; less memory, more time."""

    def __init__(self, modalities: Sequence[str], classes: int, channels: Sequence[int] = CHANNELS, *,
                 attention: str = "paper", intra_weight: float = 0.5, subset_weight: float = 0.0,
                 ranking_weight: float = 0.0, distillation_weight: float = 0.0, subset_sampling: str = "uniform",
                 distillation_weighting: str = "uniform", start: str = "orthogonal", **unet):
        weights = {"intra_weight": intra_weight, "subset_weight": subset_weight, "ranking_weight": ranking_weight,
                   "distillation_weight": distillation_weight, "distillation_weighting": distillation_weighting}
        own = {"attention": attention, "subset_sampling": subset_sampling, "start": start, **weights}
        super().__init__(modalities, classes, channels, own=own, **unet)
        if intra_weight == 0 and (self.deep_supervision or len(self.modalities) == 1):
            raise ValueError(f"found intra_weight=0 with deep_supervision={self.deep_supervision} and "
                             f"{len(self.modalities)} modalities; expected more than 0 for deep supervision and for a "
                             "single modality, which need the modality heads")
        expect_one_of("subset_sampling", subset_sampling, (*subsets.SAMPLING, "nested"))
        expect_one_of("start", start, STARTS)
        self.subset_sampling = subset_sampling
        self.streams = nn.ModuleDict({name: UNet(1, *self.plan) for name in self.modalities})
        self.heads = nn.ModuleDict({name: Heads(channels, self.outputs, self.deep_supervision)
                                    for name in self.modalities if intra_weight > 0})
        self.tells_each = bool(self.heads)
        # A single modality is answered by its own head; nothing would ever train what joins several.
        if len(self.modalities) > 1:
            self.aware = ModalityAwareModule(self.modalities, channels[0], attention)
            self.classifier = Head(channels[0], self.outputs)
        if start == "orthogonal" and len(self.modalities) > 1 and self.heads:
            orthogonal_initialisation([*(self.heads[name].finest for name in self.modalities), self.classifier],
                                      contrasts=self.activation == SOFTMAX)
        self.mutual_learning = MutualLearningLoss(**weights, batch_dice=self.batch_dice, activation=self.activation)

    def accepts(self, present: Set[str]) -> bool:
        """Any non-empty set; at least two modalities where nothing trains a single one."""
        return len(present) >= (1 if self.heads or self.mutual_learning.subset_weight else 2)

    @property
    def heaviest_draw(self) -> int:
        """All but one: the answer from all is in the loss already. Nested, all and all but one, unless S+ is asked."""
        nested = self.subset_sampling == "nested" and not self.mutual_learning.asks_larger
        return len(self.modalities) if nested else max(1, len(self.modalities) - 1)

    def joins(self, present: Collection[str]) -> bool:
        """Whether these go through the attention; one that has a head of its own does not."""
        return len(present) > 1 or not self.heads

    def forward(self, images: dict[str, Image]) -> Segmentation:
        """y(S) with attention and contributions, S the keys of `images`."""
        return self.answer({name: self.streams[name](image)[0] for name, image in self.checked(images).items()})

    def adopted(self, name: str, tensor: Tensor, other: MAML) -> Tensor:
        """What joins the modalities of another MAML, so that what they have in common is answered as before.

        F_dual and F_att are multiplied by the number of all modalities, N, so W_i of the fusion and the classifier's W
        are divided by it.
        """
        scale = len(other.modalities) / len(self.modalities)
        if name == "classifier.weight":
            return scale * tensor
        if name.startswith("aware.attend.") and name.endswith(".0.weight") and other.aware.attention != \
                self.aware.attention:
            return tensor.roll(self.aware.channels, 1)          # the other form stacks F_i and F_dual the other way
        if name != "aware.fuse.weight":
            return tensor
        known = dict(zip(other.modalities, tensor.split(self.aware.channels, dim=1), strict=True))
        own = dict(zip(self.modalities, self.aware.fuse.weight.detach().split(self.aware.channels, dim=1), strict=True))
        return torch.cat([scale * known[one] if one in known else own[one] for one in self.modalities], dim=1)

    def sweep(self, images: dict[str, Image],
              wanted: Iterable[Set[str]]) -> Iterator[tuple[frozenset[str], Segmentation]]:
        """y(S) of each subset, one at a time: the streams run once, and what subsets share of the attention too.

        Args:
            images: of every modality that is in any of the subsets.
            wanted: the sets S; each is answered as `forward` answers it, up to rounding.
        """
        wanted = [self.present(subset) for subset in wanted]
        union = {name for subset in wanted for name in subset}
        features = {name: self.streams[name](image)[0]
                    for name, image in self.checked({name: images[name] for name in union}).items()} if wanted else {}
        alone = self.alone(features)
        several = [subset for subset in wanted if self.joins(subset)]
        attentions = self.aware.sweep(features, several, self.sweep_maps) if several else iter(())
        for subset in wanted:
            attention = next(attentions) if self.joins(subset) else None
            yield frozenset(subset), self.answer(*self.of(subset, features, alone), attention)

    def loss(self, images: dict[str, Image], labels: Labels, generator: torch.Generator) -> dict[str, Scalar]:
        """Eq. 3 over the modalities that the images have, and where a weight is above 0 the terms of drawn subsets.

        Terms: `joint`, `intra/<modality>`, `subset`, `ranking`, `distillation`, `total`; where nothing can be drawn
        that is not in the loss already ("nested"), without those of subsets.
        """
        levels = {name: self.streams[name](image) for name, image in self.checked(images, training=True).items()}
        features = {name: own[0] for name, own in levels.items()}
        intra = {name: self.heads[name](own) for name, own in levels.items()} if self.heads else {}
        alone = {name: logits[0] for name, logits in intra.items()}    # known, so that no head runs twice
        joint = self.answer(features, alone).logits if self.joins(levels) else None
        whole = joint if joint is not None else next(iter(alone.values()))
        said = [whole if len(one) == len(levels) else self.answer(*self.of(one, features, alone)).logits
                for one in self.drawn(tuple(levels), generator)]
        return self.mutual_learning(joint, intra, labels, whole, *said)

    def drawn(self, present: tuple[str, ...], generator: torch.Generator) -> list[tuple[str, ...]]:
        """S- for a training step on these modalities, and S+ where its answer is asked for and it is not all."""
        if not self.mutual_learning.draws_subsets:
            return []
        if self.subset_sampling != "nested":
            return [subsets.draw(present, generator, self.subset_sampling)]
        if (nested := subsets.draw_nested(present, generator, singles=not self.heads)) is None:
            return []
        larger, smaller = nested
        return [smaller, larger] if self.mutual_learning.asks_larger and len(larger) < len(present) else [smaller]

    def answer(self, features: dict[str, Features], alone: dict[str, Logits] | None = None,
               attention: Mapping[str, Features] | None = None) -> Segmentation:
        """y(S) from the features of the modalities in S; the answers of their heads and A_i may be known already."""
        alone = self.alone(features) if alone is None else alone
        if not self.joins(features):
            ((name, own),) = features.items()
            head = self.heads[name].finest
            return Segmentation(alone[name], alone, bias=head.bias, explain=lambda: {name: head.without_bias(own)},
                                activation=self.activation)
        if attention is None:
            _, attention, attended = self.aware(features)
        else:
            attended = self.aware.attended(features, attention)

        def contributions() -> dict[str, Tensor]:
            return {name: self.classifier.without_bias(self.aware.weighted(attention[name], own, len(features)))
                    for name, own in features.items()}

        return Segmentation(self.classifier(attended), alone, dict(attention), self.classifier.bias, contributions,
                            self.activation)

    def alone(self, features: dict[str, Features]) -> dict[str, Logits]:
        """h_i(F_i) of every modality, where heads are."""
        return {name: self.heads[name].finest(own) for name, own in features.items()} if self.heads else {}

    @staticmethod
    def of(subset: Iterable[str], *tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Of each of these tensors by modality those of a subset."""
        subset = list(subset)
        return [{name: own[name] for name in subset if name in own} for own in tensors]

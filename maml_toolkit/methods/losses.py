"""Dice + cross-entropy, deep supervision, and the mutual learning loss (eq. 3).

    L       = lambda * sum_i L_intra(h_i(F_i), Y) + L_joint(joint, Y)
    L_*     = cross-entropy + (1 - mean Dice of the foreground classes)
            = binary cross-entropy, its mean over regions and voxels, + (1 - mean Dice of the regions)

The second is that of a network with a channel for each region of the task. `Softmax` and `Sigmoid` hold what differs
between the two.

Labels of uint8 may leave something open, as data/label_sets.py says. There the cross-entropy is the marginal loss, that
the voxel is one of a set of classes S, and the Dice of a class is that of the voxels of which it is known whether they
are of it. What is ignored has no part in either, nor in a divergence between answers.

    cross-entropy(x) = -log sum_{k in S(x)} p_k(x)

A region with a class that was not drawn in a patch is not trained on that patch: nobody knows where it ends.

What answers from drawn subsets of the modalities add, S- within S+, stands at the head of methods/maml.py.

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842
    V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, Milletari et
    al., 3DV 2016, https://arxiv.org/abs/1606.04797 (soft Dice)
    Marginal loss and exclusion loss for partially supervised multi-organ segmentation, Shi et al., Medical Image
    Analysis 2021, https://arxiv.org/abs/2007.03868
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et al., Nature
    Methods 2021, https://doi.org/10.1038/s41592-020-01008-z (regions: sigmoid, binary cross-entropy + Dice)
    Distilling the Knowledge in a Neural Network, Hinton et al., 2015, https://arxiv.org/abs/1503.02531
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from maml_toolkit.data.label_sets import IGNORED, SETS
from maml_toolkit.networks.execution import at_least_float32
from maml_toolkit.system.errors import expect_one_of
from maml_toolkit.system.shapes import Labels, Logits, Scalar

DISTILLATION_WEIGHTING = ("uniform", "foreground")
"""Of the voxels in the divergence of a subset's answer: all alike, or as `foreground_weights` says."""
SMOOTH = 1e-5
"""Added to both sides of the fraction of a Dice; nnU-Net's."""


def dice_cross_entropy(logits: Logits, labels: Labels, batch_dice: bool = False) -> Scalar:
    """Cross-entropy + 1 - soft Dice, the Dice averaged over the foreground classes (0 is the best value).

    Args:
        logits: scores of the classes.
        labels: the class of each voxel, 0 to classes - 1; uint8 where something may be open. Without a labelled voxel
            the loss and its gradient are 0.
        batch_dice: whether the Dice is taken over the whole batch as one volume (nnU-Net does so for large
            CT) rather than for each sample.
    """
    logits = at_least_float32(logits)
    log_probabilities = functional.log_softmax(logits, dim=1)
    return (cross_entropy(log_probabilities, labels)
            + 1 - soft_dice(log_probabilities.exp(), labels, batch_dice).mean())


def cross_entropy(log_probabilities: Logits, labels: Labels) -> Scalar:
    """Minus the mean log probability of the labels; on a GPU added up in the same order every time."""
    if may_be_open(labels):
        return _marginal(log_probabilities, labels)
    if log_probabilities.device.type == "cpu":
        return functional.nll_loss(log_probabilities, labels)
    return functional.nll_loss(log_probabilities, labels, reduction="none").mean()


def may_be_open(labels: Labels) -> bool:
    """Whether labels may leave something open, by their type: a look at the values would wait for a GPU."""
    return labels.dtype == torch.uint8


def known(labels: Labels) -> Tensor | None:
    """1 for each voxel that counts and 0 for what is ignored; None where all do by their type."""
    return (labels != IGNORED).float() if may_be_open(labels) else None


def _numbers(foreground: Tensor) -> Tensor:
    """Those of the foreground classes, along the second axis."""
    return torch.arange(1, foreground.shape[1] + 1, device=foreground.device).view(1, -1, 1, 1, 1)


def _undecided(foreground: Tensor, labels: Labels) -> Tensor:
    """Whether a voxel may or may not be of each foreground class, (batch, classes - 1, …)."""
    values = labels.unsqueeze(1).int()
    # a class beyond the bits of a set is in none
    bits = (values - SETS) >> (_numbers(foreground) - 1).clamp(max=8)
    return (values >= SETS) & ((values == IGNORED) | (bits & 1).bool())


def _marginal(log_probabilities: Logits, labels: Labels) -> Scalar:
    """Minus the mean log probability of the sets of classes, over the voxels that are not ignored; 0 without any."""
    foreground = log_probabilities[:, 1:]
    is_background = ((labels == 0) | (labels >= SETS)).unsqueeze(1)
    allowed = (labels.unsqueeze(1) == _numbers(foreground)) | _undecided(foreground, labels)
    of_voxel = log_probabilities.masked_fill(~torch.cat([is_background, allowed], 1), -torch.inf).logsumexp(1)
    counted = labels != IGNORED
    return -torch.where(counted, of_voxel, 0).sum() / counted.sum().clamp(min=1)


def soft_dice(probabilities: Logits, labels: Labels, batch_dice: bool = False, smooth: float = SMOOTH) -> Tensor:
    """Dice of the foreground classes between probabilities and labels, (batch or 1, classes - 1).

    `smooth` makes it 1 where a class is neither in the labels nor predicted.
    """
    foreground = probabilities[:, 1:]
    if may_be_open(labels):
        foreground = foreground.masked_fill(_undecided(foreground, labels), 0)
    return _dice(foreground, labels.unsqueeze(1) == _numbers(foreground), batch_dice, smooth)


def _dice(probabilities: Tensor, truth: Tensor, batch_dice: bool, smooth: float = SMOOTH) -> Tensor:
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    overlap = (probabilities * truth).sum(axes)
    return (2 * overlap + smooth) / (probabilities.sum(axes) + truth.sum(axes) + smooth)


def dice_binary_cross_entropy(logits: Logits, labels: Labels, regions: Sequence[Sequence[int]],
                              batch_dice: bool = False) -> Scalar:
    """Binary cross-entropy + 1 - soft Dice, the mean over the regions (0 is the best value).

    Args:
        logits: a channel for each region, of which the sigmoid is the probability.
        labels: the class of each voxel; uint8 where something may be open. Without a voxel that counts the loss and
            its gradient are 0.
        regions: the classes of each.
        batch_dice: as in `dice_cross_entropy`.
    """
    logits = at_least_float32(logits)
    truth = torch.stack([reduce(torch.logical_or, [labels == number for number in region]) for region in regions], 1)
    of_voxel = functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    probabilities = logits.sigmoid()
    if not may_be_open(labels):
        return of_voxel.mean() + 1 - _dice(probabilities, truth, batch_dice).mean()
    counted = _counted(labels, regions)
    entropy = torch.where(counted, of_voxel, 0).sum() / counted.sum().clamp(min=1)
    return entropy + 1 - _dice(torch.where(counted, probabilities, 0), truth & counted, batch_dice).mean()


def _counted(labels: Labels, regions: Sequence[Sequence[int]]) -> Tensor:
    """Whether a voxel counts for each region, (batch, regions, …): it is not ignored, and no class of the region was
    left undrawn in the patch."""
    values = labels.int()
    is_set, bits = (values >= SETS) & (values != IGNORED), values - SETS
    open_ones = [(is_set & ((bits & sum(2 ** (number - 1) for number in region)) > 0)).flatten(1).any(1)
                 for region in regions]
    return (labels != IGNORED)[:, None] & ~torch.stack(open_ones, 1)[:, :, None, None, None]


def deeply_supervised(levels: list[Tensor], labels: Labels, batch_dice: bool = False,
                      activation: Softmax | None = None) -> Scalar:
    """Dice + cross-entropy of every decoder level, weighted 1, 1/2, 1/4, … and normalised to 1 as in nnU-Net.

    Args:
        levels: logits, full resolution first; one level is the plain loss.
        labels: at full resolution; the lower levels see every second, fourth, … voxel.
        batch_dice: as in `dice_cross_entropy`.
        activation: of the logits; softmax when left out.
    """
    weights, activation = [0.5**level for level in range(len(levels))], activation or SOFTMAX
    return sum(weight / sum(weights) * activation.loss(logits, subsampled(labels, logits), batch_dice)
               for weight, logits in zip(weights, levels, strict=True))


def subsampled(labels: Tensor, logits: Tensor) -> Tensor:
    """The labels (batch, depth, height, width) at the resolution of some logits, by taking the nearest voxel."""
    if labels.shape[1:] == logits.shape[2:]:
        return labels
    return functional.interpolate(labels[:, None].float(), size=logits.shape[2:])[:, 0].to(labels.dtype)


def divergence(target: Tensor, own: Tensor, weights: Tensor | None = None) -> Scalar:
    """KL(softmax(target) || softmax(own)) over the channels, the mean over voxels; no gradient reaches the target.

    Args:
        target, own: (batch, channels, depth, height, width).
        weights: w of each voxel, (batch, depth, height, width): sum_x w(x) KL(x) / sum_x w(x) over the whole batch;
            0 where all are 0.
    """
    own, target = at_least_float32(own), at_least_float32(target.detach())
    expected = target.log_softmax(dim=1)
    of_voxel = (expected.exp() * (expected - own.log_softmax(dim=1))).sum(dim=1)
    return _weighted_mean(of_voxel, weights)


def binary_divergence(target: Tensor, own: Tensor, weights: Tensor | None = None) -> Scalar:
    """KL(sigmoid(target) || sigmoid(own)), summed over the channels, else as `divergence`."""
    own, target = at_least_float32(own), at_least_float32(target.detach())
    of_voxel = torch.zeros((), device=own.device)
    for sign in (1, -1):                                 # in the region, and not in it
        expected = functional.logsigmoid(sign * target)
        of_voxel = of_voxel + (expected.exp() * (expected - functional.logsigmoid(sign * own))).sum(dim=1)
    return _weighted_mean(of_voxel, weights)


def _weighted_mean(of_voxel: Tensor, weights: Tensor | None) -> Scalar:
    return of_voxel.mean() if weights is None else (weights * of_voxel).sum() / weights.sum().clamp(min=1e-6)


def foreground_weights(labels: Labels, within: int = 3, elsewhere: float = 0.05) -> Tensor:
    """1 for every voxel at most `within` voxels from one with a foreground label, `elsewhere` for the others.

    The distance is the largest of those along the axes (chessboard): around a lesion of one voxel it is a cube of 7^3.
    What is ignored has 0. The result has the shape of the labels, (batch, depth, height, width).
    """
    width = 2 * within + 1
    lesion = ((labels > 0) & (labels < SETS)).float()
    near = functional.max_pool2d(lesion, width, 1, within)                            # height and width
    near = functional.max_pool2d(near.flatten(2), (width, 1), 1, (within, 0)).view(labels.shape)    # depth
    weights, counted = elsewhere + (1 - elsewhere) * near, known(labels)
    return weights if counted is None else weights * counted


@dataclass(frozen=True)
class Softmax:
    """A channel for each class, the background first; they exclude one another."""

    divergence = staticmethod(divergence)

    def loss(self, logits: Logits, labels: Labels, batch_dice: bool = False) -> Scalar:
        """Dice + cross-entropy."""
        return dice_cross_entropy(logits, labels, batch_dice)

    def imitation(self, target: Logits, own: Logits, temperature: float = 1.0,
                  weights: Tensor | None = None) -> Scalar:
        """T^2 times the divergence of the softened answers, p(target / T) and p(own / T).

        T^2 keeps the size of the gradient whatever the temperature (Hinton et al. 2015). The weights of voxels are
        those of `divergence`.
        """
        return temperature**2 * self.divergence(target / temperature, own / temperature, weights)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits (…, channels, depth, height, width)."""
        return self._logs([logits])[0].exp()

    def mean(self, answers: Sequence[Logits]) -> Logits:
        """Logits of the mean of the answers' probabilities."""
        return self._logs(answers).logsumexp(dim=0) - log(len(answers))

    def mixed(self, fused: Tensor, heads: Tensor, share: float) -> Tensor:
        """Logits of (1 - share) p(fused) + share p(heads); the channels are the fourth axis from the end."""
        parts = [(log(part), logits) for part, logits in ((1 - share, fused), (share, heads)) if part > 0]
        logs = self._logs([logits for _, logits in parts])
        return torch.stack([one + part for one, (part, _) in zip(logs, parts, strict=True)]).logsumexp(dim=0)

    def _logs(self, answers: Sequence[Tensor]) -> Tensor:
        """Log probabilities of each answer."""
        return torch.stack([logits.log_softmax(-4) for logits in answers])


SOFTMAX = Softmax()


@dataclass(frozen=True)
class Sigmoid(Softmax):
    """A channel for each region; one does not exclude another.

    Attributes:
        regions: the numbers of the classes of each.
    """

    regions: tuple[tuple[int, ...], ...]
    divergence = staticmethod(binary_divergence)

    def loss(self, logits: Logits, labels: Labels, batch_dice: bool = False) -> Scalar:
        """Dice + binary cross-entropy."""
        return dice_binary_cross_entropy(logits, labels, self.regions, batch_dice)

    def mean(self, answers: Sequence[Logits]) -> Logits:
        """Logits, log p - log(1 - p), of the mean of the answers' probabilities."""
        return super().mean(answers) - super().mean([-logits for logits in answers])

    def mixed(self, fused: Tensor, heads: Tensor, share: float) -> Tensor:
        """Logits of (1 - share) p(fused) + share p(heads)."""
        return super().mixed(fused, heads, share) - super().mixed(-fused, -heads, share)

    def _logs(self, answers: Sequence[Tensor]) -> Tensor:
        return functional.logsigmoid(torch.stack(list(answers)))


@dataclass(frozen=True)
class MutualLearningLoss:
    """Eq. 3, and beyond it the terms of a subset S- of the modalities and of S+, which holds S-.

    What every modality says alone is held to the labels beside what they say together; with the further weights
    above 0, what drawn subsets say is too.

    Args:
        intra_weight: lambda, the weight of each modality's own loss; 0.5 in the paper.
        subset_weight: mu, of the subsets' loss: the mean of S+ and S-, or that of S- alone where S+ is all.
        ranking_weight: rho, of by how much the loss from S+ exceeds that from S-.
        distillation_weight: tau, of the divergence of S- from the answer of all modalities (T = 1).
        distillation_weighting: of the voxels in it, "uniform", or "foreground" as `foreground_weights` says.
        batch_dice: as in `dice_cross_entropy`.
        activation: of the logits.

    Raises:
        ValueError: a negative weight, or another weighting.
    """

    intra_weight: float = 0.5
    subset_weight: float = 0.0
    ranking_weight: float = 0.0
    distillation_weight: float = 0.0
    distillation_weighting: str = "uniform"
    batch_dice: bool = False
    activation: Softmax = SOFTMAX

    def __post_init__(self):
        if negative := {name: value for name, value in vars(self).items() if name.endswith("_weight") and value < 0}:
            raise ValueError(f"found {negative}, expected weights of 0 or more")
        expect_one_of("distillation_weighting", self.distillation_weighting, DISTILLATION_WEIGHTING)

    @property
    def draws_subsets(self) -> bool:
        """Whether a term needs a subset's answer."""
        return max(self.subset_weight, self.ranking_weight, self.distillation_weight) > 0

    @property
    def asks_larger(self) -> bool:
        """Whether a term needs the answer from S+."""
        return max(self.subset_weight, self.ranking_weight) > 0

    def __call__(self, joint: Logits | None, intra: Mapping[str, list[Tensor]], labels: Labels,
                 whole: Logits | None = None, part: Logits | None = None,
                 larger: Logits | None = None) -> dict[str, Scalar]:
        """The loss by its terms and their weighted sum `total`.

        Args:
            joint: logits of the fused answer; None where only one modality is there, so that none exists.
            intra: logits of every decoder level of each modality present, full resolution first.
            labels: the class of each voxel.
            whole, part: logits from all modalities that the case has, and from the drawn subset S- of them.
            larger: logits from S+; None where S+ is all that the case has.

        Returns:
            `joint`, `intra/<modality>`, `total`, and of those with a weight `subset`, `ranking`, `distillation`.
        """
        terms = {} if joint is None else {"joint": (1.0, self._loss(joint, labels))}
        for modality, levels in intra.items():
            terms[f"intra/{modality}"] = self.intra_weight, deeply_supervised(levels, labels, self.batch_dice,
                                                                              self.activation)
        if part is not None:
            terms |= self._of_subsets(whole, part, larger, labels, terms["joint"][1] if "joint" in terms else None)
        found = {name: term for name, (_, term) in terms.items()}
        return found | {"total": sum(weight * term for weight, term in terms.values())}

    def _loss(self, logits: Logits, labels: Labels) -> Scalar:
        return self.activation.loss(logits, labels, self.batch_dice)

    def _of_subsets(self, whole: Logits, part: Logits, larger: Logits | None, labels: Labels,
                    joint: Scalar | None) -> dict[str, tuple[float, Scalar]]:
        """Weight and value of each term that looks at drawn subsets, where its weight is above 0."""
        found = {}
        if self.asks_larger:
            of_whole = self._loss(whole, labels) if joint is None else joint
            of_part = of_whole if part is whole else self._loss(part, labels)
            of_larger = of_whole if larger is None else self._loss(larger, labels)
            found["subset"] = self.subset_weight, of_part if larger is None else (of_larger + of_part) / 2
            found["ranking"] = self.ranking_weight, functional.relu(of_larger - of_part.detach())
        if self.distillation_weight > 0:
            weights = foreground_weights(labels) if self.distillation_weighting == "foreground" else known(labels)
            found["distillation"] = self.distillation_weight, self.activation.imitation(whole, part, weights=weights)
        return {name: (weight, term) for name, (weight, term) in found.items() if weight > 0}

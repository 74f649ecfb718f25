"""Methods with a channel for each region of the task: their losses, their mixtures, what they promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional

from maml_toolkit.data.label_sets import IGNORED, SETS
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import METHODS, build, contract
from maml_toolkit.methods.losses import Sigmoid, deeply_supervised, dice_binary_cross_entropy

TASK = replace(TASKS["brats2021"], train_on="regions")
REGIONS = tuple(map(tuple, TASK.outputs["regions"]))
SCANS = ("t1", "t2", "flair")


def fresh(name="maml", channels=(4, 6, 8), **own):
    torch.manual_seed(0)
    return build(name, modalities=SCANS, **TASK.outputs, channels=channels, **own)


def logits_of(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def labels_of(*shape, seed=1):
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed))


def masks_of(labels):
    return torch.from_numpy(np.stack([TASK.region(labels.numpy(), one) for one in TASK.regions], 1)).double()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_loss_is_torchs_binary_cross_entropy_and_the_dice_of_each_region(batch_dice):
    logits, labels = logits_of(2, 3, 4, 5, 6), labels_of(2, 4, 5, 6)
    inside, p = masks_of(labels), logits.sigmoid()
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    dice = (2 * (p * inside).sum(axes) + 1e-5) / (p.sum(axes) + inside.sum(axes) + 1e-5)
    expected = functional.binary_cross_entropy(p, inside) + 1 - dice.mean()
    found = dice_binary_cross_entropy(logits, labels, REGIONS, batch_dice)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(dice_binary_cross_entropy(logits, labels.to(torch.uint8), REGIONS, batch_dice), expected)


def test_regions_that_are_right_have_no_loss():
    labels = labels_of(1, 4, 4, 4)
    assert dice_binary_cross_entropy(masks_of(labels) * 80 - 40, labels, REGIONS).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_gradient_of_an_ignored_voxel_is_exactly_zero(batch_dice):
    logits, lower = logits_of(2, 3, 8, 8, 8), logits_of(2, 3, 4, 4, 4, seed=2)
    labels = labels_of(2, 8, 8, 8).to(torch.uint8)
    labels[0, :5], labels[1, 2, 3, 4] = IGNORED, IGNORED
    deeply_supervised([logits, lower], labels, batch_dice, Sigmoid(REGIONS)).backward()
    ignored = (labels == IGNORED)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).all()
    assert (lower.grad[0, :, :2] == 0).all()


def test_the_rest_of_a_patch_counts_as_if_the_ignored_part_were_not_there():
    logits, labels = logits_of(1, 3, 6, 4, 4), labels_of(1, 6, 4, 4).to(torch.uint8)
    labels[:, 4:] = IGNORED
    found = dice_binary_cross_entropy(logits, labels, REGIONS)
    torch.testing.assert_close(found, dice_binary_cross_entropy(logits[:, :, :4], labels[:, :4], REGIONS))


def test_a_patch_of_nothing_known_has_no_loss_and_no_gradient():
    logits = logits_of(1, 3, 4, 4, 4)
    loss = dice_binary_cross_entropy(logits, torch.full((1, 4, 4, 4), IGNORED, dtype=torch.uint8), REGIONS)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_a_region_with_a_class_that_was_not_drawn_is_not_trained_and_the_others_are():
    """Oedema (2) was not drawn in the first case: nobody knows where its whole tumour ends."""
    logits, labels = logits_of(2, 3, 4, 4, 4), labels_of(2, 4, 4, 4)
    partly = labels.clone()
    partly[0][(labels[0] == 0) | (labels[0] == 2)] = SETS + 0b10
    loss = dice_binary_cross_entropy(logits, partly.to(torch.uint8), REGIONS)
    gradient, = torch.autograd.grad(loss, logits)
    assert (gradient[0, 0] == 0).all()
    assert (gradient[0, 1:] != 0).all()
    assert (gradient[1] != 0).all()
    # the binary cross-entropy is the mean over what counts; that of the whole, the Dice of what does not is 1
    inside, p = masks_of(labels), logits.sigmoid()
    of_voxel = functional.binary_cross_entropy(p, inside, reduction="none")
    counted = torch.ones_like(of_voxel, dtype=torch.bool)
    counted[0, 0] = False
    dice = (2 * (p * inside).sum((2, 3, 4)) + 1e-5) / (p.sum((2, 3, 4)) + inside.sum((2, 3, 4)) + 1e-5)
    expected = of_voxel[counted].mean() + 1 - (dice.sum() - dice[0, 0] + 1) / dice.numel()
    torch.testing.assert_close(loss, expected)


def test_means_and_mixtures_are_those_of_the_probabilities():
    sigmoid, (one, other) = Sigmoid(REGIONS), (logits_of(1, 3, 4, 4, 4, seed=seed) for seed in (0, 1))
    torch.testing.assert_close(sigmoid.mean([one, other]).sigmoid(), (one.sigmoid() + other.sigmoid()) / 2)
    for share in (0.0, 0.3, 1.0):
        torch.testing.assert_close(sigmoid.mixed(one, other, share).sigmoid(),
                                   (1 - share) * one.sigmoid() + share * other.sigmoid())


def test_imitation_is_the_divergence_of_bernoullis_at_a_temperature():
    target, own = logits_of(2, 3, 4, 4, 4), logits_of(2, 3, 4, 4, 4, seed=1)
    divergence = kl_divergence(Bernoulli(logits=target / 2), Bernoulli(logits=own / 2)).sum(1)
    torch.testing.assert_close(Sigmoid(REGIONS).imitation(target, own, 2.0), 4 * divergence.mean())
    weights = torch.rand(2, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(Sigmoid(REGIONS).imitation(target, own, 2.0, weights),
                               4 * (weights * divergence).sum() / weights.sum())
    assert torch.autograd.grad(Sigmoid(REGIONS).imitation(target, own), target, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_keeps_its_promises_with_regions(name):
    method = fresh(name, deep_supervision=True)
    assert method.settings["regions"] == [list(one) for one in REGIONS]
    for check in (contract.logits_have_the_size_of_the_image, contract.loss_reaches_every_parameter,
                  contract.sweep_is_forward, contract.contributions_add_up, contract.settings_rebuild_it):
        check(method)


def test_the_head_of_a_region_sums_the_contributions_to_its_logit():
    model = fresh().double().eval()
    images = {name: torch.randn(1, 1, 8, 8, 8, dtype=torch.float64) for name in SCANS}
    for present in (SCANS, SCANS[:2], SCANS[2:]):
        answer = model({name: images[name] for name in present})
        total = sum(answer.contributions.values()) + answer.bias.view(1, -1, 1, 1, 1)
        assert answer.logits.shape == (1, 3, 8, 8, 8)
        torch.testing.assert_close(total, answer.logits, rtol=0, atol=1e-12)


def test_the_terms_of_mutual_learning_are_those_of_the_regions():
    model = fresh(channels=(4, 6), intra_weight=0.5, subset_weight=1.0, ranking_weight=0.1, distillation_weight=0.2)
    images, labels = contract.scans_of(model), contract.labels_of(model)
    terms = model.loss(images, labels, torch.Generator().manual_seed(3))
    whole, loss = model(images), lambda logits: dice_binary_cross_entropy(logits, labels, REGIONS)
    torch.testing.assert_close(terms["joint"], loss(whole.logits))
    for name, alone in whole.per_modality.items():
        torch.testing.assert_close(terms[f"intra/{name}"], loss(alone))
    part, = model.drawn(SCANS, torch.Generator().manual_seed(3))
    said = model({name: images[name] for name in part}).logits
    torch.testing.assert_close(terms["subset"], loss(said))
    torch.testing.assert_close(terms["ranking"], functional.relu(loss(whole.logits) - loss(said)))
    divergence = kl_divergence(Bernoulli(logits=whole.logits), Bernoulli(logits=said)).sum(1).mean()
    torch.testing.assert_close(terms["distillation"], divergence, rtol=1e-4, atol=1e-6)


def test_the_mean_of_heads_is_that_of_the_regions_probabilities():
    for name in ("maml", "late_fusion"):
        answer = fresh(name).eval()({one: torch.randn(1, 1, 8, 8, 8) for one in SCANS})
        heads = torch.stack([alone.sigmoid() for alone in answer.per_modality.values()]).mean(0)
        torch.testing.assert_close(answer.by_heads().logits.sigmoid(), heads)
        torch.testing.assert_close(answer.by_size(0.4).logits.sigmoid(), 0.6 * answer.logits.sigmoid() + 0.4 * heads)


def test_the_heads_of_regions_start_orthogonal_to_each_other():
    model = fresh(channels=(16, 16))
    rows = torch.cat([head.weight.flatten(1) for head in (*(own.finest for own in model.heads.values()),
                                                          model.classifier)])
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(12), rtol=0, atol=1e-5)


@pytest.mark.parametrize("regions", [[], [[]], [[0]], [[4]], [[1], [1.5]]])
def test_regions_that_are_none_are_refused(regions):
    with pytest.raises(ValueError, match="regions"):  # ours, or the checker's, which looks at one
        build("maml", modalities=SCANS, classes=4, regions=regions, channels=(4, 6))

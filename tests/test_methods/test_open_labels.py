"""Labels that leave something open, in the losses."""

import pytest
import torch

from maml_toolkit.data.label_sets import IGNORED, SETS
from maml_toolkit.methods import METHODS, build
from maml_toolkit.methods.losses import (
    SOFTMAX,
    cross_entropy,
    deeply_supervised,
    dice_cross_entropy,
    foreground_weights,
    soft_dice,
)

CLASSES = 4


def logits_of(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def labels_of(*shape, classes=CLASSES, seed=1):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_without_anything_open_the_loss_is_what_it_is_by_classes(batch_dice):
    logits, labels = logits_of(2, CLASSES, 4, 4, 4), labels_of(2, 4, 4, 4)
    one, other = (dice_cross_entropy(logits, given, batch_dice) for given in (labels, labels.long()))
    assert one.item() == pytest.approx(other.item(), abs=1e-12)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (one, other)]
    torch.testing.assert_close(*gradients)


def test_the_marginal_loss_is_that_of_a_computation_by_hand():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
    labels = torch.tensor([SETS + 0b101, 2, IGNORED], dtype=torch.uint8).view(1, 1, 1, 3)
    found = cross_entropy(probabilities.T.log().view(1, 4, 1, 1, 3), labels)
    # the first is background, 1 or 3: 0.1 + 0.2 + 0.4; the second is 2: 0.2; the third is not counted
    assert found.item() == pytest.approx(0.983056, abs=1e-6)         # -(ln 0.7 + ln 0.2) / 2


def test_the_dice_of_a_class_is_that_of_the_voxels_where_it_is_known():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
    labels = torch.tensor([SETS + 0b101, 2, IGNORED], dtype=torch.uint8).view(1, 1, 1, 3)
    found = soft_dice(probabilities.T.reshape(1, 4, 1, 1, 3), labels, smooth=0)
    assert found[0].tolist() == pytest.approx([0, 2 * 0.2 / (0.3 + 0.2 + 1), 0])


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_gradient_of_an_ignored_voxel_is_exactly_zero(batch_dice):
    logits, labels = logits_of(2, CLASSES, 8, 8, 8), labels_of(2, 8, 8, 8)
    labels[0, :5], labels[1, 2, 3, 4] = IGNORED, IGNORED
    lower = logits_of(2, CLASSES, 4, 4, 4, seed=2)
    deeply_supervised([logits, lower], labels, batch_dice).backward()
    ignored = (labels == IGNORED)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).all()
    assert (lower.grad[0, :, :2] == 0).all()


def test_what_an_ignored_voxel_says_changes_no_term():
    labels = labels_of(1, 4, 4, 4)
    labels[:, 1] = IGNORED
    one = logits_of(1, CLASSES, 4, 4, 4).detach()
    other = one.clone()
    other[:, :, 1] = 50
    assert dice_cross_entropy(one, labels) == dice_cross_entropy(other, labels)
    weights = foreground_weights(labels)
    assert (weights[:, 1] == 0).all()
    target = logits_of(1, CLASSES, 4, 4, 4, seed=3).detach()
    first, second = (SOFTMAX.imitation(target, own, weights=weights) for own in (one, other))
    assert first == second


def test_a_patch_of_nothing_known_has_no_loss_and_no_gradient():
    logits = logits_of(1, CLASSES, 4, 4, 4)
    labels = torch.full((1, 4, 4, 4), IGNORED, dtype=torch.uint8)
    loss = dice_cross_entropy(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_a_class_that_was_not_drawn_is_one_with_the_background():
    logits = logits_of(1, 3, 4, 4, 4)
    labels = labels_of(1, 4, 4, 4, classes=2).long()                  # 0 and 1 were drawn, 2 was not
    is_open = labels == 0
    partly = torch.where(is_open, SETS + 0b10, labels).to(torch.uint8)
    merged = torch.stack([logits[:, [0, 2]].logsumexp(1), logits[:, 1]], 1)
    losses = [cross_entropy(logits.log_softmax(1), partly), cross_entropy(merged.log_softmax(1), labels)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-12)
    found, of_merged = torch.autograd.grad(losses[0], logits, retain_graph=True)[0], torch.autograd.grad(
        losses[1], merged, retain_graph=True)[0]
    share = logits[:, [0, 2]].softmax(1)                              # chain rule: d merged / d logits
    for number, place in ((0, 0), (2, 1)):
        torch.testing.assert_close(found[:, number], of_merged[:, 0] * share[:, place])
    # in the Dice of the class that was drawn the others are one too, and its own Dice has no part in these voxels
    torch.testing.assert_close(soft_dice(logits.softmax(1), partly)[:, 0], soft_dice(merged.softmax(1), labels)[:, 0])
    own = torch.autograd.grad(soft_dice(logits.softmax(1), partly)[:, 1].sum(), logits)[0]
    assert (own[is_open[:, None].expand_as(own)] == 0).all()


def test_of_more_than_seven_classes_voxels_can_be_ignored():
    logits, labels = logits_of(1, 12, 4, 4, 4), labels_of(1, 4, 4, 4, classes=12)
    whole = dice_cross_entropy(logits, labels.long(), batch_dice=True)
    padded = torch.cat([logits, logits_of(1, 12, 2, 4, 4, seed=5)], 2)
    ignored = torch.cat([labels, torch.full((1, 2, 4, 4), IGNORED, dtype=torch.uint8)], 1)
    assert dice_cross_entropy(padded, ignored, batch_dice=True).item() == pytest.approx(whole.item(), abs=1e-12)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_on_labels_that_leave_something_open(name):
    torch.manual_seed(0)
    own = {"distillation_weight": 0.5} if name == "maml" else {}
    method = build(name, modalities=("arterial", "venous"), classes=2, channels=(4, 6), **own)
    images = {one: torch.randn(1, 1, 8, 8, 8) for one in method.modalities}
    for labels in (torch.full((1, 8, 8, 8), IGNORED), labels_of(1, 8, 8, 8, classes=2) * 127 + SETS):
        for stage in method.stages():
            loss = stage.loss(images, labels.to(torch.uint8), torch.Generator().manual_seed(0))["total"]
            loss.backward()
            assert loss.isfinite()
        assert all(one.grad is None or one.grad.isfinite().all() for one in method.parameters())

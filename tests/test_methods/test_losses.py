"""The losses against hand-computed values and their properties."""

from math import log

import pytest
import torch

from maml_toolkit.methods.losses import MutualLearningLoss, deeply_supervised, dice_cross_entropy, soft_dice, subsampled


def certain(labels, classes=2):
    """Logits that are sure of these labels."""
    return 100.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


@pytest.fixture
def labels():
    return torch.randint(0, 2, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))


def test_the_right_answer_costs_nothing(labels):
    assert dice_cross_entropy(certain(labels), labels).item() == pytest.approx(0, abs=1e-6)


def test_indifference_costs_what_the_formula_says():
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    labels[0, 0, 0, :] = 1
    # by hand: probability 1/2 everywhere; overlap 2 * 1/2, sums 8/2 and 2, Dice 2 / 6
    expected = log(2) + 1 - 2 / 6
    assert dice_cross_entropy(torch.zeros(1, 2, 2, 2, 2), labels).item() == pytest.approx(expected, abs=1e-5)


def test_a_class_that_is_nowhere_costs_nothing_when_it_is_not_predicted():
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    assert soft_dice(certain(labels, 3).softmax(1), labels).tolist() == [[1.0, 1.0]]


def test_batch_dice_takes_the_batch_as_one_volume():
    labels = torch.zeros(2, 2, 2, 2, dtype=torch.long)
    labels[0] = 1
    probabilities = torch.full((2, 2, 2, 2, 2), 0.5)
    # by hand: the first sample 2 * 4 / (4 + 8), the second 0 / 4; together 2 * 4 / (8 + 8)
    assert soft_dice(probabilities, labels).flatten().tolist() == pytest.approx([8 / 12, 0], abs=1e-5)
    assert soft_dice(probabilities, labels, batch_dice=True).item() == pytest.approx(0.5, abs=1e-5)


def test_deep_supervision_weights_levels_by_halves(labels):
    fine, coarse = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 2, 2, 2)
    expected = 2 / 3 * dice_cross_entropy(fine, labels) + 1 / 3 * dice_cross_entropy(coarse, labels[:, ::2, ::2, ::2])
    torch.testing.assert_close(deeply_supervised([fine, coarse], labels), expected)


def test_lower_levels_see_every_second_voxel(labels):
    assert torch.equal(subsampled(labels, torch.zeros(2, 2, 2, 4, 2)), labels[:, ::2, :, ::2])


def test_mutual_learning_is_the_joint_loss_plus_lambda_times_the_others(labels):
    joint, one, other = (torch.randn(2, 2, 4, 4, 4) for _ in range(3))
    terms = MutualLearningLoss(intra_weight=0.25)(joint, {"t1": [one], "t2": [other]}, labels)
    assert list(terms) == ["joint", "intra/t1", "intra/t2", "total"]
    torch.testing.assert_close(terms["total"], terms["joint"] + 0.25 * (terms["intra/t1"] + terms["intra/t2"]))
    torch.testing.assert_close(terms["intra/t1"], dice_cross_entropy(one, labels))


def test_the_loss_of_half_precision_logits_is_computed_in_single(labels):
    assert dice_cross_entropy(torch.randn(2, 2, 4, 4, 4).bfloat16(), labels).dtype == torch.float32

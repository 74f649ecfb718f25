"""What is special about each method that MAML is compared with; the rest is test_contract.py's."""

import itertools
from math import log

import pytest
import torch

from maml_toolkit.methods import build, hyperpairing, subsets
from maml_toolkit.methods.hemis import moments
from maml_toolkit.methods.uhved import divergence_from_prior, product_of_experts
from maml_toolkit.system.errors import MissingModalityError

MODALITIES = ("t1", "t2", "flair")


def method(name, **own):
    torch.manual_seed(0)
    return build(name, modalities=MODALITIES, classes=3, channels=(4, 6, 8), **own).eval()


@pytest.mark.parametrize("name", ["early_fusion", "octopusnet", "hyperpairing"])
def test_a_method_that_needs_everything_names_what_is_missing(name, scans):
    with pytest.raises(MissingModalityError, match=r"\['t2'\] missing"):
        method(name)({"t1": scans["t1"], "flair": scans["flair"]})


def test_octopusnet_fuses_at_every_level_to_the_levels_width():
    octopus = method("octopusnet")
    assert [(fuse[0].in_channels, fuse[0].out_channels) for fuse in octopus.fuse] == [(12, 4), (18, 6), (24, 8)]
    assert set(octopus.encoders) == set(MODALITIES)


def test_every_stream_of_hyperpairing_reads_the_others(scans):
    network = method("hyperpairing")
    before = network.encoded(scans)
    after = network.encoded({**scans, "t2": scans["t2"] + torch.randn_like(scans["t2"])})
    assert torch.equal(before[0]["t1"], after[0]["t1"])         # the first stage sees its own image
    assert not torch.allclose(before[1]["t1"], after[1]["t1"])  # the second all features


def test_the_pairing_loss_is_zero_for_equal_features_and_two_for_opposite_ones():
    features = torch.randn(2, 4, 2, 2, 2)
    assert hyperpairing.pairing({"t1": features, "t2": 3 * features}).item() == pytest.approx(0, abs=1e-6)
    assert hyperpairing.pairing({"t1": features, "t2": -features}).item() == pytest.approx(2)
    crossed = {"t1": torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1), "t2": torch.tensor([1.0, 1.0]).view(1, 2, 1, 1, 1)}
    assert hyperpairing.pairing(crossed).item() == pytest.approx(1 - 0.5**0.5)


def test_the_pairing_loss_weighs_as_told(scans, labels):
    terms = method("hyperpairing", pairing_weight=0.25).loss(scans, labels, torch.Generator())
    torch.testing.assert_close(terms["total"], terms["segmentation"] + 0.25 * terms["pairing"])


def test_hemis_of_one_modality_has_no_variance():
    features = torch.randn(2, 4, 3, 3, 3)
    found = moments([features])
    assert torch.equal(found[:, :4], features)
    assert torch.equal(found[:, 4:], torch.zeros_like(features))


def test_the_moments_of_hemis_are_mean_and_variance():
    found = moments([torch.full((1, 1, 1, 1, 1), value) for value in (1.0, 2.0, 6.0)]).flatten().tolist()
    assert found == pytest.approx([3.0, 14 / 3])    # (4 + 1 + 9) / 3


def test_the_product_of_experts_is_that_of_three_gaussians():
    """N(0, 1) · N(1, 1/3) · N(-2, 1/2): precisions 1, 3, 2 add up to 6, mean (3 · 1 - 2 · 2) / 6 = -1/6."""
    experts = [torch.tensor([mean, variance]).view(1, 2, 1, 1, 1) for mean, variance in ((1.0, 1 / 3), (-2.0, 1 / 2))]
    told = [torch.cat((one[:, :1], one[:, 1:].log()), dim=1) for one in experts]
    mean, variance = product_of_experts(told)
    assert mean.item() == pytest.approx(-1 / 6, abs=1e-6)
    assert variance.item() == pytest.approx(1 / 6, abs=1e-6)


def test_the_product_of_experts_is_the_density_of_the_product():
    """The closed form against the normalised product of densities on a fine line."""
    line = torch.linspace(-12, 12, 48001, dtype=torch.float64)
    gaussian = lambda mean, variance: torch.exp(-((line - mean) ** 2) / (2 * variance))  # noqa: E731
    density = gaussian(0, 1) * gaussian(0.7, 0.4) * gaussian(-1.5, 2.5)
    density = density / density.sum()
    told = [torch.tensor([m, log(v)]).view(1, 2, 1, 1, 1) for m, v in ((0.7, 0.4), (-1.5, 2.5))]
    mean, variance = product_of_experts(told)
    assert mean.item() == pytest.approx((density * line).sum().item(), abs=1e-5)
    assert variance.item() == pytest.approx((density * line**2).sum().item() - mean.item() ** 2, abs=1e-5)


def test_an_expert_that_knows_nothing_changes_nothing():
    sure, unsure = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1, 1), torch.tensor([50.0, 1e9]).view(1, 2, 1, 1, 1)
    for found, expected in zip(product_of_experts([sure, unsure]), product_of_experts([sure]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_the_divergence_from_the_prior_is_torchs():
    mean, variance = torch.randn(2, 3, 2, 2, 2), torch.rand(2, 3, 2, 2, 2) + 0.1
    theirs = torch.distributions.kl_divergence(torch.distributions.Normal(mean, variance.sqrt()),
                                               torch.distributions.Normal(0, 1)).mean()
    torch.testing.assert_close(divergence_from_prior(mean, variance), theirs)


def test_uhved_samples_in_training_and_answers_the_same_twice(scans, labels):
    network = method("uhved", subset_sampling="uniform")
    first, again, other = (network.loss(scans, labels, torch.Generator().manual_seed(seed))["segmentation"]
                           for seed in (3, 3, 4))
    assert first == again
    assert first != other
    network.train()
    assert torch.equal(network(scans).logits, network(scans).logits)


def test_uhved_reconstructs_what_was_not_drawn(scans, labels):
    """The image of an absent modality is a target of the loss and nothing else."""
    network = method("uhved")
    seed = next(seed for seed in range(50)
                if subsets.draw(MODALITIES, torch.Generator().manual_seed(seed), "by-size") == ("t1",))
    before = network.loss(scans, labels, torch.Generator().manual_seed(seed))
    changed = {**scans, "t2": scans["t2"] + 1}
    after = network.loss(changed, labels, torch.Generator().manual_seed(seed))
    assert before["segmentation"] == after["segmentation"]
    assert before["reconstruction"] != after["reconstruction"]


def test_subsets_are_drawn_uniformly_or_by_size():
    generator = torch.Generator().manual_seed(0)
    for sampling in subsets.SAMPLING:
        drawn = [subsets.draw(MODALITIES, generator, sampling) for _ in range(2000)]
        counts = {one: drawn.count(one) / len(drawn) for size in (1, 2, 3)
                  for one in itertools.combinations(MODALITIES, size)}
        assert sum(counts.values()) == pytest.approx(1)
        expected = {one: 1 / 7 if sampling == "uniform" else {1: 1 / 9, 2: 1 / 9, 3: 1 / 3}[len(one)] for one in counts}
        assert counts == pytest.approx(expected, abs=0.03)
    with pytest.raises(ValueError, match="by-size"):
        method("hemis", subset_sampling="by_size")


def test_a_student_never_reads_another_modality(scans, labels):
    network = method("kdnet")
    changed = {**scans, "t2": torch.full_like(scans["t2"], torch.nan)}
    assert torch.equal(network({"t1": scans["t1"]}).logits, network({"t1": changed["t1"]}).logits)
    network.students["t2"].register_forward_hook(lambda *_: pytest.fail("another student was asked"))
    network.teacher.register_forward_hook(lambda *_: pytest.fail("the teacher was asked"))
    network({"t1": scans["t1"]})


def test_a_students_own_terms_depend_on_its_image_and_the_teacher_alone(scans, labels):
    network = method("kdnet")
    with torch.no_grad():                                   # a teacher that sees nothing but its first channel, t1
        network.teacher.encoder.stages[0][0][0].weight[:, 1:] = 0
    before = network.loss(scans, labels, torch.Generator())
    after = network.loss({**scans, "t2": scans["t2"] + 1}, labels, torch.Generator())
    for kind in ("imitation", "segmentation", "bottleneck"):
        assert before[f"{kind}/t1"] == after[f"{kind}/t1"]
        assert before[f"{kind}/t2"] != after[f"{kind}/t2"]


def test_the_teacher_gets_no_gradient_from_the_students(scans, labels):
    network = method("kdnet")
    network.loss(scans, labels, torch.Generator())["total"].backward()
    assert all(p.grad is None for p in (*network.teacher.parameters(), *network.teacher_heads.parameters()))


def test_the_loss_of_the_students_weighs_as_stated(scans, labels):
    network = method("kdnet", students=["flair"])
    terms = network.loss(scans, labels, torch.Generator())
    expected = 0.75 * terms["imitation/flair"] + 0.25 * terms["segmentation/flair"] + 10 * terms["bottleneck/flair"]
    torch.testing.assert_close(terms["total"], expected)
    assert set(terms) == {"imitation/flair", "segmentation/flair", "bottleneck/flair", "total"}


def test_kdnet_answers_from_one_modality_that_has_a_student(scans):
    network = method("kdnet", students=["flair"])
    with pytest.raises(MissingModalityError, match=r"Ask for \['flair'\]"):
        network(scans)
    with pytest.raises(MissingModalityError, match="t1"):
        network({"t1": scans["t1"]})
    assert network.largest(set(MODALITIES)) == [{"flair"}]
    with pytest.raises(MissingModalityError, match=r"train on.*\['t2'\] missing"):
        network.present({"t1", "flair"}, training=True)


@pytest.mark.parametrize(("name", "own"), [
    ("kdnet", {"students": ["adc"]}), ("kdnet", {"students": []}), ("kdnet", {"temperature": 0}),
    ("kdnet", {"imitation_weight": 2}), ("uhved", {"kl_weight": -1}), ("uhved", {"subset_sampling": "size"}),
    ("hyperpairing", {"pairing_weight": -1})])
def test_arguments_out_of_their_range_are_refused(name, own):
    with pytest.raises(ValueError, match=next(iter(own))):
        method(name, **own)


def test_dropout_trains_early_fusion_for_any_subset_and_zeros_stay_inside():
    torch.manual_seed(0)
    model = build("early_fusion", modalities=("a", "b", "c"), classes=2, channels=(2, 4), dropout=0.5).eval()
    scans = {name: torch.randn(1, 1, 8, 8, 8) for name in model.modalities}
    seen = []
    hook = model.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(2).abs().sum(2) > 0))
    model({"b": scans["b"]})
    assert seen.pop().tolist() == [[False, True, False]]
    labels = torch.randint(0, 2, (1, 8, 8, 8))
    for seed in range(300):
        model.loss(scans, labels, torch.Generator().manual_seed(seed))
    hook.remove()
    kept = torch.cat(seen).float()
    assert kept.sum(1).min() == 1
    # each is kept in half of the draws, and once more in three where all would be dropped (an eighth)
    assert kept.mean(0).tolist() == pytest.approx([0.5 + 1 / 24] * 3, abs=0.08)
    assert kept.unique(dim=0).shape[0] == 7
    plain = build("early_fusion", modalities=("a", "b"), classes=2, channels=(2, 4))
    assert not plain.accepts({"a"})
    with pytest.raises(ValueError, match="dropout"):
        build("early_fusion", modalities=("a", "b"), classes=2, channels=(2, 4), dropout=1.0)

"""Training for subsets in which no drawn set repeats a term that the loss has."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt

from maml_toolkit.methods import build, contract
from maml_toolkit.methods.losses import (
    SOFTMAX,
    MutualLearningLoss,
    dice_cross_entropy,
    divergence,
    foreground_weights,
)
from maml_toolkit.methods.maml import MAML
from maml_toolkit.methods.subsets import draw_nested

FOUR = ("t1", "t1ce", "t2", "flair")
RECIPE = {"subset_weight": 1.0, "ranking_weight": 0.1, "distillation_weight": 0.5}


def maml(modalities=FOUR, **own):
    torch.manual_seed(0)
    return MAML(modalities, 3, channels=(4, 6), subset_sampling="nested", **own)


def scans_of(modalities, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 1, 8, 6, 8, generator=generator, dtype=dtype) for name in modalities}


@pytest.fixture
def ground_truth():
    """Two classes in a corner of the first patch, and one voxel of the second."""
    labels = torch.zeros(2, 8, 6, 8, dtype=torch.long)
    labels[0, :3, :2, :2], labels[0, 0, 0, :3], labels[1, 6, 1, 7] = 1, 2, 1
    return labels


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def all_draws(count, singles):
    """What 400 seeds draw; the rarest of at most 34 draws has a probability of 1/36."""
    return {draw_nested(FOUR[:count], seeded(seed), singles) for seed in range(400)}


@pytest.mark.parametrize(("count", "singles", "sizes"), [
    (1, False, None), (2, False, None), (3, False, {(3, 2)}), (4, False, {(4, 3), (4, 2), (3, 2)}),
    (1, True, None), (2, True, {(2, 1)}), (3, True, {(3, 2), (2, 1)}), (4, True, {(4, 3), (4, 2), (3, 2), (2, 1)})])
def test_the_smaller_set_is_a_proper_part_of_the_larger_and_new(count, singles, sizes):
    """All pairs of the sizes that may be, and no other; S+ is all or new."""
    found = all_draws(count, singles)
    if sizes is None:
        assert found == {None}
        return
    names = FOUR[:count]
    assert found == {(larger, smaller) for above, below in sizes for larger in itertools.combinations(names, above)
                     for smaller in itertools.combinations(larger, below)}
    for larger, smaller in found:
        assert set(smaller) < set(larger)
        assert 2 <= len(larger) <= count
        assert len(smaller) >= (1 if singles and len(larger) == 2 else 2)


@pytest.mark.parametrize("singles", [False, True])
def test_sizes_are_uniform(singles):
    """Of the larger set up to 4, then of the smaller: by hand 1/2 or 1/3, and half of that under all."""
    sizes = Counter((len(larger), len(smaller)) for larger, smaller in (
        draw_nested(FOUR, generator, singles) for generator in [seeded(0)] for _ in range(3000)))
    share = 1 / 3 if singles else 1 / 2
    expected = {(4, 3): share / 2, (4, 2): share / 2, (3, 2): share} | ({(2, 1): share} if singles else {})
    assert {pair: count / 3000 for pair, count in sizes.items()} == pytest.approx(expected, abs=0.03)


def told(model, images, labels, seed):
    """The terms of the loss, the sets that went through the attention, and which streams and heads ran."""
    joined, ran = [], {"streams": [], "heads": []}
    hooks = [model.aware.register_forward_hook(lambda _, given, __: joined.append(frozenset(given[0])))]
    hooks += [part.register_forward_hook(lambda *_, name=name, kind=kind: ran[kind].append(name))
              for kind in ran for name, part in getattr(model, kind).items()]
    terms = model.loss(images, labels, seeded(seed))
    for hook in hooks:
        hook.remove()
    return terms, joined, ran


@pytest.mark.parametrize("intra", [0.5, 0])
@pytest.mark.parametrize("present", [FOUR[:1], FOUR[:2], FOUR[1:], FOUR])
@pytest.mark.parametrize("weights", [("subset",), ("ranking",), ("distillation",), tuple(RECIPE)])
def test_nothing_is_computed_twice_in_a_step_nor_in_vain(ground_truth, intra, present, weights):
    """A model of four modalities on cases that have some of them: each set is answered once, heads run once each."""
    own = {name: value for name, value in RECIPE.items() if name.startswith(weights)}
    model, images = maml(intra_weight=intra, **own), scans_of(present)
    if not model.accepts(set(present)):
        pytest.skip("a single modality that nothing trains is refused")
    for seed in range(8):
        terms, joined, ran = told(model, images, ground_truth, seed)
        assert len(joined) == len(set(joined))
        assert sorted(ran["streams"]) == sorted(present)
        assert sorted(ran["heads"]) == (sorted(present) if intra else [])
        assert all(len(one) >= 2 for one in joined) or not intra
        drawn = [one for one in joined if one != frozenset(present)]
        nothing = len(present) < (3 if intra else 2)
        assert len(drawn) in ((0,) if nothing else (1,) if set(own) == {"distillation_weight"} else (1, 2))
        assert {name for name in RECIPE if name.removesuffix("_weight") in terms} == (set() if nothing else set(own))


def test_two_modalities_with_heads_have_the_papers_loss(ground_truth):
    two = scans_of(FOUR[:2])
    generator = seeded(1)
    before = generator.get_state()
    terms = maml(FOUR[:2], **RECIPE).loss(two, ground_truth, generator)
    paper = MAML(FOUR[:2], 3, channels=(4, 6))
    paper.load_state_dict(maml(FOUR[:2]).state_dict())
    assert terms == paper.loss(two, ground_truth, seeded(2))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("intra", [0.5, 0])
def test_the_loss_is_the_stated_sum(ground_truth, intra):
    """Written out from the answers of forward, for a draw where S+ is new and one where it is all."""
    model = maml(intra_weight=intra, distillation_weighting="foreground", **RECIPE).double()
    images, kinds = scans_of(FOUR, torch.float64), set()
    distance = np.stack([distance_transform_cdt(one == 0, "chessboard") for one in ground_truth.numpy()])
    w = torch.from_numpy(np.where(distance <= 3, 1, 0.05))
    for seed in range(12):
        larger, smaller = draw_nested(FOUR, seeded(seed), not intra)
        terms = model.loss(images, ground_truth, seeded(seed))
        y = {one: model({name: images[name] for name in one}).logits for one in {FOUR, larger, smaller}}
        of = {one: dice_cross_entropy(logits, ground_truth) for one, logits in y.items()}
        p, q = y[FOUR].softmax(1), y[smaller].softmax(1)
        kl = (p * (p / q).log()).sum(1)
        expected = of[FOUR] + 0.1 * torch.clamp(of[larger] - of[smaller], min=0) + 0.5 * (w * kl).sum() / w.sum()
        expected = expected + (of[smaller] if larger == FOUR else (of[larger] + of[smaller]) / 2)
        for name in FOUR if intra else ():
            expected = expected + 0.5 * dice_cross_entropy(model({name: images[name]}).logits, ground_truth)
        torch.testing.assert_close(terms["total"], expected, rtol=1e-6, atol=0)
        kinds.add((len(larger), len(smaller)))
    assert kinds == {(4, 3), (4, 2), (3, 2)} | (set() if intra else {(2, 1)})


def test_no_gradient_reaches_what_the_others_are_compared_with():
    labels = torch.randint(0, 3, (1, 4, 4, 4), generator=seeded(0))
    right = (10.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)).double()
    for weight, moved in (("ranking_weight", {"larger"}), ("distillation_weight", {"part"}),
                          ("subset_weight", {"larger", "part"})):
        logits = {name: torch.randn(1, 3, 4, 4, 4, dtype=torch.float64, generator=seeded(1), requires_grad=True)
                  for name in ("whole", "part", "larger")}
        # the smaller set does better, so that the ranking has something to say
        terms = MutualLearningLoss(intra_weight=0, **{weight: 1.0})(
            None, {}, labels, logits["whole"], logits["part"] + right, logits["larger"])
        terms["total"].backward()
        assert terms["total"] > 0
        assert {name for name, one in logits.items() if one.grad is not None and one.grad.abs().sum() > 0} == moved


def test_voxels_within_three_of_the_foreground_count_fully():
    """Chessboard distances by scipy; the samples of a batch do not see each other's lesions."""
    random = np.random.default_rng(0)
    labels = (random.random((3, 20, 17, 23)) < 0.001) * random.integers(1, 4, (3, 20, 17, 23))
    labels[2] = 0
    found = foreground_weights(torch.from_numpy(labels)).numpy()
    distance = np.stack([distance_transform_cdt(one == 0, "chessboard") for one in labels[:2]])
    assert 0.05 < (distance <= 3).mean() < 0.95
    np.testing.assert_allclose(found[:2], np.where(distance <= 3, 1, 0.05), rtol=1e-6)
    np.testing.assert_allclose(found[2], 0.05)


def test_weighted_divergence_is_the_weighted_mean_and_the_mean_where_nothing_is_foreground():
    target, own = (torch.randn(2, 3, 4, 4, 6, generator=seeded(seed)) for seed in (0, 1))
    half = torch.zeros(2, 4, 4, 6)
    half[..., :2] = 1
    torch.testing.assert_close(divergence(target, own, half), divergence(target[..., :2], own[..., :2]))
    nowhere = foreground_weights(torch.zeros(2, 4, 4, 6, dtype=torch.long))
    torch.testing.assert_close(SOFTMAX.imitation(target, own, 2.0, nowhere),
                               SOFTMAX.imitation(target, own, 2.0))


@pytest.mark.parametrize("own", [{"intra_weight": 0.5}, {"intra_weight": 0}])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_new_arguments_keep_every_promise(own, count):
    model = maml(FOUR[:count], distillation_weighting="foreground", **RECIPE, **own)
    assert contract.report(model)["found"].tolist() == [""] * len(contract.PROMISES)


def test_settings_of_before_rebuild_the_loss_of_before(ground_truth):
    """The settings of a checkpoint that was written before the weighting was an argument."""
    before = maml(**RECIPE).settings
    assert before.pop("distillation_weighting") == "uniform"
    for sampling in ("uniform", "by-size"):
        model = build("maml", **before | {"subset_sampling": sampling})
        terms = model.loss(scans_of(FOUR), ground_truth, seeded(3))
        assert set(terms) == {"joint", "subset", "ranking", "distillation", "total", *(f"intra/{one}" for one in FOUR)}


def test_arguments_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="nested"):
        MAML(FOUR, 3, channels=(4, 6), subset_sampling="nest")
    with pytest.raises(ValueError, match="foreground"):
        MAML(FOUR, 3, channels=(4, 6), distillation_weighting="lesion")
    with pytest.raises(ValueError, match="by-size"):
        build("hemis", modalities=FOUR, classes=3, channels=(4, 6), subset_sampling="nested")

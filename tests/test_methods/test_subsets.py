"""Any subset of the modalities: trained for, and swept for little more than the price of one."""

import itertools

import pytest
import torch

from maml_toolkit.methods import build
from maml_toolkit.methods.losses import SOFTMAX, MutualLearningLoss, dice_cross_entropy
from maml_toolkit.methods.maml import MAML
from maml_toolkit.methods.subsets import draw
from maml_toolkit.networks.modality_aware import ModalityAwareModule
from maml_toolkit.system.errors import MissingModalityError

FOUR = ("t1", "t1ce", "t2", "flair")
EVERY = [set(one) for size in (1, 2, 3, 4) for one in itertools.combinations(FOUR, size)]


def maml(**own):
    torch.manual_seed(0)
    return MAML(FOUR, 3, channels=(4, 6), **own)


@pytest.fixture
def four():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 1, 8, 6, 8, generator=generator) for name in FOUR}


@pytest.fixture
def truth():
    return torch.randint(0, 3, (2, 8, 6, 8), generator=torch.Generator().manual_seed(1))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["paper", "released"])
@pytest.mark.parametrize("maps", [0, 9, 32])    # what pairs share: never kept, kept for two modalities, kept for all
def test_a_sweep_answers_as_forward_does(four, attention, maps):
    model = maml(attention=attention).eval()
    model.sweep_maps = maps
    model.aware.fuse.bias.data.normal_()        # a bias that is 0 would hide what happens to it at the border
    found = model.subsets(four, EVERY)
    assert list(found) == [frozenset(one) for one in EVERY]
    for subset, answer in found.items():
        alone = model({name: four[name] for name in subset})
        torch.testing.assert_close(answer.logits, alone.logits, atol=1e-4, rtol=0)
        assert set(answer.contributions) == set(answer.per_modality) == set(subset)
        assert set(answer.attention) == (set(subset) if len(subset) > 1 else set())
        for kind in ("attention", "contributions", "per_modality"):
            assert set(getattr(answer, kind)) == set(getattr(alone, kind))
            for name, expected in getattr(alone, kind).items():
                torch.testing.assert_close(getattr(answer, kind)[name], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ["paper", "released"])
def test_the_gradients_of_a_sweep_are_those_of_forward(four, truth, attention):
    model = maml(attention=attention).double()
    images = {name: scan.double() for name, scan in four.items()}
    sum(dice_cross_entropy(answer.logits, truth) for answer in model.subsets(images, EVERY).values()).backward()
    swept = gradients(model)
    model.zero_grad()
    for subset in EVERY:
        dice_cross_entropy(model({name: images[name] for name in subset}).logits, truth).backward()
    assert set(swept) == set(gradients(model)) == {name for name, _ in model.named_parameters()}
    for name, expected in gradients(model).items():
        torch.testing.assert_close(swept[name], expected, atol=1e-4, rtol=1e-4)


def test_the_streams_run_once_for_a_sweep_and_once_for_a_step(four, truth):
    model = maml(subset_weight=1, ranking_weight=0.1, distillation_weight=0.5)
    runs = []
    for name, stream in model.streams.items():
        stream.register_forward_hook(lambda *_, name=name: runs.append(name))
    model.subsets(four, EVERY)
    assert sorted(runs) == sorted(FOUR)
    runs.clear()
    model.loss(four, truth, torch.Generator())
    assert sorted(runs) == sorted(FOUR)


def test_a_sweep_runs_no_stream_that_no_subset_has(four):
    model = maml()
    model.streams["t2"].register_forward_hook(lambda *_: pytest.fail("the absent stream was run"))
    assert len(model.subsets(four, [{"t1"}, {"t1", "flair"}])) == 2


def test_without_further_weights_the_loss_is_the_papers_exactly(four, truth):
    """Terms, total and gradients; and the generator is not touched."""
    plain, model = maml(), maml(subset_weight=0, ranking_weight=0, distillation_weight=0)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    levels = {name: plain.streams[name](scan) for name, scan in four.items()}
    joint = plain.classifier(plain.aware({name: own[0] for name, own in levels.items()})[2])
    paper = dice_cross_entropy(joint, truth) + 0.5 * sum(
        dice_cross_entropy(plain.heads[name].finest(own[0]), truth) for name, own in levels.items())
    paper.backward()
    terms = model.loss(four, truth, generator)
    terms["total"].backward()
    assert set(terms) == {"joint", "total", *(f"intra/{name}" for name in FOUR)}
    assert torch.equal(generator.get_state(), before)
    torch.testing.assert_close(terms["total"], paper, rtol=1e-6, atol=0)
    assert set(gradients(plain)) == set(gradients(model)) > set()
    for name, expected in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[name], expected, rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_subset_is_the_stated_sum(four, truth):
    model = maml(subset_weight=0.7, ranking_weight=0.3, distillation_weight=0.2).double()
    images = {name: scan.double() for name, scan in four.items()}
    seed = next(seed for seed in range(50) if len(draw(FOUR, torch.Generator().manual_seed(seed))) == 2)
    drawn = draw(FOUR, torch.Generator().manual_seed(seed))
    terms = model.loss(images, truth, torch.Generator().manual_seed(seed))
    whole, part = model(images).logits, model({name: images[name] for name in drawn}).logits
    of_whole, of_part = dice_cross_entropy(whole, truth), dice_cross_entropy(part, truth)
    torch.testing.assert_close(terms["subset"], of_part)
    torch.testing.assert_close(terms["ranking"], (of_whole - of_part).clamp_min(0))
    torch.testing.assert_close(terms["distillation"], SOFTMAX.imitation(whole, part))
    intra = sum(terms[f"intra/{name}"] for name in FOUR)
    torch.testing.assert_close(terms["total"], terms["joint"] + 0.5 * intra + 0.7 * terms["subset"]
                               + 0.3 * terms["ranking"] + 0.2 * terms["distillation"])


def test_ranking_moves_the_whole_and_distillation_the_part():
    logits = {name: torch.randn(1, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True) for name in ("whole", "part")}
    labels = torch.randint(0, 3, (1, 4, 4, 4))
    for weight, moved in (("ranking_weight", "whole"), ("distillation_weight", "part")):
        loss = MutualLearningLoss(intra_weight=0, **{weight: 1.0})
        good = (10.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)).double()    # the part is right already
        part = (logits["part"] + good) if weight == "ranking_weight" else logits["part"]
        terms = loss(None, {}, labels, logits["whole"], part)
        terms["total"].backward()
        assert terms["total"] > 0
        assert {name for name, one in logits.items() if one.grad is not None and one.grad.abs().sum() > 0} == {moved}
        for one in logits.values():
            one.grad = None


def test_all_drawn_is_the_joint_answer_and_costs_nothing_more(four, truth):
    model = maml(subset_weight=1)
    seed = next(seed for seed in range(50) if len(draw(FOUR, torch.Generator().manual_seed(seed))) == 4)
    calls = []
    model.aware.register_forward_hook(lambda *_: calls.append(1))
    terms = model.loss(four, truth, torch.Generator().manual_seed(seed))
    assert len(calls) == 1
    assert terms["subset"] == terms["joint"]


def test_all_means_all_that_a_case_has(four, truth):
    model = maml(subset_weight=1, ranking_weight=0.1)
    for present in ({"t1", "flair"}, {"t2"}):
        images = {name: four[name] for name in present}
        for seed in range(6):
            terms = model.loss(images, truth, torch.Generator().manual_seed(seed))
            assert {name.partition("/")[2] for name in terms if "/" in name} == present
            assert torch.isfinite(terms["total"])


def test_without_heads_a_single_modality_goes_through_the_attention_once_it_is_trained_for(four):
    trained, untrained = maml(intra_weight=0, subset_weight=1), maml(intra_weight=0)
    answer = trained({"t2": four["t2"]})
    assert set(answer.attention) == {"t2"}
    total = sum(answer.contributions.values()) + answer.bias.view(1, -1, 1, 1, 1)
    torch.testing.assert_close(total, answer.logits, atol=1e-4, rtol=0)
    swept = trained.subsets(four, [{"t2"}, {"t1", "t2"}])[frozenset({"t2"})]
    torch.testing.assert_close(swept.logits, answer.logits, atol=1e-4, rtol=0)
    with pytest.raises(MissingModalityError, match="t1"):
        untrained({"t2": four["t2"]})


def test_the_mean_of_heads_is_late_fusions_rule(four):
    answer = maml()(four)
    probabilities = torch.stack([logits.softmax(1) for logits in answer.per_modality.values()]).mean(0)
    torch.testing.assert_close(answer.by_heads().logits.softmax(1), probabilities)
    with pytest.raises(ValueError, match="no mean of heads"):
        maml(intra_weight=0)(four).by_heads()


@pytest.mark.parametrize("weight", ["subset_weight", "ranking_weight", "distillation_weight", "intra_weight"])
def test_negative_weights_are_refused(weight):
    with pytest.raises(ValueError, match=weight):
        build("maml", modalities=FOUR, classes=3, channels=(4, 6), **{weight: -0.1})


@pytest.mark.parametrize(("wanted", "convolutions"), [
    ([FOUR], 12), ([FOUR[:2], FOUR[2:]], 12), ([FOUR, FOUR[:3], FOUR[1:]], 24)])
def test_a_sweep_shares_convolutions_only_where_that_saves_some(four, monkeypatch, wanted, convolutions):
    aware = ModalityAwareModule(FOUR, 4, "paper")
    features = {name: torch.randn(1, 4, 4, 4, 4) for name in FOUR}
    expected = [aware({name: features[name] for name in subset})[1] for subset in wanted]
    counted, real = [], torch.nn.functional.conv3d

    def counting(inputs, weight, *rest, **named):
        if weight.shape[-1] == 3 and inputs.shape[1] >= 4:      # of C to C channels, times those that are stacked
            counted.append(weight.shape[1] // 4)
        return real(inputs, weight, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "conv3d", counting)
    monkeypatch.setattr(torch.nn.Conv3d, "_conv_forward", lambda layer, inputs, weight, bias: counting(
        inputs, weight, bias, layer.stride, layer.padding))
    found = list(aware.sweep(features, wanted, MAML.sweep_maps))
    assert sum(counted) == convolutions
    for own, other in zip(found, expected, strict=True):
        assert set(own) == set(other) > set()
        for name in other:
            torch.testing.assert_close(own[name], other[name])

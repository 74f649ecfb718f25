"""What every method promises; a new line in METHODS is tested by this file without a change to it."""

import itertools
import json

import pytest
import torch

from maml_toolkit import checkpoints
from maml_toolkit.errors import MissingModalityError
from maml_toolkit.methods import METHODS, build

MODALITIES = ("t1", "t2", "flair")
CHANNELS = (4, 6, 8)


@pytest.fixture(params=sorted(METHODS))
def method(request):
    torch.manual_seed(0)
    return build(request.param, modalities=MODALITIES, classes=3, channels=CHANNELS)


def accepted(method):
    every = (set(one) for size in (1, 2, 3) for one in itertools.combinations(MODALITIES, size))
    return [one for one in every if method.accepts(one)]


def some(scans, names):
    return {name: scans[name] for name in names}


def largest(method, scans):
    """The scans of the largest set that the method answers from."""
    return some(scans, sorted(method.largest(set(scans))[0]))


def losses(method, scans, labels, seed=0):
    """The terms of the loss of every stage."""
    return [stage.loss(scans, labels, torch.Generator().manual_seed(seed)) for stage in method.stages()]


def test_the_logits_have_the_size_of_the_image(method, scans):
    for present in accepted(method):
        assert method(some(scans, present)).logits.shape == (2, 3, 8, 8, 12)


def test_the_order_of_the_modalities_is_irrelevant(method, scans):
    scans = largest(method, scans)
    backwards = dict(reversed(scans.items()))
    assert torch.equal(method(scans).logits, method(backwards).logits)


def test_the_order_of_the_modalities_is_irrelevant_in_training(method, scans, labels):
    backwards = dict(reversed(scans.items()))
    for one, other in zip(losses(method, scans, labels), losses(method, backwards, labels), strict=True):
        assert one == other


def test_the_loss_of_a_stage_reaches_every_parameter_of_it(method, scans, labels):
    """Over a few steps: a step may draw some of the modalities only."""
    for stage in method.stages():
        method.zero_grad()
        for seed in range(12):
            stage.loss(scans, labels, torch.Generator().manual_seed(seed))["total"].backward()
        unreached = [name for name, p in method.named_parameters()
                     if any(p is own for own in stage.parameters) and (p.grad is None or not p.grad.abs().sum() > 0)]
        assert unreached == []


def test_the_loss_of_a_stage_reaches_no_parameter_of_another(method, scans, labels):
    for stage in method.stages():
        method.zero_grad()
        stage.loss(scans, labels, torch.Generator())["total"].backward()
        reached = [name for name, p in method.named_parameters()
                   if p.grad is not None and not any(p is own for own in stage.parameters)]
        assert reached == []


def test_the_loss_is_a_function_of_the_generator(method, scans, labels):
    torch.manual_seed(0)
    first = losses(method, scans, labels)
    torch.manual_seed(1)
    assert losses(method, scans, labels) == first


def test_the_total_is_among_the_terms_of_the_loss(method, scans, labels):
    for terms in losses(method, scans, labels):
        assert "total" in terms
        assert all(torch.isfinite(term) for term in terms.values())


def test_a_step_against_the_gradient_lowers_the_loss(method, scans, labels):
    for stage in method.stages():
        optimizer = torch.optim.SGD(stage.parameters, 1e-2)
        before = stage.loss(scans, labels, torch.Generator())["total"]
        before.backward()
        optimizer.step()
        assert stage.loss(scans, labels, torch.Generator())["total"] < before


def test_the_same_images_give_the_same_answer_twice(method, scans):
    scans = largest(method, scans)
    method.eval()
    assert torch.equal(method(scans).logits, method(scans).logits)


def test_what_an_absent_modality_would_hold_cannot_change_an_answer(method, scans):
    for present in accepted(method):
        others = {name: scan if name in present else torch.full_like(scan, torch.nan) for name, scan in scans.items()}
        answer = method.subsets(others, [present])[frozenset(present)]
        assert torch.equal(answer.logits, method(some(scans, present)).logits)


def test_contributions_and_bias_add_up_to_the_logits(method, scans):
    for present in accepted(method):
        answer = method(some(scans, present))
        if answer.contributions:
            assert set(answer.contributions) == present
            total = sum(answer.contributions.values()) + answer.bias.view(1, -1, 1, 1, 1)
            torch.testing.assert_close(total, answer.logits, atol=1e-4, rtol=0)


def test_unknown_modalities_are_refused_by_name(method, scans):
    with pytest.raises(MissingModalityError, match="adc"):
        method({**scans, "adc": scans["t1"]})


def test_no_modality_at_all_is_refused(method):
    with pytest.raises(MissingModalityError, match="no modality"):
        method({})


def test_a_refused_subset_is_refused_by_the_names_that_miss_or_are_too_many(method, scans):
    for present in ({"t1"}, {"t1", "flair"}):
        if not method.accepts(present):
            with pytest.raises(MissingModalityError, match=r"Ask for \['t1'\]" if method.largest(present) else "t2"):
                method(some(scans, present))


def test_images_of_different_or_indivisible_sizes_are_refused(method, scans):
    scans = largest(method, scans)
    if len(scans) > 1:
        with pytest.raises(ValueError, match="different shapes"):
            method({**scans, "t1": scans["t1"][..., :8]})
    with pytest.raises(ValueError, match=r"multiples of \(4, 4, 4\)"):
        method({name: scan[..., :6] for name, scan in scans.items()})


def test_subsets_answer_as_forward_does(method, scans):
    method.eval()
    answers = method.subsets(scans, accepted(method))
    for present, answer in answers.items():
        torch.testing.assert_close(answer.logits, method(some(scans, present)).logits, atol=1e-4, rtol=0)


def test_every_parameter_belongs_to_a_stage(method):
    staged = {id(parameter) for stage in method.stages() for parameter in stage.parameters}
    assert staged == {id(parameter) for parameter in method.parameters()}


def test_a_checkpoint_rebuilds_the_method(method, scans, tmp_path):
    json.dumps(method.settings)
    again = checkpoints.load(checkpoints.save(tmp_path, 1, method))
    scans = largest(method, scans)
    assert type(again) is type(method)
    assert torch.equal(again(scans).logits, method.eval()(scans).logits)


def test_every_method_takes_anisotropic_grids_and_deep_supervision(method, scans, labels):
    settings = {**method.settings, "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
                "kernels": [[3, 3, 1], [3, 3, 3], [3, 3, 3]], "deep_supervision": True, "channels": [4, 6, 8, 8]}
    settings["strides"].append([1, 1, 2])
    settings["kernels"].append([3, 3, 3])
    deep = build(method.name, **settings)
    assert deep.divisor == (4, 4, 4)
    for terms in losses(deep, scans, labels):
        assert torch.isfinite(terms["total"])


def test_names_that_are_no_names_are_refused():
    for name in METHODS:
        for modalities in (("t1", "t 2"), ("t1", "T1"), ()):
            with pytest.raises(ValueError, match="modality names"):
                build(name, modalities=modalities, classes=2)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="early_fusion"):
        build("mamal", modalities=("t1",), classes=2)
    with pytest.raises(ValueError, match="depth"):
        build("maml", modalities=("t1",), classes=2, depth=3)

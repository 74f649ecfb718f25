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


def test_the_logits_have_the_size_of_the_image(method, scans):
    for present in accepted(method):
        assert method(some(scans, present)).logits.shape == (2, 3, 8, 8, 12)


def test_the_order_of_the_modalities_is_irrelevant(method, scans):
    backwards = dict(reversed(scans.items()))
    assert torch.equal(method(scans).logits, method(backwards).logits)


def test_the_loss_reaches_every_parameter(method, scans, labels):
    method.loss(scans, labels, torch.Generator())["total"].backward()
    unreached = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []


def test_the_total_is_among_the_terms_of_the_loss(method, scans, labels):
    terms = method.loss(scans, labels, torch.Generator())
    assert "total" in terms
    assert all(torch.isfinite(term) for term in terms.values())


def test_a_step_against_the_gradient_lowers_the_loss(method, scans, labels):
    optimizer = torch.optim.SGD(method.parameters(), 1e-2)
    before = method.loss(scans, labels, torch.Generator())["total"]
    before.backward()
    optimizer.step()
    assert method.loss(scans, labels, torch.Generator())["total"] < before


def test_the_same_images_give_the_same_answer_twice(method, scans):
    method.eval()
    assert torch.equal(method(scans).logits, method(scans).logits)


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


def test_a_refused_subset_is_refused_by_the_names_that_miss(method, scans):
    for present in ({"t1"}, {"t1", "flair"}):
        if not method.accepts(present):
            with pytest.raises(MissingModalityError, match="t2"):
                method(some(scans, present))


def test_images_of_different_or_indivisible_sizes_are_refused(method, scans):
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
    assert type(again) is type(method)
    assert torch.equal(again(scans).logits, method.eval()(scans).logits)


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

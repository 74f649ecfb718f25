"""Recomputation changes memory and time alone: weights after twenty steps are the same, and less is kept."""

import pytest
import torch

from benchmarks.steps import made, trainer_step
from maml_toolkit.networks.execution import set_execution


def kept(method, images, labels) -> int:
    """Bytes that a loss keeps for its gradient, weights included."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = (storage.nbytes(), tensor)     # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        method.loss(images, labels, torch.Generator())["total"].detach()
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize(("name", "precision"), [
    ("maml", "float32"), ("maml", "bfloat16"), ("early_fusion", "bfloat16"), ("hemis", "float32"),
    ("octopusnet", "float32")])
def test_weights_after_twenty_steps_are_the_same_with_and_without(name, precision):
    weights = {}
    for recompute in (False, True):
        method = made(name, 2, (4, 6, 8), classes=3)
        step = trainer_step(method, 8, 2, precision, recompute=recompute)
        for _ in range(20):
            step()
        weights[recompute] = method.state_dict()
    fresh = made(name, 2, (4, 6, 8), classes=3).state_dict()
    assert [key for key, one in weights[False].items() if not torch.equal(weights[True][key], one)] == []
    assert any(not torch.equal(fresh[key], one) for key, one in weights[False].items())


def test_it_keeps_half_at_most_and_is_no_part_of_the_weights():
    method = made("maml", 4, (16, 16, 16))
    images = {name: torch.randn(1, 1, 16, 16, 16) for name in method.modalities}
    labels = torch.randint(0, 4, (1, 16, 16, 16))
    plain, keys = kept(method, images, labels), list(method.state_dict())
    set_execution(method, recompute=True)
    assert kept(method, images, labels) < 0.5 * plain
    assert list(method.state_dict()) == keys
    set_execution(method)
    assert kept(method, images, labels) == plain

"""Activation checkpointing and compiled streams: the same weights by the same names, the same values."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from tiny_training import environment, trainer
from torch.nn import functional

from benchmarks.training import made, trainer_step
from maml_toolkit.methods import METHODS, build
from maml_toolkit.networks.execution import Convolution, set_execution


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


SCRIPT = """
import json, sys, tempfile
from maml_toolkit.data import phantoms
from tiny_training import trainer, weights
cases = phantoms.liver_phases(3, size=16)
found = []
for compiled in (False, True):
    one = trainer(tempfile.mkdtemp(), compile=compiled, precision="float32", augmentation=None, learning_rate=1e-4)
    history = one.fit(cases[:2], cases[2:])
    found.append([history["loss/total"].tolist(), history["validation/dice/tumour"].tolist()[-1],
                  weights(one).tolist(), sorted(one.method.state_dict())])
json.dump(found, open(sys.argv[1], "w"))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or not shutil.which("g++"), reason="torch compiles for a CPU with g++")
def test_compiled_streams_train_to_the_same_values(tmp_path):
    """In a process where nothing checks the shapes of arguments, which torch cannot compile."""
    kept = tmp_path / "found"
    subprocess.run([sys.executable, "-c", SCRIPT, str(kept)], env=environment(), check=True, timeout=1200)
    (losses, dice, weights, names), (losses_2, dice_2, weights_2, names_2) = json.loads(kept.read_text())
    assert names == names_2
    assert losses_2 == pytest.approx(losses, rel=1e-4)
    assert dice_2 == pytest.approx(dice, abs=0.01)
    # at a rate of 1e-4, Adam moves no weight further than 1e-4 a step, whichever way
    assert torch.tensor(weights_2).sub(torch.tensor(weights)).abs().max() < 12e-4
    assert torch.tensor(weights_2).sub(torch.tensor(weights)).abs().mean() < 2e-5


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")      # torch warns about itself
@pytest.mark.parametrize("method", sorted(METHODS))
def test_to_be_compiled_changes_no_name_and_can_be_taken_back(tmp_path, method):
    one = trainer(tmp_path, method=method).method
    names = list(one.state_dict())
    set_execution(one, compiled=True)
    assert list(one.state_dict()) == names
    assert sum(module._compiled_call_impl is not None for module in one.modules()) >= 2
    set_execution(one)
    assert all(module._compiled_call_impl is None for module in one.modules())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), [
    ((8, 8, 8), (3, 3, 3), (1, 1, 1), (1, 1, 1)), ((7, 6, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((8, 6, 4), (3, 3, 3), (2, 2, 2), (1, 1, 1)), ((6, 8, 8), (3, 3, 3), (2, 1, 2), (1, 1, 1)),
    ((5, 6, 7), (1, 3, 3), (1, 1, 1), (0, 1, 1)), ((2, 4, 4), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((1, 4, 4), (3, 3, 3), (1, 1, 1), (1, 1, 1))])
def test_a_convolution_has_the_values_and_gradients_of_torch(shape, kernel, stride, padding, batch):
    layer = Convolution(3, 4, kernel, stride, padding)
    found, expected = (torch.randn(batch, 3, *shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
                       for _ in range(2))
    answer = layer(found)
    answer.square().sum().backward()
    of_weight, of_bias = layer.weight.grad.clone(), layer.bias.grad.clone()
    layer.zero_grad()
    plain = functional.conv3d(expected, layer.weight, layer.bias, stride, padding)
    plain.square().sum().backward()
    for one, other in ((answer, plain), (found.grad, expected.grad), (of_weight, layer.weight.grad),
                       (of_bias, layer.bias.grad)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def left_to_im2col(run):
    """Sizes of the kernels that torch convolves by `slow_conv3d_forward`, which copies the features for each voxel."""
    with torch.no_grad(), torch.profiler.profile(record_shapes=True) as profile:
        run()
    return {tuple(one.input_shapes[1][2:]) for one in profile.events() if one.name == "aten::slow_conv3d_forward"}


@pytest.mark.parametrize("attention", ["paper", "released"])
def test_a_single_sample_is_never_left_to_im2col(attention):
    method = build("maml", modalities=("arterial", "venous"), classes=2, channels=(4, 8), attention=attention)
    images = {name: torch.randn(1, 1, 8, 8, 8) for name in method.modalities}
    assert left_to_im2col(lambda: functional.conv3d(images["venous"], torch.randn(4, 1, 3, 3, 3))) == {(3, 3, 3)}
    assert left_to_im2col(lambda: list(method.sweep(images, [{"arterial", "venous"}, {"venous"}]))) <= {(1, 1, 1)}
    assert left_to_im2col(lambda: method(images)) <= {(1, 1, 1)}

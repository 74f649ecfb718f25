"""The U-Net's shapes and nnU-Net's rule for strides and kernels."""

import pytest
import torch

from maml_toolkit.methods import METHODS, build
from maml_toolkit.networks import execution
from maml_toolkit.networks.execution import InstanceNorm
from maml_toolkit.networks.unet import Heads, UNet, layout, planned_patch, total_stride


def test_every_level_has_its_size_and_width():
    levels = UNet(2, channels=(4, 6, 8))(torch.zeros(1, 2, 8, 12, 16))
    assert [tuple(level.shape) for level in levels] == [(1, 4, 8, 12, 16), (1, 6, 4, 6, 8)]


def test_an_anisotropic_network_keeps_the_coarse_axis():
    settings = layout((32, 32, 8), (0.5, 0.5, 3), stages=3)
    unet = UNet(1, channels=(4, 6, 8), **settings)
    assert total_stride(settings["strides"]) == (4, 4, 1)
    assert unet(torch.zeros(1, 1, 32, 32, 8))[0].shape == (1, 4, 32, 32, 8)
    assert unet.encoder.stages[0][0][0].kernel_size == (3, 3, 1)


def test_an_isotropic_patch_is_halved_on_every_axis():
    assert layout((128, 128, 128), (1, 1, 1), stages=6) == {
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5, "kernels": [[3, 3, 3]] * 6}


def test_the_coarse_axis_joins_once_the_grid_is_nearly_isotropic():
    # by hand: spacing 1, 1, 3.6 -> 2, 2, 3.6 after one halving, where 3.6 < 2 * 2 lets the third axis join
    settings = layout((64, 64, 32), (1, 1, 3.6), stages=4)
    assert settings["strides"] == [[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]
    assert settings["kernels"] == [[3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]]


def test_a_patch_too_small_for_its_stages_is_refused():
    with pytest.raises(ValueError, match="6 channels were given"):
        layout((16, 16, 16), (1, 1, 1), stages=6)


def test_a_patch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiples of \(8, 8, 8\)"):
        layout((36, 36, 36), (1, 1, 1), stages=4)


@pytest.mark.parametrize(("shape", "spacing", "stages"), [
    ((240, 240, 155), (1, 1, 1), 5), ((192, 192, 19), (0.5, 0.5, 3), 5), ((512, 512, 78), (0.727, 0.727, 2), 5)])
def test_a_planned_patch_keeps_its_budget_and_divides(shape, spacing, stages):
    for voxels in (64**3, 96**3):
        patch = planned_patch(shape, spacing, voxels, stages)
        divisor = total_stride(layout(patch, spacing, stages)["strides"])
        assert patch[0] * patch[1] * patch[2] <= voxels
        assert all(n % d == 0 and n - d < whole for n, d, whole in zip(patch, divisor, shape, strict=True))


def test_a_planned_patch_is_wide_where_the_case_is_fine_and_the_whole_case_where_it_is_small():
    patch = planned_patch((400, 400, 60), (1, 1, 4), 64**3, stages=4)
    assert patch[0] > 2 * patch[2]
    assert planned_patch((30, 30, 30), (1, 1, 1), 64**3, stages=3) == [32, 32, 32]


def test_a_budget_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(ValueError, match="6 channels were given"):
        planned_patch((100, 100, 100), (1, 1, 1), 8**3, stages=6)
    with pytest.raises(ValueError, match="3 channels were given"):
        planned_patch((64, 64, 1), (1, 1, 1), 10, stages=3)


def test_deep_supervision_has_a_head_at_every_level_but_the_lowest():
    assert len(Heads((4, 6, 8, 8), 2, deep_supervision=True).levels) == 2
    assert len(Heads((4, 6), 2, deep_supervision=True).levels) == 1
    assert len(Heads((4, 6, 8, 8), 2).levels) == 1


def test_the_norm_is_instance_norm_by_either_operation_with_the_state_of_group_norm(monkeypatch):
    norm, other = InstanceNorm(4), torch.nn.InstanceNorm3d(4, affine=True)
    state = {"weight": torch.tensor([1.0, -2, 3, 0.5]), "bias": torch.tensor([0.0, 1, -1, 2])}
    for one in (norm, other, torch.nn.GroupNorm(4, 4)):
        one.load_state_dict(state)
    features = torch.randn(2, 4, 5, 6, 7) * 3 + 1
    found = {}
    for devices in ({"cpu"}, set()):
        monkeypatch.setattr(execution, "BY_GROUPS", devices)
        given = features.clone().requires_grad_()
        norm.zero_grad()
        answer = norm(given)
        answer.square().sum().backward()
        found[len(devices)] = answer, given.grad, norm.weight.grad, norm.bias.grad
        torch.testing.assert_close(answer, other(features))
        assert set(norm.state_dict()) == {"weight", "bias"}
    for one, same in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-4)


def test_off_the_cpu_the_norm_stays_in_the_type_of_its_input_under_autocast(monkeypatch):
    """On the device "meta" autocast does nothing, so it is the operation that is looked at."""
    asked = []
    monkeypatch.setattr(torch.nn.functional, "instance_norm", lambda features, **_: asked.append(features) or features)
    features = torch.empty(2, 4, 8, 8, 8, device="meta")
    assert InstanceNorm(4).to("meta")(features) is features
    InstanceNorm(4)(torch.zeros(2, 4, 8, 8, 8))
    assert asked == [features]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_and_answers_alike_by_either_operation(method, monkeypatch):
    torch.manual_seed(0)
    network = build(method, modalities=("a", "b"), classes=2, channels=(4, 6))
    images = {name: torch.randn(1, 1, 8, 8, 8) for name in ("a", "b")}
    labels, found = torch.randint(0, 2, (1, 8, 8, 8)), []
    assert not any(type(module) is torch.nn.GroupNorm for module in network.modules())
    for devices in ({"cpu"}, set()):
        monkeypatch.setattr(execution, "BY_GROUPS", devices)
        network.zero_grad()
        totals = [stage.loss(images, labels, torch.Generator().manual_seed(0))["total"] for stage in network.stages()]
        sum(totals).backward()
        found.append([*(total.detach() for total in totals), *(one.grad for one in network.parameters())])
    for one, same in zip(*found, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strides", [None, [(1, 1, 1), (2, 2, 2), (1, 2, 2)]])
def test_a_fresh_decoder_leaves_no_checkerboard(strides):
    """What is constant before a transposed convolution is constant after it; varied it is once trained."""
    torch.manual_seed(0)
    for up in UNet(1, (4, 6, 8), strides).decoder.up:
        made = up(torch.randn(1, up.in_channels, 1, 1, 1).expand(-1, -1, 3, 3, 3))
        torch.testing.assert_close(made, made[..., :1, :1, :1].expand_as(made))
        assert made.std() > 0.1

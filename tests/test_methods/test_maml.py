"""MAML and its modality-aware module against the authors' numbers, the paper's formulas and their properties."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional

from maml_toolkit.methods.maml import MAML, ModalityAwareModule
from maml_toolkit.networks.modality_aware import Pointwise
from maml_toolkit.networks.unet import CHANNELS, Head, UNet, spread_directions
from maml_toolkit.system.errors import MissingModalityError

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def float64(array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


def copy_parameters(layers, arrays, prefix):
    """Parameters of an oracle's attention branch; a convolution bias before a norm has no counterpart here."""
    for index, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            parameter.data = float64(arrays[f"{prefix}.{index}.{name}"])


@pytest.fixture
def released(oracles):
    """The authors' module with the oracle's parameters, and the oracle."""
    arrays = np.load(oracles / "ma_released.npz")
    module = ModalityAwareModule(("zero", "one"), 4, attention="released").double()
    module.fuse.weight.data = float64(arrays["sd/fusion.weight"])
    module.fuse.bias.data = float64(arrays["sd/fusion.bias"])
    for index, name in enumerate(module.modalities):
        copy_parameters(module.attend[name], arrays, f"sd/modality_aware_modules.{index}")
    head = Head(4, 3).double()
    head.weight.data = float64(arrays["sd/output.weight"])
    head.bias.data.zero_()
    return module, head, arrays


def test_the_module_reproduces_the_release(released):
    module, head, arrays = released
    features = {"zero": float64(arrays["F0"]), "one": float64(arrays["F1"])}
    fused, attention, attended = module(features)
    for found, expected in ((fused, "F_dual"), (attention["zero"], "A0"), (attention["one"], "A1"), (attended, "F_att"),
                            (head(attended), "logits")):
        torch.testing.assert_close(found, float64(arrays[f"{expected}_f64"]), **TIGHT)


def test_every_gradient_of_the_module_is_that_of_the_release(released):
    module, head, arrays = released
    features = {"zero": float64(arrays["F0"]).requires_grad_(), "one": float64(arrays["F1"]).requires_grad_()}
    (head(module(features)[2]) * float64(arrays["cotangent"])).sum().backward()
    torch.testing.assert_close(features["zero"].grad, float64(arrays["grad_F0_f64"]), **TIGHT)
    torch.testing.assert_close(features["one"].grad, float64(arrays["grad_F1_f64"]), **TIGHT)
    names = {"fusion.weight": module.fuse.weight, "fusion.bias": module.fuse.bias, "output.weight": head.weight}
    for index, modality in enumerate(module.modalities):
        names |= {f"modality_aware_modules.{index}.{name}": parameter
                  for name, parameter in module.attend[modality].named_parameters()}
    for name, parameter in names.items():
        torch.testing.assert_close(parameter.grad, float64(arrays[f"grad_sd/{name}"]), **TIGHT)
    left_out = {name.removeprefix("grad_sd/") for name in arrays.files if name.startswith("grad_sd/")} - set(names)
    assert left_out == {"modality_aware_modules.0.0.bias", "modality_aware_modules.1.0.bias"}
    for name in left_out:    # a bias before an instance norm: its gradient is zero but for rounding
        assert np.abs(arrays[f"grad_sd/{name}"]).max() < 1e-12


def test_the_module_reproduces_the_release_in_float32(released):
    module, head, arrays = released
    module, head = module.float(), head.float()
    attended = module({"zero": torch.from_numpy(arrays["F0"]), "one": torch.from_numpy(arrays["F1"])})[2]
    torch.testing.assert_close(head(attended), torch.from_numpy(arrays["logits_f32"]), rtol=0, atol=1e-5)


def test_the_module_reproduces_the_paper(oracles):
    arrays, inputs = np.load(oracles / "ma_paper.npz"), np.load(oracles / "ma_released.npz")
    module = ModalityAwareModule(("zero", "one"), 4, attention="paper").double()
    fused = float64(inputs["F_dual_f64"])
    features = {"zero": float64(inputs["F0"]), "one": float64(inputs["F1"])}
    attended = 0
    for index, (name, own) in enumerate(features.items()):
        copy_parameters(module.attend[name], arrays, f"sd/{index}")
        attention = module.attention_map(name, fused, own)
        torch.testing.assert_close(attention, float64(arrays[f"A{index}"]), **TIGHT)
        attended = attended + module.weighted(attention, own, 2)
    torch.testing.assert_close(attended, float64(arrays["F_att"]), **TIGHT)


@pytest.mark.parametrize("features", [{}, {"one": torch.zeros(1, 4, 2, 2, 2), "two": torch.zeros(1, 4, 2, 2, 2)}])
def test_the_module_refuses_what_it_was_not_built_for(features):
    with pytest.raises(ValueError, match=r"expected some of \['zero', 'one'\]"):
        ModalityAwareModule(("zero", "one"), 4)(features)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MAML(("t1", "t2", "flair"), 3, channels=(4, 6, 8)).double().eval()


@pytest.fixture
def images(scans):
    return {name: scan.double() for name, scan in scans.items()}


def test_the_full_set_is_the_papers_forward(model, images):
    features = {name: model.streams[name](image)[0] for name, image in images.items()}
    fuse = model.aware.fuse
    fused = functional.conv3d(torch.cat(list(features.values()), 1), fuse.weight, fuse.bias, padding=1)
    attended = sum(torch.sigmoid(model.aware.attend[name](torch.cat((fused, own), 1))) * own
                   for name, own in features.items())
    torch.testing.assert_close(model(images).logits, model.classifier(attended), **TIGHT)


def test_one_modality_is_answered_by_its_own_head(model, images):
    answer = model({"t2": images["t2"]})
    torch.testing.assert_close(answer.logits, model.heads["t2"].finest(model.streams["t2"](images["t2"])[0]), **TIGHT)
    assert answer.attention == {}
    assert list(answer.contributions) == ["t2"]


def test_two_of_three_follow_the_masked_formula(model, images):
    present = ("t1", "flair")
    own = {name: model.streams[name](images[name])[0] for name in present}
    whole = model.aware.fuse.weight
    parts = {"t1": whole[:, 0:4], "flair": whole[:, 8:12]}
    fused = model.aware.fuse.bias.view(1, -1, 1, 1, 1) + 3 / 2 * sum(
        functional.conv3d(own[name], parts[name], padding=1) for name in present)
    attended = 3 / 2 * sum(torch.sigmoid(model.aware.attend[name](torch.cat((fused, own[name]), 1))) * own[name]
                           for name in present)
    answer = model({name: images[name] for name in present})
    torch.testing.assert_close(answer.logits, model.classifier(attended), **TIGHT)
    assert set(answer.attention) == set(present)


def test_the_content_of_an_absent_modality_cannot_change_anything(model, images):
    before = model.subsets(images, [{"t1", "flair"}])
    after = model.subsets({**images, "t2": torch.full_like(images["t2"], torch.nan)}, [{"t1", "flair"}])
    assert torch.equal(before[frozenset({"t1", "flair"})].logits, after[frozenset({"t1", "flair"})].logits)


def test_an_absent_stream_is_not_run(model, images):
    model.streams["t2"].register_forward_hook(lambda *_: pytest.fail("the absent stream was run"))
    model({name: images[name] for name in ("t1", "flair")})


def test_attention_lies_between_zero_and_one(model, images):
    for attention in model(images).attention.values():
        assert 0 <= attention.min() < attention.max() <= 1


def test_contributions_add_up_under_autocast_too(scans):
    model = MAML(("t1", "t2", "flair"), 3, channels=(4, 6, 8)).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for present in (scans, {"t1": scans["t1"], "t2": scans["t2"]}, {"t1": scans["t1"]}):
            answer = model(present)
            total = sum(answer.contributions.values()) + answer.bias.view(1, -1, 1, 1, 1)
            torch.testing.assert_close(total, answer.logits, atol=1e-4, rtol=0)
            assert answer.logits.dtype == torch.float32


def test_the_product_of_matrices_in_bfloat16_is_the_convolution():
    torch.manual_seed(0)
    layer = Pointwise(6)
    features = torch.randn(2, 6, 4, 5, 6, dtype=torch.bfloat16, requires_grad=True)
    found = []
    for forward in (layer, functools.partial(torch.nn.Conv3d.forward, layer)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = forward(features)
        assert made.is_contiguous()
        assert made.dtype == torch.bfloat16
        found.append((made, *torch.autograd.grad(made.float().square().mean(), [features, layer.weight])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=1e-4)


def test_the_loss_is_equation_three(model, images, labels):
    terms = model.loss(images, labels, torch.Generator())
    intra = sum(terms[f"intra/{name}"] for name in images)
    torch.testing.assert_close(terms["total"], 0.5 * intra + terms["joint"], **TIGHT)


def test_training_with_one_modality_trains_that_modality(model, images, labels):
    terms = model.loss({"t1": images["t1"]}, labels, torch.Generator())
    assert set(terms) == {"intra/t1", "total"}


def test_without_intra_loss_there_are_no_heads_and_one_modality_is_refused(images):
    model = MAML(("t1", "t2", "flair"), 3, channels=(4, 6, 8), intra_weight=0).double()
    assert not any("heads" in name for name, _ in model.named_parameters())
    assert model(images).per_modality == {}
    with pytest.raises(MissingModalityError, match="t2"):
        model({"t1": images["t1"]})


def test_deep_supervision_supervises_lower_levels_of_the_modality_heads(scans, labels):
    model = MAML(("t1", "t2", "flair"), 3, channels=(4, 6, 8, 8), strides=[[1] * 3, [2] * 3, [2] * 3, [1, 1, 2]],
                 deep_supervision=True)
    assert [len(heads.levels) for heads in model.heads.values()] == [2, 2, 2]
    terms = model.loss({name: scan[..., :8] for name, scan in scans.items()}, labels[..., :8], torch.Generator())
    terms["total"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.heads.parameters())


@pytest.mark.parametrize(("settings", "message"), [
    ({"attention": "papers"}, "attention"), ({"intra_weight": -1}, "intra_weight"), ({"classes": 1}, "classes"),
    ({"intra_weight": 0, "deep_supervision": True}, "deep_supervision"), ({"channels": (8,)}, "stages")])
def test_arguments_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MAML(**{"modalities": ("t1", "t2"), "classes": 2, "channels": (4, 6), **settings})


@pytest.mark.parametrize(("attention", "millions"), [("paper", 62.55), ("released", 62.61)])
def test_the_parameters_are_the_papers_up_to_biases(attention, millions):
    """Published: heads without bias, a bias in every convolution before an instance norm. Here: the other way round."""
    with torch.device("meta"):
        model = MAML(("arterial", "venous"), 2, CHANNELS, attention=attention)
        convolutions = [module for stream in model.streams.values() for module in stream.modules()
                        if isinstance(module, torch.nn.Conv3d)]
    count = sum(parameter.numel() for parameter in model.parameters())
    before_norms = sum(one.out_channels for one in convolutions) + 2 * (2 if attention == "paper" else 1) * 32
    heads = 3 * 2
    assert before_norms == 2 * 3840 + {"paper": 128, "released": 64}[attention]
    assert round((count + before_norms - heads) / 1e6, 2) == millions


def test_a_stream_has_the_parameters_of_nnu_nets_layout():
    with torch.device("meta"):
        stream = UNet(1, CHANNELS)
    assert round(sum(parameter.numel() for parameter in stream.parameters()) / 1e6, 2) == 31.19


def directions(model: MAML) -> torch.Tensor:
    """What decides between the classes in every head and the joint classifier, (heads, classes, channels)."""
    heads = [model.heads[name].finest for name in model.modalities] + [model.classifier]
    weights = torch.stack([head.weight.detach().flatten(1) for head in heads])
    return weights - weights.mean(1, keepdim=True)


@pytest.mark.parametrize(("scans", "classes", "channels"), [(2, 2, 8), (4, 4, 16), (3, 3, 32)])
def test_heads_and_classifier_start_orthogonal_and_as_long_as_he_makes_them(scans, classes, channels):
    torch.manual_seed(0)
    model = MAML([f"m{n}" for n in range(scans)], classes, channels=(channels, 4))
    found = directions(model)
    between = torch.einsum("hkc,glc->hgkl", found, found).amax((2, 3)).fill_diagonal_(0)
    assert float(between.abs().max()) < 1e-5
    # He: rows of length sqrt 2, of which the mean over the classes takes one of K away
    torch.testing.assert_close(found.norm(dim=(1, 2)), torch.full((scans + 1,), (2 * (classes - 1)) ** 0.5))
    assert all(not head.bias.any() for head in [model.classifier, *(model.heads[n].finest for n in model.modalities)])


def test_more_directions_than_channels_are_as_far_from_parallel_as_they_can_be():
    torch.manual_seed(0)
    for count, size in ((6, 3), (3, 2), (12, 8)):
        found = spread_directions(count, size)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(count))
        largest = float((found @ found.T).fill_diagonal_(0).abs().max())
        # three lines of a plane lie 60 degrees apart, the six through an icosahedron's corners 63.4
        best = {(3, 2): 0.5, (6, 3): 5**-0.5}.get((count, size), 0.24)
        assert largest <= best + 0.01


def test_a_start_changes_heads_and_classifier_only_and_the_old_one_is_kept():
    made = {}
    for start in ("orthogonal", "independent"):
        torch.manual_seed(3)
        made[start] = MAML(("a", "b"), 2, channels=(4, 8), start=start).state_dict()
    other = {name for name in made["orthogonal"]
             if not torch.equal(made["orthogonal"][name], made["independent"][name])}
    assert other == {"heads.a.levels.0.weight", "heads.b.levels.0.weight", "classifier.weight", "classifier.bias"}
    with pytest.raises(ValueError, match="start"):
        MAML(("a", "b"), 2, channels=(4, 8), start="equal")

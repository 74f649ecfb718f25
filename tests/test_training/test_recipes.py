"""Recipes: nnU-Net's own numbers, and that a run is trained by what it says."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import LIVER
from torch import nn

from maml_toolkit import MAML, Trainer
from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.methods import build
from maml_toolkit.system.errors import DataWarning
from maml_toolkit.training.recipes import RECIPES, Recipe
from maml_toolkit.training.stepping import update

SMALL = {"patch_size": (16, 16, 16), "batch_size": 2, "epochs": 2, "steps_per_epoch": 2, "device": "cpu"}


def network(name: str = "early_fusion", **own):
    torch.manual_seed(0)
    return build(name, modalities=LIVER.modalities, classes=2, channels=(2, 4, 4), **own)


def test_nnunet_is_nnunets():
    recipe = RECIPES["nnunet"]
    optimizer = recipe.optimizer_of([nn.Parameter(torch.zeros(3))])
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")] == [1e-2, 0.99, True, 3e-5]
    assert [recipe.rate(done) for done in (0, 0.5, 1)] == pytest.approx([1e-2, 1e-2 * 0.5**0.9, 0])
    assert (recipe.clip_norm, recipe.deep_supervision, recipe.mirror) == (12, True, True)


def test_the_papers_is_adam_at_a_constant_rate():
    recipe = RECIPES["paper"]
    optimizer = recipe.optimizer_of([nn.Parameter(torch.zeros(3))])
    assert isinstance(optimizer, torch.optim.Adam)
    assert [recipe.rate(done) for done in (0, 0.5, 1)] == [3e-4] * 3
    assert recipe.clip_norm is None


@pytest.mark.parametrize("wrong", [{"optimizer": "rmsprop"}, {"schedule": "step"}, {"foreground": "all"},
                                   {"momentum": 1.0}, {"learning_rate": 0.0}, {"clip_norm": 0.0}])
def test_what_is_no_recipe_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Recipe(**wrong)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    for length in (3.0, 30.0):
        weight = nn.Parameter(torch.zeros(9))
        weight.grad = torch.full((9,), length / 3)
        clipped = nn.Parameter(torch.zeros(9))
        clipped.grad = weight.grad.clone()
        nn.utils.clip_grad_norm_([clipped], 12)
        terms = [{"total": torch.tensor(1.0)}]
        update(torch.optim.SGD([weight], 1.0), torch.amp.GradScaler("cpu", enabled=False), terms, 12)
        torch.testing.assert_close(weight.detach(), -clipped.grad)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_by_any_recipe_that_was_stopped_goes_on_to_the_same_weights(recipe, tmp_path):
    cases = phantoms.liver_phases(3, 12)
    own = {"deep_supervision": RECIPES[recipe].deep_supervision}
    slow = {"recipe": recipe, "learning_rate": 1e-3, "schedule": "constant"}
    whole = network(**own)
    Trainer(whole, tmp_path / "whole", LIVER, **slow, **SMALL).fit(cases)
    for epochs in (1, 2):
        again = network(**own)
        Trainer(again, tmp_path / "parts", LIVER, **slow, **SMALL | {"epochs": epochs}).fit(cases)
    assert all(torch.equal(one, other) for one, other in
               zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    settings = json.loads((tmp_path / "parts" / "settings.json").read_text())["trainer"]
    assert (settings["recipe"], settings["optimizer"]) == (recipe, RECIPES[recipe].optimizer)


def test_what_is_given_takes_the_place_of_the_recipes(tmp_path):
    trainer = Trainer(network(deep_supervision=True), tmp_path, LIVER, recipe="nnunet", learning_rate=0.5,
                      schedule="constant", augmentation=None, **SMALL)
    assert trainer.recipe == replace(RECIPES["nnunet"], learning_rate=0.5, schedule="constant", augmentation=None)


def test_a_method_without_deep_supervision_is_told_of_it(tmp_path):
    with pytest.warns(UserWarning, match="deep_supervision"):
        Trainer(network(), tmp_path, LIVER, recipe="nnunet", **SMALL)


def test_a_run_begun_before_there_were_recipes_goes_on(tmp_path):
    cases = phantoms.liver_phases(3, 12)
    Trainer(network(), tmp_path, LIVER, **SMALL | {"epochs": 1}).fit(cases)
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    old = ("patch_size", "batch_size", "parts", "epochs", "steps_per_epoch", "learning_rate", "schedule", "seed",
           "precision", "compile", "augmentation")
    settings["trainer"] = {name: settings["trainer"][name] for name in old}
    del settings["trainer"]["augmentation"]["intensities"]
    path.write_text(json.dumps(settings))
    assert len(Trainer(network(), tmp_path, LIVER, **SMALL).fit(cases)) == 2


def test_sided_tasks_are_not_mirrored_from_left_to_right_by_nnunets_recipe_either(tmp_path):
    sided = replace(LIVER, labels={"background": 0, "left tumour": 1}, regions={}, codes={})
    trainer = Trainer(network(deep_supervision=True), tmp_path, sided, recipe="nnunet", **SMALL)
    assert trainer.recipe.augmentation.mirror == (0, 0.5, 0.5)


def test_maml_takes_either_recipe(tmp_path):
    model = MAML(LIVER.modalities, 2, channels=(2, 4, 4), deep_supervision=True)
    history = Trainer(model, tmp_path, LIVER, recipe="nnunet", **SMALL).fit(phantoms.liver_phases(3, 12))
    assert np.isfinite(history["loss/total"]).all()
    assert Augmentation(**json.loads((tmp_path / "settings.json").read_text())["trainer"]["augmentation"]) == \
        RECIPES["nnunet"].augmentation


@pytest.mark.parametrize("skipped", [[0], [0, 1], [1]])
def test_a_skipped_step_leaves_no_trace_in_the_momentum(skipped):
    """Of what the memory holds otherwise, where the first one is skipped."""
    recipe, scaler = RECIPES["nnunet"], torch.amp.GradScaler("cpu", enabled=False)
    found = []
    for steps in ([*range(4)], [step for step in range(4) if step not in skipped]):
        weight = nn.Parameter(torch.ones(3))
        optimizer = recipe.optimizer_of([weight])
        torch.full((3,), 7000.0)                # is gone at once, and its memory is the next one's
        for step in steps:
            weight.grad = torch.full((3,), float("nan") if step in skipped else 1.0 + step)
            update(optimizer, scaler, [{"total": torch.zeros(())}])
        found.append(weight.detach())
    assert torch.equal(*found)
    assert found[0].isfinite().all()


@pytest.mark.parametrize("name", ["uhved", "hemis", "maml"])
def test_nnunets_recipe_trains_where_steps_have_other_modalities_than_those_before(name, tmp_path):
    cases = [replace(case, images={one: case.images[one]}) for case, one in zip(
        phantoms.liver_phases(4, 16), 2 * LIVER.modalities, strict=True)]
    few = {**SMALL, "batch_size": 1, "steps_per_epoch": 4}
    with pytest.warns(DataWarning, match="together") if name == "maml" else nullcontext():
        history = Trainer(network(name, deep_supervision=True), tmp_path, LIVER, recipe="nnunet", **few).fit(cases)
    assert np.isfinite(history["loss/total"]).all()
    assert (history["skipped"] == 0).all()


@pytest.mark.parametrize("wrong", ["none", "nnunet"])
def test_what_is_no_augmentation_is_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match="augmentation"):
        Trainer(network(), tmp_path, LIVER, augmentation=wrong, **SMALL)

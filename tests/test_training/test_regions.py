"""A training on regions: to the same end when interrupted, and from its weights to predictions, files and tables."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from scipy.special import expit
from tiny_training import interrupted, same_end

from maml_toolkit import Predictor, Trainer, evaluate, from_pretrained, save_pretrained
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation.explaining.maps import map_scores
from maml_toolkit.evaluation.explaining.perturbation import deletion
from maml_toolkit.evaluation.fitting import SHARES, by_share
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.methods import build
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.prediction import Prediction, without_small
from maml_toolkit.prediction.saved import file_name
from maml_toolkit.training.planning.measuring import one_size
from maml_toolkit.training.starting import start_from

CLASSES = TASKS["brats2021"]
TASK = replace(CLASSES, train_on="regions")
WINDOW = (16, 16, 16)


def network(task=TASK, seed=0, **own):
    torch.manual_seed(seed)
    return build("maml", modalities=task.modalities, **task.outputs, channels=(4, 6), **own)


def trainer(run, task=TASK, **settings):
    return Trainer(network(task), run, task, patch_size=WINDOW, epochs=2, steps_per_epoch=2, batch_size=1, **settings)


@pytest.fixture(scope="module")
def cases():
    return phantoms.brains(3, size=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cases):
    """A run of four steps with deep supervision, of which the last case was held out."""
    folder = tmp_path_factory.mktemp("runs") / "regions"
    Trainer(network(deep_supervision=True, subset_weight=1.0), folder, TASK, patch_size=WINDOW, epochs=2,
            steps_per_epoch=2, batch_size=1, validate_every=2).fit(cases[:2], cases[2:])
    return folder


def test_an_interrupted_training_comes_to_the_same_end(tmp_path, cases):
    trainer(tmp_path / "whole").fit(cases[:2])
    interrupted(trainer(tmp_path / "again"), 3, cases[:2])
    trainer(tmp_path / "again").fit(cases[:2])
    same_end(tmp_path / "whole", tmp_path / "again")


def test_validation_tells_the_dice_of_each_region(run):
    history = (run / "history.csv").read_text().splitlines()
    assert [f"validation/dice/{region}" in history[0] for region in TASK.regions] == [True] * 3
    assert json.loads((run / "settings.json").read_text())["task"]["train_on"] == "regions"


def test_a_prediction_has_a_channel_for_each_region_and_contributions_that_add_up(run, cases, tmp_path):
    predictor = Predictor.load(run, precision="float32")
    found = predictor(cases[2])
    assert found.logits.shape == (3, *found.grid.shape)
    np.testing.assert_allclose(found.probabilities, expit(found.logits), rtol=1e-6)
    said = sum(found.maps[f"contribution/{name}"] for name in TASK.modalities) + found.bias[:, None, None, None]
    np.testing.assert_allclose(said, found.maps["logits"], atol=1e-5)
    inside = np.zeros(found.grid.shape, int)
    for channel, name in enumerate(("oedema", "necrosis", "enhancing")):
        inside[found.logits[channel] > 0] = TASK.class_names.index(name)
    np.testing.assert_array_equal(found.classes, inside)

    found.save(tmp_path / "one")
    back = Prediction.load(tmp_path / "one")
    assert back.task.answers == TASK.answers
    assert nibabel.load(tmp_path / "one" / file_name(found.case, "probabilities")).shape[3] == 3
    np.testing.assert_array_equal(back.classes, found.classes)
    np.testing.assert_allclose(back.probabilities, found.probabilities, atol=1e-6)
    np.testing.assert_allclose(back.in_box("logits"), found.in_box("logits"), atol=1e-4)
    predictor.predict(cases[2], contributions=False).save(tmp_path / "two")
    inferred = Prediction.load(tmp_path / "two").in_box("logits")
    np.testing.assert_allclose(inferred, found.in_box("logits"), atol=1e-3)

    table = evaluate([found], cases[2:], metrics=["dice"])
    truth = TASK.encode(np.asarray(cases[2].label.dataobj))
    for region, value in zip(table["region"], table["value"], strict=True):
        assert value == pytest.approx(dice(TASK.region(inside, region), TASK.region(truth, region)))


def test_maps_are_scored_for_each_region_and_deleted_by_it(cases):
    method = network()
    method.classifier.bias.data[:] = torch.tensor([50.0, 50.0, -50.0])            # all is whole tumour and core
    predictor = Predictor(method, TASK, WINDOW, precision="float32")
    scores = map_scores(predictor, cases[2:])
    assert scores.loc[scores["measure"] == "completeness", "value"].max() < 1e-4
    truth = TASK.encode(np.asarray(cases[2].label.dataobj))
    told = scores.loc[(scores["map"] == "contribution") & (scores["measure"] == "pointing"), "class"]
    assert set(told) == {region for region in TASK.regions if TASK.region(truth, region).any()}
    curves = deletion(predictor, cases[2:], steps=2, block=8, seeds=[0])
    assert set(curves["class"]) == {"WT", "TC"}
    p = expit(predictor(cases[2]).maps["logits"])
    for channel, region in enumerate(("WT", "TC")):
        whole = curves[(curves["class"] == region) & (curves["measure"] == "deletion") & (curves["share"] == 0)]
        np.testing.assert_allclose(whole["value"], p[channel][(p[:2] > 0.5).any(0)].mean(), rtol=1e-5)


def test_where_no_scan_has_a_signal_no_region_is(run, cases):
    wide = Case("wide", {name: nibabel.Nifti1Image(np.pad(np.asarray(scan.dataobj), 4), np.eye(4))
                         for name, scan in cases[2].images.items()})
    found = Predictor.load(run)(wide)
    assert (found.logits[:, 0, 0, 0] == -30).all()
    assert found.classes[0, 0, 0] == 0
    assert (found.probabilities[:, 0, 0, 0] < 1e-12).all()


@pytest.mark.parametrize("policy", ["heads", "by-size"])
def test_policies_mirrors_and_members_mix_the_probabilities_of_regions(policy, cases):
    method, fitted = network(), Fitted({4: 0.3})
    answers = {one: expit(Predictor(method, TASK, WINDOW, precision="float32", policy=one,
                                    fitted=fitted)(cases[0]).maps["logits"]) for one in ("fused", "heads", policy)}
    expected = answers["heads"] if policy == "heads" else 0.7 * answers["fused"] + 0.3 * answers["heads"]
    np.testing.assert_allclose(answers[policy], expected, atol=1e-5)
    several = Predictor([method, network(seed=1)], TASK, WINDOW, precision="float32", mirror=True)(cases[0])
    said = sum(several.maps[f"contribution/{name}"] for name in TASK.modalities) + several.bias[:, None, None, None]
    np.testing.assert_allclose(said, several.maps["logits"], atol=1e-5)


def test_a_method_and_a_task_of_other_channels_are_refused(tmp_path):
    for method, task in ((network(CLASSES), TASK), (network(), CLASSES),
                         (network(), replace(TASK, regions={"WT": TASK.regions["WT"][::-1], "ET": ["enhancing"],
                                                            "NCR": ["necrosis"]}))):
        with pytest.raises(ValueError, match=r"\*\*task\.outputs"):
            Trainer(method, tmp_path / "run", task, patch_size=WINDOW)
        with pytest.raises(ValueError, match=r"\*\*task\.outputs"):
            Predictor(method, task, WINDOW)
    with pytest.raises(ValueError, match=r"\*\*task\.outputs"):
        Predictor([network(), network(CLASSES)], TASK, WINDOW)


def test_from_classes_to_regions_the_heads_begin_anew_and_all_else_is_taken():
    before, now = network(CLASSES, seed=1), network(seed=2)
    fresh = network(seed=2).state_dict()
    told = start_from(now, TASK, Predictor(before, CLASSES, WINDOW, device="cpu"))
    assert told["new"] == ["classifier.bias", "classifier.weight",
                           *(f"heads.{name}" for name in sorted(TASK.modalities))]
    for name, tensor in now.state_dict().items():
        is_head = name.startswith(("heads.", "classifier."))
        assert torch.equal(tensor, (fresh if is_head else before.state_dict())[name]), name
    same = network(seed=3)
    told = start_from(same, TASK, Predictor(now, TASK, WINDOW, device="cpu"))
    assert told["new"] == told["widened"] == []
    fewer = replace(TASK, regions={"WT": TASK.regions["WT"], "NCR": ["necrosis"], "ET": ["enhancing"]})
    other = network(fewer, seed=4)
    start_from(other, fewer, Predictor(now, TASK, WINDOW, device="cpu"))
    for here, there in ((0, 0), (2, 2)):
        assert torch.equal(other.classifier.weight[here], now.classifier.weight[there])
    assert torch.equal(other.classifier.weight[1], network(fewer, seed=4).classifier.weight[1])


def test_a_part_of_a_region_that_is_too_small_becomes_what_the_other_regions_say():
    logits = np.full((3, 8, 8, 8), -3.0)
    whole, core, enhancing = logits                     # (8, 8, 8) each, in the order of the regions
    whole[:5], core[:3], enhancing[:2] = 3, 3, 3
    core[4, 4, 4] = enhancing[4, 4, 4] = 3              # a crumb of enhancing tumour within a crumb of core, in oedema
    enhancing[2, 2, 2:4] = 3                            # belongs to the large part
    core[7, 7, 7] = 3                                   # a crumb of core in the background
    classes = TASK.answers.classes(logits)
    number = TASK.class_names.index
    assert (classes[4, 4, 4], classes[7, 7, 7]) == (number("enhancing"), number("necrosis"))
    found = without_small(classes, TASK, {"ET": 5}, 2.0, lambda: logits.copy())
    expected = classes.copy()
    expected[4, 4, 4] = number("necrosis")
    np.testing.assert_array_equal(found, expected)
    expected[4, 4, 4], expected[7, 7, 7] = number("oedema"), number("background")
    np.testing.assert_array_equal(without_small(classes, TASK, {"TC": 5}, 2.0, lambda: logits.copy()), expected)


def test_the_dice_of_every_mixture_is_that_of_mixing_everywhere():
    random = np.random.default_rng(0)
    fused, heads = random.beta(0.4, 0.4, (2, 3, 6, 6, 6))
    truth, paint = random.integers(0, 4, (6, 6, 6)), TASK.answers.classes_of
    for name in TASK.regions:
        expected = [dice(TASK.region(paint((1 - share) * fused + share * heads), name), TASK.region(truth, name))
                    for share in SHARES]
        found = by_share(fused, heads, truth, lambda classes, name=name: TASK.region(classes, name), paint)
        np.testing.assert_allclose(found, expected)


def test_a_card_says_what_makes_a_region_more_likely(run, cases):
    found = Predictor.load(run)(cases[2])
    found.maps["logits"][:] = np.array([5, 5, -5])[:, None, None, None]
    card = replace(found)._repr_html_()
    assert "TC more likely than everything else" in card
    assert "trained on" in TASK._repr_html_()
    assert "trained on" not in CLASSES._repr_html_()


def test_a_shared_model_answers_the_same_regions(run, cases, tmp_path):
    predictor = Predictor.load(run, precision="float32")
    save_pretrained(run, tmp_path / "shared", license="cc-by-4.0")
    shared = from_pretrained(tmp_path / "shared", precision="float32")
    assert shared.task.answers == TASK.answers
    np.testing.assert_array_equal(shared(cases[2]).logits, predictor(cases[2]).logits)


def test_a_plan_measures_a_step_of_regions():
    found = one_size({"name": "maml", "modalities": list(TASK.modalities), **TASK.outputs, "channels": [4, 6]},
                     (16, 16, 16), 1, "float32", "cpu", seconds=0)
    assert found["seconds"] > 0

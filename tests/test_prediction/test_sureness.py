"""How sure an answer is: by hand, by the answers that it is made of, and saved and loaded."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.data.prepared import PreparedCase, grid_of
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.methods import build
from maml_toolkit.methods.method import Method, Segmentation
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.merging import merge
from maml_toolkit.prediction.predicting import predict_cases
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.sureness import Change, Expected, Sureness, agreements, changes
from maml_toolkit.system.errors import DataError

LIVER, BRAIN = TASKS["liver_phases"], TASKS["brats2021"]
PLAIN = Task("plain", ["a", "v"], {"background": 0, "tumour": 1}, intensities="none")
LINE = Expected(0.1, 0.8, 0.05, 6)


class Mean(Method):
    """Answers by the mean of the images, the logit of the tumour, times a strength; of each alone by that image."""

    name, tells_each = "mean", True

    def __init__(self, strength=1.0):
        super().__init__(PLAIN.modalities, 2, channels=(2, 2))
        self.strength = strength

    def forward(self, images):
        alone = {name: torch.cat([torch.zeros_like(image), self.strength * image], 1)
                 for name, image in self.checked(images).items()}
        return Segmentation(torch.stack(list(alone.values())).mean(0), alone)

    def loss(self, images, labels, generator):
        raise NotImplementedError


class Together(Mean):
    """The same, of both images or none."""

    name, needs_all = "together", True


def prepared(spacing=(1.0, 1.0, 1.0), **images):
    shape = next(iter(images.values())).shape
    return PreparedCase("one", {name: np.asarray(image, np.float32) for name, image in images.items()}, None,
                        np.zeros((0, 4)), grid_of(Volume(np.zeros(shape), np.diag([*spacing, 1])),
                                                  [(0, n) for n in shape]))


def predictor(method=None, window=(4, 4, 4), **settings):
    return Predictor(method or Mean(), PLAIN, window, precision="float32", device="cpu", **settings)


def network(method="maml", seed=0):
    torch.manual_seed(seed)
    return build(method, modalities=LIVER.modalities, classes=2, channels=(4, 6))


def sigmoid(logit):
    return 1 / (1 + np.exp(-np.asarray(logit, float)))


def nats(probability):
    """Entropy of two classes."""
    return -(probability * np.log(probability) + (1 - probability) * np.log(1 - probability))


def test_entropy_by_hand():
    probabilities = np.array([[1, 0.5, 0.9, 0.25], [0, 0.5, 0.1, 0.25], [0, 0, 0, 0.25], [0, 0, 0, 0.25]])
    expected = [0, math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1), math.log(4)]
    np.testing.assert_allclose(BRAIN.answers.entropy(probabilities), expected, atol=1e-12)
    regions = replace(BRAIN, train_on="regions").answers
    assert regions.entropy(np.array([[0.5], [1.0], [0.1]])).item() == pytest.approx((math.log(2) + nats(0.1)) / 3)
    assert (BRAIN.answers.most_nats, regions.most_nats) == (math.log(4), math.log(2))


def test_the_uncertainty_is_the_entropy_of_the_mean_over_all_scans_and_each_left_out():
    a, v = (np.random.default_rng(seed).normal(0, 3, (4, 4, 4)) for seed in (0, 1))
    found = predictor().predict(prepared(a=a, v=v), uncertainty=True)
    mean = (sigmoid((a + v) / 2) + sigmoid(a) + sigmoid(v)) / 3
    np.testing.assert_allclose(found.uncertainty, nats(mean), atol=1e-5)
    assert 0 <= found.uncertainty.min() < found.uncertainty.max() <= math.log(2) + 1e-6


@pytest.mark.parametrize("window", [(4, 4, 4), (8, 8, 8)])
def test_one_answer_alone_is_as_unsure_as_its_own_probabilities_in_any_windows(window):
    v = np.random.default_rng(0).normal(0, 2, (8, 8, 8))
    found = predictor(window=window).predict(prepared(v=v), uncertainty=True)
    np.testing.assert_allclose(found.uncertainty, PLAIN.answers.entropy(found.probabilities), atol=1e-5)
    np.testing.assert_allclose(found.uncertainty, nats(sigmoid(v)), atol=1e-5)
    assert (found.sureness.agreement, found.sureness.changes) == ({}, ())


def test_several_members_are_the_mean_of_their_probabilities_and_agree_as_their_dice_says():
    a = np.full((4, 4, 4), -3.0)
    a[:2] = 2.0
    members = [Together(1.0), Together(3.0), Together(-1.0)]
    found = predictor(members).predict(prepared(a=a, v=a), uncertainty=True)
    mean = np.mean([sigmoid(a), sigmoid(3 * a), sigmoid(-a)], 0)
    np.testing.assert_allclose(found.uncertainty, nats(mean), atol=1e-5)
    np.testing.assert_array_equal(found.classes, a > 0)        # of the mean logit, that of a strength of 1
    assert found.sureness.agreement == {"tumour": pytest.approx((1 + 1 + 0) / 3)}
    assert found.sureness.changes == ()         # it answers of both scans or none


def test_mirrored_answers_are_turned_back_before_their_probabilities_are_averaged():
    case = phantoms.liver_phases(1, size=16)[0]
    one = Predictor(network(), LIVER, (16, 16, 16), precision="float32", device="cpu", mirror=(0,))
    ready = one.prepared(case)
    turned = PreparedCase(ready.id, {name: np.flip(image, 0).copy() for name, image in ready.images.items()}, None,
                          ready.foreground, ready.grid, (), ready.outside)
    plain = Predictor(network(), LIVER, (16, 16, 16), precision="float32", device="cpu")
    voices = [LIVER.modalities, ["arterial"], ["venous"]]
    said = [softmax(plain.predict(ready, present).maps["logits"], 0) for present in voices]
    said += [np.flip(softmax(plain.predict(turned, present).maps["logits"], 0), 1) for present in voices]
    found = one.predict(ready, uncertainty=True)
    np.testing.assert_allclose(found.maps["uncertainty"], LIVER.answers.entropy(np.mean(said, 0)), atol=1e-5)


def test_an_answer_by_regions_is_unsure_of_each_region(tmp_path):
    task = replace(BRAIN, train_on="regions")
    torch.manual_seed(0)
    method = build("maml", modalities=("t1", "t2"), channels=(4, 6), **task.outputs)
    case = phantoms.brains(1, size=16)[0]
    one = Predictor(method, task, (16, 16, 16), precision="float32", device="cpu")
    ready = one.prepared(case)
    said = [1 / (1 + np.exp(-one.predict(ready, present).maps["logits"])) for present in (["t1", "t2"], ["t1"], ["t2"])]
    found = one.predict(ready, uncertainty=True)
    np.testing.assert_allclose(found.maps["uncertainty"], nats(np.mean(said, 0)).mean(0), atol=1e-4)
    again = Prediction.load(found.save(tmp_path))
    np.testing.assert_array_equal(again.uncertainty, found.uncertainty)
    assert again.sureness == found.sureness


@pytest.mark.parametrize("policy", ["heads", "by-size"])
def test_every_policy_is_as_sure_as_its_own_answers(policy):
    a, v = (np.random.default_rng(seed).normal(0, 3, (4, 4, 4)) for seed in (0, 1))
    one = predictor(policy=policy, fitted=Fitted({1: 0.5, 2: 0.25}))
    found = one.predict(prepared(a=a, v=v), uncertainty=True)
    heads = (sigmoid(a) + sigmoid(v)) / 2
    both = heads if policy == "heads" else 0.75 * sigmoid((a + v) / 2) + 0.25 * heads
    np.testing.assert_allclose(found.uncertainty, nats((both + sigmoid(a) + sigmoid(v)) / 3), atol=1e-5)


def test_uncertainty_changes_nothing_else_and_is_not_there_unless_asked_for():
    case = phantoms.liver_phases(1, size=(20, 24, 16))[0]
    one = Predictor(network(), LIVER, (16, 16, 16), precision="float32", device="cpu")
    plain, unsure = one(case), one(case, uncertainty=True)
    assert (plain.uncertainty, plain.sureness) == (None, None)
    assert set(unsure.maps) == {*plain.maps, "uncertainty"}
    for name, values in plain.maps.items():
        np.testing.assert_allclose(unsure.maps[name], values, atol=1e-5)
    classes, sure = plain.maps["logits"].argmax(0) == 1, unsure.sureness
    without = {name: one(case, [other]).maps["logits"].argmax(0) == 1
               for name, other in (("arterial", "venous"), ("venous", "arterial"))}
    expected = np.mean([dice(classes, mask) for mask in without.values()])
    assert sure.agreement["tumour"] == pytest.approx(expected, abs=0.01)
    for change in sure.changes:
        differ = np.count_nonzero(classes ^ without[change.without]) / np.count_nonzero(classes)
        assert change.share == pytest.approx(differ, abs=0.02)


def test_what_changes_without_a_scan_by_hand():
    whole = np.zeros((4, 5, 6), np.uint8)
    whole[0] = 2                    # 30 voxels of oedema
    whole[0, 0] = 3                 # of which 6 are enhancing tumour
    whole[0, 1] = 1                 # and 6 necrosis
    no_flair, no_t1ce = whole.copy(), whole.copy()
    no_flair[0, 3:] = 0             # 12 voxels of oedema are gone
    no_t1ce[0, 0] = 2               # all of the enhancing tumour is oedema
    no_t1ce[1, 0, :3] = 3           # and 3 voxels elsewhere are
    found = changes(whole, {"flair": no_flair, "t1ce": no_t1ce}, BRAIN, 0.5)
    by = {(one.without, one.region): one for one in found}
    assert by["flair", "WT"] == Change("flair", "WT", 6.0, 15.0)
    assert by["flair", "WT"].share == 0.4
    assert str(by["flair", "WT"]) == ("the answer changes by 40 % of its volume without flair (WT: 6.00 of 15.00 ml)")
    assert by["t1ce", "ET"].share == 9 / 6
    assert by["flair", "ET"].share == 0
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    sure = Sureness({}, {}, changes=found)
    assert [(one.without, one.region) for one in sure.worst] == [("t1ce", "ET"), ("flair", "WT")]
    (one,) = (one for one in changes(0 * whole, {"t1": whole}, BRAIN, 1) if one.region == "ET")
    assert one.share == math.inf
    assert changes(0 * whole, {"t1": 0 * whole}, BRAIN, 1)[0].share == 0


def test_agreement_by_hand():
    answer, near, empty = (np.zeros((4, 4), np.uint8) for _ in range(3))
    answer[:2], near[:1] = 1, 1
    assert agreements(answer, [near, answer], PLAIN) == {"tumour": pytest.approx((2 * 4 / 12 + 1) / 2)}
    assert agreements(answer, [empty], PLAIN) == {"tumour": 0}
    assert agreements(empty, [empty], PLAIN) == {"tumour": 1}
    assert agreements(answer, [], PLAIN) == {}


def test_the_expected_dice_is_what_was_learned_for_the_policy_and_the_number_of_scans():
    a = np.full((4, 4, 4), -3.0)
    a[:2] = 3.0
    v = a.copy()
    v[1] = -2.0                             # without a the answer is half as large
    fitted = Fitted(expected_dice={"fused": {2: {"tumour": LINE}}})
    one = predictor(fitted=fitted)
    both = one.predict(prepared(a=a, v=v), uncertainty=True).sureness
    assert both.agreement["tumour"] == pytest.approx((1 + 2 / 3) / 2)
    assert both.expected_dice == {"tumour": pytest.approx(0.1 + 0.8 * 5 / 6)}
    alone = one.predict(prepared(a=a, v=v), "v", uncertainty=True).sureness
    assert alone.expected_dice == {}
    assert one.predict(prepared(v=v), uncertainty=True).sureness == alone
    assert Expected(0.5, 2)([0, 0.1, 1]).tolist() == [0.5, 0.7, 1]
    assert any("77" in line and "off by 5 " in line for line in both.lines())


def test_an_answer_is_saved_with_how_sure_it_is_and_loaded_as_it_was(tmp_path):
    case = phantoms.liver_phases(1, size=(20, 24, 16))[0]
    fitted = Fitted(expected_dice={"fused": {2: {"tumour": LINE}}})
    one = Predictor(network(), LIVER, (16, 16, 16), precision="float32", device="cpu", fitted=fitted)
    made = one(case, uncertainty=True)
    found = Prediction.load(made.save(tmp_path / "a"))
    np.testing.assert_array_equal(found.uncertainty, made.uncertainty)
    assert found.sureness == made.sureness
    assert len(found.sureness.changes) == 2
    facts = json.loads((tmp_path / "a" / "prediction.json").read_text())["sureness"]
    assert facts["expected_dice"] == made.sureness.expected_dice
    plain = one(case).save(tmp_path / "a")              # in place of it
    assert sorted(path.name for path in plain.glob("*uncertainty*")) == []
    assert Prediction.load(plain).sureness is None
    (tmp_path / "a" / "prediction.json").write_text((tmp_path / "a" / "prediction.json").read_text().replace(
        '"sureness": null', '"sureness": {"entropy": {}}'))
    with pytest.raises(DataError, match=r"prediction\.json"):
        Prediction.load(tmp_path / "a")


def test_many_cases_are_written_with_it_and_again_once_more_was_learned(tmp_path):
    cases = phantoms.liver_phases(2, size=(16, 16, 16))
    found = find_cases(write_cases(cases, tmp_path / "data", "folders", LIVER), LIVER)
    one = Predictor(network(), LIVER, (16, 16, 16), precision="float32", device="cpu", saved=tmp_path / "out")
    first = predict_cases(one, found, tmp_path / "out", uncertainty=True)
    assert set(first.sureness) == set(first.used) == {case.id for case in cases}
    assert first.record["sureness"][cases[0].id]["agreement"] == first.sureness[cases[0].id].agreement
    again = predict_cases(one, found, tmp_path / "out", uncertainty=True)
    assert (again.used, again.sureness) == ({}, first.sureness)
    one.fitted = Fitted(expected_dice={"fused": {2: {"tumour": LINE}}})
    ((_, read),) = one.sweep(found[0], [LIVER.modalities], uncertainty=True)
    assert read.sureness.expected == {"tumour": LINE}       # what is saved is read, with what is known now
    assert not isinstance(read.maps, dict)
    third = predict_cases(one, found, tmp_path / "out", uncertainty=True)
    assert set(third.used) == {case.id for case in cases}
    assert third.sureness[cases[0].id].expected == {"tumour": LINE}
    for row in merge(tmp_path / "out").table:
        sure = third.sureness[row["case"]]
        assert row["expected Dice of tumour"] == pytest.approx(sure.expected_dice["tumour"], abs=1e-4)
        assert (row["doubt"], row["how sure"]) == (pytest.approx(sure.doubt, abs=1e-4), str(sure))
    assert predict_cases(one, found, tmp_path / "plain").sureness == {}
    assert "doubt" not in merge(tmp_path / "plain").table[0]
    ((_, plain),) = one.sweep(found[0], [LIVER.modalities])
    assert not isinstance(plain.maps, dict)                 # nor is it computed again for fewer maps


def test_shares_that_were_not_fitted_for_the_answers_that_are_asked_are_refused_before_the_compute():
    one = predictor(policy="by-size", fitted=Fitted({2: 0.5}))
    case = prepared(a=np.zeros((4, 4, 4)), v=np.zeros((4, 4, 4)))
    one.predict(case)
    with pytest.raises(ValueError, match=r"by-size.*\b1\b"):
        one.predict(case, uncertainty=True)

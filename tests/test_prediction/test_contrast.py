"""Shares in log-odds add up, whatever is held against whatever, and are what hand and quadrature say."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad_vec
from scipy.special import expit, softmax

from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.methods import build
from maml_toolkit.prediction.contrast import Contrast
from maml_toolkit.prediction.predictor import Predictor

BRATS, LIVER = TASKS["brats2021"], TASKS["liver_phases"]
SIDES = [("oedema", None), ("oedema", "necrosis"), ("WT", None), ("TC", None), ("ET", None), ("background", None),
         ("TC", "oedema"), ("enhancing", "everything else")]


@pytest.fixture
def terms() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(0, 3, (4, 5, 6, 7)) for name in BRATS.modalities}


BIAS = np.array([0.7, -0.4, 0.2, -1.1])


def test_a_name_of_a_class_and_of_a_region_is_the_regions_against_everything_else():
    task = TASKS["msd_liver"]                       # liver is a class, and with the cancer in it a region
    logits = np.log([[0.05], [0.15], [0.8]])
    assert Contrast.of(task, "liver", "everything else").log_odds(logits) == pytest.approx(np.log(0.95 / 0.05))
    assert Contrast.of(task, "liver").log_odds(logits) == pytest.approx(np.log(0.15 / 0.05))


@pytest.mark.parametrize(("name", "against"), SIDES)
def test_shares_and_bias_sum_to_the_log_odds(terms, name, against):
    contrast = Contrast.of(BRATS, name, against)
    probabilities = softmax(sum(terms.values()) + BIAS[:, None, None, None], axis=0)
    expected = np.log(probabilities[list(contrast.over)].sum(0) / probabilities[list(contrast.under)].sum(0))
    shares, bias = contrast.shares(terms, BIAS)
    np.testing.assert_allclose(sum(shares.values()) + bias, expected, atol=1e-9)
    np.testing.assert_allclose(contrast.log_odds(np.log(probabilities)), expected, atol=1e-9)
    single = {key: one.astype(np.float32) for key, one in terms.items()}
    np.testing.assert_allclose(sum(contrast.shares(single, BIAS)[0].values()) + bias, expected, atol=1e-5)
    other = np.log(softmax(BIAS))
    assert bias == pytest.approx(np.log(np.exp(other[list(contrast.over)]).sum() /
                                        np.exp(other[list(contrast.under)]).sum()))


@pytest.mark.parametrize(("name", "against"), SIDES)
def test_what_is_added_to_all_classes_alike_changes_no_share(terms, name, against):
    contrast, random = Contrast.of(BRATS, name, against), np.random.default_rng(1)
    moved = {key: one + random.normal(0, 5, (1, *one.shape[1:])) for key, one in terms.items()}
    usual = {key: BRATS.answers.against_background(one) for key, one in terms.items()}
    for key, one in contrast.shares(terms, BIAS)[0].items():
        for other in (moved, usual):
            np.testing.assert_allclose(contrast.shares(other, BIAS + 2)[0][key], one, atol=1e-9)


def test_one_class_against_another_is_the_difference_of_their_terms(terms):
    shares, bias = Contrast.of(BRATS, "enhancing", "oedema").shares(terms, BIAS)
    for name, one in terms.items():
        np.testing.assert_array_equal(shares[name], one[3] - one[2])
    assert bias == pytest.approx(-1.1 - 0.2)


def test_two_classes_on_a_side_have_the_aumann_shapley_values_along_the_line_from_the_bias(terms):
    """The gradient of the log-odds, softmax within the core minus softmax without, integrated numerically."""
    core, rest, whole = [1, 3], [0, 2], sum(terms.values())

    def gradient(part):
        logits, found = BIAS[:, None, None, None] + part * whole, np.zeros_like(whole)
        found[core], found[rest] = softmax(logits[core], axis=0), -softmax(logits[rest], axis=0)
        return found

    mean, _ = quad_vec(gradient, 0, 1, epsabs=1e-9)
    shares, _ = Contrast.of(BRATS, "TC").shares(terms, BIAS)
    for name, one in terms.items():
        np.testing.assert_allclose(shares[name], (mean * one).sum(0), atol=1e-6)


def test_a_region_by_hand():
    """Without bias one scan gives WT's two classes log 3 and log 1 over the background: WT has 3 + 1 of 5 parts."""
    task = Task("two", ("t1",), {"background": 0, "core": 1, "rim": 2}, {"WT": ("core", "rim")})
    terms = {"t1": np.log([[1.0], [3.0], [1.0]])}
    shares, bias = Contrast.of(task, "WT").shares(terms)
    assert bias == pytest.approx(np.log(2))
    assert shares["t1"][0] == pytest.approx(np.log(4) - np.log(2))
    assert Contrast.of(task, "WT").against == "background"


@pytest.mark.parametrize("name", ["WT", "TC"])
def test_a_scan_that_raises_all_classes_of_a_region_over_all_others_has_a_positive_share(terms, name):
    contrast = Contrast.of(BRATS, name)
    raised = {key: np.abs(one) * (1 if key != "t2" else -1) for key, one in terms.items()}
    for one in raised.values():
        one[list(contrast.under)] *= -1
    shares, _ = contrast.shares(raised, BIAS)
    assert all((one > 0).all() if key != "t2" else (one < 0).all() for key, one in shares.items())


def test_classes_that_change_alike_share_it():
    terms = {"t1": np.full((4, 1), 2.0), "t2": np.full((4, 1), 1.0)}
    terms["t1"][[1, 3]] += 5
    shares, _ = Contrast.of(BRATS, "TC").shares(terms, BIAS)
    assert (shares["t1"].item(), shares["t2"].item()) == pytest.approx((5, 0))


def test_a_region_with_a_sigmoid_of_its_own_is_against_everything_else_and_its_terms_are_its_shares(terms):
    task = replace(BRATS, train_on="regions")
    terms = {name: one[:3] for name, one in terms.items()}
    for channel, region in enumerate(task.regions):
        contrast = Contrast.of(task, region)
        shares, bias = contrast.shares(terms, BIAS[:3])
        assert (contrast.against, contrast.is_linear, bias) == ("everything else", True, BIAS[channel])
        for name, one in terms.items():
            np.testing.assert_array_equal(shares[name], one[channel])
        logits = sum(terms.values()) + BIAS[:3, None, None, None]
        p = expit(logits[channel])
        np.testing.assert_allclose(contrast.log_odds(logits), np.log(p) - np.log1p(-p), atol=1e-6)
        assert contrast.classes == task.answers.members[channel]
    for name, against in (("oedema", None), ("TC", "ET"), ("WT", "background")):
        with pytest.raises(ValueError, match="WT, TC, ET against everything else"):
            Contrast.of(task, name, against)


@pytest.mark.parametrize(("name", "against", "said"), [
    ("cyst", None, "'cyst'.* background, necrosis, oedema, enhancing, WT, TC, ET"),
    ("oedema", "cyst", "'cyst'"), ("TC", "ET", "TC against ET"), ("oedema", "oedema", "oedema against oedema")])
def test_what_cannot_be_compared_is_refused(name, against, said):
    with pytest.raises(ValueError, match=said):
        Contrast.of(BRATS, name, against)


@pytest.mark.parametrize("method", ["maml", "late_fusion"])
def test_a_prediction_tells_its_log_odds_with_or_without_contributions(method):
    (case,) = phantoms.liver_phases(1, size=16)
    network = build(method, modalities=LIVER.modalities, classes=2, channels=(4, 6))
    found = (prediction := Predictor(network, LIVER, (16, 16, 16))(case)).log_odds("tumour")
    inside = prediction.grid.to_file(np.ones(prediction.grid.box_shape, bool))
    np.testing.assert_allclose(expit(found.total), prediction.probabilities[1], atol=1e-5)
    assert set(found.shares) == (set(LIVER.modalities) if method == "maml" else set())
    if found.shares:
        np.testing.assert_allclose((sum(found.shares.values()) + found.bias)[inside], found.total[inside], atol=1e-4)

"""What is learned from validation cases is what is best on them, and stays with the weights."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from maml_toolkit import from_pretrained, save_pretrained
from maml_toolkit.__main__ import app
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.label_sets import IGNORED, compared_masks
from maml_toolkit.data.prepared import PreparedCase, grid_of
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.evaluation.fitting import (
    SHARES,
    Parts,
    best_line,
    best_threshold,
    by_share,
    fit_expected_dice,
    fit_policy,
    fit_smallest,
    measured_parts,
)
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.methods import build
from maml_toolkit.methods.method import Method, Segmentation
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.prediction import without_small
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.errors import DataError, DataWarning
from maml_toolkit.training.trainer import Trainer

LIVER, BRAIN = TASKS["liver_phases"], TASKS["brats2021"]
PLAIN = Task("plain", ["a", "v"], {"background": 0, "tumour": 1}, intensities="none")


class Reads(Method):
    """Knows of each modality what its image says, the logit of the tumour, and fuses by believing the first."""

    name, tells_each = "reads", True

    def __init__(self):
        super().__init__(PLAIN.modalities, 2, channels=(2, 2))

    def forward(self, images):
        alone = {name: torch.cat([torch.zeros_like(image), image], 1) for name, image in self.checked(images).items()}
        return Segmentation(next(iter(alone.values())), alone)

    def loss(self, images, labels, generator):
        raise NotImplementedError


def prepared(images, labels, id="a"):
    """A case of arrays, on a grid of millimetres."""
    return PreparedCase(id, {name: np.asarray(image, np.float32) for name, image in images.items()},
                        np.asarray(labels, np.uint8), np.argwhere(labels), grid_of(
                            Volume(labels, np.eye(4)), [(0, n) for n in labels.shape]))


def test_the_dice_of_every_mixture_by_hand():
    fused, heads = np.array([0.9, 0.2, 0.4, 0.1]), np.array([0.8, 0.9, 0.1, 0.7])
    found = by_share(np.stack([1 - fused, fused]), np.stack([1 - heads, heads]), np.array([1, 1, 0, 0]),
                     lambda classes: classes == 1, LIVER.answers.classes_of)
    # the second voxel joins where 0.2 + 0.7 a > 0.5, the fourth, a wrong one, where 0.1 + 0.6 a > 0.5
    np.testing.assert_allclose(found, [2 / 3] * 5 + [1] * 2 + [4 / 5] * 4)


def test_the_dice_of_every_mixture_is_that_of_mixing_everywhere():
    random = np.random.default_rng(0)
    fused, heads = random.dirichlet([0.3] * 4, (2, 6, 6, 6)).transpose(0, 4, 1, 2, 3)
    truth = random.integers(0, 4, (6, 6, 6))
    for region in BRAIN.regions:
        mask = partial(BRAIN.region, name=region)
        expected = [dice(mask(((1 - share) * fused + share * heads).argmax(0)), mask(truth)) for share in SHARES]
        np.testing.assert_allclose(by_share(fused, heads, truth, mask, BRAIN.answers.classes_of), expected)


def test_the_share_with_the_best_dice_is_fitted_for_each_number_of_scans():
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[:2] = 1
    a, v = np.full((2, 8, 8, 8), 0.01)
    a[0], v[0] = 0.9, 0.7           # both see it
    a[1], v[1] = 0.2, 0.96          # of the heads 0.58: in the mixture from a share of 0.79 on
    a[2], v[2] = 0.1, 0.94          # no tumour, of the heads 0.52: in the mixture from 0.95 on
    case = prepared({"a": np.log(a / (1 - a)), "v": np.log(v / (1 - v))}, truth)
    one = Predictor(Reads(), PLAIN, (4, 4, 4), precision="float32")
    table = fit_policy(one, [case]).set_index("scans")
    assert one.fitted.by_size == {1: 0.0, 2: 0.8}
    assert table.loc[2, ["dice", "dice_fused", "dice_heads"]].tolist() == pytest.approx([1, 2 / 3, 4 / 5])
    assert table["count"].to_dict() == {1: 2, 2: 1}
    (answer,) = (found for _, found in one.sweep(case, [["a", "v"]], "by-size"))
    np.testing.assert_array_equal(answer.maps["logits"].argmax(0), truth)


@pytest.fixture
def run(tmp_path):
    at = Run(tmp_path / "runs" / "one")
    torch.manual_seed(0)
    checkpoints.save(at.checkpoints, 1, build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6)))
    at.write_settings({"method": {"modalities": list(LIVER.modalities)}, "task": LIVER.to_json(),
                       "cases": {"training": [], "validation": []},
                       "trainer": {"patch_size": [16, 16, 16], "epochs": 1, "steps_per_epoch": 1}})
    return at


def test_what_was_fitted_of_the_best_is_known_of_the_newest_where_both_are_one(run):
    checkpoints.save(run.checkpoints, 1, checkpoints.load(checkpoints.newest(run.checkpoints)), best=True)
    fit_smallest(Predictor.load(run.folder, device="cpu"), phantoms.liver_phases(1, size=16))
    best, newest = (Predictor.load(run.folder, which, device="cpu").fitted for which in ("best", "newest"))
    assert best == newest != Fitted()


def test_what_was_fitted_goes_wherever_the_weights_go(run, tmp_path):
    cases = phantoms.liver_phases(2, size=16)
    one = Predictor.load(run.folder, device="cpu")
    with pytest.raises(ValueError, match="by-size"):
        Predictor.load(run.folder, device="cpu", policy="by-size")
    fit_policy(one, cases)
    again = Predictor.load(run.folder, device="cpu", policy="by-size")
    read = {"window": [16, 16, 16], "overlap": 0.5, "mirror": []}
    assert again.fitted == one.fitted == Fitted(one.fitted.by_size, cases=[case.id for case in cases], read=read)
    assert set(one.fitted.by_size) == {1, 2}
    shared = from_pretrained(save_pretrained(run.folder, tmp_path / "shared", license="cc0-1.0"), device="cpu",
                             policy="by-size")
    assert shared.fitted == Fitted(one.fitted.by_size, read=read)         # and the ids of cases stay behind
    np.testing.assert_array_equal(shared(cases[0]).probabilities, again(cases[0]).probabilities)
    fit_policy(shared, cases)
    from_pretrained(tmp_path / "shared", device="cpu")          # whose sums are as they were


def test_what_was_learned_with_other_windows_or_mirrors_says_so_and_is_forgotten_when_fitted_again():
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[:4, :4, :4] = 1
    case = prepared({"a": 4.0 * truth - 2, "v": 4.0 * truth - 2}, truth)

    def like(fitted, **other):
        return Predictor(Reads(), PLAIN, **{"window": (4, 4, 4), "precision": "float32", "fitted": fitted} | other)

    one = like(None)
    fit_policy(one, [case])
    fit_smallest(one, [case])
    fit_expected_dice(one, [case])
    known = one.fitted
    for other in ({"window": (8, 8, 8)}, {"mirror": [0]}, {"overlap": 0.25}):
        with pytest.warns(DataWarning, match="by-size.*" + next(iter(other))):
            like(known, policy="by-size", **other).predict(case)
        with pytest.warns(DataWarning, match="smallest"):
            like(known, drop_small=True, **other).predict(case)
        with pytest.warns(DataWarning, match="expect"):
            like(known, **other).predict(case, uncertainty=True)
        like(known, **other).predict(case)                       # uses nothing that was learned
        assert like(known, **other).facts().faults
    assert not one.facts().faults
    again = like(known, mirror=[0])
    fit_smallest(again, [case])
    fitted = again.fitted
    assert (fitted.by_size, fitted.expected_dice, set(fitted.smallest_mm3)) == ({}, {}, {"fused", "heads"})
    together = Fitted.mean([known, again.fitted])
    assert together.read == {"window": [4, 4, 4], "overlap": 0.5, "mirror": None}
    like(Fitted(known.by_size), policy="by-size", mirror=[0]).predict(case)     # nobody wrote down how


def test_what_cannot_be_fitted_is_refused_by_name():
    cases = phantoms.liver_phases(1, size=16)
    early, one = (Predictor(build(name, modalities=LIVER.modalities, classes=2, channels=(4, 6)), LIVER, (16, 16, 16))
                  for name in ("early_fusion", "maml"))
    with pytest.raises(ValueError, match="early_fusion"):
        fit_policy(early, cases)
    for given in ([], [type(cases[0])("anna", cases[0].images)]):
        with pytest.raises(DataError, match=r"0 cases|anna"):
            fit_policy(one, given)


def test_the_best_threshold_by_hand():
    crumb_and_lesion, small_lesion = Parts([1, 9], [1, 9], [0, 9], 9), Parts([2], [2], [2], 2)
    assert best_threshold([crumb_and_lesion]) == (5, pytest.approx(18 / 19), 1)
    assert best_threshold([crumb_and_lesion, small_lesion]) == (1.5, pytest.approx((18 / 19 + 1) / 2), 1)
    crumb_is_right = Parts([1, 9], [1, 9], [1, 0], 1)
    assert best_threshold([crumb_is_right]) == (0, pytest.approx(2 / 11), pytest.approx(2 / 11))
    nothing_there = Parts([2], [2], [0], 0)
    assert best_threshold([nothing_there]) == (0, 0, 0)                  # the largest part of all stays
    assert best_threshold([nothing_there, crumb_and_lesion]) == (5.5, pytest.approx(9 / 19), 1)
    assert best_threshold([Parts([], [], [], 0)]) == (0, 1, 1)
    of_a_turned_scan = Parts([1.9999999, 9], [2, 9], [0, 9], 9)          # in a straight one its crumb has 2 mm³
    assert best_threshold([of_a_turned_scan, Parts([2, 9], [2, 9], [2, 9], 11)]) == (0, *[pytest.approx(0.95)] * 2)


def test_the_dice_that_was_learned_is_that_of_the_masks():
    random, found, masks = np.random.default_rng(0), [], []
    for _ in range(3):
        truth = ndimage.gaussian_filter(random.normal(size=(12, 12, 12)), 1) > 0.25
        mask = truth ^ (ndimage.gaussian_filter(random.normal(size=(12, 12, 12)), 0.7) > 0.5)
        found.append(measured_parts(mask, truth, 1.5))
        masks.append((mask, truth))
    threshold, before, after = best_threshold(found)
    assert threshold > 0
    cut = [(without_small(mask.astype(np.uint8), PLAIN, {"tumour": threshold}, 1.5, lambda: np.zeros((2, 12, 12, 12)))
            == 1, truth) for mask, truth in masks]
    for expected, pairs in ((before, masks), (after, cut)):
        assert np.mean([dice(*pair) for pair in pairs]) == pytest.approx(expected)
    assert after > before


def test_crumbs_are_dropped_once_that_was_learned():
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[:4, :4, :4] = 1
    seen = truth.copy()
    seen[7, 7, 6:] = 1                      # a crumb of two voxels
    case = prepared({"a": 4.0 * seen - 2, "v": 4.0 * truth - 2}, truth)
    one = Predictor(Reads(), PLAIN, (4, 4, 4), precision="float32")
    fit_policy(one, [case])
    table = fit_smallest(one, [case]).set_index("policy")
    assert table["smallest_mm3"].to_dict() == {"fused": 33, "heads": 0, "by-size": 0}
    assert table.loc["fused", ["dice_before", "dice"]].tolist() == pytest.approx([2 * 64 / (64 + 66), 1])
    plain, cut = (Predictor(Reads(), PLAIN, (4, 4, 4), precision="float32", fitted=one.fitted, drop_small=asked)
                  .predict(case) for asked in (False, True))
    np.testing.assert_array_equal(plain.classes, seen)
    np.testing.assert_array_equal(cut.classes, truth)


def test_a_region_that_was_drawn_in_no_case_has_no_dice():
    case = prepared(dict.fromkeys("av", np.zeros((8, 8, 8))), np.full((8, 8, 8), IGNORED, np.uint8))
    table = fit_smallest(Predictor(Reads(), PLAIN, (4, 4, 4), precision="float32"), [case])
    assert table["dice"].isna().all()
    assert table["dice_before"].isna().all()
    assert (table["count"] == 0).all()


def test_a_run_is_fitted_from_the_command_line_to_cases_that_it_has_not_seen(run, tmp_path):
    cases = phantoms.liver_phases(2, size=16)
    write_cases(cases, tmp_path / "data", "folders", LIVER)
    run.write_settings(run.settings | {"cases": {"training": [cases[0].id], "validation": []}})
    fit = lambda *words: CliRunner().invoke(app, ["fit", str(run.folder), str(tmp_path / "data"), *words])  # noqa: E731
    refused = fit("--case", cases[0].id)
    assert refused.exit_code == 1
    assert cases[0].id in refused.output
    done = fit()
    assert done.exit_code == 0, done.output
    run.write_settings(run.settings | {"cases": {"training": [case.id for case in cases], "validation": []}})
    assert str(tmp_path / "data") in fit().output              # where there is no other case
    fitted = Predictor.load(run.folder, device="cpu", policy="by-size", drop_small=True).fitted
    assert fitted.cases == (cases[1].id,)
    expected = Predictor.load(run.folder, device="cpu")
    fit_policy(expected, cases[1:])
    assert expected.fitted.by_size == fitted.by_size


def test_a_run_is_fitted_to_labels_of_other_values_by_their_task(run, tmp_path):
    other = replace(LIVER, labels={"background": 0, "tumour": 3}, ignore=9)
    write_cases(phantoms.liver_phases(1, size=16), tmp_path / "data", "folders", other)
    other.save(tmp_path / "other.json")
    fit = lambda *words: CliRunner().invoke(app, ["fit", str(run.folder), str(tmp_path / "data"), *words])  # noqa: E731
    assert fit("--task", str(tmp_path / "other.json")).exit_code == 0
    fitted = Predictor.load(run.folder, device="cpu").fitted
    assert fit().exit_code == 1         # 3 is none of the run's values
    same = Predictor.load(run.folder, device="cpu")
    fit_policy(same, phantoms.liver_phases(1, size=16))
    assert same.fitted.by_size == fitted.by_size


def test_several_runs_are_fitted_together_and_what_they_learned_is_theirs_alone_in_any_order(run, tmp_path):
    cases = phantoms.liver_phases(4, size=16)
    write_cases(cases, tmp_path / "data", "folders", LIVER)
    other = Run(tmp_path / "runs" / "other")
    torch.manual_seed(1)
    checkpoints.save(other.checkpoints, 1, build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6)))
    for fold, at in enumerate((run, other)):
        at.write_settings(run.settings | {"cases": {"training": [cases[fold].id], "validation": [cases[1 - fold].id]}})
    both = [str(run.folder), str(other.folder)]
    fit = lambda *words: CliRunner().invoke(  # noqa: E731
        app, ["fit", f"[{', '.join(both)}]", str(tmp_path / "data"), *words])
    assert fit("--case", cases[1].id).exit_code == 1           # the second was trained on it
    done = fit()
    assert done.exit_code == 0, done.output
    together, turned = (Predictor.load(runs, device="cpu").fitted for runs in (both, both[::-1]))
    assert together == turned
    assert together.cases == (cases[2].id, cases[3].id)
    again = Predictor.load(both, device="cpu", fitted=Fitted())
    fit_expected_dice(again, cases[2:])
    assert together.expected_dice["fused"] == again.fitted.expected_dice["fused"]
    assert Predictor.load(run.folder, device="cpu").fitted == Fitted()
    assert not Predictor.load([both[0], both[0]], device="cpu").fitted.expected_dice


def test_a_shared_model_is_not_fitted_by_the_command():
    refused = CliRunner().invoke(app, ["fit", "brain-2mm", "nowhere"])
    assert refused.exit_code == 1
    assert "shared model" in refused.output


def test_the_line_to_expect_dice_by_and_its_error_by_hand():
    agreement, found = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.3, 0.4, 0.5, 0.6])
    line, of_mean = best_line(agreement, found, np.arange(4))
    assert (line.intercept, line.slope, line.cases) == (pytest.approx(0.2), pytest.approx(0.5), 4)
    assert line.error == pytest.approx(0, abs=1e-9)
    # the mean of the others: 0.5, 0.466…, 0.433…, 0.4
    assert of_mean == pytest.approx((0.2 + 0.2 / 3 + 0.2 / 3 + 0.2) / 4)


def test_the_mean_is_kept_where_no_line_tells_a_case_that_was_left_out():
    line, of_mean = best_line(np.array([0.9, 0.1, 0.5]), np.array([0.2, 0.6, 0.4]), np.arange(3))      # it falls
    assert (line.intercept, line.slope) == (pytest.approx(0.4), 0)
    assert line.error == of_mean == pytest.approx((0.3 + 0.3 + 0) / 3)
    line, of_mean = best_line(np.array([0.3, 0.6]), np.array([0.4, 0.8]), np.array([7, 7]))      # two of one case
    assert (line.intercept, line.slope, line.error, of_mean, line.cases) == (pytest.approx(0.6), 0, None, None, 1)
    same = best_line(np.ones(3), np.array([0.5, 0.6, 0.7]), np.arange(3))[0]
    assert (same.intercept, same.slope) == (pytest.approx(0.6), 0)


def test_a_case_is_left_out_with_all_its_answers():
    """Two cases whose two answers lie on lines of their own: within a case the other line would tell them exactly."""
    cases = np.array([0, 0, 1, 1])
    agreement, found = np.array([0.2, 0.4, 0.2, 0.4]), np.array([0.2, 0.4, 0.6, 0.8])
    line, of_mean = best_line(agreement, found, cases)
    assert line.error == pytest.approx(0.4)         # each line is 0.4 off for the other case
    assert of_mean == pytest.approx(0.4)


def test_the_dice_to_expect_is_learned_from_every_subset_and_kept(run):
    cases = phantoms.liver_phases(3, size=16)
    one = Predictor.load(run.folder, device="cpu")
    fit_policy(one, cases)
    table = fit_expected_dice(one, cases).set_index(["policy", "scans", "region"])
    assert set(table.index) == {(policy, size, "tumour") for policy in ("fused", "heads", "by-size") for size in (1, 2)}
    assert (table["count"] == 3).all()
    assert Predictor.load(run.folder, device="cpu").fitted == one.fitted
    for case in cases:
        answer = one.predict(one.prepared(case), uncertainty=True)
        line = one.fitted.expected_dice["fused"][2]["tumour"]
        assert answer.sureness.expected_dice["tumour"] == pytest.approx(
            float(line(answer.sureness.agreement["tumour"])))
    alone = [dice(one.predict(ready, present).maps["logits"].argmax(0) == 1, ready.labels == 1)
             for ready in (prepare(case, LIVER) for case in cases) for present in ("arterial", "venous")]
    assert table.loc[("fused", 1, "tumour"), "dice"] == pytest.approx(np.mean(alone), abs=0.01)
    again = Predictor.load(run.folder, device="cpu")
    fit_smallest(again, cases)                      # not of by-size
    again.drop_small = True
    assert len(fit_expected_dice(again, cases)) == len(table)
    fit_policy(one, cases)                          # another mixture
    assert set(one.fitted.expected_dice) == {"fused", "heads"}
    with pytest.raises(DataError, match="0 cases"):
        fit_expected_dice(one, [])


def test_expected_dice_tells_sharper_than_the_mean_where_scans_disagree_more_in_worse_cases():
    """A lesion of which v shows what is right, and a as much of something else as the case is hard."""
    cases = []
    for wrong in range(6):
        truth = np.zeros((8, 8, 8), np.uint8)
        truth[:4] = 1
        seen = truth.copy()
        seen[4 - wrong // 2:4] = 0
        seen[:, :wrong] = 0
        cases.append(prepared({"a": 4.0 * seen - 2, "v": 4.0 * truth - 2}, truth, str(wrong)))
    one = Predictor(Reads(), PLAIN, (4, 4, 4), precision="float32", device="cpu")
    table = fit_expected_dice(one, cases[::2]).set_index(["policy", "scans"])
    assert table.loc[("fused", 2), "error"] < table.loc[("fused", 2), "error_of_mean"]
    found, real = [], []
    for case in cases[1::2]:
        answer = one.predict(case, uncertainty=True)
        found.append(answer.sureness.expected_dice["tumour"])
        real.append(dice(answer.maps["logits"].argmax(0) == 1, case.labels == 1))
    assert np.abs(np.subtract(found, real)).mean() < 0.05 < np.std(real)


@pytest.mark.slow
def test_the_dice_to_expect_is_at_most_ten_points_off_on_phantoms_that_nothing_was_fitted_to(tmp_path):
    cases = phantoms.brains(24, size=32)
    torch.manual_seed(0)
    method = build("maml", modalities=BRAIN.modalities, classes=4, channels=(8, 16), subset_weight=1,
                   ranking_weight=0.1)
    Trainer(method, tmp_path / "run", BRAIN, patch_size=(16, 16, 16), epochs=3, steps_per_epoch=60, learning_rate=3e-3,
            augmentation=None, validate_every=3, device="cpu").fit(cases[:8], cases[8:16])
    one = Predictor.load(tmp_path / "run", device="cpu")
    lines = one.fitted.expected_dice["fused"][4]
    off = []
    for case in cases[16:]:
        ready = prepare(case, BRAIN)
        answer = one.predict(ready, attention=False, contributions=False, uncertainty=True)
        for region, *masks in compared_masks(answer.maps["logits"].argmax(0), ready.labels, BRAIN):
            off.append(abs(answer.sureness.expected_dice[region] - dice(*masks)))
    assert np.mean(off) <= 0.10, (off, lines)

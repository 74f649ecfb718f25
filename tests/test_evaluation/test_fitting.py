"""What is learned from validation cases is what is best on them, and stays with the weights."""

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
from maml_toolkit.data.prepared import PreparedCase, grid_of
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.evaluation.fitting import (
    SHARES,
    Parts,
    best_threshold,
    by_share,
    fit_policy,
    fit_smallest,
    measured_parts,
)
from maml_toolkit.evaluation.metrics import dice
from maml_toolkit.methods import build
from maml_toolkit.methods.method import Method, Segmentation
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.fitted import Fitted
from maml_toolkit.prediction.parts import without_small
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.errors import DataError

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


def prepared(images, labels):
    """A case of arrays, on a grid of millimetres."""
    return PreparedCase("a", {name: np.asarray(image, np.float32) for name, image in images.items()},
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


def test_what_was_fitted_goes_wherever_the_weights_go(run, tmp_path):
    cases = phantoms.liver_phases(2, size=16)
    one = Predictor.load(run.folder, device="cpu")
    with pytest.raises(ValueError, match="by-size"):
        Predictor.load(run.folder, device="cpu", policy="by-size")
    fit_policy(one, cases)
    again = Predictor.load(run.folder, device="cpu", policy="by-size")
    assert again.fitted == one.fitted == Fitted(one.fitted.by_size, cases=[case.id for case in cases])
    assert set(one.fitted.by_size) == {1, 2}
    shared = from_pretrained(save_pretrained(run.folder, tmp_path / "shared", license="cc0-1.0"), device="cpu",
                             policy="by-size")
    assert shared.fitted == Fitted(one.fitted.by_size)         # and the ids of cases stay behind
    np.testing.assert_array_equal(shared(cases[0]).probabilities, again(cases[0]).probabilities)
    fit_policy(shared, cases)
    from_pretrained(tmp_path / "shared", device="cpu")          # whose sums are as they were


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
    fitted = Predictor.load(run.folder, device="cpu", policy="by-size", drop_small=True).fitted
    assert fitted.cases == (cases[1].id,)
    expected = Predictor.load(run.folder, device="cpu")
    fit_policy(expected, cases[1:])
    assert expected.fitted.by_size == fitted.by_size

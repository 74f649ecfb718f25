"""What is unlike the scans of a training is told; what is like them is not."""

import warnings

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage, stats

from maml_toolkit import Predictor
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build
from maml_toolkit.prediction.checkpoints import CheckpointError
from maml_toolkit.prediction.typical import FADING, TYPICAL, Typical, facts_of
from maml_toolkit.system.errors import DataWarning

TASK = TASKS["brats2021"].with_spacing(2)


@pytest.fixture(scope="module")
def brains():
    return phantoms.brains(7, size=24, spacing_mm=(2, 2, 2))


@pytest.fixture(scope="module")
def typical(brains):
    return Typical.of([prepare(case, TASK) for case in brains[:6]])


def with_skull(case):
    """The brain in a shell of fat, with air that is not exactly zero around it."""
    images = {}
    for name, image in case.images.items():
        array = np.pad(np.asarray(image.dataobj, np.float32), 6)
        brain = array > 0
        shell = ndimage.binary_dilation(brain, iterations=4) & ~ndimage.binary_dilation(brain, iterations=2)
        air = np.random.default_rng(0).random(array.shape, np.float32)
        images[name] = nib.Nifti1Image(array + ~brain * air + 2 * np.median(array[brain]) * shell, image.affine)
    return Case("head", images)


def test_another_brain_is_like_those_of_the_training(typical, brains):
    assert typical.cases == 6
    assert typical.unlike(prepare(brains[6], TASK)) == []


def test_one_scan_of_it_is_compared_by_what_it_has(typical, brains):
    flair = prepare(Case("flair", {"flair": brains[6].images["flair"]}), TASK)
    assert set(facts_of(flair)) == {"volume", "filled", "flair/25", "flair/50", "flair/75", "flair/95"}
    assert typical.unlike(flair) == []


def test_a_skull_is_told_by_volume_and_share_of_the_box(typical, brains):
    (oddity,) = typical.unlike(prepare(with_skull(brains[6]), TASK))
    assert oddity.case == "head"
    ml = (24 + 12) ** 3 * 8 / 1000              # air too
    assert f"{ml:,.0f} ml" in oddity.problem
    assert "100%" in oddity.problem
    assert oddity.remedy


def test_volume_is_what_is_not_zero_of_any_scan():
    arrays = [np.zeros((5, 5, 5), np.float32) for _ in range(2)]
    arrays[0][1:4, 1:4, 1] = np.arange(9).reshape(3, 3) + 1
    arrays[1][1:4, 1:4, 2] = np.arange(9).reshape(3, 3) + 1
    images = {name: nib.Nifti1Image(array, np.diag([2, 2, 2, 1]))
              for name, array in zip(("t1", "flair"), arrays, strict=True)}
    found = facts_of(prepare(Case("two planes", images), TASK))
    # a plane's mean, one of its nine voxels, is normalised to 0, which is nothing
    assert np.exp(found["volume"]) == pytest.approx(16 * 8 / 1000)
    assert found["filled"] == pytest.approx(16 / 18)


def test_the_limits_are_those_of_a_new_case(typical):
    low, high = typical.limits("volume")
    interval = stats.t.interval(0.999, 5, typical.mean["volume"], typical.sd["volume"] * np.sqrt(7 / 6))
    assert (low, high) == pytest.approx(interval)


def test_cases_of_one_mask_are_like_another_of_it():
    """As in a space of a template: no volume differs, and what was kept of it is rounded."""
    one = prepare(phantoms.brains(1, size=24, spacing_mm=(2, 2, 2))[0], TASK)
    assert Typical.of([one] * 4).unlike(one) == []


def test_a_scan_that_some_cases_lack_has_the_limits_of_those_that_have_it(brains):
    cases = [prepare(case, TASK) for case in brains[:6]]
    found = Typical.of([*(case.of(("t1", "t2")) for case in cases[:3]), *(case.of(("t2",)) for case in cases[3:])])
    three = [facts_of(case.of(("t1", "t2")))["t1/50"] for case in cases[:3]]
    low, high = stats.t.interval(0.999, 2, np.mean(three), np.std(three, ddof=1) * np.sqrt(4 / 3))
    assert found.limits("t1/50") == pytest.approx((low - FADING, high + FADING), abs=0.01)
    assert found.known_in.keys() == {f"t1/{percent}" for percent in (25, 50, 75, 95)}


def test_a_predictor_warns_and_answers(typical, brains):
    method = build("early_fusion", modalities=TASK.modalities, classes=TASK.classes, channels=(4, 6))
    predictor = Predictor(method, TASK, (16, 16, 16), device="cpu", precision="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.prepared(with_skull(brains[6]))       # nothing is known of a training
    predictor.typical = typical
    with pytest.warns(DataWarning, match=r"case head: .*\b6\b"):
        assert predictor(with_skull(brains[6])).classes.shape == (36, 36, 36)


def test_it_is_kept_with_the_checkpoint(typical, tmp_path):
    assert Typical.load(tmp_path) == Typical()
    typical.save(tmp_path)
    assert Typical.load(tmp_path) == typical
    (tmp_path / TYPICAL).write_text("{")
    with pytest.raises(CheckpointError, match=TYPICAL):
        Typical.load(tmp_path)

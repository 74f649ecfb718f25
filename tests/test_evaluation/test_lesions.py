"""Lesion by lesion: hand-made lesions, and values of BraTS 2023's own script."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from maml_toolkit.evaluation.lesions import lesion_wise
from maml_toolkit.evaluation.metrics import measure

MM = (1.0, 1.0, 1.0)


def cubes(*corners, edge=4, shape=(30, 30, 60)):
    """Cubes of 64 voxels, unless told otherwise."""
    mask = np.zeros(shape, bool)
    for corner in corners:
        mask[tuple(slice(one, one + edge) for one in corner)] = True
    return mask


def counts(found):
    return found["tp"], found["fp"], found["fn"]


def test_one_lesion_found_one_missed_one_invented():
    truth = cubes((5, 5, 5), (5, 5, 30))
    found = lesion_wise(cubes((5, 5, 5), (20, 20, 50)), truth, MM)
    assert found == pytest.approx({"dice": 1 / 3, "hd95": 2 * 374 / 3, "tp": 1, "fp": 1, "fn": 1, "sensitivity": 0.5,
                                   "precision": 0.5, "f1": 0.5})


def test_a_lesion_is_measured_with_all_components_that_reach_it():
    """64 of 64 voxels, and a cube of 64 that overlaps none of it but lies within its dilation: 2 · 64 / (64 + 128)."""
    found = lesion_wise(cubes((5, 5, 5), (5, 5, 11)), cubes((5, 5, 5)), MM)
    assert counts(found) == (1, 0, 0)
    assert found["dice"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("challenge", "reach"), [("gli", 3), ("ped", 3), ("ssa", 3), ("men", 1), ("met", 1)])
def test_lesions_are_one_where_their_dilations_meet(challenge, reach):
    for gap, lesions in ((2 * reach, 1), (2 * reach + 1, 2)):
        truth = cubes((5, 5, 5), (5, 5, 9 + gap))
        assert counts(lesion_wise(np.zeros_like(truth), truth, MM, challenge)) == (0, 0, lesions)


@pytest.mark.parametrize(("offset", "found"), [
    ((0, 0, 3), True), ((0, 0, 4), False), ((0, 3, 3), True), ((2, 2, 2), True), ((3, 3, 3), False)])
def test_three_dilations_over_faces_and_edges_reach_three_voxels_but_no_corner(offset, found):
    truth, prediction = cubes((5, 5, 5)), np.zeros((30, 30, 60), bool)
    prediction[tuple(8 + one for one in offset)] = True
    assert counts(lesion_wise(prediction, truth, MM)) == ((1, 0, 0) if found else (0, 1, 1))


def test_components_that_share_a_corner_are_one():
    invented = np.zeros((30, 30, 60), bool)
    invented[20, 20, 20] = invented[21, 21, 21] = invented[23, 23, 23] = True
    assert lesion_wise(invented, cubes((5, 5, 5)), MM)["fp"] == 2


@pytest.mark.parametrize(("challenge", "smallest_mm3"), [("gli", 50), ("met", 2)])
def test_small_lesions_are_left_out_and_so_is_what_finds_them(challenge, smallest_mm3):
    truth, prediction = np.zeros((20, 20, 60), bool), np.zeros((20, 20, 60), bool)
    truth[5, 5, :smallest_mm3] = True
    prediction[5, 5, 0] = True
    found = lesion_wise(prediction, truth, MM, challenge)
    assert (found["dice"], found["hd95"], counts(found)) == (1, 0, (0, 0, 0))
    truth[5, 5, smallest_mm3] = True
    assert counts(lesion_wise(prediction, truth, MM, challenge)) == (1, 0, 0)


def test_the_smallest_volume_is_in_cubic_millimetres():
    truth = cubes((5, 5, 5), edge=3)                                            # 27 voxels
    assert lesion_wise(truth, truth, (1.0, 1.0, 1.8))["tp"] == 0                # 48.6 mm³
    assert lesion_wise(truth, truth, (1.0, 1.0, 2.0))["tp"] == 1


def test_hd95_of_a_lesion_is_in_mm():
    """One slice too few of the lesion's twenty: a tenth of its surface is 2 mm from the answer's."""
    truth = np.zeros((30, 12, 12), bool)
    truth[5:25, 3:9, 3:9] = True
    prediction = truth.copy()
    prediction[24] = False
    assert lesion_wise(prediction, truth, (2.0, 1.0, 1.0))["hd95"] == pytest.approx(2)


@pytest.mark.parametrize(("prediction", "truth", "dice", "hd95", "detection"), [
    (False, False, 1, 0, (1, 1, 1)), (True, False, 0, 374, (0, 0, 0)), (False, True, 0, 374, (0, 0, 0))])
def test_empty_masks_have_the_values_of_brats(prediction, truth, dice, hd95, detection):
    lesion = cubes((5, 5, 5))
    found = lesion_wise(lesion & prediction, lesion & truth, MM)
    assert (found["dice"], found["hd95"]) == (dice, hd95)
    assert (found["sensitivity"], found["precision"], found["f1"]) == detection


def random_masks(seed):
    """A ground truth of several lesions and an answer that shares some of them."""
    shape, sigma = (36, 32, 40), 1.7
    field, other = (gaussian_filter(np.random.default_rng(one).standard_normal(shape), sigma)
                    for one in (seed, seed + 100))
    answer = field + 0.4 * other
    return answer > np.quantile(answer, 0.98), field > np.quantile(field, 0.98)


OFFICIAL = {
    (0, MM, "gli"): (0.1358112762871646, 299.76055512754635, 2, 8, 0),
    (0, MM, "met"): (0.4267760239512761, 125.92846936499559, 28, 12, 2),
    (3, MM, "met"): (0.4458111240055112, 106.6069756106648, 28, 8, 3),
    (5, (2.0, 0.7, 1.1), "gli"): (0.4882746336092303, 126.81722696523616, 4, 2, 0),
    (5, (2.0, 0.7, 1.1), "met"): (0.4653730215572676, 86.72323168441507, 24, 2, 5),
}
"""What eval.py of BraTS-2023-Metrics (commit 0e272e6) finds for them: dice, hd95, Num_TP, Num_FP, Num_FN."""


@pytest.mark.parametrize(("seed", "spacing_mm", "challenge"), OFFICIAL)
def test_random_masks_have_the_values_of_the_official_script(seed, spacing_mm, challenge):
    found = lesion_wise(*random_masks(seed), spacing_mm, challenge)
    dice, hd95, *detected = OFFICIAL[seed, spacing_mm, challenge]
    assert (found["dice"], found["hd95"]) == pytest.approx((dice, hd95), rel=1e-9)
    assert counts(found) == tuple(detected)


def far_apart(seed):
    """Balls 24 mm apart, as panoptica wants them to count what BraTS counts: one of four missed, one invented."""
    random, places = np.random.default_rng(seed), np.indices((40, 40, 120))
    truth, answer = np.zeros((2, 40, 40, 120), bool)
    for number, z in enumerate(range(12, 120, 24)):
        radius = random.uniform(3, 6)
        centre = np.array([20, 20, z]) + random.uniform(-2, 2, 3)
        moved = centre + random.uniform(-1.5, 1.5, 3)
        for mask, at, size, is_there in ((truth, centre, 1, number != 1), (answer, moved, 0.9, number != 3)):
            mask |= is_there & (((places - at[:, None, None, None]) ** 2).sum(0) < (size * radius) ** 2)
    return answer, truth


@pytest.mark.parametrize(("seed", "dice"), [(0, 0.7445026274063), (1, 0.7500128566789979), (2, 0.7413770058872285)])
def test_lesions_far_apart_are_counted_as_by_panoptica(seed, dice):
    """panoptica 2.1.7, connected components, IoU of 0.01 and more: tp 3, fp 1, fn 1, rq 0.75, and sq_dsc `dice`."""
    found = lesion_wise(*far_apart(seed), MM)
    assert counts(found) == (3, 1, 1)
    assert found["f1"] == 0.75
    assert found["dice"] == pytest.approx(3 * dice / 5)


def test_a_table_says_by_which_rules_lesions_were_counted():
    one, other = cubes((5, 5, 5)), cubes((5, 5, 6), (20, 20, 20))
    measured = measure(one, other, MM, metrics=["lesions", "lesions@met"])
    found = {(metric, unit): value for metric, unit, value in measured}
    assert len(found) == 2 * 8
    by_hand = lesion_wise(one, other, MM, "met")
    assert found["lesion_dice@met", "fraction"] == by_hand["dice"] == found["lesion_dice", "fraction"]
    assert found["lesion_hd95@met", "mm"] == by_hand["hd95"]
    assert found["lesion_fn", "count"] == 1


def test_an_unknown_challenge_is_refused():
    with pytest.raises(ValueError, match=r"challenge='flair'.*gli"):
        lesion_wise(cubes((5, 5, 5)), cubes((5, 5, 5)), MM, "flair")

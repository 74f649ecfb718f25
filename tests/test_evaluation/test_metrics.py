import doctest
import warnings

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter

from maml_toolkit.evaluation import metrics, surfaces
from maml_toolkit.evaluation.metrics import assd, dice, hd95, measure, nsd


def blob(seed, shape=(14, 17, 20)):
    """A random mask of a few smooth lumps, a tenth of the volume."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return field > np.quantile(field, 0.9)


def voxels(*places, shape=(6, 6, 6)):
    mask = np.zeros(shape, bool)
    mask[tuple(np.transpose(places))] = True
    return mask


SPACING = (2.0, 0.7, 1.1)
EMPTY = np.zeros((6, 6, 6), bool)


def values(agreement):
    return {(metric, unit): value for metric, unit, value in agreement}


def test_a_perfect_overlap_has_dice_one_and_no_distance():
    for agreement in (measure(blob(0), blob(0), SPACING), measure(blob(0).astype(int), blob(0), SPACING)):
        assert [value for _, _, value in agreement] == [1, 0, 0, 0, 0]


def test_prediction_and_truth_can_be_swapped():
    one, other = blob(1), blob(2)
    assert values(measure(one, other, SPACING)) == pytest.approx(values(measure(other, one, SPACING)))


def test_masks_that_do_not_touch_have_dice_zero_but_a_distance():
    agreement = values(measure(voxels((0, 0, 0)), voxels((0, 0, 3)), SPACING))
    assert agreement["dice", "fraction"] == 0
    assert agreement["hd95", "mm"] == pytest.approx(3 * SPACING[2])


def test_distances_scale_with_the_spacing():
    assert assd(blob(1), blob(2), (3.0, 3.0, 3.0)) == pytest.approx(3 * assd(blob(1), blob(2)))
    assert hd95(blob(1), blob(2), (3.0, 3.0, 3.0)) == pytest.approx(3 * hd95(blob(1), blob(2)))


def test_what_surrounds_the_masks_does_not_matter():
    one, other = blob(1), blob(2)
    wide = values(measure(np.pad(one, 9), np.pad(other, 9), SPACING))
    assert wide == pytest.approx(values(measure(one, other, SPACING)))


def test_turning_both_masks_turns_nothing():
    turned = values(measure(blob(1).transpose(2, 0, 1), blob(2).transpose(2, 0, 1), (1.1, 2.0, 0.7)))
    assert turned == pytest.approx(values(measure(blob(1), blob(2), SPACING)))


def test_masks_are_not_changed():
    one, other = blob(1), blob(2)
    measure(one, other, SPACING)
    assert (one == blob(1)).all()
    assert (other == blob(2)).all()


def test_all_at_once_is_each_by_itself():
    one, other = blob(3), blob(4)
    assert values(measure(one, other, SPACING)) == {
        ("dice", "fraction"): dice(one, other),
        ("assd", "mm"): assd(one, other, SPACING), ("assd", "voxel"): assd(one, other),
        ("hd95", "mm"): hd95(one, other, SPACING), ("hd95", "voxel"): hd95(one, other),
    }


def test_dice_by_hand():
    assert dice(voxels((0, 0, 0), (0, 0, 1), (0, 0, 2)), voxels((0, 0, 2))) == pytest.approx(2 * 1 / (3 + 1))


def test_assd_and_hd95_by_hand():
    """Two voxels against one, in a row of 2 mm: distances 0 and 2 outwards, 0 inwards."""
    one, other = voxels((0, 0, 0), (1, 0, 0)), voxels((0, 0, 0))
    assert assd(one, other, (2.0, 1.0, 1.0)) == pytest.approx((0 + 2 + 0) / 3)
    assert hd95(one, other, (2.0, 1.0, 1.0)) == pytest.approx(0.95 * 2)             # between 0 and 2
    assert hd95(one, other, (2.0, 1.0, 1.0), pooled=True) == pytest.approx(0.9 * 2)    # between 0, 0 and 2


def test_the_surface_is_the_voxels_with_a_face_outside():
    """The 26 outer voxels of a 3x3x3 cube are surface, against the empty-hearted cube nothing differs."""
    cube = np.ones((3, 3, 3), bool)
    hollow = cube.copy()
    hollow[1, 1, 1] = False
    assert assd(cube, hollow) == 0
    assert dice(cube, hollow) == pytest.approx(52 / 53)


def test_one_far_false_positive_separates_the_two_definitions_of_hd95():
    truth = np.zeros((40, 12, 12), bool)
    truth[1:9, 2:10, 2:10] = True
    prediction = voxels((2, 5, 5), (39, 5, 5), shape=truth.shape)
    assert hd95(prediction, truth) > 3 * hd95(prediction, truth, pooled=True)


def test_two_empty_masks_agree():
    agreement = measure(EMPTY, EMPTY, SPACING)
    assert [value for _, _, value in agreement] == [1, 0, 0, 0, 0]
    assert agreement.prediction_empty
    assert agreement.truth_empty


def test_one_empty_mask_is_a_diagonal_away():
    """6 voxels of 2, 3 and 6 mm along the edges: √(12² + 18² + 36²) = 42 mm, √(3 · 6²) voxels."""
    lesion = voxels((3, 3, 3))
    missed, invented = measure(EMPTY, lesion, (2.0, 3.0, 6.0)), measure(lesion, EMPTY, (2.0, 3.0, 6.0))
    assert values(missed) == values(invented) == pytest.approx({
        ("dice", "fraction"): 0, ("assd", "mm"): 42, ("hd95", "mm"): 42,
        ("assd", "voxel"): 108**0.5, ("hd95", "voxel"): 108**0.5})
    assert (missed.prediction_empty, missed.truth_empty) == (True, False)
    assert (invented.prediction_empty, invented.truth_empty) == (False, True)
    assert hd95(EMPTY, lesion, (2.0, 3.0, 6.0), pooled=True) == pytest.approx(42)


def test_arrays_that_are_no_masks_are_refused():
    mask = voxels((0, 0, 0))
    for other, message in ((mask[:5], "shapes"), (mask * 2, "value 2 .*truth"),
                           (mask * 0.5, "value 0.5"), (np.where(mask, np.nan, 0), "value nan")):
        for metric in (dice, assd, hd95):
            with pytest.raises(ValueError, match=message):
                metric(mask, other)
    with pytest.raises(ValueError, match="shapes"):
        dice(mask[0], mask[0])


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, np.nan), (1.0, -1.0, 1.0)])
def test_a_spacing_that_is_none_is_refused(spacing_mm):
    for metric in (assd, hd95, measure):
        with pytest.raises(ValueError, match="spacing_mm"):
            metric(EMPTY, EMPTY, spacing_mm)


def test_the_examples_in_the_docstrings_are_true():
    found = doctest.testmod(metrics)
    assert found.failed == 0
    assert found.attempted > 2


@pytest.fixture(scope="module")
def monai():
    """MONAI's Dice, symmetric ASSD and HD95 of two masks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    def oracle(prediction, truth, spacing_mm):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pair = [torch.tensor(np.array(mask, np.float32))[None, None] for mask in (prediction, truth)]
            options = {"include_background": True, "spacing": [float(mm) for mm in spacing_mm]}
            return [float(compute_dice(*pair)),
                    float(compute_average_surface_distance(*pair, symmetric=True, **options)),
                    float(compute_hausdorff_distance(*pair, percentile=95, **options))]
    return oracle


def assert_equal_to(monai, prediction, truth, spacing_mm):
    ours = [dice(prediction, truth), assd(prediction, truth, spacing_mm), hd95(prediction, truth, spacing_mm)]
    np.testing.assert_allclose(ours, monai(prediction, truth, spacing_mm), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_measure_as_in_monai(monai, seed):
    spacing = tuple(np.random.default_rng(seed).uniform(0.5, 4, 3).tolist())
    assert_equal_to(monai, blob(seed), blob(seed + 100), spacing)


@pytest.mark.parametrize("seed", range(3))
def test_masks_that_the_border_cuts_measure_as_in_monai(monai, seed):
    one, other = (np.roll(blob(number), (5, 6, 7), axis=(0, 1, 2)) for number in (seed, seed + 100))
    for axis in range(3):
        assert one.take(0, axis).any() or one.take(-1, axis).any()
    assert_equal_to(monai, one, other, (0.7, 1.1, 2.0))


def region(folder, case, *label_values):
    image = nibabel.load(folder / "brats2021_2mm" / case / f"{case}_seg.nii.gz")
    spacing = tuple(float(mm) for mm in image.header.get_zooms())
    return np.isin(np.asarray(image.dataobj), label_values), spacing


@pytest.mark.parametrize("case", ["BraTS2021_01478", "BraTS2021_00006", "BraTS2021_01476"])
@pytest.mark.parametrize("label_values", [(1, 2, 4), (1, 4), (4,)], ids=["WT", "TC", "ET"])
def test_real_tumours_measure_as_in_monai(monai, real_data, case, label_values):
    truth, spacing = region(real_data, case, *label_values)
    assert_equal_to(monai, np.roll(truth, (2, -1, 3), axis=(0, 1, 2)), truth, spacing)
    if (eroded := binary_erosion(truth)).any():
        assert_equal_to(monai, eroded, truth, spacing)


def test_a_tumour_without_enhancement_follows_the_rule_for_empty_masks(real_data):
    truth, spacing = region(real_data, "BraTS2021_01477", 4)
    whole, _ = region(real_data, "BraTS2021_01477", 1, 2, 4)
    assert values(measure(truth, truth, spacing))["dice", "fraction"] == 1
    missed = measure(whole, truth, spacing)
    assert missed.truth_empty
    assert values(missed)["hd95", "mm"] == pytest.approx(np.hypot(np.hypot(240, 240), 156))


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_box_is_that_of_all_voxels_whatever_their_order_in_memory(layout, count):
    random = np.random.default_rng(count)
    masks = [np.zeros((7, 9, 5), bool, order=layout) for _ in range(2)]
    for mask in masks[:count]:
        mask[tuple(random.integers(0, n, 4) for n in mask.shape)] = True
        mask[tuple(random.choice([0, n - 1]) for n in mask.shape)] = True       # a corner of the whole
    voxels = np.argwhere(masks[0] | masks[1])
    box = surfaces.box(*masks)
    if count:
        assert box == tuple(slice(low, high + 1) for low, high in zip(voxels.min(0), voxels.max(0), strict=True))
    else:
        assert masks[0][box].size == 0


def test_metrics_in_mm_alone_are_those_beside_voxels():
    mask = np.zeros((6, 7, 8), bool)
    mask[:4, 2:, 2:6] = True
    both = {(one.metric, one.unit): one.value for one in metrics.measure(mask, np.roll(mask, 1, 1), (1, 2, 3))}
    alone = {(one.metric, one.unit): one.value
             for one in metrics.measure(mask, np.roll(mask, 1, 1), (1, 2, 3), voxels=False)}
    assert alone == {key: value for key, value in both.items() if key[1] != "voxel"}


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 4, 3), (0, 0, 0)])
def test_the_surface_is_what_scipys_erosion_takes_away(shape):
    for share in (0.5, 0.9, 1.0):
        mask = np.random.default_rng(0).random(shape) < share
        np.testing.assert_array_equal(surfaces.surface(mask), mask & ~binary_erosion(mask))


def test_nsd_of_two_voxels_by_hand():
    """A voxel has eight elements, triangles of √3/8 mm²; one voxel further on, half of them lie on the other's."""
    one, other = voxels((2, 2, 2)), voxels((3, 2, 2))
    assert [nsd(one, other, tolerance) for tolerance in (0, 0.9, 1)] == pytest.approx([0.5, 0.5, 1])
    assert nsd(one, other, 1.9, (2.0, 1.0, 1.0)) == pytest.approx(0.5)


def test_nsd_weighs_surfaces_by_their_area():
    """A cube of two voxels and its lower half: √3/8 mm² at corners, √2/2 on edges and 1 on faces.

    The elements lie in layers: nine below, eight around the cube's middle, nine above. The half has its upper nine in
    the middle; one of them, on its face, is inside the cube and 1 mm from its surface, as are the cube's upper nine.
    """
    cube, half = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    cube[1:3, 1:3, 1:3] = half[1:2, 1:3, 1:3] = True
    nine, eight = 4 * 3**0.5 / 8 + 4 * 2**0.5 / 2 + 1, 4 * 2**0.5 / 2 + 4
    shared = (nine + eight) + (nine + nine - 1)
    assert nsd(cube, half, 0) == pytest.approx(shared / (nine + eight + nine + nine + nine))
    assert nsd(cube, half, 1) == 1


def test_a_tolerance_is_reached_whatever_the_rounding():
    """Three voxels of 0.7 mm are 2.1 mm, which 3 · 0.7 is not in floating point."""
    one, other = voxels((0, 2, 2)), voxels((3, 2, 2))
    assert nsd(one, other, 2.1, (0.7, 1.0, 1.0)) == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 0.7, 1.1)])
def test_nsd_is_that_of_deepmind_as_monai_has_it(seed, spacing_mm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from monai.metrics import compute_surface_dice

        one, other = (np.roll(blob(number), (5, 6, 7), axis=(0, 1, 2)) for number in (seed, seed + 100))
        pair = [torch.tensor(mask)[None, None] for mask in (one, other)]
        for tolerance in (0.0, 1.0, 1.75, 3.0):
            oracle = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing_mm,
                                          use_subvoxels=True)
            assert nsd(one, other, tolerance, spacing_mm) == pytest.approx(float(oracle), abs=1e-5)


@pytest.mark.parametrize(("spacing_mm", "tolerance", "expected"), [
    ((1.0, 1.0, 1.0), 1.0, 0.5101120611005806), ((1.0, 1.0, 1.0), 1.75, 0.6377610752786236),
    ((2.0, 0.7, 1.1), 1.0, 0.3429803056635959), ((2.0, 0.7, 1.1), 1.75, 0.5223665624625268)])
def test_nsd_is_that_of_deepminds_own_surface_distance(spacing_mm, tolerance, expected):
    """surface-distance 0.1, compute_surface_dice_at_tolerance."""
    one, other = (np.roll(blob(number), (5, 6, 7), axis=(0, 1, 2)) for number in (0, 100))
    assert nsd(one, other, tolerance, spacing_mm) == pytest.approx(expected, rel=1e-9)


def test_nsd_of_empty_masks_follows_the_rule():
    lesion = voxels((3, 3, 3))
    assert (nsd(EMPTY, EMPTY, 1), nsd(EMPTY, lesion, 99), nsd(lesion, EMPTY, 99)) == (1, 0, 0)


def test_volumes_are_in_millilitres():
    """2 and 3 voxels of 2 x 5 x 10 mm, which is 0.1 ml."""
    truth, prediction = voxels((0, 0, 0), (5, 5, 5)), voxels((0, 0, 0), (0, 0, 1), (0, 0, 2))
    found = values(measure(prediction, truth, (2, 5, 10), metrics="volume"))
    assert found == pytest.approx({("volume_ground_truth", "ml"): 0.2, ("volume_prediction", "ml"): 0.3,
                                   ("volume_difference", "ml"): 0.1, ("volume_absolute_difference", "ml"): 0.1})
    missed = values(measure(EMPTY, truth, (2, 5, 10), metrics="volume"))
    assert missed["volume_difference", "ml"] == pytest.approx(-0.2)
    assert missed["volume_absolute_difference", "ml"] == pytest.approx(0.2)


def test_what_is_asked_for_is_measured_in_that_order():
    one, other = blob(3), blob(4)
    asked = measure(one, other, SPACING, voxels=False, metrics=["nsd@2", "hd95", "nsd@0.5", "hd95", "dice"])
    assert [(metric, unit) for metric, unit, _ in asked] == [
        ("nsd@2", "fraction"), ("hd95", "mm"), ("nsd@0.5", "fraction"), ("dice", "fraction")]
    assert [value for _, _, value in asked] == [
        nsd(one, other, 2, SPACING), hd95(one, other, SPACING), nsd(one, other, 0.5, SPACING), dice(one, other)]


@pytest.mark.parametrize("asked", ["nsd", "nsd@", "nsd@-1", "nsd@inf", "iou", "lesions@brats", [], ["dice", "nsd"]])
def test_an_unknown_metric_is_refused(asked):
    with pytest.raises(ValueError, match="metrics"):
        measure(EMPTY, EMPTY, SPACING, metrics=asked)


@pytest.mark.parametrize("tolerance", [-1, np.nan, np.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance_mm"):
        nsd(EMPTY, EMPTY, tolerance)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 3.0, 1.2)])
def test_the_elements_of_a_cell_have_the_area_of_deepminds_table(spacing_mm):
    from monai.metrics.utils import get_code_to_measure_table

    table = get_code_to_measure_table(spacing_mm)[0].numpy()
    turned = [int(f"{code:08b}"[::-1], 2) for code in range(256)]       # theirs counts the corners from the other end
    np.testing.assert_allclose(surfaces._areas(spacing_mm), table[turned], rtol=1e-6)

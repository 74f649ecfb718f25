"""From files to working arrays and back."""

import nibabel
import numpy as np
import pytest

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import foreground_voxels, nonzero_box, normalised, prepare, with_spacing
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import TASKS

BRAIN = TASKS["brats2021"]


def image(array, affine=None):
    return nibabel.Nifti1Image(np.ascontiguousarray(array), np.eye(4) if affine is None else affine)


def turned(case, codes):
    """The same case with its files stored along other axes."""
    def turn(source):
        move = nibabel.orientations.ornt_transform(nibabel.io_orientation(source.affine),
                                                   nibabel.orientations.axcodes2ornt(codes))
        return source.as_reoriented(move)
    return Case(case.id, {name: turn(one) for name, one in case.images.items()}, turn(case.label))


def test_each_modality_has_zero_mean_and_unit_variance_in_its_own_mask():
    values = np.random.default_rng(0).normal(300, 50, (12, 12, 12)).astype(np.float32)
    values[:4] = 0
    result = normalised(values, "mr")
    assert (result[:4] == 0).all()
    assert result[4:].mean() == pytest.approx(0, abs=1e-5)
    assert result[4:].std() == pytest.approx(1, abs=1e-5)


def test_ct_is_normalised_over_the_whole_volume():
    result = normalised(np.random.default_rng(0).normal(0, 50, (8, 8, 8)).astype(np.float32), "ct")
    assert result.mean() == pytest.approx(0, abs=1e-5)


def test_outliers_are_clipped_to_the_percentiles():
    values = np.ones((10, 10, 10), np.float32)
    values[:5] = 2
    values[0, 0, 0] = 1e6
    result = normalised(values, "ct")
    assert result.max() < 1.1      # by hand: halves at 1 and 2, so +1 and -1; the outlier is clipped to 2


def test_the_box_is_that_of_all_modalities_together():
    one, other = np.zeros((6, 6, 6)), np.zeros((6, 6, 6))
    one[1, 2, 3] = other[4, 2, 5] = 1
    assert nonzero_box([one, other], one.shape) == ((1, 5), (2, 3), (3, 6))
    assert nonzero_box([], (6, 7, 8)) == ((0, 6), (0, 7), (0, 8))


def test_box_and_grid_do_not_depend_on_the_axes_of_the_file():
    case = phantoms.brains(1, size=(24, 28, 20))[0]
    plain = prepare(case, BRAIN)
    for codes in ("LAS", "LPS", "PIR"):
        other = prepare(turned(case, codes), BRAIN)
        for name, array in plain.images.items():
            np.testing.assert_allclose(other.images[name], array, atol=1e-5)
        np.testing.assert_array_equal(other.labels, plain.labels)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR"])
def test_what_goes_to_the_working_grid_comes_back_to_the_voxels_of_the_file(codes):
    case = turned(phantoms.brains(1, size=(24, 28, 20))[0], codes)
    prepared = prepare(case, BRAIN)
    back = prepared.grid.to_file(prepared.grid.to_box(prepared.labels.astype(np.float32)))
    np.testing.assert_array_equal(back, BRAIN.encode(np.asarray(case.label.dataobj)))


def test_another_spacing_keeps_the_lesion_where_it_is():
    case = phantoms.brains(1, size=(32, 32, 32), spacing_mm=(1.0, 1.0, 2.0))[0]
    prepared = prepare(case, BRAIN.with_spacing((1.0, 1.0, 1.0)))
    assert prepared.grid.spacing_mm == pytest.approx((1, 1, 1))
    truth = BRAIN.encode(np.asarray(case.label.dataobj)) > 0
    back = prepared.grid.to_file(prepared.grid.to_box((prepared.labels > 0).astype(np.float32))) > 0.5
    overlap = 2 * (back & truth).sum() / (back.sum() + truth.sum())
    assert overlap > 0.95
    centre = np.array(np.nonzero(back)).mean(1) - np.array(np.nonzero(truth)).mean(1)
    assert np.abs(centre).max() < 0.2


def test_the_median_spacing_of_the_cases_is_taken():
    cases = [phantoms.brains(1, seed=seed, spacing_mm=(1.0, 1.0, mm))[0] for seed, mm in enumerate((1.0, 3.0, 2.0))]
    assert with_spacing(BRAIN, cases).spacing_mm == (1.0, 1.0, 2.0)
    assert with_spacing(BRAIN.with_spacing((1, 1, 5)), cases).spacing_mm == (1.0, 1.0, 5.0)


def test_a_missing_modality_is_missing_in_the_arrays():
    case = phantoms.brains(1)[0]
    without = Case(case.id, {name: one for name, one in case.images.items() if name != "t2"}, case.label)
    assert "t2" not in prepare(without, BRAIN).images


def test_foreground_voxels_are_voxels_of_their_class():
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[2:28, 2:28, 2:28] = 1
    labels[5, 5, 5] = 2
    rows = foreground_voxels(labels)
    assert (labels[tuple(rows[:, 1:].T)] == rows[:, 0]).all()
    assert (np.bincount(rows[:, 0]) == [0, 10_000, 1]).all()


def test_modalities_on_different_grids_are_refused_by_name():
    case = phantoms.brains(1)[0]
    moved = image(np.asarray(case.images["t2"].dataobj), case.images["t2"].affine + np.eye(4)[:, 3:] @ [[0, 0, 0, 5]])
    with pytest.raises(DataError, match=r"modality t2.*apart"):
        prepare(Case("a", {**case.images, "t2": moved}, case.label), BRAIN)


def test_a_real_case_comes_back_to_its_own_grid(real_data):
    folder = real_data / "brats2021_2mm" / "BraTS2021_01477"
    case = Case("01477", {"flair": folder / f"{folder.name}_flair.nii.gz"}, folder / f"{folder.name}_seg.nii.gz")
    prepared = prepare(case, BRAIN)
    truth = BRAIN.encode(np.asarray(nibabel.load(case.label).dataobj))
    np.testing.assert_array_equal(prepared.grid.to_file(prepared.labels), truth)

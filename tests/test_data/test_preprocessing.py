"""From files to working arrays and back."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from cached import is_cached

from maml_toolkit.data import phantoms
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import Case
from maml_toolkit.data.findings import greys
from maml_toolkit.data.preprocessing import foreground_voxels, nonzero_box, normalised, prepare, with_spacing
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.system.errors import DataError

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


@pytest.mark.parametrize("intensities", ["mr", "ct"])
def test_the_unit_of_a_scan_does_not_matter(intensities):
    """A map of diffusion in m²/s has values of 1e-9."""
    values = np.random.default_rng(0).uniform(0.5, 3, (8, 8, 8)).astype(np.float32)
    in_si = (values * 1e-9).astype(np.float32)
    np.testing.assert_allclose(normalised(in_si, intensities), normalised(values, intensities), atol=1e-5)
    np.testing.assert_allclose(greys(in_si[0], "none"), greys(values[0], "none"), atol=1)


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


@pytest.mark.parametrize("shape", [(24, 24, 2), (24, 24, 3), (3, 24, 24), (2, 2, 2)])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 5), (0.4, 0.4, 2), (2, 2, 12)])
def test_a_scan_of_a_few_slices_is_prepared_and_comes_back(shape, spacing):
    random, affine = np.random.default_rng(0), np.diag([0.5, 0.5, 5, 1])
    label = np.zeros(shape, np.uint8)
    label[1, 1, 1] = 1
    case = Case("thin", {"t1": image(random.normal(100, 9, shape).astype(np.float32), affine)}, image(label, affine))
    task = TASKS["ms_lesions"].with_spacing(spacing)
    ready = prepare(case, task)
    assert ready.images["t1"].shape == ready.grid.working_shape
    assert np.isfinite(ready.images["t1"]).all()
    assert (ready.labels == 1).any()
    assert ready.grid.to_file(ready.grid.to_box(ready.images["t1"])).shape == shape


def test_a_box_of_one_voxel_is_refused_by_name_and_the_other_cases_go_on(tmp_path):
    dot = np.zeros((12, 12, 12), np.float32)
    dot[5, 5, 5] = 7
    good = image(np.random.default_rng(0).normal(100, 9, dot.shape).astype(np.float32))
    task = TASKS["ms_lesions"].with_spacing((1, 1, 1))
    cases = [Case("dot", {"t1": image(dot)}), Case("good", {"t1": good})]
    with pytest.raises(DataError) as caught:
        prepare_all(cases, task, tmp_path)
    assert [(one.case, one.modality) for one in caught.value.errors] == [("dot", "t1")]
    assert is_cached(cases[1], task, tmp_path)


def two_stage(kind):
    return Task("two_stage", ("ct", "organ"), {"background": 0, "lesion": 1}, spacing_mm=(1, 1, 1),
                intensities={"ct": "ct", "organ": kind})


@pytest.mark.parametrize(("kind", "size"), [("mr", 20), ("ct", 4)])
def test_a_mask_that_normalisation_would_erase_is_an_error_and_is_kept_as_it_is_where_the_task_says_so(kind, size):
    mask = np.zeros((32, 32, 32), np.uint8)
    mask[6:6 + size, 6:6 + size, 6:6 + size] = 3
    scan = np.random.default_rng(0).normal(0, 100, mask.shape).astype(np.float32)
    case = Case("a", {"ct": image(scan), "organ": image(mask)}, image((mask > 0).astype(np.uint8)))
    with pytest.raises(DataError) as caught:
        prepare(case, two_stage(kind))
    assert [(one.case, one.modality) for one in caught.value.errors] == [("a", "organ")]
    assert '"none"' in caught.value.remedy
    ready = prepare(case, two_stage("none"))
    np.testing.assert_array_equal(ready.images["organ"], mask)
    assert ready.images["organ"].dtype == np.float32
    assert ready.images["ct"].std() == pytest.approx(1, abs=1e-4)


def test_every_modality_that_would_be_erased_is_named():
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[4:8] = 1
    with pytest.raises(DataError) as caught:
        prepare(Case("a", {"t1": image(mask), "t2": image(mask.T)}), TASKS["ms_lesions"])
    assert [one.modality for one in caught.value.errors] == ["t1", "t2"]


def test_a_lesion_that_is_lost_is_said_by_case_and_class():
    label = np.zeros((16, 16, 16), np.uint8)
    label[4, 4, 4], label[5, 5, 5] = 1, 2           # in one voxel of the coarser grid
    label[10:14, 10:14, 10:14] = 1
    scan = np.random.default_rng(0).normal(100, 9, label.shape).astype(np.float32)
    ready = prepare(Case("a", {"t1": image(scan)}, image(label)), BRAIN.with_spacing((2, 2, 2)))
    assert [(one.case, one.modality) for one in ready.oddities] == [("a", "label")]
    assert "1 lesions" in ready.oddities[0].problem
    assert ("necrosis" in ready.oddities[0].problem) != ("oedema" in ready.oddities[0].problem)


def test_a_label_where_every_scan_is_zero_is_said():
    scan, label = np.zeros((16, 16, 16), np.float32), np.zeros((16, 16, 16), np.uint8)
    scan[:8] = np.random.default_rng(0).normal(100, 9, (8, 16, 16))
    label[2, 2, 2], label[12, 3:6, 3] = 1, 2
    ready = prepare(Case("a", {"t1": image(scan)}, image(label)), BRAIN)
    assert [(one.case, one.problem.partition(" lie")[0]) for one in ready.oddities] == [("a", "3 voxels of oedema")]


def test_headers_that_cannot_be_read_are_told_together(tmp_path):
    cases = [Case(name, {"t1": tmp_path / f"{name}.nii.gz"}) for name in ("one", "two")]
    with pytest.raises(DataError) as caught:
        with_spacing(BRAIN, cases)
    assert [one.case for one in caught.value.errors] == ["one", "two"]


def test_what_is_prepared_coarser_comes_back_to_its_place_and_size():
    label = np.zeros((32, 32, 32), np.uint8)
    label[8:20, 8:20, 8:20] = 1
    scan = np.random.default_rng(0).normal(100, 9, label.shape).astype(np.float32)
    ready = prepare(Case("a", {"t1": image(scan)}, image(label)), TASKS["ms_lesions"].with_spacing((2, 2, 2)))
    answer = np.stack([ready.labels == 0, ready.labels == 1]).astype(np.float32)
    back = ready.grid.to_file(ready.grid.to_box(answer).argmax(0).astype(np.uint8))
    assert 2 * (back & label).sum() / (back.sum() + label.sum()) > 0.95


@pytest.mark.parametrize("spacing", [(2, 2, 2), (2, 2, 1), (0.5, 0.5, 0.5), (1.5, 1.5, 1.5)])
def test_a_lesion_of_one_voxel_that_was_found_is_there_in_the_file(spacing):
    """An answer that is right on the working grid finds every lesion on the file's, where it was."""
    scan = np.random.default_rng(0).normal(100, 9, (16, 16, 16)).astype(np.float32)
    for place in np.ndindex(2, 2, 2):
        label = np.zeros(scan.shape, np.uint8)
        at = tuple(np.add(place, 7))
        label[at] = 1
        label[2:5, 2:5, 2:5] = 2
        ready = prepare(Case("a", {"t1": image(scan)}, image(label)), BRAIN.with_spacing(spacing))
        logits = np.stack([ready.labels == one for one in range(4)]).astype(np.float32)
        back = ready.grid.to_file(ready.grid.answer_in_box(logits, BRAIN.answers.classes))
        assert (back == 1).any()
        assert np.abs(np.argwhere(back == 1) - at).max() <= 2
        assert (back == 2).sum() == pytest.approx(27, rel=0.6)


def test_a_scan_under_a_synonym_is_refused_and_never_left_out():
    case = phantoms.brains(1, size=12)[0]
    renamed = replace(case, images={"T1w" if name == "t1" else name: image for name, image in case.images.items()})
    with pytest.raises(DataError) as refused:
        prepare(renamed, TASKS["brats2021"])
    assert (refused.value.case, refused.value.modality) == (case.id, "T1w")

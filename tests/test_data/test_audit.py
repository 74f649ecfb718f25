import warnings

import nibabel as nib
import numpy as np
import pytest

from maml_toolkit.data.audit import DataWarning, audit, audit_case, check
from maml_toolkit.data.cases import Case, find_cases
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import TASKS

BRATS = TASKS["brats2021"]
LPS = np.array([[-1.0, 0, 0, 90], [0, -1.5, 0, 120], [0, 0, 2, -70], [0, 0, 0, 1]])


def lesion(*values, shape=(6, 7, 8)):
    label = np.zeros(shape, np.uint8)
    label.flat[:len(values)] = values
    return label


def moved(millimetres):
    affine = LPS.copy()
    affine[1, 3] += millimetres
    return affine


@pytest.fixture
def case(save):
    """Saves a clean case of BraTS 2021; arguments change the array and the affine of single files."""

    def case(id="A", names=("t1", "t1ce", "t2", "flair", "seg"), arrays=None, affines=None):
        label = {"seg": lesion(1, 2, 4)} | (arrays or {})
        paths = {name: save(f"{id}/{id}_{name}.nii.gz", label.get(name), (affines or {}).get(name, LPS))
                 for name in names}
        return Case(id, {name: path for name, path in paths.items() if name != "seg"}, paths.get("seg"))

    return case


def only(cases, **more):
    """The one problem, which names the case and a remedy."""
    errors = audit(cases, BRATS, **more)
    assert len(errors) == 1, errors
    assert errors[0].remedy
    return errors[0]


def located(error, case, source):
    assert error.case == case
    assert str(error.path) == str(source)
    assert str(source) in str(error)
    return str(error)


def test_clean_cases_have_no_problem(case):
    cases = [case("A"), case("B", names=("t1", "seg")), case("C", arrays={"seg": lesion()})]
    assert audit(cases, BRATS) == []
    check(cases, BRATS)
    assert audit([], BRATS) == []


def test_published_scans_have_no_problem(real_data):
    for folder, task in (("brats2021_2mm", BRATS), ("open_ms_2mm", TASKS["ms_lesions"])):
        assert audit(find_cases(real_data / folder, task)[:2], task) == []


def test_the_answer_does_not_depend_on_the_number_of_workers(case):
    cases = [case("A"), case("B", affines={"t2": moved(5)}), case("C", names=("seg",))]
    alone, together = (list(map(str, audit(cases, BRATS, workers=workers))) for workers in (1, 3))
    assert alone == together
    assert len(alone) == 2


def test_all_problems_of_all_cases_are_raised_together(case):
    with pytest.raises(DataError, match="2 problems") as caught:
        check([case("A", names=("t1",)), case("B", affines={"t2": moved(5)})], BRATS)
    assert [error.case for error in caught.value.errors] == ["A", "B"]


def test_an_origin_five_millimetres_apart_is_reported_with_the_distance_and_both_files(case):
    bad = case(affines={"flair": moved(5)})
    message = located(only([bad]), "A", bad.images["flair"])
    assert "5 mm apart" in message
    assert str(bad.images["t1"]) in message


def test_an_origin_a_ten_thousandth_of_a_millimetre_apart_passes(case):
    assert audit([case(affines={"flair": moved(1e-4)})], BRATS) == []


def test_a_modality_turned_by_ninety_degrees_is_reported(case):
    cube, turned = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32), LPS.copy()
    turned[:3, 1], turned[:3, 2] = LPS[:3, 2], -LPS[:3, 1]
    arrays = {name: cube + index for index, name in enumerate(BRATS.modalities)}
    bad = case(arrays=arrays | {"seg": lesion(1, 2, 4, shape=(5, 8, 8))}, affines={"t2": turned})
    message = located(only([bad]), "A", bad.images["t2"])
    assert "LPS and LSA" in message


def test_different_shapes_are_reported_with_both_files(case):
    bad = case(arrays={"t2": np.random.default_rng(0).normal(size=(6, 7, 9))})
    message = located(only([bad]), "A", bad.images["t2"])
    assert "(6, 7, 8) and (6, 7, 9)" in message
    assert str(bad.images["t1"]) in message


@pytest.mark.parametrize("change", [
    {"affines": {"seg": moved(5)}}, {"arrays": {"seg": lesion(1, 2, 4, shape=(6, 7, 9))}}])
def test_a_label_on_another_grid_is_found_before_training(case, change):
    bad = case(**change)
    error = only([bad])
    located(error, "A", bad.label)
    assert error.modality == "label"


def test_missing_modalities_are_allowed_and_a_case_without_any_is_not(case):
    bad = case("B", names=("seg",))
    error = only([case("A", names=("flair", "seg")), bad])
    assert "no modality at all" in located(error, "B", bad.label)


def test_a_label_is_wanted_for_training_alone(case):
    bad = case(names=("t1",))
    assert "no label" in located(only([bad]), "A", bad.images["t1"])
    assert audit([bad], BRATS, training=False) == []


@pytest.mark.parametrize(("name", "nearest"), [("T1CE", "t1ce"), ("t1c", "t1ce"), ("fliar", "flair")])
def test_a_name_that_is_not_the_tasks_own_is_reported_with_the_nearest(case, name, nearest):
    good = case()
    bad = Case("A", {"t1": good.images["t1"], name: good.images["flair"]}, good.label)
    error = only([bad])
    assert error.modality == name
    assert nearest in located(error, "A", good.images["flair"])


def test_two_modalities_with_the_same_voxels_are_warned_of_once(case, save):
    same = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    copies, one = case(arrays={"t1": same, "flair": same}), case("B")
    file = Case("B", one.images | {"t2": one.images["t1"]}, one.label)
    with pytest.warns(DataWarning) as caught:
        assert audit([copies, file], BRATS) == []
    assert len(caught) == 1
    first, second = str(caught[0].message).splitlines()
    assert f"case A: t1 ({copies.images['t1']}) and flair ({copies.images['flair']}) hold the same" in first
    assert f"case B: t1 ({file.images['t1']}) and t2 ({file.images['t1']}) are one file" in second


def test_one_case_twice_in_the_list_is_reported(case):
    one = case()
    error = only([one, one])
    assert error.case == "A"
    assert "belongs to two cases" in str(error)
    error = only([one, Case("B", {"t1": one.images["t1"]}, one.label)])
    assert "'A' and 'B' share this file" in located(error, "B", one.images["t1"])


def test_an_unexpected_label_value_is_reported_with_the_scheme_it_looks_like(case):
    bad = case(arrays={"seg": lesion(1, 2, 3)})
    error, *regions = audit([bad], BRATS)
    message = located(error, "A", bad.label)
    assert "found the label values [3], expected [0, 1, 2, 4]" in message
    assert "brats2023" in message
    assert "region ET" in str(regions[0])


def test_negative_and_enormous_label_values_are_reported(case):
    label = -lesion(1, 2, 4).astype(np.int32)
    bad = case(arrays={"seg": np.where(label == -4, 2_000_000_000, label).astype(np.int32)})
    assert "[-2, -1, 2000000000]" in located(audit([bad], BRATS)[0], "A", bad.label)


def test_a_region_that_is_empty_in_every_case_is_an_error_in_training(case):
    cases = [case("A", arrays={"seg": lesion(1, 2)}), case("B", arrays={"seg": lesion(1)})]
    message = str(only(cases))
    assert "region ET (the values [4]) is empty in all 2 labels" in message
    assert str(cases[0].label) in message
    assert audit(cases, BRATS, training=False) == []
    assert audit([*cases, case("C")], BRATS) == []


def test_an_empty_label_is_allowed(case):
    assert audit([case("A"), case("B", arrays={"seg": lesion()})], BRATS) == []


def test_unreadable_files_are_reported_and_the_others_go_on(case):
    bad = case("A", affines={"flair": moved(5)})
    whole = bad.images["t2"].read_bytes()
    bad.images["t2"].write_bytes(whole[:len(whole) // 2])
    bad.label.unlink()
    truncated, gone, grid = audit([bad, case("B")], BRATS)
    assert "truncated" in located(truncated, "A", bad.images["t2"])
    assert "does not exist" in located(gone, "A", bad.label)
    assert "5 mm apart" in located(grid, "A", bad.images["flair"])


def test_a_file_with_nan_is_reported(case):
    bad = case(arrays={"t2": np.full((6, 7, 8), np.nan, np.float32)})
    assert "336 NaN" in located(only([bad]), "A", bad.images["t2"])


def test_images_in_memory_are_audited_alike():
    voxels = np.random.default_rng(0).normal(size=(2, 6, 7, 8)).astype(np.float32)
    label = nib.Nifti1Image(lesion(1, 2, 4), LPS)
    images = {"t1": nib.Nifti1Image(voxels[0], LPS), "t2": nib.Nifti1Image(voxels[1], moved(5))}
    error = only([Case("A", images, label)])
    assert "t1 (an image in memory) and t2 (an image in memory)" in str(error)


def test_the_audit_changes_no_file_and_adds_none(case, tmp_path):
    one = case()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not audit_case(one, BRATS).errors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

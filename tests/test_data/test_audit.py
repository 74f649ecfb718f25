import gc
import re
import warnings
import weakref

import nibabel as nib
import numpy as np
import pytest

from maml_toolkit.data import volumes
from maml_toolkit.data.audit import audit, audit_source
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import Case, find_cases, write_table
from maml_toolkit.data.findings import greys
from maml_toolkit.data.mending import mend
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Frame
from maml_toolkit.system.errors import DataError, DataWarning

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
        label = {"seg": np.roll(lesion(1, 2, 4), sum(id.encode()))} | (arrays or {})
        paths = {name: save(f"{id}/{id}_{name}.nii.gz", label.get(name), (affines or {}).get(name, LPS))
                 for name in names}
        return Case(id, {name: path for name, path in paths.items() if name != "seg"}, paths.get("seg"))

    return case


def errors_of(cases, **more):
    return list(audit(cases, BRATS, **more).errors)


def only(cases, **more):
    """The one problem, which names the case and a remedy."""
    errors = errors_of(cases, **more)
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
    assert errors_of(cases) == []
    audit(cases, BRATS).check()
    assert errors_of([]) == []


def test_published_scans_have_no_problem(real_data):
    for folder, task in (("brats2021_2mm", BRATS), ("open_ms_2mm", TASKS["ms_lesions"])):
        assert audit(find_cases(real_data / folder, task)[:2], task).errors == ()


def test_the_answer_does_not_depend_on_the_number_of_workers(case):
    cases = [case("A"), case("B", affines={"t2": moved(5)}), case("C", names=("seg",))]
    alone, together = (list(map(str, errors_of(cases, workers=workers))) for workers in (1, 3))
    assert alone == together
    assert len(alone) == 2


def test_all_problems_of_all_cases_are_raised_together(case):
    with pytest.raises(DataError, match="2 problems") as caught:
        audit([case("A", names=("t1",)), case("B", affines={"t2": moved(5)})], BRATS).check()
    assert [error.case for error in caught.value.errors] == ["A", "B"]


def test_an_origin_five_millimetres_apart_is_reported_with_the_distance_and_both_files(case):
    bad = case(affines={"flair": moved(5)})
    message = located(only([bad]), "A", bad.images["flair"])
    assert "5 mm apart" in message
    assert str(bad.images["t1"]) in message


def test_an_origin_a_ten_thousandth_of_a_millimetre_apart_passes(case):
    assert errors_of([case(affines={"flair": moved(1e-4)})]) == []


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
    assert "no scan at all" in located(error, "B", bad.label)


def test_a_label_is_wanted_for_training_alone(case):
    bad = case(names=("t1",))
    assert "no label" in located(only([bad]), "A", bad.images["t1"])
    assert errors_of([bad], training=False) == []


@pytest.mark.parametrize(("name", "nearest"), [("T1CE", "t1ce"), ("t1c", "t1ce"), ("fliar", "flair")])
def test_a_name_that_is_not_the_tasks_own_is_reported_with_the_nearest(case, name, nearest):
    good = case()
    bad = Case("A", {"t1": good.images["t1"], name: good.images["flair"]}, good.label)
    error = only([bad])
    assert error.modality == name
    assert nearest in located(error, "A", good.images["flair"])


def test_two_modalities_with_the_same_voxels_are_warned_of_once_and_errors_in_strict_mode(case, tmp_path):
    same = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    copies, one = case(arrays={"t1": same, "flair": same}), case("B")
    file = Case("B", one.images | {"t2": one.images["t1"]}, one.label)
    with pytest.warns(DataWarning) as caught:
        audit([copies, file], BRATS).check()
    assert len(caught) == 1
    first, _, second, _ = str(caught[0].message).splitlines()
    write_table([copies, file], tmp_path / "cases.csv", BRATS)
    assert len(audit_source(tmp_path / "cases.csv", BRATS, strict=True).errors) == 2
    assert f": t1 ({copies.images['t1']}) and flair ({copies.images['flair']}) hold the same" in first
    assert f": t1 ({file.images['t1']}) and t2 ({file.images['t1']}) are one file" in second


def test_one_case_twice_in_the_list_is_reported(case):
    one = case()
    error = only([one, one])
    assert error.case == "A"
    assert "belongs to two cases" in str(error)
    error = only([one, Case("B", {"t1": one.images["t1"]}, one.label)])
    assert "'A' and 'B' share this file" in located(error, "B", one.images["t1"])


@pytest.mark.parametrize("way", ["folder", "files", "one file"])
def test_a_case_that_is_reached_again_through_links_is_told_once_with_both_names(case, tmp_path, way):
    first, other = case("A", ("t1", "flair", "seg")), case("C")
    if way == "folder":
        (tmp_path / "B").symlink_to(tmp_path / "A")
        again = find_cases(tmp_path / "B", BRATS)[0]
    else:
        (tmp_path / "B").mkdir()
        names = ("t1", "flair") if way == "files" else ("t1",)
        for name in names:
            (tmp_path / "B" / f"B_{name}.nii.gz").symlink_to(first.images[name])
        again = Case("B", {name: tmp_path / "B" / f"B_{name}.nii.gz" for name in names}, other.label)
    error = only([first, again], training=False)
    assert "'A' and 'B' share this file" in located(error, "B", again.images["t1"])
    assert str(first.images["t1"]) in error.problem


def test_a_link_from_one_scan_to_another_of_its_case_is_told_as_one_file(case, tmp_path):
    one = case(names=("t1", "seg"))
    (link := tmp_path / "A" / "A_flair.nii.gz").symlink_to(one.images["t1"])
    (oddity,) = audit([Case("A", one.images | {"flair": link}, one.label)], BRATS).oddities
    assert "are one file" in oddity.problem


def test_an_unexpected_label_value_is_reported_with_the_scheme_it_looks_like(case):
    bad = case(arrays={"seg": lesion(1, 2, 3)})
    error, *regions = errors_of([bad])
    message = located(error, "A", bad.label)
    assert "found the label values [3], expected [0, 1, 2, 4]" in message
    assert "brats2023" in message
    assert "region ET" in str(regions[0])


def test_negative_and_enormous_label_values_are_reported(case):
    label = -lesion(1, 2, 4).astype(np.int32)
    bad = case(arrays={"seg": np.where(label == -4, 2_000_000_000, label).astype(np.int32)})
    assert "[-2, -1, 2000000000]" in located(errors_of([bad])[0], "A", bad.label)


def test_a_region_that_is_empty_in_every_case_is_an_error_in_training(case):
    cases = [case("A", arrays={"seg": lesion(1, 2)}), case("B", arrays={"seg": lesion(1)})]
    message = str(only(cases))
    assert "region ET (the values [4]) is empty in all 2 labels" in message
    assert str(cases[0].label) in message
    assert errors_of(cases, training=False) == []
    assert errors_of([*cases, case("C")]) == []


def test_an_empty_label_is_allowed(case):
    assert errors_of([case("A"), case("B", arrays={"seg": lesion()})]) == []


def test_unreadable_files_are_reported_and_the_others_go_on(case):
    bad = case("A", affines={"flair": moved(5)})
    whole = bad.images["t2"].read_bytes()
    bad.images["t2"].write_bytes(whole[:len(whole) // 2])
    bad.label.unlink()
    truncated, gone, grid = errors_of([bad, case("B")])
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
        assert not audit([one], BRATS).errors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_one_case_under_two_ids_is_found_by_its_voxels(case, save):
    one = case("A")
    copied = {name: save(f"B/B_{name}.nii.gz", nib.load(path).get_fdata()) for name, path in one.images.items()}
    error = only([one, Case("B", copied, case("C", names=("seg",)).label)])
    message = located(error, "B", copied["t1"])
    assert "'A' and 'B' hold the same voxels" in message
    assert str(one.images["t1"]) in message


def test_frames_of_one_file_that_hold_the_same_voxels_are_a_case_under_two_ids(save):
    values = np.random.default_rng(0).normal(size=(6, 7, 8, 3)).astype(np.float32)
    values[..., 2] = values[..., 0]
    path = save("four.nii.gz", values)
    first, second, third = (Case(id, {"t1": Frame(path, index)}) for index, id in enumerate("ABC"))
    message = located(only([first, second, third], training=False), "C", path)
    assert "'A' and 'C' hold the same voxels" in message
    (oddity,) = audit([Case("D", {"t1": Frame(path, 0), "t2": Frame(path, 2)})], BRATS, training=False).oddities
    assert "hold the same voxels" in oddity.problem


def test_the_label_of_another_case_is_warned_of(case):
    empty, of_a = {"seg": lesion()}, {"seg": np.roll(lesion(1, 2, 4), sum(b"A"))}
    cases = [case("A"), case("B", arrays=of_a), case("C", arrays=empty), case("D", arrays=empty)]
    (oddity,) = audit(cases, BRATS).oddities
    assert "'A' and 'B' have the same label" in located(oddity, "B", cases[1].label)


@pytest.mark.parametrize(("lowest", "highest", "odd"), [(-1000, 1200, 0), (0, 2400, 1), (-3, 3, 1), (-1024, 60_000, 1)])
def test_a_ct_that_is_not_in_hounsfield_units_is_warned_of(save, lowest, highest, odd):
    ct = np.linspace(lowest, highest, 336).reshape(6, 7, 8).astype(np.float32)
    one = Case("A", {"venous": save("A_venous.nii.gz", ct)}, save("A_seg.nii.gz", lesion(1)))
    found = audit([one], TASKS["liver_phases"])
    assert found.errors == ()
    assert len(found.oddities) == odd
    if odd:
        assert "Hounsfield" in located(found.oddities[0], "A", one.images["venous"])
        assert "DICOM" in found.oddities[0].remedy


def test_an_uncompressed_file_beside_a_compressed_one_is_an_error(case, save):
    bad = case()
    beside = save("A/A_t1.nii")
    message = located(only([bad]), "A", bad.images["t1"])
    assert beside.name in message


def test_names_layout_and_files_of_a_folder_are_reported_together(case, tmp_path):
    bad = case("A", affines={"flair": moved(5)})
    bad.images["t2"].write_bytes(bad.images["t2"].read_bytes()[:-9])
    bad.images["t1"].rename(tmp_path / "A" / "A_t9.nii.gz")
    found = audit_source(tmp_path, BRATS)
    said = [str(error) for error in found.errors]
    assert len(said) == 3, said
    assert [sum(word in one for one in said) for word in ("'t9'", "truncated", "5 mm apart")] == [1, 1, 1]
    table = found.table()
    assert list(table["severity"]) == ["error"] * 3
    assert set(table["case"]) == {"A"}
    assert table["remedy"].str.len().min() > 10


def test_how_many_cases_lack_which_scans_is_counted(case, tmp_path):
    for id in "AB":
        case(id)
    for id in "CDE":
        case(id, ("t1", "t2", "flair", "seg"))
    case("F", ("t1", "flair"))
    found = audit_source(tmp_path, BRATS)
    assert found.lacking == {("t1ce",): ("C", "D", "E"), (): ("A", "B"), ("t1ce", "t2", "label"): ("F",)}
    assert re.findall(r"\d+", re.sub("t1ce|t2", "", found.availability)) == ["2", "6", "3", "1"]
    assert audit([], BRATS).availability == ""


def test_without_a_task_names_are_understood_and_label_values_are_not_checked(case, tmp_path):
    case("A", arrays={"seg": lesion(1, 7)})
    found = audit_source(tmp_path)
    assert set(found.task.modalities) == set(BRATS.modalities)
    assert not found.checked_labels
    assert found.errors == ()
    assert len(audit_source(tmp_path, BRATS).errors) == 2


def test_a_folder_without_cases_is_a_problem_and_not_an_exception(tmp_path):
    assert len(audit_source(tmp_path, BRATS).errors) == 1
    assert len(audit_source(tmp_path / "nothing", BRATS).errors) == 1


def test_without_a_task_the_one_that_understands_most_names_is_taken(real_data):
    assert {one.name for one in audit_source(real_data / "chaos_ct").cases[0].seen} == {"venous", "label"}


def test_the_published_traps_are_found_as_far_as_a_program_can(real_data, tmp_path):
    """The label of the native prostate has a wrong header: seen beside its scan, and no more once it was resampled."""
    scans = {name: real_data / "prostatex" / "native_ProstateX-0000" / f"ProstateX-0000_{name}.nii.gz"
             for name in ("t2w", "adc", "hbv", "seg")}
    label = scans.pop("seg")
    errors = {error.modality: error for error in audit([Case("native", scans, label)], TASKS["prostatex"]).errors}
    assert set(errors) == {"adc", "hbv", "label"}
    assert "axes towards LPS and LAS" in errors["label"].problem
    resampled = mend(label, tmp_path / "seg.nii.gz", label=True, onto=scans["t2w"])
    assert audit([Case("native", {"t2w": scans["t2w"]}, resampled)], TASKS["prostatex"]).errors == ()
    assert audit_source(real_data / "prostatex" / "ProstateX-0000", TASKS["prostatex"]).errors == ()
    assert audit_source(real_data / "chaos_ct", TASKS["chaos_ct"]).errors == ()
    (wrong,) = [error for error in audit_source(real_data / "brats2021_2mm", TASKS["brats2023"]).errors
                if error.case and error.case.endswith("00006")]
    assert "[4]" in wrong.problem


def test_sparse_scans_with_other_voxels_are_no_copies(save):
    task = Task("points", ("ct", "points"), {"background": 0, "lesion": 1}, intensities={"ct": "ct", "points": "mr"})
    cases = []
    for number in range(2):
        points = np.zeros((6, 7, 8), np.uint8)
        points[1 + number, 3, 4] = 1
        points[3, 2 - number, 5] = 2
        cases.append(Case(f"p{number}", {"ct": save(f"ct{number}.nii.gz"), "points": save(f"p{number}.nii.gz", points)},
                          save(f"l{number}.nii.gz", np.roll(lesion(1), number))))
    assert audit(cases, task).errors == ()
    copied = nib.Nifti1Image(nib.load(cases[0].images["points"]).get_fdata(), LPS)
    again = Case("p2", {"points": copied}, cases[0].label)
    (error,) = audit([*cases, again], task).errors
    assert (error.case, error.modality) == ("p2", "points")


def test_the_volumes_of_bad_cases_are_let_go(case, monkeypatch):
    """Frames in an error's traceback would hold every volume that could not be used."""
    held = []
    opened = volumes.nifti.image_of

    def watched(path, **how):
        image = opened(path, **how)
        held.append(weakref.ref(image))
        return image

    monkeypatch.setattr(volumes.nifti, "image_of", watched)
    bad = [case(f"c{number}", names=("t1", "seg"), arrays={"t1": np.full((6, 7, 8), np.nan, np.float32)})
           for number in range(40)]
    found = audit(bad, BRATS)
    assert len([error for error in found.errors if "336 NaN" in error.problem]) == 40
    with pytest.raises(DataError) as caught:
        prepare_all(bad[:2], BRATS)
    assert len(caught.value.errors) == 2
    gc.collect()
    assert len(held) >= 84
    assert not [one for one in held if one() is not None]


def test_a_liver_that_is_taken_for_a_tumour_is_odd(save):
    label = np.zeros((6, 7, 8), np.uint8)
    label[1:5, 1:6, 1:7] = 1                            # 120 voxels
    ct = np.linspace(-1000, 1200, 336).reshape(6, 7, 8).astype(np.float32)
    for side_mm, odd in ((23.2, 1), (10, 0)):           # 1498 and 120 ml
        grid = np.diag([side_mm, side_mm, side_mm, 1])
        one = Case("A", {"venous": save(f"{side_mm}_v.nii.gz", ct, grid)}, save(f"{side_mm}_l.nii.gz", label, grid))
        found = audit([one], TASKS["liver_phases"])
        assert found.errors == ()
        assert [(error.case, error.modality, "1,498 ml" in error.problem) for error in found.oddities] == [
            ("A", "label", True)] * odd
        assert audit([one], TASKS["chaos_ct"]).oddities == ()


def test_tissue_is_told_apart_in_the_picture_of_a_scan_that_is_bright_nearly_everywhere():
    """The percentiles 1, 50 and 99 are 100, 480 and 560, as in T1: black is 3 * 480 - 2 * 560 = 320."""
    values = np.array([0] * 100 + [100] * 2 + [400] * 40 + [480] * 20 + [520] * 37 + [560] * 2, np.float32)
    shown = greys(values[None], "mr")[0]
    expected = {0: 0, 100: 0, 400: 255 * 80 / 240, 480: 255 * 2 / 3, 520: 255 * 200 / 240, 560: 255}
    for value, grey in expected.items():
        assert set(shown[values == value].tolist()) == {int(grey)}, value


def test_a_picture_of_two_values_shows_both():
    values = np.array([[0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]], np.float32)
    assert len(set(greys(values, "mr")[values == 2].tolist())) == 1
    assert greys(values, "mr")[1, 0] == 255
    assert greys(values, "mr")[0, 2] < 130
    assert set(np.unique(greys(np.full((2, 2), 7.0), "mr")).tolist()) == {255}

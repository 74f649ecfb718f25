"""BIDS: what lies in it is found, what is written in it is found again and accepted by its own validators."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from bids_files import errors_of_the_validator
from bids_validator import BIDSValidator

from maml_toolkit.data import splits, volumes
from maml_toolkit.data.audit import audit, audit_source
from maml_toolkit.data.cache import Preparation
from maml_toolkit.data.cases import Case, find_cases, search, task_of, write_cases, write_table
from maml_toolkit.data.checksums import content
from maml_toolkit.data.layouts import dseg
from maml_toolkit.data.layouts.bids import ending_of
from maml_toolkit.data.phantoms import brains, liver_phases
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.evaluation.measuring import ground_truth
from maml_toolkit.system.errors import DataError

BRAIN, LIVER = TASKS["brats2021"], TASKS["liver_phases"]
SESSIONS = ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-03_ses-1")


@pytest.mark.parametrize(("make", "task", "names"), [
    (brains, BRAIN, ["T1w", "T2w", "FLAIR", "ce-GADOLINIUM_T1w"]),
    (liver_phases, LIVER, ["acq-arterial_ct", "acq-venous_ct"]),
])
def test_phantoms_are_written_as_bids_and_found_with_the_same_voxels(tmp_path, make, task, names):
    cases = make(2, size=(8, 9, 10), spacing_mm=(1.0, 1.5, 2.0))
    place = write_cases(cases, tmp_path / "bids", "bids", task)
    start = f"sub-{cases[0].id.replace('-', '')}"
    assert {path.name for path in (place / start / "anat").iterdir()} == {f"{start}_{name}.nii.gz" for name in names}
    assert (place / "derivatives" / "labels" / start / "anat" / f"{start}_dseg.nii.gz").is_file()
    found = find_cases(place, task)
    assert [(case.id, case.patient) for case in found] == [(f"sub-{case.id.replace('-', '')}",) * 2 for case in cases]
    for one, other in zip(cases, found, strict=True):
        assert one.modalities == other.modalities
        for name, source in one.images.items():
            np.testing.assert_array_equal(volumes.read(source).array, volumes.read(other.images[name]).array)
        np.testing.assert_array_equal(volumes.read_label(one.label).array, volumes.read_label(other.label).array)
        np.testing.assert_allclose(volumes.read_label(other.label).affine, one.label.affine)
    assert not audit_source(place, task).errors


def test_the_label_values_are_named_in_a_table(tmp_path):
    place = write_cases(brains(1, size=8), tmp_path / "bids", "bids", BRAIN)
    assert (place / "derivatives/labels/dseg.tsv").read_text() == (
        "index\tname\n0\tbackground\n1\tnecrosis\n2\toedema\n4\tenhancing\n")
    described = json.loads((place / "derivatives/labels/dataset_description.json").read_text())
    assert (described["DatasetType"], described["GeneratedBy"]) == ("derivative", [{"Name": "Manual"}])


@pytest.fixture
def lesions(tmp_path, save):
    """A data set of two subjects whose label is 2 in ten voxels, with a dseg.tsv in the place that is named."""
    def made(table: str, place: str = "derivatives/manual/dseg.tsv"):
        label = np.zeros((6, 7, 8), np.uint8)
        label[:, :, 3].flat[:10] = 2
        for name in ("sub-01", "sub-02"):
            save(f"{name}/anat/{name}_FLAIR.nii.gz")
            save(f"derivatives/manual/{name}/anat/{name}_space-orig_dseg.nii.gz", label)
        (tmp_path / place).write_text(table)
        return tmp_path

    return made


@pytest.mark.parametrize("place", ["dseg.tsv", "derivatives/manual/dseg.tsv", "derivatives/manual/space-orig_dseg.tsv"])
@pytest.mark.parametrize(("columns", "one", "two"), [
    ("name", "white matter", "LESION"), ("name\tabbreviation", "WM\tWM", "plaque\tlesion"),
    ("name\tmapping\tnear", "WM\t2\tlesion", "plaque\t7\tWM"), ("name\tsnomed", "WM\t1", "plaque\t52988006")])
def test_a_lesion_of_another_value_is_found_by_what_the_table_calls_it(lesions, place, columns, one, two):
    source = lesions(f"index\t{columns}\n1\t{one}\n2\t{two}\n", place)
    with pytest.raises(DataError, match=r"task_of") as caught:
        find_cases(source, TASKS["ms_lesions"])
    assert caught.value.path == source / place
    task = task_of(source, TASKS["ms_lesions"])
    assert task.labels == {"background": (0,), "lesion": (2,)}
    cases = find_cases(source, task)
    assert [int((task.encode(volumes.read_label(case.label).array) == 1).sum()) for case in cases] == [10, 10]
    assert not [error for error in audit_source(source, task).errors if error.modality == "label"]


def test_a_network_of_other_values_is_trained_and_measured_by_the_values_of_the_data_set(lesions, tmp_path):
    source, task = lesions("index\tname\n2\tlesion\n"), TASKS["ms_lesions"]
    cases = find_cases(source, task_of(source, task))
    arrays = Preparation(task, tmp_path / "arrays")
    for case, ready in zip(cases, arrays.all(cases), strict=True):
        assert np.count_nonzero(ground_truth(case, task).array == 1) == 10
        assert np.count_nonzero(np.asarray(ready.labels) == 1) == np.count_nonzero(ready.labels) == 10
        assert Preparation(task, tmp_path / "arrays").findings(case)
        unknown = replace(case, task=None)
        assert not Preparation(task, tmp_path / "arrays").findings(unknown)
        with pytest.raises(DataError, match=r"found the label values \[2\]"):
            ground_truth(unknown, task)
    again = write_cases(cases, tmp_path / "nnunet", "nnunet", replace(task, modalities=("flair",), intensities="mr",
                                                                      reference=None, label_on=None))
    assert volumes.read_label(again / f"labelsTr/{cases[0].id}.nii.gz").array.max() == 1
    other = Task("other", task.modalities, {"background": 0, "scar": 1})
    assert (cases[0].scheme(other), unknown.scheme(task)) == (other, task)


NAMES = {"background": 0, "oedema": 1, "lesion": 2}
OTHERS = {"background": 0, "lesion": 1, "oedema": 2}


@pytest.mark.parametrize("labels", [OTHERS, {name: OTHERS[name] for name in NAMES}], ids=["other order", "same order"])
@pytest.mark.parametrize("layout", ["folders", "bids", "table", "nnunet"])
def test_what_was_drawn_is_the_same_for_a_task_of_other_values_in_another_order(tmp_path, layout, labels):
    """Ten voxels of lesion (2) and five of oedema (1): so they are called by the data set, and nobody may swap them."""
    drawn = np.zeros((6, 7, 8), np.uint8)
    drawn[:, :, 3].flat[:15] = [2] * 10 + [1] * 5
    scan = np.random.default_rng(0).normal(size=drawn.shape).astype(np.float32)
    own, task = Task("own", ["t1"], NAMES), Task("net", ["t1"], labels)
    called = Task("net", ["t1"], {"healthy": 0} | {name: value for name, value in labels.items() if value})
    case = replace(Case("a", {"t1": nib.Nifti1Image(scan, np.eye(4))}, nib.Nifti1Image(drawn, np.eye(4))), task=own)

    def voxels(case):
        truth = ground_truth(case, task).array
        return {name: int((truth == number).sum()) for number, name in enumerate(task.class_names) if number}

    assert (ground_truth(case, called).array == ground_truth(case, task).array).all()
    place = write_cases([case], tmp_path / layout, layout, task)
    (again,) = find_cases(place, task_of(place, task))
    assert voxels(case) == voxels(again) == {"lesion": 10, "oedema": 5}
    assert audit([case], task).errors == audit([again], task).errors == ()
    with pytest.raises(DataError, match=r"values of task own"):
        write_table([find_cases(write_cases([case], tmp_path / "own", task=own), own)[0]], tmp_path / "a.csv", task)
    assert content(case, own) == content(replace(case, task=None), own) != content(case, task)


def test_what_a_data_set_of_other_values_ignores_is_ignored_and_what_cannot_be_written_is_refused(tmp_path):
    drawn = np.zeros((4, 4, 4), np.uint8)
    drawn[0], drawn[1] = 1, 9
    case = Case("a", {"t1": nib.Nifti1Image(np.random.default_rng(0).normal(size=drawn.shape), np.eye(4))},
                nib.Nifti1Image(drawn, np.eye(4)))
    plain = Task("plain", ["t1"], {"background": 0, "lesion": 1})
    ignoring, other = replace(plain, ignore=9), replace(plain, labels={"background": 0, "lesion": 2})
    for found_by, read_by in ((plain, ignoring), (ignoring, other), (other, ignoring)):
        scheme = replace(case, task=found_by).scheme(read_by)
        assert (scheme.labels, scheme.ignore) == (found_by.labels, 9)
    assert np.count_nonzero(ground_truth(replace(case, task=ignoring), other).array == 255) == 16
    with pytest.raises(DataError, match="16 voxels that are ignored"):
        write_cases([replace(case, task=ignoring)], tmp_path / "a", task=other)
    written = write_cases([replace(case, task=ignoring)], tmp_path / "b", task=replace(other, ignore=300))
    values = volumes.read_label(written / "a/a_seg.nii.gz").array
    assert [np.unique(values[plane]).tolist() for plane in range(3)] == [[2], [300], [0]]


def test_a_network_that_ignores_nothing_is_measured_where_the_data_set_is_labelled(tmp_path):
    """The data set's own dataset.json says that 2, the next number, is ignored; the task of the network says nothing.
    """
    drawn = np.zeros((4, 4, 4), np.uint8)
    drawn[0], drawn[1] = 1, 9
    plain = Task("plain", ["t1"], {"background": 0, "lesion": 1})
    case = Case("a", {"t1": nib.Nifti1Image(np.random.default_rng(0).normal(size=drawn.shape), np.eye(4))},
                nib.Nifti1Image(drawn, np.eye(4)), task=replace(plain, ignore=9))
    place = write_cases([case], tmp_path / "data", "nnunet", case.task)
    (found,) = find_cases(place, task_of(place, plain))
    assert not audit([found], plain).errors
    truth = ground_truth(found, plain).array
    assert [np.unique(truth[plane]).tolist() for plane in range(3)] == [[1], [255], [0]]
    others = Task("others", ["t1"], {"background": 0, "lesion": 1, "scar": 9})
    with pytest.raises(DataError, match="9 is ignored in task plain"):
        case.scheme(others)


def test_a_class_of_another_value_among_other_classes_is_no_guess(tmp_path):
    own, net = Task("own", ["t1"], NAMES), Task("net", ["t1"], {"background": 0, "lesion": 1, "necrosis": 2})
    label = np.ones((4, 4, 4), np.uint8)
    label[0] = 0
    case = Case("a", {"t1": nib.Nifti1Image(np.random.default_rng(0).normal(size=(4, 4, 4)), np.eye(4))},
                nib.Nifti1Image(label, np.eye(4)), task=own)
    with pytest.raises(DataError, match=r"\blesion\b.*\(2,\).*\bown\b.*\(1,\).*\bnet\b"):
        ground_truth(case, net)
    assert [error.case for error in audit([case], net).errors][:1] == ["a"]


def test_the_nearest_table_counts_and_one_about_other_files_does_not(lesions):
    source = lesions("index\tname\n1\tlesion\n")
    (source / "derivatives/manual/desc-aseg_dseg.tsv").write_text("index\tname\n3\tlesion\n")
    assert task_of(source, TASKS["ms_lesions"]) == TASKS["ms_lesions"]
    assert len(find_cases(source, TASKS["ms_lesions"])) == 2
    for name in ("sub-01", "sub-02"):
        (source / f"derivatives/manual/{name}/anat/{name}_dseg.tsv").write_text("index\tname\n2\tlesion\n")
    assert task_of(source, TASKS["ms_lesions"]).labels["lesion"] == (2,)


def test_a_code_that_two_classes_share_tells_neither(tmp_path):
    code = {"category": ["91723000", "Anatomical Structure"], "type": ["64033007", "Kidney"]}
    names = ("left kidney", "right kidney", "liver")
    task = Task("organs", ["t1"], {"background": 0, **{name: number for number, name in enumerate(names, start=1)}},
                codes={"left kidney": code, "right kidney": code, "liver": code | {"type": ["10200004", "Liver"]}})
    (tmp_path / "dseg.tsv").write_text("index\tname\n1\tKidney\n2\tright kidney\n3\t10200004\n")
    assert dseg.read(tmp_path / "dseg.tsv", task).classes == {1: None, 2: "right kidney", 3: "liver"}


def test_tables_that_differ_or_cannot_be_read_are_refused_before_a_label_is_opened(lesions):
    source = lesions("index\tname\n1\tlesion\n")
    other = source / "derivatives/manual/sub-02/anat/sub-02_dseg.tsv"
    for table, problem in (("index\tname\n2\tlesion\n", "2: 'lesion'"), ("value\tname\n2\tlesion\n", "expected index"),
                           ("index\tname\ntwo\tlesion\n", "two"), ("index\tname\n1\tlesion\n1\tx\n", "1, 1"),
                           ("index\tname\n1\tlesion\n01\tx\n", "1, 01"), ("name\tindex\nlesion\n", "indices")):
        other.write_text(table)
        task = task_of(source, TASKS["ms_lesions"])
        assert task == TASKS["ms_lesions"]
        (error,) = search(source, task).problems
        assert (error.path, problem in error.problem) == (other, True)


def test_a_class_under_an_unknown_name_keeps_its_value_with_a_warning(lesions):
    source = lesions("index\tname\n0\tUnknown\n1\tMS plaque\n")
    found = search(source, TASKS["ms_lesions"])
    assert task_of(source, TASKS["ms_lesions"]) == TASKS["ms_lesions"]
    assert not found.problems
    assert ["MS plaque" in one.problem for one in found.oddities] == [True]


def test_sessions_keep_their_patient_and_land_on_one_side_of_every_split(tmp_path):
    cases = [replace(case, id=id, patient=id.partition("_")[0])
             for case, id in zip(brains(4, size=8), SESSIONS, strict=True)]
    found = find_cases(write_cases(cases, tmp_path / "bids", "bids", BRAIN), BRAIN)
    assert [case.id for case in found] == list(SESSIONS)
    assert found[1].images["t1"] == tmp_path / "bids/sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"
    folds = splits.kfold(found, folds=3, seed=0)
    assert sorted(case.id for _, test in folds for case in test) == list(SESSIONS)
    for training, test in folds:
        assert not {case.id[:6] for case in training} & {case.id[:6] for case in test}


def test_patients_and_time_points_of_brats_become_subjects_and_sessions(tmp_path):
    cases = [replace(case, id=f"BraTS-GLI-00005-10{index}", patient="BraTS-GLI-00005")
             for index, case in enumerate(brains(2, size=8))]
    found = find_cases(write_cases(cases, tmp_path / "bids", "bids", BRAIN), BRAIN)
    assert [(case.id, case.patient) for case in found] == [
        (f"sub-BraTSGLI00005_ses-10{index}", "sub-BraTSGLI00005") for index in range(2)]


def test_missing_scans_and_labels_stay_missing(tmp_path):
    cases = brains(3, size=8, missing=0.5)
    cases[1] = replace(cases[1], label=None)
    found = find_cases(write_cases(cases, tmp_path / "bids", "bids", BRAIN), BRAIN)
    assert [case.modalities for case in found] == [case.modalities for case in cases]
    assert [case.label is None for case in found] == [False, True, False]


@pytest.mark.parametrize("suffix", ["dseg", "mask", "space-T1w_desc-lesion_dseg", "label-lesion_mask"])
@pytest.mark.parametrize("where", ["derivatives/manual/{}", "derivatives/{}", "{}"])
def test_a_label_is_found_wherever_bids_lets_it_lie(tmp_path, save, suffix, where):
    for name in ("sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz", "sub-01/ses-pre/anat/sub-01_ses-pre_FLAIR.nii"):
        save(name)
    path = save(f"{where.format('sub-01/ses-pre/anat')}/sub-01_ses-pre_{suffix}.nii.gz", np.zeros((6, 7, 8), np.uint8))
    (case,) = find_cases(tmp_path, TASKS["ms_lesions"])
    assert (case.id, case.patient, case.modalities, case.label) == (
        "sub-01_ses-pre", "sub-01", ("t1", "flair"), path)


@pytest.mark.parametrize(("name", "modality"), [
    ("T1w", "t1"), ("run-1_T1w", "t1"), ("acq-mprage_rec-norm_run-02_T1w", "t1"), ("ce-GADOLINIUM_T1w", "t1ce"),
    ("acq-3d_ce-gad_T1w", "t1ce"), ("T2w", "t2"), ("acq-tse_FLAIR", "flair"), ("PDw", None), ("T2starw", None),
    ("ce-gad_FLAIR", None), ("T1map", None), ("desc-brain_mask", None), ("label-brain_mask", None)])
def test_entities_and_suffixes_tell_the_modality(tmp_path, save, name, modality):
    image = save(f"sub-01/anat/sub-01_{name}.nii.gz")
    other = save("sub-01/anat/sub-01_T2w.nii.gz") if modality != "t2" else None
    (case,) = find_cases(tmp_path, BRAIN)
    assert case.images == {**({modality: image} if modality else {}), **({"t2": other} if other else {})}
    assert case.label is None


@pytest.mark.parametrize(("modality", "name"), [
    ("T2star", "T2starw"), ("PDw", "PDw"), ("pd", "PDw"), ("ct", "ct"), ("in_phase", "inphase"), ("T1map", "T1map"),
    ("run_2_T1w", "run-2_T1w"), ("acq_hires_T2w", "acq-hires_T2w"), ("ceFLAIR", "ceFLAIR")])
def test_other_modalities_are_called_by_the_task_and_found_again(tmp_path, modality, name):
    task = Task("own", (modality,), {"background": 0, "scar": 1})
    assert ending_of(modality, task) == name
    image = brains(1, size=8)[0].images["t1"]
    found = find_cases(write_cases([Case("A", {modality: image})], tmp_path / "bids", "bids", task), task)
    assert [(case.id, case.modalities) for case in found] == [("sub-A", (modality,))]


def test_a_file_that_the_task_names_whole_is_that_file_alone(tmp_path, save):
    first, second, contrast = (save(f"sub-01/anat/sub-01_{name}.nii.gz") for name in (
        "run-1_T1w", "run-2_T1w", "ce-gad_FLAIR"))
    task = Task("own", ("run_2_T1w", "ceFLAIR"), {"background": 0, "scar": 1})
    assert find_cases(tmp_path, task)[0].images == {"run_2_T1w": second, "ceFLAIR": contrast}
    assert find_cases(tmp_path, Task("own", ("run_1_T1w", "run_2_T1w"), task.labels))[0].images == {
        "run_1_T1w": first, "run_2_T1w": second}


def test_two_runs_of_one_suffix_are_refused_with_both_named(tmp_path, save):
    runs = [save(f"sub-01/ses-1/anat/sub-01_ses-1_run-{number}_T1w.nii.gz") for number in (1, 2)]
    save("sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz")
    save("sub-02/ses-1/anat/sub-02_ses-1_run-1_T1w.nii.gz")
    with pytest.raises(DataError) as caught:
        find_cases(tmp_path, BRAIN)
    (error,) = caught.value.errors
    assert (error.case, error.modality, error.path) == ("sub-01_ses-1", "t1", runs[0])
    assert all(str(run) in error.problem for run in runs)
    assert "run_1_T1w" in error.remedy
    assert [case.modalities for case in search(tmp_path, BRAIN).cases] == [("flair",), ("t1",)]


def test_two_labels_of_a_session_are_refused(tmp_path, save):
    save("sub-01/anat/sub-01_T1w.nii.gz")
    for folder in ("fmriprep", "manual"):
        save(f"derivatives/{folder}/sub-01/anat/sub-01_dseg.nii.gz", np.zeros((6, 7, 8), np.uint8))
    with pytest.raises(DataError, match="found 2 files") as caught:
        find_cases(tmp_path, BRAIN)
    assert (caught.value.case, caught.value.modality) == ("sub-01", "label")


def test_a_file_compressed_and_not_is_refused_as_in_other_layouts(tmp_path, save):
    for ending in (".nii", ".nii.gz"):
        save(f"sub-01/anat/sub-01_T1w{ending}")
    with pytest.raises(DataError, match="SimpleITK") as caught:
        find_cases(tmp_path, BRAIN)
    assert len(caught.value.errors) == 1


@pytest.mark.parametrize(("name", "case"), [
    ("sub-01/anat/sub-02_T2w.nii.gz", "sub-02"), ("sub-01/anat/T2w.nii.gz", None), ("T2w.nii.gz", None),
    ("sub-01/anat/sub-01_ses-1_T2w.nii.gz", "sub-01_ses-1"), ("sub-01/sub-01_T2w.nii.gz", "sub-01"),
    ("derivatives/x/sub-01/anat/sub-02_dseg.nii.gz", "sub-02"), ("sub-01/anat/sub-01_T9w.nii.gz", "sub-01")])
def test_a_wrong_name_or_place_is_told_and_not_taken(tmp_path, save, name, case):
    save("sub-01/anat/sub-01_T1w.nii.gz")
    path = save(name)
    found = search(tmp_path, BRAIN)
    assert [(error.case, error.path) for error in found.problems] == [(case, path)]
    assert [(one.id, one.modalities, one.label) for one in found.cases] == [("sub-01", ("t1",), None)]


def test_what_is_no_scan_of_a_session_is_left_alone_and_counted(tmp_path, save):
    scan = save("sub-01/anat/sub-01_T1w.nii.gz")
    save("sub-01/func/sub-01_task-rest_bold.nii.gz", np.random.default_rng(0).random((6, 7, 8, 3)))
    for name in ("derivatives/prep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
                 "derivatives/prep/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
                 "derivatives/prep/sub-01/anat/sub-01_label-GM_probseg.nii.gz",
                 "derivatives/maml_toolkit/sub-01/anat/sub-01_dseg.nii.gz", "sourcedata/one/image.nii.gz"):
        save(name)
    for name in ("dataset_description.json", "participants.tsv", "README", ".bidsignore", "CHANGES",
                 "derivatives/prep/sub-01/anat/sub-01_x.mgz", "derivatives/prep/sub-01/anat/sub-01_xfm.h5",
                 "sourcedata/one/0001.dcm", "sub-01/anat/sub-01_T1w.json", "code/run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "derivatives/prep/far.mgz").symlink_to(tmp_path / "nothing")
    found = search(tmp_path, BRAIN)
    assert [(case.id, case.images, case.label) for case in found.cases] == [("sub-01", {"t1": scan}, None)]
    assert [*found.problems, *found.oddities] == []
    assert {rule: number for rule, number in found.ignored.items() if "deriv" in rule or "source" in rule
            or "pred" in rule} == {"files of derivatives that are no labels": 6, "files of sourcedata": 2,
                                   "predictions of the toolkit": 1}
    audited = audit_source(tmp_path, BRAIN)
    assert not audited.errors
    assert audited.images == 2


def test_an_image_in_a_format_that_is_not_read_is_told_as_the_scan_that_is_missing(tmp_path, save):
    save("sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "sub-01/anat/sub-01_FLAIR.mgz").write_bytes(b"x")
    (error,) = search(tmp_path, BRAIN).problems
    assert (error.case, error.modality) == ("sub-01", "flair")


def test_a_diffusion_image_is_used_where_the_task_asks_for_it(tmp_path, save):
    save("sub-01/anat/sub-01_FLAIR.nii.gz")
    diffusion = save("sub-01/dwi/sub-01_dwi.nii.gz")
    label = save("derivatives/sub-01/sub-01_msk.nii.gz", np.zeros((6, 7, 8), np.uint8))
    (case,) = find_cases(tmp_path, Task("stroke", ("flair", "dwi"), {"background": 0, "stroke": 1}))
    assert (case.images["dwi"], case.label) == (diffusion, label)
    assert find_cases(tmp_path, BRAIN)[0].modalities == ("flair",)


def test_one_subject_alone_is_a_data_set_too(tmp_path, save):
    save("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    save("sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz")
    assert [case.id for case in find_cases(tmp_path / "sub-01", BRAIN)] == ["sub-01_ses-1"]


def test_the_task_is_guessed_from_the_suffixes(tmp_path):
    place = write_cases(brains(1, size=8), tmp_path / "bids", "bids", BRAIN)
    assert search(place, None).task.name == "brats2021"
    place = write_cases(liver_phases(1, size=8), tmp_path / "ct", "bids", LIVER)
    assert search(place, None).task.name == "liver_phases"


def test_cases_whose_names_bids_cannot_tell_apart_are_refused_before_a_folder_is_made(tmp_path):
    one, two = brains(2, size=8)
    for cases, task, message in (
            ([replace(one, id="a-1"), replace(two, id="a_1")], BRAIN, "would be called"),
            ([replace(one, id="肝")], BRAIN, "no letter"),
            ([Case("A", {"a_b": one.images["t1"], "ab": one.images["t2"]})],
             Task("own", ("a_b", "ab"), {"background": 0, "scar": 1}), "would be called")):
        with pytest.raises(DataError, match=message):
            write_cases(cases, tmp_path / "bids", "bids", task)
    assert not (tmp_path / "bids").exists()


def test_the_names_are_those_of_bids(tmp_path):
    cases = [replace(case, id=id, patient=id.partition("_")[0])
             for case, id in zip(brains(4, size=8), SESSIONS, strict=True)]
    place = write_cases(cases, tmp_path / "bids", "bids", BRAIN)
    names = [f"/{path.relative_to(place).as_posix()}" for path in place.rglob("*")
             if path.is_file() and "derivatives" not in path.parts]
    assert len(names) == 4 * 4 + 1
    assert all(map(BIDSValidator().is_bids, names))
    assert not BIDSValidator().is_bids("/sub-01/ses-1/anat/sub-01_ses-1_t1ce.nii.gz")


@pytest.mark.parametrize(("make", "task"), [(brains, BRAIN), (liver_phases, LIVER)])
def test_the_validator_of_bids_finds_no_error(tmp_path, make, task):
    place = write_cases(make(2, size=8), tmp_path / "bids", "bids", task)
    assert errors_of_the_validator(place) == []
    (place / "sub-x").mkdir()
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), place / "sub-x" / "other.nii.gz")
    assert errors_of_the_validator(place)


def test_published_scans_go_through_bids_unchanged(real_data, tmp_path):
    cases = find_cases(real_data / "open_ms_2mm", TASKS["ms_lesions"])
    found = find_cases(write_cases(cases, tmp_path / "bids", "bids", TASKS["ms_lesions"]), TASKS["ms_lesions"])
    assert [case.id for case in found] == [f"sub-{case.id}" for case in cases]
    for one, other in zip(cases, found, strict=True):
        assert {name: path.read_bytes() for name, path in one.files.items()} == {
            name: path.read_bytes() for name, path in other.files.items()}

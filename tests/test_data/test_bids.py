"""BIDS: what lies in it is found, what is written in it is found again and accepted by its own validators."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from bids_files import errors_of_the_validator
from bids_validator import BIDSValidator

from maml_toolkit.data import splits, volumes
from maml_toolkit.data.audit import audit_source
from maml_toolkit.data.cases import Case, find_cases, search, write_cases
from maml_toolkit.data.layouts.bids import ending_of
from maml_toolkit.data.phantoms import brains, liver_phases
from maml_toolkit.data.tasks import TASKS, Task
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

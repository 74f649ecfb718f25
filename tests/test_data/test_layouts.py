"""What is written in a layout is found again, and is what others expect of that layout."""

import gzip
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import LAYOUTS, Case, find_cases, task_of, write_cases
from maml_toolkit.data.phantoms import brains, liver_phases
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import TASKS, Task

BRAIN, LIVER, MS = TASKS["brats2021"], TASKS["liver_phases"], TASKS["ms_lesions"]
WAYS = pytest.mark.parametrize(("make", "task", "layout"), [
    *((brains, BRAIN, layout) for layout in LAYOUTS),
    *((liver_phases, LIVER, layout) for layout in ("folders", "nnunet", "table")),
])


def reading(place, task, layout):
    """The task that the documentation of write_cases names for reading what it wrote."""
    return TASKS[layout] if layout.startswith("brats") else task_of(place, task)


def assert_same(written, task, place, other_task):
    """The same voxels are found on the same grid, and the same classes though their values may differ."""
    found = find_cases(place, other_task)
    assert [case.id for case in found] == [case.id for case in written]
    for one, other in zip(written, found, strict=True):
        assert one.modalities == other.modalities
        for modality in one.modalities:
            first, second = volumes.read(one.images[modality]), volumes.read(other.images[modality])
            np.testing.assert_array_equal(first.array, second.array)
            np.testing.assert_allclose(first.affine, second.affine)
        first, second = volumes.read_label(one.label), volumes.read_label(other.label)
        np.testing.assert_array_equal(task.encode(first.array), other_task.encode(second.array))
        np.testing.assert_allclose(first.affine, second.affine)


@WAYS
def test_what_is_written_from_memory_is_found_again(tmp_path, make, task, layout):
    cases = make(2, size=(10, 12, 14), spacing_mm=(1.0, 1.5, 2.0))
    place = write_cases(cases, tmp_path / "new" / "cases", layout, task)
    assert_same(cases, task, place, reading(place, task, layout))


@WAYS
def test_what_is_written_from_other_files_is_found_again(tmp_path, make, task, layout):
    cases = find_cases(write_cases(make(2, size=8), tmp_path / "first", "folders"), task)
    place = write_cases(cases, str(tmp_path / "second"), layout, task)
    assert_same(cases, task, place, reading(place, task, layout))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "nnunet"])
def test_missing_scans_stay_missing(tmp_path, layout):
    cases = brains(3, size=8, missing=0.5)
    place = write_cases(cases, tmp_path, layout, BRAIN)
    found = find_cases(place, reading(place, BRAIN, layout))
    assert [case.modalities for case in found] == [case.modalities for case in cases]
    assert {len(case.modalities) for case in found} != {4}


def test_a_data_set_of_nnunet_goes_through_another_layout_and_back(tmp_path):
    cases = brains(2, size=8)
    first = write_cases(cases, tmp_path / "1", "nnunet", BRAIN)
    numbered = task_of(first, BRAIN)
    second = write_cases(find_cases(first, numbered), tmp_path / "2", "brats2021", numbered)
    assert_same(cases, BRAIN, second, BRAIN)


def test_the_published_scans_can_be_written_for_nnunet(real_data, tmp_path):
    cases = find_cases(real_data / "brats2021_2mm", BRAIN)[:2]
    place = write_cases(cases, tmp_path, "nnunet", BRAIN)
    assert_same(cases, BRAIN, place, task_of(place, BRAIN))


def test_nnunet_gets_what_it_verifies_of_a_data_set(tmp_path):
    """The rules of its verify_dataset_integrity and LabelManager, restated."""
    task = Task("own", ("t1", "flair"), {"healthy": 0, "scar": (7, 9), "tumour": 4})
    shown = [Case(case.id, {name: case.images[name] for name in task.modalities}, case.label)
             for case in brains(2, size=8)]
    grid = shown[0].label.affine
    labels = [nib.Nifti1Image(np.resize(np.array(values, np.uint8), (8, 8, 8)), grid) for values in ((0, 7, 4), (9, 0))]
    cases = [replace(case, label=label) for case, label in zip(shown, labels, strict=True)]
    place = write_cases(cases, tmp_path, "nnunet", task)
    described = json.loads((place / "dataset.json").read_text())
    assert described == {
        "channel_names": {"0": "t1", "1": "flair"}, "labels": {"background": 0, "scar": 1, "tumour": 2},
        "numTraining": 2, "file_ending": ".nii.gz"}
    assert sorted(path.name for path in (place / "imagesTr").iterdir()) == [
        f"brain-0-00{index}_000{channel}.nii.gz" for index in range(2) for channel in range(2)]
    written = [nib.load(place / "labelsTr" / f"{case.id}.nii.gz").get_fdata() for case in cases]
    assert [np.unique(label).tolist() for label in written] == [[0, 1, 2], [0, 1]]
    assert task_of(place, task).labels == {"healthy": (0,), "scar": (1,), "tumour": (2,)}
    assert len(find_cases(place, task_of(place, task))) == 2


def test_cases_without_a_label_become_the_test_cases_of_nnunet(tmp_path):
    labelled, other = liver_phases(2, size=8)
    place = write_cases([labelled, replace(other, label=None)], tmp_path, "nnunet", LIVER)
    assert [case.id for case in find_cases(place, LIVER)] == [labelled.id]
    assert [case.id for case in find_cases(place, LIVER, part="test")] == [other.id]
    assert json.loads((place / "dataset.json").read_text())["numTraining"] == 1


def test_nnunet_does_without_no_modality(tmp_path):
    cases = liver_phases(3, size=8, missing={"venous": 1})
    with pytest.raises(DataError, match=r"(?s)3 problems.*case liver-0-000: found no venous") as caught:
        write_cases(cases, tmp_path / "new", "nnunet", LIVER)
    assert all(error.remedy for error in caught.value.errors)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("layout", "names", "enhancing"), [
    ("brats2021", ("_flair", "_seg", "_t1", "_t1ce", "_t2"), 4),
    ("brats2023", ("-seg", "-t1c", "-t1n", "-t2f", "-t2w"), 3),
])
def test_the_names_and_values_of_brats_are_those_of_the_year(tmp_path, layout, names, enhancing):
    place = write_cases(brains(1, size=16, seed=1), tmp_path, layout, BRAIN)
    assert sorted(path.name for path in (place / "brain-1-000").iterdir()) == [
        f"brain-1-000{name}.nii.gz" for name in names]
    label = nib.load(next((place / "brain-1-000").glob("*seg*"))).get_fdata()
    assert np.unique(label).tolist() == [0, 1, 2, enhancing]


def test_a_task_with_other_classes_keeps_its_values_under_the_names_of_brats(tmp_path):
    sources = brains(1, size=8)
    lesion = nib.Nifti1Image((np.asarray(sources[0].label.dataobj) > 0).astype(np.uint8), sources[0].label.affine)
    cases = [replace(sources[0], label=lesion)]
    assert_same(cases, MS, write_cases(cases, tmp_path, "brats2023", MS), MS)


def test_a_task_with_synonyms_gets_the_names_of_brats(tmp_path):
    task = Task("two", ("T1c", "T2f"), MS.labels)
    image = brains(1, size=8)[0].images["t1"]
    place = write_cases([Case("A", {"T1c": image, "T2f": image})], tmp_path, "brats2021", task)
    assert sorted(path.name for path in (place / "A").iterdir()) == ["A_flair.nii.gz", "A_t1ce.nii.gz"]
    assert find_cases(place, task)[0].modalities == ("T1c", "T2f")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_keep_their_bytes_and_so_their_type_and_scaling(tmp_path, layout):
    image = nib.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.diag([1.0, 2.0, 3.0, 1.0]))
    image.header.set_slope_inter(0.25, -7)
    for name in ("t1.nii.gz", "t2.nii"):
        nib.save(image, tmp_path / name)
    task = Task("two", ("t1", "t2"), MS.labels)
    label = nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), image.affine)
    case = Case("A", {"t1": tmp_path / "t1.nii.gz", "t2": tmp_path / "t2.nii"}, label)
    found = find_cases(write_cases([case], tmp_path / "new", layout, task), task)[0]
    assert found.images["t1"].read_bytes() == (tmp_path / "t1.nii.gz").read_bytes()
    assert gzip.decompress(found.images["t2"].read_bytes()) == (tmp_path / "t2.nii").read_bytes()
    assert nib.load(found.images["t1"]).dataobj.slope == 0.25


def test_a_table_keeps_the_patients_and_can_be_moved(tmp_path):
    one, other = liver_phases(2, size=8)
    cases = [replace(one, patient="P1"), other]
    place = write_cases(cases, tmp_path / "here", "table", LIVER)
    assert place == tmp_path / "here" / "cases.csv"
    (tmp_path / "here").rename(tmp_path / "there")
    assert [case.patient for case in find_cases(tmp_path / "there" / "cases.csv", LIVER)] == ["P1", None]


def test_nothing_is_ever_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"already holds notes\.txt"):
        write_cases(liver_phases(1, size=8), tmp_path)
    with pytest.raises(DataError, match="no folder can be made"):
        write_cases(liver_phases(1, size=8), tmp_path / "notes.txt" / "cases")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("layout", ["brats2021", "nnunet"])
def test_all_faults_of_the_files_are_reported_and_nothing_is_left(tmp_path, save, layout):
    good, bad = brains(2, size=8)
    bad = replace(bad, label=nib.Nifti1Image(np.full((8, 8, 8), 3, np.uint8), bad.label.affine),
                  images={**bad.images, "t1": tmp_path / "gone.nii.gz", "t2": save("T2.nii")})
    (tmp_path / "T2.nii").write_bytes(b"<html>")
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "new"):
        with pytest.raises(DataError, match="3 problems") as caught:
            write_cases([good, bad], tmp_path / folder, layout, BRAIN)
        assert [(error.case, error.modality) for error in caught.value.errors] == [
            (bad.id, "t1"), (bad.id, "t2"), (bad.id, "label")]
    assert [*(tmp_path / "empty").iterdir()] == []
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_written_is_refused_before_a_folder_is_made(tmp_path):
    livers, image = liver_phases(1, size=8), brains(1, size=8)[0].label
    for cases, layout, task, message in (
        (livers, "dicom", LIVER, "expected one of folders"), (livers, "nnunet", None, "a task for all but folders"),
        (livers, "brats2021", LIVER, "choose folders"), ([], "folders", None, "no cases"),
        ([Case("A", {"t1": image})], "brats2023", Task("twice", ("t1", "t1n"), MS.labels), "each once"),
        (livers * 2, "folders", None, "belongs to two cases"),
        ([Case("A", label=image)], "folders", None, "no modality"),
        (livers, "table", BRAIN, "expected some of"), ([Case("A", {"../../t1": image})], "folders", None, "letters"),
    ):
        with pytest.raises(ValueError, match=message):
            write_cases(cases, tmp_path / "new", layout, task)
    assert not (tmp_path / "new").exists()

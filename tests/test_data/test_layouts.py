"""What is written in a layout is found again, and is what others expect of that layout."""

import gzip
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import LAYOUTS, Case, find_cases, search, task_of, write_cases, write_table
from maml_toolkit.data.phantoms import brains, liver_phases
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Frame
from maml_toolkit.system.errors import DataError, DataWarning

BRAIN, LIVER, MS = TASKS["brats2021"], TASKS["liver_phases"], TASKS["ms_lesions"]
WAYS = pytest.mark.parametrize(("make", "task", "layout"), [
    (make, task, layout) for make, task in ((brains, BRAIN), (liver_phases, LIVER)) for layout in LAYOUTS
])


def called_for_every_layout(cases):
    """The cases under ids that BIDS can hold too."""
    return [replace(case, id=f"sub-{index}") for index, case in enumerate(cases)]


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
    cases = called_for_every_layout(make(2, size=(10, 12, 14), spacing_mm=(1.0, 1.5, 2.0)))
    place = write_cases(cases, tmp_path / "new" / "cases", layout, task)
    assert_same(cases, task, place, task_of(place, task))


@WAYS
def test_what_is_written_from_other_files_is_found_again(tmp_path, make, task, layout):
    cases = find_cases(write_cases(called_for_every_layout(make(2, size=8)), tmp_path / "first", "folders"), task)
    place = write_cases(cases, str(tmp_path / "second"), layout, task)
    assert_same(cases, task, place, task_of(place, task))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "nnunet"])
def test_missing_scans_stay_missing(tmp_path, layout):
    cases = brains(3, size=8, missing=0.5)
    place = write_cases(cases, tmp_path, layout, BRAIN)
    found = find_cases(place, task_of(place, BRAIN))
    assert [case.modalities for case in found] == [case.modalities for case in cases]
    assert {len(case.modalities) for case in found} != {4}


def test_a_data_set_of_nnunet_goes_through_another_layout_and_back(tmp_path):
    cases = brains(2, size=8)
    first = write_cases(cases, tmp_path / "1", "nnunet", BRAIN)
    numbered = task_of(first, BRAIN)
    second = write_cases(find_cases(first, numbered), tmp_path / "2", "folders", numbered)
    assert_same(cases, BRAIN, second, numbered)


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


@pytest.mark.parametrize(("make", "task"), [(brains, BRAIN), (liver_phases, LIVER)])
def test_nnunet_itself_accepts_what_is_written(tmp_path, make, task):
    integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    *labelled, other = make(3, size=(10, 12, 14), spacing_mm=(1.0, 1.5, 2.0))
    place = write_cases([*labelled, replace(other, label=None)], tmp_path / "Dataset501_Phantom", "nnunet", task)
    integrity.verify_dataset_integrity(str(place), num_processes=1)


def test_nnunet_does_without_no_modality(tmp_path):
    cases = liver_phases(3, size=8, missing={"venous": 1})
    with pytest.raises(DataError, match=r"(?s)3 problems.*cases liver-0-000, .*: found no venous") as caught:
        write_cases(cases, tmp_path / "new", "nnunet", LIVER)
    assert all(error.remedy for error in caught.value.errors)
    assert not (tmp_path / "new").exists()


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


def test_all_faults_of_the_files_are_reported_and_nothing_is_left(tmp_path, save):
    good, bad = brains(2, size=8)
    bad = replace(bad, label=nib.Nifti1Image(np.full((8, 8, 8), 3, np.uint8), bad.label.affine),
                  images={**bad.images, "t1": tmp_path / "gone.nii.gz", "t2": save("T2.nii")})
    (tmp_path / "T2.nii").write_bytes(b"<html>")
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "new"):
        with pytest.raises(DataError, match="3 problems") as caught:
            write_cases([good, bad], tmp_path / folder, "nnunet", BRAIN)
        assert [(error.case, error.modality) for error in caught.value.errors] == [
            (bad.id, "t1"), (bad.id, "t2"), (bad.id, "label")]
    assert [*(tmp_path / "empty").iterdir()] == []
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_written_is_refused_before_a_folder_is_made(tmp_path):
    livers, image = liver_phases(1, size=8), brains(1, size=8)[0].label
    for cases, layout, task, message in (
        (livers, "dicom", LIVER, "expected one of folders"), (livers, "nnunet", None, "a task for all but folders"),
        ([], "folders", None, "no cases"),
        (livers * 2, "folders", None, "belongs to two cases"),
        ([Case("A", label=image)], "folders", None, "no scan"),
        (livers, "table", BRAIN, "expected some of"), ([Case("A", {"../../t1": image})], "folders", None, "letters"),
    ):
        with pytest.raises(ValueError, match=message):
            write_cases(cases, tmp_path / "new", layout, task)
    assert not (tmp_path / "new").exists()


MSD_BRAIN = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
             "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}}


@pytest.fixture
def decathlon(tmp_path, save):
    """A data set of the Medical Segmentation Decathlon; frame i of case n holds n + i on average."""

    def decathlon(ids=("BRATS_001", "BRATS_002"), described=MSD_BRAIN, frames=4, tests=("BRATS_485",)):
        noise = np.random.default_rng(0).normal(0, 0.01, (6, 7, 8, frames)) + np.arange(frames)
        for part, names in (("Tr", ids), ("Ts", tests)):
            for number, id in enumerate(names):
                image = (noise + number).astype(np.float32)
                save(f"images{part}/{id}.nii.gz", image[..., 0] if frames == 1 else image)
                (tmp_path / f"images{part}" / f"._{id}.nii.gz").write_bytes(b"Mac OS X")
        for id in ids:
            save(f"labelsTr/{id}.nii.gz", (np.arange(336).reshape(6, 7, 8) % 4).astype(np.uint8))
        listed = [{"image": f"./imagesTr/{id}.nii.gz", "label": f"./labelsTr/{id}.nii.gz"} for id in ids]
        (tmp_path / "dataset.json").write_text(json.dumps({
            "name": "BRATS", "tensorImageSize": "4D", **described, "numTraining": len(ids), "numTest": len(tests),
            "training": listed, "test": [f"./imagesTs/{id}.nii.gz" for id in tests]}))
        return tmp_path

    return decathlon


def test_the_decathlon_is_found_as_it_is_published(decathlon):
    folder, task = decathlon(), TASKS["msd_brain"]
    cases = find_cases(folder, task)
    assert [case.id for case in cases] == ["BRATS_001", "BRATS_002"]
    assert cases[1].modalities == ("flair", "t1w", "t1gd", "t2w")
    means = [float(volumes.read(source).array.mean()) for source in cases[1].images.values()]
    np.testing.assert_allclose(means, [1, 2, 3, 4], atol=0.01)
    assert cases[1].label == folder / "labelsTr/BRATS_002.nii.gz"
    assert task_of(folder, task) == task
    test = find_cases(folder, task, part="test")
    assert [(case.id, len(case.images), case.label) for case in test] == [("BRATS_485", 4, None)]
    assert find_cases(folder, replace(task, modalities=("t2", "t1c"), intensities="mr", reference=None, label_on=None))[
        0].images == {"t2": Frame(folder / "imagesTr/BRATS_001.nii.gz", 3),
                      "t1c": Frame(folder / "imagesTr/BRATS_001.nii.gz", 2)}


def test_a_single_modality_of_the_decathlon_has_three_axes_and_is_a_plain_file(decathlon):
    liver = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}}
    folder = decathlon(("liver_0", "liver_0001"), liver, frames=1, tests=("liver_2001",))
    cases = find_cases(folder, TASKS["msd_liver"])
    assert [(case.id, case.images) for case in cases] == [
        (id, {"ct": folder / f"imagesTr/{id}.nii.gz"}) for id in ("liver_0", "liver_0001")]
    assert [case.id for case in find_cases(folder, TASKS["msd_liver"], part="test")] == ["liver_2001"]


def test_the_labels_of_the_decathlon_must_agree_with_the_task(decathlon):
    with pytest.raises(DataError, match=r"(?s)dataset\.json.*'edema': 1.*Remedy: .*msd_brain does"):
        find_cases(decathlon(), TASKS["brats2023"])
    numbered = {**MSD_BRAIN, "labels": {"0": "background", "1": "enhancing", "2": "necrosis", "3": "oedema"}}
    folder = decathlon(described=numbered)
    with pytest.raises(DataError, match="task_of"):
        find_cases(folder, BRAIN)
    task = task_of(folder, BRAIN)
    assert task.labels == {"background": (0,), "necrosis": (2,), "oedema": (3,), "enhancing": (1,)}
    assert len(find_cases(folder, task)) == 2


def test_frames_that_are_not_as_many_as_the_modalities_are_named_by_case(decathlon, save):
    folder = decathlon(frames=3)
    path = save("imagesTr/BRATS_009.nii.gz")
    found = search(folder, TASKS["msd_brain"])
    cases, problems = found.cases, found.problems
    assert cases == []
    assert [(error.case, error.path.name) for error in problems] == [
        (id, f"{id}.nii.gz") for id in ("BRATS_001", "BRATS_002", "BRATS_009")]
    assert "found the shape (6, 7, 8, 3), expected 4 frames, one for each of FLAIR, T1w, t1gd, T2w" in str(problems[0])
    assert "(6, 7, 8), expected 4 frames" in str(problems[2])
    assert "<case>_0000.nii.gz" in problems[2].remedy
    path.write_bytes(b"<html>")
    assert "found a web page" in str(search(folder, TASKS["msd_brain"]).problems[2])


def test_other_faults_of_the_decathlon_are_named(decathlon, save):
    folder = decathlon()
    for name in ("imagesTr/BRATS_001_0000.nii.gz", "imagesTr/BRATS_003.nii", "labelsTr/BRATS_004.nii.gz"):
        save(name)
    found = search(folder, TASKS["msd_brain"])
    cases, problems = found.cases, found.problems
    assert [(case.id, len(case.images)) for case in cases] == [("BRATS_001", 4), ("BRATS_002", 4), ("BRATS_004", 0)]
    assert [error.path.name for error in problems] == ["BRATS_001_0000.nii.gz", "BRATS_003.nii"]
    assert "as in nnU-Net v1" in str(problems[0])
    assert "expected <case>.nii.gz" in str(problems[1])
    for described, message in (({"modality": {"1": "T1"}, "labels": {}}, "for each number from 0"),
                               ({"modality": {"T1": 0}, "labels": {}}, "for each number from 0"),
                               ({"modality": {"0": "T1"}, "labels": {"background": 0}}, "a name for each value"),
                               ({"modality": {"0": "T1"}, "labels": {"1": "a", "2": "a"}}, "one name for two values")):
        (folder / "dataset.json").write_text(json.dumps(described))
        with pytest.raises(DataError, match=message) as caught:
            find_cases(folder, BRAIN)
        assert caught.value.remedy
        assert caught.value.path == folder / "dataset.json"


def test_nnunet_v1_is_told_from_the_decathlon_by_its_names(tmp_path, save):
    folder = tmp_path / "Task501_Brain"
    for name in ("imagesTr/A_0000.nii.gz", "imagesTr/A_0001.nii.gz", "imagesTr/B_0001_0001.nii.gz",
                 "imagesTs/C_0000.nii.gz"):
        save(f"Task501_Brain/{name}")
    for id in ("A", "B_0001"):
        save(f"Task501_Brain/labelsTr/{id}.nii.gz", np.ones((6, 7, 8), np.uint8))
    (folder / "dataset.json").write_text(json.dumps({
        "modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "lesion"},
        "training": [{"image": "./imagesTr/A.nii.gz", "label": "./labelsTr/A.nii.gz"}],
        "test": ["./imagesTs/C.nii.gz"]}))
    cases = find_cases(folder, MS)
    assert [(case.id, case.modalities, case.label) for case in cases] == [
        ("A", ("t1", "t2"), folder / "labelsTr/A.nii.gz"), ("B_0001", ("t2",), folder / "labelsTr/B_0001.nii.gz")]
    assert [case.id for case in find_cases(folder, MS, part="test")] == ["C"]
    assert task_of(folder, MS) == MS
    save("Task501_Brain/imagesTr/D.nii.gz")
    with pytest.raises(DataError, match=r"'D\.nii\.gz'.*<case>_0000\.nii\.gz.*{0: 'T1', 1"):
        find_cases(folder, MS)


@pytest.mark.parametrize("key", ["patients", "labelled"])
def test_an_id_that_no_case_of_a_dataset_json_has_is_told_with_the_nearest(tmp_path, key):
    """Else a patient lands on both sides of a split, or a case is trained as if every class had been drawn."""
    one, test = (replace(case, patient="p", labelled="tumour") for case in liver_phases(2, size=8))
    described = write_cases([one, replace(test, label=None)], tmp_path / "data", "nnunet", LIVER) / "dataset.json"
    find_cases(described.parent, LIVER)
    content = json.loads(described.read_text())
    content[key]["liver-0-00O"] = content[key].pop("liver-0-000")
    described.write_text(json.dumps(content))
    with pytest.warns(DataWarning, match=rf"'liver-0-00O' \(did you mean 'liver-0-000'\?\) in {key}"):
        find_cases(described.parent, LIVER)


def test_a_class_that_a_dataset_json_calls_otherwise_is_told(tmp_path):
    described = write_cases(liver_phases(1, size=8), tmp_path / "data", "nnunet", LIVER) / "dataset.json"
    described.write_text(described.read_text().replace("tumour", "cyst"))
    with pytest.warns(DataWarning, match=r"cyst .*tumour"):
        find_cases(described.parent, LIVER)


@pytest.mark.parametrize("layout", ["folders", "nnunet", "table"])
def test_frames_are_written_as_files_of_their_own(tmp_path, decathlon, layout):
    task = TASKS["msd_brain"]
    cases = find_cases(decathlon(), task)
    place = write_cases(cases, tmp_path / "new", layout, task)
    assert_same(cases, task, place, task_of(place, task))
    image = next((tmp_path / "new").rglob("*_0000.nii.gz" if layout == "nnunet" else "*flair.nii.gz"))
    assert nib.load(image).shape == (6, 7, 8)
    assert nib.load(image).get_data_dtype() == np.float32


def test_a_frame_keeps_its_type_or_else_its_scaled_values(tmp_path):
    whole = nib.Nifti1Image(np.arange(384, dtype=">i2").reshape(4, 6, 8, 2), np.eye(4))
    nib.save(whole, tmp_path / "plain.nii")
    whole.header.set_slope_inter(0.25, -7)
    nib.save(whole, tmp_path / "scaled.nii.gz")
    task = Task("two", ("t1", "t2"), MS.labels)
    case = Case("A", {"t1": Frame(tmp_path / "plain.nii", 1), "t2": Frame(tmp_path / "scaled.nii.gz", 1)},
                Frame(tmp_path / "plain.nii", 0))
    found = find_cases(write_cases([case], tmp_path / "new", "folders"), task)[0]
    for name, source in case.images.items():
        np.testing.assert_array_equal(volumes.read(found.images[name]).array, volumes.read(source).array)
    types = [nib.load(file).get_data_dtype() for file in (found.images["t1"], found.images["t2"], found.label)]
    assert types == [np.int16, np.float32, np.int16]
    np.testing.assert_array_equal(volumes.read_label(found.label).array, np.arange(0, 384, 2).reshape(4, 6, 8))


def test_the_decathlon_goes_through_a_table_and_back(tmp_path, decathlon):
    cases = find_cases(decathlon(), TASKS["msd_brain"])
    write_table(cases, tmp_path / "cases.csv", TASKS["msd_brain"])
    assert find_cases(tmp_path / "cases.csv", TASKS["msd_brain"]) == cases


@pytest.mark.parametrize("kind", ["link to nothing", "folder"])
def test_a_dataset_json_that_cannot_be_read_is_named_and_not_passed_over(tmp_path, kind):
    folder = write_cases(brains(1, size=16), tmp_path / "data", "folders", TASKS["brats2021"])
    if kind == "folder":
        (folder / "dataset.json").mkdir()
    else:
        (folder / "dataset.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(DataError, match=r"dataset\.json.*cannot be read"):
        find_cases(folder, TASKS["brats2021"])

"""A case goes to TorchIO and comes back."""

import nibabel as nib
import numpy as np
import pytest
import torch

from maml_toolkit.data import volumes
from maml_toolkit.data.case import Case
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.data.phantoms import brains
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Frame
from maml_toolkit.evaluation.measuring import ground_truth
from maml_toolkit.system.errors import DataError

torchio = pytest.importorskip("torchio")
BRATS = TASKS["brats2021"]


@pytest.fixture(params=["in memory", "in files"])
def case(request, tmp_path):
    """A case of a known patient without its T2."""
    whole, = brains(1, size=(8, 9, 10), spacing_mm=(1, 1.5, 2))
    case = Case("a", {name: image for name, image in whole.images.items() if name != "t2"}, whole.label, "p7")
    return case if request.param == "in memory" else find_cases(write_cases([case], tmp_path / "data"), BRATS)[0]


def test_a_case_becomes_a_subject_and_the_subject_the_case(case, tmp_path):
    subject = case.to_subject()
    assert (subject["case"], subject["patient"]) == ("a", "p7")
    assert list(subject.get_images_dict()) == ["t1", "t1ce", "flair"]
    again = Case.from_subject(subject, tmp_path / "out")
    assert (again.id, again.patient, again.modalities) == (case.id, case.patient, case.modalities)
    assert list(again.files) == list(case.files)
    for name, source in case.files.items():
        first, second = (volumes.opened(one, label=name == "label") for one in (source, again.files[name]))
        np.testing.assert_array_equal(second.values, first.values)
        np.testing.assert_allclose(second.affine, first.affine)
        np.testing.assert_allclose(subject[name].affine, first.affine)
    assert find_cases(tmp_path / "out", BRATS) == [again]


def test_what_the_values_of_a_label_mean_goes_along(tmp_path):
    label = nib.Nifti1Image(np.full((3, 4, 5), 2, np.uint8), np.eye(4))
    own, task = (Task("own", ["t1"], {"background": 0, "lesion": value}, ignore=ignored)
                 for value, ignored in ((2, 9), (1, 2)))
    scan = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    case = Case("a", {"t1": scan}, label, task=own)
    again = Case.from_subject(case.to_subject(), tmp_path)
    assert again.task == own
    assert (ground_truth(again, task).array == 1).all()


def test_a_transform_of_torchio_acts_on_all_images_and_what_it_gives_is_a_case(case, tmp_path):
    flipped = Case.from_subject(torchio.RandomFlip(axes=0, flip_probability=1)(case.to_subject()), tmp_path / "out")
    for name, source in case.files.items():
        first, second = (volumes.opened(one, label=name == "label") for one in (source, flipped.files[name]))
        np.testing.assert_array_equal(second.values, first.values[::-1])


def test_a_file_is_read_and_checked_when_it_is_asked_for(tmp_path):
    (tmp_path / "t1.nii.gz").write_bytes(b"<html>")
    subject = Case("a", {"t1": tmp_path / "t1.nii.gz"}).to_subject()
    assert [name for name in ("patient", "label") if name in subject] == []
    with pytest.raises(DataError) as caught:
        subject["t1"].load()
    assert (caught.value.case, caught.value.modality, caught.value.path) == ("a", "t1", tmp_path / "t1.nii.gz")


def test_frames_of_one_file_are_images_of_their_own(save):
    path = save("four.nii.gz", np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 2))
    subject = Case("a", {"t1": Frame(path, 0), "t2": Frame(path, 1)}).to_subject()
    np.testing.assert_array_equal(subject["t2"].data - subject["t1"].data, np.ones((1, 2, 3, 4)))


def test_a_case_that_is_there_stays_as_it_is(case, tmp_path):
    subject = case.to_subject()
    first = Case.from_subject(subject, tmp_path / "out")
    before = {name: path.read_bytes() for name, path in first.files.items()}
    subject.remove_image("label")
    with pytest.raises(DataError) as caught:
        Case.from_subject(torchio.RandomFlip(axes=0, flip_probability=1)(subject), tmp_path / "out")
    assert (caught.value.case, caught.value.path, bool(caught.value.remedy)) == ("a", tmp_path / "out" / "a", True)
    assert {name: path.read_bytes() for name, path in first.files.items()} == before


def test_a_simulated_scan_says_so_behind_torchio_too(tmp_path):
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    image.header["descrip"] = b"simulated phase"
    nib.save(image, tmp_path / "t1.nii.gz")
    for number, source in enumerate((image, tmp_path / "t1.nii.gz")):
        subject = torchio.RandomFlip(axes=0, flip_probability=1)(Case("a", {"t1": source}).to_subject())
        again = Case.from_subject(subject, tmp_path / str(number))
        assert volumes.mark_of(again.images["t1"]) == "simulated phase"


def test_a_subject_that_is_no_case_is_refused(tmp_path):
    image, label = torchio.ScalarImage(tensor=torch.rand(1, 2, 3, 4)), torchio.LabelMap(tensor=torch.ones(1, 2, 3, 4))
    for images in ({"t1": image}, {"case": "a", "one": label, "other": label, "t1": image},
                   {"case": "a", "t1": torchio.ScalarImage(tensor=torch.rand(2, 2, 3, 4))}):
        with pytest.raises(DataError) as caught:
            Case.from_subject(torchio.Subject(**images), tmp_path / "out")
        assert caught.value.remedy
    assert not any((tmp_path / "out").rglob("*"))

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from maml_toolkit.data.audit import audit
from maml_toolkit.data.cache import Preparation, prepare_all, prepared_cases
from maml_toolkit.data.case import Case
from maml_toolkit.data.cases import find_cases, task_of, write_cases, write_table
from maml_toolkit.data.label_sets import IGNORED, SETS, closed, compared_masks, opened, undrawn
from maml_toolkit.data.patches import PatchSampler
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import Task
from maml_toolkit.system.errors import DataError

TASK = Task("organs", ["ct"], {"background": 0, "liver": 1, "spleen": 2, "tumour": 4}, intensities="ct",
            regions={"liver": ["liver", "tumour"], "spleen": ["spleen"]}, ignore=9)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def case_of(label, name="one", labelled=None):
    scan = np.random.default_rng(0).normal(-100, 300, label.shape).astype(np.float32)
    scan[0, 0, 0] = -1000
    return Case(name, {"ct": nibabel.Nifti1Image(scan, AFFINE)}, nibabel.Nifti1Image(label.astype(np.uint8), AFFINE),
                labelled=labelled)


@pytest.fixture
def label():
    """Background, a liver, a spleen and, in one corner, nobody knows."""
    found = np.zeros((8, 8, 8), np.uint8)
    found[:2, :2, :2], found[2:5, 2:5, 2:5], found[5:7, 5:7, 5:7] = 9, 1, 2
    return found


def test_the_ignored_value_is_known_and_is_no_class(label):
    encoded = TASK.encode(label)
    assert np.array_equal(encoded == IGNORED, label == 9)
    assert set(np.unique(encoded)) == {0, 1, 2, IGNORED}
    with pytest.raises(DataError, match="7"):
        TASK.encode(np.array([0, 7]))
    with pytest.raises(DataError, match="9"):
        replace(TASK, ignore=None).encode(label)
    assert Task.from_json(TASK.to_json()) == TASK
    assert "ignore" not in replace(TASK, ignore=None).to_json()


def test_a_task_cannot_ignore_what_is_a_class_or_no_number():
    for value in (4, "255", 1.5):
        with pytest.raises(ValueError, match="ignore"):
            Task.from_json(TASK.to_json() | {"ignore": value})


def test_a_background_that_may_be_a_class_that_was_not_drawn_is_a_set(label):
    numbers = undrawn(["liver"], TASK)
    found = opened(TASK.encode(label), numbers, TASK)
    assert numbers == [2, 3]
    assert set(np.unique(found)) == {1, 2, SETS + 0b110, IGNORED}
    assert np.array_equal(closed(found), np.where(label == 9, 0, label))
    assert set(np.unique(opened(np.zeros((2, 2, 2), np.uint8), undrawn(["background"], TASK), TASK))) == {IGNORED}
    assert undrawn(None, TASK) == undrawn(["liver", "tumour", "spleen"], TASK) == []


def test_a_drawn_class_that_is_none_is_refused_and_the_nearest_named(label):
    with pytest.raises(DataError, match="liver") as error:
        undrawn(["livr"], TASK)
    assert "livr" in error.value.problem
    assert "liver" in error.value.remedy
    with pytest.raises(DataError, match="livr"):
        prepare(case_of(label, labelled="livr"), TASK)
    for nothing in ((), "", "+", "liver+"):
        with pytest.raises(DataError, match="labelled"):
            Case("one", labelled=nothing)


def test_a_set_holds_at_most_seven_classes_and_all_drawn_has_no_limit():
    large = Task("large", ["ct"], {name: index for index, name in enumerate("abcdefghi")})
    assert undrawn(list("abcdefghi"), large) == []
    with pytest.raises(DataError, match="8"):
        undrawn(["b"], large)
    fits = Task("fits", ["ct"], {name: index for index, name in enumerate("abcdefgh")})
    assert opened(np.zeros(1, np.uint8), undrawn(["b"], fits), fits) == SETS + 0b1111110


def test_a_class_in_the_label_that_was_not_drawn_is_a_fault(label):
    found = audit([case_of(label, labelled="liver+tumour")], TASK)
    assert any("spleen" in error.problem for error in found.errors)
    assert not audit([case_of(label, labelled="liver+spleen")], TASK).errors


@pytest.mark.parametrize("spacing_mm", [2, 3, 1.5])
def test_a_case_is_prepared_with_what_is_open_on_any_grid(label, spacing_mm):
    plain = prepare(case_of(label), TASK.with_spacing(spacing_mm))
    partly = prepare(case_of(label, labelled=("liver", "spleen")), TASK.with_spacing(spacing_mm))
    assert set(np.unique(plain.labels)) == {0, 1, 2, IGNORED}
    assert np.array_equal(np.where(partly.labels == SETS + 0b100, 0, partly.labels), plain.labels)
    for one in (plain, partly):
        assert set(one.foreground[:, 0]) == {1, 2}


def test_what_is_cut_away_or_lost_is_told_of_classes_alone(label):
    scan = np.ones((8, 8, 8), np.float32) + np.random.default_rng(0).random((8, 8, 8), np.float32)
    scan[0] = 0
    brain = Task("mine", ["t1"], TASK.labels, ignore=9, spacing_mm=(8, 8, 8))
    label[0, 4, 4] = 4
    case = Case("one", {"t1": nibabel.Nifti1Image(scan, AFFINE)}, nibabel.Nifti1Image(label, AFFINE))
    (cut,) = [one.problem for one in prepare(case, brain).oddities if "every scan is zero" in one.problem]
    assert "1 voxels of tumour" in cut


def test_patches_say_what_is_open_by_their_type(label):
    for labelled, kind in ((None, "torch.int64"), (("liver", "spleen"), "torch.uint8")):
        case = prepare(case_of(np.where(label == 9, 0, label), labelled=labelled), TASK.with_spacing(2))
        _, classes = PatchSampler([case], (8, 8, 8), 2).batch(0).transformed()
        assert str(classes.dtype) == kind


@pytest.mark.parametrize("layout", ["table", "folders", "nnunet"])
def test_drawn_classes_and_what_is_ignored_survive_writing(tmp_path, label, layout):
    cases = [case_of(label), case_of(label[::-1], "two", ("liver", "spleen"))]
    source = write_cases(cases, tmp_path / "out", layout, TASK)
    task = task_of(tmp_path / "out", TASK)
    found = find_cases(source, task)
    assert [one.labelled for one in found] == [None, ("liver", "spleen")]
    for one, own in zip(found, cases, strict=True):
        assert np.array_equal(task.encode(np.asarray(nibabel.load(one.label).dataobj)),
                              TASK.encode(np.asarray(own.label.dataobj)))
    if layout == "nnunet":
        stated = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
        assert stated == {"background": 0, "liver": 1, "spleen": 2, "tumour": 3, "ignore": 4}
        assert task.ignore == 4
    write_table(found, tmp_path / "cases.csv", task)
    assert [one.labelled for one in find_cases(tmp_path / "cases.csv", task)] == [None, ("liver", "spleen")]
    (tmp_path / "cases.csv").write_text((tmp_path / "cases.csv").read_text().replace("liver+spleen", "liver+spln"))
    with pytest.raises(DataError, match="'spleen'"):
        find_cases(tmp_path / "cases.csv", task)


def test_bids_has_no_place_for_drawn_classes(tmp_path, label):
    with pytest.raises(DataError, match="drawn"):
        write_cases([case_of(label, labelled="liver+spleen")], tmp_path / "out", "bids", TASK)


def test_other_drawn_classes_or_another_ignored_value_prepare_anew(tmp_path, label):
    label[label == 9] = 0
    task, folder = TASK.with_spacing(2), tmp_path / "prepared"
    write_cases([case_of(label)], tmp_path / "out", "table", task)
    (case,) = find_cases(tmp_path / "out" / "cases.csv", task)
    partly = replace(case, labelled="liver+spleen")
    values = lambda one, of=task: set(np.unique(prepare_all([one], of, folder / "arrays")[0].labels))  # noqa: E731
    assert values(case) == {0, 1, 2}
    assert not Preparation(task, folder / "arrays").findings(partly)
    assert values(partly) == {SETS + 0b100, 1, 2}
    sums = [Preparation(task).contents([one])["one"] for one in (case, partly)]
    assert sums[0] != sums[1]
    write_table([partly], folder / "cases.csv", task)
    case.label.unlink()
    with pytest.warns(match="arrays"):
        assert prepared_cases(folder, task)[0].labelled == ("liver", "spleen")
    unsaid = Preparation(replace(task, ignore=None), folder / "arrays")
    assert [bool(unsaid.findings(replace(partly, task=of))) for of in (task, None)] == [True, False]


def test_a_label_of_nothing_known_is_prepared_and_has_no_foreground(label):
    case = prepare(case_of(np.full_like(label, 9)), TASK.with_spacing(3))
    assert set(np.unique(case.labels)) == {IGNORED}
    assert not len(case.foreground)
    assert not list(compared_masks(np.zeros((8, 8, 8), np.uint8), np.full((8, 8, 8), 255, np.uint8), TASK))


def test_masks_are_compared_where_something_is_known(label):
    truth, answer = TASK.encode(label), np.full(label.shape, 2, np.uint8)
    masks = {region: (found, true) for region, found, true in compared_masks(answer, truth, TASK)}
    assert list(masks) == ["liver", "spleen"]
    assert np.array_equal(masks["spleen"][0], label != 9)
    assert np.array_equal(masks["spleen"][1], label == 2)
    assert [region for region, *_ in compared_masks(answer, opened(truth, [3], TASK), TASK)] == ["spleen"]
    assert [region for region, *_ in compared_masks(answer, opened(truth, [2], TASK), TASK)] == ["liver"]

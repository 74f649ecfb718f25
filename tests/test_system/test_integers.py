"""Whole numbers are written in a type that holds them, wherever a volume is written."""

import nibabel as nib
import numpy as np
import pytest

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case, write_cases
from maml_toolkit.data.mending import mend
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.registration import (
    RECIPES,
    Measures,
    RegisteredCase,
    Registration,
    Transform,
    cases,
    register_case,
)
from maml_toolkit.system.integers import TYPES, holding, whole

LIVER = TASKS["liver_phases"]


@pytest.mark.parametrize("edge", [one for dtype in TYPES[:-1] for one in (np.iinfo(dtype).min, np.iinfo(dtype).max)])
def test_a_number_at_the_edge_of_a_type_and_the_next_one_survive(edge):
    for number in (int(edge), int(edge) - 1, int(edge) + 1):
        assert whole(np.array([number, 0])).tolist() == [number, 0]


def test_what_no_type_holds_stays_what_it_is():
    assert holding(-1.0, 2.0**70) is None
    assert whole(np.array([1e30, -0.4], np.float32)).tolist() == [np.float32(1e30), 0]


@pytest.mark.parametrize(("lowest", "highest"), [(-1024, 3071), (-1024, 60000), (-40000, 3071), (0, 70000)])
def test_a_registered_ct_and_its_untouched_reference_keep_their_values(tmp_path, monkeypatch, lowest, highest):
    array = np.full((8, 8, 8), lowest, np.float32)
    array[2:5, 2:5, 2:5] = highest
    array[6, 6, 6] = 40
    nothing = Measures(1.5, 1, 1)
    monkeypatch.setattr(cases, "register", lambda *_, **__: Registration(
        Transform.identity(), nothing, nothing, RECIPES["liver_phases"], 1.0))
    case = Case("p", {name: nib.Nifti1Image(array, np.eye(4)) for name in LIVER.modalities})
    done = register_case(case, LIVER, tmp_path)
    assert isinstance(done, RegisteredCase)
    for name in LIVER.modalities:
        np.testing.assert_array_equal(volumes.read(done.case.images[name]).array, array)
        assert nib.load(done.case.images[name]).get_data_dtype().kind == "i"


def test_a_ct_that_is_not_in_whole_hu_is_not_rounded_to_0_and_1(tmp_path):
    array = np.random.default_rng(0).uniform(0, 1, (8, 8, 8)).astype(np.float32)
    done = register_case(Case("p", {"arterial": nib.Nifti1Image(array, np.eye(4))}), LIVER, tmp_path)
    np.testing.assert_array_equal(volumes.read(done.case.images["arterial"]).array, array)


@pytest.mark.parametrize("value", [-7, 40000, 70000])
def test_label_values_of_any_size_survive_a_task_a_copy_and_a_repair(tmp_path, value):
    task = Task("large", ("t1",), {"background": 0, "lesion": value, "other": -1})
    classes = np.zeros((6, 6, 6), np.uint8)
    classes[2:4, 2:4, 2:4], classes[0, 0, 0] = 1, 2
    label = task.decode(classes)
    assert sorted(set(label.ravel().tolist())) == sorted({0, value, -1})
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=label.shape).astype(np.float32), np.eye(4))
    write_cases([Case("a", {"t1": image}, nib.Nifti1Image(label, np.eye(4), dtype=label.dtype))], tmp_path / "out",
                task=task)
    written = tmp_path / "out" / "a" / "a_seg.nii.gz"
    np.testing.assert_array_equal(volumes.read_label(written).array, label)
    volumes.write(tmp_path / "floats.nii", label.astype(np.float64), np.eye(4))
    np.testing.assert_array_equal(
        volumes.read_label(mend(tmp_path / "floats.nii", tmp_path / "mended.nii", label=True)).array, label)

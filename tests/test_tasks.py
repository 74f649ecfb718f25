"""Tasks say what label values and modality names mean."""

import json

import numpy as np
import pytest

from maml_toolkit.errors import DataError
from maml_toolkit.tasks import TASKS, Task

BRATS = TASKS["brats2021"]


def test_values_become_classes_and_classes_become_values():
    values = np.array([[0, 1], [2, 4]], np.int16)
    classes = BRATS.encode(values)
    assert classes.tolist() == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(BRATS.decode(classes), values)


def test_regions_are_unions_of_classes():
    classes = BRATS.encode(np.array([0, 1, 2, 4]))
    assert BRATS.region(classes, "WT").tolist() == [False, True, True, True]
    assert BRATS.region(classes, "TC").tolist() == [False, True, False, True]
    assert BRATS.region(classes, "ET").tolist() == [False, False, False, True]


@pytest.mark.parametrize("value", [3, -1, 300, 2_000_000_000])
def test_an_unexpected_value_is_named_with_the_scheme(value):
    with pytest.raises(DataError, match=rf"\[{value}\].*4 enhancing"):
        BRATS.encode(np.array([0, value]))


def test_several_values_may_stand_for_one_class():
    task = Task("merged", ("t1",), {"background": (0, 3), "lesion": (1, 2)})
    assert task.encode(np.array([0, 1, 2, 3])).tolist() == [0, 1, 1, 0]
    assert task.decode(np.array([0, 1])).tolist() == [0, 1]


@pytest.mark.parametrize(("name", "own"), [
    ("T1CE", "t1ce"), ("t1c", "t1ce"), ("t1gd", "t1ce"), ("t2f", "flair"), ("t1n", "t1")])
def test_synonyms_of_the_field_are_known(name, own):
    assert BRATS.modality(name) == own


def test_an_unknown_modality_is_named_with_the_nearest():
    with pytest.raises(DataError, match=r"'t1cee'.*\n.*Did you mean 't1ce'"):
        BRATS.modality("t1cee")


def test_a_task_comes_back_from_its_file(tmp_path):
    for task in TASKS.values():
        task.with_spacing((1, 1, 2)).save(tmp_path / "task.json")
        assert Task.named(tmp_path / "task.json") == task.with_spacing((1, 1, 2))
        assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_task_nobody_knows_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'brats'.*brats2021"):
        Task.named("brats")
    with pytest.raises(ValueError, match="'colour'"):
        Task.from_json({**BRATS.to_json(), "colour": 1})


@pytest.mark.parametrize(("change", "message"), [
    ({"labels": {"background": 0}}, "background"), ({"labels": {"background": 0, "a": 1, "b": 1}}, "disjoint"),
    ({"regions": {"all": ("c",)}}, "region all"), ({"intensities": "pet"}, "'mr' or 'ct'"), ({"reference": "t9"}, "t9"),
    ({"spacing_mm": (1, 1, 0)}, "positive"), ({"modalities": ("t1", "T1")}, "modality names"),
    ({"modalities": ()}, "modality names")])
def test_contradictions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Task(**{"name": "x", "modalities": ("t1", "t2"), "labels": {"background": 0, "a": 1}} | change)

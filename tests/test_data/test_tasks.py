"""Tasks say what label values and modality names mean."""

import json

import numpy as np
import pytest

from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.system.errors import DataError

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


@pytest.mark.parametrize(("name", "region", "values"), [
    ("brats2021", "TC", {1, 4}), ("brats2023", "TC", {1, 3}), ("brats2024", "WT", {1, 2, 3}),
    ("brats2024", "TC", {1, 3}), ("brats2024", "ET", {3}), ("brats2024", "RC", {4}),
    ("brats2015", "complete", {1, 2, 3, 4}), ("brats2015", "core", {1, 3, 4}), ("brats2015", "enhancing", {4}),
    ("msd_brain", "WT", {1, 2, 3}), ("msd_brain", "TC", {2, 3}), ("msd_brain", "ET", {3}),
    ("msd_liver", "liver", {1, 2}), ("msd_liver", "cancer", {2}), ("chaos_ct", "liver", {1}),
    ("prostatex", "lesion", {1})])
def test_regions_of_the_known_tasks_are_these_label_values(name, region, values):
    task = TASKS[name]
    stored = np.array(sorted(task.values))
    assert set(stored[task.region(task.encode(stored), region)]) == values


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


@pytest.mark.parametrize("name", ["mask", "Seg", "label", "LABELS"])
def test_a_modality_cannot_be_called_as_files_call_the_label(name):
    """Its scan would be found as the label, and be trained on."""
    with pytest.raises(ValueError, match=f"{name!r}.*label"):
        Task("two", ("ct", name), {"background": 0, "lesion": 1})


def test_a_task_comes_back_from_its_file(tmp_path):
    for task in TASKS.values():
        task.with_spacing((1, 1, 2)).save(tmp_path / "task.json")
        assert Task.named(tmp_path / "task.json") == task.with_spacing((1, 1, 2))
        assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_one_number_for_a_spacing_is_that_of_all_three_axes():
    for given in (2, 2.0, [2], np.float64(2)):
        assert BRATS.with_spacing(given).spacing_mm == (2.0, 2.0, 2.0)
    for wrong in ([1, 2], 0, [-1]):
        with pytest.raises(ValueError, match="millimetres"):
            BRATS.with_spacing(wrong)


def test_the_label_is_drawn_on_the_reference_unless_another_modality_is_named():
    named = {"name": "x", "modalities": ("t1", "t2", "adc"), "labels": {"background": 0, "a": 1}}
    assert (BRATS.reference, BRATS.label_on) == ("t1", "t1")
    assert Task(**named, reference="t2").label_on == "t2"
    task = Task(**named, reference="t2", label_on="adc")
    assert (task.reference, task.label_on) == ("t2", "adc")
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_task_stored_without_the_modality_of_its_label_is_the_same_task():
    stored = BRATS.to_json()
    assert "label_on" not in stored
    assert Task.from_json(stored) == BRATS
    assert Task.from_json({**stored, "reference": "t2"}).label_on == "t2"


def test_a_task_nobody_knows_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'brats'.*brats2021"):
        Task.named("brats")
    with pytest.raises(ValueError, match=r"prepraed/task\.json"):
        Task.named("prepraed/task.json")
    with pytest.raises(KeyError, match=r"'liver_phase'.*'liver_phases'"):
        TASKS["liver_phase"]
    with pytest.raises(ValueError, match="'colour'"):
        Task.from_json({**BRATS.to_json(), "colour": 1})


@pytest.mark.parametrize(("change", "message"), [
    ({"labels": {"background": 0}}, "background"), ({"labels": {"background": 0, "a": 1, "b": 1}}, "disjoint"),
    ({"regions": {"all": ("c",)}}, "region all"), ({"intensities": "pet"}, "'mr' or 'ct'"), ({"reference": "t9"}, "t9"),
    ({"label_on": "t9"}, "label_on 't9'"),
    ({"spacing_mm": (1, 1, 0)}, "positive"), ({"modalities": ("t1", "T1")}, "modality names"),
    ({"modalities": ()}, "modality names")])
def test_contradictions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Task(**{"name": "x", "modalities": ("t1", "t2"), "labels": {"background": 0, "a": 1}} | change)


@pytest.mark.parametrize("name", ["dwi", "pet", "t7", "adc"])
def test_what_is_not_near_is_not_suggested(name):
    with pytest.raises(DataError) as caught:
        BRATS.modality(name)
    assert "Did you mean" not in caught.value.remedy
    assert "Rename it" in caught.value.remedy


@pytest.mark.parametrize(("year", "scheme"), [(2017, "brats2021"), (2018, "brats2021"), (2019, "brats2021"),
                                              (2020, "brats2021"), (2012, "brats2015"), (2013, "brats2015")])
def test_a_year_of_brats_names_the_task_of_its_scheme(year, scheme):
    assert Task.named(f"brats{year}") is TASKS[f"brats{year}"] is TASKS[scheme]


def test_another_year_is_no_typing_error():
    with pytest.raises(ValueError, match="brats2022") as caught:
        Task.named("brats2022")
    assert "did you mean" not in str(caught.value)


GOOD = {"name": "mine", "modalities": ["arterial", "venous"], "labels": {"background": 0, "tumour": 1},
        "intensities": "ct"}
TEXT = json.dumps(GOOD, indent=1)


@pytest.mark.parametrize("content", [
    ("\ufeff" + TEXT).encode(), TEXT.encode("utf-8"), json.dumps({**GOOD, "spacing_mm": [1, 1, 3.0]}).encode(),
    json.dumps({**GOOD, "labels": {"background": [0, 3], "tumour": 1.0}}).encode()])
def test_a_task_written_by_hand_is_read(tmp_path, content):
    (tmp_path / "mine.json").write_bytes(content)
    task = Task.named(tmp_path / "mine.json")
    assert (task.modalities, task.labels["tumour"]) == (("arterial", "venous"), (1,))


@pytest.mark.parametrize(("content", "said"), [
    (TEXT[:-2] + ",\n}", ("line 1", "Remove the comma")),
    (TEXT.replace('"venous"\n', '"venous",\n'), ("column", "Remove the comma")),
    (TEXT.replace('"ct"', '"ct" // HU'), ("line 11, column", "comment")),
    (TEXT.replace('"ct"', "'ct'"), ("line 11, column", "double quotes")),
    (TEXT.replace('"ct"', "\u201cct\u201d"), ("line 11, column", "straight double quotes")),
    (TEXT.replace('"ct"', "None"), ("line 11, column", "null")),
    (TEXT.replace(" 0,", " 0"), ("line 9, column", "a comma between")),
    (TEXT[:-1], ("line 12, column", "bracket at the end")),
    (TEXT.replace(": 1\n", ": NaN\n"), ("found NaN", "Correct")),
    (TEXT.replace('"tumour"', '"background"'), ("'background' twice", "Correct")),
    ("", ("line 1, column 1", "The file is empty")), ("[1]", ("found a list", '{"name": value')),
    (TEXT.replace("tumour", "tum\u00f6ur").encode("latin-1"), ("line 9", "UTF-8")),
    (TEXT.encode("utf-16"), ("line 1", "UTF-8"))])
def test_what_is_no_json_is_named_by_line_and_with_what_was_meant(tmp_path, content, said):
    path = tmp_path / "mine.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        Task.named(path)
    assert caught.value.path == path
    assert said[0] in caught.value.problem
    assert said[1] in caught.value.remedy


@pytest.mark.parametrize(("change", "said"), [
    ({"labels": {"0": "background", "1": "tumour"}}, "the wrong way round"), ({"labels": ["background"]}, "labels"),
    ({"labels": {"background": 0, "tumour": "1"}}, "whole number"),
    ({"labels": {"background": 0, "tumour": 1.5}}, "1.5"),
    ({"labels": {"background": 0, "tumour": True}}, "True"), ({"labels": {"background": 0, "tumour": []}}, "labels"),
    ({"labels": None}, "labels is None"), ({"spacing_mm": 1}, "[1, 1, 3]"), ({"spacing_mm": ["1", 1, 1]}, "spacing_mm"),
    ({"spacing_mm": [1, 1]}, "three"), ({"modalities": "t1"}, "list of names"), ({"modalities": {"0": "t1"}}, "list"),
    ({"modalities": [1]}, "list of names"), ({"regions": {"all": "tumour"}}, "a list of classes"),
    ({"regions": ["tumour"]}, "regions"), ({"intensities": ["ct"]}, "intensities"), ({"intensities": 1}, "intensities"),
    ({"intensities": {"arterial": "ct"}}, "intensities"), ({"name": 7}, "name is 7"), ({"reference": 0}, "reference"),
    ({"modalites": []}, "did you mean 'modalities'"), ({"label": {}}, "'label' (did you mean")])
def test_a_task_that_is_another_thing_than_meant_names_its_file(tmp_path, change, said):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(DataError) as caught:
        Task.named(path)
    assert caught.value.path == path
    assert said in caught.value.problem
    assert '"modalities": ["t1", "t2"]' in caught.value.remedy
    for missing in ("name", "modalities", "labels"):
        path.write_text(json.dumps({key: value for key, value in GOOD.items() if key != missing}))
        with pytest.raises(DataError, match=f"found no {missing}"):
            Task.named(path)


@pytest.mark.parametrize(("left", "right"), [("LKidney", "RKidney"), ("leftkidney", "rightkidney"), ("LEFTKIDNEY", "x"),
                                             ("rein gauche", "rein droit"), ("linke Niere", "rechte Niere"),
                                             ("nerve_sx", "nerve_dx"), ("rene_sinistro", "rene_destro")])
def test_sides_are_known_however_they_are_written(left, right):
    task = Task("sides", ("ct",), {"background": 0, left: 1, right: 2, "liver": 3})
    assert task.sided == ((left,) if right == "x" else (left, right))


@pytest.mark.parametrize("spacing", [(1, float("inf"), 1), (1, float("nan"), 1), (1e9, 1, 1), (0, 1, 1), (1, 1)])
def test_a_spacing_that_no_grid_can_have_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing_mm"):
        Task("wide", ("ct",), {"background": 0, "tumour": 1}, spacing_mm=spacing)

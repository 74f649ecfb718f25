"""What the channels of an answer say: classes, or regions that are painted one over the other."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax

from maml_toolkit.data.tasks import TASKS, Task

BRAIN = replace(TASKS["brats2021"], train_on="regions")
NAMES = BRAIN.class_names
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(("whole", "core", "enhancing", "painted"), [
    (1, 1, 1, "enhancing"), (1, 1, 0, "necrosis"), (1, 0, 0, "oedema"), (0, 0, 0, "background"),
    (0, 1, 0, "necrosis"), (0, 0, 1, "enhancing"), (1, 0, 1, "enhancing"), (0, 1, 1, "enhancing")])
def test_a_voxel_is_painted_by_the_last_region_that_has_it(whole, core, enhancing, painted):
    """By hand, as nnU-Net paints BraTS: whole tumour as oedema, over it the core, over that the enhancing tumour."""
    logits = np.array([whole, core, enhancing])[:, None, None, None] * 2.0 - 1
    assert NAMES[BRAIN.answers.classes(logits).item()] == painted
    assert NAMES[BRAIN.answers.classes_of(expit(logits)).item()] == painted


def test_the_painting_is_that_of_regions_class_order():
    """nnU-Net lists a label for each region: where a region is predicted it is written over what was there."""
    logits = np.random.default_rng(0).normal(0, 3, (3, 6, 6, 6))
    expected = np.zeros((6, 6, 6), int)
    for probability, number in zip(1 / (1 + np.exp(-logits)), [NAMES.index(one) for one in
                                                               ("oedema", "necrosis", "enhancing")], strict=True):
        expected[probability > 0.5] = number
    np.testing.assert_array_equal(BRAIN.answers.classes(logits), expected)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "brats2015"])
def test_regions_that_are_right_paint_the_label_that_they_came_from(name):
    task = replace(TASKS[name], train_on="regions")
    inside = [one for one in range(task.classes) if one == 0 or any(one in own for own in task.answers.members)]
    truth = np.random.default_rng(1).choice(inside, (5, 5, 5))
    logits = np.stack([np.where(task.region(truth, region), 3.0, -3.0) for region in task.regions])
    np.testing.assert_array_equal(task.answers.classes(logits), truth)
    assert task.answers.names == tuple(task.regions)
    for channel, region in enumerate(task.regions):
        np.testing.assert_array_equal(task.answers.mask(truth, channel), task.region(truth, region))


@pytest.mark.parametrize(("regions", "said"), [
    ({"all": ["a", "b", "c"]}, "all has the classes a, b, c"),
    ({"a": ["a"], "all": ["a", "b"]}, "a has no class"),
    ({"first": ["a", "b"], "second": ["b", "c"]}, "second has the classes b, c"),
    ({"again": ["a"], "a": ["a"]}, "again has no class")])
def test_regions_that_cannot_be_told_from_a_label_map_are_refused(regions, said):
    with pytest.raises(ValueError, match=said):
        Task("one", ["t1"], LABELS, regions, train_on="regions")
    assert Task("one", ["t1"], LABELS, regions).train_on == "classes"


def test_overlapping_regions_with_their_common_part_behind_them_are_painted():
    task = Task("one", ["t1"], LABELS, {"first": ["a", "b"], "second": ["b", "c"], "both": ["b"]}, train_on="regions")
    assert task.answers.painted == (1, 3, 2)
    assert task.outputs == {"classes": 4, "regions": [[1, 2], [2, 3], [2]]}


def test_a_task_says_on_what_it_is_trained_where_that_is_not_the_classes(tmp_path):
    assert "train_on" not in TASKS["brats2021"].to_json()
    assert TASKS["brats2021"].outputs == {"classes": 4}
    BRAIN.save(tmp_path / "task.json")
    again = Task.named(tmp_path / "task.json")
    assert again == BRAIN
    assert again.outputs == {"classes": 4, "regions": [[1, 2, 3], [1, 3], [3]]}
    with pytest.raises(ValueError, match=r"train_on.*'region'.*classes, regions"):
        Task.from_json(json.loads((tmp_path / "task.json").read_text()) | {"train_on": "region"})


@pytest.mark.parametrize("task", [BRAIN, TASKS["brats2021"]])
def test_probabilities_and_logits_are_each_others_inverse(task):
    answers = task.answers
    logits = np.random.default_rng(2).normal(0, 4, (len(answers.names), 5, 5, 5)).astype(np.float32)
    probabilities = answers.probabilities(logits)
    np.testing.assert_allclose(probabilities, expit(logits) if task is BRAIN else softmax(logits, 0), rtol=1e-6)
    back = answers.logits(probabilities)
    np.testing.assert_allclose(answers.probabilities(back), probabilities, rtol=1e-4)
    np.testing.assert_array_equal(answers.classes(back), answers.classes(logits))
    assert np.isfinite(answers.logits(np.array([[0.0], [1.0], [0.5], [0.5]][:len(answers.names)]))).all()


def test_a_region_is_against_everything_else_already_and_a_class_against_the_background():
    values, classes = np.random.default_rng(3).normal(size=(4, 2, 2, 2)), TASKS["brats2021"].answers
    np.testing.assert_array_equal(BRAIN.answers.against_background(values[:3]), values[:3])
    np.testing.assert_array_equal(BRAIN.answers.with_background(values[:3])[1:], values[:3])
    np.testing.assert_array_equal(classes.against_background(values)[2], values[2] - values[0])
    for answers, some in ((BRAIN.answers, values[:3]), (classes, values)):
        assert (answers.with_background(some)[0] == 0).all()
        assert answers.with_background(some).shape == values.shape
    assert [BRAIN.answers.named(number) for number in (1, 2, 3)] == ["TC", "WT", "ET"]
    assert [classes.named(number) for number in range(4)] == [*NAMES]
    assert [*BRAIN.answers.found] == [0, 1, 2]
    assert [*TASKS["brats2021"].answers.found] == [1, 2, 3]

"""Patches are a pure function of seed, step and index; a third of them hold foreground."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from maml_toolkit.data import phantoms
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import Case
from maml_toolkit.data.patches import PatchSampler, cut
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import TASKS

LIVER = TASKS["liver_phases"]


@pytest.fixture(scope="module")
def prepared():
    return prepare_all(phantoms.liver_phases(4, size=32), LIVER)


def same(one, other):
    return one.cases == other.cases and one.seeds == other.seeds and torch.equal(one.labels, other.labels) and all(
        torch.equal(one.images[name], other.images[name]) for name in one.images)


def test_a_step_gives_the_same_batch_whatever_came_before(prepared):
    sampler = PatchSampler(prepared, (16, 16, 16), 2, seed=3)
    alone = sampler.batch(7)
    assert same(alone, list(PatchSampler(prepared, (16, 16, 16), 2, seed=3).batches(5, 9))[2])
    assert same(alone, PatchSampler(prepared[::-1], (16, 16, 16), 2, seed=3).batch(7))
    assert not same(alone, sampler.batch(8))
    assert not same(alone, PatchSampler(prepared, (16, 16, 16), 2, seed=4).batch(7))


def test_batches_have_the_shapes_that_networks_read(prepared):
    batch = PatchSampler(prepared, (16, 8, 16), 3).batch(0)
    assert {name: tuple(image.shape) for name, image in batch.images.items()} == {
        "arterial": (3, 1, 16, 8, 16), "venous": (3, 1, 16, 8, 16)}
    assert batch.labels.shape == (3, 16, 8, 16)


def test_at_least_every_third_patch_holds_foreground(prepared):
    sampler = PatchSampler(prepared, (8, 8, 8), 3)
    for batch in sampler.batches(0, 20):
        assert batch.labels[0].any()      # of three in a batch, the first is the one that must


def test_image_and_label_are_cut_at_the_same_place(prepared):
    case = prepared[0]
    for name in case.images:
        case.images[name][...] = case.labels
    batch = PatchSampler([case], (16, 16, 16), 2).batch(0)
    assert torch.equal(batch.images["venous"][:, 0].long(), batch.labels)


def test_a_small_case_is_surrounded_by_zeros():
    array = np.ones((2, 2, 2), np.float32)
    patch = cut(array, (-1, 0, -1), (4, 2, 4))
    assert patch.sum() == 8
    assert patch[1:3, :, 1:3].all()
    small = prepare_all(phantoms.liver_phases(1, size=16), LIVER)
    batch = PatchSampler(small, (32, 16, 32), 1).batch(0)
    assert (batch.images["venous"][0, 0, :8] == 0).all()


def test_all_cases_of_a_batch_have_the_same_modalities():
    cases = phantoms.liver_phases(6, size=16)
    mixed = [Case(case.id, {name: case.images[name] for name in names}, case.label)
             for case, names in zip(cases, [("arterial",), ("venous",), ("arterial", "venous")] * 2, strict=True)]
    seen = set()
    for batch in PatchSampler(prepare_all(mixed, LIVER), (16, 16, 16), 4).batches(0, 30):
        groups = {tuple(case.images) for case in mixed if case.id in batch.cases}
        assert groups == {tuple(batch.images)}
        seen |= groups
    assert len(seen) == 3


def test_every_case_of_every_group_is_drawn():
    cases = phantoms.liver_phases(8, size=16)
    mixed = [Case(case.id, dict(list(case.images.items())[index % 2:]), case.label) for index, case in enumerate(cases)]
    drawn = [batch.cases[0] for batch in PatchSampler(prepare_all(mixed, LIVER), (8, 8, 8), 1).batches(0, 400)]
    counts = {case.id: drawn.count(case.id) for case in cases}
    assert min(counts.values()) > 25      # 50 expected


def test_a_third_holds_foreground_where_lesions_are_rare_too():
    prepared = prepare_all(phantoms.liver_phases(6, size=16), LIVER)
    rare = [replace(case, labels=case.labels * 0, foreground=case.foreground[:0]) for case in prepared[1:]]
    batches = list(PatchSampler([prepared[0], *rare], (8, 8, 8), 1).batches(0, 60))
    assert all(batch.labels.any() for batch in batches[::3])
    assert any("liver-0-003" in batch.cases for batch in batches)


def test_cases_without_label_are_refused():
    case = phantoms.liver_phases(1, size=16)[0]
    with pytest.raises(DataError, match=r"no label: liver-0-000"):
        PatchSampler(prepare_all([Case(case.id, case.images)], LIVER), (8, 8, 8), 1)
    with pytest.raises(DataError, match="no training case"):
        PatchSampler([], (8, 8, 8), 1)

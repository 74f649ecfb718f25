"""Patches are a pure function of seed, step and index; a third of them hold foreground."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import Case
from maml_toolkit.data.patches import PatchSampler, cut
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.system.errors import DataError

LIVER = TASKS["liver_phases"]


@pytest.fixture(scope="module")
def prepared():
    return prepare_all(phantoms.liver_phases(4, size=32), LIVER)


def same(one, other):
    (images, labels), (others, other_labels) = one.transformed(), other.transformed()
    return one.cases == other.cases and torch.equal(labels, other_labels) and all(
        torch.equal(images[name], others[name]) for name in images)


@pytest.mark.parametrize("settings", [{}, {"augmentation": Augmentation(rotation=1)}])
def test_a_step_gives_the_same_batch_whatever_came_before(prepared, settings):
    sampler = PatchSampler(prepared, (16, 16, 16), 2, seed=3, **settings)
    alone = sampler.batch(7)
    assert same(alone, list(PatchSampler(prepared, (16, 16, 16), 2, seed=3, **settings).batches(5, 9))[2])
    assert same(alone, PatchSampler(prepared[::-1], (16, 16, 16), 2, seed=3, **settings).batch(7))
    assert not same(alone, sampler.batch(8))
    assert not same(alone, PatchSampler(prepared, (16, 16, 16), 2, seed=4, **settings).batch(7))


def test_batches_have_the_shapes_that_networks_read(prepared):
    for augmentation in (None, Augmentation(rotation=1, elastic=1)):
        images, labels = PatchSampler(prepared, (16, 8, 16), 3, augmentation=augmentation).batch(0).transformed()
        assert {name: tuple(image.shape) for name, image in images.items()} == {
            "arterial": (3, 1, 16, 8, 16), "venous": (3, 1, 16, 8, 16)}
        assert (labels.shape, labels.dtype) == ((3, 16, 8, 16), torch.int64)


def test_at_least_every_third_patch_holds_foreground(prepared):
    sampler = PatchSampler(prepared, (8, 8, 8), 3)
    for batch in sampler.batches(0, 20):
        assert batch.patches[0].labels.any()      # of three in a batch, the first is the one that must


def test_image_and_label_are_cut_at_the_same_place(prepared):
    case = prepared[0]
    for name in case.images:
        case.images[name][...] = case.labels
    images, labels = PatchSampler([case], (16, 16, 16), 2).batch(0).transformed()
    assert torch.equal(images["venous"][:, 0].long(), labels)


@pytest.mark.parametrize("settings", [{}, {"augmentation": Augmentation(gamma=0, scaling=1, scale=(0.5, 0.5))}])
@pytest.mark.parametrize(("case", "task"), [(phantoms.liver_phases(1, size=16)[0], LIVER),
                                            (phantoms.brains(1, size=16)[0], TASKS["brats2021"])])
def test_beyond_a_scan_is_air(case, task, settings):
    array = np.ones((2, 2, 2), np.float32)
    patch = cut(array, (-1, 0, -1), (4, 2, 4), outside=-3)
    assert patch.sum() == 8 - 3 * 24
    assert (patch[1:3, :, 1:3] == 1).all()
    small, = prepare_all([case], task)
    lowest = {name: image.min() if task is LIVER else 0 for name, image in small.images.items()}
    images, labels = PatchSampler([small], (48, 48, 48), 1, **settings).batch(0).transformed()
    assert set(lowest) == set(images)
    for name, value in lowest.items():
        np.testing.assert_allclose(images[name][0, 0, :8], value, atol=1e-5)
    assert not labels[0, :8].any()


def test_all_cases_of_a_batch_have_the_same_modalities():
    cases = phantoms.liver_phases(6, size=16)
    mixed = [Case(case.id, {name: case.images[name] for name in names}, case.label)
             for case, names in zip(cases, [("arterial",), ("venous",), ("arterial", "venous")] * 2, strict=True)]
    seen = set()
    for batch in PatchSampler(prepare_all(mixed, LIVER), (16, 16, 16), 4).batches(0, 30):
        groups = {tuple(case.images) for case in mixed if case.id in batch.cases}
        assert groups == {batch.modalities}
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
    assert [bool(batch.patches[0].labels.any()) for batch in batches[::3]] == [True] * 20
    assert any("liver-0-003" in batch.cases for batch in batches)


def test_cases_without_label_are_refused():
    case = phantoms.liver_phases(1, size=16)[0]
    with pytest.raises(DataError, match=r"no label: liver-0-000"):
        PatchSampler(prepare_all([Case(case.id, case.images)], LIVER), (8, 8, 8), 1)
    with pytest.raises(DataError, match="no training case"):
        PatchSampler([], (8, 8, 8), 1)


@pytest.fixture(scope="module")
def of_one_voxel():
    """A case whose lesion is a single voxel."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[20, 9, 31] = 1
    image = nibabel.Nifti1Image(np.arange(labels.size, dtype=np.float32).reshape(labels.shape), np.eye(4))
    task = Task("one", ("t1",), {"background": 0, "lesion": 1}, intensities="mr", spacing_mm=(1, 1, 1))
    return prepare(Case("a", {"t1": image}, nibabel.Nifti1Image(labels, np.eye(4))), task)


def test_nnunets_last_third_of_a_batch_is_centred_on_a_lesion_voxel(of_one_voxel):
    case = of_one_voxel
    sampler = PatchSampler([case], (8, 8, 8), 2, foreground="centred")
    starts = [[sampler.patch([case], step, index) for index in range(2)] for step in range(20)]
    assert all(pair[1].labels[4, 4, 4] == 1 for pair in starts)
    assert not all(pair[0].labels.any() for pair in starts)
    at_the_edge = PatchSampler([case], (24, 24, 24), 2, foreground="centred").patch([case], 0, 1)
    assert at_the_edge.labels[12, 9, 15] == 1
    for size, forced in ((2, 1), (3, 1), (4, 1), (6, 2), (12, 4)):
        sampler = PatchSampler([case], (8, 8, 8), size, foreground="centred")
        assert sum(sampler.patch([case], 1, index).labels[4, 4, 4] == 1 for index in range(size)) == forced


def test_where_a_step_is_one_patch_every_third_is_centred_on_a_lesion_voxel(of_one_voxel):
    centred = [batch.patches[0].labels[4, 4, 4] == 1
               for batch in PatchSampler([of_one_voxel], (8, 8, 8), 1, foreground="centred").batches(0, 9)]
    assert centred == [True, False, False] * 3
    shares = [PatchSampler([of_one_voxel], (8, 8, 8), 1, share=share, shares=2, foreground="centred").batch(4)
              for share in range(2)]
    whole = PatchSampler([of_one_voxel], (8, 8, 8), 2, foreground="centred").batch(4)
    assert all(torch.equal(one.patches[0].images, of_whole.images)
               for one, of_whole in zip(shares, whole.patches, strict=True))
    assert shares[1].patches[0].labels[4, 4, 4] == whole.patches[1].labels[4, 4, 4] == 1

"""A source file is read once on its way to the arrays: audit, checksum, picture and array come from one reading."""

import sys
from collections import Counter
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest
from cached import is_cached

from maml_toolkit.data import phantoms
from maml_toolkit.data.audit import audit_source
from maml_toolkit.data.cache import Preparation, prepare_all
from maml_toolkit.data.cases import Case, find_cases, write_cases
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Frame
from maml_toolkit.methods import build
from maml_toolkit.system.errors import DataError
from maml_toolkit.training.trainer import Trainer

BRATS = TASKS["brats2021"]
_counting = []


def _hook(event, arguments):
    if event == "open" and _counting and str(arguments[0]).endswith((".nii", ".nii.gz")):
        _counting[-1][str(arguments[0])] += 1


sys.addaudithook(_hook)          # it stays for as long as the process, and counts while it is asked to


@contextmanager
def openings():
    """Counts how often each NIfTI file is opened, for reading or for writing."""
    _counting.append(Counter())
    try:
        yield _counting[-1]
    finally:
        _counting.pop()


@pytest.fixture
def data(tmp_path):
    """Two cases of four scans and a label, with voxels of different sizes: ten files."""
    cases = [phantoms.brains(1, seed=seed, size=16, spacing_mm=(1, 1, mm))[0] for seed, mm in enumerate((1.0, 1.5))]
    cases = [Case(f"case{number}", case.images, case.label) for number, case in enumerate(cases)]
    return write_cases(cases, tmp_path / "data", task=BRATS)


@pytest.mark.parametrize("spacing", [None, (1, 1, 1)])
@pytest.mark.parametrize("cache", [None, "arrays"])
def test_a_training_opens_each_file_of_uncached_cases_once(tmp_path, data, cache, spacing):
    task, cases = BRATS if spacing is None else BRATS.with_spacing(spacing), find_cases(data, BRATS)
    network = build("maml", modalities=BRATS.modalities, classes=BRATS.classes, channels=(4, 6))
    with openings() as opened:
        Trainer(network, tmp_path / "run", task, patch_size=(16, 16, 16), epochs=1, steps_per_epoch=1,
                cache=cache and tmp_path / cache).fit(cases[:1], cases[1:])
    assert len(opened) == 10
    assert set(opened.values()) == {1}


def test_a_prepared_set_with_a_case_more_reads_that_alone_and_shows_all(tmp_path, data):
    cases, arrays = find_cases(data, BRATS), tmp_path / "arrays"
    prepare_all(cases[:1], BRATS.with_spacing((1, 1, 1)), arrays)
    preparation = Preparation(BRATS.with_spacing((1, 1, 1)), arrays)
    with openings() as opened:
        audited = audit_source(data, BRATS, preparation=preparation)
        ready = preparation.all(cases)
    assert set(opened) == {str(file) for file in (*cases[1].images.values(), cases[1].label)}
    assert set(opened.values()) == {1}
    fresh = audit_source(data, BRATS)
    for one, other in zip(audited.cases, fresh.cases, strict=True):
        assert [seen.to_json() for seen in one.seen] == [seen.to_json() for seen in other.seen]
        assert [seen.source for seen in one.seen] == [seen.source for seen in other.seen]
        for seen, again in zip(one.seen, other.seen, strict=True):
            np.testing.assert_array_equal(seen.picture, again.picture)
    for case, array in zip(cases, ready, strict=True):
        np.testing.assert_array_equal(array.labels, prepare(case, preparation.task).labels)


@pytest.mark.parametrize("cache", [None, "arrays"])
def test_arrays_that_wait_for_the_spacing_become_those_that_knew_it(tmp_path, data, cache):
    cases = find_cases(data, BRATS)
    preparation = Preparation(BRATS, cache and tmp_path / cache)
    with openings() as opened:
        assert audit_source(data, BRATS, preparation=preparation).errors == ()
        task = preparation.take_spacing(cases)
        ready = preparation.all(cases)
    assert task.spacing_mm == (1, 1, 1.25)
    assert set(opened.values()) == {1}
    for case, one in zip(cases, ready, strict=True):
        expected = prepare(case, task)
        assert (one.grid, one.outside, [*map(str, one.oddities)]) == (
            expected.grid, expected.outside, [*map(str, expected.oddities)])
        np.testing.assert_array_equal(one.labels, expected.labels)
        np.testing.assert_array_equal(one.foreground, expected.foreground)
        for name, image in expected.images.items():
            np.testing.assert_array_equal(one.images[name], image)
        assert cache is None or is_cached(case, task, tmp_path / cache)


def test_a_file_of_several_modalities_is_decompressed_once(tmp_path):
    random, affine = np.random.default_rng(0), np.diag([1.0, 1, 2, 1])
    nib.save(nib.Nifti1Image(random.normal(100, 9, (12, 12, 12, 2)).astype(np.float32), affine), tmp_path / "a.nii.gz")
    label = np.zeros((12, 12, 12), np.uint8)
    label[4:8, 4:8, 4:8] = 1
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
    task = Task("two", ("t1", "t2"), {"background": 0, "lesion": 1})
    case = Case("a", {name: Frame(tmp_path / "a.nii.gz", index) for index, name in enumerate(task.modalities)},
                tmp_path / "label.nii.gz")
    with openings() as opened:
        (ready,) = prepare_all([case], task, tmp_path / "arrays")
    assert sorted(opened.values()) == [1, 1]
    assert (np.array(ready.images["t1"]) != np.array(ready.images["t2"])).any()
    with openings() as opened:
        assert is_cached(case, task, tmp_path / "arrays")
    assert not opened


def test_the_problems_of_all_cases_are_told_together_and_good_ones_are_kept(tmp_path, data):
    cases, arrays = find_cases(data, BRATS), tmp_path / "arrays"
    path = cases[0].images["t2"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError) as caught:
        audit_source(data, BRATS, preparation=Preparation(BRATS, arrays)).check()
    assert [(error.case, error.modality, error.path) for error in caught.value.errors] == [(cases[0].id, "t2", path)]
    assert [is_cached(case, BRATS, arrays) for case in cases] == [False, True]
    assert [one.name for one in arrays.iterdir()] == [cases[1].id]

"""Prepared cases come back from the cache, until something has changed."""

import json

import nibabel
import numpy as np
import pytest

from maml_toolkit.data import phantoms
from maml_toolkit.data.cache import cached, is_cached, prepare_all
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import TASKS

BRAIN = TASKS["brats2021"]


def test_every_case_that_cannot_be_prepared_is_reported():
    good = phantoms.brains(1)[0]
    broken = nibabel.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4))
    bad = [Case(name, {"t1": broken}) for name in ("one", "two")]
    with pytest.raises(DataError, match=r"(?s)2 problems.*one.*two"):
        prepare_all([good, *bad], BRAIN)


def test_the_cache_returns_the_same_arrays_without_reading_the_files(tmp_path, monkeypatch):
    case = phantoms.brains(1)[0]
    fresh = cached(case, BRAIN, tmp_path)
    assert is_cached(case, BRAIN, tmp_path)
    monkeypatch.setattr("maml_toolkit.data.cache.prepare", lambda *_: pytest.fail("was prepared again"))
    again = cached(case, BRAIN, tmp_path)
    assert again.grid == fresh.grid == prepare(case, BRAIN).grid
    for name, array in fresh.images.items():
        np.testing.assert_array_equal(array, again.images[name])
    assert isinstance(again.images["t1"], np.memmap)


def test_another_file_or_another_task_is_prepared_again(tmp_path):
    case, other = phantoms.brains(2)
    cached(case, BRAIN, tmp_path)
    renamed = Case(case.id, other.images, other.label)
    assert not is_cached(renamed, BRAIN, tmp_path)
    assert not is_cached(case, BRAIN.with_spacing((2, 2, 2)), tmp_path)
    np.testing.assert_array_equal(cached(renamed, BRAIN, tmp_path).labels, prepare(other, BRAIN).labels)


def test_a_broken_cache_is_made_again(tmp_path):
    case = phantoms.brains(1)[0]
    cached(case, BRAIN, tmp_path)
    (tmp_path / case.id / "case.json").write_text(json.dumps({"key": "?"}))
    np.testing.assert_array_equal(cached(case, BRAIN, tmp_path).labels, prepare(case, BRAIN).labels)

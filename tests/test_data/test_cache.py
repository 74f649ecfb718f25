"""Prepared cases come back from the cache, until something has changed."""

import json
import os
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from cached import cached, is_cached
from disks import files_of_at_most

from maml_toolkit.data import phantoms, records
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.system.errors import DataError

BRAIN = TASKS["brats2021"]


def test_every_case_that_cannot_be_prepared_is_reported():
    good = phantoms.brains(1)[0]
    broken = nibabel.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4))
    bad = [Case(name, {"t1": broken}) for name in ("one", "two")]
    with pytest.raises(DataError, match=r"(?s)2 problems.*one.*two"):
        prepare_all([good, *bad], BRAIN)


def test_a_full_disk_says_what_is_needed_and_leaves_nothing_half_written(tmp_path):
    """Of an array that could not be written numpy says "32768 requested and 4968 written"."""
    with files_of_at_most(20_000), pytest.raises(OSError, match=r"MiB are needed.*then run it again") as told:
        prepare_all(phantoms.brains(1), BRAIN, tmp_path / "cache")
    assert str(tmp_path / "cache") in str(told.value)
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_returns_the_same_arrays_without_reading_the_files(tmp_path, monkeypatch):
    case = phantoms.brains(1)[0]
    fresh = cached(case, BRAIN, tmp_path)
    assert is_cached(case, BRAIN, tmp_path)
    monkeypatch.setattr("maml_toolkit.data.cache.read_own", lambda *_: pytest.fail("was prepared again"))
    again = cached(case, BRAIN, tmp_path)
    assert again.grid == fresh.grid == prepare(case, BRAIN).grid
    assert set(fresh.images) == set(again.images) == set(BRAIN.modalities)
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


def test_another_order_of_the_classes_is_prepared_again_since_it_numbers_them(tmp_path):
    case = phantoms.brains(1)[0]
    background, *others = BRAIN.labels.items()
    turned = replace(BRAIN, labels=dict([background, *others[::-1]]))
    assert turned == BRAIN                      # dicts are equal whatever their order
    first = cached(case, BRAIN, tmp_path)
    assert not is_cached(case, turned, tmp_path)
    again = cached(case, turned, tmp_path)
    np.testing.assert_array_equal(turned.decode(again.labels), BRAIN.decode(prepare(case, BRAIN).labels))
    with pytest.raises(DataError):
        np.asarray(first.labels)                # of the task before


@pytest.fixture
def on_disk(tmp_path):
    """A case of uncompressed files, each of the same size whatever its voxels."""
    case, files = phantoms.brains(1, size=16)[0], {}
    for name, image in [*case.images.items(), ("label", case.label)]:
        files[name] = tmp_path / f"{name}.nii"
        nibabel.save(image, files[name])
    return Case(case.id, {name: files[name] for name in case.images}, files["label"])


def changed(path, dtype=None):
    """Other voxels under the same name."""
    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj)[::-1].copy()
    nibabel.save(nibabel.Nifti1Image(values.astype(dtype or values.dtype), image.affine), path)


@pytest.mark.parametrize("name", ["t1", "label"])
def test_a_file_of_the_same_size_and_another_time_is_prepared_again(tmp_path, on_disk, name):
    path = on_disk.label if name == "label" else on_disk.images[name]
    first, before = cached(on_disk, BRAIN, tmp_path / "cache"), path.stat()
    kept = np.array(first.labels if name == "label" else first.images["t1"])
    assert is_cached(on_disk, BRAIN, tmp_path / "cache")
    changed(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    assert not is_cached(on_disk, BRAIN, tmp_path / "cache")
    again = cached(on_disk, BRAIN, tmp_path / "cache")
    assert (kept != (again.labels if name == "label" else again.images["t1"])).any()
    with pytest.raises(DataError, match="anew"):        # never other arrays than those that it was made with
        first.labels if name == "label" else first.images["t1"]


@pytest.mark.parametrize("name", ["t1", "label"])
def test_a_file_of_another_size_and_the_same_time_is_prepared_again(tmp_path, on_disk, name):
    path = on_disk.label if name == "label" else on_disk.images[name]
    cached(on_disk, BRAIN, tmp_path / "cache")
    before = path.stat()
    changed(path, np.float64)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_size != before.st_size
    assert not is_cached(on_disk, BRAIN, tmp_path / "cache")


@pytest.mark.parametrize("name", ["t1", "label"])
def test_another_file_of_the_same_size_and_date_is_prepared_again(tmp_path, on_disk, name):
    """As one of two archives in which all files have one date."""
    path = on_disk.label if name == "label" else on_disk.images[name]
    cached(on_disk, BRAIN, tmp_path / "cache")
    before = path.stat()
    changed(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not is_cached(on_disk, BRAIN, tmp_path / "cache")


def test_arrays_of_another_version_are_made_again(tmp_path, monkeypatch):
    case = phantoms.brains(1)[0]
    cached(case, BRAIN, tmp_path)
    record = json.loads((tmp_path / case.id / "case.json").read_text())
    del record["recipe"]["version"]                 # nobody wrote down the first
    (tmp_path / case.id / "case.json").write_text(json.dumps(record))
    assert is_cached(case, BRAIN, tmp_path)
    monkeypatch.setattr(records, "VERSION", 2)
    assert not is_cached(case, BRAIN, tmp_path)


def test_a_broken_cache_is_made_again(tmp_path):
    case = phantoms.brains(1)[0]
    cached(case, BRAIN, tmp_path)
    (tmp_path / case.id / "case.json").write_text(json.dumps({"key": "?"}))
    np.testing.assert_array_equal(cached(case, BRAIN, tmp_path).labels, prepare(case, BRAIN).labels)


def test_a_cache_that_is_a_file_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(DataError, match=r"\bfile\b.*\bfolder\b") as caught:
        prepare_all([Case("unread", {"venous": tmp_path / "no.nii.gz"})], TASKS["liver_phases"], tmp_path / "cache")
    assert caught.value.path == tmp_path / "cache"
    assert (tmp_path / "cache").read_text() == "mine"

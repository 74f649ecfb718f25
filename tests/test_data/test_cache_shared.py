"""The cache is used by several at once, is killed, is moved, and meets files that move and vanish."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cached import cached, contents, is_cached

from maml_toolkit.data import cache, phantoms
from maml_toolkit.data.cache import prepare_all, prepared_cases
from maml_toolkit.data.cases import Case, find_cases, write_cases, write_table
from maml_toolkit.data.preprocessing import prepare, preprocessed
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.system.errors import DataError, DataWarning

LIVER = TASKS["liver_phases"].with_spacing((1, 1, 1))


@pytest.fixture
def data(tmp_path):
    """A folder of three small cases."""
    return write_cases(phantoms.liver_phases(3, size=16), tmp_path / "data", task=LIVER)


@pytest.fixture
def never_prepared(monkeypatch):
    """From when it is called on, nothing is prepared."""
    return lambda: monkeypatch.setattr(cache, "read_own", lambda case, _: pytest.fail(f"{case.id} was prepared again"))


def hidden(arrays):
    return [one.name for one in arrays.iterdir() if one.name.startswith(".")]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files by /proc")
def test_no_file_stays_open_however_many_cases_are_held(data, tmp_path):
    cases = find_cases(data, LIVER)
    prepare_all(cases, LIVER, tmp_path / "arrays")
    before = len(os.listdir("/proc/self/fd"))
    held = [prepare_all(cases, LIVER, tmp_path / "arrays") for _ in range(10)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(isinstance(case.labels, np.memmap) for case in held[0])
    assert sum(case.images["venous"].size for case in held[0]) > 0


def test_an_array_that_cannot_be_opened_just_now_is_no_reason_to_prepare_again(data, tmp_path, monkeypatch,
                                                                              never_prepared):
    cases = find_cases(data, LIVER)
    prepare_all(cases, LIVER, tmp_path / "arrays")
    never_prepared()

    def full(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(np, "load", full)
    with pytest.raises(OSError, match="Too many open files"):
        prepare_all(cases, LIVER, tmp_path / "arrays")


def test_the_case_of_some_modalities_keeps_its_paths_and_its_oddities(data, tmp_path):
    ready = cached(find_cases(data, LIVER)[0], LIVER, tmp_path / "arrays")
    own = ready.of(["venous", "pet"])
    assert list(own.images) == ["venous"]
    np.testing.assert_array_equal(own.images["venous"], ready.images["venous"])
    assert (own.id, own.grid, own.oddities) == (ready.id, ready.grid, ready.oddities)


def test_threads_that_prepare_one_case_at_once_all_get_it(data, tmp_path, monkeypatch):
    case, ended = find_cases(data, LIVER)[0], threading.Barrier(4)

    def together(*of):
        ready = preprocessed(*of)
        ended.wait(60)
        return ready
    monkeypatch.setattr(cache, "preprocessed", together)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: prepare_all([case], LIVER, tmp_path / "arrays")[0], range(4)))
    expected = prepare(case, LIVER)
    for one in found:
        assert isinstance(one.images["venous"], np.memmap)
        np.testing.assert_array_equal(one.images["venous"], expected.images["venous"])
        np.testing.assert_array_equal(one.labels, expected.labels)
    assert hidden(tmp_path / "arrays") == []


def test_arrays_that_were_written_again_from_the_same_files_are_the_same(data, tmp_path):
    case = find_cases(data, LIVER)[0]
    first = cached(case, LIVER, tmp_path / "arrays")
    before = np.array(first.labels)
    shutil.rmtree(tmp_path / "arrays" / case.id)
    cached(case, LIVER, tmp_path / "arrays")
    np.testing.assert_array_equal(first.labels, before)
    cached(case, LIVER.with_spacing((2, 2, 2)), tmp_path / "arrays")
    with pytest.raises(DataError, match="anew"):
        np.array(first.labels)


def test_processes_that_prepare_one_cache_at_once_all_end_well(data, tmp_path):
    code = ("import sys; from maml_toolkit import TASKS, find_cases; from maml_toolkit.data.cache import prepare_all\n"
            "task = TASKS['liver_phases'].with_spacing((1, 1, 1)); cases = find_cases(sys.argv[1], task)\n"
            "print('ready', flush=True); sys.stdin.readline()\n"
            "print(sum(case.images['venous'].size for case in prepare_all(cases, task, sys.argv[2])))")
    ones = [subprocess.Popen([sys.executable, "-c", code, str(data), str(tmp_path / "arrays")], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for one in ones:
        one.stdout.readline()
    for one in ones:
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=120) for one in ones]
    assert [one.returncode for one in ones] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    assert hidden(tmp_path / "arrays") == []


def test_what_a_killed_preparation_left_is_swept_and_a_living_one_is_left_alone(data, tmp_path):
    arrays, cases = tmp_path / "arrays", find_cases(data, LIVER)
    code = ("import os, sys, time; from pathlib import Path; \n"
            "from maml_toolkit.system.files import unfinished_folder\n"
            "with unfinished_folder(Path(sys.argv[1])) as place: print(place, flush=True); time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", code, str(arrays)], text=True, stdout=subprocess.PIPE)
    place = Path(process.stdout.readline().strip())
    (place / "half.npy").write_bytes(b"half")
    prepare_all(cases, LIVER, arrays)
    assert (place / "half.npy").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (arrays / f".replaced-{'0' * 32}-case").mkdir()
    prepare_all(cases, LIVER, arrays)
    assert hidden(arrays) == []
    assert all(is_cached(case, LIVER, arrays) for case in cases)


def test_files_that_moved_or_were_copied_are_known_by_their_contents(data, tmp_path, never_prepared):
    arrays = tmp_path / "arrays"
    before = contents(find_cases(data, LIVER), LIVER)
    prepare_all(find_cases(data, LIVER), LIVER, arrays)
    data.rename(tmp_path / "elsewhere")
    never_prepared()
    cases = find_cases(tmp_path / "elsewhere", LIVER)
    for file in (tmp_path / "elsewhere").rglob("*.nii.gz"):
        os.utime(file, ns=(1, 1))
    assert len(prepare_all(cases, LIVER, arrays)) == 3
    assert contents(cases, LIVER, arrays) == before
    record = json.loads((arrays / cases[0].id / "case.json").read_text())
    assert {Path(one["path"]).is_relative_to(tmp_path / "elsewhere") for one in record["sources"].values()} == {True}


def test_other_contents_of_the_same_size_are_noticed(tmp_path):
    def save(value, time):
        array = np.random.default_rng(0).integers(-900, 900, (12, 12, 12)).astype(np.int16)
        array[6, 6, 6] = value
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
        os.utime(tmp_path / "a.nii", ns=(time, time))
    save(1000, 10**18)
    case = Case("a", {"venous": tmp_path / "a.nii"})
    first = cached(case, LIVER, tmp_path / "arrays").images["venous"][6, 6, 6]
    save(-1000, 2 * 10**18)
    assert not is_cached(case, LIVER, tmp_path / "arrays")
    assert cached(case, LIVER, tmp_path / "arrays").images["venous"][6, 6, 6] < 0 < first


def test_arrays_stay_good_where_the_files_are_gone_and_the_table_is_named(data, tmp_path, never_prepared):
    folder, cases = tmp_path / "prepared", find_cases(data, LIVER)
    prepare_all(cases, LIVER, folder / "arrays")
    write_table(cases, folder / "cases.csv", LIVER)
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError) as caught:
        find_cases(folder / "cases.csv", LIVER)
    assert {str(folder / "cases.csv") in error.remedy for error in caught.value.errors} == {True}
    with pytest.warns(DataWarning, match="cases.csv"):
        left = prepared_cases(folder, LIVER)
    assert [(case.id, set(case.images), case.label) for case in left] == [
        (case.id, set(case.images), case.label) for case in cases]
    never_prepared()
    assert [case.id for case in prepare_all(left, LIVER, folder / "arrays")] == [case.id for case in cases]
    write_table([replace(case, patient="one") for case in cases], folder / "cases.csv", LIVER)     # corrected since
    with pytest.warns(DataWarning, match="cases.csv"):
        assert {case.patient for case in prepared_cases(folder, LIVER)} == {"one"}
    (folder / "arrays" / cases[1].id / "case.json").unlink()
    with pytest.raises(DataError) as caught:
        prepared_cases(folder, LIVER)
    assert {error.case for error in caught.value.errors} == {cases[1].id}


def test_oddities_come_back_from_the_cache(tmp_path):
    scan = np.random.default_rng(0).integers(0, 200, (12, 12, 12)).astype(np.int16)       # no Hounsfield units
    case = Case("odd", {"venous": nib.Nifti1Image(scan, np.eye(4))})
    first = cached(case, LIVER, tmp_path)
    again = cached(case, LIVER, tmp_path)
    assert [(one.case, one.modality, str(one)) for one in again.oddities] == [
        (one.case, one.modality, str(one)) for one in first.oddities]
    assert [(one.case, one.modality) for one in again.oddities] == [("odd", "venous")]


@pytest.mark.parametrize("with_cache", [True, False])
def test_files_that_are_missing_are_told_together(data, tmp_path, with_cache):
    cases = find_cases(data, LIVER)
    gone = [cases[0].images["venous"], cases[0].label, cases[2].images["arterial"]]
    for file in gone:
        file.unlink()
    with pytest.raises(DataError) as caught:
        prepare_all(cases, LIVER, tmp_path / "arrays" if with_cache else None)
    assert {Path(error.path) for error in caught.value.errors} == set(gone)
    assert {error.case for error in caught.value.errors} == {cases[0].id, cases[2].id}
    assert all(error.remedy for error in caught.value.errors)
    if with_cache:
        assert is_cached(cases[1], LIVER, tmp_path / "arrays")

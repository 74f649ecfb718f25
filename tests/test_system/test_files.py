"""Files and folders are whole whoever writes at the same moment, and nothing is left beside them."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from maml_toolkit import MAML
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.registration import Transform
from maml_toolkit.system import files
from maml_toolkit.system.errors import DataError

WRITERS, TIMES = 4, 25


def write_folder(path, number):
    with files.whole_folder(path) as writing:
        for name in ("one", "two"):
            (writing / name).write_text(str(number))


def write_file(path, number):
    files.write_whole(path, str(number) * 1000)


def write_transform(path, _):
    Transform.identity().save(path)


def written_often(write, path, number):
    for _ in range(TIMES):
        write(path, number)


@pytest.mark.parametrize(("write", "name"), [(write_folder, "case"), (write_file, "task.json"),
                                             (write_transform, "flair.tfm")])
def test_threads_that_write_one_name_at_one_moment_all_survive_and_leave_one(tmp_path, write, name):
    with ThreadPoolExecutor(WRITERS) as pool:
        for writer in [pool.submit(written_often, write, tmp_path / name, number) for number in range(WRITERS)]:
            writer.result()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt", reason="Windows forks no processes")
def test_processes_that_write_one_folder_at_one_moment_leave_one_that_is_whole(tmp_path):
    fork, case = multiprocessing.get_context("fork"), tmp_path / "case"
    writers = [fork.Process(target=written_often, args=(write_folder, case, n))
               for n in range(WRITERS)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0] * WRITERS
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
    one, two = ((tmp_path / "case" / name).read_text() for name in ("one", "two"))
    assert one == two in map(str, range(WRITERS))


def test_who_ends_last_wins(tmp_path):
    with files.whole_folder(tmp_path / "case") as first:
        (first / "by").write_text("first")
        with files.whole_folder(tmp_path / "case") as second:
            (second / "by").write_text("second")
        assert (tmp_path / "case" / "by").read_text() == "second"
    assert (tmp_path / "case" / "by").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_what_is_being_written_is_swept_by_nobody_and_what_was_left_is(tmp_path):
    for left in (f"{files.UNFINISHED}x", f"{files.REPLACED}{'0' * 32}-case"):
        (tmp_path / left).mkdir()
    (tmp_path / f".{'0' * 32}.part").touch()
    (tmp_path / f".{'0' * 32}.part.tfm").touch()
    (tmp_path / ".notes.part").touch()
    with files.whole_folder(tmp_path / "new") as writing, files.whole_file(tmp_path / "one.txt") as file:
        file.write_text("1")
        files.sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"case", ".notes.part", writing.name, file.name}
    assert {path.name for path in tmp_path.iterdir()} == {"case", ".notes.part", "new", "one.txt"}


def test_without_locks_on_the_disk_only_who_is_alone_sweeps(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    (tmp_path / f"{files.UNFINISHED}x").mkdir()
    files.sweep(tmp_path, alone=False)
    assert len(list(tmp_path.iterdir())) == 1
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_half_written_by_a_process_that_was_killed_is_in_nobodys_way(tmp_path):
    cases, task = phantoms.liver_phases(1, size=12), TASKS["liver_phases"]
    (tmp_path / "out" / f"{files.UNFINISHED}x" / "images").mkdir(parents=True)
    assert write_cases(cases, tmp_path / "out", "table", task).is_file()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cases.csv", "images"}


def test_of_two_who_write_a_data_set_into_one_folder_the_second_is_refused(tmp_path, monkeypatch):
    from maml_toolkit.data.layouts import table

    cases, task, write = phantoms.liver_phases(1, size=12), TASKS["liver_phases"], table.describe

    def slow(*arguments):
        (tmp_path / "out" / "cases.csv").write_text("case\n")        # another one is done before
        write(*arguments)

    monkeypatch.setattr(table, "describe", slow)
    with pytest.raises(DataError) as refused:
        write_cases(cases, tmp_path / "out", "table", task)
    assert refused.value.path == tmp_path / "out"
    assert refused.value.remedy
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cases.csv"]
    assert (tmp_path / "out" / "cases.csv").read_text() == "case\n"


def test_a_prediction_saved_twice_at_one_moment_is_there(tmp_path):
    from maml_toolkit import Predictor

    (case,) = phantoms.liver_phases(1, size=16)
    task = TASKS["liver_phases"].with_spacing((1, 1, 1))
    method = MAML(modalities=task.modalities, classes=task.classes, channels=(4, 8))
    prediction = Predictor(method.eval(), task, (16, 16, 16))(case)
    with ThreadPoolExecutor(2) as pool:
        for saved in [pool.submit(prediction.save, tmp_path / "one") for _ in range(6)]:
            saved.result()
    assert {f"{case.id}_seg.nii.gz", "prediction.json"} <= {path.name for path in (tmp_path / "one").iterdir()}
    assert not list((tmp_path / "one").glob(".*"))

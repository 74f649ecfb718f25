"""What a newcomer gets wrong in the first hour: each error says what was found and what to do about it."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from maml_toolkit import (
    MAML,
    TASKS,
    Case,
    DataError,
    MissingModalityError,
    Predictor,
    Task,
    Trainer,
    dicom,
    find_cases,
    registration,
)
from maml_toolkit.__main__ import app
from maml_toolkit.commands import jobs
from maml_toolkit.commands.launching import serve
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.methods import build
from maml_toolkit.system.machine import choose_device

TASK = TASKS["liver_phases"]
SMALL = {"task": TASK, "patch_size": (8, 8, 8), "epochs": 1, "steps_per_epoch": 1, "augmentation": None}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return phantoms.liver_phases(2, seed=0, size=16)


def small(method="maml", **settings):
    return build(method, **{"modalities": TASK.modalities, "classes": 2, "channels": (4, 6), **settings})


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "first"
    Trainer(small(), run=run, **SMALL).fit(cases)
    return run


def test_a_modality_that_the_task_does_not_have(tmp_path):
    with pytest.raises(ValueError, match=r"\bvenus\b.*'venous'"):
        Trainer(small(modalities=("arterial", "venus")), run=tmp_path, **SMALL)


def test_a_modality_with_a_typing_error(trained, cases):
    with pytest.raises(MissingModalityError, match=r"venos(.|\n)*'venous'"):
        Predictor.load(trained)(cases[0], present={"venos"})


def test_a_file_with_another_name_for_its_modality(cases, tmp_path):
    folder = write_cases(cases, tmp_path / "data", "folders", TASK)
    file = next(folder.rglob("*_venous.nii.gz"))
    file.rename(file.with_name(file.name.replace("venous", "venuos")))
    with pytest.raises(DataError, match=r"'venuos'(.|\n)*'venous'"):
        find_cases(folder, TASK)


def test_labels_of_another_scheme(tmp_path):
    brains = phantoms.brains(1, size=16)
    task = TASKS["brats2021"]
    folder = write_cases(brains, tmp_path / "data", "folders", task)
    another = TASKS["brats2023"]
    method = MAML(another.modalities, another.classes, channels=(4, 6))
    with pytest.raises(DataError, match=r"\[4\](.|\n)*\bbrats2021\b"):
        Trainer(method, run=tmp_path / "run", **SMALL | {"task": another}).fit(find_cases(folder, another))
    assert list((tmp_path / "run" / "checkpoints").glob("*")) == []


def test_a_task_that_there_is_not():
    with pytest.raises(ValueError, match=r"'brats21'.*'brats2021'.*\bJSON\b"):
        Task.named("brats21")


def test_cases_without_a_label(cases, tmp_path):
    with pytest.raises(DataError, match=r"\bliver-0-000, .*\blabel\b(.|\n)*Remedy: "):
        Trainer(small(), run=tmp_path, **SMALL).fit([replace(case, label=None) for case in cases])


def test_a_patch_larger_than_the_case_is_no_error(cases, tmp_path):
    Trainer(small(), run=tmp_path, **SMALL | {"patch_size": (24, 16, 16)}).fit(cases)
    answer = Predictor.load(tmp_path)(cases[0])
    assert answer.labels.shape == (16, 16, 16)


def test_a_patch_of_one_number_in_a_list(tmp_path):
    with pytest.raises(ValueError, match=r"\b48\b.*\(64, 64, 64\)"):
        Trainer(small(), run=tmp_path, **SMALL | {"patch_size": [48]})


@pytest.mark.parametrize("patch", [(15, 16, 16), (16, 16)])
def test_a_patch_that_the_channels_do_not_divide(patch, tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\bchannels"):
        Trainer(small(), run=tmp_path, **SMALL | {"patch_size": patch})


def test_channels_of_a_single_stage():
    with pytest.raises(ValueError, match="at least two stages"):
        small(channels=(4,))


def test_the_run_folder_of_another_method(trained, cases):
    with pytest.raises(ValueError, match=r"method: .*'maml'.*'early_fusion'"):
        Trainer(small("early_fusion"), run=trained, **SMALL).fit(cases)


def test_a_run_folder_that_is_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(tmp_path))}/runs/first"):
        Predictor.load("runs/first")


def test_data_that_are_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"Remedy: .*{re.escape(str(tmp_path))}"):
        find_cases("data", TASK)


@pytest.mark.parametrize(("name", "said"), [
    ("cuda", "CUDA.*'cpu' or 'auto'"), ("gpu", "'gpu'.*'auto', 'cpu', 'cuda'")])
def test_a_gpu_that_is_not_there(name, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said):
        choose_device(name)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), MemoryError("")])
def test_a_case_that_does_not_fit_into_memory(error, trained, cases, monkeypatch):
    def refuse(*given):
        raise error

    predictor = Predictor.load(trained)
    monkeypatch.setattr(torch.nn.Conv3d, "forward", refuse)
    with pytest.raises(MemoryError, match=r"\bcpu\b.*\bwindow=.*\bbatch_size\b"):
        predictor(cases[0])


def test_another_error_of_a_network_stays_as_it_is(trained, cases, monkeypatch):
    def refuse(*given):
        raise RuntimeError("something else")

    predictor = Predictor.load(trained)
    monkeypatch.setattr(torch.nn.Conv3d, "forward", refuse)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        predictor(cases[0])


def test_an_extra_that_is_not_installed(cases, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "scan.dcm").write_bytes(b"DICM")
    with pytest.raises(ImportError, match=r'pip install -e "\.\[dicom\]"'):
        dicom.find_series(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[app\]"'):
        serve("explorer", {})
    ended = subprocess.CompletedProcess([], registration.worker.NOT_INSTALLED, b"", b"")
    monkeypatch.setattr("subprocess.run", lambda *given, **settings: ended)
    with pytest.raises(DataError, match=r'pip install -e "\.\[registration\]"'):
        registration.register_case(cases[0], TASK, tmp_path / "out")


def test_a_method_and_an_argument_that_there_are_not():
    with pytest.raises(ValueError, match=r"'mmal'.*'maml'.*\bmaml, early_fusion"):
        build("mmal", modalities=("t1", "t2"), classes=2)
    with pytest.raises(ValueError, match=r"\bmaml\b.*'chanels'.*'channels'"):
        small(chanels=(4, 6))


def test_a_notebook_is_found_from_another_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert jobs.find("first-segmentation").is_file()
    with pytest.raises(ValueError, match=r"'1-first-segmentaton'.*'1-first-segmentation'"):
        jobs.find("1-first-segmentaton")
    with pytest.raises(ValueError, match=r"'tutorials/1-first-segmentation\.ipynb'"):
        jobs.find("tutorials/1-first-segmentation.ipynb")


WRONG_KINDS = """
import json, sys, torch
from maml_toolkit import TASKS, Case, Predictor, Trainer, evaluate
from maml_toolkit.methods import build

task = TASKS["liver_phases"]
def made(**settings):
    return build("maml", modalities=task.modalities, classes=2, **{"channels": (4, 6), **settings})
def patch(size):
    return Trainer(made(), run="unused", task=task, patch_size=size)
predictor = Predictor(made(), task, (8, 8, 8))
said = []
for wrong in (lambda: patch(16), lambda: Predictor(made(), task, 16), lambda: made(channels=32),
              lambda: patch((8, 8, 8)).fit("data"), lambda: predictor("data/case"),
              lambda: evaluate(predictor, "data"), lambda: evaluate(predictor, Case("case")),
              lambda: patch((8, 8, 8)).fit([], (one for one in [])),
              lambda: predictor({"venous": torch.zeros(1, 1, 64, 64, 64)}),
              lambda: made()(torch.zeros(1, 1, 64, 64, 64))):
    try:
        wrong()
    except (TypeError, ValueError) as error:
        said.append(str(error))
json.dump(said, sys.stdout)
"""


def test_a_number_for_a_size_and_a_path_for_cases(tmp_path):
    """Without the checker of types that the tests have, which would find these first."""
    done = subprocess.run([sys.executable, "-c", WRONG_KINDS], cwd=tmp_path, capture_output=True, text=True, check=True)
    patch, window, channels, *paths, one_case, once, images, tensor = json.loads(done.stdout)
    assert "expected the voxels on each axis, such as (64, 64, 64)" in patch
    assert patch == window
    assert "expected the width of every stage, such as (8, 16, 32)" in channels
    assert images.startswith("found a dict, expected a Case")
    assert one_case.startswith("found a Case, expected a list of cases")
    assert once.startswith("found a generator, expected a list of cases")       # and trained without validation
    assert tensor == "found a Tensor, expected a dictionary of images by modality, such as {'arterial': tensor}"
    assert len(paths) == 3
    assert all("find_cases(folder, task)" in path for path in paths)
    assert list(tmp_path.iterdir()) == []


NUMBERS_OF_NUMPY = """
import json, sys
import numpy as np
from maml_toolkit import Case, DataError, Predictor, Trainer, find_cases
from maml_toolkit.methods import build

cases = find_cases("data", "liver_phases")
method = build("maml", modalities=("arterial", "venous"), classes=2, channels=np.array([4, 6]))
for _ in range(2):
    Trainer(method, "run", "liver_phases", patch_size=np.full(3, 16), batch_size=np.int8(1), epochs=np.int64(1),
            steps_per_epoch=np.int64(2), learning_rate=np.float32(0.5), schedule="one-cycle", seed=np.int64(0),
            device="cpu", callbacks=[]).fit(cases)
predictor = Predictor.load("run", window=np.full(3, 16), overlap=np.float32(0.5), mirror=np.array([0, 1]), device="cpu")
said = []
for volumes in (50, {"tumour": "50"}):
    try:
        Predictor.load("run", drop_small=volumes)
    except ValueError as error:
        said.append(str(error))
for given in ({"id": 7}, {"id": "a", "images": {"venous": np.zeros((4, 4, 4))}}, {"id": "a", "label": np.ones(8)}):
    try:
        Case(**given)
    except DataError as error:
        said.append(str(error))
for wrong in ({"epochs": 2.5}, {"seed": "0"}, {"validate_every": None}, {"patch_size": (16, 16, 16.5)}):
    try:
        Trainer(method, "run", "liver_phases", **{"patch_size": (16, 16, 16), **wrong})
    except ValueError as error:
        said.append(str(error))
json.dump([said, method.settings["channels"], predictor.settings()], sys.stdout)
"""


def test_numbers_of_numpy_are_taken_as_plain_ones(tmp_path):
    """Without the checker of types, as people give them: where they are whole numbers, whole they must be."""
    write_cases(phantoms.liver_phases(1, size=16), tmp_path / "data")
    done = subprocess.run([sys.executable, "-c", NUMBERS_OF_NUMPY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, channels, settings = json.loads(done.stdout.splitlines()[-1])
    assert channels == [4, 6]
    assert (settings["window"], settings["overlap"], settings["mirror"]) == ([16] * 3, 0.5, [0, 1])
    plain, texts, number, *arrays, epochs, seed, every, patch = said
    assert plain == "found 50 as smallest volumes, expected mm³ by region, such as {'tumour': 50}"
    assert "expected mm³ by region" in texts
    assert "found the case id 7, expected text" in number
    assert len(arrays) == 2
    assert all("found a ndarray, expected a file or an image of nibabel" in one for one in arrays)
    assert "found {'epochs': 2.5}, expected whole numbers above 0" in epochs
    assert "found seed='0', expected a whole number" in seed
    assert "found {'validate_every': None}" in every
    assert "expected the voxels on each axis" in patch


def test_the_audit_and_the_training_say_that_sides_are_not_mirrored(tmp_path):
    task = Task("sides", ("arterial", "venous"), {"background": 0, "left lesion": 1}, intensities="ct")
    task.save(tmp_path / "task.json")
    write_cases(phantoms.liver_phases(2, size=16), tmp_path / "data")
    said = CliRunner().invoke(app, ["audit", str(tmp_path / "data"), "--task", str(tmp_path / "task.json"),
                                    "--page", str(tmp_path / "audit.html")])
    assert said.exit_code == 0
    assert task.about_sides
    assert task.about_sides in said.stdout
    assert task.about_sides in (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert TASKS["liver_phases"].about_sides == ""

"""Every notebook runs, with papermill, on phantoms; none is skipped, none has a stale or a missing picture."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from maml_toolkit import jobs
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.tasks import TASKS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))

SMALL = {"1-first-segmentation": {"cases": 4, "epochs": 2, "steps_per_epoch": 3}}
"""Parameters with which a tutorial takes seconds; a tutorial without any fails the tests."""


def outputs(path: Path) -> list:
    return [output for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for output in cell.outputs]


def text(path: Path) -> str:
    return "".join(output.get("text", "") for output in outputs(path))


def run(notebook: Path | str, folder: Path, parameters: dict) -> Path:
    """The executed notebook, after a look for warnings and for pictures that are not there."""
    executed = jobs.run(notebook, folder / f"{jobs.find(notebook).stem}.ipynb", parameters, cwd=folder, progress=False)
    said = [output["text"] for output in outputs(executed) if output.get("name") == "stderr"]
    assert [one for one in said if "Warning" in one] == []
    for cell in nbformat.read(executed, 4).cells:
        if cell.cell_type == "code" and "plots." in cell.source.splitlines()[-1]:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
    return executed


def test_the_four_jobs_run_from_files_to_a_table(tmp_path):
    brains = phantoms.brains(4, size=24)
    task = TASKS["brats2021"]
    write_cases(brains, tmp_path / "data", "brats2021", task)
    ids = [case.id for case in brains]
    run("1-prepare", tmp_path, {"data": "data", "task": "brats2021", "out": "prepared"})
    run("2-train", tmp_path, {
        "prepared": "prepared", "run": "runs/small", "validation": ids[2:3], "training": ids[:2], "channels": [4, 6, 8],
        "patch_size": [16, 16, 16], "epochs": 2, "steps_per_epoch": 2, "validate_every": 1})
    shown = run("3-predict", tmp_path, {"run": "runs/small", "data": "data", "cases": ids[3:]})
    assert "1 of 1 cases" in text(shown)
    assert (tmp_path / "runs" / "small" / "predictions" / ids[3] / "labels.nii.gz").exists()
    run("4-evaluate", tmp_path, {"run": "runs/small", "data": "data", "cases": ids[3:]})
    table = pd.read_csv(tmp_path / "runs" / "small" / "metrics.csv")
    assert set(table["present"]) == {"t1+t1ce+t2+flair", *task.modalities}
    assert set(table["region"]) == {"WT", "TC", "ET"}


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_every_tutorial_runs(tutorial, tmp_path):
    executed = run(tutorial, tmp_path, SMALL[tutorial.stem])
    assert any("image/png" in output.get("data", {}) for output in outputs(executed))


def test_the_first_tutorial_leaves_a_picture_and_a_table_for_make_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")    # as in the shells of clusters; the notebook has pictures all the same
    run("1-first-segmentation", tmp_path, SMALL["1-first-segmentation"])
    table = pd.read_csv(tmp_path / "runs" / "first-segmentation" / "summary.csv")
    assert list(table["scans used"]) == ["arterial+venous", "arterial", "venous"]
    assert (tmp_path / "runs" / "first-segmentation" / "segmentation.png").stat().st_size > 10_000


def test_a_parameter_that_a_job_does_not_know_is_an_error():
    for notebook in (*JOBS, *TUTORIALS):
        with pytest.raises(ValueError, match="epoch_s"):
            jobs.check(notebook, {"epoch_s": 3})


@pytest.mark.parametrize("notebook", [*JOBS, *TUTORIALS], ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_has_one_cell_of_parameters(notebook):
    written = nbformat.read(notebook, 4)
    nbformat.validate(written)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in written.cells) == 1
    assert notebook.stat().st_size <= 400_000


def test_jobs_are_committed_without_outputs_and_define_nothing():
    assert len(JOBS) >= 4
    for notebook in JOBS:
        assert outputs(notebook) == []
        assert not any(line.startswith(("def ", "class ")) for cell in nbformat.read(notebook, 4).cells
                       for line in cell.source.splitlines())


def test_tutorials_are_committed_with_their_pictures():
    for notebook in TUTORIALS:
        assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) >= 2
        assert "widgets" not in nbformat.read(notebook, 4).metadata

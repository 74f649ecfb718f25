"""Every notebook runs, with papermill, on phantoms; none is skipped, none has a stale or a missing picture."""

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import benchmarks
from maml_toolkit.commands import jobs
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.tasks import TASKS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]

ROOT = Path(__file__).parents[1]
JOBS = [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "benchmarks" / "benchmark.ipynb"]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))

SMALL = {
    "1-first-segmentation": {"cases": 4, "size": 24, "patch": 24, "epochs": 2, "steps_per_epoch": 3},
    "2-your-own-data": {"size": 24},
    "3-registration": {"size": 32, "iterations": 15},
    "4-training": {"cases": 4, "epochs": 3, "steps_per_epoch": 3},
    "5-missing-modalities": {"cases": 4, "epochs": 1, "steps_per_epoch": 3},
    "6-attention-in-3d": {"cases": 8, "size": 32, "patch": 32, "epochs": 1, "steps_per_epoch": 3},
    "7-compare-methods": {"cases": 6, "epochs": 1, "steps_per_epoch": 3},
    "8-a-new-fusion-method": {"cases": 3, "size": 32, "patch": 32, "epochs": 1, "steps_per_epoch": 2},
    "9-on-patients": {"phantom_cases": 3, "phantom_size": 24, "test": 1, "patch": 16, "channels": [4, 6], "epochs": 1,
                      "steps_per_epoch": 2},
}
"""Parameters with which a tutorial takes seconds; a tutorial without any fails the tests."""


def outputs(path: Path) -> list:
    return [output for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for output in cell.outputs]


def text(path: Path) -> str:
    return "".join(output.get("text", "") for output in outputs(path))


def run(notebook: Path | str, folder: Path, parameters: dict, warned: str = "") -> Path:
    """The executed notebook, after a look for warnings (but those that are expected) and for missing pictures."""
    executed = jobs.run(notebook, folder / f"{jobs.find(notebook).stem}.ipynb", parameters, cwd=folder, progress=False)
    said = [output["text"] for output in outputs(executed) if output.get("name") == "stderr"]
    assert [one for one in said if "Warning" in one and not (warned and warned in one)] == []
    assert warned in "".join(said)
    for cell in nbformat.read(executed, 4).cells:
        skipped = cell.source.startswith("if ") and not cell.get("outputs")
        if cell.cell_type == "code" and "plots." in cell.source.splitlines()[-1] and not skipped:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
    return executed


def test_the_four_jobs_run_from_files_to_a_table(tmp_path):
    brains = phantoms.brains(4, size=24)
    task = TASKS["brats2021"]
    write_cases(brains, tmp_path / "data", "folders", task)
    ids = [case.id for case in brains]
    run("1-prepare", tmp_path, {"data": "data", "task": "brats2021", "out": "prepared"})
    run("2-train", tmp_path, {
        "prepared": "prepared", "run": "runs/small", "validation": ids[2:3], "training": ids[:2], "channels": [4, 6, 8],
        "patch_size": [16, 16, 16], "epochs": 2, "steps_per_epoch": 2, "validate_every": 1})
    asked = {"run": "runs/small", "data": "data", "cases": ids[3:], "bids": "bids"}
    shown = run("3-predict", tmp_path, asked)
    assert "1 of 1 cases" in text(shown)
    assert (tmp_path / "runs" / "small" / "predictions" / ids[3] / f"{ids[3]}_seg.nii.gz").read_bytes() == (
        tmp_path / "bids/derivatives/maml_toolkit/sub-brain0003/anat/sub-brain0003_dseg.nii.gz").read_bytes()
    pictures = [one["data"]["image/png"] for one in outputs(shown) if "image/png" in one.get("data", {})]
    again = run("3-predict", tmp_path, asked)
    assert pictures == [one["data"]["image/png"] for one in outputs(again) if "image/png" in one.get("data", {})] != []
    run("4-evaluate", tmp_path, {"predictions": "runs/small/predictions", "data": "data", "cases": ids[3:]})
    measured = pd.read_csv(tmp_path / "runs" / "small" / "predictions" / "metrics.csv")
    with pytest.raises(jobs.JobError, match="found subsets, drop_small beside saved predictions"):
        run("4-evaluate", tmp_path, {"predictions": "runs/small/predictions", "data": "data", "subsets": "all",
                                     "drop_small": {"ET": 50}})
    run("4-evaluate", tmp_path, {"run": "runs/small", "data": "data", "cases": ids[3:]})
    table = pd.read_csv(tmp_path / "runs" / "small" / "metrics.csv")
    assert set(table["present"]) == {"t1+t1ce+t2+flair", *task.modalities}
    assert set(table["region"]) == {"WT", "TC", "ET"}
    pd.testing.assert_frame_equal(measured, table[table["present"] == "t1+t1ce+t2+flair"])
    shown = run("4-evaluate", tmp_path, {"run": "runs/small", "data": "data", "cases": ids[2:], "subsets": "all",
                                         "policies": ["fused", "heads", "by-size"], "smallest_mm3": {"ET": 500}})
    assert "1 of the 2 cases measured were trained or validated on" in text(shown)
    assert "average" in (tmp_path / "runs" / "small" / "subsets.txt").read_text(encoding="utf-8")
    worth = pd.read_csv(tmp_path / "runs" / "small" / "shapley.csv")
    assert set(worth["region"]) == {"WT", "TC", "ET", "ET ≥ 500 mm³"}
    together = {"run": ["runs/small"] * 2, "data": "data", "cases": ids[3:], "mirror": [1], "drop_small": True}
    learned = "mirror [] then, [1] now"         # by-size and the smallest parts
    run("3-predict", tmp_path, {**together, "out": "together", "policy": "by-size"}, learned)
    settings = json.loads((tmp_path / "together" / ids[3] / "manifest.json").read_text())["settings"]
    assert (settings["policy"], settings["mirror"], settings["members"]) == ("by-size", [1], 2)
    more = {"out": "together.csv", "policies": ["by-size"], "subsets": "full"}
    run("4-evaluate", tmp_path, together | more, learned)
    assert set(pd.read_csv(tmp_path / "together.csv")["run"]) == {"small+small"}
    run("4-evaluate", tmp_path, {"run": "runs/small", "data": "data", "cases": ids[3:], "maps": 1,
                                 "metrics": ["nsd@2", "volume", "lesions"]})
    page = (tmp_path / "runs" / "small" / "report.html").read_text(encoding="utf-8")
    assert "Are the maps worth looking at?" in page
    assert "while layers are drawn anew" in page
    assert all(name in page for name in ("Dice (%)", "NSD at 2 mm (%)", "Volume of the prediction (ml)",
                                         "Lesions missed (count)"))


SMALL_COMPARISON = {"channels": [4, 6], "patch_size": [16, 16, 16], "epochs": 1, "steps_per_epoch": 2}


def test_the_comparison_writes_the_papers_tables_from_phantoms(tmp_path):
    asked = {"out": "c", "phantom_cases": 6, "test_share": 0.5, "tables": [1, 2], "seeds": [0, 1], **SMALL_COMPARISON}
    run("5-compare", tmp_path, asked)
    written = {path.name for path in (tmp_path / "c").iterdir()}
    tables = {"table-1", "table-1-differences", "table-2", "table-2-differences"}
    assert {f"{name}.{ending}" for name in tables for ending in ("txt", "html", "tex", "csv")} <= written
    assert {"comparison.csv", "splits.json", "figure-3.png"} <= written
    mirrored = {name: json.loads((tmp_path / f"c/runs/{name}-fold-0-seed-0/comparison.json").read_text())[
        "measured from"]["predictor"].get("mirror") for name in ("nnUNet", "MAML")}
    assert mirrored == {"nnUNet": [0, 1, 2], "MAML": None}          # what is called nnU-Net answers as it does
    before = (tmp_path / "c" / "comparison.csv").read_text()
    run("5-compare", tmp_path, asked)                       # nothing is trained or measured again
    assert (tmp_path / "c" / "comparison.csv").read_text() == before


def test_the_comparison_takes_folds_and_prepared_cases_and_every_subset(tmp_path):
    task, brains = TASKS["brats2021"], phantoms.brains(4, size=16)
    write_cases(brains, tmp_path / "data", "folders", task)
    run("1-prepare", tmp_path, {"data": "data", "task": "brats2021", "out": "prepared"})
    ids = [case.id for case in brains]
    folds = [{"training": ids[:2], "test": ids[2:]}, {"training": ids[2:], "test": ids[:2]}]
    (tmp_path / "split.json").write_text(json.dumps({"folds": folds}))
    run("5-compare", tmp_path, {
        "prepared": "prepared", "out": "c", "split": "split.json", "tables": [3], "subsets": "all", "seeds": [0],
        "policies": ["fused"], "systems": {"any subset": {"method": "maml", "subset_weight": 1}}, **SMALL_COMPARISON})
    table = pd.read_csv(tmp_path / "c" / "comparison.csv")
    assert set(table["method"]) == {"HeMIS", "U-HVED", "KD-Net", "MAML", "any subset"}
    assert table[table["method"] == "any subset"]["present"].nunique() == 15
    assert set(table[table["method"] == "KD-Net"]["present"]) == {"t1ce"}
    assert "any subset" in (tmp_path / "c" / "subsets.txt").read_text(encoding="utf-8")
    assert "2 folds" in (tmp_path / "c" / "table-3.txt").read_text(encoding="utf-8")


BENCHMARK = ROOT / "benchmarks" / "benchmark.ipynb"
SMALL_BENCHMARK = {
    "out": "b", "pairs": 1, "most": 1, "channels": [4, 6], "size": 8, "counts": [2], "case": [16, 16, 16],
    "liver": [16, 16, 16], "window": 8, "patch": 8, "workers": 0, "patches": 1, "memory_size": 8,
    "memory_modalities": 2,
    "scaling_counts": [1, 2], "scaling_sizes": [8, 16], "threads": 1}


def test_the_benchmark_measures_the_rows_that_are_asked_for(tmp_path):
    rows = ["step_maml", "step_bare", "step_flops", "float32", "loading", "over_network", "subsets"]
    run(BENCHMARK, tmp_path, {**SMALL_BENCHMARK, "rows": rows})
    table = pd.read_csv(tmp_path / "b" / "benchmark.csv")
    assert list(table["row"].unique()) == rows
    assert (table["ratio"] > 0).all()
    assert "<svg" in (tmp_path / "b" / "benchmark.html").read_text(encoding="utf-8")


@pytest.mark.slow    # several rows start a new Python for each side
def test_the_benchmark_measures_every_row_and_lists_peers_that_are_not_there(tmp_path):
    run(BENCHMARK, tmp_path, SMALL_BENCHMARK)
    table = pd.read_csv(tmp_path / "b" / "benchmark.csv")
    assert set(table["row"]) == set(benchmarks.ROWS)
    absent = table[table["met"] == "not measured"]
    assert absent["note"].str.startswith("not measured: install").all()
    assert (table[table["met"] != "not measured"]["ratio"] > 0).all()


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
        shown = [output.get("data", {}) for output in outputs(notebook)]
        assert any("image/png" in one or "data:image/png" in "".join(one.get("text/html", "")) for one in shown)
        written = nbformat.read(notebook, 4)
        assert "widgets" not in written.metadata
        assert all(set(cell.metadata) <= {"tags"} for cell in written.cells), "times of the run that was stored"


def test_code_of_tutorials_is_read_without_scrolling():
    for notebook in TUTORIALS:
        for cell in nbformat.read(notebook, 4).cells:
            assert cell.cell_type != "code" or max(map(len, cell.source.splitlines())) < 90, cell.source


@pytest.mark.parametrize("number", range(len(TUTORIALS)))
def test_tutorials_follow_each_other_and_have_exercises(number):
    cells = [cell.source for cell in nbformat.read(TUTORIALS[number], 4).cells if cell.cell_type == "markdown"]
    header, told = cells[0], "\n".join(cells)
    assert header.startswith(f"# {TUTORIALS[number].stem[0]} · ")
    for part in ("At the end you will have", "on two CPU cores", "No network"):
        assert part in header
    for part in ("**Predict before you run.**", "**Break it.**", "<details>"):
        assert part in told
    assert "**In one sentence:**" in cells[-1]
    assert [path.stem[0] for path in TUTORIALS] == list("123456789")
    if number + 1 < len(TUTORIALS):
        assert f"]({TUTORIALS[number + 1].name})" in cells[-1]

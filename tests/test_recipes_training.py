"""The recipes that train: their command lines, what Slurm makes of them, and the whole of it, tiny."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from maml_toolkit import TASKS, experiments
from maml_toolkit.__main__ import options
from maml_toolkit.commands import jobs
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.experiments.running import run_name

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the recipes are for a POSIX shell")

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
SCRIPT, SBATCH = RECIPES / "table3-brats2018.sh", RECIPES / "table3-brats2018.sbatch"
SYSTEMS = experiments.papers_systems([3], TASKS["brats2021"].modalities, "t1ce")

PYTHON = f"""#!/bin/bash
# notes the commands of the package and ends with $STATUS; runs everything else
if [ "$1" != -m ]; then exec "{sys.executable}" "$@"; fi
shift 2
"{sys.executable}" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" >> "$NOTED"
exit "${{STATUS:-0}}"
"""
SLURM = {"srun": '#!/bin/bash\nexec "$@"\n', "scontrol": '#!/bin/bash\necho "$@" >> "$REQUEUED"\n'}


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(folder, **more):
    for name, text in SLURM.items():
        executable(folder / name, text)
    return {**os.environ, "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT), "REQUEUED": str(folder / "requeued"), **more}


@pytest.fixture
def noted(tmp_path):
    """Run one of the recipes with prepared data; returns its status and the jobs that it would have run."""
    out = tmp_path / "the out"
    (out / "prepared").mkdir(parents=True)
    (out / "prepared" / "task.json").touch()
    for number in (1, 2, 3):
        folds = [{"training": [f"case {number}", "0007"], "test": ["one"]}] * number
        (out / f"folds-{number}.json").write_text(json.dumps({"folds": folds}))
    python, notes = executable(tmp_path / "stub", PYTHON), tmp_path / "notes"

    def run(recipe, *asked, data="the data", **more):
        notes.unlink(missing_ok=True)
        done = subprocess.run(["bash", recipe, data, out, *asked], cwd=ROOT, capture_output=True, text=True,
                              env=environment(tmp_path, PYTHON=str(python), NOTED=str(notes), **more), check=False)
        lines = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        return done.returncode, [(command, options(words, jobs.parameters_of(command))) for command, *words in lines]

    run.out = out
    return run


def papers(given):
    """That these are the paper's settings, in parts that a card of 24 GB holds."""
    assert given["channels"] == [32, 64, 128, 256, 320, 320]
    assert given["patch_size"] == [128, 128, 128]
    assert (given["batch_size"], given["accumulate"], given["recompute"]) == (2, 2, True)
    assert (given["epochs"], given["steps_per_epoch"]) == (600, 250)
    assert (given["learning_rate"], given["schedule"]) == (0.0003, "constant")


def test_all_of_it_is_the_table_of_each_fold_after_the_other(noted):
    status, ran = noted(SCRIPT)
    assert status == 0
    assert [command for command, _ in ran] == ["compare"] * 3
    for number, (_, given) in enumerate(ran, start=1):
        jobs.check("5-compare", given)
        papers(given)
        assert (given["tables"], given["single"], given["seeds"]) == ([3], "t1ce", [0])
        assert given["split"] == str(noted.out / f"folds-{number}.json")
        assert (given["prepared"], given["out"]) == (str(noted.out / "prepared"), str(noted.out))


def test_what_is_prepared_is_not_prepared_again(noted):
    assert noted(SCRIPT, "prepare") == (0, [])
    (noted.out / "prepared" / "task.json").unlink()
    status, ((command, given),) = noted(SCRIPT, "prepare")
    assert (status, command) == (0, "prepare")
    jobs.check("1-prepare", given)
    assert given == {"data": "the data", "task": "brats2021", "out": str(noted.out / "prepared")}


def test_a_larger_card_takes_the_batch_at_once(noted):
    _, ran = noted(SCRIPT, ACCUMULATE="1", RECOMPUTE="false")
    assert [(given["accumulate"], given["recompute"]) for _, given in ran] == [(1, False)] * 3


def test_slurm_trains_each_system_of_the_papers_table_once_in_each_fold_where_the_table_looks_for_it(noted):
    given_of = {}
    for task in range(1, 13):
        status, ((command, given),) = noted(SBATCH, SLURM_ARRAY_TASK_ID=str(task))
        assert (status, command) == (0, "train")
        jobs.check("2-train", given)
        papers(given)
        given_of[Path(given["run"])] = given
    assert set(given_of) == {noted.out / "runs" / run_name(name, fold, 0) for name in SYSTEMS for fold in range(3)}
    for name, system in SYSTEMS.items():
        for fold in range(3):
            given = given_of[noted.out / "runs" / run_name(name, fold, 0)]
            assert (given["method"], given["method_settings"]) == (system.method, system.settings)
            assert given["training"] == [f"case {fold + 1}", "0007"]
            assert given["seed"] == fold
    _, ran = noted(SBATCH, SLURM_ARRAY_TASK_ID="0")
    assert [command for command, _ in ran] == ["compare"] * 3


def test_slurm_queues_a_task_again_that_ran_out_of_time_and_no_other(noted, tmp_path):
    assert noted(SBATCH, SLURM_ARRAY_TASK_ID="5", SLURM_JOB_ID="77", STATUS="1")[0] == 1
    assert not (tmp_path / "requeued").exists()
    assert noted(SBATCH, SLURM_ARRAY_TASK_ID="5", SLURM_JOB_ID="78", STATUS="75")[0] == 75
    assert (tmp_path / "requeued").read_text() == "requeue 78\n"


def test_a_system_that_is_not_of_the_table_and_data_that_are_not_prepared_are_refused(noted):
    assert noted(SCRIPT, "nnUNet", "1") == (2, [])
    (noted.out / "folds-2.json").unlink()
    assert noted(SCRIPT, "MAML", "2") == (2, [])
    assert noted(SCRIPT, "MAML", "1")[0] == 0


def test_the_small_one_trains_on_six_cases_and_measures_the_two_that_were_left_out(noted, tmp_path):
    names = [f"case {number}" for number in range(8)]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
    status, ran = noted(RECIPES / "leave-two-out.sh", data=tmp_path / "data")
    assert status == 0
    assert [command for command, _ in ran] == ["train", "evaluate"] * 4
    for fold, ((_, train), (_, evaluate)) in enumerate(zip(ran[::2], ran[1::2], strict=True)):
        jobs.check("2-train", train)
        jobs.check("4-evaluate", evaluate)
        assert train["run"] == evaluate["run"] == str(noted.out / f"fold-{fold + 1}")
        assert evaluate["cases"] == names[2 * fold:2 * fold + 2]
        assert sorted([*train["training"], *evaluate["cases"]]) == names
    assert len(noted(RECIPES / "leave-two-out.sh", "3", data=tmp_path / "data")[1]) == 2


def test_the_array_has_a_task_for_each_system_and_fold_and_options_that_slurm_knows():
    text = SBATCH.read_text(encoding="utf-8")
    given = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert len(given) == text.count("\n#SBATCH")
    assert set(given) <= {"job-name", "array", "gpus", "cpus-per-task", "mem", "time", "requeue", "signal", "output"}
    assert given["array"] == f"1-{3 * len(SYSTEMS)}"
    assert text.index("#SBATCH --output") < text.index("\nSYSTEMS")


def test_the_page_says_what_was_not_run_and_marks_its_hours_as_estimates():
    page = (RECIPES / "README.md").read_text(encoding="utf-8")
    part = page[page.index("# The paper's Table 3"):]
    assert "**Not run**" in part
    assert "estimate" in part
    for script in (SCRIPT, SBATCH):
        lines = re.findall(r"^# +((?:bash|sbatch) .*?)(?:  +.*)?$", script.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(lines) == 3
        assert [line for line in lines if line.replace("DATA OUT", "data out") not in part] == []
    rows = re.findall(r"^\| (MAML|U-HVED|KD-Net|HeMIS) \| ([\d.]+) \| (\d+) \| (\d+) \| (\d+) \|$", part, re.MULTILINE)
    assert {name for name, *_ in rows} == set(SYSTEMS)
    for _, exa, *hours in rows:
        for rate, shown in zip((4.35, 8.7, 30), hours, strict=True):
            assert float(shown) == pytest.approx(float(exa) * 1e6 / rate / 3600, abs=0.6)


@pytest.mark.slow
def test_the_whole_of_it_runs_tiny_and_what_slurm_trained_is_not_trained_again(tmp_path):
    task, data, out = TASKS["brats2021"], tmp_path / "data", tmp_path / "the out"
    written = write_cases(phantoms.brains(6, size=16), tmp_path / "flat", "folders", task)
    for number, folder in enumerate(sorted(written.iterdir())):
        (data / ("LGG" if number % 3 else "HGG")).mkdir(parents=True, exist_ok=True)
        folder.rename(data / ("LGG" if number % 3 else "HGG") / folder.name)
    tiny = environment(tmp_path, CHANNELS="[4, 6]", PATCH="[8, 8, 8]", EPOCHS="1", STEPS="1", PYTHON=sys.executable)

    def run(recipe, *asked, **more):
        done = subprocess.run(["bash", recipe, data, out, *asked], cwd=ROOT, env={**tiny, **more}, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run(SCRIPT, "prepare")
    folds = json.loads((out / "folds-3.json").read_text())["folds"]
    assert sorted(one for fold in folds for one in fold["test"]) == sorted(folder.name for folder in data.glob("*/*"))
    run(SBATCH, SLURM_ARRAY_TASK_ID="1")
    run(SBATCH, SLURM_ARRAY_TASK_ID="7")
    trained = [out / "runs" / name / "history.csv" for name in ("MAML-fold-0-seed-0", "KD-Net-fold-1-seed-0")]
    before = [path.stat().st_mtime_ns for path in trained]
    said = run(SBATCH, SLURM_ARRAY_TASK_ID="0")
    assert [path.stat().st_mtime_ns for path in trained] == before
    assert f"{trained[0].parent} is finished, 1 steps." in said
    table = pd.read_csv(out / "comparison.csv", dtype={"case": str})
    asked = table[(table["present"] == "t1ce") & (table["metric"] == "dice") & (table["region"] == "WT")]
    assert len(asked) == 6 * len(SYSTEMS)
    assert set(asked["method"]) == set(SYSTEMS)
    assert {(row.case, row.fold) for row in asked.itertuples()} == {
        (case, number) for number, fold in enumerate(folds) for case in fold["test"]}
    assert len(list((out / "runs").iterdir())) == 12
    assert {path.suffix for path in out.glob("table-3.*")} >= {".txt", ".html", ".csv"}
    states = {path: path.stat().st_mtime_ns for path in out.rglob("runs/*/comparison.csv")}
    run(SCRIPT)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("runs/*/comparison.csv")} == states

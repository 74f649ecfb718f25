"""Shards from a shell, from Snakemake, and from the command lines that the other recipes give to their schedulers."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from maml_toolkit import MAML, TASKS, Trainer
from maml_toolkit.__main__ import app, options
from maml_toolkit.commands import jobs
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.prediction.merging import merge
from maml_toolkit.prediction.runs import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
LIVER = TASKS["liver_phases"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    method = MAML(modalities=LIVER.modalities, classes=2, channels=(4, 6))
    Trainer(method, run=folder, task=LIVER, patch_size=(16, 16, 16), epochs=1, steps_per_epoch=1).fit(
        phantoms.liver_phases(2, size=16))
    return folder


@pytest.fixture
def data(tmp_path):
    return write_cases(phantoms.liver_phases(5, size=16), tmp_path / "the data", "folders", LIVER)


def a_scan(data, number):
    return data / f"liver-0-{number:03d}" / f"liver-0-{number:03d}_venous.nii.gz"


def environment(**more):
    """This Python first, and this package for it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def job_of():
    return yaml.safe_load((RECIPES / "predict-k8s.yaml").read_text(encoding="utf-8"))


def test_the_exit_status_and_the_last_line_say_how_many_failed(trained, data, tmp_path):
    for number in (1, 3):
        a_scan(data, number).write_bytes(b"")
    asked = ["predict", "--data", str(data), "--run", str(trained), "--out", str(tmp_path / "out"), "--shard"]
    shown = CliRunner().invoke(app, [*asked, "2/2"])
    assert shown.exit_code == 2
    assert shown.output.splitlines()[-2].startswith(
        f"shard 2/2: 0 of 2 cases are in {tmp_path / 'out'}; 2 failed, see ")
    assert (tmp_path / "out" / "shards" / "2-of-2" / "3-predict.ipynb").exists()
    shown = CliRunner().invoke(app, [*asked, "1/2"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[-2:] == [f"shard 1/2: 3 of 3 cases are in {tmp_path / 'out'}",
                                              f"Next: python -m maml_toolkit merge {tmp_path / 'out'}"]
    shown = CliRunner().invoke(app, [*asked, "3/2"])
    assert shown.exit_code == 1
    assert "expected 1/2 to 2/2" in shown.output
    shown = CliRunner().invoke(app, [*asked, "1/2", "--checkpoint", "last"])
    assert shown.exit_code == 1
    assert "--checkpoint: found 'last', expected one of best, newest" in shown.output          # not what was left


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_the_command_with_whole_cases_and_nothing_else(trained, tmp_path):
    data = write_cases(phantoms.liver_phases(16, size=64), tmp_path / "data", "folders", LIVER)
    out = tmp_path / "out"
    asked = ["predict", "--data", data, "--run", trained, "--out", out, "--shard", "1/1"]
    running = subprocess.Popen([sys.executable, "-m", "maml_toolkit", *map(str, asked)], env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while running.poll() is None and not list(out.glob("liver*")):
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    running.communicate()
    assert running.returncode == 130
    assert 1 <= len(list(out.glob("liver*"))) < 16
    assert all((folder / "manifest.json").exists() for folder in out.glob("liver*"))
    assert merge(out).missing == {"1/1": "stopped before its end; run it again"}
    assert not list(out.rglob(".writing-*"))


@pytest.mark.slow
def test_snakemake_runs_three_shards_reports_a_broken_case_and_goes_on_when_it_is_mended(trained, data, tmp_path):
    pytest.importorskip("snakemake")
    command = [sys.executable, "-m", "snakemake", "-s", str(RECIPES / "Snakefile"), "--cores", "2", "--keep-going",
               "--scheduler", "greedy", "--config", f"data={data}", f"run={trained}", "out=my out", "shards=3"]

    def snakemake():
        return subprocess.run(command, cwd=tmp_path, env=environment(XDG_CACHE_HOME=str(tmp_path / "cache")),
                              capture_output=True, text=True)

    out, whole = tmp_path / "my out", a_scan(data, 1).read_bytes()
    a_scan(data, 1).write_bytes(whole[:300])
    first = snakemake()
    assert first.returncode == 1, first.stderr
    assert "shard 2/3: 1 of 2 cases are in my out; 1 failed" in first.stdout
    assert "failed: case liver-0-001, modality venous" in first.stdout
    assert merge(out).count == 3
    before = (out / "shards" / "1-of-3" / "shard.json").read_text()

    a_scan(data, 1).write_bytes(whole)
    second = snakemake()
    assert second.returncode == 0, second.stderr
    table = pd.read_csv(out / "predictions.csv")
    assert list(table["case"]) == [f"liver-0-{number:03d}" for number in range(5)]
    assert list(table["shard"]) == ["1/3", "2/3", "3/3", "1/3", "2/3"]
    assert (out / "shards" / "1-of-3" / "shard.json").read_text() == before
    assert "shard 2/3: 2 of 2 cases are in my out (1 of them from before)" in second.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the recipes are for a POSIX shell")
def test_the_command_lines_of_the_array_and_of_the_indexed_job_run(trained, data, tmp_path):
    out = tmp_path / "out"
    for index in ("1", "2"):
        subprocess.run(["bash", RECIPES / "predict.sbatch", data, trained, out], check=True, capture_output=True,
                       env=environment(SHARDS="3", SLURM_ARRAY_TASK_ID=index, SLURM_ARRAY_TASK_COUNT="1"))
    (container,) = job_of()["spec"]["template"]["spec"]["containers"]
    assert merge(out).missing == {"3/3": "never started"}
    subprocess.run([*container["command"], *container["args"]], check=True, capture_output=True, env=environment(
        SHARDS="3", JOB_COMPLETION_INDEX="2", DATA=str(data), RUN=str(trained), OUT=str(out)))
    merged = merge(out)
    assert merged.problems == 0
    assert len(merged.table) == 5


SLURM = {"scontrol": """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> requeued; fi
""", "srun": """#!/bin/bash
# two machines; their time runs out when a file is there
shift
"$@" & one=$!
"$@" & other=$!
if [ -n "$OUT_OF_TIME" ]; then
    while [ ! -e "$OUT_OF_TIME" ] && kill -0 $one; do sleep 0.1; done
    kill -TERM $one $other
fi
wait $one; status=$?
wait $other || status=$?
exit $status
"""}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the recipes are for a POSIX shell")
def test_the_command_line_of_the_training_meets_on_two_machines_and_is_queued_again_when_time_runs_out(data, tmp_path):
    jobs.run("1-prepare", parameters={"data": data, "task": "liver_phases", "out": tmp_path / "prepared"},
             progress=False)
    for name, script in SLURM.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    variables = environment(SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="node[1-2]", PROCESSES="1",
                            PORT=port)
    variables["PATH"] = os.pathsep.join([str(tmp_path), variables["PATH"]])
    asked = ["bash", RECIPES / "train.sbatch", "prepared", "run", "--channels", "[4, 6]", "--patch_size", "[8, 8, 8]",
             "--batch_size", "1", "--epochs", "60", "--steps_per_epoch", "5"]
    history = tmp_path / "run" / "history.csv"

    def train(**more):
        return subprocess.run(asked, cwd=tmp_path, env={**variables, **more}, capture_output=True, text=True)

    stopped = train(OUT_OF_TIME=str(history))
    assert stopped.returncode != 0
    assert (tmp_path / "requeued").read_text() == "requeue 7\n", stopped.stderr
    assert 1 <= len(pd.read_csv(history)) < 60
    again = train()
    assert again.returncode == 0, again.stderr
    assert list(pd.read_csv(history)["epoch"]) == list(range(1, 61))
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert (tmp_path / "run" / "2-train.ipynb").exists()
    assert Run(tmp_path / "run").settings["trainer"]["parts"] == 2


def test_the_training_asks_slurm_for_one_torchrun_a_machine():
    text = (RECIPES / "train.sbatch").read_text(encoding="utf-8")
    given = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert len(given) == text.count("\n#SBATCH")
    assert set(given) <= {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time",
                          "requeue", "signal", "output"}
    assert given["ntasks-per-node"] == "1"
    assert text.index("#SBATCH --output") < text.index("\nMEET")
    assert subprocess.run(["bash", "-n", RECIPES / "train.sbatch"]).returncode == 0


def test_the_array_job_has_one_task_for_each_shard_and_options_that_slurm_knows():
    text = (RECIPES / "predict.sbatch").read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n")
    given = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert len(given) == text.count("\n#SBATCH")
    assert set(given) <= {"job-name", "array", "gpus", "cpus-per-task", "mem", "time", "requeue", "output"}
    shards = re.search(r"SHARDS=\$\{SHARDS:-(\d+)\}", text)[1]
    assert given["array"] == f"1-{shards}"
    assert text.index("#SBATCH --output") < text.index("\nSHARDS")        # Slurm reads options up to the first command
    assert subprocess.run(["bash", "-n", RECIPES / "predict.sbatch"]).returncode == 0


def test_the_indexed_job_has_one_index_for_each_shard_and_is_made_as_kubernetes_wants_it():
    job = job_of()
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"                               # podFailurePolicy wants it
    (container,) = pod["containers"]
    values = {one["name"]: one["value"] for one in container["env"]}
    assert all(isinstance(value, str) for value in values.values())
    assert values["SHARDS"] == str(spec["completions"])
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert all(values[name].startswith(container["volumeMounts"][0]["mountPath"]) for name in ("DATA", "RUN", "OUT"))


def test_the_page_says_what_was_not_run_and_its_commands_are_those_of_the_recipes():
    page = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert "Neither was run on its scheduler" in page
    for name in ("Snakefile", "predict.sbatch", "predict-k8s.yaml", "train.sbatch"):
        command = re.search(rf"^#   (.*{name}.*)$", (RECIPES / name).read_text(encoding="utf-8"), re.MULTILINE)[1]
        assert command in page
    asked = shlex.split(re.search(r"^python -m maml_toolkit predict (.*)$", page, re.MULTILINE)[1])
    jobs.check("3-predict", options(asked, jobs.parameters_of("3-predict"), ["run", "data"]))
    for line in re.findall(r"^torchrun .* -- maml_toolkit train (.*)$", page, re.MULTILINE):
        jobs.check("2-train", options(shlex.split(line), jobs.parameters_of("2-train"), ["prepared"]))
    assert page.count("-- maml_toolkit train") == 2

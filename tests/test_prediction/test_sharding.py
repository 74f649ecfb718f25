"""Prediction in shards: every case once, whole or not at all, again only where something changed."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.data import phantoms, volumes
from maml_toolkit.data.cases import Case, find_cases, write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build
from maml_toolkit.prediction.checkpoints import fingerprint
from maml_toolkit.prediction.merging import merge
from maml_toolkit.prediction.predicting import overlapped, predict_cases
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.shards import Shard, failures, output_folder
from maml_toolkit.system import files, tables
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.locks import LOCK, HeldError, held

LIVER = TASKS["liver_phases"]


def small(seed=0):
    torch.manual_seed(seed)
    method = build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6))
    return Predictor(method, LIVER, (16, 16, 16), precision="float32")


@pytest.fixture(scope="module")
def predictor():
    return small()


@pytest.fixture
def data(tmp_path):
    return write_cases(phantoms.liver_phases(5, size=16), tmp_path / "data", "folders", LIVER)


@pytest.fixture
def cases(data):
    return find_cases(data, LIVER)


def cut(case, modality="venous"):
    """Leave half of a scan."""
    path = case.images[modality]
    path.write_bytes(path.read_bytes()[:400])


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_case_is_in_one_shard_and_shards_are_alike_in_size(count):
    cases = list(range(17))
    parts = [Shard(number, count).of(cases) for number in range(1, count + 1)]
    assert sorted(case for part in parts for case in part) == cases
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "-1/3", "a/b", ""])
def test_a_shard_that_there_is_not_is_refused(text):
    with pytest.raises(ValueError, match=f"shard '?{text}"):
        Shard.named(text)


SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(("environment", "shard", "device"), [
    ({}, "1/1", "cuda:0"), ({"WORLD_SIZE": "1"}, "1/1", "cuda:0"),
    ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, "1/4", "cuda:0"),
    ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "4/4", "cuda:1"),
    ({"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "4"}, "6/6", "cuda:1"),
    (SRUN, "6/8", "cuda:1"), (SRUN | {"SLURM_STEP_NUM_TASKS": "6"}, "6/6", "cuda:1"),
    (SRUN | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "1/2", "cuda:0"),
    ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, "1/1", "cuda:0")])
def test_an_automatic_shard_is_that_of_the_process_and_takes_the_gpus_in_turn(environment, shard, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = Shard.named("auto", environment)
    assert str(found) == shard
    assert found.device("auto", environment) == found.device("cuda", environment) == device
    assert found.device("cuda:2", environment) == "cuda:2"
    assert found.device("cpu", environment) == "cpu"


def test_named_shards_take_the_gpus_of_a_machine_in_turn(monkeypatch):
    for count, expected in ((0, ["auto"] * 4), (1, ["auto"] * 4), (2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert [Shard(number, 4).device("auto", {}) for number in range(1, 5)] == expected


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "4"}, {"RANK": "a", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
                                         {"RANK": "4", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}])
def test_an_environment_that_names_no_place_is_refused(environment):
    with pytest.raises(ValueError, match=r"WORLD_SIZE|5/4"):
        Shard.named("auto", environment)


def test_shards_of_processes_together_are_all_cases(predictor, cases, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    used = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        used += predict_cases(predictor, cases, tmp_path / "out", "auto").used
    assert sorted(used) == sorted(case.id for case in cases)
    assert len(used) == len(set(used))


def test_the_order_in_which_cases_were_found_is_irrelevant(predictor, cases, tmp_path):
    outcome = predict_cases(predictor, cases[::-1], tmp_path / "out", "2/3")
    assert list(outcome.used) == [cases[1].id, cases[4].id]


def test_shards_together_are_what_the_predictor_says_case_by_case(predictor, cases, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2, 3):
        predict_cases(predictor, cases, out, f"{number}/3")
    for case in cases:
        predictor(case).save(tmp_path / "alone" / case.id)
        written = names(out / case.id)
        assert written == names(tmp_path / "alone" / case.id) | {"manifest.json"}
        for name in written - {"manifest.json"}:
            assert (out / case.id / name).read_bytes() == (tmp_path / "alone" / case.id / name).read_bytes()
    assert names(out) == {case.id for case in cases} | {"shards"}
    merged = merge(out)
    assert merged.problems == 0
    assert [row["case"] for row in merged.table] == [case.id for case in cases]
    labels = nibabel.load(out / cases[0].id / f"{cases[0].id}_seg.nii.gz")
    assert merged.table[0]["tumour (ml)"] == pytest.approx(np.asarray(labels.dataobj).sum() / 1000)
    assert (out / "predictions.csv").read_text().startswith("case,shard,modalities,tumour (ml)")


def test_what_is_done_is_not_done_again(predictor, cases, tmp_path, monkeypatch):
    predict_cases(predictor, cases, tmp_path / "out")
    cases = [replace(case, label=None) for case in cases]            # a label is no input
    monkeypatch.setattr(predictor, "prepared", None)                 # would fail if it were called
    outcome = predict_cases(predictor, cases, tmp_path / "out", "1/2")
    assert outcome.used == {}
    assert outcome.record["before"] == 3
    assert str(outcome) == f"shard 1/2: 3 of 3 cases are in {tmp_path / 'out'} (3 of them from before)"


def test_what_has_changed_is_done_again(predictor, cases, tmp_path):
    out = tmp_path / "out"

    def done(by=predictor, **settings):
        return set(predict_cases(by, cases, out, **settings).used)

    everything = {case.id for case in cases}
    assert done() == everything
    image = nibabel.load(cases[2].images["venous"])
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) + 1, image.affine), cases[2].images["venous"])
    assert done() == {cases[2].id}
    (out / cases[3].id / f"{cases[3].id}_seg.nii.gz").write_bytes(b"cut")
    assert done() == {cases[3].id}
    assert done(attention=False) == everything
    assert f"{cases[0].id}_attention_venous.nii.gz" not in names(out / cases[0].id)
    assert done(present="venous", attention=False) == everything
    assert done(small(seed=1), present="venous", attention=False) == everything
    assert done(small(seed=1), present="venous", attention=False) == set()


def test_a_fingerprint_is_that_of_settings_and_weights():
    one = fingerprint(small().method)
    assert one == fingerprint(small().method)
    other = small()
    with torch.no_grad():
        next(other.method.parameters()).view(-1)[0] += 1e-3
    assert one != fingerprint(other.method)


def test_a_failed_case_is_listed_and_the_rest_goes_on(predictor, cases, tmp_path):
    out, whole = tmp_path / "out", cases[1].images["venous"].read_bytes()
    predict_cases(predictor, cases[:2], out)
    cut(cases[1])
    cases[3] = Case(cases[3].id, {})
    outcome = predict_cases(predictor, cases, out)
    assert outcome.record["failed"] == [cases[1].id, cases[3].id]
    assert str(out / "log" / "failed.jsonl") in str(outcome)
    listed = failures(out / "log" / "failed.jsonl")
    assert [(one["case"], one["error"], one["older prediction"]) for one in listed] == [
        (cases[1].id, "DataError", True), (cases[3].id, "MissingModalityError", False)]
    assert "truncated" in listed[0]["message"]
    with pytest.raises(DataError, match=cases[1].id) as failed:
        outcome.check()
    assert [one.case for one in failed.value.errors] == [cases[1].id, cases[3].id]
    assert merge(out).problems == 2

    cases[1].images["venous"].write_bytes(whole)                     # as it was: its old prediction still fits
    outcome = predict_cases(predictor, cases[:3], out)
    outcome.check()
    assert outcome.used == {}
    assert not (out / "log" / "failed.jsonl").exists()


def test_a_case_whose_id_is_too_long_for_its_files_is_listed_and_the_rest_goes_on(predictor, cases, tmp_path):
    long = replace(cases[0], id="a" * 240)              # its scans may be called <id>_t1.nii.gz
    outcome = predict_cases(predictor, [long, cases[1]], tmp_path)
    assert outcome.record["failed"] == [long.id]
    assert "its id is too long" in str(outcome.errors[0])
    assert (tmp_path / cases[1].id).is_dir()


def test_an_error_that_nobody_foresaw_is_listed_with_its_traceback(predictor, cases, tmp_path, monkeypatch):
    network = Predictor.predict

    def out_of_memory(self, case, *arguments, **maps):
        if case.id == cases[0].id:
            raise RuntimeError("CUDA out of memory")
        return network(self, case, *arguments, **maps)

    monkeypatch.setattr(Predictor, "predict", out_of_memory)
    outcome = predict_cases(predictor, cases, tmp_path / "out")
    assert len(outcome.used) == 4
    (line,) = failures(tmp_path / "out" / "log" / "failed.jsonl")
    assert line["error"] == "RuntimeError"
    assert "in out_of_memory" in line["traceback"]
    with pytest.raises(DataError, match=f"{cases[0].id}.*RuntimeError.*CUDA"):
        outcome.check()


def test_a_case_without_a_scan_is_predicted_from_the_others(predictor, cases, tmp_path):
    lacking = [Case(case.id, {"arterial": case.images["arterial"]}) for case in cases[:2]]
    outcome = predict_cases(predictor, [*lacking, *cases[2:]], tmp_path / "out")
    assert outcome.used[cases[0].id] == ("arterial",)
    assert outcome.used[cases[2].id] == ("arterial", "venous")
    outcome = predict_cases(predictor, [*lacking, *cases[2:]], tmp_path / "venous", present={"venous"})
    assert outcome.record["failed"] == [cases[0].id, cases[1].id]


@pytest.mark.parametrize("present", ["pet", ["venous", "pet"], []])
def test_a_scan_that_the_method_does_not_know_is_refused_before_all_else(predictor, cases, tmp_path, present):
    with pytest.raises(ValueError, match=r"present.*arterial, venous"):
        predict_cases(predictor, cases, tmp_path / "out", present=present)
    assert not (tmp_path / "out").exists()


def test_cases_in_memory_have_checksums_too(predictor, tmp_path):
    held = phantoms.liver_phases(2, size=16)
    assert len(predict_cases(predictor, held, tmp_path / "out").used) == 2
    assert predict_cases(predictor, held, tmp_path / "out").used == {}
    other = replace(held[0], images=phantoms.liver_phases(1, size=16, seed=5)[0].images)
    assert set(predict_cases(predictor, [other, held[1]], tmp_path / "out").used) == {held[0].id}


def test_files_that_no_prediction_wrote_are_never_replaced(predictor, cases, data):
    before = {path: path.read_bytes() for path in data.rglob("*.nii.gz")}
    outcome = predict_cases(predictor, cases, data)
    assert len(outcome.errors) == 5
    assert all(one.case and one.path.parent == data and one.remedy for one in outcome.errors)
    assert {path: path.read_bytes() for path in data.rglob("*.nii.gz")} == before


def test_two_cases_that_would_share_a_folder_are_refused(predictor, cases, tmp_path):
    for id in (cases[0].id.upper(), "Shards", "log"):
        with pytest.raises(ValueError, match=r"shards .*log"):
            predict_cases(predictor, [*cases, replace(cases[1], id=id)], tmp_path / "out")


def test_reading_and_writing_go_on_while_the_network_runs_and_memory_is_bounded():
    """Case k is computed once k + 1 was read and while k - 1 is written: without overlap no wait is answered."""
    read, computing = ([threading.Event() for _ in range(6)] for _ in range(2))
    inside, most = set(), []

    def load(item):
        inside.add(item)
        most.append(len(inside))
        read[item].set()
        return item

    def compute(item, loaded):
        computing[item].set()
        assert loaded == item
        assert item == 5 or read[item + 1].wait(30)
        return 10 * item

    def write(item, computed):
        assert item == 5 or computing[item + 1].wait(30)
        assert item >= 4 or read[item + 2].wait(30)
        assert computed == 10 * item
        inside.remove(item)

    assert list(overlapped(range(6), load, compute, write)) == [(item, None) for item in range(6)]
    assert max(most) == 3


@pytest.mark.parametrize("step", ["load", "compute", "write"])
def test_an_exception_of_a_step_comes_out_beside_its_item(step):
    def at(name):
        def work(item, *_):
            if name == step and item == 2:
                raise ValueError(name)
            return item

        return work

    found = dict(overlapped(range(5), at("load"), at("compute"), at("write")))
    assert [item for item, error in found.items() if error is None] == [0, 1, 3, 4]
    assert str(found[2]) == step


def test_what_is_done_before_is_neither_computed_nor_written():
    done = []
    found = overlapped(range(4), lambda item: item if item % 2 else None, lambda item, _: item,
                       lambda item, _: done.append(item))
    assert sorted(found) == [(item, None) for item in range(4)]
    assert done == [1, 3]
    assert list(overlapped([], print, print, print)) == []


def test_a_full_disk_stops_the_shard_and_leaves_nothing_half(predictor, cases, tmp_path, monkeypatch):
    save = Prediction.save

    def full(self, folder):
        save(self, folder)
        if self.case == cases[1].id:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Prediction, "save", full)
    with pytest.raises(OSError, match="No space"):
        predict_cases(predictor, cases, tmp_path / "out")
    assert cases[1].id not in names(tmp_path / "out")
    assert names(tmp_path / "out" / "log") == {LOCK}
    assert merge(tmp_path / "out").missing == {"1/1": "stopped before its end; run it again"}


def test_ctrl_c_leaves_whole_cases_and_a_shard_that_can_go_on(predictor, cases, tmp_path, monkeypatch):
    network = Predictor.predict

    def interrupted(self, case, *arguments, **maps):
        if case.id == cases[2].id:
            raise KeyboardInterrupt
        return network(self, case, *arguments, **maps)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "predict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_cases(predictor, cases, tmp_path / "out")
    assert names(tmp_path / "out") == {cases[0].id, cases[1].id, "log"}
    assert len(predict_cases(predictor, cases, tmp_path / "out").used) == 3


KILLED = """
import os, signal, sys
from maml_toolkit import Predictor, find_cases
from maml_toolkit.prediction.prediction import Prediction
from test_sharding import LIVER, predict_cases, small
data, out = sys.argv[1:]
cases = find_cases(data, LIVER)
save = Prediction.save

def killed(self, folder):
    save(self, folder)
    if self.case == cases[1].id:
        os.kill(os.getpid(), signal.SIGKILL)

Prediction.save = killed
predict_cases(small(), cases, out)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_shard_leaves_whole_cases_and_is_cleaned_up_by_the_next_run(predictor, cases, data, tmp_path):
    out = tmp_path / "out"
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    killed = subprocess.run([sys.executable, "-c", KILLED, data, out], env={**os.environ, "PYTHONPATH": path},
                            capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert names(out) == {cases[0].id, "log"}
    left = names(out / "log")
    assert any(name.startswith(files.UNFINISHED) for name in left)
    outcome = predict_cases(predictor, cases, out)
    assert outcome.record["before"] == 1
    assert names(out / "log") == {LOCK, "record.json"}


def test_a_shard_is_worked_on_by_one_process(predictor, cases, tmp_path):
    out = tmp_path / "out"
    folder = Shard(1, 2).folder(out)
    folder.mkdir(parents=True)
    with held(folder):
        (folder / f"{files.UNFINISHED}x").mkdir()
        with pytest.raises(HeldError, match=f"{os.getpid()}"):
            predict_cases(predictor, cases, out, "1/2")
        predict_cases(predictor, cases, out, "2/2")
        assert merge(out).missing == {"1/2": "still at work"}
        assert (folder / f"{files.UNFINISHED}x").exists()
    assert merge(out).missing == {"1/2": "stopped before its end; run it again"}
    assert not (folder / f"{files.UNFINISHED}x").exists()


def test_merge_reports_what_is_missing_lost_or_made_otherwise(predictor, cases, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=str(out)):
        merge(out)
    predict_cases(predictor, cases, out, "1/3")
    assert merge(out).missing == {"2/3": "never started", "3/3": "never started"}
    predict_cases(predictor, cases[:-1], out, "2/3")
    predict_cases(predictor, cases, out, "3/3", attention=False)
    (out / cases[0].id / f"{cases[0].id}_prob.nii.gz").unlink()
    merged = merge(out)
    assert merged.missing == {}
    assert merged.lost == [cases[0].id]
    assert "4 cases (2/3)" in merged.disagreements[0]
    assert "2 different settings of maps" in merged.disagreements[1]
    assert merged.problems == 3
    assert str(merged).splitlines()[-1] == "3 of 3 shards came to their end; of their cases 3 are done, 0 failed"
    predict_cases(predictor, cases, out)
    with pytest.raises(ValueError, match=r"\b1\b.*\b3\b.*--shards"):
        merge(out)
    assert merge(out, 1).problems == 0
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"shards={number}"):
            merge(out, number)
    assert len(tables.read(out / "predictions.csv")) == len(cases)


def test_a_failure_is_read_whatever_its_message_holds(tmp_path):
    told = [{"case": "a", "message": "one\u2028two\x85three"}, {"case": "b", "message": ""}]
    (tmp_path / "failed.jsonl").write_text(
        "\n".join(json.dumps(one, ensure_ascii=False) for one in told) + '\n{"case": "c', encoding="utf-8")
    assert failures(tmp_path / "failed.jsonl") == told


def test_predictions_made_at_once_say_nothing_of_parts(predictor, cases, tmp_path):
    out = tmp_path / "out"
    cut(cases[1])
    said = [str(predict_cases(predictor, cases, out)), str(merge(out)), (out / "predictions.csv").read_text(),
            *(str(path.relative_to(out)) for path in out.rglob("*"))]
    (out / "log" / "record.json").unlink()
    (out / cases[0].id / "manifest.json").unlink()
    said += [str(merge(out))]
    assert "shard" not in " ".join(said)
    assert said[-1].splitlines()[0] == "predict: stopped before its end; run it again"


def test_cases_that_were_added_move_shards_and_are_the_only_ones_done(predictor, cases, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2):
        predict_cases(predictor, cases[1:], out, f"{number}/2")
    done = [predict_cases(predictor, cases, out, f"{number}/2").used for number in (1, 2)]
    assert list(done[0] | done[1]) == [cases[0].id]
    assert merge(out).problems == 0


def test_the_exit_status_of_merge_counts_and_ends_at_255(predictor, cases, tmp_path):
    cut(cases[1])
    out = tmp_path / "out"
    predict_cases(predictor, cases, out, "2/300")
    shown = CliRunner().invoke(app, ["merge", str(out)])
    assert shown.exit_code == 255
    assert "shard 300/300 is missing: never started" in shown.output
    assert shown.output.splitlines()[-1] == "1 of 300 shards came to their end; of their cases 0 are done, 1 failed"
    assert json.loads((out / "failed.jsonl").read_text())["case"] == cases[1].id
    predict_cases(predictor, cases[2:], out, "1/1")
    assert CliRunner().invoke(app, ["merge", str(out), "--shards", "1"]).exit_code == 0
    assert not (out / "failed.jsonl").exists()


@pytest.mark.parametrize("step", ["predicted", "saved"])
def test_a_prediction_that_is_interrupted_leaves_whole_cases_and_changes_no_input(predictor, cases, data, tmp_path,
                                                                                 monkeypatch, step):
    before = {path: path.read_bytes() for path in data.rglob("*.nii.gz")}
    assert len(before) >= 2 * len(cases)
    predict, out = predictor.predict, tmp_path / "out"

    def interrupted(prepared, *settings, **maps):
        if prepared.id == cases[1].id:
            raise KeyboardInterrupt
        return predict(prepared, *settings, **maps)

    def gone(*_, **__):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        if step == "predicted":
            patched.setattr(predictor, "predict", interrupted)
        else:
            patched.setattr(volumes, "write", gone)
        with pytest.raises(KeyboardInterrupt if step == "predicted" else OSError):
            predict_cases(predictor, cases, out)
    assert names(out) - {"log"} == ({cases[0].id} if step == "predicted" else set())
    assert names(out / "log") <= {LOCK}
    predict_cases(predictor, cases, out)
    assert names(out) == {case.id for case in cases} | {"log"}
    assert {path: path.read_bytes() for path in data.rglob("*.nii.gz")} == before


def test_the_table_lists_what_earlier_calls_did_in_the_same_way(predictor, cases, tmp_path):
    out = tmp_path / "out"
    for part in (cases[:1], cases[1:2]):
        predict_cases(predictor, part, out, "1/1")
    assert [row["case"] for row in merge(out).table] == sorted(case.id for case in cases[:2])
    manifest = out / cases[0].id / "manifest.json"
    made_from = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**made_from, "settings": {**made_from["settings"], "weights": "others"}}))
    merged = merge(out)
    assert [row["case"] for row in merged.table] == [cases[1].id]
    assert merged.problems == 0


def test_a_folder_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "one").write_text("old")
    rename = os.rename

    def failing(source, target):
        if target == tmp_path / "old" and (source / "two").exists():
            raise OSError("the disk is gone")
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="disk is gone"), files.whole_folder(tmp_path / "old") as writing:
            (writing / "two").write_text("new")
    assert (tmp_path / "old" / "one").read_text() == "old"
    with files.whole_folder(tmp_path / "old", tmp_path / "elsewhere") as writing:
        assert writing.parent == tmp_path / "elsewhere"
        (writing / "two").write_text("new")
    assert names(tmp_path / "old") == {"two"}
    assert names(tmp_path) == {"old", "elsewhere"}


def test_predictions_go_beside_the_run_unless_said(tmp_path):
    assert output_folder("runs/a") == output_folder("runs/a", None, None)
    assert str(output_folder("runs/a")) == os.path.join("runs", "a", "predictions")
    assert output_folder("runs/a", present="t1").name == "predictions_t1"
    assert output_folder("runs/a", present=["t1", "t2"]).name == "predictions_t1+t2"
    assert output_folder("runs/a", present=["t2", "t1", "t2"]).name == "predictions_t1+t2"
    Run(tmp_path).write_settings({"method": {"modalities": ["t1", "t2", "flair"]}})
    assert {output_folder(tmp_path, present=one).name for one in (["t2", "flair"], ["flair", "t2"])} == {
        "predictions_t2+flair"}
    assert output_folder("runs/a", "x", "t1").name == "x"

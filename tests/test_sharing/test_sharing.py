"""A shared model answers as the run did, names no case, and is read only as it was written."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from typer.testing import CliRunner

from maml_toolkit import MAML, Predictor, Trainer, evaluate, from_pretrained, save_pretrained, sharing
from maml_toolkit.__main__ import app
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation.intervals import interval
from maml_toolkit.evaluation.table import read_table
from maml_toolkit.methods import METHODS, build
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.runs import Run
from maml_toolkit.sharing.card import Facts, card, references, scores
from maml_toolkit.system.errors import DataError, DataWarning

LIVER = TASKS["liver_phases"]
DATA = "Phantoms made by maml_toolkit | no patient."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run of two epochs, measured from every subset on two new cases and on one that it was trained on."""
    folder = tmp_path_factory.mktemp("runs") / "liver"
    cases = phantoms.liver_phases(5, size=16)
    torch.manual_seed(0)
    method = MAML(LIVER.modalities, LIVER.classes, channels=(4, 6))
    Trainer(method, folder, LIVER, patch_size=(16, 16, 16), epochs=2, steps_per_epoch=1, device="cpu",
            precision="float32").fit(cases[:2], cases[2:3])
    table = evaluate(Predictor.load(folder, device="cpu"), [cases[0], *cases[3:]], "all")
    table.to_csv(folder / "metrics.csv", index=False)
    return folder


@pytest.fixture
def shared(run, tmp_path):
    return save_pretrained(run, tmp_path / "liver-maml", license="cc-by-4.0", data=DATA, data_license="CC0",
                           limits=["Phantoms only."])


def text_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def names_in(folder):
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


def prediction(predictor):
    return predictor(phantoms.liver_phases(1, size=16, seed=7)[0])


def test_it_answers_as_the_run_does(run, shared):
    here, there = Predictor.load(run, device="cpu"), from_pretrained(shared, device="cpu")
    assert (there.window, there.task, there.run) == (here.window, here.task, "liver-maml")
    assert np.array_equal(prediction(here).maps["logits"], prediction(there).maps["logits"])


def test_moved_elsewhere_it_answers_the_same_bits_in_another_process(run, shared, tmp_path):
    expected = prediction(Predictor.load(run, device="cpu"))
    elsewhere = tmp_path / "usb" / "given"
    elsewhere.parent.mkdir()
    shared.rename(elsewhere)
    code = ("import sys, numpy\nfrom maml_toolkit import from_pretrained\nfrom maml_toolkit.data import phantoms\n"
            "found = from_pretrained(sys.argv[1], device='cpu')(phantoms.liver_phases(1, size=16, seed=7)[0])\n"
            "numpy.savez('found.npz', **found.maps)")
    subprocess.run([sys.executable, "-c", code, "usb/given"], cwd=tmp_path, check=True)
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == set(expected.maps) > {"logits"}
        assert all(found[name].tobytes() == values.tobytes() for name, values in expected.maps.items())


def test_the_state_of_the_training_and_whatever_names_cases_stay_behind(run, shared):
    (checkpoint,) = (shared / "checkpoints").iterdir()
    assert checkpoint.name.startswith("best-step")
    assert {"README.md", "SHA256SUMS", "scores.csv", "settings.json", f"checkpoints/{checkpoint.name}/method.json",
            f"checkpoints/{checkpoint.name}/weights.safetensors"} <= set(names_in(shared))
    assert not [one for one in names_in(shared) if one.endswith((".pt", ".pth", ".pkl", ".bin"))]
    ids = {id for part in json.loads((run / "settings.json").read_text())["cases"].values() for id in part}
    ids |= set(pd.read_csv(run / "metrics.csv")["case"])
    assert len(ids) == 5
    for name in names_in(shared):
        content = (shared / name).read_bytes()
        assert not [id for id in ids if id.encode() in content], name
        assert str(run.parent).encode() not in content


def test_the_header_of_the_card_is_what_the_hub_reads(shared):
    header = yaml.safe_load(text_of(shared).split("---\n")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["library_name"] == "maml_toolkit"
    assert header["pipeline_tag"] == "image-segmentation"
    card = huggingface_hub.ModelCard(text_of(shared))
    assert card.data.to_dict()["tags"][-1] == "maml"


def test_the_card_says_what_the_model_is_made_of_and_what_nobody_knows(shared):
    text = text_of(shared)
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
        "Intended use", "Data", "Label scheme", "Training", "Scores", "Limits", "How to use", "Versions", "Citation"]
    assert DATA in text
    assert "- licence of the data: CC0" in text
    assert "- modalities: `arterial` (CT), `venous` (CT)" in text
    assert "Licence of this model: cc-by-4.0." in text
    for setting in ("| channels | `[4, 6]` |", "| patch_size | `[16, 16, 16]` |", "| learning_rate | `0.0003` |"):
        assert setting in text
    assert "2 cases for training, 1 for validation" in text
    assert "2 of 2 epochs" in text
    assert "| 1 | tumour | 1 | tumour |" in text
    assert "Research use only" in text
    assert "Of the 3 cases measured, 1 were trained or validated on; the scores above are too good" in text
    assert "It answers from 3 of the 3 subsets of its modalities (arterial+venous; arterial; venous)" in text
    assert "- Phantoms only." in text
    assert "not finished" not in text
    assert f"torch {torch.__version__}" in text
    assert "zhang2021modality" in text


def test_the_table_has_every_subset_with_its_interval(run, shared):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text_of(shared).splitlines()
            if line.startswith(("| ○", "| ●", "| average"))]
    assert [row[:2] for row in rows] == [["○", "●"], ["●", "○"], ["●", "●"], ["average", ""]]
    table = pd.read_csv(run / "metrics.csv")
    dice = table[table["metric"] == "dice"].groupby("present")["value"].mean() * 100
    expected = [dice["venous"], dice["arterial"], dice["arterial+venous"], dice.mean()]
    for row, of_table in zip(rows, expected, strict=True):
        mean, low, high = map(float, re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", row[2]).groups())
        assert mean == pytest.approx(of_table, abs=0.051)
        assert low <= mean <= high
        assert row[3] == "3"
    written = pd.read_csv(shared / "scores.csv")
    assert set(written["holds"]) == {"cases only"}
    assert "mean over cases and its 95 % interval, which holds cases only, of this one training" in text_of(shared)
    assert "case" not in written
    assert set(written["metric"]) == {"dice", "assd", "hd95"}


def tidy(rows):
    """A table of (case, present, Dice)."""
    return pd.DataFrame([{"case": case, "present": present, "value": value, "policy": "fused", "region": "tumour",
                          "metric": "dice", "unit": "fraction", "empty": ""} for case, present, value in rows])


def test_means_are_over_cases_and_the_average_over_subsets():
    found = scores(tidy([("a", "t1", 0.2), ("b", "t1", 0.4), ("a", "t2", 0.6), ("b", "t2", 0.6),
                                    ("a", "t1+t2", 0.8), ("b", "t1+t2", 1.0)]), ["t1", "t2"]).set_index("present")
    assert found["mean"].round(9).to_dict() == {"t1": 0.3, "t2": 0.6, "t1+t2": 0.9, "average": 0.6}
    average = found.loc["average"]                           # of case a 1.6 / 3, of case b 2 / 3
    of_cases = interval(np.array([1.6 / 3, 2 / 3]))
    assert (average["low"], average["high"]) == pytest.approx(tuple(np.clip(of_cases, 0, 1)))


def test_an_average_over_subsets_of_different_cases_has_no_interval_and_one_over_some_subsets_is_not_made():
    rows = [("a", "t1", 0.2), ("b", "t1", 0.4), ("a", "t2", 0.6), ("a", "t1+t2", 0.8)]
    found = scores(tidy(rows), ["t1", "t2"]).set_index("present")
    assert found.loc["average", "mean"] == pytest.approx((0.3 + 0.6 + 0.8) / 3)
    assert np.isnan(found.loc["average", "low"])
    assert "average" not in set(scores(tidy(rows[:3]), ["t1", "t2"])["present"])


def test_the_code_of_the_card_runs_as_printed(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = phantoms.liver_phases(2, size=16, seed=7)
    write_cases(cases, tmp_path / "data", "folders", LIVER)
    (code,) = re.findall(r"```python\n(.*?)```", text_of(shared), re.DOTALL)
    exec(code, {})
    for case in cases:
        assert (tmp_path / "predictions" / case.id / f"{case.id}_seg.nii.gz").exists()


def test_the_card_says_that_weights_were_rounded(run, shared, tmp_path):
    assert "float16" in text_of(save_pretrained(run, tmp_path / "half", license="mit", half=True)).split("## Limits")[1]
    assert "float16" not in text_of(shared)


def test_scores_of_other_weights_are_told(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    os.utime(copy / "metrics.csv", (0, 0))              # the training went on since
    with pytest.warns(DataWarning, match="older than the weights"):
        save_pretrained(copy, tmp_path / "shared", license="mit")


def test_cases_that_it_was_fitted_to_and_those_of_earlier_are_told(run, tmp_path):
    """Measured on a case that trained and on two others: one that it was fitted to, one that it trained on before."""
    copy = shutil.copytree(run, tmp_path / "copy")
    _, fitted, earlier = sorted(set(read_table(copy / "metrics.csv")["case"]))
    best = checkpoints.best(copy / "checkpoints")
    replace(Fitted.load(best), cases=(fitted,)).save(best)
    settings = Run(copy).settings
    Run(copy).write_settings(settings | {"cases": settings["cases"] | {"earlier training": [earlier]}})
    text = text_of(save_pretrained(copy, tmp_path / "shared", license="mit"))
    assert "learned from 3 cases" in text
    assert "Of the 3 cases measured, 3 were" in text


def test_without_a_measurement_the_card_says_so(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "metrics.csv").unlink()
    (copy / "history.csv").write_text((copy / "history.csv").read_text().rsplit("\n", 2)[0] + "\n")
    text = text_of(save_pretrained(copy, tmp_path / "shared", license="mit"))
    assert "Nothing was measured" in text
    assert "- licence of the data: not said" in text
    assert "did not say where the cases come from" in text
    assert "training was not finished" in text
    assert not (tmp_path / "shared" / "scores.csv").exists()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_card_and_its_sources(name):
    method = build(name, modalities=LIVER.modalities, classes=2, channels=(4, 6))
    predictor = Predictor(method, LIVER.with_spacing((1, 1, 1)), (16, 16, 16), device="cpu")
    text = card(predictor, Facts("hf://lab/liver", "mit"))
    assert "from_pretrained('hf://lab/liver')" in text
    assert f"`{name}`" in text
    assert "https://" in references(method)


@pytest.mark.parametrize(("license", "link", "said"), [
    ("", "", "none is guessed"), ("CC BY 4.0", "", "found the licence 'CC BY 4.0'"), ("other", "", "expected a link"),
    ("mit", "https://example.org", "expected a link")])
def test_the_licence_is_never_guessed(run, tmp_path, license, link, said):
    with pytest.raises(ValueError, match=said):
        save_pretrained(run, tmp_path / "new", license=license, license_link=link)
    assert not list(tmp_path.iterdir())


def test_another_licence_comes_with_its_link(run, tmp_path):
    text = text_of(save_pretrained(run, tmp_path / "new", license="other", license_link="https://example.org/l"))
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["license"], header["license_link"]) == ("other", "https://example.org/l")


def test_a_folder_that_holds_something_else_is_not_replaced(run, shared, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("…")
    for folder, said in ((tmp_path / "home", r"thesis\.tex"), (run, "would be lost"),
                         (run / "history.csv", "is a file")):
        with pytest.raises(ValueError, match=said):
            save_pretrained(run, folder, license="mit")
    (shared / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        save_pretrained(run, shared, license="mit")
    (shared / "notes.txt").unlink()
    assert "license: mit" in text_of(save_pretrained(run, shared, license="mit"))


def test_a_shared_model_is_not_shared_again(shared, tmp_path):
    with pytest.raises(ValueError, match="shared model"):
        save_pretrained(shared, tmp_path / "again", license="mit")


def test_whoever_may_read_the_settings_may_read_the_weights(shared):
    (weights,) = shared.glob("checkpoints/*/weights.safetensors")
    assert weights.stat().st_mode == (shared / "settings.json").stat().st_mode


def test_the_sums_are_those_of_sha256sum(shared):
    for line in (shared / "SHA256SUMS").read_text().splitlines():
        found, name = line.split("  ")
        assert found == hashlib.sha256((shared / name).read_bytes()).hexdigest()


def test_a_damaged_a_missing_and_an_unlisted_file_are_refused_together(shared):
    (checkpoint,) = (shared / "checkpoints").iterdir()
    weights = checkpoint / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (shared / "scores.csv").unlink()
    shutil.copytree(checkpoint, shared / "checkpoints" / "best-step-99999999")
    with pytest.raises(DataError) as found:
        from_pretrained(shared)
    said = str(found.value)
    assert re.search(r"weights\.safetensors: it is damaged", said)
    assert re.search(r"scores\.csv: it is listed and missing", said)
    assert re.search(r"best-step-99999999/method\.json: it is not listed", said)


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/hostname", "checkpoints/../../secret.txt"])
def test_a_sum_for_a_file_elsewhere_is_refused(shared, tmp_path, name):
    (tmp_path / "secret.txt").write_text("secret")
    with (shared / "SHA256SUMS").open("a") as sums:
        sums.write(f"{hashlib.sha256(b'secret').hexdigest()}  {name}\n")
    with pytest.raises(DataError, match="listed and missing"):
        from_pretrained(shared)


def resigned(shared):
    """What an author does who changes a file and its sum with it."""
    (shared / "SHA256SUMS").unlink()
    sharing.folder.write_sums(shared)


@pytest.mark.parametrize("text", ["", "[]", '{"task": 1, "trainer": {"patch_size": [16, 16, 16]}}', '{"task": {}}'])
def test_settings_that_hold_something_else_are_refused_by_name(shared, text):
    (shared / "settings.json").write_text(text)
    resigned(shared)
    with pytest.raises(DataError, match=r"settings\.json: .*\btask\b.*\bpatch size"):
        from_pretrained(shared)


def test_a_method_is_one_of_ours_and_nothing_beside_it_is_run(shared, tmp_path):
    (checkpoint,) = (shared / "checkpoints").iterdir()
    (shared / "maml.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (checkpoint / "training.pt").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    resigned(shared)
    assert from_pretrained(shared).method.name == "maml"
    settings = json.loads((checkpoint / "method.json").read_text())
    (checkpoint / "method.json").write_text(json.dumps(settings | {"method": "os.system"}))
    resigned(shared)
    with pytest.raises(ValueError, match=r"cannot be read|os\.system"):
        from_pretrained(shared)
    assert not (tmp_path / "ran").exists()


class Touch:
    """A pickle that writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_edited_card_and_a_file_beside_it_do_no_harm(shared):
    (shared / "README.md").write_text("edited on the hub")
    (shared / "notes.md").write_text("more")
    assert from_pretrained(shared).method.name == "maml"


def test_a_run_and_a_name_that_is_none_are_refused(run, tmp_path):
    with pytest.raises(DataError, match=r"Predictor\.load"):
        from_pretrained(run)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        from_pretrained(tmp_path / "nowhere" / "at" / "all")


class Hub:
    """What huggingface_hub does, at the boundary of its functions: repositories are folders."""

    def __init__(self, root, monkeypatch):
        self.root, self.asked = root, []
        for name in ("create_repo", "upload_folder", "snapshot_download"):
            monkeypatch.setattr(huggingface_hub, name, getattr(self, name))

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self.asked.append(("create", repo_id, repo_type, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id, repo_type, folder_path, allow_patterns, delete_patterns, commit_message):
        match = huggingface_hub.utils.filter_repo_objects
        for old in match(names_in(self.root / repo_id), allow_patterns=delete_patterns):
            (self.root / repo_id / old).unlink()
        for name in match(names_in(Path(folder_path)), allow_patterns=allow_patterns):
            (self.root / repo_id / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder_path) / name, self.root / repo_id / name)
        return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        self.asked.append(("fetch", repo_id, revision))
        into, match = self.root / "cache", huggingface_hub.utils.filter_repo_objects
        for name in match(names_in(self.root / repo_id), allow_patterns=allow_patterns):
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / repo_id / name, into / name)
        return str(into)


def test_what_is_sent_to_the_hub_comes_back_from_it_without_pickles(shared, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", monkeypatch)
    stale = tmp_path / "hub" / "lab" / "liver" / "checkpoints" / "best-step-99999999"
    stale.mkdir(parents=True)
    (stale / "method.json").write_text("{}")
    (shared / "training.pt").write_bytes(b"pickle")
    assert sharing.upload(shared, "lab/liver") == "https://hub/lab/liver/commit/1"
    assert names_in(tmp_path / "hub" / "lab" / "liver") == [one for one in names_in(shared) if one != "training.pt"]
    (tmp_path / "hub" / "lab" / "liver" / "evil.pkl").write_bytes(b"pickle")
    found = from_pretrained("hf://lab/liver@v1", device="cpu")
    assert found.run == "lab/liver@v1"
    assert hub.asked == [("create", "lab/liver", "model", True), ("fetch", "lab/liver", "v1")]
    assert not (tmp_path / "hub" / "cache" / "evil.pkl").exists()
    assert np.array_equal(prediction(found).maps["logits"], prediction(from_pretrained(shared)).maps["logits"])


def test_what_lies_beside_the_shared_files_is_not_sent(shared, tmp_path, monkeypatch):
    Hub(tmp_path / "hub", monkeypatch)
    before = names_in(shared)
    (shared / "metrics.csv").write_text("case,value\nDoe_John,1\n")
    (shared / "patients.json").symlink_to(tmp_path / "hub")
    sharing.upload(shared, "lab/liver")
    assert names_in(tmp_path / "hub" / "lab" / "liver") == before


@pytest.mark.parametrize("asked", [
    "hf://", "hf://lab", "hf:///etc/passwd", "hf://../liver", "hf://lab/..", "hf://lab/../../x", "hf://lab/liver/x",
    "hf://.ssh/id", "hf://-lab/liver", "hf://lab/li\nver", "hf://lab/liver@", "hf://lab/liver@../x", "hf://lab\\x/y"])
def test_names_that_lead_elsewhere_are_refused_before_the_hub_is_asked(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"expected (owner/name|a branch)"):
        from_pretrained(asked)


def test_the_network_is_used_for_names_of_the_hub_alone(shared, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", monkeypatch)
    monkeypatch.chdir(tmp_path)
    for source in ("lab/liver", Path("hf://lab/liver")):
        with pytest.raises(FileNotFoundError, match=r"hf://owner/name"):
            from_pretrained(source)
    assert from_pretrained("liver-maml").run == "liver-maml"
    assert hub.asked == []


def test_a_hub_that_cannot_be_reached_and_one_that_refuses_are_named_with_what_to_do(shared, monkeypatch):
    def away(*_, **__):
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder.")

    def refused(*_, **__):
        raise OSError("403 Forbidden")

    class OfTheClient(Exception):
        """httpx has errors of its own, which are no OSError."""

    def no_network(*_, **__):
        raise OfTheClient("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    monkeypatch.setattr(huggingface_hub, "create_repo", refused)
    with pytest.raises(FileNotFoundError, match=r"hf://lab/liver.+cached snapshot"):
        from_pretrained("hf://lab/liver")
    with pytest.raises(ConnectionError, match=r"lab/liver.+403.+hf auth login"):
        sharing.upload(shared, "lab/liver")
    monkeypatch.setattr(huggingface_hub, "create_repo", no_network)
    with pytest.raises(ConnectionError, match="Name or service not known"):
        sharing.upload(shared, "lab/liver")


def test_a_folder_needs_no_hub_and_a_name_without_it_says_what_to_install(shared, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert from_pretrained(shared).method.name == "maml"
    with pytest.raises(ModuleNotFoundError, match=r"a folder does not\); .*\.\[hub\]"):
        from_pretrained("hf://lab/liver")


def test_a_model_in_the_cache_of_the_hub_is_loaded_without_a_network(shared, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "home" / "hub" / "models--lab--liver"
    shutil.copytree(shared, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    code = ("from maml_toolkit import from_pretrained\nprint(from_pretrained('hf://lab/liver').run)\n"
            "try:\n    from_pretrained('hf://lab/other')\nexcept FileNotFoundError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"})
    assert done.stdout.startswith("lab/liver\nhuggingface.co did not give hf://lab/other: ")


def test_a_run_is_shared_and_exported_from_the_command_line(run, tmp_path):
    command = CliRunner()
    refused = command.invoke(app, ["share", str(run), str(tmp_path / "liver")])
    assert refused.exit_code == 1
    assert "no licence was given" in refused.output
    done = command.invoke(app, ["share", str(run), str(tmp_path / "liver"), "--license", "cc0-1.0", "--limit", "One.",
                                "--limit", "Two."])
    assert done.exit_code == 0, done.output
    assert "- One.\n- Two." in text_of(tmp_path / "liver")
    for source in (run, tmp_path / "liver"):
        done = command.invoke(app, ["export", str(source), str(tmp_path / "one.onnx"), "--modalities", "venous, ",
                                    "--contributions"])
        assert done.exit_code == 0, done.output
        assert "Largest difference from torch" in done.output
        session = onnxruntime.InferenceSession(str(tmp_path / "one.onnx"))
        assert [one.name for one in session.get_inputs()] == ["venous"]
        assert [one.name for one in session.get_outputs()] == ["logits", "contribution_venous"]


def test_an_upload_without_a_name_is_refused_before_anything_is_written(run, tmp_path):
    refused = CliRunner().invoke(app, ["share", str(run), str(tmp_path / "new"), "--license", "mit", "--upload"])
    assert refused.exit_code == 1
    assert "expected owner/name" in refused.output
    assert not (tmp_path / "new").exists()

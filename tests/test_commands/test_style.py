"""All commands alike: what comes first, how options are written, what a wrong word gets, where it ends."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import maml_toolkit
from maml_toolkit import Trainer
from maml_toolkit.__main__ import app
from maml_toolkit.commands import launching
from maml_toolkit.commands.notebooks import JOBS, final_score
from maml_toolkit.commands.parameters import options, parameters_of
from maml_toolkit.commands.shell import NEXT, next_step
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import write_cases
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.methods import build
from maml_toolkit.prediction.answering import POLICIES
from maml_toolkit.system.machine import PRECISIONS
from maml_toolkit.training.recipes import SCHEDULES

pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*"),
]
COMMANDS = typer.main.get_command(app).commands
MAIN = {"audit": ["data"], "prepare": ["data"], "train": ["prepared"], "plan": ["prepared"], "compare": ["prepared"],
        "predict": ["run", "data"], "evaluate": ["run", "data"], "report": ["run", "data"], "explore": ["run", "data"]}
LIVER = TASKS["liver_phases"]


def say(*words, status=0):
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == status, done.output
    return re.sub(r"\s+", " ", re.sub("[│╭╮╰╯─]", "", done.output))


def read(command, words):
    """The values that a command line gives, by name."""
    found = COMMANDS[command].make_context(command, list(words)).params
    if job := JOBS.get("train" if command == "plan" else command):
        return options(found["words"], parameters_of(job.notebook), job.places)
    return {name: str(value) for name, value in found.items() if value is not None}


@pytest.mark.parametrize("command", MAIN)
def test_the_main_input_comes_first_or_by_its_name(command):
    names = MAIN[command]
    values = dict(zip(names, ("first", "second"), strict=False))
    named = [word for name, value in values.items() for word in (f"--{name}", value)]
    for words in (list(values.values()), named, [*named[2:], *named[:2]],
                  [values[names[0]], *(f"--{name}={values[name]}" for name in names[1:])]):
        found = read(command, words)
        assert {name: found[name] for name in names} == values


def test_a_word_too_many_is_refused_with_how_a_list_is_written():
    with pytest.raises(ValueError, match=r"'b'.*--training '\[a, b\]'.*PREPARED"):
        read("train", ["prepared", "--training", "a", "b"])


@pytest.mark.parametrize(("command", "words", "name", "value"), [
    ("train", ["a", "--learning-rate", "1"], "learning_rate", 1), ("train", ["--learning_rate=1"], "learning_rate", 1),
    ("plan", ["a", "--steps-per-epoch", "3"], "steps_per_epoch", 3)])
def test_dashes_and_underscores_are_alike_for_parameters(command, words, name, value):
    assert read(command, words)[name] == value


@pytest.mark.parametrize("option", ["--data-license", "--data_license"])
def test_dashes_and_underscores_are_alike_for_options(option, monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr("maml_toolkit.sharing.save_pretrained", lambda *_, **more: given.update(more) or tmp_path)
    say("share", tmp_path, tmp_path / "x", option, "mine")
    assert given["data_license"] == "mine"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_says_the_version(command):
    assert say(*filter(None, [command]), "--version").strip() == f"maml_toolkit {maml_toolkit.__version__}"


@pytest.mark.parametrize("command", ["audit", "prepare", "predict", "evaluate", "explore", "register"])
def test_the_help_names_every_task_and_layout(command):
    shown = say(command, "--help")
    for name in (*TASKS, "brats2020", "nnU-Net", "Decathlon", "BIDS", ".csv"):
        assert name in shown


@pytest.mark.parametrize("command", ["share", "export", "merge", "mend"])
def test_the_help_of_a_command_that_takes_no_task_names_none(command):
    assert "prostatex" not in say(command, "--help")


@pytest.mark.parametrize(("notebook", "name", "known"), [
    ("2-train", "precision", {"auto", *PRECISIONS}), ("3-predict", "precision", {"auto", *PRECISIONS}),
    ("4-evaluate", "precision", {"auto", *PRECISIONS}), ("5-compare", "precision", {"auto", *PRECISIONS}),
    ("3-predict", "policy", {*POLICIES}), ("2-train", "schedule", {*SCHEDULES, "None"}),
    ("5-compare", "schedule", {*SCHEDULES})])
def test_the_words_to_choose_from_are_those_that_the_library_knows(notebook, name, known):
    assert set(re.findall(r"[\w-]+", parameters_of(notebook)[name].kind)) == known


@pytest.mark.parametrize(("words", "expected"), [
    (["train", "--schedule", "one-cicle"], "--schedule: found 'one-cicle' (did you mean 'one-cycle'?), expected one"),
    (["predict", "--checkpoint", "last"], "--checkpoint: found 'last', expected one of best, newest"),
    (["prepare", "--workers", "many"], "--workers: found 'many', expected a whole number"),
    (["evaluate", "--smallest-mm3", "3"], "--smallest_mm3: found '3', expected"),
    (["train", "--epocs", "3"], "'epocs' (did you mean 'epochs'?)")])
def test_a_wrong_value_is_answered_by_the_name_of_its_parameter(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert expected in say(*words, status=1)


@pytest.mark.parametrize(("words", "near"), [
    (["trian"], "train"), (["audit", "x", "--taks", "a"], "--task"), (["fit", "--checkpont", "x"], "--checkpoint")])
def test_a_near_command_or_option_is_suggested(words, near):
    assert near in say(*words, status=2)


def test_nothing_is_suggested_that_is_not_near():
    for words in (["segment"], ["audit", "x", "--folder", "a"]):
        shown = say(*words, status=2).lower()
        assert "did you mean" not in shown
        assert "possible" not in shown
    with pytest.raises(ValueError, match="'pet'"):
        Task.named("pet")
    with pytest.raises(ValueError, match="'brats2020'"):
        Task.named("BraTS2020")
    assert Task.named("brats2020") == TASKS["brats2021"]


@pytest.mark.parametrize("after", NEXT)
def test_what_comes_next_is_a_command_that_is_read(after):
    given = {"data": "my data", "run": ["runs/a", "runs/b"], "out": "x", "prepared": "p", "task": "brats2021"}
    if after in ("evaluate", "compare", "explore", "report"):
        given["run"] = "runs/a"
    command, *words = shlex.split(next_step(after, given))[4:]
    assert not {"RUN", "DATA", "OUT", "PREPARED"} & {*words} or after in ("train", "demo")
    found = read(command, words)
    for name in {"run", "data"} & set(found):
        if after not in ("train", "demo"):
            assert found[name] == given[name]


def test_from_the_folder_to_the_page_each_command_says_where_and_what_next(tmp_path, monkeypatch):
    """The way of a new user, who types what the command before said."""
    monkeypatch.chdir(tmp_path)
    write_cases(phantoms.liver_phases(3, size=16), tmp_path / "data", "folders", LIVER)
    shown = say("audit", "data", "--task", "liver_phases")
    words = {"prepare": ["--workers", "1"], "predict": ["--device", "cpu", "--maps", "false"],
             "train": ["--validation", "liver-0-002", "--epochs", "2", "--steps-per-epoch", "1", "--batch-size", "1",
                       "--channels", "4 8", "--patch-size", "16 16 16", "--validate-every", "1"],
             "evaluate": ["--device", "cpu", "--metrics", "dice"]}
    where = {"prepare": tmp_path / "prepared", "train": tmp_path / "runs" / "first",
             "predict": "runs/first/predictions", "evaluate": tmp_path / "runs" / "first" / "metrics.csv"}
    for command, place in where.items():
        asked = re.search(r"Next: python -m maml_toolkit (\w+)(.*)$", shown)
        assert asked[1] == command
        shown = say(command, *shlex.split(asked[2].replace("DATA", "data")), *words[command])
        assert str(place) in shown
    assert "Next: python -m maml_toolkit explore runs/first data" in shown
    assert "Validation Dice (%) after epoch 2: tumour" in final_score({"run": "runs/first"})
    assert "Next: python -m maml_toolkit explore runs/first data" in say("report", "runs/first", "data", "--shown", "1")


def test_a_model_of_the_toolkit_needs_no_folder_and_a_near_run_is_suggested(tmp_path, monkeypatch):
    """By each command that takes a trained run first; a page is not served here, only begun."""
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr(launching, "serve", lambda *given: served.append(given) or 0)
    write_cases(phantoms.brains(1, 16), "data", "folders", TASKS["brats2021"])
    (tmp_path / "runs" / "first").mkdir(parents=True)
    say("explore", "brain-2mm", "data", "--no-browser")
    assert served[0][1]["run"] == Path("brain-2mm")
    for command in ("predict", "evaluate", "report", "explore"):
        assert "did you mean 'first'?" in say(command, "runs/frist", "data", status=1)
    assert not (tmp_path / "runs" / "frist").exists()


def test_the_score_at_the_end_is_that_of_the_history(tmp_path):
    torch.manual_seed(0)
    method = build("maml", modalities=LIVER.modalities, classes=2, channels=(2, 4))
    settings = {"patch_size": (16, 16, 16), "batch_size": 1, "epochs": 2, "steps_per_epoch": 1, "device": "cpu"}
    Trainer(method, tmp_path / "run", LIVER, **settings).fit(phantoms.liver_phases(2, 16))
    assert re.search(r"2 epochs\. Loss \d\.\d{3}; there were no validation", final_score({"run": tmp_path / "run"}))
    rows = "epoch,stage,step,loss/total,validation/dice/tumour\n1,train,1,1.0,0.5\n2,train,2,0.9,0.25\n3,train,3,0.8,\n"
    (tmp_path / "run" / "history.csv").write_text(rows)
    assert final_score({"run": tmp_path / "run"}).endswith(
        "3 epochs. Validation Dice (%) after epoch 2: tumour 25.0. Best mean: 50.0, after epoch 1.")
    rows = "epoch,stage,step,loss/total,validation/dice/tumour,validation/dice/rim\n1,train,1,1.0,0.5,\n"
    (tmp_path / "run" / "history.csv").write_text(rows)
    assert "tumour 50.0. " in final_score({"run": tmp_path / "run"})
    assert json.loads((tmp_path / "run" / "settings.json").read_text())

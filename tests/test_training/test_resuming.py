"""A run that was interrupted, however, ends as the one that was not; a run that cannot go on exactly says so."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import (
    HERE,
    LIVER,
    StoppedError,
    environment,
    interrupted,
    often_killed,
    same_end,
    trainer,
    weights,
)

from maml_toolkit.data.cases import Case, find_cases, write_cases
from maml_toolkit.data.tasks import Task
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.checkpoints import CheckpointError, CheckpointWarning
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.locks import HeldError, held
from maml_toolkit.system.processes import Stopped
from maml_toolkit.training import resuming
from maml_toolkit.training.recipes import SCHEDULES, Recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cases):
    """A run folder whose training is done, with the checkpoints of steps 3 and 6; only looked at."""
    folder = tmp_path_factory.mktemp("finished")
    trainer(folder).fit(cases)
    return folder


@pytest.fixture
def run(tmp_path, finished):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path, position=0.5):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {"a flipped bit": flip, "cut short": cut, "missing": lambda path: path.unlink()}


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, cases, schedule):
    whole = trainer(tmp_path / "whole", schedule=schedule)
    expected = whole.fit(cases)
    interrupted(trainer(tmp_path / "halves", schedule=schedule), 4, cases)    # epoch 1 is saved, epoch 2 is lost
    resumed = trainer(tmp_path / "halves", schedule=schedule, seed=9)
    history = resumed.fit(cases)
    assert torch.equal(weights(whole), weights(resumed))
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_a_run_is_resumed_in_the_middle_of_an_epoch(tmp_path, cases):
    whole = trainer(tmp_path / "whole")
    expected = whole.fit(cases)
    interrupted(trainer(tmp_path / "halves", checkpoint_minutes=0), 5, cases)
    assert checkpoints.newest(tmp_path / "halves" / "checkpoints").name == "step-00000005"
    resumed = trainer(tmp_path / "halves", seed=9)
    history = resumed.fit(cases)
    assert torch.equal(weights(whole), weights(resumed))
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_what_answers_gain_is_learned_also_where_that_was_stopped(tmp_path, cases, monkeypatch):
    """The last step is saved before the validation cases are asked, so the run looked finished."""
    trainer(tmp_path / "whole").fit(cases[:2], cases[2:])
    with monkeypatch.context() as patched:
        patched.setattr("maml_toolkit.evaluation.fitting.fit_smallest", lambda *_, **__: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped, match="goes on from step 6"):
            trainer(tmp_path / "stopped").fit(cases[:2], cases[2:])
    trainer(tmp_path / "stopped").fit(cases[:2], cases[2:])
    same_end(tmp_path / "whole", tmp_path / "stopped")
    whole, stopped = (Fitted.load(checkpoints.best(tmp_path / run / "checkpoints")) for run in ("whole", "stopped"))
    assert whole == stopped != Fitted()
    before = sorted((tmp_path / "stopped").rglob("*"))
    trainer(tmp_path / "stopped").fit(cases[:2], cases[2:])      # and then it is finished
    assert sorted((tmp_path / "stopped").rglob("*")) == before


def test_other_settings_are_refused_with_the_difference(tmp_path, cases):
    trainer(tmp_path).fit(cases)
    with pytest.raises(ValueError, match=r"trainer\.learning_rate: .*0\.01.*0\.1"):
        trainer(tmp_path, learning_rate=0.1).fit(cases)
    with pytest.raises(ValueError, match=r"method\.method: .*'maml'.*'late_fusion'"):
        trainer(tmp_path, method="late_fusion").fit(cases)


def test_a_run_that_was_begun_before_an_argument_existed_goes_on_with_its_default(tmp_path, cases):
    trainer(tmp_path).fit(cases)
    for path in (tmp_path / "settings.json", *(tmp_path / "checkpoints").glob("*/method.json")):
        path.write_text(path.read_text().replace('"subset_weight": 0.0,', ""))
        if path.name == "method.json":
            checkpoints.sign(path.parent)
    trainer(tmp_path).fit(cases)
    with pytest.raises(ValueError, match=r"method\.subset_weight: .*0\.0.*1\.0"):
        trainer(tmp_path, own={"subset_weight": 1.0}).fit(cases)


def test_tuples_are_the_settings_that_lists_are(tmp_path, cases):
    for strides in ([(1, 1, 1), (2, 2, 2)], [[1, 1, 1], [2, 2, 2]]):
        trainer(tmp_path, own={"strides": strides}).fit(cases)


def test_a_run_with_a_learning_rate_of_numpy_goes_on(tmp_path, cases):
    """Such as one from `numpy.logspace`: its checkpoints could be written and never read."""
    one = trainer(tmp_path / "one", learning_rate=np.logspace(-2, -1, 2)[0], checkpoint_minutes=0)
    interrupted(one, 2, cases)
    trainer(tmp_path / "one", checkpoint_minutes=0).fit(cases)
    trainer(tmp_path / "two", checkpoint_minutes=0).fit(cases)
    same_end(tmp_path / "one", tmp_path / "two")


def test_what_a_killed_save_left_is_swept_away(tmp_path, cases):
    (tmp_path / "checkpoints" / ".writing-step-00000003-x").mkdir(parents=True)
    trainer(tmp_path).fit(cases)
    assert not list((tmp_path / "checkpoints").glob(".writing*"))


def test_stages_are_resumed_where_they_stopped(tmp_path, cases):
    whole = trainer(tmp_path / "whole", method="kdnet")
    expected = whole.fit(cases)
    interrupted(trainer(tmp_path / "halves", method="kdnet"), 8, cases)     # in the middle of the students' stage
    interrupted(trainer(tmp_path / "parts", method="kdnet"), 6, cases)      # at its first step
    for folder in ("halves", "parts"):
        resumed = trainer(tmp_path / folder, method="kdnet", seed=9)
        history = resumed.fit(cases)
        assert torch.equal(weights(whole), weights(resumed))
        pd.testing.assert_frame_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"))


@pytest.mark.slow
def test_fifty_kills_at_random_moments_lose_nothing(tmp_path, cases):
    script = [sys.executable, str(HERE / "tiny_training.py"), "training", str(tmp_path / "killed"), "50"]
    ended = subprocess.run(script, env=environment(), capture_output=True, text=True, check=True)
    log = json.loads(ended.stdout.splitlines()[-1])
    assert (log["killed"], log["status"]) == (50, 0)
    assert log["steps"] == sorted(log["steps"])             # nothing saved was ever lost
    often_killed(tmp_path / "whole").fit(cases[:2], cases[2:])
    same_end(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob(".*"))


def test_half_the_budget_twice_is_the_budget_once(tmp_path, cases):
    trainer(tmp_path / "whole", epochs=4).fit(cases)
    trainer(tmp_path / "halves", epochs=2).fit(cases)
    trainer(tmp_path / "halves", epochs=4, seed=9).fit(cases)
    same_end(tmp_path / "whole", tmp_path / "halves")


def test_more_epochs_are_refused_where_they_would_change_the_steps_done(tmp_path, cases):
    trainer(tmp_path / "poly", schedule="poly").fit(cases)
    with pytest.raises(ValueError, match=r"trainer\.epochs: .*2.*4"):
        trainer(tmp_path / "poly", schedule="poly", epochs=4).fit(cases)
    trainer(tmp_path / "stages", method="kdnet", epochs=1).fit(cases)
    with pytest.raises(ValueError, match=r"(?s)trainer\.epochs: .*1.*2.*\n.*trainer\.epochs"):
        trainer(tmp_path / "stages", method="kdnet", epochs=2).fit(cases, changed=True)


def test_more_epochs_in_the_first_of_several_stages_are_those_of_a_longer_run(tmp_path, cases):
    interrupted(trainer(tmp_path / "longer", method="kdnet", epochs=1, checkpoint_minutes=0), 2, cases)
    trainer(tmp_path / "longer", method="kdnet", epochs=2).fit(cases)
    trainer(tmp_path / "whole", method="kdnet", epochs=2).fit(cases)
    same_end(tmp_path / "whole", tmp_path / "longer")


def test_what_a_method_draws_from_torch_is_drawn_again(tmp_path, cases):
    """A method of one's own may have dropout, which draws from torch's random numbers."""
    def noisy(run, **settings):
        one = trainer(run, **settings)
        loss = one.method.loss

        def with_noise(images, labels, generator):
            return loss({name: torch.dropout(image, 0.5, True) for name, image in images.items()}, labels, generator)

        one.method.loss = with_noise
        return one

    noisy(tmp_path / "whole").fit(cases)
    interrupted(noisy(tmp_path / "halves", checkpoint_minutes=0), 4, cases)
    noisy(tmp_path / "halves", seed=9).fit(cases)
    same_end(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["weights.safetensors", "method.json", "training.pt", "checksums.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(cases, finished, run, name, damage):
    DAMAGES[damage](run / "checkpoints" / "step-00000006" / name)
    with pytest.warns(CheckpointWarning, match=r"(?s)step-00000006.*step-00000003"):
        trainer(run, seed=9).fit(cases)
    same_end(finished, run)


def test_where_no_checkpoint_is_whole_nothing_starts_again(cases, run):
    for path in (run / "checkpoints").glob("*/training.pt"):
        flip(path)
    before = (run / "history.csv").read_bytes()
    with pytest.raises(CheckpointError, match=r"(?s)step-00000006.*step-00000003"):
        trainer(run).fit(cases)
    assert (run / "history.csv").read_bytes() == before
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_a_history_without_checkpoints_is_not_begun_again(cases, run):
    for path in (run / "checkpoints").iterdir():
        checkpoints.remove(path)
    with pytest.raises(CheckpointError, match=r"history\.csv.*\b2\b.*checkpoints"):
        trainer(run).fit(cases)


def test_settings_that_cannot_be_read_are_named(cases, run):
    cut(run / "settings.json")
    with pytest.raises(ValueError, match=r"settings\.json"):
        trainer(run).fit(cases)


@pytest.mark.parametrize("cache", [None, "arrays"])
def test_other_contents_of_a_file_are_refused_by_case(tmp_path, cases, cache):
    found = find_cases(write_cases(cases, tmp_path / "data", "folders", LIVER), LIVER)
    settings = {"cache": cache and tmp_path / cache, "epochs": 1}
    trainer(tmp_path / "run", **settings).fit(found)
    path = found[1].images["venous"]
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), path)
    longer = settings | {"epochs": 2}
    with pytest.raises(ValueError, match=f"contents: .*{found[1].id}"):
        trainer(tmp_path / "run", **longer).fit(found)
    trainer(tmp_path / "run", **longer).fit(found, changed=True)
    changes = json.loads((tmp_path / "run" / "settings.json").read_text())["changed"]
    assert changes[0]["step"] == 3
    assert len(changes[0]["changes"]) == 2
    trainer(tmp_path / "run", **longer).fit(found)              # those are the data of the run now


def test_the_same_files_elsewhere_are_the_same_data(tmp_path, cases):
    for place in ("here", "there"):
        found = find_cases(write_cases(cases, tmp_path / place, "folders", LIVER), LIVER)
        trainer(tmp_path / "run", epochs=1).fit(found)


def test_checksums_are_computed_once_for_a_cached_case(tmp_path, cases, monkeypatch):
    found = find_cases(write_cases(cases, tmp_path / "data", "folders", LIVER), LIVER)
    trainer(tmp_path / "run", cache=tmp_path / "arrays").fit(found)
    monkeypatch.setattr("maml_toolkit.data.cache.content", lambda *_: pytest.fail("was computed again"))
    trainer(tmp_path / "run", cache=tmp_path / "arrays").fit(found)


def test_files_that_cannot_be_read_are_all_named(tmp_path, cases):
    found = find_cases(write_cases(cases, tmp_path / "data", "folders", LIVER), LIVER)
    found[0].images["venous"].unlink()
    cut(found[1].images["venous"])
    with pytest.raises(DataError) as caught:
        trainer(tmp_path / "run").fit(found)
    assert [error.case for error in caught.value.errors] == [found[0].id, found[1].id]
    assert all(error.remedy for error in caught.value.errors)


def test_other_cases_are_refused_by_name(cases, run):
    with pytest.raises(ValueError, match=r"cases\.training: .*liver-0-002.*\n.*cases\.validation: .*liver-0-002"):
        trainer(run).fit(cases[:2], cases[2:])
    renamed = [replace(case, id=f"{case.id}x") for case in cases]
    with pytest.raises(ValueError, match=r"cases\.training: .*liver-0-000, .*liver-0-000x, "):
        trainer(run).fit(renamed)


def test_what_a_task_has_no_more_is_a_difference_too(cases, run):
    """What a task has by default is not written down, so that it is only seen in the settings of before."""
    settings = json.loads((run / "settings.json").read_text())
    for more, said in (({"ignore": 9}, "task.ignore: 9 before, None now"), ({"codes": {}, "sides": None}, "")):
        (run / "settings.json").write_text(json.dumps({**settings, "task": settings["task"] | more}))
        with pytest.raises(ValueError, match=said) if said else nullcontext():
            trainer(run).fit(cases)


def test_other_settings_are_accepted_where_they_are_meant(cases, run):
    trainer(run, epochs=3, learning_rate=0.1).fit(cases, changed=True)
    history = pd.read_csv(run / "history.csv")
    assert list(history["learning_rate"]) == [0.01, 0.01, 0.1]
    settings = json.loads((run / "settings.json").read_text())
    assert settings["trainer"]["learning_rate"] == 0.1
    assert settings["changed"] == [{"step": 6, "changes": ["trainer.epochs: 2 before, 3 now",
                                                           "trainer.learning_rate: 0.01 before, 0.1 now"]}]


def test_the_best_of_other_validation_cases_is_not_the_one_to_beat(tmp_path, cases):
    """Dice of other cases is another number: the first validation on these is the best of them so far."""
    def best(epochs, validation, score):
        one = trainer(tmp_path, epochs=epochs)
        one.validate = lambda _: {"tumour": score}
        one.fit(cases[:1], validation, changed=True)
        return checkpoints.best(tmp_path / "checkpoints").name

    assert best(1, cases[1:2], 0.9).endswith("3")
    assert best(2, cases[1:2], 0.5).endswith("3")
    assert best(3, cases[2:], 0.5).endswith("9")
    assert Run(tmp_path).best(Run(tmp_path).epochs()) == (0.5, 3)       # not the 0.9 of the first


def test_a_run_that_is_killed_at_once_still_knows_that_its_best_is_of_other_cases(tmp_path, cases):
    """The difference is written down before the first step; the checkpoint from which the run goes on is older."""
    def one(epochs, score):
        found = trainer(tmp_path, epochs=epochs)
        found.validate = lambda _: {"tumour": score}
        return found

    one(1, 0.9).fit(cases[:1], cases[1:2])
    killed = one(2, 0.5)
    killed._epoch = lambda *_: (_ for _ in ()).throw(StoppedError)
    with pytest.raises(StoppedError):
        killed.fit(cases[:1], cases[2:], changed=True)
    one(2, 0.5).fit(cases[:1], cases[2:])
    assert checkpoints.best(tmp_path / "checkpoints").name.endswith("6")


def test_a_run_that_went_on_with_other_cases_has_seen_the_earlier_ones(tmp_path, cases):
    """Three cases in turn: the first trained, the second validated and was trained on then, the third validated."""
    first, second, third = (case.id for case in cases)
    trainer(tmp_path, epochs=1).fit(cases[:1], cases[1:2])
    trainer(tmp_path, epochs=2).fit(cases[1:2], cases[2:], changed=True)
    known = Run(tmp_path).settings["cases"]
    assert known == {"training": [second], "validation": [third], "earlier training": [first],
                     "earlier validation": [second]}
    assert Run(tmp_path).about_seen([first, "new"]).startswith("1 of the 2 cases")
    trainer(tmp_path, epochs=3).fit(cases[:1], cases[2:], changed=True)
    assert Run(tmp_path).settings["cases"] == {"training": [first], "validation": [third],
                                               "earlier training": [second], "earlier validation": [second]}


def test_what_cannot_change_is_refused_even_where_it_is_meant(cases, run):
    with pytest.raises(ValueError, match=r"batch_size: .*\n.*steps_per_epoch: .*3.*4.*\n.*trainer\.steps_per_epoch"):
        trainer(run, steps_per_epoch=4, batch_size=4).fit(cases, changed=True)
    with pytest.raises(ValueError, match=r"(?s)'maml'.*'late_fusion'.*weights"):
        trainer(run, method="late_fusion").fit(cases, changed=True)


def test_a_finished_run_takes_on_nothing_that_it_was_not_made_with(tmp_path, cases):
    """Nothing would be trained or validated any more, and settings.json would say that it was."""
    trainer(tmp_path, epochs=1).fit(cases[:1], cases[1:2])
    before = Run(tmp_path).settings
    for given, training, validation, named in (
            ({}, cases[:1], cases[2:], "cases.validation"), ({}, cases[1:2], (), "cases.training"),
            ({"learning_rate": 0.5}, cases[:1], cases[1:2], "trainer.learning_rate")):
        with pytest.raises(ValueError, match=named):
            trainer(tmp_path, epochs=1, **given).fit(training, validation, changed=True)
        assert Run(tmp_path).settings == before


def test_many_names_are_shortened():
    before, now = ({"cases": {"training": ids}} for ids in (list("abcdefgh"), ["h"]))
    assert resuming.differences(before, now) == {
        "cases.training": "cases.training: a, b, c, d, e and 2 more only before"}


def test_the_second_process_leaves_before_anything_is_read(tmp_path, cases):
    gone = [Case(case.id, {name: tmp_path / f"{case.id}_{name}" for name in case.images}, case.label) for case in cases]
    (tmp_path / "run").mkdir()
    with held(tmp_path / "run"), pytest.raises(HeldError, match=str(os.getpid())):
        trainer(tmp_path / "run").fit(gone)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock", "checkpoints"}


def test_a_run_that_was_taken_over_writes_no_more(tmp_path, cases):
    one = trainer(tmp_path)
    step = one.step

    def overtaken(*arguments):
        (tmp_path / "lock").write_text("{}")
        return step(*arguments)

    one.step = overtaken
    with pytest.raises(HeldError, match=str(tmp_path)):
        one.fit(cases)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_another_order_of_the_classes_is_another_task():
    tasks = [{"task": Task("two", ["t1"], labels, regions={"all": ("a", "b")}).to_json()} for labels in (
        {"background": 0, "a": 1, "b": 2}, {"background": 0, "b": 2, "a": 1})]
    assert list(resuming.differences(*tasks)) == ["task.labels"]
    assert resuming.differences(tasks[0], tasks[0]) == {}


def test_what_an_optimiser_does_is_what_it_is_told_now_and_another_kind_is_refused(cases, tmp_path):
    def told(**recipe):
        own = Recipe(**{"optimizer": "sgd", "schedule": "constant", **recipe})
        one = trainer(tmp_path, epochs=told.epochs, recipe=own)
        step, seen = one.step, []

        def watched(stage, batch, optimizer, *more):
            seen.append({name: optimizer.param_groups[0].get(name) for name in ("momentum", "weight_decay")})
            return step(stage, batch, optimizer, *more)

        one.step = watched
        one.fit(cases, changed=True)
        told.epochs += 1
        return seen[-1]

    told.epochs = 1
    assert told(momentum=0.9) == {"momentum": 0.9, "weight_decay": 0}
    assert told(momentum=0.5, weight_decay=0.1) == {"momentum": 0.5, "weight_decay": 0.1}
    before = Run(tmp_path).settings
    with pytest.raises(ValueError, match="optimizer"):
        told(optimizer="adam")
    assert Run(tmp_path).settings == before


def test_a_run_that_goes_on_without_validation_answers_by_what_it_came_to(cases, tmp_path):
    trainer(tmp_path, epochs=1).fit(cases[:1], cases[1:2])
    assert checkpoints.best(tmp_path / "checkpoints").name.startswith("best")
    trainer(tmp_path, epochs=2).fit(cases[:2], changed=True)
    assert checkpoints.best(tmp_path / "checkpoints") == checkpoints.newest(tmp_path / "checkpoints")

"""The Trainer: learns, saves, resumes, refuses."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import LIVER, trainer, weights

from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.methods import MAML, METHODS, build
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.errors import DataError, MissingModalityError
from maml_toolkit.training.recipes import SCHEDULES
from maml_toolkit.training.trainer import Trainer


def test_the_loss_falls(tmp_path, cases):
    history = trainer(tmp_path, epochs=3, steps_per_epoch=10).fit(cases)
    assert history["loss/total"].iloc[-1] < 0.9 * history["loss/total"].iloc[0]


def test_the_history_names_the_terms_of_the_loss(tmp_path, cases):
    trainer(tmp_path, validate_every=2).fit(cases[:2], cases[2:])
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history["epoch"]) == [1, 2]
    assert {"step", "seconds", "learning_rate", "loss/total", "loss/joint", "loss/intra/arterial", "loss/intra/venous",
            "validation/dice/tumour"} <= set(history)
    assert history["validation/dice/tumour"].isna().tolist() == [True, False]
    assert Predictor.load(tmp_path).fitted == Predictor.load(tmp_path, "newest").fitted != Fitted()


def test_a_finished_run_is_left_as_it_is(tmp_path, cases):
    first = trainer(tmp_path)
    first.fit(cases)
    again = trainer(tmp_path, seed=1)
    again.fit(cases)
    assert torch.equal(weights(first), weights(again))


def test_a_run_says_where_it_begins_and_goes_on(tmp_path, cases, capsys):
    for epochs, said in ((2, "begins at step 0 of 6."), (2, "is finished, 6 steps."),
                         (3, "goes on from step 6 of 9.")):
        trainer(tmp_path, epochs=epochs).fit(cases)
        assert f"{tmp_path} {said}" in capsys.readouterr().out


def test_a_run_says_in_one_line_which_precision_was_chosen_and_why(tmp_path, cases, capsys, monkeypatch):
    for has, said in ((True, "precision: bfloat16, in which"), (False, "precision: float32, since")):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda has=has: {"avx512_bf16": has})
        trainer(tmp_path / str(has), epochs=1, device="cpu").fit(cases)
        assert [line.partition(" this")[0] for line in capsys.readouterr().out.splitlines() if "precision" in line] == [
            said]
    trainer(tmp_path / "asked", epochs=1, precision="float32").fit(cases)
    assert "precision" not in capsys.readouterr().out


def test_modalities_that_the_task_does_not_have_are_named_with_the_nearest(tmp_path):
    method = MAML(("arterail", "venous"), 2, channels=(4, 6))
    with pytest.raises(ValueError, match=r"'arterail'.*'arterial'"):
        Trainer(method, tmp_path, TASKS["liver_phases"], patch_size=(16, 16, 16))


def test_a_trained_run_is_loaded_by_its_folder(tmp_path, cases):
    one = trainer(tmp_path)
    one.fit(cases)
    predictor = Predictor.load(tmp_path)
    assert predictor.window == (16, 16, 16)
    assert predictor.task.spacing_mm == (1, 1, 1)
    for name, parameter in predictor.method.state_dict().items():
        assert torch.equal(parameter, one.method.state_dict()[name])


def test_the_best_checkpoint_by_validation_is_kept(tmp_path, cases):
    one = trainer(tmp_path, epochs=3, validate_every=1)
    scores = iter([{"tumour": 0.2}, {"tumour": 0.6}, {"tumour": 0.4}])
    one.validate = lambda _: next(scores)
    one.fit(cases[:2], cases[2:])
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["best-step-00000006", "step-00000006", "step-00000009"]
    assert checkpoints.best(tmp_path / "checkpoints").name == "best-step-00000006"
    fitted, newest = Predictor.load(tmp_path).fitted, Predictor.load(tmp_path, "newest").fitted
    assert set(fitted.by_size) == {1, 2}
    assert {policy: set(own) for policy, own in fitted.smallest_mm3.items()} == {
        policy: {"tumour"} for policy in ("fused", "heads", "by-size")}
    assert fitted.cases == (cases[2].id,)
    assert newest == Fitted()       # its weights are others


def test_cases_that_lack_modalities_train_with_what_they_have(tmp_path, cases):
    names = [("arterial",), ("venous",), ("arterial", "venous")]
    mixed = [Case(case.id, {name: case.images[name] for name in own}, case.label)
             for case, own in zip(cases, names, strict=True)]
    one = trainer(tmp_path, steps_per_epoch=6, learning_rate=1e-6)
    before = weights(one).clone()
    history = one.fit(mixed)
    assert not torch.equal(before, weights(one))
    # a term's mean is over the steps that had it, else it would fall with each step that lacked it
    assert history.filter(like="loss/intra").min().min() > 1


def test_a_mono_modal_network_trains_on_multi_modal_cases(tmp_path, cases):
    one = trainer(tmp_path, method="early_fusion", modalities=("venous",))
    one.fit(cases)
    assert Predictor.load(tmp_path)(cases[0]).modalities == ("venous",)


@pytest.mark.parametrize(("settings", "message"), [
    ({"patch_size": (15, 16, 16)}, r"\(15, 16, 16\).*\(2, 2, 2\)"),
    ({"patch_size": (2, 2, 2)}, r"patch of \(2, 2, 2\)"),
    ({"schedule": "cosine"}, "one-cycle"),
    ({"epochs": 0}, "epochs"), ({"learning_rate": -1.0}, "learning_rate"), ({"modalities": ("t1", "t2")}, "t1"),
    ({"precision": "float8"}, "precision"), ({"device": "cuda"}, "device")])
def test_settings_out_of_their_range_are_refused_before_anything_is_read(tmp_path, settings, message):
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **settings)


def refusal(one, *cases):
    """What the Trainer says of cases that it does not train on."""
    with pytest.raises(DataError) as caught:
        one.fit(*cases)
    assert caught.value.remedy
    return caught.value


def test_bad_cases_are_refused_before_training(tmp_path, cases):
    unlabelled = Case("x", cases[0].images)
    lacking = Case("x", {"venous": cases[0].images["venous"]}, cases[0].label)
    assert refusal(trainer(tmp_path / "a"), [unlabelled]).case == "x"
    assert refusal(trainer(tmp_path / "b"), [cases[0], cases[0]]).case == "liver-0-000"
    assert refusal(trainer(tmp_path / "c"), []).case is None
    assert refusal(trainer(tmp_path / "d"), cases, [cases[0]]).case == "liver-0-000"
    assert refusal(trainer(tmp_path / "e"), cases, [unlabelled]).case == "x"
    missing = refusal(trainer(tmp_path / "f", method="early_fusion"), [lacking])
    assert isinstance(missing, MissingModalityError)
    assert missing.case == "x"
    assert "arterial" in missing.problem
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said_before_the_compute(tmp_path, cases):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match=str(tmp_path / "file")):
        trainer(tmp_path / "file" / "run").fit(cases)


def test_schedules_start_and_end_where_they_should():
    assert [SCHEDULES["constant"](done) for done in (0, 1)] == [1, 1]
    assert [SCHEDULES["poly"](done) for done in (0, 1)] == [1, 0]
    assert SCHEDULES["one-cycle"](0) == pytest.approx(0.04)
    assert SCHEDULES["one-cycle"](0.3) == pytest.approx(1)
    assert SCHEDULES["one-cycle"](1) == pytest.approx(0)
    assert all(0 <= SCHEDULES[name](done) <= 1 for name in SCHEDULES for done in np.linspace(0, 1, 50))


def test_everything_about_the_run_is_written_down(tmp_path, cases):
    trainer(tmp_path, own={"attention": "released"}).fit(cases)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["method"]["attention"] == "released"
    assert settings["task"]["spacing_mm"] == [1, 1, 1]
    assert settings["trainer"]["steps_per_epoch"] == 3


@pytest.mark.parametrize("sampling", ["uniform", "nested"])
def test_a_set_of_which_no_case_is_complete_trains_every_part(tmp_path, sampling):
    """Four modalities, every case lacks something: the intra terms of those present, and subsets drawn from them."""
    brain = TASKS["brats2021"]
    lacking = (("t1",), ("t1ce", "flair"), ("t2",), ("t1", "t2"))
    cases = [Case(case.id, {name: image for name, image in case.images.items() if name not in absent}, case.label)
             for case, absent in zip(phantoms.brains(4, size=16), lacking, strict=True)]
    torch.manual_seed(0)
    network = build("maml", modalities=brain.modalities, classes=4, channels=(4, 6), subset_weight=1,
                    ranking_weight=0.1, subset_sampling=sampling)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    one = Trainer(network, tmp_path, brain, patch_size=(16, 16, 16), epochs=2, steps_per_epoch=12, learning_rate=1e-2)
    history = one.fit(cases)
    assert history["loss/total"].iloc[-1] < history["loss/total"].iloc[0]
    assert {"loss/subset", "loss/ranking", *(f"loss/intra/{name}" for name in brain.modalities)} <= set(history)
    assert [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])] == []
    assert Predictor.load(tmp_path)(cases[1]).modalities == ("t1", "t2")


def test_a_teacher_is_trained_before_its_students_and_travels_with_them(tmp_path, cases):
    one = trainer(tmp_path, method="kdnet", validate_every=1)
    history = one.fit(cases[:2], cases[2:])
    assert list(history["stage"]) == ["teacher", "teacher", "students", "students"]
    assert history["validation/dice/tumour"].isna().tolist() == [True, True, False, False]
    again = checkpoints.load(checkpoints.newest(tmp_path / "checkpoints"))
    assert torch.equal(again.teacher.encoder.stages[0][0][0].weight, one.method.teacher.encoder.stages[0][0][0].weight)


def test_cases_that_the_teacher_cannot_use_are_refused_by_name(tmp_path, cases):
    lacking = Case("x", {"venous": cases[0].images["venous"]}, cases[0].label)
    missing = refusal(trainer(tmp_path, method="kdnet"), [lacking])
    assert isinstance(missing, MissingModalityError)
    assert missing.case == "x"
    assert "arterial" in missing.problem


def test_a_task_with_sides_is_trained_without_mirrors_from_left_to_right(tmp_path):
    labels = {"background": 0, "left lesion": 1}
    sided = Task("sides", ("arterial", "venous"), labels, intensities="ct", spacing_mm=(1, 1, 1))
    cases = phantoms.liver_phases(2, size=16)
    for name, task, chance in (("sided", sided, 0), ("not", replace(sided, sides=()), 0.5)):
        trainer = Trainer(build("maml", modalities=task.modalities, classes=2, channels=(4, 8)), tmp_path / name, task,
                          patch_size=(16, 16, 16), epochs=1, steps_per_epoch=1, augmentation=Augmentation(mirror=0.5))
        trainer.fit(cases)
        assert json.loads(trainer.run.folder.joinpath("settings.json").read_text())["trainer"]["augmentation"][
            "mirror"] == [chance, 0.5, 0.5]


def test_a_method_that_its_checkpoints_would_not_give_back_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    class Own(MAML):
        """Which has the name of MAML still."""

    class Named(Own):
        name = "named"

    settings = {"modalities": LIVER.modalities, "classes": 2, "channels": (4, 6)}
    for method, found in ((Own(**settings), "'maml' in METHODS, MAML,"), (Named(**settings), "in METHODS, none,")):
        with pytest.raises(ValueError, match=found):
            Trainer(method, tmp_path / "run", LIVER, patch_size=(8, 8, 8))
    monkeypatch.setitem(METHODS, "named", Named)
    assert Trainer(Named(**settings), tmp_path / "run", LIVER, patch_size=(8, 8, 8)).steps

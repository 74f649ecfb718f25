"""Callbacks hear of everything, change nothing and cannot end a training."""

import pytest
import torch
from tiny_training import LIVER

from maml_toolkit import Trainer
from maml_toolkit.data import phantoms
from maml_toolkit.methods import build
from maml_toolkit.training.callbacks import Callback, MLflow, TensorBoard

SETTINGS = {"patch_size": (8, 8, 8), "batch_size": 1, "steps_per_epoch": 2, "device": "cpu", "validate_every": 2}


def train(run, epochs=2, callbacks=()):
    torch.manual_seed(0)
    method = build("maml", modalities=LIVER.modalities, classes=2, channels=(2, 4))
    cases = phantoms.liver_phases(3, 12)
    trainer = Trainer(method, run, LIVER, epochs=epochs, callbacks=callbacks, **SETTINGS)
    trainer.fit(cases[:2], cases[2:])
    return trainer


class Listening(Callback):
    def __init__(self):
        self.heard = []

    def begin(self, trainer, settings):
        self.heard.append(("begin", settings["trainer"]["epochs"]))

    def epoch(self, trainer, row):
        assert trainer.history()["epoch"].max() == row["epoch"]      # saved before it is told
        self.heard.append(("epoch", row["epoch"]))
        torch.rand(5)

    def validation(self, trainer, scores):
        self.heard.append(("validation", set(scores)))

    def checkpoint(self, trainer, folder):
        assert (folder / "weights.safetensors").exists() or any(folder.iterdir())
        self.heard.append(("checkpoint", folder.name))

    def end(self, trainer, history):
        self.heard.append(("end", len(history)))


class Broken(Callback):
    def epoch(self, trainer, row):
        raise OSError("no network")


def test_everything_is_heard_in_order_and_the_weights_are_those_without(tmp_path):
    one = Listening()
    heard, plain = train(tmp_path / "heard", callbacks=[one]), train(tmp_path / "plain")
    kinds = [kind for kind, _ in one.heard if kind != "checkpoint"]
    assert kinds == ["begin", "epoch", "validation", "epoch", "end"]
    assert ("validation", {"tumour"}) in one.heard
    assert len([kind for kind, _ in one.heard if kind == "checkpoint"]) >= 2
    assert all(torch.equal(a, b) for a, b in zip(heard.method.state_dict().values(), plain.method.state_dict().values(),
                                                 strict=True))


def test_a_callback_that_raises_is_named_left_out_and_the_training_goes_on(tmp_path):
    listening = Listening()
    with pytest.warns(UserWarning, match="Broken") as warned:
        trainer = train(tmp_path, callbacks=[Broken(), listening])
    assert len([one for one in warned if "Broken" in str(one.message)]) == 1
    assert len(trainer.history()) == 2
    assert listening.heard[-1] == ("end", 2)


def test_an_unknown_name_is_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match="tensorboard"):
        train(tmp_path, callbacks=["tensorbord"])


def test_tensorboard_has_every_number_of_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train(tmp_path, callbacks=[TensorBoard()]).history()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(one.step, one.value) for one in events.Scalars("loss/total")]
    assert [step for step, _ in found] == history["step"].tolist()
    assert [value for _, value in found] == pytest.approx(history["loss/total"].tolist(), rel=1e-6)


def test_mlflow_has_one_run_for_each_run_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "tracked").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(tmp_path / "run", 1, [MLflow()])
    history = train(tmp_path / "run", 2, [MLflow()]).history()
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss/total")
    assert [one.step for one in points] == history["step"].tolist()
    assert run.data.params["method.method"] == "maml"
    assert run.info.status == "FINISHED"

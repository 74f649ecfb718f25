"""Batches that are made ready while the one before is used, and a step for which the computer waits once."""

import threading
import time

import pytest
import torch
from tiny_training import batch_of, trainer

from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.patches import ahead
from maml_toolkit.methods import METHODS
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.training import distributed, stepping
from maml_toolkit.training.trainer import Trainer

WAITS = ("item", "__float__", "__bool__", "__int__", "__index__", "cpu", "tolist", "numpy")
"""Methods of a tensor for which the computer waits for a GPU."""


def counted(monkeypatch, where):
    """Have a list filled with the methods that were called and waited for."""
    for name, plain in {name: getattr(torch.Tensor, name) for name in WAITS}.items():
        def waiting(tensor, *given, name=name, plain=plain, **more):
            where.append(name)
            return plain(tensor, *given, **more)

        monkeypatch.setattr(torch.Tensor, name, waiting)


def test_the_count_of_waits_counts(monkeypatch):
    found = []
    with monkeypatch.context() as patched:
        counted(patched, found)
        one = torch.ones(1)
        _ = float(one), bool(one), int(one), one.item(), one.cpu(), one.tolist(), one.numpy(), [0, 1][one.long()]
    assert sorted(found) == sorted(WAITS)


AUGMENTATIONS = {"nothing drawn": None, "everything drawn": Augmentation(rotation=1, scaling=1, elastic=1, gamma=1)}


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_computer_waits_once_for_a_step(tmp_path, monkeypatch, method, precision, augmentation):
    own = {"subset_weight": 1.0, "ranking_weight": 0.1, "distillation_weight": 0.1} if method == "maml" else {}
    one = trainer(tmp_path, method=method, precision=precision, accumulate=2, own=own,
                  augmentation=None)
    drawn = AUGMENTATIONS[augmentation]
    one.method.train()
    for stage in one.method.stages():
        optimizer, found = one.optimizer(stage), []
        for number in range(2):             # the first also makes the optimiser's state
            one.step(stage, batch_of(one.method.modalities, drawn), optimizer, 1e-3, number).found()
        with monkeypatch.context() as patched:
            batch = batch_of(one.method.modalities, drawn)
            counted(patched, found)
            launched = one.step(stage, batch, optimizer, 1e-3, 2)
            # what is drawn on the computer is no wait for the device
            assert [name for name in found if name not in ("__int__", "__index__")] == []
            terms = launched.found().terms
        assert [name for name in found if name not in ("__int__", "__index__")] == ["tolist"]
        assert len(terms) == 2
        assert all(part["total"] > 0 for part in terms)


def test_the_next_is_made_while_one_is_used():
    made, used = [], threading.Event()

    def make(number):
        made.append((number, used.is_set()))
        return number

    results = ahead(range(3), make)
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    used.set()
    assert made == [(0, False), (1, False)]
    assert list(results) == [1, 2]
    assert [number for number, _ in made] == [0, 1, 2]


def test_an_error_reaches_who_uses_them_and_nothing_at_all_is_nothing():
    results = ahead([1, 0, 1], lambda number: 1 / number)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(ahead([], str)) == []


def test_who_stops_early_leaves_no_thread():
    before = threading.active_count()
    results = ahead(iter(range(10**9)), str)
    assert next(results) == "0"
    results.close()
    assert threading.active_count() == before


def test_off_a_gpu_batches_stay_as_they_are():
    batches = [batch_of(("a",)), batch_of(("a",))]
    assert [one is other for one, other in
            zip(stepping.on_device(batches, torch.device("cpu")), batches, strict=True)] == [True, True]


def test_convolutions_are_tried_out_for_steps_and_not_for_predictions(tmp_path, monkeypatch):
    found, before = {"step": set(), "prediction": set()}, torch.backends.cudnn.benchmark
    step, windows = Trainer.step, Predictor._over_windows
    monkeypatch.setattr(Trainer, "step", lambda *given: (found["step"].add(torch.backends.cudnn.benchmark),
                                                          step(*given))[1])
    monkeypatch.setattr(Predictor, "_over_windows", lambda *given: (
        found["prediction"].add(torch.backends.cudnn.benchmark), windows(*given))[1])
    cases = phantoms.liver_phases(3, size=16)
    trainer(tmp_path).fit(cases[:2], cases[2:])
    assert found == {"step": {True}, "prediction": {False}}
    assert torch.backends.cudnn.benchmark == before
    Predictor.load(tmp_path)(cases[0])
    assert torch.backends.cudnn.benchmark == before


def test_a_case_asks_for_the_bias_once_however_many_windows_it_has(tmp_path, monkeypatch):
    one = trainer(tmp_path)
    case = phantoms.liver_phases(1, size=(40, 24, 24))[0]
    predictor, found = Predictor(one.method, one.task, (16, 16, 16)), []
    prepared = predictor.prepared(case)
    with monkeypatch.context() as patched:
        counted(patched, found)
        prediction = predictor.predict(prepared)
    assert found.count("cpu") == len(prediction.maps) + 1
    assert prediction.bias == pytest.approx(one.method.classifier.bias.tolist())


def test_processes_speak_once_a_step(tmp_path, monkeypatch):
    said, gathered = [], distributed.gathered
    monkeypatch.setattr(distributed, "gathered", lambda value: (said.append(value), gathered(value))[1])
    trainer(tmp_path, epochs=1, steps_per_epoch=6).fit(phantoms.liver_phases(2, size=16))
    steps = [one for one in said if isinstance(one, dict) and "terms" in one]
    assert len(steps) == 6 + 1                              # each asks what the one before found, and the last its own
    assert sum(len(one["terms"]) for one in steps) == 6
    assert len(said) == len(steps) + 1                      # and the random numbers for the checkpoint

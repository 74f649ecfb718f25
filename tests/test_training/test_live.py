"""The picture of a training: one output, kept up to date, of the facts, and never at the price of a run."""

import json
import re

import numpy as np
import papermill
import pytest
import torch
from browser import notebook
from scipy.ndimage import binary_dilation
from tiny_training import LIVER, environment, trainer
from tqdm import tqdm

from maml_toolkit.data import phantoms
from maml_toolkit.data.findings import height_of_lesion, slice_through
from maml_toolkit.data.label_sets import IGNORED
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.data.volumes import Volume
from maml_toolkit.methods import build
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.training import live
from maml_toolkit.training.trainer import BAR
from maml_toolkit.training.training_data import mean_dice, validated

QUICK = {"device": "cpu", "steps_per_epoch": 1, "patch_size": (8, 8, 8), "validate_every": 2}


class Screen:
    """Stands in for IPython's display: what is on show, and how often it was made and changed."""

    def __init__(self):
        self.made, self.changed, self.now, self.said = 0, 0, {}, []

    def __call__(self, bundle, raw, display_id):
        self.made, self.now = self.made + 1, bundle
        self.said.append(bundle["text/plain"])
        return self

    def update(self, bundle, raw):
        self.changed, self.now = self.changed + 1, bundle
        self.said.append(bundle["text/plain"])


@pytest.fixture
def screen(monkeypatch):
    found = Screen()
    monkeypatch.setattr("IPython.display.display", found)
    return found


def test_one_picture_is_kept_up_to_date_and_ends_with_what_the_history_says(tmp_path, screen, cases):
    one = trainer(tmp_path / "run", live=True, epochs=4, **QUICK)
    history = one.fit(cases[:2], cases[2:])
    assert screen.made == 1
    assert screen.said[0].startswith("run: epoch 0 of 4")
    said, html = screen.now["text/plain"], screen.now["text/html"]
    assert f"epoch 4 of 4, total {history['loss/total'].iloc[-1]:.3f}" in said
    assert f"Dice {history.filter(like='validation/').iloc[-1].mean():.3f}" in said
    assert all(len(line) < 80 for line in screen.said)
    assert cases[2].id in html
    assert html.count("<img") == 4                          # curves, ground truth and prediction, one class
    assert len(html) < 60_000
    assert "<script" not in html


def test_the_worst_validation_case_is_the_one_with_the_lowest_dice(tmp_path, screen):
    cases = phantoms.liver_phases(4, 16)
    one = trainer(tmp_path / "run", live=True, epochs=2, **QUICK)
    one.fit(cases[:2], cases[2:])
    worst = min(one.validated, key=lambda found: found.dice["tumour"])
    assert f"Worst validation case, {worst.case}: tumour {worst.dice['tumour']:.3f}" in screen.now["text/html"]


@pytest.mark.parametrize("looked_at", [False, True])
def test_slices_of_validation_cases_are_cut_only_if_somebody_looks(tmp_path, screen, cases, looked_at):
    one = trainer(tmp_path / "run", live=looked_at, epochs=2, **QUICK)
    one.fit(cases[:1], cases[1:2])
    assert [found.section is not None for found in one.validated] == [looked_at]


def test_a_picture_that_fails_ends_in_a_warning_and_the_weights_are_the_same(tmp_path, screen, cases, monkeypatch):
    plain = trainer(tmp_path / "plain", live=False, **QUICK)
    plain.fit(cases[:2])
    watched = trainer(tmp_path / "watched", live=True, **QUICK)
    watched.fit(cases[:2])
    monkeypatch.setattr(live, "page", lambda *_: 1 / 0)
    broken = trainer(tmp_path / "broken", live=True, **QUICK)
    with pytest.warns(UserWarning, match=r"\bLive\b.*'begin'.*ZeroDivisionError"):
        broken.fit(cases[:2])
    for one in (watched, broken):
        assert all(torch.equal(a, b) for a, b in zip(plain.method.state_dict().values(),
                                                     one.method.state_dict().values(), strict=True))
    assert len(broken.history()) == 2


def test_pictures_take_a_small_share_of_the_time(tmp_path, screen, cases, monkeypatch):
    clock = iter(np.arange(0, 10_000, 1.0))             # a second passes whenever somebody looks at it

    class Clock:
        monotonic = staticmethod(lambda: float(next(clock)))

    monkeypatch.setattr(live, "time", Clock)
    one = trainer(tmp_path / "run", live=True, epochs=5, **QUICK)
    one.fit(cases[:1])
    assert screen.changed == 1                          # a picture took a second, and fifty have not passed: the end's


def test_it_is_on_in_the_kernel_of_a_notebook_alone(tmp_path, monkeypatch):
    def listening(**settings):
        return [type(one) for one in trainer(tmp_path / "run", **QUICK, **settings).callbacks.listening]

    assert listening() == []
    assert listening(live=True) == [live.Live]
    monkeypatch.setattr("IPython.get_ipython", lambda: type("Shell", (), {"kernel": object()})())
    assert listening() == [live.Live]
    assert listening(live=False) == []


def test_an_executed_notebook_holds_the_last_picture_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    path = notebook(tmp_path / "in.ipynb", "from tiny_training import trainer\nfrom maml_toolkit.data import phantoms",
                    f"trainer({str(tmp_path / 'run')!r}, epochs=3, device='cpu', steps_per_epoch=1, "
                    "patch_size=(8, 8, 8)).fit(phantoms.liver_phases(2, 12));")
    papermill.execute_notebook(path, tmp_path / "out.ipynb", progress_bar=False, kernel_name="python3")
    written = json.loads((tmp_path / "out.ipynb").read_text())
    shown = [one for one in written["cells"][-1]["outputs"] if one["output_type"] == "display_data"]
    assert len(shown) == 1
    assert "epoch 3 of 3" in "".join(shown[0]["data"]["text/plain"])
    assert set(shown[0]["data"]) == {"text/plain", "text/html"}
    assert "widgets" not in written["metadata"]


@pytest.mark.parametrize(("step", "total", "rate"), [(12, 24, 2.2), (72_345, 150_000, 0.52), (149_000, 150_000, 41.7)])
def test_at_80_columns_epoch_total_rate_and_time_left_are_readable(step, total, rate):
    line = tqdm.format_meter(step, total, step / rate, ncols=79, prefix="train", unit="step", rate=rate,
                             postfix="epoch 596, total 12.734", bar_format=BAR)
    assert len(line) <= 79
    left = tqdm.format_interval((total - step) / rate)
    speed = f"{rate:.2f}step/s" if rate > 1 else f"{1 / rate:.2f}s/step"
    assert re.match(rf"train: \d+%, epoch 596, total 12\.734, +{re.escape(speed)}, {left} left ", line)


def test_what_validation_finds_of_each_case_averages_to_what_is_written(cases):
    method = build("late_fusion", modalities=LIVER.modalities, classes=2, channels=(2, 4))
    prepared = [prepare(case, LIVER.with_spacing(1)) for case in cases[:2]]
    predictor = Predictor(method, LIVER, (16, 16, 16), device="cpu")
    found = validated(predictor, prepared, sections=True)
    assert [one.case for one in found] == [case.id for case in cases[:2]]
    unseen = validated(predictor, prepared)
    assert [(one.dice, one.section) for one in unseen] == [(one.dice, None) for one in found]
    assert mean_dice(found, LIVER) == {"tumour": pytest.approx(np.mean([one.dice["tumour"] for one in found]))}
    for one, case in zip(found, prepared, strict=True):
        scan, truth, answer = one.section
        near = binary_dilation(truth > 0, iterations=12) & (truth == 0)
        assert abs(scan[truth > 0].mean() - scan[near].mean()) > 55      # though the air around it is far darker
        assert (truth > 0).any() == (np.asarray(case.labels) == 1).any()
        assert set(np.unique(answer)) <= {0, 1}
        assert IGNORED not in truth


def test_what_is_outside_of_a_brain_is_black_beside_the_worst_answer():
    task = TASKS["brats2021"].with_spacing(1)
    method = build("late_fusion", modalities=task.modalities, classes=task.classes, channels=(2, 4))
    (case,) = (prepare(one, task) for one in phantoms.brains(1, size=24))
    (found,) = validated(Predictor(method, task, (16, 16, 16), device="cpu"), [case], sections=True)
    outside = slice_through(Volume(np.asarray(case.images["t1"]), case.grid.working_affine),
                            height_of_lesion(Volume(np.asarray(case.labels), case.grid.working_affine))) == 0
    assert outside.any()
    assert (found.section[0][outside] == 0).all()
    assert found.section[0][~outside].std() > 30


def test_planned_memory_and_time_are_on_the_card_until_time_is_measured(tmp_path, cases):
    one = trainer(tmp_path / "run", **QUICK)
    (tmp_path / "run").mkdir()
    one.run.plan.write_text(json.dumps({"memory": 31.4e9, "hours": 8}))
    html = one._repr_html_()
    assert "31 GB" in html
    assert "8.0 hours" in html
    one.fit(cases[:1])
    html = one._repr_html_()
    assert "8.0 hours" not in html
    assert f"{one.history()['seconds'].median():.3g} s an epoch" in html
    one.run.plan.write_text("{")
    assert "cannot be drawn" not in one._repr_html_()

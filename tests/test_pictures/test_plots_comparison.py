"""Figures of comparisons: what is drawn is what was found."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import compare
from maml_toolkit.methods import build
from maml_toolkit.pictures import plots
from maml_toolkit.prediction.predictor import Predictor

LIVER = TASKS["liver_phases"]


@pytest.fixture(autouse=True)
def no_windows():
    mpl.use("agg")
    yield
    plt.close("all")


def test_differences_are_drawn_in_points_with_their_intervals(comparison):
    ax = plots.differences(comparison)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(comparison["other"])
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
    intervals = [line.get_xdata() for line in lines[1:]]        # the first is that of no difference
    np.testing.assert_allclose([list(one) for one in intervals], 100 * comparison[["low", "high"]].to_numpy())
    assert "points" in ax.get_xlabel()
    assert plots.differences(comparison, ax=plt.subplots()[1]).figure is not ax.figure


def test_rows_that_differ_in_a_subset_say_which(comparison):
    doubled = comparison.assign(present=["t1", "t2"])
    assert [label.get_text() for label in plots.differences(doubled).get_yticklabels()] == ["nnUNet, t1", "HeMIS, t2"]


@pytest.fixture
def comparison():
    random = np.random.default_rng(0)
    about = {"run": "", "fold": 0, "seed": 0, "policy": "", "present": "t1", "region": "ET", "metric": "dice",
             "unit": "fraction", "empty": ""}
    return compare(pd.DataFrame([{**about, "method": method, "case": case, "value": random.random() + shift}
                                 for method, shift in (("MAML", 0.2), ("nnUNet", 0), ("HeMIS", 0.1))
                                 for case in range(12)]), "MAML")


def test_cases_are_rows_and_systems_columns():
    cases = phantoms.liver_phases(2, size=16)
    torch.manual_seed(0)
    network = build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6))
    predictor = Predictor(network, LIVER, (16, 16, 16))
    answers = {"venous alone": [predictor(case, "venous") for case in cases], "both": list(map(predictor, cases))}
    axes = plots.side_by_side(cases, LIVER, answers)
    assert axes.shape == (2, 2)
    assert axes[0, 0].get_title() == "venous alone\non venous"
    assert axes[1, 1].get_title() == "on arterial"
    assert axes[1, 0].get_ylabel() == cases[1].id
    with pytest.raises(ValueError, match=r"expected 2, one for each case"):
        plots.side_by_side(cases, LIVER, {"both": answers["both"][:1]})
    with pytest.raises(ValueError, match="expected 4"):
        plots.side_by_side(cases, LIVER, answers, axes=plt.subplots(1, 3)[1])

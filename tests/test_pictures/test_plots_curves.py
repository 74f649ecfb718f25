"""Curves pass through the means of their tables, and say what they stand for."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from maml_toolkit.data.tasks import TASKS
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.plots import deletion_curves, randomisation_curves
from maml_toolkit.pictures.plots.look import region_colours

SHARES = (0.0, 0.25, 1.0)
ORDERS = ("contribution", "attention", "distance", "random")
LAYERS = ("nothing", "classifier", "fusion")


def curves(cases: int = 2, measures=("deletion", "insertion")) -> pd.DataFrame:
    """Case 0 falls from 1 to 0.5 to 0, each further one lies 0.1 lower; a second random seed lies 0.2 lower still."""
    return pd.DataFrame([{"case": case, "method": "maml", "run": "", "class": "tumour", "order": order, "seed": seed,
                          "measure": measure, "share": share,
                          "value": (middle if measure == "deletion" else 1 - middle) - 0.1 * case - 0.2 * seed}
                         for case in range(cases) for order in ORDERS for seed in range(1 + (order == "random"))
                         for measure in measures for share, middle in zip(SHARES, (1, 0.5, 0), strict=True)])


def correlations(seeds: int = 2) -> pd.DataFrame:
    """Contributions turn from 1 to ±0.4 by the seed, attention to 0.1."""
    return pd.DataFrame([{"case": "x", "map": kind, "modality": "all", "layer": layer, "seed": seed,
                          "value": 1.0 if layer == "nothing" else left * (-1) ** seed}
                         for seed in range(seeds) for kind, left in (("contribution", 0.4), ("attention", 0.1))
                         for layer in LAYERS])


def line(ax, name):
    return next(one for one in ax.lines if one.get_label() == name)


def test_a_curve_is_the_mean_over_cases():
    ax = deletion_curves(curves())
    np.testing.assert_allclose(line(ax, "contribution").get_xdata(), [0, 25, 100])
    np.testing.assert_allclose(line(ax, "contribution").get_ydata(), [0.95, 0.45, -0.05])
    assert ax.get_title() == "deletion"
    assert "replaced" in ax.get_xlabel()


def test_seeds_of_a_case_are_averaged_and_do_not_count_as_cases():
    ax = deletion_curves(curves())
    np.testing.assert_allclose(line(ax, "random").get_ydata(), [0.85, 0.35, -0.15])
    band = ax.collections[list(ORDERS).index("random")].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(0.85 + np.std([0.9, 0.8], ddof=1) / np.sqrt(2))


def test_insertion_is_drawn_when_it_is_asked_for():
    ax = deletion_curves(curves(), "insertion")
    np.testing.assert_allclose(line(ax, "contribution").get_ydata(), [-0.05, 0.45, 0.95])
    assert "put back" in ax.get_xlabel()


def test_orders_that_know_nothing_of_the_network_are_dashed():
    ax = deletion_curves(curves())
    styles = {name: line(ax, name).get_linestyle() for name in ORDERS}
    assert styles == {"contribution": "-", "attention": "-", "distance": "--", "random": "--"}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(ORDERS)


def test_one_case_has_no_spread():
    deletion_curves(curves(1))


def test_lines_show_the_size_of_correlations_and_points_their_sign():
    ax = randomisation_curves(correlations())
    np.testing.assert_allclose(line(ax, "contribution").get_ydata(), [1, 0.4, 0.4])
    np.testing.assert_allclose(line(ax, "attention").get_ydata(), [1, 0.1, 0.1])
    points = [one for one in ax.lines if one.get_marker() == "o"]
    assert sorted(one.get_ydata()[1] for one in points) == pytest.approx([-0.4, -0.1, 0.1, 0.4])
    assert [label.get_text() for label in ax.get_xticklabels()] == list(LAYERS)


def test_a_map_without_a_correlation_is_left_out():
    table = correlations()
    table.loc[table["map"] == "attention", "value"] = np.nan
    ax = randomisation_curves(table)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["contribution"]


def test_tables_without_curves_are_refused():
    with pytest.raises(ValueError, match=r"'insertion'.*\bdeletion\b"):
        deletion_curves(curves(measures=("deletion",)), "insertion")
    with pytest.raises(ValueError, match="nothing"):
        deletion_curves(curves().iloc[:0])
    with pytest.raises(ValueError, match="correlation"):
        randomisation_curves(correlations().assign(value=np.nan))


def test_given_axes_are_drawn_into_and_returned():
    axes = plt.subplots(1, 2)[1]
    assert deletion_curves(curves(), ax=axes[0]) is axes[0]
    assert randomisation_curves(correlations(), axes[1]) is axes[1]


def test_drawing_leaves_the_users_style_alone():
    before = dict(mpl.rcParams)
    deletion_curves(curves())
    randomisation_curves(correlations())
    assert dict(mpl.rcParams) == before


def history(epochs: int) -> pd.DataFrame:
    number = np.arange(1, epochs + 1)
    return pd.DataFrame({"epoch": number, "step": 250 * number, "loss/total": 2.0 / number,
                         "loss/joint": 1.0 / number, "validation/dice/WT": np.where(number % 2, np.nan, 0.5)})


def test_learning_curves_leave_out_epochs_without_validation():
    losses, dice = plots.learning_curves(history(6))
    assert {line.get_label() for line in losses.lines} == {"total", "joint"}
    assert list(dice.lines[0].get_xdata()) == [2, 4, 6]


def test_a_region_has_its_colour_whether_or_not_the_others_could_be_told():
    """No validation case could tell WT: TC and ET keep the colours that they have beside it in pictures of cases."""
    task, colours = TASKS["brats2021"], region_colours(TASKS["brats2021"])
    scored = history(2).rename(columns={"validation/dice/WT": "validation/dice/TC"})
    scored["validation/dice/ET"] = 0.3
    for table in (scored, scored[[*scored.columns[:4], "validation/dice/ET"]]):
        dice = plots.learning_curves(table, task=task)[1]
        assert {line.get_label(): line.get_color() for line in dice.lines} == {
            name: colours[name] for name in ("TC", "ET") if f"validation/dice/{name}" in table}


def test_a_run_of_one_epoch_has_curves():
    losses, dice = plots.learning_curves(history(1))
    assert losses.lines[0].get_marker() == "o"
    assert any("validated" in text.get_text() for text in dice.texts)

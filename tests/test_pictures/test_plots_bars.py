"""Bars are as long as the table says, and say what they leave out."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from maml_toolkit.evaluation import compare
from maml_toolkit.evaluation.metrics import title
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.plots import shapley_bars, share_bars
from maml_toolkit.pictures.plots.look import ON_PAPER

WORTH = {"t1": 0.1, "t1ce": 0.35, "flair": 0.25}
ZONES = ("tumour", "rim", "surroundings", "elsewhere")


def values(methods=("maml",), regions=("WT", "ET"), policy="") -> pd.DataFrame:
    return pd.DataFrame([{"method": method, "policy": policy, "region": region, "modality": name, "metric": "dice",
                          "value": value,
                          "low": value - 0.05, "high": value + 0.03, "cases": 10, "missing": 0, "full": 0.7}
                         for method in methods for region in regions for name, value in WORTH.items()])


def shares(cases: int = 2) -> pd.DataFrame:
    """t1 has 0.2 in the first case and 0.1 more in each further one; the rim of the first is empty."""
    found = pd.DataFrame([{"case": case, "modality": name, "zone": zone, "attention": share, "contribution": np.nan}
                          for case in range(cases) for zone in ZONES
                          for name, share in (("t1", 0.2 + 0.1 * case), ("flair", 0.8 - 0.1 * case))])
    return found.assign(attention=found["attention"].where((found["zone"] != "rim") | (found["case"] > 0)))


def lengths(bars) -> list[float]:
    return [bar.get_width() for bar in bars]


def legend_of(ax) -> list[str]:
    return [text.get_text() for text in ax.figure.legends[0].texts]


def test_bars_are_as_long_as_the_values():
    axes = shapley_bars(values())
    assert [ax.get_title() for ax in axes] == ["WT", "ET"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(WORTH)
    assert lengths(axes[0].patches) == pytest.approx(list(WORTH.values()))
    assert "Dice" in axes[0].get_xlabel()
    assert legend_of(axes[0]) == ["95 % interval over cases"]


def test_the_score_that_was_divided_is_named():
    (ax,) = shapley_bars(values(regions=("WT",)).assign(metric="nsd@2"))
    assert title("nsd@2") in ax.get_xlabel()
    assert "Dice" not in ax.get_xlabel().replace(title("nsd@2"), "")


def test_whiskers_reach_over_the_interval():
    ends = np.array([line[:, 0] for line in shapley_bars(values())[0].collections[0].get_segments()])
    assert ends == pytest.approx(np.array([[value - 0.05, value + 0.03] for value in WORTH.values()]))


def test_no_axis_goes_beyond_what_a_dice_can_be_worth():
    wide, narrow = shapley_bars(values().assign(low=-5.0, high=4.0))[0], shapley_bars(values())[0]
    assert wide.get_xlim() == (-1, 1)
    assert narrow.get_xlim()[0] == 0
    assert 0.35 < narrow.get_xlim()[1] < 0.5


def test_no_bar_and_no_whisker_is_cut_off_in_a_panel_to_the_right():
    smaller = values(regions=("WT",))
    larger = values(regions=("ET",)).assign(value=[-0.2, 0.8, 0.1], low=[-0.3, 0.7, 0], high=[-0.1, 0.9, 0.2])
    for ax in shapley_bars(pd.concat([smaller, larger])):
        left, right = ax.get_xlim()
        assert left < -0.3
        assert right > 0.9


def test_no_whisker_is_explained_where_there_is_none():
    figure = shapley_bars(values().assign(low=np.nan, high=np.nan))[0].figure
    assert not figure.legends


def test_methods_and_policies_are_side_by_side_and_named():
    ax = shapley_bars(pd.concat([values(("maml", "hemis")), values(policy="masked")]))[0]
    assert legend_of(ax)[:3] == ["maml", "hemis", "maml, masked"]
    edges = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in ax.patches)
    assert len(edges) == 9
    assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(edges))


def test_a_value_that_is_not_known_is_said():
    unknown = values(("early_fusion",)).assign(value=np.nan, low=np.nan, high=np.nan, cases=0)
    ax = shapley_bars(pd.concat([values(), unknown]))[0]
    assert [text.get_text().strip() for text in ax.texts] == ["not known"] * 3


def test_stacks_hold_the_mean_share_and_end_at_one():
    ax, = share_bars(shares())
    t1, flair = ax.containers
    assert lengths(t1) == pytest.approx([0.25, 0.3, 0.25, 0.25])
    assert [bar.get_x() + bar.get_width() for bar in flair] == pytest.approx([1] * 4)
    assert legend_of(ax) == ["t1", "flair"]
    assert [text.get_text() for text in ax.texts] == ["25", "30", "25", "25", "75", "70", "75", "75"]


def test_zones_are_named_with_the_cases_that_count():
    ax, = share_bars(shares())
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "tumour (2 cases)", "rim (1 case)", "surroundings (2 cases)", "elsewhere (2 cases)"]


def test_a_zone_without_any_case_is_left_blank():
    ax, = share_bars(shares(1))
    assert np.isnan(lengths(ax.containers[0])[1])
    assert ax.get_yticklabels()[1].get_text() == "rim (0 cases)"


def test_a_modality_that_a_case_lacks_has_no_share_in_it():
    lacking = shares(1).query("modality == 't1' and zone == 'tumour'").assign(case="other", attention=1.0)
    ax, = share_bars(pd.concat([shares(1), lacking]))
    assert [lengths(bars)[0] for bars in ax.containers] == pytest.approx([0.6, 0.4])


def test_a_case_that_was_answered_twice_counts_once():
    """From both scans t1 has 0.2, alone 1: 0.6 of the case, beside 0.3 in the second case."""
    twice = pd.concat([shares(), shares(1).query("modality == 't1' and zone == 'tumour'").assign(attention=1.0)])
    ax, = share_bars(twice)
    assert [lengths(bars)[0] for bars in ax.containers] == pytest.approx([0.45, 0.55])


def test_a_point_is_a_case_whose_runs_are_averaged_and_the_whisker_is_over_cases():
    """Two cases of 0.4 and 0.8, three runs of each 0.2 apart: the deviation over cases is 0.2 times the root of 2."""
    table = pd.DataFrame([{"case": case, "method": "maml", "run": f"r{seed}", "fold": 0, "seed": seed,
                           "policy": "fused", "present": "t1", "region": "WT", "metric": "dice", "unit": "fraction",
                           "value": value + 0.2 * (seed - 1), "empty": ""}
                          for case, value in (("a", 0.4), ("b", 0.8)) for seed in range(3)])
    (ax,) = plots.scores(table)
    points = next(line for line in ax.lines if line.get_marker() == "o")
    assert points.get_xdata().tolist() == pytest.approx([0.4, 0.8])
    whisker = ax.collections[0].get_segments()[0]
    assert whisker[:, 0].tolist() == pytest.approx([0.6 - 0.2 * 2**0.5, 0.6 + 0.2 * 2**0.5])


def test_an_answer_without_policy_is_drawn_beside_those_of_policies():
    table = pd.DataFrame([{"case": "a", "method": method, "policy": policy, "present": "t1", "region": "WT",
                           "metric": "dice", "unit": "fraction", "value": 0.5}
                          for method, policy in (("maml", "fused"), ("maml", "heads"), ("other", None))])
    assert legend_of(plots.scores(table)[0])[:3] == ["maml, fused", "maml, heads", "other"]


def test_shares_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="no contribution share is known"):
        share_bars(shares(), "contribution")
    with pytest.raises(ValueError, match=r"what='shapley'.*attention, contribution"):
        share_bars(shares(), "shapley")


def test_given_axes_are_drawn_into_and_returned():
    axes = plt.subplots(1, 2)[1]
    assert list(shapley_bars(values(), axes)) == list(axes)
    assert list(share_bars(shares(), axes=axes[1])) == [axes[1]]
    with pytest.raises(ValueError, match="found 2 axes, expected 1"):
        share_bars(shares(), axes=axes)


def test_the_one_legend_of_given_axes_covers_none_of_them():
    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    shapley_bars(values(("maml", "hemis")), axes[:2])
    share_bars(shares(), axes=axes[2])
    figure.canvas.draw()
    (drawn,) = figure.legends
    assert legend_of(axes[0]) == ["maml", "hemis", "95 % interval over cases", "t1", "flair"]
    assert not any(drawn.get_window_extent().overlaps(ax.get_tightbbox()) for ax in axes)


def test_drawing_leaves_the_users_style_alone():
    before = dict(mpl.rcParams)
    shapley_bars(values())
    assert dict(mpl.rcParams) == before


def table() -> pd.DataFrame:
    rows = [{"case": case, "method": method, "run": "r", "fold": 0, "seed": 0, "policy": "drop",
             "present": present, "region": region, "metric": "dice", "unit": "fraction", "value": value}
            for present in ("t1", "t1+flair") for method in ("maml", "late_fusion") for region in ("WT", "ET")
            for case, value in (("a", 0.6), ("b", 0.8), ("c", np.nan))]
    return pd.DataFrame(rows)


def test_scores_show_every_case_and_the_mean():
    axes = plots.scores(table()[lambda rows: rows["method"] == "maml"])
    assert [ax.get_title() for ax in axes] == ["WT", "ET"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["t1+flair", "t1"]
    points, mean = axes[0].lines[0], axes[0].containers[0]
    assert list(points.get_xdata()) == [0.6, 0.8]
    assert mean.lines[0].get_xdata()[0] == pytest.approx(0.7)
    spread = mean.lines[2][0].get_segments()[0][:, 0]
    assert spread == pytest.approx([0.7 - 0.2 / 2**0.5, 0.7 + 0.2 / 2**0.5])


def test_a_distance_in_two_units_is_shown_in_millimetres():
    in_mm = table().assign(metric="assd", unit="mm")
    both = pd.concat([in_mm, in_mm.assign(unit="voxels", value=100.0)])
    ax = plots.scores(both, "assd")[0]
    assert ax.get_xlabel() == "ASSD (mm)"
    assert max(line.get_xdata().max() for line in ax.lines) < 1


def test_volumes_that_are_too_small_are_inside_the_picture():
    shown = table().assign(metric="volume_difference", unit="ml", value=lambda rows: -10 * rows["value"])
    assert plots.scores(shown, "volume_difference")[0].get_xlim()[0] < -8


def test_methods_are_named_in_the_legend():
    axes = plots.scores(table())
    assert [text.get_text() for text in axes[0].figure.legends[0].texts][:2] == ["maml", "late_fusion"]


def test_a_metric_that_was_not_measured_is_refused():
    with pytest.raises(ValueError, match=r"no 'assd'; it holds .*dice"):
        plots.scores(table(), "assd")


def test_differences_are_drawn_in_points_with_their_intervals(comparison):
    ax = plots.differences(comparison)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(comparison["other"])
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
    intervals = [line.get_xdata() for line in lines[1:]]        # the first is that of no difference
    np.testing.assert_allclose([list(one) for one in intervals], 100 * comparison[["low", "high"]].to_numpy())
    assert "points" in ax.get_xlabel()
    assert plots.differences(comparison, ax=plt.subplots()[1]).figure is not ax.figure


def test_an_interval_of_cases_only_is_grey_and_says_so(comparison):
    """One training a side, and then three: the same cases, in colour and without the words."""
    ax = plots.differences(comparison)
    assert {line.get_color() for line in ax.lines[1:]} == {"0.45"}
    assert [text.get_text() for text in ax.texts] == ["cases only"] * 2
    assert "1 training of each side" in ax.get_xlabel()
    ax = plots.differences(compare(rows_of(3), "MAML"))
    assert {line.get_color() for line in ax.lines if line.get_marker() == "D"} == {ON_PAPER[0]}
    assert not ax.texts
    assert "3 trainings of each side" in ax.get_xlabel()


def test_rows_that_differ_in_a_subset_say_which(comparison):
    doubled = comparison.assign(present=["t1", "t2"])
    assert [label.get_text() for label in plots.differences(doubled).get_yticklabels()] == ["nnUNet, t1", "HeMIS, t2"]


def rows_of(trainings):
    random = np.random.default_rng(0)
    about = {"run": "", "fold": 0, "policy": "", "present": "t1", "region": "ET", "metric": "dice",
             "unit": "fraction", "empty": ""}
    return pd.DataFrame([{**about, "method": method, "case": case, "seed": seed, "value": random.random() + shift}
                         for method, shift in (("MAML", 0.2), ("nnUNet", 0), ("HeMIS", 0.1))
                         for case in range(12) for seed in range(trainings)])


@pytest.fixture
def comparison():
    return compare(rows_of(1), "MAML")

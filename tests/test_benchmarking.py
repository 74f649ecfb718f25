"""The benchmark's own arithmetic: order of the sides, medians, rows without their peer, the page."""

import itertools

import numpy as np
import pytest
import torch

import benchmarks as benchmarking
from benchmarks import apart, metrics, page, predicting, scaling, steps
from benchmarks.rows import compared, timed, without_peer
from benchmarks.timing import alternating


class Clock:
    """Stands still but for what the sides say that they take."""

    def __init__(self):
        self.now = 0.0

    def side(self, name: str, seconds: list[float], order: list[str]):
        left = iter(seconds)

        def run() -> None:
            order.append(name)
            self.now += next(left)

        return run


def timings(ours: list[float], theirs: list[float], pairs: int, order: list[str] | None = None):
    clock, order = Clock(), [] if order is None else order
    sides = {name: clock.side(name, seconds, order) for name, seconds in (("ours", ours), ("theirs", theirs))}
    return alternating(sides, pairs, {"wall": lambda: clock.now, "cpu": lambda: clock.now / 2})


def test_sides_take_turns_at_going_first_and_the_first_turn_does_not_count():
    order = []
    found = timings([100, 1, 2, 3], [100, 2, 2, 2], 3, order)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert found.seconds["ours"] == {"wall": [1, 2, 3], "cpu": [0.5, 1, 1.5]}
    assert found.seconds["theirs"]["wall"] == [2, 2, 2]


def test_a_row_has_the_median_of_the_turns_ratios_and_their_spread():
    # the median of the ratios (2) is not the ratio of the medians (3 / 2)
    row = timed("x", "what", "ours", "theirs", timings([0, 4, 3, 1], [0, 2, 1, 4], 3), goal=1.5, per=2)
    assert (row.ratio, row.lowest, row.highest, row.ratio_cpu) == (2, 0.25, 3, 2)
    assert (row.ours_value, row.theirs_value, row.pairs, row.met) == (1.5, 1, 3, "no")


def test_no_turn_is_an_error():
    with pytest.raises(ValueError, match="pairs=0, expected at least 1"):
        alternating({}, 0)


@pytest.mark.parametrize(("goal", "at_least", "met"), [(2, False, "yes"), (1, False, "no"), (3, True, "no"),
                                                        (2, True, "yes"), (None, False, "")])
def test_a_goal_is_met_or_not(goal, at_least, met):
    assert compared("x", "", "a", "b", [4, 2], [2, 1], "s", goal, at_least).met == met


def test_a_row_whose_peer_is_not_installed_has_no_number():
    row = without_peer("x", "what", "nnunetv2", "nnU-Net", 0.4)
    assert (row.ratio, row.ours_value, row.met) == (None, None, "not measured")
    assert "install nnunetv2" in row.note


def test_every_peer_that_is_absent_is_listed(monkeypatch):
    for module in (metrics, predicting, steps):
        monkeypatch.setattr(module, "installed", lambda package: False, raising=False)
    monkeypatch.setattr("benchmarks.rows.installed", lambda package: False)
    settings = benchmarking.Settings(case=(16, 16, 16), liver=(16, 16, 16))
    assert {row.met for row in metrics.against_peers(settings)} == {"not measured"}
    assert [row.met for row in steps.against_nnunet(settings)] == ["not measured"]


def test_an_unknown_row_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"rows \['metric'\], expected some of step_nnunet"):
        benchmarking.measure(benchmarking.Settings(), ["metric"])


def test_the_page_shows_bars_goals_and_what_was_not_measured(tmp_path):
    rows = [compared("fast", "<what>", "a", "b", [1.0], [2.0], "s", 0.6), without_peer("x", "w", "nnunetv2", "n", 0.4)]
    html = page.write(rows, tmp_path, "two threads").read_text(encoding="utf-8")
    assert "&lt;what&gt;" in html
    assert 'width="100.0" height="12" fill="#009e73"' in html         # half of 200, green
    assert "not measured: install nnunetv2" in html
    assert "src=" not in html
    assert (tmp_path / "benchmark.csv").read_text().startswith("row,what,ours,theirs")


def test_peak_memory_and_results_come_from_another_process():
    found = apart.apart("benchmarks.scaling", "point", modalities=1, channels=[2, 4], size=8,
                        precision="float32", threads=1, repeats=1)
    assert found["seconds"] > 0
    assert 50 < found["peak_mib"] < 5000
    with pytest.raises(RuntimeError, match=r"scaling.point ended with 1:[\s\S]*modalities"):
        apart.apart("benchmarks.scaling", "point", size=8)


def test_sides_apart_take_turns_too(monkeypatch):
    order = []
    monkeypatch.setattr(apart, "apart", lambda module, function, **settings: order.append(function) or {"n": 1})
    found = apart.apart_in_turn({"a": ("m", "first", {}), "b": ("m", "second", {})}, 2)
    assert order == ["first", "second", "second", "first"]
    assert found == {"a": [{"n": 1}] * 2, "b": [{"n": 1}] * 2}


def test_the_line_through_points_has_its_slope_and_fit():
    slope, fit = scaling.line([1, 2, 3, 4], [1, 2, 3, 8])
    assert slope == pytest.approx(2.2)
    assert fit == pytest.approx(1 - 4.8 / 29)      # residuals 0.8, -0.4, -1.6, 1.2


def test_a_case_off_its_box_has_the_same_voxels():
    from maml_toolkit.data.preprocessing import prepare

    case = prepare(predicting.benchmark_case((24, 20, 16)), predicting.task_of(4))
    whole = predicting.uncropped(case)
    assert whole.images["scan_0"].shape == (24, 20, 16)
    np.testing.assert_array_equal(whole.images["scan_0"][case.grid.box_slices], case.images["scan_0"])


def test_the_trainers_step_and_the_bare_one_train_the_same_network():
    method = steps.made("maml", 2, (4, 8))
    settings = benchmarking.Settings(channels=(4, 8), size=8)
    before = [one.detach().clone() for one in method.parameters()]
    for step in (steps.trainer_step(method, 8, 2, "float32"), steps.bare_step(method, settings)):
        step()
        after = [one.detach().clone() for one in method.parameters()]
        assert not any(torch.equal(a, b) for a, b in itertools.islice(zip(before, after, strict=True), 4))
        before = after

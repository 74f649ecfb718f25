"""The benchmark's own arithmetic: order of the sides, medians, rows without their peer, the page."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

import benchmarks
from benchmarks import answers, measuring, page, training
from benchmarks.measuring import alternating, compared, timed, without_peer


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
    # the median of the ratios (2) is not the ratio of the medians (3 / 2); the spread is their middle half
    row = timed("x", "what", "ours", "theirs", timings([0, 4, 3, 1], [0, 2, 1, 4], 3), goal=1.5, per=2)
    assert (row.ratio, row.lowest, row.highest, row.ratio_cpu) == (2, 1.125, 2.5, 2)
    assert (row.ours_value, row.theirs_value, row.pairs, row.met) == (1.5, 1, 3, "no")


@pytest.mark.parametrize(("ours", "turns"), [([1, 1.02, 1.01, 9, 9], 3), ([1, 2, 1, 2, 1], 5), ([1, 2, 2, 2, 2], 5)])
def test_further_turns_are_taken_until_the_ratios_lie_close_together(ours, turns):
    clock = Clock()
    sides = {"ours": clock.side("ours", ours, []), "theirs": clock.side("theirs", [1.0] * 5, [])}
    found = alternating(sides, 3, {"wall": lambda: clock.now}, warm=0, most=5)
    assert len(found.seconds["ours"]["wall"]) == turns


def test_the_cpu_time_of_children_counts():
    busy = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"]
    before = measuring.cpu_of_all()
    subprocess.run(busy, check=True)
    ended = measuring.cpu_of_all() - before
    with subprocess.Popen([*busy[:2], busy[2] + "\ninput()"], stdin=subprocess.PIPE) as child:
        while sum(psutil.Process(child.pid).cpu_times()[:2]) < 0.25:
            pass
        running = measuring.cpu_of_all() - before - ended
        child.communicate(b"\n")
    assert ended > 0.25
    assert running > 0.25


def test_of_two_occasions_the_less_favourable_counts(tmp_path):
    first = [compared("fast", "w", "a", "b", [1.0], [2.0], "s", 0.6),
             compared("big", "w", "a", "b", [4.0], [2.0], "x", at_least=True),
             without_peer("peer", "w", "p", "them", 0.4), compared("once", "w", "a", "b", [1.0], [1.0], "s")]
    page.write(first, tmp_path, "first")
    second = [compared("fast", "w", "a", "b", [3.0], [2.0], "s", 0.6),
              compared("big", "w", "a", "b", [6.0], [2.0], "x", at_least=True),
              compared("peer", "w", "ours", "them", [1.0], [4.0], "s", 0.4)]
    earlier = benchmarks.rows_of(tmp_path / "benchmark.csv")
    assert earlier == first
    found = {row.row: row for row in benchmarks.less_favourable(second, earlier)}
    assert (found["fast"].ratio, found["fast"].met, found["fast"].occasions) == (1.5, "no", 2)
    assert (found["big"].ratio, found["big"].occasions) == (2, 2)
    assert (found["peer"].ratio, found["peer"].occasions) == (0.25, 1)
    other = [replace(one, threads=one.threads + 1) for one in earlier]
    with pytest.raises(ValueError, match="threads"):
        benchmarks.less_favourable(second, other)


def test_no_turn_is_an_error():
    with pytest.raises(ValueError, match=r"pairs=0\b"):
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
    for module in (answers, training, measuring):
        monkeypatch.setattr(module, "installed", lambda package: False)
    settings = benchmarks.Settings(case=(16, 16, 16), liver=(16, 16, 16))
    assert {row.met for row in answers.metrics_against_peers(settings)} == {"not measured"}
    assert [row.met for row in training.against_nnunet(settings)] == ["not measured"]


def test_an_unknown_row_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"\['metric'\].*\bstep_nnunet\b"):
        benchmarks.measure(benchmarks.Settings(), ["metric"])


def test_the_page_shows_bars_goals_and_what_was_not_measured(tmp_path):
    rows = [compared("fast", "<what>", "a", "b", [1.0], [2.0], "s", 0.6), without_peer("x", "w", "nnunetv2", "n", 0.4)]
    html = page.write(rows, tmp_path, "two threads").read_text(encoding="utf-8")
    assert "&lt;what&gt;" in html
    assert 'width="100.0" height="12" fill="#009e73"' in html         # half of 200, green
    assert "not measured: install nnunetv2" in html
    assert "src=" not in html
    assert (tmp_path / "benchmark.csv").read_text().startswith("row,what,ours,theirs")


def test_peak_memory_and_results_come_from_another_process():
    found = measuring.apart("benchmarks.training", "point", modalities=1, channels=[2, 4], size=8,
                        precision="float32", threads=1, repeats=1)
    assert found["seconds"] > 0
    assert 50 < found["peak_mib"] < 5000
    with pytest.raises(RuntimeError, match=r"training\.point[\s\S]*modalities"):
        measuring.apart("benchmarks.training", "point", size=8)


def test_sides_apart_take_turns_too(monkeypatch):
    order = []
    monkeypatch.setattr(measuring, "apart", lambda module, function, **settings: order.append(function) or {"n": 1})
    found = measuring.apart_in_turn({"a": ("m", "first", {}), "b": ("m", "second", {})}, 2)
    assert order == ["first", "second", "second", "first"]
    assert found == {"a": [{"n": 1}] * 2, "b": [{"n": 1}] * 2}


def test_the_line_through_points_has_its_slope_and_fit():
    slope, fit = training.line([1, 2, 3, 4], [1, 2, 3, 8])
    assert slope == pytest.approx(2.2)
    assert fit == pytest.approx(1 - 4.8 / 29)      # residuals 0.8, -0.4, -1.6, 1.2


def test_a_case_off_its_box_has_the_same_voxels():
    from maml_toolkit.data.preprocessing import prepare

    case = prepare(answers.benchmark_case((24, 20, 16)), answers.task_of(4))
    whole = answers.uncropped(case)
    assert whole.images["scan_0"].shape == (24, 20, 16)
    np.testing.assert_array_equal(whole.images["scan_0"][case.grid.box_slices], case.images["scan_0"])


def test_the_trainers_step_and_the_bare_one_train_the_same_network():
    method = training.made("maml", 2, (4, 8))
    settings = benchmarks.Settings(channels=(4, 8), size=8)
    before = [one.detach().clone() for one in method.parameters()]
    for step in (training.trainer_step(method, 8, 2, "float32"), training.bare_step(method, settings)):
        step()
        after = [one.detach().clone() for one in method.parameters()]
        assert not any(torch.equal(a, b) for a, b in itertools.islice(zip(before, after, strict=True), 4))
        before = after

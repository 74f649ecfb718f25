"""The race of the methods: its systems can be built, and its table is what its rows say."""

import pandas as pd
import pytest
from recipe_files import recipe

from maml_toolkit import TASKS, experiments
from maml_toolkit.system import tables


@pytest.fixture(scope="module")
def race():
    with recipe("race") as module:
        yield module


def test_every_system_can_be_built(race):
    for one in race.RACES.values():
        task = TASKS["liver_phases" if one.kind == "liver" else "brats2021"]
        for systems, _ in one.systems:
            experiments.running.check_names_of_runs(systems)
            for name, given in systems.items():
                method = experiments.System.of(given).built(task, {"channels": one.channels})
                assert set(method.modalities) == set(task.modalities), name


def test_a_race_without_results_says_so(race, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match=r"found no .*liver\.csv, expected results; run the race liver first"):
        race.report("liver")


def test_folds_share_no_case_and_every_brain_is_tested_once(race):
    folds = race.RACES["brains"].folds()
    for training, test in folds:
        assert not {case.id for case in training} & {case.id for case in test}
    tested = [case.id for _, test in folds for case in test]
    assert len(tested) == len(set(tested)) == 36


def test_a_race_goes_on_where_its_table_stands(race):
    one = race.Race([({"MAML": "maml", "MS+MA": "maml"}, 2), ({"HeMIS": "hemis"}, 1)], kind="brain")
    everything = [(name, fold, seed) for name, _, fold, seed in race.missing(one, None)]
    assert len(everything) == len(set(everything)) == 2 * 2 * 3 + 3
    rows = pd.DataFrame(everything[1:], columns=["method", "fold", "seed"])
    assert race.missing(one, rows) == [("MAML", "maml", 0, 0)]


def test_a_training_is_the_one_that_all_folds_together_would_hold(race, tmp_path, monkeypatch):
    """What is trained alone, because the table has the rest, is asked for with its own fold and seed among all."""
    asked = []

    def ran(systems, folds, task, folder, *, seeds, only, **other):
        asked.append((*systems, len(folds), *only, *seeds))
        (system,), (fold,), (seed,) = systems, only, seeds
        return pd.DataFrame([{"method": system, "fold": fold, "seed": seed, "case": "a", "present": "flair",
                              "policy": "fused", "region": "WT", "metric": "dice", "value": 0.5}])

    monkeypatch.setattr(race, "RESULTS", tmp_path)
    monkeypatch.setattr(race, "RACES", {"brains": race.Race([({"HeMIS": "hemis"}, 1)], kind="brain", fit_on=4)})
    monkeypatch.setattr(experiments, "run", ran)
    race.run("brains", tmp_path)
    race.run("brains", tmp_path)
    assert asked == [("HeMIS", 3, fold, 0) for fold in range(3)]
    assert list(race.read("brains")["fold"]) == [0, 1, 2]


def test_means_spreads_and_differences_are_those_of_the_rows(race, tmp_path, monkeypatch):
    """MAML has 80 and 84 points from both scans, the U-Net 70 and 70; a training is the mean of its cases."""
    monkeypatch.setattr(race, "RESULTS", tmp_path)
    dice = {("U-Net, stacked", 0): 0.70, ("U-Net, stacked", 1): 0.70, ("MAML", 0): 0.80, ("MAML", 1): 0.84}
    rows = [{"method": name, "fold": 0, "seed": seed, "case": f"case-{case}", "present": present, "policy": policy,
             "region": "tumour", "metric": "dice", "value": value + step - (0.3 if present == "venous" else 0)}
            for (name, seed), value in dice.items() for case, step in enumerate((-0.02, 0, 0.02))
            for present in ("arterial+venous", "venous") for policy in ("fused", "heads")
            if name == "MAML" or (policy, present) == ("fused", "arterial+venous")]
    tables.write(tmp_path / "liver.csv", race.narrow(pd.DataFrame(rows)))
    read = race.read("liver")
    assert sorted(read["value"].round(4)) == sorted(round(row["value"], 4) for row in rows)
    means, differences = race.report("liver").split("\n\n")
    told = {line.split("  ")[0]: line for line in means.splitlines()}
    assert {"2", "67.0 ± 2.8", "82.0 ± 2.8", "52.0 ± 2.8"} <= {cell.strip() for cell in told["MAML"].split("  ")}
    assert "70.0 ± 0.0" in told["U-Net, stacked"]
    assert "nan" not in means
    row = next(line for line in differences.splitlines() if "U-Net, stacked" in line)
    assert row.split()[0] == "MAML"
    assert "12.0" in row.split()
    drawn = []
    monkeypatch.setattr(race, "PICTURES", tmp_path)
    monkeypatch.setattr(race.plt, "close", drawn.append)
    assert race.picture("liver").stat().st_size > 5000
    (ax,) = drawn[0].axes
    assert [one.get_text() for one in ax.get_yticklabels()] == ["U-Net, stacked (2)", "MAML (2)"]
    dots = [line.get_xdata().round(6).tolist() for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[70, 70], [80, 84], [], [50, 54]]

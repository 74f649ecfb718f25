"""Every training behind the comparisons in docs/evidence.md, on phantoms: `python recipes/race.py liver-0.7`.

A race goes on where its table stands, on any machine: a training whose rows are in docs/results/<name>.csv, the Dice of
every test case, is not run again. From the table `--table` prints means, spreads and differences, and `--picture` draws
tutorials/pictures/race-<name>.png. The runs stay in runs/race/<name>. A training of the small size takes two to five
minutes on one core; two races at a time, with OMP_NUM_THREADS=1, use two cores best.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from maml_toolkit import experiments
from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import compare
from maml_toolkit.pictures.plots import look
from maml_toolkit.system import tables

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PICTURES = Path(__file__).parents[1] / "tutorials" / "pictures"

OLD = {"method": "maml", "start": "independent"}
DECIDING = {
    "MAML": "maml", "MAML, old start": OLD,
    "MAML, released attention": {"method": "maml", "attention": "released"},
    "MAML, released attention, old start": {**OLD, "attention": "released"},
    "MS+MA": {"method": "maml", "intra_weight": 0}, "U-Net, stacked": "early_fusion"}
OTHERS = {
    "nnU-Net": {"method": "early_fusion", "recipe": "nnunet"},
    "U-Net, dropout": {"method": "early_fusion", "dropout": 0.3}, "MS+Ensemble": "late_fusion",
    "OctopusNet": "octopusnet", "HyperPairing-Net": "hyperpairing"}
WEIGHTS = {"MAML, lambda 0.2": {"method": "maml", "intra_weight": 0.2}}        # of the loss of single scans; 0.5 else
FOUR = {name: DECIDING[name] for name in ("MAML", "MAML, old start", "MS+MA", "U-Net, stacked")}
STARTS = {name: DECIDING[name] for name in ("MAML", "MAML, old start")}
UNIFORM = {"method": "maml", "subset_weight": 1, "ranking_weight": 0.1}
SUBSETS = {
    "MAML, paper's loss": "maml", "MAML, uniform subsets": UNIFORM,
    "MAML, nested subsets": {**UNIFORM, "subset_sampling": "nested"},
    "U-Net, dropout": {"method": "early_fusion", "dropout": 0.3}, "HeMIS": "hemis", "U-HVED": "uhved"}


@dataclass(frozen=True)
class Race:
    """Systems that are trained on the same phantoms.

    Attributes:
        systems: groups of them, with the number of seeds of each.
        overlap: of the two phases of the liver; None for the phantom's own.
        kind: of phantom, "liver" or "brain".
        epochs: of 75 steps.
        channels: of the U-Nets.
        fit_on: training cases of a fold that no system is trained on; to them the policy "by-size" is fitted.
    """

    systems: list[tuple[dict, int]]
    overlap: float | None = None
    kind: str = "liver"
    epochs: int = 10
    channels: list[int] = field(default_factory=lambda: [8, 16, 32])
    fit_on: int = 0

    def folds(self) -> list:
        """Training and test cases: 24 and 96 livers, or thirds of 36 brains."""
        if self.kind == "liver":
            cases = phantoms.liver_phases(120, overlap=self.overlap)
            return [(cases[:24], cases[24:])]
        cases = phantoms.brains(36)
        tested = [cases[third::3] for third in range(3)]
        return [([case for case in cases if case not in test], test) for test in tested]


RACES = {
    "liver": Race([(DECIDING, 10)]),
    "liver-0.7": Race([(DECIDING, 10), (OTHERS, 5), (WEIGHTS, 5)], overlap=0.7),
    "liver-0.5": Race([(FOUR, 2)], overlap=0.5),
    "liver-0.7-long": Race([(FOUR, 3)], overlap=0.7, epochs=30),
    "liver-0.7-16": Race([(STARTS, 3)], overlap=0.7, channels=[16, 32, 64]),
    "liver-0.7-32": Race([(STARTS, 3)], overlap=0.7, channels=[32, 64, 128]),
    "brains": Race([(SUBSETS, 2), ({"MAML, paper's loss, old start": OLD}, 2)], kind="brain", fit_on=4)}


def run(name: str, folder: Path) -> None:
    """Train and measure what the table lacks, seed after seed, and write it after each training."""
    race, path = RACES[name], RESULTS / f"{name}.csv"
    RESULTS.mkdir(exist_ok=True)
    task = TASKS["liver_phases" if race.kind == "liver" else "brats2021"]
    trainer = {"patch_size": (32, 32, 32), "batch_size": 2, "epochs": race.epochs, "steps_per_epoch": 75,
               "learning_rate": 3e-3, "schedule": "one-cycle", "checkpoint_minutes": 60}
    measures = {"subsets": "all", "metrics": ["dice"], "fit_on": race.fit_on,
                "policies": ["fused", "heads", *(["by-size"] if race.fit_on else [])]}
    folds = race.folds()
    for system, given, fold, seed in missing(race, tables.read(path, ("fold", "seed")) if path.exists() else None):
        table = experiments.run({system: given}, folds, task, folder / name, seeds=[seed], only=[fold],
                                channels=race.channels, trainer=trainer, **measures)
        before = [tables.read(path, ("fold", "seed"))] if path.exists() else []
        tables.write(path, pd.concat([*before, narrow(table)]))


def missing(race: Race, done: pd.DataFrame | None) -> list[tuple[str, Mapping | str, int, int]]:
    """Name, system, fold and seed of each training that the table has no row of, all systems of a seed together."""
    known = set() if done is None else set(done[["method", "fold", "seed"]].itertuples(index=False, name=None))
    folds = range(len(race.folds()))
    return [(name, given, fold, seed) for seed in range(max(seeds for _, seeds in race.systems))
            for systems, seeds in race.systems if seed < seeds
            for fold in folds for name, given in systems.items()
            if (name, fold, seed) not in known]


def narrow(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each system, fold, seed and case; its Dice from each subset, policy and region."""
    dice = table[table["metric"] == "dice"]
    column = dice["present"] + ("/" + dice["policy"]) + ("/" + dice["region"])
    wide = dice.assign(column=column, value=dice["value"].round(4)).pivot(
        index=["method", "fold", "seed", "case"], columns="column", values="value")
    return wide.reset_index()


def read(name: str) -> pd.DataFrame:
    """The results of a race as the tidy table that `compare` and `summary` take."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        raise SystemExit(f"found no {path}, expected results; run the race {name} first, without --table and --picture")
    wide = tables.read(path, ("fold", "seed"))
    long = wide.melt(["method", "fold", "seed", "case"], var_name="column")
    long = long[long["value"].astype(str) != ""].dropna()
    long[["present", "policy", "region"]] = long.pop("column").str.split("/", expand=True).to_numpy()
    return long.assign(value=long["value"].astype(float), run="", metric="dice", unit="fraction", empty="")


def answers(name: str) -> pd.DataFrame:
    """The same, an answer of another policy than "fused" as a system of its own."""
    found = read(name)
    policies = found["policy"].map({"fused": ""}).fillna(", " + found["policy"])
    return found.assign(method=found["method"] + policies, policy="fused")


def of_trainings(found: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice in per cent of each training over cases and regions: from all subsets together, and from each."""
    each = found.groupby(["method", "fold", "seed", "present"], sort=False)["value"].mean().unstack() * 100
    each.insert(0, "all subsets", each.mean(axis=1, skipna=False))
    return each


def report(name: str, reference: str | None = None) -> str:
    """Each system's Dice in per cent from all scans and from each subset, and how it differs from the reference.

    An answer of another policy than "fused" is a row of its own; where subsets are what is raced for, the differences
    are those of the mean over all of them too. The reference is the race's first system if none is named.
    """
    found = answers(name)
    trained = of_trainings(found)
    of_system = trained.groupby("method", sort=False)
    spread = of_system.std().map(" ± {:.1f}".format).replace(" ± nan", "")
    summary = (of_system.mean().map("{:.1f}".format) + spread).replace("nan", "")
    summary.insert(0, "trainings", of_system.size())
    everything = max(found["present"].unique(), key=len)
    parts = {everything: found[found["present"] == everything]}
    if RACES[name].kind == "brain":
        case = ["method", "fold", "seed", "case", "region", "run", "policy", "metric", "unit", "empty"]
        means = found.groupby(case, as_index=False, sort=False)["value"].mean()
        parts["all subsets"] = means.assign(present="all subsets")
    columns = ["reference", "other", "region", "difference", "low", "high", "p", "holds", "trainings", "cases"]
    reference = reference or next(iter(RACES[name].systems[0][0]))
    differences = (compare(rows, reference)[columns] for rows in parts.values())
    told = (f"from {part}, in points:\n" + table.assign(
        **{column: (100 * table[column]).round(1) for column in ("difference", "low", "high")},
        p=table["p"].round(4)).to_string(index=False) for part, table in zip(parts, differences, strict=True))
    return "\n\n".join([summary.to_string(), *told])


def picture(name: str) -> Path:
    """A dot for each training, its mean Dice over cases, and a line at a system's mean; as a PNG.

    Of livers from both phases, and from each alone where a system answers so, by the fused answer; of brains the whole
    tumour, from all scans and over all subsets, by every policy. Returns the file.
    """
    found = answers(name) if RACES[name].kind == "brain" else read(name).query("policy == 'fused'")
    everything, *alone = sorted(found["present"].unique(), key=lambda one: (-len(one), one))
    if RACES[name].kind == "brain":
        dice = of_trainings(found[found["region"] == "WT"])
        shown = {"all subsets": "all 15 subsets", everything: "four scans"}
    else:
        dice = of_trainings(found)
        shown = {one: one.replace("+", " and ") for one in (everything, *alone)}
    systems = dice[next(iter(shown))].groupby("method").mean().sort_values().index
    with look.one_look():
        figure, ax = plt.subplots(figsize=(7.5, 0.8 + 0.32 * len(systems)))
        for (present, said), colour in zip(shown.items(), look.ON_PAPER, strict=False):
            for place, system in enumerate(systems):
                values = dice.loc[system, present].dropna()
                ax.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.5,
                        markeredgewidth=0, label="" if place else said)
                ax.plot([values.mean()] * 2, [place - 0.35, place + 0.35], color=colour)
        ax.set_yticks(range(len(systems)), [f"{one} ({len(dice.loc[one])})" for one in systems])
        ax.set_xlabel("Dice (%), a dot for each training")
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(shown))
        path = PICTURES / f"race-{name}.png"
        figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("race", choices=RACES)
    parser.add_argument("--out", type=Path, default=Path("runs/race"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print what there is, train nothing")
    parser.add_argument("--against", help="the system of the table that others are compared with, the first if none")
    parser.add_argument("--picture", action="store_true", help="draw what there is, train nothing")
    asked = parser.parse_args()
    if asked.table:
        sys.stdout.write(report(asked.race, asked.against) + "\n")
    elif asked.picture:
        sys.stdout.write(f"{picture(asked.race)}\n")
    else:
        run(asked.race, asked.out)

"""Eight patients on a small machine, `python recipes/patients.py search --data …/brats2021_2mm`: which changes help.

    search [CHANGE …]            each change from "base": four folds, six cases for training and two for testing
    leave-one-out [SYSTEM …]     eight folds, measured from all subsets
    elsewhere                    the networks of the search on other scans of the same cases, such as those at 1 mm
    picture                      the best, the median and the worst case of the search, from fewer scans too
    maps                         what each scan says of each part of a tumour: contributions, attention, Shapley values
    sure                         whether answers without one scan agree with those from all, of cases not seen
    disease                      what the model says of lesions that are no tumour, those of --data
    model                        one training on all cases, written into the package as the model `brain-2mm`
    with --table                 search, leave-one-out and maps print what there is, and compute nothing

The data are BraTS 2021 cases at 2 mm. Search and leave-one-out go on where their tables stand, on any machine: a
fold whose rows are in docs/results/patients-<what>.csv, the values of every case, is not trained again. Runs and
prepared arrays are kept in --out; the others need them. With OMP_NUM_THREADS=1 a change of 240 steps takes six minutes.

The search is made with the cheapest network that answers any subset, a U-Net whose scans are dropped in training, and
MAML is trained with what it found: a step of MAML takes five to seven times as long.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from maml_toolkit import Predictor, dice, evaluate, experiments, find_cases, from_pretrained, plots
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import compare
from maml_toolkit.evaluation.explaining.learned import randomisation
from maml_toolkit.evaluation.explaining.maps import labelled, map_scores, map_summary
from maml_toolkit.evaluation.measuring import EMPTY
from maml_toolkit.evaluation.worth import shapley
from maml_toolkit.experiments.running import System
from maml_toolkit.networks.unet import layout
from maml_toolkit.pictures.plots import look, slices
from maml_toolkit.pictures.plots.view import View
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.runs import MODELS, Run
from maml_toolkit.prediction.typical import Typical
from maml_toolkit.sharing import save_pretrained
from maml_toolkit.system import tables
from maml_toolkit.training.callbacks import Callback
from maml_toolkit.training.recipes import Recipe
from maml_toolkit.training.trainer import Trainer

RESULTS = Path(__file__).parents[1] / "docs" / "results"
TASK = TASKS["brats2021"].with_spacing(2)
ALL = "+".join(TASK.modalities)
EPOCH = 30
"""Steps of an epoch."""

TRAINER = {"patch_size": (48, 48, 48), "batch_size": 2, "learning_rate": 3e-3, "schedule": "one-cycle",
           "checkpoint_minutes": 60}
DROPPED = {"method": "early_fusion", "dropout": 0.3}
ANY_SUBSET = {"method": "maml", "subset_weight": 1, "ranking_weight": 0.1, "subset_sampling": "nested"}


@dataclass(frozen=True)
class Change:
    """How some trainings differ from those of "base".

    Attributes:
        system: of `experiments.run`.
        steps: of the optimiser.
        channels: of the U-Nets.
        trainer: arguments of the Trainer, beside or instead of TRAINER.
        predictor: arguments of the Predictor that measures.
        trained: the change whose networks are measured, where none are trained anew.
        subsets: from which it is measured.
        train_on: of the task.
        seed: of the trainings.
        against: the change to which it is compared.
    """

    system: Mapping[str, Any] = field(default_factory=lambda: DROPPED)
    steps: int = 240
    channels: Sequence[int] = (8, 16, 32, 64)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    predictor: Mapping[str, Any] = field(default_factory=dict)
    trained: str = ""
    subsets: str | Sequence[set[str]] = (set(TASK.modalities), {"flair"})
    train_on: str = "classes"
    seed: int = 0
    against: str = "base"


class Averaged(Callback):
    """The weights become, at the end of a training, an exponential moving average of those after each epoch."""

    def __init__(self, decay: float):
        self.decay, self.average = decay, {}

    def begin(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        """Another training begins."""
        self.average = {}

    def epoch(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """Take in the weights of now."""
        now = {name: tensor.detach().clone() for name, tensor in trainer.method.state_dict().items()}
        self.average = {name: torch.lerp(tensor, self.average.get(name, tensor), self.decay)
                        for name, tensor in now.items()}

    def end(self, trainer: Trainer, history: pd.DataFrame) -> None:
        """Put the average in the place of the newest checkpoint."""
        newest = checkpoints.newest(trainer.run.checkpoints)
        trainer.method.load_state_dict(self.average)
        checkpoints.save(trainer.run.checkpoints, trainer.steps, trainer.method, checkpoints.load_training(newest))


LONGER = "batch 1, deep supervision, 1440 steps"
EVEN = "480 steps, even upsampling"
BEST = "1440 steps, even upsampling, MAML"
SINGLE = Change(steps=480, trainer={"batch_size": 1})
SUPERVISED = {**DROPPED, "deep_supervision": True}
SHORT = replace(SINGLE, system=SUPERVISED, subsets="all", against=EVEN)
LONG = replace(SHORT, steps=1440, against="base")
LONG_MAML = replace(LONG, system={**ANY_SUBSET, "deep_supervision": True})


def varied(**trainer: Any) -> Change:
    """SHORT with these arguments of the Trainer."""
    return replace(SHORT, trainer={**SHORT.trainer, **trainer})


CHANGES = {
    "base": Change(),
    "mirrors and gamma alone": Change(trainer={"augmentation": Augmentation(rotation=0, scaling=0, elastic=0)}),
    "batch 1, twice the steps": SINGLE,
    "batch 1, learning rate 1e-2": replace(SINGLE, trainer={"batch_size": 1, "learning_rate": 1e-2}),
    "batch 1, deep supervision": replace(SINGLE, system=SUPERVISED, subsets="all"),
    "batch 1, regions": replace(SINGLE, train_on="regions"),
    "batch 1, regions, deep supervision": replace(SINGLE, system=SUPERVISED, train_on="regions"),
    LONGER: LONG,
    "1440 steps, parts under 1 ml dropped": replace(LONG, predictor={"drop_small": {"WT": 1000}}, trained=LONGER,
                                                    subsets=Change.subsets),
    "1440 steps, even upsampling": LONG,
    "1440 steps, even upsampling, regions": replace(LONG, train_on="regions"),
    "5760 steps, even upsampling": replace(LONG, steps=5760),
    BEST: LONG_MAML,
    "MAML, parts of ET under 0.5 ml dropped": replace(LONG_MAML, predictor={"drop_small": {"ET": 500}}, trained=BEST),
    "1440 steps, even upsampling, MAML, paper's loss": replace(LONG, system={"method": "maml",
                                                                             "deep_supervision": True}),
    EVEN: SHORT,
    "other seed": replace(SHORT, seed=1),
    "another seed": replace(SHORT, seed=2),
    "mirrored windows": replace(SHORT, predictor={"mirror": True}, trained=EVEN, subsets=Change.subsets),
    "centred patches": varied(recipe=Recipe(foreground="centred")),
    "patch 64, same time": replace(varied(patch_size=(64, 64, 64)), steps=210),
    "widths from 16, same time": replace(SHORT, steps=210, channels=(16, 32, 64, 128)),
    "batch 2, same time": replace(varied(batch_size=2), steps=240),
    "batch 2, batch Dice, same time": replace(varied(batch_size=2), steps=240,
                                              system={**SUPERVISED, "batch_dice": True}),
    "dropout 0.5": replace(SHORT, system={**SUPERVISED, "dropout": 0.5}),
    "no scan dropped": replace(SHORT, system={"method": "early_fusion", "deep_supervision": True},
                               subsets=[set(TASK.modalities)]),
    "weights averaged": varied(callbacks=[Averaged(0.8)]),
    "weights averaged, constant rate 1e-3": varied(callbacks=[Averaged(0.8)], schedule="constant", learning_rate=1e-3),
    "nnU-Net's recipe": replace(SHORT, system={**SUPERVISED, "recipe": "nnunet"})}
"""One change from "base", then one from "batch 1, twice the steps", which costs the same and does more; then what
helped, for longer; at last one from EVEN. All before "even upsampling" were trained when transposed convolutions
started with weights of their own for each voxel (`networks.unet.he_initialisation`)."""

RECIPE = CHANGES[BEST]
"""Of leave-one-out and of the model."""

MODEL = "brain-2mm"
CARD = {
    "license": "cc-by-4.0",
    "data": "Eight glioma cases of the training part of BraTS 2021 (Baid et al. 2021, arXiv:2107.02314; Menze et al. "
            "2015, doi:10.1109/TMI.2014.2377694; Bakas et al. 2017, doi:10.1038/sdata.2017.117), brought to 2 mm by "
            "block means. The scans are not contained.",
    "data_license": "CC BY 4.0, as others cite the release RSNA-ASNR-MICCAI-BraTS-2021 on TCIA; not confirmed by its "
                    "owners",
    "limits": (
        "Eight cases are few: see the scores. It is for trying what the toolkit does, and for nothing else.",
        "From T1 or T1ce alone it finds little. It is not for enhancing tumour: five of the eight cases hold "
        "some, four of these at most 2.4 ml.",
        "It expects brains without skull, zero outside. A case unlike those of the training is warned of by volume, "
        "share of its box and intensities, which does not find every such case.",
        "It knows gliomas before treatment alone; other diseases get an answer all the same.")}
"""What is said of the model beside what is measured."""

SYSTEMS = {
    "MAML, any subset": ANY_SUBSET,
    "MAML, paper's loss": {"method": "maml"}, "U-Net, stacked": {"method": "early_fusion"},
    "nnU-Net": {"method": "early_fusion", "recipe": "nnunet"}, "U-Net, dropout": DROPPED, "HeMIS": {"method": "hemis"}}


def search(name: str, cases: Sequence[Case], out: Path) -> None:
    """The Dice of a change, from all four scans and from FLAIR alone."""
    change = CHANGES[name]
    of = change.trained or name
    train("search", name, {of: change.system}, left_out(cases, 2), out / "search" / re.sub(r"\W+", "-", of), change,
          change.subsets, metrics=["dice"])


def leave_one_out(name: str, cases: Sequence[Case], out: Path) -> None:
    """What a system makes of each case from every subset, trained on the others."""
    train("leave-one-out", name, {name: SYSTEMS[name]}, left_out(cases, 1), out / "leave-one-out", RECIPE, "all",
          metrics=["dice", "assd", "lesions"])


def elsewhere(name: str, cases: Sequence[Case], out: Path) -> None:
    """A change's networks, each on the cases that it has not seen, of which other scans than those of the search."""
    keep("elsewhere", pd.concat([evaluate(predictor, test, Change.subsets, metrics=["dice"], fold=fold, seed=0)
                                 for fold, (predictor, test) in enumerate(held_out(name, cases, out))
                                 ]).assign(method=name, seconds=0))


def picture(name: str, cases: Sequence[Case], out: Path) -> None:
    """What a change's networks say of the best, the median and the worst case, none of which they have seen.

    As docs/_static/patients.png; of the median one patient.png shows every scan and what it contributed.
    """
    whole = read("search").query("method == @name and present == @ALL and region == 'WT'").sort_values("value")
    ids = whole["case"].iloc[[-1, len(whole) // 2, 0]].tolist()
    given = {"four scans": TASK.modalities, "without FLAIR": ("t1", "t1ce", "t2"), "FLAIR alone": ("flair",)}
    found = {case.id: (predictor, case) for predictor, test in held_out(name, cases, out) for case in test}
    shown = [found[one] for one in ids]
    answers = {title: [predictor(case, present) for predictor, case in shown] for title, present in given.items()}
    side = plots.side_by_side([case for _, case in shown], TASK, answers, "flair")
    side.flat[0].figure.savefig(RESULTS.parent / "_static" / "patients.png", dpi=90, bbox_inches="tight")
    case, prediction, without = shown[1][1], answers["four scans"][1], answers["without FLAIR"][1]
    figure, axes = plt.subplots(2, 5, figsize=(11, 5.2), layout="constrained")
    plots.case_slices(case, TASK, prediction=prediction, axes=axes[0, :4])
    slices.image(axes[0, 4], View.of(case, TASK, without), "flair", outlined=True)
    axes[0, 4].set_title("flair, answer without it", fontsize=10)
    plots.contribution_maps(case, prediction, TASK, "WT", axes=axes[1])
    figure.savefig(RESULTS.parent / "_static" / "patient.png", dpi=90, bbox_inches="tight")


ZONES = {"oedema": ("WT", ["oedema"]), "core": ("TC", ["necrosis", "enhancing"]), "enhancing": ("ET", ["enhancing"])}
"""Part of a tumour -> the region that it should be called, and its classes."""


def maps(name: str, cases: Sequence[Case], out: Path) -> None:
    """What each scan says in each part of a tumour, by networks that have not seen it, and whether the maps hold.

    Writes docs/results/patients-maps.csv and -checks.csv, and the figure docs/_static/patients-scans.png.
    """
    rows, checks = [], []
    for fold, (predictor, test) in enumerate(held_out(name, cases, out)):
        for prepared, ground_truth in labelled(predictor, test):
            prediction = predictor.predict(prepared)
            for zone, (region, classes) in ZONES.items():
                if (inside := np.isin(ground_truth, [TASK.class_names.index(one) for one in classes])).any():
                    said = prediction.log_odds(region).shares
                    gates = {scan: gate[inside].mean() for scan, gate in prediction.attention.items()}
                    rows += [{"method": name, "fold": fold, "case": prepared.id, "zone": zone, "scan": scan,
                              "log-odds": share[inside].mean(), "attention": gates[scan] / sum(gates.values())}
                             for scan, share in said.items()]
        checks.append(map_scores(predictor, test))
        checks.append(randomisation(predictor, test, seeds=(0,)).assign(
            measure=lambda table: "correlation, drawn anew: " + table["layer"]))
    tables.write(RESULTS / "patients-maps.csv", pd.DataFrame(rows).round(4))
    tables.write(RESULTS / "patients-maps-checks.csv", map_summary(pd.concat(checks)).round(4))
    scans_by_zone(pd.DataFrame(rows)).figure.savefig(RESULTS.parent / "_static" / "patients-scans.png", dpi=110,
                                                     bbox_inches="tight")


def scans_by_zone(found: pd.DataFrame) -> Axes:
    """A bar for each part of a tumour and scan: its mean share in the log-odds; a point for each case."""
    ax = plt.subplots(figsize=(7, 3), layout="constrained")[1]
    for place, (scan, colour) in enumerate(look.on_paper(TASK.modalities).items()):
        at = np.arange(len(ZONES)) + 0.2 * (place - 1.5)
        of_scan = found[found["scan"] == scan].groupby("zone")["log-odds"]
        values = [of_scan.get_group(zone) for zone in ZONES]
        ax.bar(at, [one.mean() for one in values], 0.18, color=colour, label=scan)
        for x, one in zip(at, values, strict=True):
            ax.plot([x] * len(one), one, "o", color="0.2", markersize=2.5)
    cases = found.groupby("zone")["case"].nunique()
    ax.set_xticks(range(len(ZONES)), [f"{zone} ({cases[zone]} cases):\nlog-odds of {region}" for zone, (region, _)
                                      in ZONES.items()])
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set_ylabel("mean share of a scan")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return ax


def mapped() -> str:
    """A row for each part of a tumour and scan: contribution, attention, and the Shapley value of the region's Dice."""
    found = tables.read(RESULTS / "patients-maps.csv", ("fold", "log-odds", "attention"))
    measured = read("search")
    measured = measured[measured["method"] == found["method"].iloc[0]]
    worth = shapley(measured).set_index(["region", "modality"])["value"] * 100
    rows = []
    for (zone, scan), own in found.groupby(["zone", "scan"], sort=False):
        rows.append({"part": zone, "scan": scan, "cases": len(own), "region": (region := ZONES[zone][0]),
                     "log-odds": f"{own['log-odds'].mean():+.1f} ± {own['log-odds'].std():.1f}",
                     "attention, %": f"{100 * own['attention'].mean():.0f} ± {100 * own['attention'].std():.0f}",
                     "Shapley value, points of Dice": f"{worth[region, scan]:+.1f}"})
    checks = tables.read(RESULTS / "patients-maps-checks.csv", ("value", "low", "high", "chance"))
    checks = checks[checks["modality"].isin(["all", ""])]
    checks = pd.DataFrame({"map": checks["map"], "check": checks["measure"],
                           "value": checks["value"].map("{:.3g}".format),
                           "95 %": checks["low"].map("{:.2f} to ".format) + checks["high"].map("{:.2f}".format),
                           "by chance": checks["chance"].map("{:.2f}".format)}).replace(r".*nan.*", "", regex=True)
    return markdown(pd.DataFrame(rows)) + "\n\n" + markdown(checks)


def sure(name: str, cases: Sequence[Case], out: Path) -> None:
    """Prints how sure a change's networks are of the cases that they have not seen."""
    sys.stdout.write(markdown(pd.DataFrame([row for predictor, test in held_out(name, cases, out)
                                            for row in asked_all_and_all_but_one(predictor, test)])) + "\n")


def disease(name: str, cases: Sequence[Case], out: Path) -> None:
    """Prints how much tumour a model of the toolkit finds in cases whose lesions are none, and how sure it is."""
    sys.stdout.write(markdown(pd.DataFrame(asked_all_and_all_but_one(from_pretrained(name), cases))) + "\n")


def asked_all_and_all_but_one(predictor: Predictor, cases: Sequence[Case]) -> Iterator[dict[str, str]]:
    """A row for each case: what was found from all scans, and whether the answers without one scan agree with it."""
    for prepared, ground_truth in labelled(predictor, cases):
        answer, voxel_ml = predictor.predict(prepared, uncertainty=True), np.prod(prepared.grid.file_spacing_mm) / 1000
        lesion, called = ground_truth > 0, answer.classes > 0
        yield {"case": prepared.id, "lesions, ml": f"{lesion.sum() * voxel_ml:.1f}",
               "called tumour, ml": f"{called.sum() * voxel_ml:.1f}", "Dice": f"{100 * dice(called, lesion):.0f}",
               "agreement in WT, %": f"{100 * answer.sureness.agreement['WT']:.0f}",
               "warned of": "yes" if predictor.typical.unlike(prepared) else "no"}


def held_out(name: str, cases: Sequence[Case], out: Path) -> Iterator[tuple[Predictor, list[Case]]]:
    """Each network of a change of the search, with the cases that it has not seen."""
    runs = sorted((out / "search" / re.sub(r"\W+", "-", name) / "runs").iterdir())
    return ((Predictor.load(run), test) for run, (_, test) in zip(runs, left_out(cases, 2), strict=True))


def model(name: str, cases: Sequence[Case], out: Path) -> None:
    """A change trained on all cases, in half precision, with the cross-validation of the same change on its card."""
    measured = read("search").query("method == @name")
    if measured["case"].nunique() < len(cases):
        raise ValueError(f"found {measured['case'].nunique()} of {len(cases)} cases of {name!r} measured, expected all "
                         f"of them for the card of the model; measure them: search {name!r}")
    change, at = CHANGES[name], out / "model" / re.sub(r"\W+", "-", name)
    task = replace(TASK, train_on=change.train_on)
    channels, patch = list(change.channels), settings(change)["patch_size"]
    torch.manual_seed(0)
    network = System.of(change.system).built(task, {
        "channels": channels, **layout(patch, task.spacing_mm, len(channels))})
    Trainer(network, at, task, **settings(change)).fit(cases)
    Typical.of(prepare_all(cases, task)).save(checkpoints.newest(Run(at).checkpoints))
    trainings = measured["fold"].nunique()
    on = (f"{trainings} other trainings of the same kind, each on {len(cases) - len(cases) // trainings} of the "
          f"{len(cases)} cases and measured on the others")
    save_pretrained(at, MODELS / MODEL, half=True, measured=measured, measured_on=on, **CARD)


def left_out(cases: Sequence[Case], together: int) -> list[tuple[list[Case], list[Case]]]:
    """Folds, training and test cases; so many neighbours in the order of ids are tested together."""
    ordered = sorted(cases, key=lambda case: case.id)
    tests = [ordered[first:first + together] for first in range(0, len(ordered), together)]
    return [([case for case in ordered if case not in test], test) for test in tests]


def train(what: str, name: str, systems: Mapping[str, Any], folds: Sequence, folder: Path, change: Change,
          subsets: Any, **measures: Any) -> None:
    """Each fold that the results lack under this name, trained, measured and kept before the next."""
    for fold in sorted(set(range(len(folds))) - folds_of(what, name)):
        table = experiments.run(systems, folds, replace(TASK, train_on=change.train_on), folder, seeds=[change.seed],
                                only=[fold], channels=change.channels, trainer=settings(change), subsets=subsets,
                                predictor=change.predictor, **measures)
        took = {run: Run(folder / "runs" / run).epochs()["seconds"].sum() for run in table["run"].unique()}
        keep(what, table.assign(method=name, seconds=table["run"].map(took)))


def folds_of(what: str, name: str) -> set[int]:
    """Those whose results are kept."""
    path = RESULTS / f"patients-{what}.csv"
    rows = tables.read(path, ("fold",)) if path.exists() else None
    return set() if rows is None else set(rows.loc[rows["method"] == name, "fold"])


def settings(change: Change) -> dict[str, Any]:
    """Arguments of its Trainer."""
    return {**TRAINER, **change.trainer, "epochs": change.steps // EPOCH, "steps_per_epoch": EPOCH}


def keep(what: str, table: pd.DataFrame) -> None:
    """Write what was measured beside what other commands have; a row for each system, fold and case."""
    dice = table[table["metric"] == "dice"]
    is_empty = dice.assign(metric="empty", unit="code", value=dice["empty"].map(list(EMPTY.values()).index))
    table = pd.concat([table, is_empty])
    column = table["present"] + "/" + table["region"] + "/" + table["metric"] + "/" + table["unit"]
    wide = table.assign(column=column, value=table["value"].round(4)).pivot(
        index=["method", "fold", "case", "seconds"], columns="column", values="value").reset_index()
    path = RESULTS / f"patients-{what}.csv"
    if path.exists():
        earlier, key = tables.read(path, ("fold", "seconds", "*/*")), ["method", "fold"]
        wide = pd.concat([earlier.set_index(key).drop(wide.set_index(key).index, errors="ignore").reset_index(), wide])
    RESULTS.mkdir(exist_ok=True)
    tables.write(path, wide)


def read(what: str) -> pd.DataFrame:
    """What `keep` wrote, as the tidy table that `compare` and `summary` take."""
    path = RESULTS / f"patients-{what}.csv"
    if not path.exists():
        raise SystemExit(f"found no {path}, expected results; run {what} with --data first, without --table")
    wide = tables.read(path, ("fold", "seconds", "*/*"))
    long = wide.melt(["method", "fold", "case", "seconds"], var_name="column").dropna(subset="value")
    long[["present", "region", "metric", "unit"]] = long.pop("column").str.split("/", expand=True).to_numpy()
    keys, coded = ["method", "case", "present", "region"], long["metric"] == "empty"
    codes = long[coded].set_index(keys)["value"].astype(int).map(list(EMPTY.values()).__getitem__).rename("empty")
    return long[~coded].join(codes, on=keys).fillna({"empty": ""}).assign(run="", seed=0, policy="fused")


def searched() -> str:
    """A row for each change: Dice in per cent, and what it adds over the three regions to what it is compared to."""
    found = read("search")
    rows = []
    for name in (one for one in CHANGES if one in set(found["method"])):
        own, against = found[found["method"] == name], CHANGES[name].against
        dice = own.groupby(["present", "region"])["value"].mean() * 100
        flair = f"{dice['flair', 'WT']:.1f}" if "flair" in dice.index else ""
        row = {"change": name, **{region: f"{dice[ALL, region]:.1f}" for region in TASK.regions}, "gain": "–",
               "WT from FLAIR": flair,
               "WT, 15 subsets": f"{dice.xs('WT', level=1).mean():.1f}" if len(dice) == 15 * 3 else "",
               "minutes": f"{own.groupby('fold')['seconds'].first().mean() / 60:.1f}", "folds": own["fold"].nunique()}
        if name != against:
            pair = found[found["method"].isin([name, against]) & (found["present"] == ALL)]
            gain = compare(pair, name, by=("present",)).iloc[0]
            row["gain"] = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*100 * gain[["difference", "low", "high"]])
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def compared() -> str:
    """A row for each system: regions from all scans, WT from FLAIR, over the 15 subsets, over pairs and triples."""
    dice = read("leave-one-out")
    dice = dice[dice["metric"] == "dice"].assign(scans=lambda table: table["present"].str.count(r"\+") + 1)
    rows = []
    for name, own in dice.groupby("method", sort=False):
        whole = own[own["region"] == "WT"]
        rows.append({"system": name, "cases": own["case"].nunique(),
                     **(own[own["present"] == ALL].groupby("region", sort=False)["value"].mean() * 100).round(1),
                     "WT from FLAIR": round(whole.loc[whole["present"] == "flair", "value"].mean() * 100, 1),
                     "WT, all subsets": round(whole["value"].mean() * 100, 1),
                     "WT, 2 and 3 scans": round(whole.loc[whole["scans"].isin([2, 3]), "value"].mean() * 100, 1)})
    return markdown(pd.DataFrame(rows))


def markdown(table: pd.DataFrame) -> str:
    """A table as a page shows it."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


WHAT = {"search": (CHANGES, search, searched), "leave-one-out": (SYSTEMS, leave_one_out, compared),
        "elsewhere": ([BEST], elsewhere, None),
        "picture": ([BEST], picture, None), "maps": ([BEST], maps, mapped), "model": ([BEST], model, None),
        "sure": ([BEST], sure, None), "disease": ([MODEL], disease, None)}
"""What is asked for -> its rows, how one is made, how they are printed."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("names", nargs="*", help="rows; all of them when left out")
    parser.add_argument("--data", type=Path, help="folder of the cases")
    parser.add_argument("--out", type=Path, default=Path("runs/patients"), help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print what there is, train nothing")
    asked = parser.parse_args()
    rows, make, show = WHAT[asked.what]
    if unknown := sorted(set(asked.names) - set(rows)):
        parser.error(f"found {', '.join(unknown)}, expected some of {', '.join(rows)}")
    if asked.table and not show:
        parser.error(f"found --table, which {asked.what} does not have")
    elif asked.table:
        sys.stdout.write(show() + "\n")
    elif asked.data is None:
        parser.error("found no --data, expected the folder of the cases")
    else:
        found = find_cases(asked.data, TASK)
        for one in asked.names or rows:
            make(one, found, asked.out)

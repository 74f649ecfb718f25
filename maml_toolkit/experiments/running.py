"""The systems of an experiment, rows of its table: what is not trained yet is trained, then measured, run after run.

Of what was measured `rescued` finds the cases where every single modality fails and all together do not, the paper's
Figure 3.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from maml_toolkit.data import splits
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import with_spacing
from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation import evaluate, fit_policy
from maml_toolkit.evaluation.measuring import EXPECTED, measured_from, sets_of
from maml_toolkit.evaluation.metrics import METRICS, asked
from maml_toolkit.evaluation.paper import check_one_answer, largest_subset, mono_modal
from maml_toolkit.evaluation.table import read_table
from maml_toolkit.methods import Method, build
from maml_toolkit.networks.unet import layout
from maml_toolkit.prediction.answering import check_policies
from maml_toolkit.prediction.prediction import Prediction, check_smallest
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import machine, tables
from maml_toolkit.system.files import checksum, write_whole
from maml_toolkit.training.checking import check_cases
from maml_toolkit.training.recipes import Recipe
from maml_toolkit.training.trainer import Trainer

OF_RECIPE = ("recipe", "learning_rate", "schedule", "augmentation")
"""The trainer's settings that a system's own recipe takes the place of."""

BEFORE_TRAINING = ("window", "overlap", "device", "precision", "at_once")
"""Arguments of a Predictor that an untrained network takes too."""

Folds = Sequence[tuple[Sequence[Case], Sequence[Case]]]
"""For each fold its training and its test cases."""


@dataclass(frozen=True)
class System:
    """A row of a comparison: a method with its arguments.

    Attributes:
        method: its name in METHODS.
        modalities: those that it is built for; None: all of the task.
        settings: the method's own arguments.
        recipe: how it is trained, instead of what the trainer's settings say of learning rate, schedule and
            augmentation: "paper" or "nnunet". Deep supervision follows the recipe unless the settings name it.
    """

    method: str
    modalities: Sequence[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None

    @classmethod
    def of(cls, given: System | Mapping[str, Any] | str) -> System:
        """A system from the name of a method, or from {"method": …, "modalities": …, "recipe": …, and the method's
        arguments}.

        Raises:
            ValueError: a mapping without a method.
        """
        if isinstance(given, System):
            return given
        given = {"method": given} if isinstance(given, str) else dict(given)
        if "method" not in given:
            raise ValueError(f"found the system {given}, expected a method in it, such as {{'method': 'maml'}}")
        return cls(given.pop("method"), given.pop("modalities", None), recipe=given.pop("recipe", None), settings=given)

    def built(self, task: Task, plan: Mapping[str, Any]) -> Method:
        """Its method, untrained.

        Raises:
            ValueError: modalities that the task does not have, or arguments that the method does not take.
        """
        modalities = tuple(self.modalities or task.modalities)
        if unknown := set(modalities) - set(task.modalities):
            raise ValueError(f"found a system of {self.method} with the modalities {sorted(unknown)}, expected some of "
                             f"{list(task.modalities)}")
        supervised = {"deep_supervision": True} if self.recipe and Recipe.of(self.recipe).deep_supervision else {}
        return build(self.method, modalities=modalities, **task.outputs,
                     **{**plan, **supervised, **self.settings})

    def trainer(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of its Trainer, from those of all systems."""
        if not self.recipe:
            return dict(settings)
        return {"recipe": self.recipe, **{name: one for name, one in settings.items() if name not in OF_RECIPE}}

    def usable(self, cases: Sequence[Case]) -> list[Case]:
        """The cases that hold at least one of its modalities."""
        return [case for case in cases if self.modalities is None or set(self.modalities) & set(case.images)]


def papers_systems(tables: Iterable[int], modalities: Sequence[str], single: str | None = None) -> dict[str, System]:
    """The systems of the paper's tables by the names that it gives them.

    Table 1: fusion from all modalities; beside nnU-Net, which has its own recipe, its network with the recipe of the
    others, "U-Net, stacked". Table 2: from each modality alone, a network of its own or MAML. Table
    3: from the modality `single` alone (the paper: t1ce), methods for missing modalities.

    Raises:
        ValueError: another table, or Table 3 without one of the modalities.
    """
    maml = {"MAML": System("maml")}
    found: dict[str, System] = {}
    for table in tables:
        if table == 1:
            found |= {"nnUNet": System("early_fusion", recipe="nnunet"), "U-Net, stacked": System("early_fusion"),
                      "OctopusNet": System("octopusnet"),
                      "MS+Ensemble": System("late_fusion"), "MS+MA": System("maml", settings={"intra_weight": 0})}
            found |= maml
        elif table == 2:
            found |= {mono_modal(one): System("early_fusion", [one], recipe="nnunet") for one in modalities} | maml
        elif table == 3 and single in modalities:
            found |= {"HeMIS": System("hemis"), "U-HVED": System("uhved"),
                      "KD-Net": System("kdnet", settings={"students": [single]}), **maml}
        else:
            raise ValueError(f"found the table {table!r} with single={single!r}, expected 1, 2, or 3 with one of "
                             f"{list(modalities)}")
    return found


def run_name(system: str, fold: int, seed: int) -> str:
    """The folder of a run: the system's name with only the characters that every file system takes."""
    return f"{re.sub(r'[^A-Za-z0-9_+]+', '-', system).strip('-')}-fold-{fold}-seed-{seed}"


def check_names_of_runs(systems: Iterable[str]) -> None:
    """Nothing, if every system has a folder of its own.

    Raises:
        ValueError: two names that differ only in letter case or in what a folder's name does not keep, or one without
            a letter or digit.
    """
    names = list(systems)
    folders = {name: run_name(name, 0, 0).casefold() for name in names}
    if len(set(folders.values())) < len(names) or any(one.startswith("-") for one in folders.values()):
        raise ValueError(f"found the systems {names}, expected names that differ in letters and digits (a to z, "
                         "letter case aside), from which the folders of their runs are named")


def run(systems: Mapping[str, System | Mapping[str, Any] | str], folds: Folds, task: Task, folder: str | Path, *,
        seeds: Sequence[int] = (0,), channels: Sequence[int], trainer: Mapping[str, Any],
        subsets: str | Iterable[Iterable[str]] = "each", predictor: Mapping[str, Any] | None = None,
        fit_on: int = 0, only: Sequence[int] | None = None, **measures: Any) -> pd.DataFrame:
    """Train what is not trained yet, measure what is not measured yet, and return the table of all.

    A system's run of fold f and seed s starts from the random seed s · (number of folds) + f, weights and
    patches alike, so that no two folds share their luck. Every system gets the same budget of steps (KD-Net
    for its teacher and again for its students) and its newest checkpoint is measured: no test case chooses.

    Args:
        systems: by the names that the table shows.
        folds: cases for training and for testing, disjoint by patient.
        task: of the cases; its spacing is that of all folds.
        folder: to write.
        seeds: each fold is trained once with each.
        channels: of every system's U-Nets.
        trainer: arguments of the Trainer, `patch_size` among them.
        subsets: as for `evaluate`; those that a system does not accept are left out, and cases from which it cannot
            answer at all.
        predictor: arguments of the Predictor that measures, such as device, precision, window and at_once.
        fit_on: patients of each fold's training cases on which no system is trained, and to which the policy "by-size"
            is fitted. They are missed in training, so that a comparison of policies costs every system the same; the
            test cases have no part in it.
        only: numbers of the folds that are run now, so that the others' turn can come elsewhere; all when left out.
            The table of all is not written then: call once without it when all are done.
        measures: other arguments of `evaluate`: policies (a system gives those that it knows), metrics,
            smallest_mm3.

    Raises:
        DataError: a patient in two folds, or cases that cannot be used.
        ValueError: a system that cannot be built, a number that no fold has, a run that was begun with other settings,
            the metric "expected_dice", the policy "by-size" without patients to fit it to, or too few of them.
    """
    folder = Path(folder)
    systems = {name: System.of(one) for name, one in systems.items()}
    task = with_spacing(task, [case for training, _ in folds for case in training])
    plan = {"channels": list(channels), **layout(trainer["patch_size"], task.spacing_mm, len(channels))}
    subsets = sets_of(subsets)
    turns = range(len(folds)) if only is None else only
    if unknown := [fold for fold in turns if fold not in range(len(folds))]:
        raise ValueError(f"found the folds {unknown} in only=, expected numbers from 0 to {len(folds) - 1}")
    listed = () if isinstance(subsets, str) else subsets
    if wrong := [sorted(one) for one in listed if not one or one - set(task.modalities)]:
        raise ValueError(f"found {wrong} among the subsets, expected sets of names of {list(task.modalities)}")
    check_names_of_runs(systems)
    check_smallest(measures.get("smallest_mm3"), task)
    if EXPECTED in asked(measures.get("metrics", METRICS)):
        raise ValueError(f"found the metric {EXPECTED!r}, expected others: it is learned on validation cases, which "
                         "the runs of an experiment do not have")
    built = {name: one.built(task, plan) for name, one in systems.items()}
    measuring = {name: one for name, one in (predictor or {}).items() if name in BEFORE_TRAINING and one is not None}
    for one in built.values():         # what can be known to fail is said before the first hour of training
        Predictor(one, task, **{"window": trainer["patch_size"], **measuring})
    policies = check_policies(measures.pop("policies", None) or ["fused"])
    if fit_on < 0 or ("by-size" in policies and not fit_on):
        raise ValueError(f"found fit_on={fit_on} and the policies {policies}, expected for 'by-size' how many patients "
                         "of each fold's training cases it is fitted to, such as fit_on=4")
    parts = [held_back(training, fit_on) for training, _ in folds]
    for name, fold in itertools.product(systems, turns):
        check_cases(built[name], systems[name].usable(parts[fold][0]))
    folder.mkdir(parents=True, exist_ok=True)
    splits.write(folder / "splits.json", folds)
    wanted = [(name, fold, seed) for seed in dict.fromkeys(seeds) for fold in turns for name in systems]
    found = []
    for name, fold, seed in machine.progress(wanted, desc="runs", unit="run"):
        at = Run(folder / "runs" / run_name(name, fold, seed))
        (training, fitting), test = parts[fold], folds[fold][1]
        network = trained(systems[name], training, at, task, plan, trainer, seed=seed * len(folds) + fold)
        known = [policy for policy in policies if policy == "fused" or network.tells_each]
        if "by-size" in known:
            answering = Predictor.load(at.folder, "newest", **predictor or {})
            if not answering.fitted.by_size or answering.fitted_otherwise:
                fit_policy(answering, systems[name].usable(fitting))
        table = measured(at, test, subsets, predictor, policies=known, **measures, fold=fold, seed=seed)
        found.append(table.assign(method=name))
    together = pd.concat(found, ignore_index=True)
    if only is None:
        tables.write(folder / "comparison.csv", together)
    return together


def trained(system: System, training: Sequence[Case], at: Run, task: Task, plan: Mapping[str, Any],
            trainer: Mapping[str, Any], seed: int) -> Method:
    """The method of a system, trained in a run folder on those of the cases that it can use, from a random seed."""
    torch.manual_seed(seed)
    network = system.built(task, plan)
    settings = {"live": False} | system.trainer(trainer)
    Trainer(network, at.folder, task, seed=seed, **settings).fit(system.usable(training))
    return network


def held_back(training: Sequence[Case], patients: int) -> tuple[Sequence[Case], Sequence[Case]]:
    """The cases that are left for training, and those of so many patients, drawn as the release draws its folds.

    Raises:
        ValueError: nobody is left to train on.
    """
    if not patients:
        return training, ()
    everybody = len(set(map(splits.patient_of, training)))
    if patients >= everybody:
        raise ValueError(f"found fit_on={patients} and {everybody} patients in the training cases of a fold, expected "
                         "fewer, so that some are left to train on")
    return splits.holdout(training, patients / everybody)[0]


def measured(at: Run, cases: Sequence[Case], subsets: str | list[frozenset[str]],
             predictor: Mapping[str, Any] | None = None, **measures: Any) -> pd.DataFrame:
    """The table of a run's newest checkpoint on the test cases, read from the run folder where that is still true."""
    answering = Predictor.load(at.folder, "newest", **predictor or {})
    method = answering.method
    cases = [case for case in cases if method.answerable(set(case.images) & set(method.modalities))]
    if not isinstance(subsets, str):
        answerable = method.answerable(set(method.modalities))
        subsets = [one for one in subsets if one in answerable]
    kept, note = at.folder / "comparison.csv", at.folder / "comparison.json"
    about = measured_from(answering, cases, subsets, **measures)
    if not (kept.exists() and note.exists() and note.read_text(encoding="utf-8") == _note(about, kept)):
        note.unlink(missing_ok=True)            # never a note beside the table of another
        tables.write(kept, evaluate(answering, cases, subsets, **measures))
        write_whole(note, _note(about, kept))
    return read_table(kept)


def _note(about: str, kept: Path) -> str:
    return json.dumps({"measured from": json.loads(about), "sha256": checksum(kept)}, indent=1)


def rescued(table: pd.DataFrame, folder: str | Path, cases: Sequence[Case], *, joint: str = "MAML", count: int = 3,
            predictor: Mapping[str, Any] | None = None) -> tuple[list[Case], dict[str, list[Prediction]]]:
    """Cases where every single modality fails and the joint answer does not, with the answers: the paper's Figure 3.

    A modality alone is answered by its own network where the experiment has one, else by the joint system, by the
    policy of the table's rows. The cases are those with the largest Dice of the joint answer minus the best of the
    single ones, mean over the regions of the task.

    Args:
        table, folder: what `run` returned and where.
        cases: all cases of the experiment.
        joint: the system that answers from all modalities.
        count: of cases.
        predictor: arguments of the Predictor, as `run` was given them, or answers would be others than were measured.

    Raises:
        ValueError: the joint system is not in the table, nothing answered from single modalities, or rows of several
            policies.
    """
    columns = _columns(table, joint)
    check_one_answer(table)
    one = Run(Path(folder) / "runs" / table.loc[table["method"] == joint, "run"].iloc[0])
    regions = Task.from_json(one.settings["task"]).regions
    scores = _scores(table[table["region"].isin(regions)], columns)     # not those that are measured beside them
    gain = (scores.iloc[:, -1] - scores.iloc[:, :-1].max(axis=1)).dropna().sort_values(ascending=False)
    chosen = gain[~gain.index.get_level_values("case").duplicated()].index[:count]
    by_id = {case.id: case for case in cases}
    answers: dict[str, list[Prediction]] = {name: [] for name in columns}
    for case, fold, seed in chosen:
        for name, (system, present) in columns.items():
            policy = table.loc[table["method"] == system, "policy"].fillna("").iloc[0]
            answering = Predictor.load(Path(folder) / "runs" / run_name(system, fold, seed), "newest",
                                       **{"policy": policy or "fused", **(predictor or {})})
            answers[name].append(answering(by_id[case], present.split("+"), attention=False, contributions=False))
    return [by_id[case] for case, *_ in chosen], answers


def _columns(table: pd.DataFrame, joint: str) -> dict[str, tuple[str, str]]:
    """Title of a column -> the system and the modalities that it answers from; the joint answer last."""
    full = largest_subset(table[table["method"] == joint])
    answered = set(zip(table["method"], table["present"], strict=True))
    singles = {}
    for one in full.split("+"):
        mono = mono_modal(one)
        system = mono if (mono, one) in answered else joint
        singles[mono if system == mono else f"{joint} ({one})"] = (system, one)
    columns = {title: found for title, found in singles.items() if found in answered}
    if not columns or len(full.split("+")) < 2:
        raise ValueError(f"found no answer of {joint} from all and from single modalities; evaluate with "
                         "subsets='each'")
    return columns | {f"{joint} (all)": (joint, full)}


def _scores(table: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Dice, mean over regions, of each case, fold and seed (rows) in each of the columns."""
    dice = table[table["metric"] == "dice"]
    return pd.DataFrame({title: dice[(dice["method"] == system) & (dice["present"] == present)].groupby(
        ["case", "fold", "seed"])["value"].mean() for title, (system, present) in columns.items()})

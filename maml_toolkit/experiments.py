"""An experiment: systems x folds x seeds, each trained once with the same budget, measured into one table.

    <folder>/splits.json                       who trains and who tests
             runs/<system>-fold-0-seed-0/      a run (runs.py) with its table, comparison.csv
             comparison.csv                    the tables of all runs; its column `method` holds the system's name

What is trained is not trained again and what is measured is not measured again, so an experiment that was
stopped, or that gets another system or seed, goes on where it stands. Other folds are another experiment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from maml_toolkit import checkpoints, machine
from maml_toolkit.data import splits
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import with_spacing
from maml_toolkit.evaluation import evaluate
from maml_toolkit.evaluation.measuring import check_word
from maml_toolkit.evaluation.paper import largest_subset, mono_modal
from maml_toolkit.files import write_whole
from maml_toolkit.inference import Predictor, check_policy
from maml_toolkit.methods import Method, build
from maml_toolkit.networks.unet import layout
from maml_toolkit.prediction import Prediction
from maml_toolkit.runs import Run
from maml_toolkit.tasks import Task
from maml_toolkit.training import Trainer

Folds = Sequence[tuple[Sequence[Case], Sequence[Case]]]
"""For each fold its training and its test cases."""


@dataclass(frozen=True)
class System:
    """A row of a comparison: a method with its arguments.

    Attributes:
        method: its name in METHODS.
        modalities: those that it is built for; None: all of the task.
        settings: the method's own arguments.
    """

    method: str
    modalities: Sequence[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: System | Mapping[str, Any] | str) -> System:
        """A system from the name of a method, or from {"method": …, "modalities": …, and the method's arguments}.

        Raises:
            ValueError: a mapping without a method.
        """
        if isinstance(given, System):
            return given
        given = {"method": given} if isinstance(given, str) else dict(given)
        if "method" not in given:
            raise ValueError(f"found the system {given}, expected a method in it, such as {{'method': 'maml'}}")
        return cls(given.pop("method"), given.pop("modalities", None), given)


def papers_systems(tables: Iterable[int], modalities: Sequence[str], single: str | None = None) -> dict[str, System]:
    """The systems of the paper's tables by the names that it gives them.

    Table 1: fusion from all modalities. Table 2: from each modality alone, a network of its own or MAML. Table
    3: from the modality `single` alone (the paper: t1ce), methods for missing modalities.

    Raises:
        ValueError: another table, or Table 3 without one of the modalities.
    """
    maml = {"MAML": System("maml")}
    found: dict[str, System] = {}
    for table in tables:
        if table == 1:
            found |= {"nnUNet": System("early_fusion"), "OctopusNet": System("octopusnet"),
                      "MS+Ensemble": System("late_fusion"), "MS+MA": System("maml", settings={"intra_weight": 0})}
            found |= maml
        elif table == 2:
            found |= {mono_modal(one): System("early_fusion", [one]) for one in modalities} | maml
        elif table == 3 and single in modalities:
            found |= {"HeMIS": System("hemis"), "U-HVED": System("uhved"),
                      "KD-Net": System("kdnet", settings={"students": [single]}), **maml}
        else:
            raise ValueError(f"found the table {table!r} with single={single!r}, expected 1, 2, or 3 with one of "
                             f"{list(modalities)}")
    return found


def run(systems: Mapping[str, System | Mapping[str, Any] | str], folds: Folds, task: Task, folder: str | Path, *,
        seeds: Sequence[int] = (0,), channels: Sequence[int], trainer: Mapping[str, Any],
        subsets: str | Iterable[Iterable[str]] = "each", **measures: Any) -> pd.DataFrame:
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
        subsets: as for `evaluate`; those that a system does not accept are left out.
        measures: other arguments of `evaluate`: policies (a system gives those that it knows), smallest_mm3.

    Raises:
        DataError: a patient in two folds, or cases that cannot be used.
        ValueError: a system that cannot be built, or a run that was begun with other settings.
    """
    folder = Path(folder)
    systems = {name: System.of(one) for name, one in systems.items()}
    task = with_spacing(task, [case for training, _ in folds for case in training])
    plan = {"channels": list(channels), **layout(trainer["patch_size"], task.spacing_mm, len(channels))}
    subsets = checked_subsets(subsets, task)
    check_names_of_runs(systems)
    for one in systems.values():       # what can be known to fail is said before the first hour of training
        built(one, task, plan)
    policies = [check_policy(policy) for policy in measures.pop("policies", None) or ["fused"]]
    folder.mkdir(parents=True, exist_ok=True)
    splits.write(folder / "splits.json", folds)
    wanted = [(name, fold, seed) for seed in seeds for fold in range(len(folds)) for name in systems]
    tables = []
    for name, fold, seed in machine.progress(wanted, desc="runs", unit="run"):
        at = Run(folder / "runs" / run_name(name, fold, seed))
        start = seed * len(folds) + fold
        torch.manual_seed(start)
        training, test = folds[fold]
        network = built(systems[name], task, plan)
        Trainer(network, at.folder, task, seed=start, **trainer).fit(usable(systems[name], training))
        known = [policy for policy in policies if policy == "fused" or network.tells_each]
        table = measured(at, test, subsets, policies=known, **measures, fold=fold, seed=seed)
        tables.append(table.assign(method=name))
    together = pd.concat(tables, ignore_index=True)
    write_whole(folder / "comparison.csv", together.to_csv(index=False))
    return together


def rescued(table: pd.DataFrame, folder: str | Path, cases: Sequence[Case], *, joint: str = "MAML",
            count: int = 3) -> tuple[list[Case], dict[str, list[Prediction]]]:
    """Cases where every single modality fails and the joint answer does not, with the answers: the paper's Figure 3.

    A modality alone is answered by its own network where the experiment has one, else by the joint system. The
    cases are those with the largest Dice of the joint answer minus the best of the single ones, mean over
    regions.

    Args:
        table, folder: what `run` returned and where.
        cases: all cases of the experiment.
        joint: the system that answers from all modalities.
        count: of cases.

    Raises:
        ValueError: the joint system is not in the table, or nothing answered from single modalities.
    """
    columns = _columns(table, joint)
    scores = _scores(table, columns)
    gain = (scores.iloc[:, -1] - scores.iloc[:, :-1].max(axis=1)).dropna().sort_values(ascending=False)
    chosen = gain[~gain.index.get_level_values("case").duplicated()].index[:count]
    by_id = {case.id: case for case in cases}
    answers: dict[str, list[Prediction]] = {name: [] for name in columns}
    for case, fold, seed in chosen:
        for name, (system, present) in columns.items():
            predictor = Predictor.load(Path(folder) / "runs" / run_name(system, fold, seed), "newest")
            answers[name].append(predictor(by_id[case], present.split("+"), attention=False, contributions=False))
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


def run_name(system: str, fold: int, seed: int) -> str:
    """The folder of a run: the system's name with only the characters that every file system takes."""
    return f"{re.sub(r'[^A-Za-z0-9_+]+', '-', system).strip('-')}-fold-{fold}-seed-{seed}"


def built(system: System, task: Task, plan: Mapping[str, Any]) -> Method:
    """The system's method, untrained.

    Raises:
        ValueError: modalities that the task does not have, or arguments that the method does not take.
    """
    modalities = tuple(system.modalities or task.modalities)
    if unknown := set(modalities) - set(task.modalities):
        raise ValueError(f"found a system of {system.method} with the modalities {sorted(unknown)}, expected some of "
                         f"{list(task.modalities)}")
    return build(system.method, modalities=modalities, classes=task.classes, **plan, **system.settings)


def usable(system: System, cases: Sequence[Case]) -> list[Case]:
    """The cases that hold at least one of the system's modalities."""
    return [case for case in cases if system.modalities is None or set(system.modalities) & set(case.images)]


def measured(at: Run, cases: Sequence[Case], subsets: str | list[list[str]], **measures: Any) -> pd.DataFrame:
    """The table of a run's newest checkpoint on the test cases, read from the run folder where that is still true."""
    about = json.dumps({"cases": sorted(case.id for case in cases), "subsets": subsets, **measures,
                        "checkpoint": checkpoints.newest(at.checkpoints).name})
    kept, note = at.folder / "comparison.csv", at.folder / "comparison.json"
    if not (kept.exists() and note.exists() and note.read_text() == about):
        predictor = Predictor.load(at.folder, "newest")
        table = evaluate(predictor, cases, accepted(predictor, subsets), **measures)
        write_whole(kept, table.to_csv(index=False))
        write_whole(note, about)
    return pd.read_csv(kept, keep_default_na=False, na_values={"value": [""]})


def checked_subsets(subsets: str | Iterable[Iterable[str]], task: Task) -> str | list[list[str]]:
    """The subsets as plain lists, or the word for them.

    Raises:
        ValueError: another word, a name where a set of names is expected, or a name that the task does not have.
    """
    if isinstance(subsets, str):
        check_word(subsets)
        return subsets
    listed = list(subsets)
    wrong = [one for one in listed if isinstance(one, str) or set(one) - set(task.modalities)]
    if wrong:
        raise ValueError(f"found {wrong} among the subsets, expected sets of names of {list(task.modalities)}")
    return [sorted(one) for one in listed]


def check_names_of_runs(systems: Iterable[str]) -> None:
    """Nothing, if every system has a folder of its own.

    Raises:
        ValueError: two names that differ only in characters that a folder's name does not keep, or one without any.
    """
    names = list(systems)
    folders = {name: run_name(name, 0, 0) for name in names}
    if len(set(folders.values())) < len(names) or any(one.startswith("-") for one in folders.values()):
        raise ValueError(f"found the systems {names}, expected names that differ in letters and digits (a to z), from "
                         "which the folders of their runs are named")


def accepted(predictor: Predictor, subsets: str | list[list[str]]) -> str | list[list[str]]:
    """The listed subsets that the method answers from."""
    if isinstance(subsets, str):
        return subsets
    known = set(predictor.method.modalities)
    return [one for one in subsets if set(one) <= known and predictor.method.accepts(set(one))]

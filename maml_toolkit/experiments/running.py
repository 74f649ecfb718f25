"""Training what is not trained yet and measuring what is not measured yet, run after run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from maml_toolkit.data import splits
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import with_spacing
from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation import evaluate
from maml_toolkit.evaluation.measuring import check_smallest, check_word, measured_from
from maml_toolkit.evaluation.table import read_table
from maml_toolkit.experiments.systems import System, built, check_names_of_runs, run_name, usable
from maml_toolkit.networks.unet import layout
from maml_toolkit.prediction.predictor import Predictor, check_policies
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import machine, tables
from maml_toolkit.system.files import checksum, write_whole
from maml_toolkit.training.trainer import Trainer

Folds = Sequence[tuple[Sequence[Case], Sequence[Case]]]
"""For each fold its training and its test cases."""


def run(systems: Mapping[str, System | Mapping[str, Any] | str], folds: Folds, task: Task, folder: str | Path, *,
        seeds: Sequence[int] = (0,), channels: Sequence[int], trainer: Mapping[str, Any],
        subsets: str | Iterable[Iterable[str]] = "each", predictor: Mapping[str, Any] | None = None,
        **measures: Any) -> pd.DataFrame:
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
        predictor: arguments of the Predictor that measures, such as device, precision, window and at_once.
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
    check_smallest(measures.get("smallest_mm3"), task)
    for one in systems.values():       # what can be known to fail is said before the first hour of training
        built(one, task, plan)
    policies = check_policies(measures.pop("policies", None) or ["fused"])
    folder.mkdir(parents=True, exist_ok=True)
    splits.write(folder / "splits.json", folds)
    wanted = [(name, fold, seed) for seed in dict.fromkeys(seeds) for fold in range(len(folds)) for name in systems]
    found = []
    for name, fold, seed in machine.progress(wanted, desc="runs", unit="run"):
        at = Run(folder / "runs" / run_name(name, fold, seed))
        start = seed * len(folds) + fold
        torch.manual_seed(start)
        training, test = folds[fold]
        network = built(systems[name], task, plan)
        Trainer(network, at.folder, task, seed=start, **trainer).fit(usable(systems[name], training))
        known = [policy for policy in policies if policy == "fused" or network.tells_each]
        table = measured(at, test, subsets, predictor, policies=known, **measures, fold=fold, seed=seed)
        found.append(table.assign(method=name))
    together = pd.concat(found, ignore_index=True)
    tables.write(folder / "comparison.csv", together)
    return together


def measured(at: Run, cases: Sequence[Case], subsets: str | list[frozenset[str]],
             predictor: Mapping[str, Any] | None = None, **measures: Any) -> pd.DataFrame:
    """The table of a run's newest checkpoint on the test cases, read from the run folder where that is still true."""
    answering = Predictor.load(at.folder, "newest", **predictor or {})
    if not isinstance(subsets, str):
        answerable = answering.method.answerable(set(answering.method.modalities))
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


def checked_subsets(subsets: str | Iterable[Iterable[str]], task: Task) -> str | list[frozenset[str]]:
    """The subsets, each once, or the word for them.

    Raises:
        ValueError: another word, a name where a set of names is expected, or a name that the task does not have.
    """
    if isinstance(subsets, str):
        check_word(subsets)
        return subsets
    listed = list(subsets)
    wrong = [one for one in listed if isinstance(one, str) or not set(one) or set(one) - set(task.modalities)]
    if wrong:
        raise ValueError(f"found {wrong} among the subsets, expected sets of names of {list(task.modalities)}")
    return list(dict.fromkeys(map(frozenset, listed)))

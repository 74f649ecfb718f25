"""The systems of an experiment: rows of a table, each a method with its arguments and the folders of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation.paper import mono_modal
from maml_toolkit.methods import Method, build


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

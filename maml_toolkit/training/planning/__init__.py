"""A plan for this machine and these cases: the largest network and patch that memory and hours allow, with reasons.

    python -m maml_toolkit plan prepared --hours 8

What a step takes is counted (counting.py), what the device makes of that is measured in two small steps (measuring.py),
and nnU-Net's rules choose among what fits (choosing.py). The job 2-train asks for a plan where nothing else is said.

References:
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et al., Nature
    Methods 2021, https://doi.org/10.1038/s41592-020-01008-z
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_toolkit.data.cache import prepare_all, prepared_cases
from maml_toolkit.data.splits import select
from maml_toolkit.data.tasks import Task
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import machine
from maml_toolkit.system.errors import nearest
from maml_toolkit.system.files import writable
from maml_toolkit.system.showing import duration, edges, size, widths
from maml_toolkit.training import distributed
from maml_toolkit.training.planning.choosing import HOURS, WORKING, Need, choose
from maml_toolkit.training.planning.measuring import Costs, available_memory, measured
from maml_toolkit.training.planning.plans import PAPER, WEEK_H, Plan, as_tuples, bytes_of

__all__ = ["PAPER", "Plan", "for_run", "plan"]

SURELY_SHORT_H = 12
"""A training that cannot take longer, by the slowest rate of SLOWEST, is not measured if everything was given."""
SLOWEST = {"cpu": 5e9, "cuda": 5e11}
"""FLOP a second that any core, or GPU, reaches."""


def plan(prepared: str | Path, *, plan: str | Path = "auto", memory: str | float | None = None,
         hours: float | None = None, method: str = "maml", method_settings: Mapping[str, Any] | None = None,
         modalities: Sequence[str] | None = None, train_on: str | None = None,
         training: Collection[str] | None = None, validation: Collection[str] = (), device: str = "auto",
         precision: str = "auto", **given: Any) -> Plan:
    """How to train a method here on cases that 1-prepare wrote; see `Plan`.

        print(plan("prepared", hours=8))

    Args:
        prepared: the folder.
        plan: "auto" chooses for this machine and these cases; "paper" takes the paper's numbers; else a file that
            `Plan.save` wrote. Of the last two it is told what they take here.
        memory: to plan for, such as "12GB"; what is free when left out.
        hours: that the training may take; one on a CPU and three days on a GPU when left out.
        method, method_settings, modalities, train_on, training, validation, device, precision: as in 2-train.
        given: parameters of 2-train that are not to be chosen (see `PAPER`); None counts as not given. Where all are
            given that fix what a step takes, and it is short, nothing is measured.

    Raises:
        ValueError: a parameter that is not planned, one that is not above 0, or nothing fits.
        DataError: the folder's cases cannot be read.
    """
    given = {name: value for name, value in given.items() if value is not None and value != []}
    if unknown := [name for name in given if name not in PAPER]:
        raise ValueError(f"found {unknown[0]}={given[unknown[0]]!r}{nearest(unknown[0], PAPER)}, expected some of "
                         f"{', '.join(PAPER)}")
    for name, value in given.items():
        if not isinstance(value, str | bool) and np.min(value) <= 0:
            raise ValueError(f"found {name}={value}, expected more than 0")
    task = Task.named(Path(prepared) / "task.json")
    task = replace(task, train_on=train_on or task.train_on)
    where = distributed.own_device(machine.choose_device(device))
    limit = float(HOURS[where.type] if hours is None else hours)
    if limit <= 0:
        raise ValueError(f"found hours={hours}, expected a number above 0")
    network = {"name": method, "modalities": list(modalities or task.modalities), **task.outputs,
               **(method_settings or {})}
    need = Need(network, spacing_mm=tuple(task.spacing_mm or (1.0, 1.0, 1.0)), device=where.type,
                precision=str(machine.choose_precision(where, precision)).removeprefix("torch."),
                available=bytes_of(memory) if memory else available_memory(where), hours=limit, given=as_tuples(given),
                named=in_words(where), cores=torch.get_num_threads())

    def costs(channels: Sequence[int]) -> Costs:
        return measured({**network, "channels": list(channels)}, where, need.precision)

    if fixed := _fixed(str(plan), need):
        return _told(fixed, need, costs, hours)
    cases = prepared_cases(prepared, task)
    held_out = select(cases, validation)
    cases = select(cases, training) if training else [case for case in cases if case not in held_out]
    shapes = [case.grid.working_shape for case in prepare_all(cases, task, Path(prepared) / "arrays")]
    typical = tuple(np.median(shapes, axis=0).astype(int).tolist())
    return choose(replace(need, shape=typical, validated=len(held_out)), costs)


def in_words(device: torch.device) -> str:
    """A device for a sentence."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    cores = torch.get_num_threads()
    return f"{device} ({cores} core{'s' * (cores > 1)})" if device.type == "cpu" else str(device)


def _fixed(base: str, need: Need) -> Plan | None:
    """The plan, where nothing is left to choose."""
    here = {"device": need.named, "precision": need.precision}
    if base == "auto":
        if {"channels", "patch_size", "epochs"} - set(need.given):
            return None
        settings = {**PAPER, **need.given}
        return Plan(**settings, **here, given=tuple(settings),
                    reasons=("Channels, patch and epochs were given: nothing was chosen.",))
    if base == "paper":
        found = Plan(**PAPER, reasons=("The paper's network, patch and steps.",))
    else:
        found = replace(Plan.load(base), memory=None, hours=None)
    return replace(found.changed(need.given), **here)


def _told(plan: Plan, need: Need, costs: Callable[[Sequence[int]], Costs], allowed: float | None) -> Plan:
    """The plan with what it takes here, unless that is surely little."""
    # 2,000 FLOP for each voxel, modality and squared width: no method takes more
    most = (2000.0 * np.prod(plan.patch_size, dtype=float) * plan.batch_size * plan.channels[0] ** 2
            * len(need.method["modalities"]) * plan.steps)
    if most / need.rate(SLOWEST) < SURELY_SHORT_H * 3600:
        return plan
    least = need.hours_of(plan, need.fastest) * plan.steps
    if least > WEEK_H:      # no need to measure it
        told = f"At least {duration(least)} here, at a rate that no {need.kind} surpasses."
        return replace(plan, hours=least, available=need.available, reasons=(*plan.reasons, told))
    cost = costs(plan.channels)
    memory, hours = need.memory(plan, cost), need.hours_of(plan, cost) * plan.steps / WORKING
    more = f", more than the {duration(allowed)} there are" if hours > (allowed or hours) else ""
    told = (f"A step takes about {size(memory)} of the {size(need.available)} there are; {plan.epochs:,} epochs of "
            f"{plan.steps_per_epoch} steps take {duration(hours)} here{more}; "
            "validation, and what it tells at the end of what to expect of answers, is not counted.")
    return replace(plan, memory=memory, available=need.available, hours=hours, reasons=(*plan.reasons, told))


def for_run(run: str | Path, prepared: str | Path, *, yes: bool = False, **settings: Any) -> Plan:
    """The plan of a training, printed on the first process and kept in the run folder as plan.json.

    A run that was begun goes on with the plan that it has.

    Args:
        run: its folder.
        prepared, settings: as of `plan`.
        yes: start also what will take weeks, or more memory than there is.

    Raises:
        ValueError: it would take weeks, or more memory than there is; with what could be done instead. Or as `plan`.
    """
    def made() -> Plan:
        kept = Run(run).plan
        if kept.exists() and Run(run).settings and str(settings.get("plan", "auto")) == "auto":
            given = {name: settings[name] for name in PAPER if settings.get(name) not in (None, [])}
            return Plan.load(kept).changed(given)
        found = plan(prepared, **settings)
        if (why := found.hopeless()) and not yes:
            raise ValueError(_refusal(found, why, prepared, settings))
        writable(Path(run))
        found.save(kept)
        return found

    device = distributed.own_device(machine.choose_device(settings.get("device", "auto")))
    with distributed.group(device):
        return distributed.from_first(made)


def _refusal(found: Plan, why: str, prepared: str | Path, settings: Mapping[str, Any]) -> str:
    """Why a training is not started, and what to do instead."""
    free = {name: value for name, value in settings.items() if name not in PAPER and name != "plan"}
    try:
        instead = plan(prepared, **free)
        offer = (f"Leave the plan to this machine (neither --plan nor --{', --'.join(found.given or ['epochs'])}): "
                 f"{instead.steps:,} steps of patches of {edges(instead.patch_size)} voxels, "
                 f"{widths(instead.channels)} channels, {duration(instead.hours)}")
    except (ValueError, MemoryError) as error:
        offer = f"Take another device (for this machine there is no plan: {error})"
    return f"{why}. {offer}. To start it all the same: --yes (yes=True)"

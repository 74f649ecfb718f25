"""Which network a machine can train on such cases: nnU-Net's rules for the patch, within memory and hours.

Tried in this order, until one fits: the widest network and the largest patch; the batch in parts; layers computed again
instead of kept; a smaller patch, while it is of a sensible size; a narrower network; any patch.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import Any

import numpy as np

from maml_toolkit.networks.unet import layout, planned_patch
from maml_toolkit.prediction.windows import windows
from maml_toolkit.system.showing import duration, edges, size, widths
from maml_toolkit.training.planning.counting import Counted, counted, end_of
from maml_toolkit.training.planning.measuring import Costs
from maml_toolkit.training.planning.plans import PAPER, PAPER_STEPS, Plan, said

STAGES = 6
EDGES = (128, 112, 96, 80, 64, 48, 40, 32)
"""Cubes of as many voxels are the budgets for which patches are planned; the first is the paper's."""
HOURS = {"cpu": 1.0, "cuda": 72.0, "mps": 72.0}
"""What a training may take where nobody says it: a first look on a CPU; three days on a GPU, which are the paper's
150,000 steps at 1.6 seconds each."""
SENSIBLE = {"cpu": 48**3}
"""Voxels that a patch keeps before the network becomes narrower; 64^3 on a GPU."""
WIDTHS = {"cpu": (32, 16, 8)}
"""Widths at full resolution that are tried; the paper's alone on a GPU."""
FASTEST = {"cpu": 150e9, "cuda": 1e15}
"""FLOP a second that no core, or GPU, surpasses in such a network."""
FIRST_LOOK = 1000
"""Steps that a training has at least, if the hours allow it."""
SHORT = 25_000
"""Steps below which one cycle is taken: its learning rate does in some hundred steps what 3e-4 does in thousands."""
USABLE = 0.92
"""Share of the memory that is planned for."""
WORKING = 0.93
"""Share of the hours that are steps: the rest is reading, checkpoints, validation."""
MEMORIES_GB = (8, 12, 16, 24, 48, 80)
"""Of the graphics cards for which the documentation says what would be planned."""
CARD = Costs(base=0.6e9, per_byte=1.1, per_part=0, per_flop=1e-18)
"""Of these cards, assumed: 0.6 GB for CUDA itself, an allocator that holds 1.1 bytes for each one that is counted, and
an instance norm that stays in bfloat16."""


@dataclass(frozen=True)
class Need:
    """What is to be planned for, and where.

    Attributes:
        method: arguments of `methods.build` without channels, strides and kernels.
        spacing_mm, shape: of a typical case on the working grid.
        device: its type: "cpu", "cuda" or "mps".
        precision: "float32", "bfloat16" or "float16".
        available: bytes of memory.
        hours: that the training may take.
        given: parameters that are not to be chosen, by name.
        named: the device in words, for the sentences.
        cores: of a CPU.
        validated: cases that are segmented whole every tenth epoch, and from which answers are learned at the end.
    """

    method: Mapping[str, Any]
    spacing_mm: tuple[float, ...]
    device: str
    precision: str
    available: float
    hours: float
    shape: tuple[int, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    named: str = ""
    cores: int = 1
    validated: int = 0

    def value(self, name: str) -> Any:
        """The given one, or the paper's."""
        return self.given.get(name, PAPER[name])

    @property
    def kind(self) -> str:
        """Of the device, for rates: "cpu" or "cuda"."""
        return "cpu" if self.device == "cpu" else "cuda"

    def rate(self, rates: Mapping[str, float]) -> float:
        """FLOP a second, from that of a core and of a GPU."""
        return rates[self.kind] * (self.cores if self.kind == "cpu" else 1)

    @property
    def fastest(self) -> Costs:
        """What no device of this kind surpasses."""
        return Costs(0, 1, 0, 1 / self.rate(FASTEST))

    @property
    def fewest(self) -> int:
        """Steps for which the hours have to be enough: those given, or so many that something is learned."""
        if "epochs" in self.given:
            return self.given["epochs"] * self.value("steps_per_epoch")
        return FIRST_LOOK if self.device == "cpu" else 10 * FIRST_LOOK

    def network(self, plan: Plan) -> dict[str, Any]:
        """Arguments of `methods.build`."""
        return {**self.method, "channels": list(plan.channels),
                **layout(plan.patch_size, self.spacing_mm, len(plan.channels))}

    def step(self, plan: Plan) -> Counted:
        """What a step of this network and patch takes for each patch."""
        return counted(self.network(plan), plan.patch_size, self.precision, plan.recompute)

    def end(self, plan: Plan) -> tuple[float, float]:
        """What is learned at the end from the validation cases: answers for each case, and bytes."""
        answers, values = end_of(json.dumps(self.network(plan))) if self.validated else (0, 0)
        # the windows cover more than a case that is smaller than one
        return answers, 4.0 * values * prod(map(max, self.shape, plan.patch_size))

    def memory(self, plan: Plan, cost: Costs) -> float:
        """Bytes of a step."""
        return cost.memory(self.step(plan), -(-plan.batch_size // plan.accumulate))

    def hours_of(self, plan: Plan, cost: Costs) -> float:
        """Of a step."""
        return cost.seconds(self.step(plan), plan.batch_size, plan.accumulate) / 3600


def choose(need: Need, costs: Callable[[Sequence[int]], Costs]) -> Plan:
    """The first that fits, with its reasons; where nothing can be done in the hours, the fastest.

    Args:
        need: cases, machine and what is given.
        costs: of a network of these widths on the device.

    Raises:
        ValueError: nothing that was left to choose fits into the memory.
    """
    refused: list[tuple[Plan, str]] = []
    fitting: list[tuple[float, Plan]] = []
    tried, steps, limit = networks(need), need.fewest, WORKING * need.hours
    for channels, patch in tried:
        narrower = any(other[0] < channels[0] for other, _ in tried)
        for accumulate, recompute in savings(need):
            one = Plan(channels, patch, need.value("batch_size"), accumulate, recompute)
            # a network that is too slow at the fastest rate need not be measured
            measured = not narrower or need.hours_of(one, need.fastest) * steps <= limit
            try:
                cost = costs(channels) if measured else need.fastest
            except MemoryError as error:
                refused.append((one, f"cannot be measured ({error})"))
                break
            memory, hours = need.memory(one, cost), need.hours_of(one, cost) * steps
            if memory > USABLE * need.available:
                spare = ", too near to all" if memory <= need.available else ""
                refused.append((one, f"would take {size(memory)} of the {size(need.available)} there are{spare}"))
                continue
            if hours <= limit:
                return made(need, one, cost, refused)
            if measured:
                fitting.append((hours, one))
            refused.append((one, f"would take {duration(hours / WORKING)} for {steps:,} steps, of the "
                                 f"{duration(need.hours)} there are"))
            break                       # to save memory does not save time
    if fitting:
        _, one = min(fitting, key=lambda pair: pair[0])
        return made(need, one, costs(one.channels), [other for other in refused if other[0] != one])
    if not refused:
        raise ValueError(f"cases of {edges(need.shape)} voxels cannot be halved for a network of two stages; give a "
                         "finer spacing to prepare")
    last, wrong = refused[-1]
    raise ValueError(f"no patch that was left to choose fits into the memory: {edges(last.patch_size)} voxels and "
                     f"{widths(last.channels)} channels {wrong}; give more memory, or fewer parameters")


def networks(need: Need) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Widths of the stages and patches that go with them by nnU-Net's rules, in the order in which they are tried.

    Raises:
        ValueError: a patch was given that so many channels cannot halve.
    """
    asked = need.given
    if {"channels", "patch_size"} <= set(asked):
        layout(asked["patch_size"], need.spacing_mm, len(asked["channels"]))
    sensible = min(SENSIBLE.get(need.device, 64**3), prod(asked.get("patch_size", need.shape)))
    all_stages = [tuple(asked["channels"])] if "channels" in asked else [
        tuple(min(10 * width, width << stage) for stage in range(STAGES)) for width in WIDTHS.get(need.device, (32,))]
    planned = (deepest(need, channels, edge**3) for channels in all_stages for edge in EDGES)
    found = list(dict.fromkeys(one for one in planned if one))
    narrowest = min(channels[0] for channels in all_stages)
    return [one for one in found if prod(one[1]) >= sensible] + [
        one for one in found if prod(one[1]) < sensible and one[0][0] == narrowest]


def deepest(need: Need, channels: tuple[int, ...], voxels: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """As many stages as the patch of at most so many voxels can be halved for, or those that were given."""
    for stages in [len(channels)] if "channels" in need.given else range(len(channels), 1, -1):
        with suppress(ValueError):
            patch = need.given.get("patch_size") or planned_patch(need.shape, need.spacing_mm, voxels, stages)
            layout(patch, need.spacing_mm, stages)
            return channels[:stages], tuple(patch)
    return None


def savings(need: Need) -> list[tuple[int, bool]]:
    """Parts of a batch and whether layers are computed again, in the order in which they are tried."""
    batch = need.value("batch_size")
    return list(dict.fromkeys((need.given.get("accumulate", parts), need.given.get("recompute", again))
                              for parts, again in ((1, False), (batch, False), (batch, True))))


def made(need: Need, one: Plan, cost: Costs, refused: Sequence[tuple[Plan, str]]) -> Plan:
    """The plan of what was chosen, and a sentence for each choice."""
    given, seconds = need.given, 3600 * need.hours_of(one, cost)
    # each window of a validation takes a third of a patch in training
    count = sum(1 for _ in windows([*map(max, need.shape, one.patch_size)], one.patch_size, 0.5))
    answers = need.validated * count / 3 / one.batch_size
    times, memory = need.end(one)
    total = int(WORKING * 3600 * need.hours / seconds - (2 + times) * answers) * 2500 // int(2500 + answers)
    total = min(PAPER_STEPS, max(1, total))
    an_epoch = given.get("steps_per_epoch") or (PAPER["steps_per_epoch"] if total >= 5000 else
                                                max(1, total // 200 * 10))
    epochs = given.get("epochs") or max(1, int(total / an_epoch))
    short = {"learning_rate": 3e-3, "schedule": "one-cycle"} if epochs * an_epoch < SHORT else {}
    plan = replace(
        one, epochs=epochs, steps_per_epoch=an_epoch, given=tuple(given), device=need.named or need.device,
        precision=need.precision, memory=need.memory(one, cost), available=need.available,
        hours=(epochs * an_epoch + (max(1, epochs // 10) + times) * answers) * seconds / WORKING / 3600,
        **{name: given.get(name, short.get(name, PAPER[name])) for name in ("learning_rate", "schedule")})
    end = times * answers * seconds / WORKING / 3600, memory
    return replace(plan, reasons=tuple(sentences(need, plan, seconds, cost.share, refused, end)))


def sentences(need: Need, plan: Plan, seconds: float, share: float, refused: Sequence[tuple[Plan, str]],
              end: tuple[float, float]) -> Iterator[str]:
    """Why this plan, what it takes, and what it gave up.

    Args:
        seconds: of a step.
        share: as of `Costs`.
        end: hours and bytes of what is learned at the end.
    """
    def why(name: str, like: Callable[[Plan], bool], thing: Callable[[Plan], str]) -> str:
        if name in need.given:
            return " (given)"
        return next((f": {thing(one)} {wrong}" for one, wrong in reversed(refused) if like(one)), "")

    def same(one: Plan) -> bool:
        return (one.channels, one.patch_size) == (plan.channels, plan.patch_size)

    yield (f"On {plan.device} in {plan.precision}, for {len(need.method['modalities'])} scans a case of "
           f"{edges(need.shape)} voxels at {edges(f'{mm:g}' for mm in need.spacing_mm)} mm (medians).")
    yield f"{len(plan.channels)} stages of {widths(plan.channels)} channels" + why(
        "channels", lambda one: one.channels[0] > plan.channels[0],
        lambda one: f"{widths(one.channels)} on patches of {edges(one.patch_size)}") + "."
    whole = prod(plan.patch_size) >= prod(need.shape)
    yield f"Patches of {edges(plan.patch_size)}" + (why(
        "patch_size", lambda one: one.channels[0] == plan.channels[0] and prod(one.patch_size) > prod(plan.patch_size),
        lambda one: edges(one.patch_size))
        or (": all of a case" if whole else ": nnU-Net's rule for at most 128x128x128 voxels")) + "."
    if plan.accumulate > 1:
        yield f"A batch of {plan.batch_size} in {plan.accumulate} parts" + why(
            "accumulate", lambda one: same(one) and one.accumulate == 1, lambda one: "at once, a step") + "."
    if plan.recompute:
        yield "Layers at full resolution are computed again instead of kept" + why(
            "recompute", lambda one: same(one) and not one.recompute, lambda one: "kept, a step") + "."
    yield (f"A step takes about {size(plan.memory)} of the {size(plan.available)} there are, and {seconds:.2g} s; "
           f"{plan.epochs:,} epochs of {plan.steps_per_epoch} steps take {duration(plan.hours)}"
           + f"{', more than' if plan.hours > need.hours else ' of'} the {duration(need.hours)} there are.")
    if need.validated:
        hours, memory = end
        yield (f"{duration(hours)} of it are the end, when {need.validated} validation cases tell what to expect of "
               "answers from any of the scans (up to eight times as long where they are mirrored, as by the recipe "
               f"nnunet); that holds about {size(memory)} beside the network" + (
                   "" if memory < USABLE * need.available else ", more than there is" if need.device == "cpu" else
                   ", in the computer's memory where the device has less") + ".")
    yield f"Learning rate {plan.learning_rate:g}, {plan.schedule}" + (
        ": few steps learn more from one cycle at a high rate" if plan.schedule == "one-cycle"
        and not {"learning_rate", "schedule"} & set(need.given) else "") + "."
    if share < 0.7:
        yield (f"Others use this machine: the steps that were measured had {share:.0%} of its cores. Alone it would be "
               "faster, and with more others slower.")
    yield from compared(plan)


def compared(plan: Plan) -> Iterator[str]:
    """What a plan gave up compared with the paper; for a first look, where that is nearly everything."""
    less = [f"{name.replace('_', ' ')} {said(name, getattr(plan, name))} instead of {said(name, PAPER[name])}"
            for name in ("channels", "patch_size", "batch_size")
            if tuple(np.ravel(getattr(plan, name))) != tuple(np.ravel(PAPER[name]))]
    if plan.steps != PAPER_STEPS:
        less.append(f"{plan.steps:,} steps instead of {PAPER_STEPS:,}")
    if less:
        yield f"Compared with the paper: {', '.join(less)}."
    if plan.channels[0] < 32 or plan.steps < 10 * FIRST_LOOK:
        yield "This is for a first look, and says little of what the method can do: for that take a GPU."


def card(memory_gb: float, scans: int = 4) -> Plan:
    """The plan of MAML for so many scans of BraTS' median size at 1 mm on a card of this memory; not measured."""
    need = Need({"name": "maml", "modalities": ["t1", "t1ce", "t2", "flair"][:scans], "classes": 4}, (1.0, 1.0, 1.0),
                "cuda", "bfloat16", memory_gb * 1e9, HOURS["cuda"], (138, 169, 138), named=f"a card of {memory_gb} GB")
    return choose(need, lambda channels: CARD)


def card_table() -> str:
    """What would be planned for four scans on graphics cards that are not here: a row for each memory, in Markdown."""
    rows = [f"| {gb} GB | {edges(plan.patch_size)} | {widths(plan.channels)} | {plan.batch_size} | {plan.accumulate} | "
            f"{'yes' if plan.recompute else 'no'} | {ceil(plan.memory / 1e9)} GB |"
            for gb in MEMORIES_GB for plan in [card(gb)]]
    return "\n".join(["| card | patch | channels | batch | `accumulate` | `recompute` | a step |",
                      "|---|---|---|---|---|---|---|", *rows])

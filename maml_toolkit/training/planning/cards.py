"""What would be planned for graphics cards that are not here: a table for the documentation, from counting alone.

Assumed, not measured: bfloat16, an instance norm that stays in it, an allocator that holds 1.1 bytes for each one that
is counted, and 0.6 GB for CUDA itself.
"""

from __future__ import annotations

from math import ceil

from maml_toolkit.training.planning.choosing import Need, choose
from maml_toolkit.training.planning.measuring import Costs
from maml_toolkit.training.planning.plans import Plan, edges, widths

CARD = Costs(base=0.6e9, per_byte=1.1, per_part=0, per_flop=1e-18)
MEMORIES_GB = (8, 12, 16, 24, 48, 80)
BRATS = (138, 169, 138)
"""Median of BraTS within its box of non-zero voxels, at 1 mm."""
SCANS = ("t1", "t1ce", "t2", "flair")


def card(memory_gb: float, scans: int = 4) -> Plan:
    """The plan of MAML for so many scans at 1 mm on a card of this memory."""
    need = Need({"name": "maml", "modalities": list(SCANS[:scans]), "classes": 4}, BRATS, (1.0, 1.0, 1.0), "cuda",
                "bfloat16", memory_gb * 1e9, 72, named=f"a card of {memory_gb} GB")
    return choose(need, lambda channels: CARD)


def table(scans: int = 4) -> str:
    """A row for each memory, in Markdown."""
    rows = [f"| {gb} GB | {edges(plan.patch_size)} | {widths(plan.channels)} | {plan.batch_size} | {plan.accumulate} | "
            f"{'yes' if plan.recompute else 'no'} | {ceil(plan.memory / 1e9)} GB |"
            for gb in MEMORIES_GB for plan in [card(gb, scans)]]
    return "\n".join(["| card | patch | channels | batch | `accumulate` | `recompute` | a step |",
                      "|---|---|---|---|---|---|---|", *rows])

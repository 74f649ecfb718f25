"""The benchmark: our side and the peers' in turn, in one run; a row says what, the ratio, its spread and the goal.

It ships with the package because `notebooks/benchmark.ipynb` does, so that everybody can measure their own machine.
Peers that are not installed are listed as not measured; `make bench` installs them into an environment of their own.
It runs on a CPU or a GPU, but the goals were set for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks import (
    augmenting,
    importing,
    loading,
    memory,
    metrics,
    predicting,
    scaling,
    sharding,
    steps,
    sweeping,
)
from benchmarks.page import write
from benchmarks.rows import Row, as_table
from benchmarks.settings import Settings
from maml_toolkit.system.machine import progress

__all__ = ["ROWS", "Row", "Settings", "as_table", "measure", "write"]

ROWS: dict[str, Callable[[Settings], Iterable[Row]]] = {
    "step_nnunet": steps.against_nnunet,
    "step_maml": steps.against_single_networks,
    "step_bare": steps.against_bare,
    "step_flops": steps.against_convolution,
    "augmentation": augmenting.against_peers,
    "loading": loading.against_held,
    "prediction": predicting.from_files,
    "over_network": predicting.over_network,
    "box": predicting.in_the_box,
    "subsets": predicting.all_subsets,
    "sweep": sweeping.against_one,
    "sharding": sharding.against_one_by_one,
    "metrics": metrics.against_peers,
    "recompute": memory.against_plain,
    "import": importing.against_torch,
    "scaling": scaling.over_work,
}
"""Name -> what measures it; a name may give several rows."""


def measure(settings: Settings, rows: str | Sequence[str] | None = None) -> list[Row]:
    """Measure rows (or one) one after the other; all of them when left out.

    Raises:
        ValueError: no such row; said before anything is measured.
    """
    rows = [*ROWS] if rows is None else [rows] if isinstance(rows, str) else list(rows)
    if unknown := [name for name in rows if name not in ROWS]:
        raise ValueError(f"found the rows {unknown}, expected some of {', '.join(ROWS)}")
    return [row for name in progress(rows, desc="benchmark", unit="row") for row in ROWS[name](settings)]

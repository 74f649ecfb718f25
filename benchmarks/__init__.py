"""The benchmark: our side and the peers' take turns; a row says what, the ratio, its spread and the goal.

`python -m benchmarks` in a clone runs `benchmark.ipynb` beside this file. Peers that are not installed are listed as
not measured; `make bench` installs them into an environment of their own.
It runs on a CPU or a GPU, but the goals were set for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks import answers, loading, training
from benchmarks.measuring import Row, Settings, as_table, less_favourable, rows_of
from benchmarks.page import write
from maml_toolkit.system.machine import progress

__all__ = ["ROWS", "Row", "Settings", "as_table", "less_favourable", "measure", "rows_of", "write"]

ROWS: dict[str, Callable[[Settings], Iterable[Row]]] = {
    "step_nnunet": training.against_nnunet,
    "step_maml": training.against_single_networks,
    "step_bare": training.against_bare,
    "step_flops": training.against_convolution,
    "float32": training.against_im2col,
    "augmentation": loading.augmentation_against_peers,
    "loading": loading.against_held,
    "prediction": answers.from_files,
    "over_network": answers.over_network,
    "box": answers.in_the_box,
    "subsets": answers.all_subsets,
    "sweep": training.sweep_against_one,
    "sharding": answers.against_one_by_one,
    "metrics": answers.metrics_against_peers,
    "recompute": training.against_plain,
    "import": loading.against_torch,
    "scaling": training.over_work,
}
"""Name -> what measures it; a name may give several rows."""


def measure(settings: Settings, rows: str | Sequence[str] | None = None) -> Iterator[Row]:
    """Measure rows (or one) one after the other, all of them when left out, and give each as it comes.

    Raises:
        ValueError: no such row; said before anything is measured.
    """
    rows = [*ROWS] if rows is None else [rows] if isinstance(rows, str) else list(rows)
    if unknown := [name for name in rows if name not in ROWS]:
        raise ValueError(f"found the rows {unknown}, expected some of {', '.join(ROWS)}")
    return (row for name in progress(rows, desc="benchmark", unit="row") for row in ROWS[name](settings))

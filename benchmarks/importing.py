"""The row of importing: what `import maml_toolkit` costs beside torch, which every use of it needs."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.apart import seconds_of
from benchmarks.rows import Row, compared
from benchmarks.settings import Settings

OURS = {"import maml_toolkit": "import torch, maml_toolkit", "a network": "from maml_toolkit import MAML",
        "a Predictor": "from maml_toolkit import Predictor"}


def against_torch(settings: Settings) -> Iterable[Row]:
    """`import torch, maml_toolkit` against `import torch`, and what is loaded when it is first used."""
    names = [*OURS, "import torch"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(settings.pairs + 1):      # the first turn fills the file cache
        for name in names[::1 if turn % 2 == 0 else -1]:
            found = seconds_of(OURS.get(name, "import torch"))
            if turn:
                seconds[name].append(found)
    for name in OURS:
        yield compared("import", "a new Python, its own start left out", name, "import torch", seconds[name],
                       seconds["import torch"], "s", 1.3 if name == "import maml_toolkit" else None,
                       note="torch included on both sides")

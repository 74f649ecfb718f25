"""How the learning rate changes over a training."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "poly": lambda done: (1 - done) ** 0.9,
    # a cosine up from 1/25 over the first 30 %, then one down to nearly 0
    "one-cycle": lambda done: (0.04 + 0.48 * (1 - math.cos(math.pi * done / 0.3)) if done < 0.3
                               else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))),
}
"""Share of the learning rate after a share of all steps."""

"""Sides of a row in processes of their own, in turn, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from maml_toolkit.training.planning.measuring import apart


def seconds_of(code: str) -> float:
    """How long a new Python needs for these lines, from inside, without its own start."""
    timed = f"import time; begun = time.perf_counter(); exec({code!r}); print(time.perf_counter() - begun)"
    done = subprocess.run([sys.executable, "-c", timed], text=True, capture_output=True, check=True)
    return float(done.stdout)


def apart_in_turn(sides: Mapping[str, tuple[str, str, dict[str, Any]]], pairs: int) -> dict[str, list[dict]]:
    """What each side returns in a new process for every turn; the order is turned round each time.

    Args:
        sides: name -> module, function and its arguments.
        pairs: turns.
    """
    found: dict[str, list[dict]] = {name: [] for name in sides}
    for turn in range(pairs):
        for name in list(sides)[::1 if turn % 2 == 0 else -1]:
            module, function, settings = sides[name]
            found[name].append(apart(module, function, **settings))
    return found

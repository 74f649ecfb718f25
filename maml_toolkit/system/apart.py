"""A function in a process of its own, which tells the most memory that it held.

That is the peak of the whole process, Python and torch included, from VmHWM on Linux: `ru_maxrss` of a child starts at
what its parent held when it was made.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_RUN = """
import importlib, json, sys
module, function, settings = json.load(sys.stdin)
found = getattr(importlib.import_module(module), function)(**settings)
from maml_toolkit.system.apart import peak_mib
print("\\n" + json.dumps({**(found or {}), "peak_mib": peak_mib()}))
"""


def apart(module: str, function: str, environment: Mapping[str, str] | None = None, **settings: Any) -> dict:
    """What a function of ours returns (JSON values) in a new process, and `peak_mib` of that process.

    Raises:
        RuntimeError: it failed; the message ends with what it wrote.
    """
    done = subprocess.run([sys.executable, "-c", _RUN], input=json.dumps([module, function, settings]), text=True,
                          capture_output=True, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode:
        raise RuntimeError(f"{module}.{function} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """The most memory that this process held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(one for one in status.read_text(encoding="utf-8").splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss) / 2**20

"""How much memory of the computer a process may use: that of its container or scheduler, where one sets a limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may have; a file that other systems lack."""
CGROUP_FILES = {"": ("memory.max", "memory.current", "inactive_file"),
                "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}
"""Folder -> files of the limit and of what is held, and what memory.stat calls the part of it that is given back when
needed: in the second and in the first version of Linux' control groups."""


def free() -> tuple[int, int]:
    """The bytes that nobody uses now, and those that may be used at all, within every limit."""
    memory = psutil.virtual_memory()
    limits = [(memory.total, memory.total - memory.available), *memory_limits()]
    return max(0, min(limit - held for limit, held in limits)), min(limits)[0]


def memory_limits() -> Iterator[tuple[int, int]]:
    """The bytes that a container, or a scheduler on any level, allows, and those that are held of them."""
    for own in control_groups():
        for version, (limit, held, idle) in CGROUP_FILES.items():
            folder = CGROUP_LIMIT.parent / version / own
            with suppress(OSError, ValueError):         # no such file, or the word max
                stat = dict(line.split() for line in text_in(folder / "memory.stat").splitlines())
                yield int(text_in(folder / limit)), int(text_in(folder / held) or 0) - int(stat.get(idle, 0))


def control_groups() -> list[Path]:
    """The control groups of this process, from the root to its own, as relative paths."""
    lines = text_in(Path("/proc/self/cgroup")).splitlines()
    own = {line.split(":", 2)[2].strip("/") for line in lines if line.split(":", 2)[1] in ("", "memory")}
    return sorted({group for one in own for group in (Path(one), *Path(one).parents)} | {Path()})


def text_in(path: Path) -> str:
    """What a file says; nothing where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""

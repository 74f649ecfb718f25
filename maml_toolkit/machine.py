"""What this machine offers: the device, the precision that pays there, memory that is kept instead of returned."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from tqdm import auto, std

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" takes the first GPU, or else the CPU.

    Raises:
        ValueError: the device is not there, or no device has this name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"found device={name!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:1'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"found device={name!r}, but torch finds no CUDA GPU here; expected 'cpu' or 'auto' "
                         "(or install a CUDA build of torch)")
    return device


def choose_precision(device: torch.device, name: str = "auto") -> torch.dtype:
    """The type in which convolutions run.

    "auto" is bfloat16 where the hardware multiplies in it (a step takes half the time) and float32
    elsewhere: a CPU without avx512_bf16 is 2.4 times slower in bfloat16 than in float32.

    Raises:
        ValueError: no such precision.
    """
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise ValueError(f"found precision={name!r}, expected 'auto' or one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which a network runs at this precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


@cache
def keep_memory() -> bool:
    """Let this process keep freed memory for its next tensors; returns whether that is so now.

    glibc gives every buffer above 32 MiB back to the kernel and asks for it again at the next operation,
    which then fills it with zeros: a quarter of a training step on a CPU. The price is 20 to 30 % more
    memory held while the process lives. It does nothing without glibc, or with MAML_TOOLKIT_KEEP_MEMORY=0
    in the environment.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("MAML_TOOLKIT_KEEP_MEMORY") == "0":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mmap_max, trim_threshold, top_pad = -4, -1, -2
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, -1) and mallopt(top_pad, 256 << 20))


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; where the block raises, work that was not begun is dropped."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def memory_for(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Work that may need more memory than there is.

    Args:
        what: as the subject of a sentence.
        device: on which it runs.
        remedy: which settings make it smaller.

    Raises:
        MemoryError: it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not out:
            raise
        total = f" ({torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB)" \
            if device.type == "cuda" else ""
        raise MemoryError(f"{what} does not fit into the memory of {device}{total}; {remedy}") from error


def progress(work: Iterable | None = None, **settings: Any) -> std.tqdm:
    """A progress bar that appears after two seconds: a widget where somebody looks at a notebook, text elsewhere.

    A notebook that a job runs has nobody in front of it; its bars are text, which the job passes on to the
    shell. JupyterLab, and nothing else, sets JPY_SESSION_NAME. Of several processes that work together (distributed.py)
    only the first shows any.

    Args:
        work: to go through; None where the caller counts with `update`.
        settings: of tqdm, such as `total`, `desc` and `unit`.
    """
    settings = {"disable": os.environ.get("RANK", "0") != "0", **settings}
    if "JPY_SESSION_NAME" in os.environ:
        return auto.tqdm(work, **{"delay": 2, **settings})
    # Position 0: bars inside bars take turns on one line. In a log or an executed notebook every state is kept until
    # the end, and a run may take days: one in five seconds.
    interval = 0.1 if sys.stderr.isatty() else 5
    return std.tqdm(work, **{"delay": 2, "dynamic_ncols": True, "position": 0, "mininterval": interval, **settings})

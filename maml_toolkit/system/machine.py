"""What this machine offers: the device, the precision that pays there, memory that is kept instead of returned."""

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

from maml_toolkit.system.errors import expect_one_of

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""By which an error says that there was no memory, whatever its type: of CUDA, of a CPU, of cuBLAS and cuDNN."""


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" takes a CUDA GPU, or else Apple's (mps), or else the CPU.

    Raises:
        ValueError: the device is not there, or no device has this name.
    """
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there()))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"found device={name!r}, expected 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    if device.type in there and not there[device.type]():
        build = {"cuda": "CUDA GPU here; expected 'cpu' or 'auto' (or install a CUDA build of torch)",
                 "mps": "Apple GPU here; expected 'cpu' or 'auto'"}
        raise ValueError(f"found device={name!r}, but torch finds no {build[device.type]}")
    return device


def choose_precision(device: torch.device, name: str = "auto") -> torch.dtype:
    """The type in which convolutions run.

    "auto" is bfloat16 where the hardware multiplies in it (a step takes half the time), float16 on a GPU
    that lacks it, and float32 elsewhere: a CPU without avx512_bf16 is 2.4 times slower in bfloat16. In "float32"
    a GPU rounds to tf32 what it multiplies, as torch does unless told otherwise; heads never.

    Raises:
        ValueError: no such precision.
    """
    if name == "auto":
        return best_precision(device)[0]
    expect_one_of("precision", name, ("auto", *PRECISIONS))
    return PRECISIONS[name]


def best_precision(device: torch.device) -> tuple[torch.dtype, str]:
    """What "auto" is on a device, and a sentence that says why."""
    if device.type == "cuda":
        at = "a GPU of compute capability {}.{}".format(*torch.cuda.get_device_capability(device))
        if has_bfloat16(device):
            return torch.bfloat16, f"precision: bfloat16, in which {at} multiplies"
        return torch.float16, f"precision: float16 with a scaled loss, since {at} does not multiply in bfloat16"
    if device.type == "mps":
        if mps_has_float16():
            return torch.float16, "precision: float16 with a scaled loss, in which this GPU has all operations"
        return torch.float32, "precision: float32, since torch has no transposed 3-D convolution in float16 here"
    if has_bfloat16(device):
        return torch.bfloat16, "precision: bfloat16, in which this processor multiplies (avx512_bf16)"
    return torch.float32, "precision: float32, since this processor does not multiply in bfloat16 (avx512_bf16)"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@cache
def mps_has_float16() -> bool:
    """Whether torch knows the transposed 3-D convolution, the last that it learned, in float16 on Apple's GPUs."""
    try:
        ones = torch.ones(1, 1, 2, 2, 2, device="mps", dtype=torch.float16)
        return bool(torch.nn.functional.conv_transpose3d(ones, ones).isfinite().all())
    except (RuntimeError, AssertionError):
        return False


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which a network runs at this precision."""
    half = precision in (torch.bfloat16, torch.float16)
    return torch.autocast(device.type, dtype=precision if half else None, enabled=half)


@contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """A block without autocast, in which a convolution in float32 is one: cuDNN reads 10 of its 23 bits otherwise."""
    before = torch.backends.cudnn.allow_tf32
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda" or not before:
            yield
            return
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


@contextmanager
def fastest_convolutions(search: bool) -> Iterator[None]:
    """A block in which cuDNN tries its algorithms on each new size, or does not; as before after it.

    To search pays where sizes stay the same for hundreds of steps. It may find another algorithm the next time, so it
    is left where torch was told to be deterministic.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = search and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@cache
def keep_memory() -> bool:
    """Let this process keep freed memory for its next tensors; returns whether that is so now.

    The first method that is constructed calls it, so that training, predicting and a bare `model(images)` profit alike.
    glibc gives every buffer above 32 MiB back to the kernel and asks for it again at the next operation,
    which then fills it with zeros: a quarter of a training step on a CPU, and a forward of four scans at 64^3 takes 1.7
    instead of 3.1 s. The price is 20 to 30 % more memory held while the process lives. It does nothing without glibc,
    or with MAML_TOOLKIT_KEEP_MEMORY=0 in the environment.
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether this error says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in NO_MEMORY)


def give_back_memory(device: torch.device) -> None:
    """Give a GPU's memory back that no tensor holds."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


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
        if not is_out_of_memory(error):
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

"""Batches on their way to a GPU: each is copied there while the one before is used.

    reads   batch 3 | batch 4 | batch 5            a thread of the sampler
    copies          | batch 3 | batch 4 | batch 5  a thread here, on a stream of its own
    trains                    | batch 3 | batch 4  the caller's thread

A GPU copies by itself only from memory that stays where it is (pinned); from other memory the caller would wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from maml_toolkit.data.patches import Batch

T, U = TypeVar("T"), TypeVar("U")


def ahead(items: Iterable[T], make: Callable[[T], U]) -> Iterator[U]:
    """What `make` makes of each item, in their order; the next one is made in a thread while one is used.

    >>> list(ahead([1, 2, 3], lambda n: n * n))
    [1, 4, 9]
    """
    source, nothing = iter(items), object()

    def following() -> U | object:
        item = next(source, nothing)
        return nothing if item is nothing else make(item)

    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(following)
        while (made := coming.result()) is not nothing:
            coming = worker.submit(following)
            yield made


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, on a CUDA GPU one ahead; as they are for another device."""
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)

    def send(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        pinned = batch.pinned()
        with torch.cuda.device(device), torch.cuda.stream(stream):
            return pinned.to(device), stream.record_event()

    for batch, arrived in ahead(batches, send):
        own = torch.cuda.current_stream(device)
        own.wait_event(arrived)
        for tensor in batch.tensors:
            tensor.record_stream(own)       # or its memory could be given to the next batch too early
        yield batch

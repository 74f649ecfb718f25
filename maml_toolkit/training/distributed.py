"""Several processes that train one network: torchrun starts them, this joins them; without torchrun nothing happens.

    torchrun --nproc-per-node 4 -m -- maml_toolkit train prepared --run runs/first

torchrun tells each process its place by the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT),
whatever scheduler started torchrun. Process r of n holds patches r b to (r + 1) b - 1 of a step's n b and computes
their loss; DistributedDataParallel averages the gradients while they are computed, so that the weights stay equal.
Which parameters have a gradient changes from step to step and from process to process (modalities that a case lacks,
subsets that are drawn), hence `find_unused_parameters`: it walks the graph once a step and marks the rest, which costs
little beside a 3-D convolution. Terms of weight 0 would need every encoder to run.

References:
    PyTorch Distributed: Experiences on Accelerating Data Parallel Training, Li et al., VLDB 2020,
    https://arxiv.org/abs/2006.15704
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from maml_toolkit.methods.method import Stage
from maml_toolkit.prediction.shards import TORCHRUN, launched
from maml_toolkit.system import machine

T, U = TypeVar("T"), TypeVar("U")

TIMEOUT = timedelta(hours=1)
"""The longest that processes wait for each other: for the slowest part of a validation or of the preparation. A process
that died is noticed sooner, by torchrun or by the connection that it held."""

_groups = itertools.count()


@dataclass(frozen=True)
class World:
    """Which of how many processes this is.

    Attributes:
        rank: 0 to size - 1; 0 alone writes.
        size: how many processes there are on all machines.
        local_rank: which of those on this machine, and so which GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0


def world() -> World:
    """The place of this process: in the group that it is in, or as its environment says; else it is alone.

    Raises:
        ValueError: the environment says that there are several, but not which this is or where to meet.
    """
    if joined():
        return World(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
    return World(*launched(launchers=[TORCHRUN]))


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where each takes one and none was named; else the device as it is.

    Raises:
        ValueError: this machine has more processes than GPUs.
    """
    own = world()
    if own.size == 1 or device.type != "cuda" or device.index is not None:
        return device
    if own.local_rank >= torch.cuda.device_count():
        raise ValueError(f"found {torch.cuda.device_count()} GPUs for process {own.local_rank} of this machine, "
                         "counted from 0, expected one for each; give torchrun a smaller --nproc-per-node")
    return torch.device("cuda", own.local_rank)


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """The processes joined while the block runs; one that the caller has joined already is used and left.

    After an error the processes are not parted: that would wait for the others, who wait for this one. It shall end,
    and torchrun then ends them.
    """
    if joined() or world().size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Tensors on a GPU travel by NCCL, what is said between the processes by Gloo. Each group has keys of its own, so
    # that a second training in the same processes does not meet what the first left.
    store, rank, size = next(distributed.rendezvous("env://", timeout=TIMEOUT))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT,
                                   store=distributed.PrefixStore(f"maml-{next(_groups)}", store), rank=rank,
                                   world_size=size)
    yield
    gathered(None)
    distributed.destroy_process_group()


def joined() -> bool:
    """Whether this process is in a group with others just now."""
    return distributed.is_available() and distributed.is_initialized()


def gathered(value: Any) -> list[Any]:
    """What each process has here, by rank, in all of them; plain values."""
    if not joined():
        return [value]
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def from_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, in all of them; the others make nothing."""
    if not joined():
        return make()
    held = [make() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def shared_out(items: Sequence[T], make: Callable[[T], U], **shown: Any) -> list[U]:
    """What `make` makes of each item, in their order and in every process; n processes take every n-th item each.

    Args:
        items, make: any; what it makes are plain values.
        shown: of the progress bar, such as `desc`.
    """
    own = items[distributed.get_rank()::distributed.get_world_size()] if joined() else items
    shares = gathered([make(item) for item in machine.progress(own, **shown)])
    return [shares[index % len(shares)][index // len(shares)] for index in range(len(items))]


@contextmanager
def first_goes_first() -> Iterator[None]:
    """A block that the others enter when the first process has left it, so that they find what it wrote."""
    first = world().first
    if not first:
        gathered(None)
    yield
    if first:
        gathered(None)


class StageLoss(nn.Module):
    """The loss of a stage as a module over the stage's parameters, which is what DistributedDataParallel wraps.

    Only `total` carries a gradient out, so that a parameter of which another term alone depends counts as unused.
    """

    def __init__(self, stage: Stage):
        super().__init__()
        self.loss = stage.loss
        self.held = nn.ParameterList(stage.parameters)

    def forward(self, images: dict[str, Tensor], labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss of this process's patches."""
        terms = self.loss(images, labels, generator)
        return {name: term if name == "total" else term.detach() for name, term in terms.items()}


def shared(stage: Stage, device: torch.device) -> Stage:
    """The stage with a loss whose gradient is the mean over all processes; as it is where there is only this one."""
    if not joined():
        return stage
    return replace(stage, loss=nn.parallel.DistributedDataParallel(
        StageLoss(stage), device_ids=[device.index] if device.type == "cuda" else None, find_unused_parameters=True))


def gradients_stay(stage: Stage) -> AbstractContextManager:
    """A block whose gradients wait to be averaged with those of a later one."""
    return stage.loss.no_sync() if joined() else nullcontext()


def mean_terms(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each term over those that have it.

    >>> mean_terms([{"total": 1.0, "subset": 3.0}, {"total": 2.0}])
    {'total': 1.5, 'subset': 3.0}
    """
    names = dict.fromkeys(name for terms in found for name in terms)
    values = {name: [terms[name] for terms in found if name in terms] for name in names}
    return {name: sum(own) / len(own) for name, own in values.items()}

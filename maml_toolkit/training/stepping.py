"""Steps for which nothing waits: batches come to a GPU before they are used, what a step found is asked for after it.

    reads   batch 3 | batch 4 | batch 5            a thread of the sampler
    copies          | batch 3 | batch 4 | batch 5  a thread here, on a stream of its own
    trains                    | batch 3 | batch 4  the caller's thread

A GPU copies by itself only from memory that stays where it is (pinned); from other memory the caller would wait.

    gradient g -> |g| -> is it a number? -> the optimiser, which does nothing where it is not
                  all terms of the loss, |g| and the loss's scale -> one transfer to the computer

A gradient that is no number would spoil the weights for good, so such a step is skipped. That is found out where the
gradient is; torch's fused optimisers can be told there too (`found_inf`, made for its GradScaler).

In float16 small gradients are 0, hence the loss is multiplied by a scale and the gradient divided by it. The scale is
halved where the gradient is no number, which skips the step, and doubled after 2000 steps without that.

References:
    Mixed Precision Training, Micikevicius et al., ICLR 2018, https://arxiv.org/abs/1710.03740
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from maml_toolkit.data.patches import Batch, ahead


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


@dataclass(frozen=True)
class Found:
    """What a step found, in this process.

    Attributes:
        terms: of the loss of each part of the batch, by name.
        skipped: whether its gradient was no number, so that it changed no weight.
        scale: by which the loss was multiplied.
    """

    terms: list[dict[str, float]]
    skipped: bool
    scale: float


@dataclass(frozen=True)
class Launched:
    """A step that the device may still be at.

    Attributes:
        names: of the terms of the loss of each part of the batch.
        values: on the computer, or on their way there: these terms, the norm of the gradient, the scale of the loss.
        arrived: is recorded when they are there; None where nobody has to wait.
    """

    names: list[list[str]]
    values: Tensor
    arrived: torch.cuda.Event | None

    def found(self) -> Found:
        """What it found; waits for it."""
        if self.arrived is not None:
            self.arrived.synchronize()
        *numbers, norm, scale = self.values.tolist()
        told = iter(numbers)
        return Found([dict(zip(names, told, strict=False)) for names in self.names], not math.isfinite(norm), scale)


def seed_of(total: Tensor, parts: int) -> Tensor:
    """The gradient of the loss with regard to a part's total: 1/parts, and no number where the total is none."""
    total = total.detach()
    return (total - total) + 1 / parts


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
           parts: Sequence[dict[str, Tensor]], clip_norm: float | None = None) -> Launched:
    """Change the weights by their gradients, unless these are no numbers.

    Args:
        optimizer: of parameters that have their gradients.
        scaler: that has scaled the loss; one that is not enabled where nothing was scaled.
        parts: the terms of the loss of each part of the batch.
        clip_norm: the norm to which a longer gradient is shortened; None: any.
    """
    scaler.unscale_(optimizer)
    gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    norm = get_total_norm(gradients)
    if clip_norm:
        torch._foreach_mul_(gradients, (clip_norm / (norm + 1e-6)).clamp(max=1))
    scale = scaler.scale(torch.ones_like(norm))
    if getattr(optimizer, "_step_supports_amp_scaling", False) and norm.device.type != "mps":
        optimizer.found_inf = (~norm.isfinite()).float()
        optimizer.step()
        del optimizer.found_inf
    elif norm.isfinite():       # only fused ones can be told on the device, and on Apple's they do not listen
        optimizer.step()
    if scaler.is_enabled():
        scaler.update()
    numbers = [*(one for terms in parts for one in terms.values()), norm, scale]
    values, arrived = torch.stack([one.detach().reshape(()) for one in numbers]), None
    if values.device.type == "cuda":
        own = torch.cuda.current_stream(values.device)
        values = values.to("cpu", non_blocking=True)      # into memory that the GPU can write to
        arrived = own.record_event()
    return Launched([list(terms) for terms in parts], values, arrived)

"""Which modalities a training step sees, where a method is trained for any subset of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

SAMPLING = ("uniform", "by-size")
"""Uniform over the 2^n - 1 non-empty subsets, or a size from 1 to n first and then a subset of that size."""

NESTED_LEAST = {False: 3, True: 2}
"""The fewest modalities in S+ of `draw_nested`, without and with `singles`."""

_TOLD: ContextVar[int | None] = ContextVar("told", default=None)


@contextmanager
def drawing(size: int) -> Iterator[None]:
    """A block in which nothing is left to chance: so many modalities are drawn, the first, for who counts a step."""
    before = _TOLD.set(size)
    try:
        yield
    finally:
        _TOLD.reset(before)


@unset_fake_temporarily()    # a plan counts a step with tensors that have no values, and none could be drawn from them
def draw(present: Sequence[str], generator: torch.Generator, sampling: str = "uniform") -> tuple[str, ...]:
    """A non-empty subset of these modalities, in their order.

    >>> draw(("t1", "t2"), torch.Generator().manual_seed(2))
    ('t1',)
    """
    count = len(present)
    if told := _TOLD.get():
        return tuple(present[:told])
    generator = on_cpu(generator)
    if sampling == "by-size":
        size = int(torch.randint(1, count + 1, (), generator=generator))
        chosen = [int(index) for index in torch.randperm(count, generator=generator)[:size]]
    else:
        bits = int(torch.randint(1, 2**count, (), generator=generator))
        chosen = [index for index in range(count) if bits >> index & 1]
    return tuple(present[index] for index in sorted(chosen))


@unset_fake_temporarily()
def keep(present: Sequence[str], generator: torch.Generator, dropout: float) -> tuple[str, ...]:
    """These modalities, each left out with a chance; one stays if all would be."""
    if not dropout:
        return tuple(present)
    generator = on_cpu(generator)
    chances = torch.rand(len(present), generator=generator)
    kept = tuple(name for name, chance in zip(present, chances.tolist(), strict=True) if chance >= dropout)
    return kept or (present[int(chances.argmax())],)


@unset_fake_temporarily()
def draw_nested(present: Sequence[str], generator: torch.Generator,
                singles: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Two subsets S+ and S- of these n modalities, in their order, of which S- is a proper part of S+.

    |S+| is uniform up to n, then |S-| uniform from 2 to |S+| - 1; 1 where S+ is a pair. A pair is drawn only if
    `singles` says that the answer of a single modality is worth drawing. So S- is never all and, without `singles`,
    never a single one; S+ may be all, which the caller knows already.

    Returns:
        S+ and S-; None where there is no such pair: below 3 modalities, with `singles` below 2.

    >>> draw_nested(("t1", "t2", "flair"), torch.Generator().manual_seed(0))
    (('t1', 't2', 'flair'), ('t2', 'flair'))
    >>> draw_nested(("t1", "t2"), torch.Generator())
    """
    count, least = len(present), NESTED_LEAST[singles]
    if count < least:
        return None
    if told := _TOLD.get():
        above = min(max(told, least), count)
        return tuple(present[:above]), tuple(present[:above - 1])
    generator = on_cpu(generator)
    above = int(torch.randint(least, count + 1, (), generator=generator))
    below = int(torch.randint(min(2, above - 1), above, (), generator=generator))
    order = torch.randperm(count, generator=generator).tolist()
    larger, smaller = (tuple(present[index] for index in sorted(order[:size])) for size in (above, below))
    return larger, smaller


def on_cpu(generator: torch.Generator) -> torch.Generator:
    """A generator of the computer with the seed of this one, so that a seed draws the same on every device.

    What a GPU drew would have to be waited for.
    """
    return generator if generator.device.type == "cpu" else torch.Generator().manual_seed(generator.initial_seed())

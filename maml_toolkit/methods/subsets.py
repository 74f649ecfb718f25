"""Which modalities a training step sees, where a method is trained for any subset of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

SAMPLING = ("uniform", "by-size")
"""Uniform over the 2^n - 1 non-empty subsets, or a size from 1 to n first and then a subset of that size."""


def draw(present: Sequence[str], generator: torch.Generator, sampling: str = "uniform") -> tuple[str, ...]:
    """A non-empty subset of these modalities, in their order.

    >>> draw(("t1", "t2"), torch.Generator().manual_seed(2))
    ('t1',)
    """
    count, generator = len(present), on_computer(generator)
    if sampling == "by-size":
        size = _integer(1, count, generator)
        return _first(size, _order(count, generator), present)
    bits = _integer(1, 2**count - 1, generator)
    return tuple(name for index, name in enumerate(present) if bits >> index & 1)


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
    least, count = 2 if singles else 3, len(present)
    if count < least:
        return None
    generator = on_computer(generator)
    larger = _integer(least, count, generator)
    smaller = _integer(min(2, larger - 1), larger - 1, generator)
    order = _order(count, generator)
    return _first(larger, order, present), _first(smaller, order, present)


def on_computer(generator: torch.Generator) -> torch.Generator:
    """The generator; of one on a GPU a new one from its seed.

    What a GPU drew would have to be waited for, and so a seed draws the same subset on every device.
    """
    return generator if generator.device.type == "cpu" else torch.Generator().manual_seed(generator.initial_seed())


def _integer(lowest: int, highest: int, generator: torch.Generator) -> int:
    with unset_fake_temporarily():      # a plan counts what a step takes with tensors that have no values
        return int(torch.randint(lowest, highest + 1, (), generator=generator))


def _order(count: int, generator: torch.Generator) -> list[int]:
    with unset_fake_temporarily():
        return torch.randperm(count, generator=generator).tolist()


def _first(size: int, order: Sequence[int], present: Sequence[str]) -> tuple[str, ...]:
    """The modalities of the first `size` indices, in their own order."""
    return tuple(present[index] for index in sorted(order[:size]))


def check_sampling(sampling: str, known: Collection[str] = SAMPLING) -> None:
    """Nothing, if it is one of these ways of sampling.

    Raises:
        ValueError: it is none.
    """
    if sampling not in known:
        raise ValueError(f"found subset_sampling={sampling!r}, expected one of {', '.join(known)}")

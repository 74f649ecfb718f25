"""Which modalities a training step sees, where a method is trained for any subset of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

SAMPLING = ("uniform", "by-size")
"""Uniform over the 2^n - 1 non-empty subsets, or a size from 1 to n first and then a subset of that size."""


def draw(present: Sequence[str], generator: torch.Generator, sampling: str = "uniform") -> tuple[str, ...]:
    """A non-empty subset of these modalities, in their order.

    A generator on a GPU gives its seed alone: what it drew would have to be waited for, and so a seed draws the same
    subset on every device.

    >>> draw(("t1", "t2"), torch.Generator().manual_seed(2))
    ('t1',)
    """
    count = len(present)
    generator = on_cpu(generator)
    if sampling == "by-size":
        size = int(torch.randint(1, count + 1, (), generator=generator))
        chosen = [int(index) for index in torch.randperm(count, generator=generator)[:size]]
    else:
        bits = int(torch.randint(1, 2**count, (), generator=generator))
        chosen = [index for index in range(count) if bits >> index & 1]
    return tuple(present[index] for index in sorted(chosen))


def keep(present: Sequence[str], generator: torch.Generator, dropout: float) -> tuple[str, ...]:
    """These modalities, each left out with a chance; one stays if all would be."""
    if not dropout:
        return tuple(present)
    generator = on_cpu(generator)
    chances = torch.rand(len(present), generator=generator)
    kept = tuple(name for name, chance in zip(present, chances.tolist(), strict=True) if chance >= dropout)
    return kept or (present[int(chances.argmax())],)


def on_cpu(generator: torch.Generator) -> torch.Generator:
    """A generator of the computer with the seed of this one: what a GPU draws would have to be waited for."""
    return generator if generator.device.type == "cpu" else torch.Generator().manual_seed(generator.initial_seed())


def check_sampling(sampling: str) -> None:
    """Nothing, if it is a way of sampling.

    Raises:
        ValueError: it is none.
    """
    if sampling not in SAMPLING:
        raise ValueError(f"found subset_sampling={sampling!r}, expected one of {', '.join(SAMPLING)}")

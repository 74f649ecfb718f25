"""Whole numbers in the smallest type that holds them all, so that none wraps around: 60000 is no int16."""

import numpy as np
from numpy.typing import DTypeLike

TYPES = tuple(map(np.dtype, ("u1", "i2", "u2", "i4", "u4", "i8")))
"""Those that NIfTI files hold and viewers read, by size."""


def holding(lowest: float, highest: float, smallest: DTypeLike = np.uint8) -> np.dtype | None:
    """The first type of TYPES, from `smallest` on, that holds both numbers; None where none does.

    >>> holding(0, 4), holding(-1024, 3071), holding(-1024, 60000)
    (dtype('uint8'), dtype('int16'), dtype('int32'))
    """
    from_here = TYPES[TYPES.index(np.dtype(smallest)):]
    return next((one for one in from_here if np.iinfo(one).min <= lowest and highest <= np.iinfo(one).max), None)


def whole(values: np.ndarray, smallest: DTypeLike = np.uint8) -> np.ndarray:
    """Values rounded, in the type that holds them all; finite values beyond 64 bits stay of their own type."""
    rounded = np.rint(values)
    dtype = holding(float(rounded.min()), float(rounded.max()), smallest)
    return rounded if dtype is None else rounded.astype(dtype)

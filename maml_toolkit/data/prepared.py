"""A case as the network reads it: arrays in memory, or in files that are opened when something of them is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.grids import Grid
from maml_toolkit.errors import DataError


def opened(array: np.ndarray | Path | None) -> np.ndarray | None:
    """The array itself, or a memory map of the .npy file that holds it; that closes with its last user."""
    return np.load(array, mmap_mode="r") if isinstance(array, Path) else array


class Arrays(Mapping[str, np.ndarray]):
    """Arrays by name; those that are the path of a .npy file are opened, as a memory map, at every access."""

    def __init__(self, kept: Mapping[str, np.ndarray | Path]):
        self.kept = dict(kept)

    def __getitem__(self, name: str) -> np.ndarray:
        return opened(self.kept[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, name: object) -> bool:
        return name in self.kept


class _Array:
    """A field that holds an array or a path, and gives the array: thousands of cases need no open file."""

    def __set_name__(self, owner: type, name: str):
        self.name = f"_{name}"

    def __get__(self, case: Any, owner: type) -> np.ndarray | None:
        if case is None:
            raise AttributeError(self.name)      # no default
        return opened(vars(case)[self.name])

    def __set__(self, case: Any, kept: np.ndarray | Path | None):
        vars(case)[self.name] = kept


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network reads it. Made with the path of a .npy file in place of an array, it gives the array.

    Attributes:
        id: of the case.
        images: normalised float32 arrays by modality, all of the grid's working shape.
        labels: class of each voxel (uint8), or None for a case without label.
        foreground: rows of (class, voxel on each axis): some voxels of each foreground class.
        grid: the way back to the file's grid.
        oddities: what is strange about its files and may be meant, and what was lost on the way to this grid.
        outside: value of each modality beyond the scan: of CT the lowest (air), otherwise 0, which is what surrounds
            a head.
    """

    id: str
    images: Mapping[str, Any]
    labels: np.ndarray | Path | None = _Array()
    foreground: np.ndarray | Path = _Array()
    grid: Grid
    oddities: tuple[DataError, ...] = ()
    outside: Mapping[str, float] = field(default_factory=dict)

    def of(self, modalities: Iterable[str]) -> PreparedCase:
        """The same case with those of these modalities that it has."""
        kept = self.images.kept if isinstance(self.images, Arrays) else self.images
        images = Arrays({name: kept[name] for name in modalities if name in kept})
        return PreparedCase(self.id, images, vars(self)["_labels"], vars(self)["_foreground"], self.grid, self.oddities,
                            self.outside)

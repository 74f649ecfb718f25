"""A case as the network reads it: arrays in memory, or in files that are opened when something of them is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.grids import Grid
from maml_toolkit.system.errors import DataError

RECORD = "case.json"
"""Beside the arrays of a case in files; "made" in it changes with what they were made from."""


@dataclass(frozen=True)
class ArrayFile:
    """An array in a .npy file, which is opened when something of it is asked for.

    Attributes:
        time: when it was written, in nanoseconds.
        made: what it was made from; an array of something else that took its place is not taken for it.
    """

    path: Path
    time: int
    made: str

    @classmethod
    def at(cls, path: Path, made: str) -> ArrayFile:
        """The array that lies there now."""
        return cls(path, path.stat().st_mtime_ns, made)

    def opened(self) -> np.ndarray:
        """A memory map, that closes with its last user.

        Raises:
            DataError: the case was prepared anew from something else.
        """
        array = np.load(self.path, mmap_mode="r")
        if self.path.stat().st_mtime_ns != self.time and self._made_now() != self.made:
            raise DataError("the case was prepared anew while it was in use, from other files or for another task",
                            "Start again, and give each task a cache of its own.", path=self.path)
        return array

    def _made_now(self) -> str:
        return json.loads((self.path.parent / RECORD).read_text(encoding="utf-8"))["made"]


def _opened(array: np.ndarray | ArrayFile | None) -> np.ndarray | None:
    return array.opened() if isinstance(array, ArrayFile) else array


class Arrays(Mapping[str, np.ndarray]):
    """Arrays by name; those that lie in files are opened, as memory maps, at every access."""

    def __init__(self, kept: Mapping[str, np.ndarray | ArrayFile]):
        self.kept = dict(kept)

    def __getitem__(self, name: str) -> np.ndarray:
        return _opened(self.kept[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, name: object) -> bool:
        return name in self.kept


class _Array:
    """A field that holds an array or a file of one, and gives the array: thousands of cases need no open file."""

    def __set_name__(self, owner: type, name: str):
        self.name = f"_{name}"

    def __get__(self, case: Any, owner: type) -> np.ndarray | None:
        if case is None:
            raise AttributeError(self.name)      # no default
        return _opened(vars(case)[self.name])

    def __set__(self, case: Any, kept: np.ndarray | ArrayFile | None):
        vars(case)[self.name] = kept


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network reads it. Made with an ArrayFile in place of an array, it gives the array.

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
    labels: np.ndarray | ArrayFile | None = _Array()
    foreground: np.ndarray | ArrayFile = _Array()
    grid: Grid
    oddities: tuple[DataError, ...] = ()
    outside: Mapping[str, float] = field(default_factory=dict)

    def of(self, modalities: Iterable[str]) -> PreparedCase:
        """The same case with those of these modalities that it has."""
        kept = self.images.kept if isinstance(self.images, Arrays) else self.images
        images = Arrays({name: kept[name] for name in modalities if name in kept})
        return PreparedCase(self.id, images, vars(self)["_labels"], vars(self)["_foreground"], self.grid, self.oddities,
                            self.outside)

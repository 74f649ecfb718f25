"""What is kept of a case once its files were read: what was found in it, and of each volume a small picture.

It is small enough to be held for thousands of cases, and beside their arrays in the cache (cache.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.case import Case
from maml_toolkit.data.reading import Reading, path_in
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.system.errors import DataError

SIDE = 128
"""Pixels along the longer side of a picture."""

CT_WINDOW_HU = (-160.0, 240.0)
"""What is shown of a CT: the usual window of the abdomen."""


@dataclass(frozen=True)
class Seen:
    """What is kept of one volume.

    Attributes:
        name: of the modality, or "label".
        source: the file, or None for an image in memory.
        extremes: the lowest and the highest voxel.
        fingerprint: of the voxels, whatever type they are stored in.
        picture: an axial slice through the lesion: grey values (bytes), or the values of a label.
        values: of a label, that occur in it.
    """

    name: str
    source: Path | str | None
    shape: tuple[int, ...]
    affine: np.ndarray
    extremes: tuple[float, float]
    fingerprint: int
    picture: np.ndarray
    values: frozenset[int] = frozenset()

    def __str__(self):
        return f"{self.name} ({self.source or 'an image in memory'})"

    def to_json(self) -> dict[str, Any]:
        """All but the picture and where the file lies, as plain values."""
        return {"name": self.name, "shape": list(map(int, self.shape)), "affine": self.affine.tolist(),
                "extremes": list(self.extremes), "fingerprint": self.fingerprint, "values": sorted(self.values)}

    @classmethod
    def from_json(cls, facts: dict[str, Any], source: Path | str | None, picture: np.ndarray) -> Seen:
        """What `to_json` said, of the file that lies here now."""
        return cls(facts["name"], source, tuple(facts["shape"]), np.array(facts["affine"]), tuple(facts["extremes"]),
                   facts["fingerprint"], picture, frozenset(facts["values"]))


@dataclass(frozen=True)
class CaseAudit:
    """What was found in one case: errors, oddities that may be meant, and the volumes that could be read."""

    case: str
    errors: tuple[DataError, ...]
    oddities: tuple[DataError, ...] = ()
    seen: tuple[Seen, ...] = ()


def found_in_case(case: Case, reading: Reading, task: Task) -> CaseAudit:
    """What is kept of a case that was read."""
    scans = {name: Volume(stored.values, stored.affine).canonical() for name, stored in reading.stored.items()}
    at_mm = height_of_lesion(scans["label"]) if "label" in scans else None
    seen = []
    for name, stored in reading.stored.items():
        picture = slice_through(scans[name], at_mm)
        if name != "label":
            slope, inter = stored.scaling
            picture = greys(picture * np.float32(slope) + np.float32(inter), task.intensities.get(name, "mr"))
        seen.append(Seen(name, path_in(case, name), stored.shape, stored.affine, stored.extremes, stored.fingerprint,
                         picture, reading.values if name == "label" else frozenset()))
    return CaseAudit(case.id, reading.errors, reading.oddities, tuple(seen))


def slice_through(scan: Volume, at_mm: float | None) -> np.ndarray:
    """One axial slice with square pixels, values as stored: anterior at the top, the patient's right at the left.

    Args:
        scan: turned to RAS+.
        at_mm: its height; the middle when left out. The nearest slice that there is.
    """
    middle = np.subtract(scan.shape, 1) / 2
    step = scan.affine[2, 2] or 1.0
    height = scan.affine[2, :3] @ middle + scan.affine[2, 3]
    at = middle[2] + (0.0 if at_mm is None else (at_mm - height) / step)
    plane = scan.array[:, :, int(np.clip(round(at), 0, scan.shape[2] - 1))]
    size_mm = np.multiply(plane.shape, scan.spacing_mm[:2])
    pixels = np.maximum(1, np.rint(SIDE * size_mm / size_mm.max())).astype(int)
    x, y = (np.linspace(n - 1, 0, count).round().astype(int) for n, count in zip(plane.shape, pixels, strict=True))
    return plane[np.ix_(x, y)].T


def height_of_lesion(label: Volume) -> float | None:
    """Where, in mm along the patient, an axial slice cuts most of the label; None where it is empty."""
    counts = np.count_nonzero(label.array, axis=(0, 1))
    if not counts.any():
        return None
    x, y, _ = np.subtract(label.shape, 1) / 2
    return float(label.affine[2, :3] @ [x, y, counts.argmax()] + label.affine[2, 3])


def greys(pixels: np.ndarray, intensities: str) -> np.ndarray:
    """A slice as bytes: a CT in the window of the abdomen, others up to the percentile 99 of what is not zero.

    Black is 0; of an MR the percentile 1, or more, up to the middle, so that the median is at two thirds: in T1 most
    of a brain is bright.
    """
    values = pixels.astype(np.float32)
    shown = values[values != 0]
    low, median, high = np.percentile(shown, (1, 50, 99)) if shown.size else (0, 0, 1)
    if intensities == "ct":
        low, high = CT_WINDOW_HU
    elif intensities == "mr" and low < high:
        low = max(low, min(3 * median - 2 * high, (low + high) / 2))
    else:
        low = min(low, 0)
    return (np.clip((values - low) / ((high - low) or 1), 0, 1) * 255).astype(np.uint8)

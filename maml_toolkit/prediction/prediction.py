"""What a method says of one case: label map, probabilities, attention and contributions on the case's own grid."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import softmax

from maml_toolkit.data import volumes
from maml_toolkit.data.prepared import Grid
from maml_toolkit.data.tasks import Task
from maml_toolkit.system.files import write_whole

OUTSIDE_LOGIT = -30.0
"""Logit of a foreground class where every scan is zero and the network is not run: probability 1e-13."""


@dataclass(frozen=True)
class Prediction:
    """What a method says of one case, on the grid and axes of the case's own files.

    Attributes:
        case: id.
        task: names of the classes and values of the labels.
        modalities: those that were used.
        grid: of the case; its affine is that of the files.
        maps: averaged over windows, on the working grid: "logits" (classes, …), "attention/<modality>" (…),
            "contribution/<modality>" (classes, …).
        bias: of the head that answered, (classes,), or None.
        subsets: predictions from subsets of the modalities, where a sweep made them.
    """

    case: str
    task: Task
    modalities: tuple[str, ...]
    grid: Grid = field(repr=False)
    maps: dict[str, np.ndarray] = field(repr=False)
    bias: np.ndarray | None = None
    subsets: dict[frozenset[str], Prediction] = field(default_factory=dict, repr=False)

    @cached_property
    def classes(self) -> np.ndarray:
        """Class of each voxel, 0 to classes - 1, uint8.

        The class of the largest logit, but for lesions that were found on a coarser or finer grid and of which the
        interpolation of the logits left nothing: they are as large as they were found.
        """
        return self.grid.to_file(self.grid.answer_in_box(self.maps["logits"]))

    @property
    def labels(self) -> np.ndarray:
        """The label map in the values of the task's label files."""
        return self.task.decode(self.classes)

    @cached_property
    def logits(self) -> np.ndarray:
        """(classes, depth, height, width) float32; where no scan has a signal, 0 for the background and -30 else."""
        whole = self._whole("logits", OUTSIDE_LOGIT)
        whole[0][(whole == OUTSIDE_LOGIT).all(0)] = 0
        return whole

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, (classes, depth, height, width) float32."""
        return softmax(self.logits, axis=0)

    @cached_property
    def attention(self) -> dict[str, np.ndarray]:
        """Mean over the channels of A_i by modality, 0 to 1; empty from one modality, or where not asked for."""
        return {name: self._whole(f"attention/{name}") for name in self._named("attention")}

    @cached_property
    def contributions(self) -> dict[str, np.ndarray]:
        """Signed share of each modality in the logits, (classes, …): their sum + bias = logits.

        That holds inside the grid's box; where no scan has a signal the network is not run, and they are 0.
        """
        return {name: self._whole(f"contribution/{name}") for name in self._named("contribution")}

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel -> mm (RAS+), as in the case's files."""
        return np.array(self.grid.affine)

    def save(self, folder: str | Path) -> Path:
        """Write label map, probabilities, attention and contributions as NIfTI files that overlay on the input.

        Classes are the fourth dimension of probabilities and contributions. What an earlier prediction left
        in the folder is replaced. Every file is written whole or not at all; prediction.json, written last,
        says which modalities were used.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("prediction.json", "attention_*.nii.gz", "contribution_*.nii.gz"):
            for old in folder.glob(pattern):
                old.unlink(missing_ok=True)
        files = {"labels": self.labels, "probabilities": np.moveaxis(self.probabilities, 0, -1)}
        files |= {f"attention_{name}": array for name, array in self.attention.items()}
        files |= {f"contribution_{name}": np.moveaxis(array, 0, -1) for name, array in self.contributions.items()}
        for name, array in files.items():
            volumes.write(folder / f"{name}.nii.gz", array, self.affine)
        write_whole(folder / "prediction.json", json.dumps(
            {"case": self.case, "modalities": list(self.modalities), "task": self.task.to_json(),
             "bias": None if self.bias is None else self.bias.tolist()}, indent=2))
        return folder

    def _named(self, kind: str) -> list[str]:
        return [name.partition("/")[2] for name in self.maps if name.startswith(f"{kind}/")]

    def _whole(self, name: str, outside: float = 0) -> np.ndarray:
        return self.grid.to_file(self.grid.to_box(self.maps[name]), outside)

"""What a method says of one case: label map, probabilities, attention and contributions on the case's own grid.

Connected parts of a region that are too small to be believed are dropped from the label map where that was asked for;
voxels that touch at a corner are one part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from maml_toolkit.data import volumes
from maml_toolkit.data.case import Case
from maml_toolkit.data.geometry import reaches
from maml_toolkit.data.prepared import Grid, grid_of
from maml_toolkit.data.resampling import TOUCHING
from maml_toolkit.data.tasks import Task
from maml_toolkit.prediction import saved
from maml_toolkit.prediction.contrast import Contrast, LogOdds
from maml_toolkit.prediction.saved import SavedMaps
from maml_toolkit.prediction.sureness import Sureness
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import write_whole
from maml_toolkit.system.showing import Shown, in_lines

OUTSIDE_LOGIT = -30.0
"""Logit of a foreground class where every scan is zero and the network is not run: probability 1e-13."""


@dataclass(frozen=True, repr=False)
class Prediction(Shown):
    """What a method says of one case, on the grid and axes of the case's own files.

    Attributes:
        case: id.
        task: names of the classes and values of the labels.
        modalities: those that were used.
        grid: of the case; its affine is that of the files.
        maps: averaged over windows, on the working grid: "logits" (channels, …), "attention/<modality>" (…),
            "contribution/<modality>" (channels, …), a channel for each class of the task, or for each region where it
            is trained on regions (`task.answers`); "uncertainty" (…). Those of a loaded prediction have the spacing of
            the files.
        bias: of the head that answered, (channels,), of classes minus that of the background, or None.
        subsets: predictions from subsets of the modalities, where a sweep made them.
        method, run, policy: who answered, as tables show it. By the policy "by-size" the contributions are those of
            the fused part of the mixture, to whose log-odds they add up with the bias.
        how: what else decided about the answer (`Predictor.how`), as plain values.
        sureness: how sure it is, where that was asked for (sureness.py).
        source: the case itself, where it was at hand; nothing but how it shows itself depends on it.
    """

    case: str
    task: Task
    modalities: tuple[str, ...]
    grid: Grid
    maps: Mapping[str, Any]
    bias: np.ndarray | None = None
    subsets: dict[frozenset[str], Prediction] = field(default_factory=dict)
    method: str = ""
    run: str = ""
    policy: str = ""
    how: Mapping[str, Any] = field(default_factory=dict)
    source: Case | None = field(default=None, compare=False)
    sureness: Sureness | None = None

    @property
    def unused(self) -> tuple[str, ...]:
        """The task's modalities that were not used."""
        return tuple(name for name in self.task.modalities if name not in self.modalities)

    @property
    def used(self) -> str:
        """From which scans it comes, in words."""
        return f"used {', '.join(self.modalities)}" + (f"; without {', '.join(self.unused)}" if self.unused else "")

    def __repr__(self) -> str:
        by = "".join((f" by {self.method}" if self.method else "", f", run {self.run}" if self.run else "",
                      f", policy {self.policy}" if self.policy not in ("", "fused") else ""))
        kinds = dict.fromkeys(name.partition("/")[0] for name in self.maps)
        beside = f"; also from {len(self.subsets)} subsets of the scans" if self.subsets else ""
        return in_lines(f"Prediction of {self.case}{by}", self.used, f"maps: {', '.join(kinds) or 'none'}{beside}")

    @classmethod
    def load(cls, folder: str | Path) -> Prediction:
        """What `save` wrote into a folder: label map, probabilities, and the maps that were saved, value by value.

        Probabilities and maps are read when they are asked for. Logits were not saved: they come from what was
        (`saved.SavedMaps`).

        Raises:
            DataError: a file that is missing or damaged; damage of probabilities and maps is found when they are read.
        """
        return cls(**saved.opened(Path(folder)))

    @classmethod
    def of_label_map(cls, path: str | Path, case: str, task: Task, modalities: Sequence[str],
                     method: str = "") -> Prediction:
        """A label map that another program made: classes, and nothing of how it came to them.

        Args:
            path: of the NIfTI file.
            case: id.
            task: whose values it holds.
            modalities: that the other program was given.
            method: name that tables show.

        Raises:
            DataError: a file that cannot be read, or values that the task does not know.
        """
        label = saved.label_map(Path(path), case, task)
        whole = grid_of(label, [(0, n) for n in label.canonical().shape])
        maps = SavedMaps(case, label.array, {}, whole, task.answers)
        return cls(case, task, tuple(modalities), whole, maps, method=method)

    @cached_property
    def classes(self) -> np.ndarray:
        """Class of each voxel, 0 to classes - 1, uint8.

        The class of the largest logit, or the regions with a logit above 0, painted in the order of the task; but for
        lesions that were found on a coarser or finer grid and of which the interpolation of the logits left nothing:
        they are as large as they were found; and for parts that are smaller than `how` says, which are dropped.
        """
        return self.maps.classes if isinstance(self.maps, SavedMaps) else self.grid.to_file(self.classes_in_box)

    @cached_property
    def classes_in_box(self) -> np.ndarray:
        """The classes in the grid's box alone, axes in RAS+."""
        if isinstance(self.maps, SavedMaps):
            return self.grid.from_file(self.maps.classes)
        classes = self.grid.answer_in_box(self.maps["logits"], self.task.answers.classes)
        return without_small(classes, self.task, self.how.get("smallest_mm3", {}),
                             float(np.prod(self.grid.file_spacing_mm)), lambda: self.in_box("logits"))

    def in_box(self, name: str) -> np.ndarray:
        """One of the maps in the grid's box, at the spacing of the files, axes in RAS+."""
        return self.maps[name] if isinstance(self.maps, SavedMaps) else self.grid.to_box(self.maps[name])

    @property
    def labels(self) -> np.ndarray:
        """The label map in the values of the task's label files."""
        return self.task.decode(self.classes)

    @cached_property
    def logits(self) -> np.ndarray:
        """(channels, depth, height, width) float32; where no scan has a signal, 0 for the background and -30 else."""
        whole = self._whole("logits", OUTSIDE_LOGIT)
        self.task.answers.outside(whole, OUTSIDE_LOGIT)
        return whole

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, or of each region the sigmoid, (channels, depth, height, width) float32."""
        if isinstance(self.maps, SavedMaps):
            return self.maps.whole("probabilities")
        return self.task.answers.probabilities(self.logits)

    @cached_property
    def attention(self) -> dict[str, np.ndarray]:
        """Mean over the channels of A_i by modality, 0 to 1; empty from one modality, or where not asked for."""
        return {name: self._whole(f"attention/{name}") for name in self._named("attention")}

    @cached_property
    def contributions(self) -> dict[str, np.ndarray]:
        """What each modality says for each class against the background, whose own are 0: (channels, …).

        Of regions, for each against everything else.

        With the bias they sum to log p_k - log p_0. That holds inside the grid's box; where no scan has a signal the
        network is not run, and they are 0. Other comparisons are in `log_odds`.
        """
        against_background = self.task.answers.against_background
        return {name: against_background(self._whole(f"contribution/{name}")) for name in self._named("contribution")}

    def log_odds(self, name: str, against: str | None = None) -> LogOdds:
        """How sure the answer is of a class or region, and the shares of the scans in it (`prediction.contrast`).

        Args:
            name: a class or a region.
            against: another one; the background of a class, everything else of a region, when left out.

        Raises:
            ValueError: an unknown name, or a class that would stand on both sides.
        """
        contrast = Contrast.of(self.task, name, against)
        return LogOdds(contrast, contrast.log_odds(self.logits), *contrast.shares(self.contributions, self.bias))

    @cached_property
    def uncertainty(self) -> np.ndarray | None:
        """Entropy of the mean of all probabilities that were asked for (sureness.py): 0 to `task.answers.most_nats`.

        0 where no scan has a signal and the network is not run. None where it was not asked for: predict with
        uncertainty=True.
        """
        return self._whole("uncertainty") if "uncertainty" in self.maps else None

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel -> mm (RAS+), as in the case's files."""
        return np.array(self.grid.affine)

    def save(self, folder: str | Path) -> Path:
        """Write label map, probabilities and maps as NIfTI files that overlay on the input.

        Classes, or regions, are the fourth dimension of probabilities and contributions; these are those against the
        background, or everything else. What an earlier prediction left in the folder is replaced. Every file is written
        whole or not at all; prediction.json, written last, says who answered from which modalities. A prediction that
        was loaded from there stays as it is. The files are called as `saved.file_name` says.

        Raises:
            DataError: a file of another origin, such as a ground truth, would be replaced; nothing was written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.maps, SavedMaps) and self.maps.lie_in(folder):
            return folder
        arrays = {"probabilities": np.moveaxis(self.probabilities, 0, -1)}
        arrays |= {f"attention/{name}": array for name, array in self.attention.items()}
        arrays |= {f"contribution/{name}": np.moveaxis(array, 0, -1) for name, array in self.contributions.items()}
        arrays |= {} if self.uncertainty is None else {"uncertainty": self.uncertainty}
        arrays["labels"] = self.labels              # last: beside probabilities it is known as a prediction's
        files = {name: saved.file_name(self.case, name) for name in arrays}
        if others := set(saved.foreign(folder)).intersection(files.values()):
            raise DataError(f"found {', '.join(sorted(others))} where the prediction would go, which no prediction "
                            "wrote", "Choose another folder, or move it away.", case=self.case, path=folder)
        for old in saved.own(folder).difference(files.values()):
            (folder / old).unlink(missing_ok=True)
        for name, array in arrays.items():
            volumes.write(folder / files[name], array, self.affine)
        write_whole(folder / saved.ABOUT, json.dumps(saved.described(self, files), indent=2))
        return folder

    def _named(self, kind: str) -> list[str]:
        return [name.partition("/")[2] for name in self.maps if name.startswith(f"{kind}/")]

    def _whole(self, name: str, outside: float = 0) -> np.ndarray:
        return self.grid.to_file(self.in_box(name), outside)


def connected_parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the part of each voxel, 0 outside, and the voxels of each part; that of the outside is 0."""
    numbers = np.zeros(mask.shape, np.int32)
    for box in ndimage.find_objects(mask.astype(np.uint8)):
        ndimage.label(mask[box], TOUCHING, output=numbers[box])
    voxels = np.bincount(numbers.ravel(), minlength=1)
    voxels[0] = 0
    return numbers, voxels


def without_small(classes: np.ndarray, task: Task, smallest_mm3: Mapping[str, float], voxel_mm3: float,
                  logits: Callable[[], np.ndarray]) -> np.ndarray:
    """An answer without the parts of regions that are smaller than told, one region after the other as the task does.

    A voxel of such a part gets what the network would have said without the classes of the region: a crumb of enhancing
    tumour becomes tumour core where that is likeliest else.

    Args:
        classes: of each voxel.
        smallest_mm3: region -> the least volume of a part that stays.
        voxel_mm3: volume of a voxel.
        logits: gives (channels, …) on the same grid; asked where something is dropped.
    """
    answers = task.answers
    for region in task.regions:
        if not (smallest := smallest_mm3.get(region)):
            continue
        numbers, voxels = connected_parts(task.region(classes, region))
        small = (voxels > 0) & ~reaches(voxels * voxel_mm3, smallest)
        if small.any():
            gone = small[numbers]
            scores = logits()[:, gone]
            scores[task.region(np.array(answers.painted), region)] = -np.inf
            classes = classes.copy()
            classes[gone] = answers.classes(scores)
    return classes


def check_smallest(smallest_mm3: Mapping[str, float] | None, task: Task) -> None:
    """Nothing, if smallest volumes are given for regions of the task.

    Raises:
        ValueError: one is for something else, or is no volume; or they are not given by region.
    """
    given = smallest_mm3 or {}
    if not isinstance(given, Mapping) or not all(isinstance(mm3, Real) and mm3 >= 0 for mm3 in given.values()):
        raise ValueError(f"found {smallest_mm3!r} as smallest volumes, expected mm³ by region, such as "
                         f"{{{next(iter(task.regions))!r}: 50}}")
    if unknown := [name for name in given if name not in task.regions]:
        raise ValueError(f"found {', '.join(map(str, unknown))} in smallest_mm3, expected regions of task {task.name}: "
                         f"{', '.join(task.regions)}")

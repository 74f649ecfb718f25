"""The folder of a saved prediction: its files, read when something of them is asked for, and what they were made from.

    <case>/<case>_seg.nii.gz, <case>_prob.nii.gz             label map and probabilities
           <case>_attention_<modality>.nii.gz, <case>_contribution_<modality>.nii.gz,
           <case>_uncertainty.nii.gz
           prediction.json      of which case, by whom and from which modalities, on which grid, its files
           manifest.json        what it was made from, of those that `predict` wrote; written last

The files are those that prediction.json lists, so folders of earlier versions (labels.nii.gz, probabilities.nii.gz,
attention_<modality>.nii.gz, contribution_<modality>.nii.gz) are read as they are.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data import nifti, volumes
from maml_toolkit.data.answers import Classes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.checksums import checksums
from maml_toolkit.data.geometry import grid_difference
from maml_toolkit.data.prepared import Grid
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.prediction.sureness import Sureness
from maml_toolkit.system.errors import DataError, expect_none
from maml_toolkit.system.files import read_json

ABOUT, MANIFEST = "prediction.json", "manifest.json"
ENDINGS = {"labels": "seg", "probabilities": "prob"}
"""How the names of files end that are not called as the map in them."""

WRITTEN = re.compile(r"((.+_)?(prob|attention_\w+|contribution_\w+|uncertainty)|labels|probabilities)\.nii\.gz|"
                     r"(prediction|manifest)\.json")
"""The names in the folder of a prediction that nothing else has; a ground truth may be called <case>_seg.nii.gz too."""

AGAIN = "Bring it back from a copy, or predict the case again."


@dataclass(frozen=True, eq=False)
class SavedMaps(Mapping[str, np.ndarray]):
    """The maps of a saved prediction by the names that computed ones have; each is read whenever it is asked for.

    They are cut to the box and turned to RAS+, at the spacing of the files. "logits" were not saved: they are the sum
    of contributions and bias, or, without contributions, those that have the probabilities (of classes, up to a number
    that all of them share at a voxel). A label map of another program has no maps at all.

    Attributes:
        case: id.
        classes: of each voxel of the files.
        files: "probabilities" and the maps by name -> file.
        grid: of the case.
        answers: what its channels are.
        bias: of the head that answered, if it has one.
        add_up: whether contributions and bias are those of the answer; they are those of a part of a mixture else.
        made: time and size of each file when the label map was read, so that another answer's maps are never shown.
    """

    case: str
    classes: np.ndarray
    files: Mapping[str, Path]
    grid: Grid
    answers: Classes
    bias: np.ndarray | None = None
    add_up: bool = True
    made: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter([*["logits"] * bool(self.files), *(name for name in self.files if name != "probabilities")])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> np.ndarray:
        if name != "logits" or not self.files:
            return self.grid.from_file(self.whole(name))
        if terms := [self[one] for one in self.files if one.startswith("contribution/") and self.add_up]:
            return np.sum(terms, axis=0) + (0 if self.bias is None else self.bias[:, None, None, None])
        return self.answers.logits(self["probabilities"])

    def lie_in(self, folder: Path) -> bool:
        """Whether they are the files of this folder."""
        return any(one.parent.resolve() == folder.resolve() for one in self.files.values())

    def whole(self, name: str) -> np.ndarray:
        """What lies in a file: the channels first, where it has several.

        Contributions are against the background, also those of files that hold them as terms of the logits.

        Raises:
            KeyError: it was not saved.
            DataError: the file is missing, damaged, of another prediction than the label map, or on another grid.
        """
        if name not in self.files:
            raise KeyError(f"case {self.case}: found no {name}, of which a label map of another program has none; ask "
                           "for its classes alone")
        path = self.files[name]
        if path.is_file() and _made(path) != self.made.get(name, _made(path)):
            raise DataError("it was written again since its label map was read", "Load the prediction anew.",
                            case=self.case, path=path)
        with nifti.located(self.case, None, path):
            image = nifti.image_of(path)
            array = np.asanyarray(image.dataobj)
            _check_grid(Volume(array[..., 0] if array.ndim > 3 else array, image.affine), self.grid)
        array = np.moveaxis(array, 3, 0) if array.ndim > 3 else array
        array = self.answers.against_background(array) if name.startswith("contribution/") else array
        return np.ascontiguousarray(array)


def file_name(case: str, name: str) -> str:
    """The file of a saved prediction that holds "labels", "probabilities", or one of its maps.

    >>> [file_name("p1", name) for name in ("labels", "probabilities", "contribution/t1")]
    ['p1_seg.nii.gz', 'p1_prob.nii.gz', 'p1_contribution_t1.nii.gz']
    """
    return f"{case}_{ENDINGS.get(name, name.replace('/', '_'))}.nii.gz"


def described(prediction: Any, files: Mapping[str, str]) -> dict[str, Any]:
    """What prediction.json says; `opened` reads it."""
    return {"case": prediction.case, "method": prediction.method, "run": prediction.run, "policy": prediction.policy,
            "how": dict(prediction.how), "modalities": list(prediction.modalities), "task": prediction.task.to_json(),
            "bias": None if prediction.bias is None else prediction.bias.tolist(), "grid": asdict(prediction.grid),
            "contributions": "against the background",
            "sureness": prediction.sureness and prediction.sureness.to_json(), "files": dict(files)}


def opened(folder: Path) -> dict[str, Any]:
    """The arguments of the Prediction that lies in a folder, its label map read and its other files there.

    Raises:
        DataError: a file that is missing or damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise DataError("found no such file, expected what Prediction.save wrote", AGAIN, path=path)
    about = read_json(path)
    try:
        files = {name: folder / file for name, file in about.pop("files").items()}
        grid = Grid.from_json(about.pop("grid"))
        task, bias = Task.from_json(about.pop("task")), about.pop("bias")
        sureness = Sureness.from_json(about.pop("sureness", None))
        about.pop("contributions", None)      # earlier files do not say it, and are read as the same (`whole`)
        labels, found = files.pop("labels"), {**about, "modalities": tuple(about["modalities"]), "task": task}
        case, policy = about["case"], about["policy"]
        bias = None if bias is None else task.answers.against_background(np.array(bias, np.float32))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"found no prediction in it ({type(error).__name__}: {error})", AGAIN, path=path) from None
    expect_none(DataError("it is missing from a saved prediction", AGAIN, case=case, path=one)
                for one in files.values() if not one.is_file())
    made = {name: _made(one) for name, one in files.items()}
    classes = label_map(labels, case, task, grid).array
    maps = SavedMaps(case, classes, files, grid, task.answers, bias, add_up=policy != "by-size", made=made)
    return {**found, "grid": grid, "bias": bias, "maps": maps, "sureness": sureness}


def _made(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def sureness_in(folder: Path) -> Sureness | None:
    """How sure the prediction in a folder is; None where that was not asked for.

    Raises:
        DataError: the file is damaged.
    """
    with nifti.located(None, None, folder / ABOUT):
        return Sureness.from_json(read_json(folder / ABOUT).get("sureness"))


def task_in(folder: str | Path, task: str | Path | Task | None = None) -> Task:
    """The task of the predictions in a folder: the one that is named, or that of a prediction.json there.

    Raises:
        ValueError: no such task; or none is named, and only label maps of another program lie there.
        DataError: the first prediction.json is damaged.
    """
    if task is not None:
        return Task.named(task)
    for path in sorted(Path(folder).glob(f"*/{ABOUT}")):
        with nifti.located(None, None, path):
            return Task.from_json(read_json(path).get("task", {}))
    raise ValueError(f"found no {ABOUT} in {folder}, expected the task whose values its label maps hold; say which one "
                     "with task")


def label_map(path: Path, case: str, task: Task, grid: Grid | None = None) -> Volume:
    """A label map as classes, if its values are the task's and it lies on the grid.

    Raises:
        DataError: the file is missing or damaged, it has other values, or it lies on another grid.
    """
    label = volumes.read_label(path, case=case)
    with nifti.located(case, None, path):
        _check_grid(label, grid)
        return Volume(task.encode(label.array), label.affine)


def _check_grid(volume: Volume, grid: Grid | None) -> None:
    if grid and (difference := grid_difference(Volume(np.empty(grid.shape, bool), np.array(grid.affine)), volume)):
        raise DataError(f"{difference}, expected the grid on which the case was predicted", AGAIN)


def manifest(folder: Path) -> dict[str, Any] | None:
    """What is written about the prediction in a folder; None where none is, or a file of it is gone or was cut."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in found["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def named_maps(attention: bool, contributions: bool, uncertainty: bool) -> list[str]:
    """The kinds of maps that are asked for, as manifests name them."""
    kinds = {"attention": attention, "contributions": contributions, "uncertainty": uncertainty}
    return [name for name, asked in kinds.items() if asked]


def made_from(case: Case, task: Task, modalities: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides about a prediction, as its manifest says it.

    Raises:
        DataError: a file of the case that cannot be read.
    """
    return {"case": case.id, "modalities": list(modalities), "inputs": checksums(case, task), "settings": settings}


def is_done(folder: Path, wanted: Mapping[str, Any], more_maps: bool = False) -> bool:
    """Whether a folder holds, whole, the prediction that would be made from this.

    Args:
        folder: of one prediction.
        wanted: as `made_from` says it.
        more_maps: whether maps that would not be made may be there too.
    """
    found = manifest(folder)
    if found and more_maps and isinstance(settings := found.get("settings"), dict):
        maps = wanted["settings"]["maps"]
        settings.pop("expected_dice", None)         # of it alone, and `sureness` says it
        found["settings"] = settings | {"maps": maps} if set(maps) <= set(settings.get("maps", ())) else {}
    return found is not None and all(found.get(name) == value for name, value in wanted.items())


def own(folder: Path) -> set[str]:
    """The files in a folder that a prediction wrote: a label map is one if prediction.json or probabilities say so."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    listed, seg, prob = set[str](), file_name("", "labels"), file_name("", "probabilities")
    with suppress(DataError, KeyError, TypeError, AttributeError):
        listed = {*read_json(folder / ABOUT)["files"].values()} if ABOUT in names else listed
    return {name for name in names if WRITTEN.fullmatch(name) or name in listed
            or (name.endswith(seg) and f"{name.removesuffix(seg)}{prob}" in names)}


def foreign(folder: Path) -> list[str]:
    """Files in the folder of a prediction that no prediction wrote, and that must not be lost with it."""
    return sorted({path.name for path in folder.iterdir()} - own(folder)) if folder.exists() else []

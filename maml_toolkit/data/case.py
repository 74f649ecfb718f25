"""One examination: its scans, its label and whose they are; to TorchIO and from it."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.tasks import Task, check_names
from maml_toolkit.data.volumes import Frame, Source
from maml_toolkit.system.errors import DataError, counted, few, shown
from maml_toolkit.system.files import whole_folder
from maml_toolkit.system.showing import Shown, in_lines

if TYPE_CHECKING:
    import torch
    import torchio

WINDOWS = os.name == "nt"
NO_NAME = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|nul|aux|prn|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)', re.IGNORECASE)
"""Found in what cannot name a folder of Windows, which cuts some of it off without a word, or writes beside a file."""

FACTS = "case.json"
"""The file in the folder of a case that says whose it is and what was drawn: {"patient": "p7", "labelled": "liver"}."""


@dataclass(frozen=True, repr=False)
class Case(Shown):
    """The images of one examination, and its label if there is one.

    Attributes:
        id: names the case in tables and in output folders; `composed`, as the patient is.
        images: modality -> file (text becomes a Path), frame of a 4-D file, or image held in memory; a missing modality
            is a missing key.
        label: where the label map is, likewise.
        patient: cases of one patient stay on one side of a split; the id when None.
        labelled: names of the classes that were drawn in the label, also as one text, joined by +; None for all of the
            task's.
        task: by which it was found; it says how the case shows itself, and what the values of its label are (`scheme`).

    Raises:
        DataError: `labelled` names nothing; an image is none, and no file; the id is no text, could lead outside an
            output folder, or names none on Windows, where this runs there.
    """

    id: str
    images: Mapping[str, Source | str] = field(default_factory=dict)
    label: Source | str | None = None
    patient: str | int | None = None
    labelled: Sequence[str] | str | None = None
    task: Task | None = field(default=None, compare=False)

    def __post_init__(self):
        if not isinstance(self.id, str):
            raise DataError(f"found the case id {self.id!r}, expected text",
                            "Write it in quotes, as the case is called.")
        as_source = partial(_source, self.id)
        for name, value in (("id", composed(self.id)), ("patient", patient_named(self.patient)),
                            ("labelled", classes_named(self.labelled)),
                            ("label", None if self.label is None else as_source("label", self.label)),
                            ("images", {name: as_source(name, source) for name, source in self.images.items()})):
            object.__setattr__(self, name, value)
        if not self.id.strip(" .") or ".." in self.id or set(self.id) & set("/\\\0"):
            raise DataError(f"found the case id {self.id!r}, expected one without path separators and '..'",
                            "Rename the case; its id becomes the name of a folder.")
        if shown(self.id) != self.id:
            raise DataError(f"found the case id {shown(self.id)}, which is not UTF-8",
                            "Rename the case: other programs and tables cannot hold its name.")
        if WINDOWS and NO_NAME.search(self.id):
            raise DataError(f"found the case id {self.id!r}, expected one that can name a folder of Windows",
                            'Rename the case, without <>:"|?*, without a dot or space at its end, and not as a device '
                            "(con, nul, aux, prn, com1, lpt1).", case=self.id)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that this case has."""
        return tuple(self.images)

    @property
    def missing(self) -> tuple[str, ...]:
        """The modalities of its task that it lacks; none where its task is not known."""
        return tuple(name for name in (self.task.modalities if self.task else ()) if name not in self.images)

    def scheme(self, task: Task) -> Task:
        """A task with the label values of that by which the case was found, if that has the same classes in any order.

        So a network whose lesion is 1 is measured on a data set whose lesion is 2, found by `task_of`. Ignored is what
        the data set says or, where it says nothing, the task.

        Raises:
            DataError: the tasks have other classes, and one that both have without a value in common, or that of the
                one is ignored by the other.
        """
        own = self.task
        if own is None:
            return task
        (background, *foreground), labels = own.class_names, task.labels
        if set(foreground) == {*task.class_names[1:]}:
            labels = {name: own.labels[name if at else background] for at, name in enumerate(task.class_names)}
        else:
            for name in (name for name in task.class_names[1:] if name in foreground):
                if set(own.labels[name]).isdisjoint(task.labels[name]):
                    raise DataError(f"{name} is {own.labels[name]} in {own.scheme}, by which the case was found, and "
                                    f"{task.labels[name]} in {task.scheme}", "Find the cases by the task that "
                                    "describes their labels, with the classes of the other.", case=self.id)
            if own.ignore is not None and own.ignore in (one for values in labels.values() for one in values):
                raise DataError(f"{own.ignore} is ignored in {own.scheme}, by which the case was found, and a class in "
                                f"{task.scheme}", "Find the cases by a task that has the classes of the other.",
                                case=self.id)
        ignore = task.ignore if own.ignore is None and task.ignore not in own.values else own.ignore
        return replace(task, labels=labels, ignore=ignore)

    def __repr__(self) -> str:
        drawn = "label" if self.labelled is None else f"label of {', '.join(self.labelled)}"
        places = {str(Path(path).parent) for source in self.files.values() if (path := volumes.path_of(source))}
        return in_lines(
            f"Case {self.id}" + (f" of patient {self.patient}" if self.patient not in (None, self.id) else ""),
            f"{', '.join(self.images) or 'no scan'}; {'no label' if self.label is None else drawn}"
            + (f"; without {', '.join(self.missing)}" if self.missing else ""),
            f"in {few(sorted(places), 1)}" if places else "in memory")

    @property
    def files(self) -> dict[str, Source]:
        """Where everything is: the images by modality and, if there is one, the label under "label"."""
        return {**self.images, **({} if self.label is None else {"label": self.label})}

    @classmethod
    def from_files(cls, id: str, files: Mapping[str, Source | str], patient: str | None = None,
                   labelled: Sequence[str] | str | None = None) -> Case:
        """The case whose `files` are these."""
        return cls(id, {name: file for name, file in files.items() if name != "label"}, files.get("label"), patient,
                   labelled)

    def to_subject(self) -> torchio.Subject:
        """The case for TorchIO: ScalarImages by modality, a LabelMap "label", the texts `case` and `patient`.

        So is `labelled`, and the `task` as JSON. What is missing is absent. A file is read, with every check, when its
        voxels are first asked for.
        """
        import torchio

        images = {}
        for name, source in self.files.items():
            kind, path = torchio.LabelMap if name == "label" else torchio.ScalarImage, volumes.path_of(source)
            reader = partial(_voxels, source, self.id, name)
            if path is None:
                tensor, affine = reader()
                images[name] = kind(tensor=tensor, affine=affine, mark=volumes.mark_of(source))
            else:
                images[name] = kind(path, reader=reader)
        task = {"task": json.dumps(self.task.to_json(), ensure_ascii=False)} if self.task else {}
        return torchio.Subject(case=self.id, **facts_of(self), **task, **images)

    @classmethod
    def from_subject(cls, subject: torchio.Subject, folder: str | Path) -> Case:
        """Write the images of a subject of TorchIO as NIfTI files, after any transform, and give the case of them.

        Args:
            subject: its ScalarImages are the modalities, its LabelMap is the label; `case`, `patient`, `labelled` and
                `task` (as JSON, by which the values of the label are read) are texts.
            folder: `<case>/<case>_<modality>.nii.gz` is written into it, whole or not at all, as `find_cases` finds it.

        Raises:
            DataError: there is no id, there are several label maps or channels of an image, a file is faulty, or the
                folder has this case.
            ValueError: a modality's name is none.
        """
        import torchio

        task = Task.from_json(json.loads(subject["task"])) if "task" in subject else None
        case = cls(str(subject.get("case", "")), patient=subject.get("patient"), labelled=subject.get("labelled"),
                   task=task)
        images = subject.get_images_dict(intensity_only=False)
        labels = [name for name, image in images.items() if isinstance(image, torchio.LabelMap)]
        check_names([name for name in images if name not in labels])
        if len(labels) > 1:
            raise DataError(f"found the label maps {', '.join(labels)}, expected at most one",
                            "Merge them, or remove the others from the subject.", case=case.id)
        own, files = Path(folder) / case.id, {}
        if own.exists():
            raise DataError("the folder is there, and might hold scans that belong together",
                            "Choose another folder, or move it away.", case=case.id, path=own)
        with whole_folder(own) as place:
            write_facts(place, case)
            for name, image in images.items():
                if image.data.shape[0] != 1:
                    raise DataError(f"found {image.data.shape[0]} channels, expected one",
                                    "Give each channel as an image of its own.", case=case.id, modality=name)
                part = "label" if name in labels else name
                file = file_name(case.id, part)
                mark = volumes.mark_of(image.path) if image.path and image.path.is_file() else image.get("mark", "")
                volumes.write(place / file, image.data[0].numpy(), image.affine, mark)
                files[part] = own / file
        return replace(cls.from_files(case.id, files, case.patient, case.labelled), task=task)


class Cases(Shown, list):
    """A list of cases, and a list in all that it does; in a notebook it shows which scans each case has."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Cases(found) if isinstance(at, slice) else found

    def __add__(self, others: list) -> Cases:
        return Cases([*self, *others])

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that the tasks name or a case has."""
        return tuple(dict.fromkeys(name for case in self for name in (
            *(case.task.modalities if case.task else ()), *case.images)))

    def __repr__(self) -> str:
        counts = [f"{name} {sum(name in case.images for case in self)}" for name in self.modalities]
        counts.append(f"label {sum(case.label is not None for case in self)}")
        return in_lines(f"{counted(len(self), 'case')}: {few([case.id for case in self], 3)}" if self else "no cases",
                        ", ".join(counts) if self else "")


def _source(case: str, name: str, source: Any) -> Source:
    """Where an image is, text as a Path.

    Raises:
        DataError: it is something else, such as an array, which says nothing of where its voxels lie.
    """
    if isinstance(source, str | os.PathLike):
        return Path(source)
    if isinstance(source, nib.Nifti1Image | Frame):
        return source
    raise DataError(f"found a {type(source).__name__}, expected a file or an image of nibabel",
                    "Give the path, or make an image: nibabel.Nifti1Image(array, affine).", case=case, modality=name)


def _voxels(source: Source, case: str, name: str, path: Path | None = None) -> tuple[torch.Tensor, np.ndarray]:
    """What TorchIO wants of a file: a tensor with a channel, and the affine."""
    import torch

    stored = volumes.opened(source, label=name == "label", case=case, modality=name)
    volume = stored.label() if name == "label" else stored.image()
    return torch.from_numpy(np.ascontiguousarray(volume.array)[None]), volume.affine


def composed(name: str) -> str:
    """One form of a name for all that look the same: ü is one letter (NFC), where macOS writes u and two dots (NFD).

    Names are compared in this form; files keep theirs.
    """
    return unicodedata.normalize("NFC", name)


def patient_named(value: object) -> str | None:
    """A patient as text: 7 is "7", so that all cases of one stay together; None for none.

    Raises:
        DataError: it is neither text nor a whole number.
    """
    if value is None:
        return None
    if isinstance(value, str | int) and not isinstance(value, bool):
        return composed(str(value))
    raise DataError(f"found the patient {value!r}, expected text", "Write its name in quotes, or leave it out.")


def classes_named(value: object) -> tuple[str, ...] | None:
    """Names of classes, each once: "liver+tumour" or a list of names; None for none.

    Raises:
        DataError: it is something else, or empty.
    """
    if value is None:
        return None
    parts = value.split("+") if isinstance(value, str) else value
    are_texts = isinstance(parts, list | tuple) and all(isinstance(one, str) for one in parts)
    names = tuple(dict.fromkeys(composed(one.strip()) for one in parts)) if are_texts else ()
    if not all(names) or not names:
        raise DataError(f"found labelled {value!r}, expected names of classes, joined by +",
                        "Name the classes that were drawn in this label (background where none was), or leave it out.")
    return names


def file_name(id: str, part: str) -> str:
    """What a modality, or the "label", is called in the folder of its case."""
    return f"{id}_{'seg' if part == 'label' else part}.nii.gz"


def facts_of(case: Case) -> dict[str, str]:
    """What is known of a case beside its files, as texts: `patient` and `labelled`."""
    known = {"patient": case.patient, "labelled": case.labelled and "+".join(case.labelled)}
    return {name: value for name, value in known.items() if value is not None}


def write_facts(folder: Path, case: Case) -> None:
    """Write down, in the folder of a case, whose it is and what was drawn; nothing where neither is known."""
    if facts := facts_of(case):
        (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def same_twice(cases: Iterable[Case]) -> list[DataError]:
    """A problem for each id that two cases share (letter case aside), and for each that share a file."""
    ids: dict[str, Case] = {}
    owners: dict[tuple, tuple[str, Path]] = {}
    problems = []
    for case in cases:
        files = _own_files(case)
        one = ids.get(key := case.id.casefold())
        if one is not None:
            how = f"equals {one.id!r} but for letter case" if one.id != case.id else "belongs to two cases"
            places = [next(map(str, _own_files(each).values()), "images in memory") for each in (one, case)]
            problems.append(DataError(f"the id {case.id!r} {how}: {' and '.join(places)}",
                                      "Give each case an id of its own, or remove one of them.", case=case.id))
            continue
        if shared := next((file for file in files if file in owners), None):
            (first, other), path = owners[shared], volumes.path_of(files[shared])
            problems.append(DataError(f"the cases {first!r} and {case.id!r} share this file"
                                      + (f", which {first} has as {other}" if str(other) != str(path) else ""),
                                      "One case must not have two ids: remove one of them.",
                                      case=case.id, path=path))
        ids[key] = case
        owners |= {file: (case.id, volumes.path_of(source)) for file, source in files.items()}
    return problems


def _own_files(case: Case) -> dict[tuple[str, int | None], Source]:
    """The files and frames of the images by what they are, whatever they are called."""
    return {(os.path.realpath(volumes.path_of(source)), source.index if isinstance(source, Frame) else None): source
            for source in case.images.values() if not isinstance(source, nib.Nifti1Image)}

"""One folder a case, as in BraTS: `<case>/<case>_flair.nii.gz`, `<case>/<case>-t2f.nii.gz` or `<case>/flair.nii.gz`.

References:
    U. Baid et al. The RSNA-ASNR-MICCAI BraTS 2021 benchmark. 2021. https://arxiv.org/abs/2107.02314
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from maml_toolkit.data.layouts.contents import Contents, stem
from maml_toolkit.data.layouts.entries import Entry, copy, entry_of, is_known, patient_named, recoder
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.system.errors import DataError, collected

BRATS_NAMES = {
    "brats2021": {"t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "flair": "_flair", "label": "_seg"},
    "brats2023": {"t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "flair": "-t2f", "label": "-seg"},
}
"""What the files of BraTS are called behind the name of the case, by year."""

FACTS = "case.json"
"""The file in the folder of a case that says whose it is: {"patient": "p7"}."""


def find(found: Contents, task: Task, problems: list[DataError]) -> list[Entry]:
    """The entries of a folder of cases, or of one case; what is wrong with single ones is added to `problems`.

    Time points of one patient of BraTS share the patient; so do cases whose FACTS name one.
    """
    entries = []
    for folder, images in found.images.items():
        if stem(folder) and folder.parent in found.images:      # told as the file that it should be
            entries.append(Entry(name_of(folder.parent), {}, named=[(path, None) for path in images]))
            continue
        id, names = name_of(folder), []
        for path in images:
            with collected(problems, id, path):
                names.append((path, name_in(folder, stem(path), task)))
        others, patient = [(path, None) for path in images if path not in dict(names)], None
        with collected(problems, id, folder / FACTS):
            patient = patient_in(folder)
        if images:
            entries.append(entry_of(id, names, task, problems, patient, others))
    return entries


def name_of(folder: Path) -> str:
    """The folder's own name, if it is a link too."""
    return folder.name if folder.name not in ("", "..") else os.path.basename(os.path.abspath(folder))


def patient_in(folder: Path) -> str | None:
    """The patient of the case in a folder, where one was written down.

    Raises:
        DataError: it is no name.
    """
    try:
        named = json.loads((folder / FACTS).read_text(encoding="utf-8"))["patient"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return patient_named(named)


def write_patient(folder: Path, patient: str | None) -> None:
    """Write down, in the folder of a case, whose it is; nothing where that is not known."""
    if patient is not None:
        (folder / FACTS).write_text(json.dumps({"patient": patient}, ensure_ascii=False), encoding="utf-8")


def name_in(folder: Path, name: str, task: Task) -> str:
    """What a file of this name, without its ending, calls its modality, behind the name of its folder.

    Where the folder is a link, files may be named after what it leads to.

    Raises:
        DataError: the file starts with neither the folder's name nor a modality.
    """
    if is_known(name, task):
        return name
    case = name_of(folder)
    for start in (case, os.path.basename(os.path.realpath(folder))) if folder.is_symlink() else (case,):
        modality = name[len(start):].lstrip("_-. ")
        if name[:len(start)].lower() == start.lower() and name[len(start):len(start) + 1] in ("_", "-", ".", " ") and \
                modality:
            return modality
    raise DataError(f"found the file name {name!r}, expected '{case}_<modality>' or '<modality>' alone",
                    f"Rename it after its folder, or move it out of {case}; the modalities are "
                    f"{', '.join(task.modalities)}.")


def write(entries: Sequence[Entry], folder: Path, task: Task | None) -> None:
    """Write `<case>/<case>_<modality>.nii.gz` and `<case>/<case>_seg.nii.gz`, label values as they are."""
    copy(entries, folder, lambda entry, part: f"{entry.id}/{entry.id}_{'seg' if part == 'label' else part}.nii.gz")
    for entry in entries:
        write_patient(folder / entry.id, entry.patient)


def write_brats(entries: Sequence[Entry], folder: Path, task: Task, layout: str) -> None:
    """Write the names of a year of BraTS and, where the task has the classes of BraTS, that year's label values.

    Raises:
        ValueError: the task has another modality than BraTS.
    """
    endings = _endings(task, layout)
    labels = TASKS[layout].labels
    recode = None
    if set(labels) == set(task.class_names):
        recode = recoder(task, replace(task, labels={name: labels[name] for name in task.class_names}))
    copy(entries, folder, lambda entry, part: f"{entry.id}/{entry.id}{endings[part]}.nii.gz", recode)
    for entry in entries:
        write_patient(folder / entry.id, entry.patient)


def _endings(task: Task, layout: str) -> dict[str, str]:
    names = BRATS_NAMES[layout]
    try:
        found = [TASKS[layout].modality(own) for own in task.modalities]
    except DataError:
        found = []
    if len(set(found)) < len(task.modalities):
        raise ValueError(f"layout {layout} was asked for task {task.name} with {list(task.modalities)}, expected "
                         f"modalities of {list(TASKS[layout].modalities)}, each once; choose folders")
    return {own: names[name] for own, name in zip((*task.modalities, "label"), (*found, "label"), strict=True)}

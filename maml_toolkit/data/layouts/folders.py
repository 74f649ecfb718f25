"""One folder a case, as in BraTS: `<case>/<case>_flair.nii.gz`, `<case>/<case>-t2f.nii.gz` or `<case>/flair.nii.gz`.

References:
    U. Baid et al. The RSNA-ASNR-MICCAI BraTS 2021 benchmark. 2021. https://arxiv.org/abs/2107.02314
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from maml_toolkit.data.layouts.entries import Entry, copy, entry_of, is_known, recoder, stem, visible
from maml_toolkit.errors import DataError, collected
from maml_toolkit.tasks import TASKS, Task

BRATS_NAMES = {
    "brats2021": {"t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "flair": "_flair", "label": "_seg"},
    "brats2023": {"t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "flair": "-t2f", "label": "-seg"},
}
"""What the files of BraTS are called behind the name of the case, by year."""


def find(source: Path, task: Task, problems: list[DataError]) -> list[Entry]:
    """The entries of a folder of cases, or of one case; what is wrong with single ones is added to `problems`.

    Time points of one patient of BraTS share the patient.
    """
    entries = []
    for folder in floors(source):
        id, names = folder.resolve().name, []
        for path in (path for path in visible(folder) if stem(path) and path.is_file()):
            with collected(problems, id, path):
                names.append((path, _name_in(id, path, task)))
        if names:
            entries += entry_of(id, names, task, problems)
    return entries


def floors(folder: Path, depth: int = 3) -> Iterator[Path]:
    """The folder itself and what lies below it; BraTS 2018 has two floors (`HGG/<case>`)."""
    yield folder
    for child in visible(folder) if depth else ():
        if child.is_dir():
            yield from floors(child, depth - 1)


def _name_in(case: str, path: Path, task: Task) -> str:
    """What the file calls its modality, behind the name of its folder.

    Raises:
        DataError: the file starts with neither the folder's name nor a modality.
    """
    name = stem(path)
    if is_known(name, task):
        return name
    if match := re.fullmatch(rf"{re.escape(case)}[_\-. ]+(.+)", name, re.IGNORECASE):
        return match[1]
    raise DataError(f"found the file name {path.name!r}, expected '{case}_<modality>' or '<modality>' alone",
                    f"Rename it after its folder, or move it out of {case}; the modalities are "
                    f"{', '.join(task.modalities)}.")


def write(entries: Sequence[Entry], folder: Path, task: Task | None) -> None:
    """Write `<case>/<case>_<modality>.nii.gz` and `<case>/<case>_seg.nii.gz`, label values as they are."""
    copy(entries, folder, lambda entry, part: f"{entry.id}/{entry.id}_{'seg' if part == 'label' else part}.nii.gz")


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

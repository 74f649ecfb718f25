"""One folder a case, as in BraTS: `<case>/<case>_flair.nii.gz`, `<case>/<case>-t2f.nii.gz` or `<case>/flair.nii.gz`.

The folder of a single case may have any name, if those of all its files begin alike: the case is called as they are.

References:
    U. Baid et al. The RSNA-ASNR-MICCAI BraTS 2021 benchmark. 2021. https://arxiv.org/abs/2107.02314
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from maml_toolkit.data.case import FACTS, Case, classes_named, composed, file_name, patient_named, write_facts
from maml_toolkit.data.layouts.contents import Contents, stem
from maml_toolkit.data.layouts.found import Found, is_known, resolved
from maml_toolkit.data.tasks import Task
from maml_toolkit.system.errors import DataError, collected
from maml_toolkit.system.files import read_json


def names(lying: Contents, task: Task) -> Iterator[str]:
    """What the images in a folder call their modalities, as far as it can be told."""
    shared = shared_start(lying, task)
    for folder, images in lying.images.items():
        for path in images:
            with suppress(DataError):
                yield name_in(folder, stem(path), task, shared)


def find(lying: Contents, found: Found) -> None:
    """Add the cases of a folder of cases, or of one case.

    Time points of one patient of BraTS share the patient; so do cases whose FACTS say it. They say what was drawn too.
    """
    shared = shared_start(lying, found.task)
    for folder, images in lying.images.items():
        if stem(folder) and folder.parent in lying.images:      # told as the file that it should be
            found.named |= dict.fromkeys(images, (name_of(folder.parent), None))
        elif images:
            id, called, facts = shared or name_of(folder), dict.fromkeys(images), {}
            for path in images:
                with collected(found.problems, id, path):
                    called[path] = name_in(folder, stem(path), found.task, shared)
            with collected(found.problems, id, folder / FACTS):
                facts = _facts_in(folder)
            found.add(id, list(called.items()), **facts)


def place(root: Path, task: Task, path: Path, name: str, shared: str = "") -> tuple[str | None, str | None]:
    """The case and the modality, or "label", that a name without its ending stands for, as far as it tells."""
    case = shared * (path.parent == root) or name_of(path.parent)
    with suppress(DataError):
        return case, resolved(name_in(path.parent, name, task, shared), task)
    return None if path.parent == root else case, None


def shared_start(lying: Contents, task: Task) -> str:
    """What stands before the modality in all names, where all lie in one folder that is called otherwise; or "".
    """
    own, *below = lying.images.values() if lying.images else [[]]
    starts = {next(filter(None, (name[:gap.start()] for gap in re.finditer(r"[_\-. ]+", name)
                                 if is_known(name[gap.end():], task))), "") for name in map(stem, own)} - {""}
    return starts.pop() if len(starts) == 1 and not any(below) and not starts & {*_starts(own[0].parent)} else ""


def name_of(folder: Path) -> str:
    """The folder's own name, if it is a link too, `composed`."""
    return composed(folder.name if folder.name not in ("", "..") else os.path.basename(os.path.abspath(folder)))


def _starts(folder: Path) -> list[str]:
    return [name_of(folder), *[name_of(Path(os.path.realpath(folder)))] * folder.is_symlink()]


def name_in(folder: Path, name: str, task: Task, shared: str = "") -> str:
    """What a file of this name, without its ending, calls its modality, behind the name of its folder.

    Where the folder is a link, files may be named after what it leads to; or they have a `shared_start`.

    Raises:
        DataError: the file starts with neither the folder's name nor a modality.
    """
    if is_known(name, task):
        return name
    case, name = name_of(folder), composed(name)
    for start in (*[shared] * bool(shared), *_starts(folder)):
        own, rest = name[:len(start)], name[len(start):]
        if own.lower() == start.lower() and rest.startswith(("_", "-", ".", " ")) and rest.strip("_-. "):
            return rest.lstrip("_-. ")
    raise DataError(f"found the file name {name!r}, expected '{case}_<modality>' or '<modality>' alone",
                    f"Rename it after its folder, or move it out of {case}; the modalities are "
                    f"{', '.join(task.modalities)}.")


def _facts_in(folder: Path) -> dict[str, Any]:
    """Patient and drawn classes of the case in a folder, where they were written down."""
    facts = read_json(folder / FACTS) if (folder / FACTS).exists() else {}
    return {"patient": patient_named(facts.get("patient")), "labelled": classes_named(facts.get("labelled"))}


def file_of(case: Case, part: str, task: Task | None) -> str:
    """Where a modality, or the "label", of a case is written: `<case>/<case>_<modality>.nii.gz`."""
    return f"{case.id}/{file_name(case.id, part)}"


def describe(cases: Sequence[Case], folder: Path, task: Task | None) -> None:
    """Write beside the files of each case whose it is and what was drawn."""
    for case in cases:
        write_facts(folder / case.id, case)

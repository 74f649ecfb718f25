"""What a layout understands of the files that lie somewhere: their cases and modalities, and what stands in the way."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from maml_toolkit.data import nifti
from maml_toolkit.data.case import Case, composed
from maml_toolkit.data.label_sets import undrawn
from maml_toolkit.data.layouts.contents import foreign
from maml_toolkit.data.task_fields import LABEL_NAMES
from maml_toolkit.data.tasks import SYNONYMS, Task
from maml_toolkit.data.volumes import Source, path_of
from maml_toolkit.system.errors import DataError, collected


def is_known(name: str, task: Task) -> bool:
    """Whether the task or the field knows a modality by this name, or it means the label."""
    known = LABEL_NAMES | {modality.lower() for modality in task.modalities}
    return name.lower() in known.union(*SYNONYMS)


def resolved(name: str, task: Task) -> str | None:
    """The task's own name for a modality, or "label"; None for one that the field knows and the task does not use.

    Raises:
        DataError: the name is unknown.
    """
    if name.lower() in LABEL_NAMES:
        return "label"
    try:
        return task.modality(name)
    except DataError:
        if is_known(name, task):
            return None
        raise


def understands(name: str, task: Task) -> bool:
    """Whether a modality of the task goes by this name."""
    with suppress(DataError):
        return resolved(name, task) in task.modalities
    return False


def patient_of(id: str) -> str | None:
    """The patient of a case of BraTS from 2023, whose id ends in the time point; None for other ids.

    >>> patient_of("BraTS-GLI-00005-100")
    'BraTS-GLI-00005'
    """
    match = re.fullmatch(r"(BraTS-[A-Z]+-\d+)-\d{3}", id, re.IGNORECASE)
    return match and match[1]


@dataclass
class Found:
    """What lies in a folder or table, as far as it can be understood, and everything that cannot.

    Attributes:
        tasks: the task that was asked for or, where none was, the known ones that understand most of the names.
        cases: of the part that was asked for, sorted by id.
        named: every image, used or not -> its case and what it is called; None where nobody knows.
        problems: what must be mended.
        oddities: what may be meant: what cannot be read and stands in the place of no scan that is missing.
        ignored: rule -> how many entries of the folder it ignored.
    """

    tasks: Sequence[Task]
    cases: list[Case] = field(default_factory=list)
    named: dict[Source, tuple[str | None, str | None]] = field(default_factory=dict)
    problems: list[DataError] = field(default_factory=list)
    oddities: list[DataError] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def task(self) -> Task:
        """By which the names were understood."""
        return self.tasks[0]

    def add(self, id: str, names: Sequence[tuple[Source, str | None]], patient: str | None = None,
            others: Iterable[tuple[Source, str]] = (), labelled: Sequence[str] | str | None = None) -> None:
        """A case, from its files and the names of what they hold.

        Modalities that the field knows but the task does not use are left out. So is what becomes a problem: an
        unknown name, a file that cannot be opened, and all files of a modality that has several, or whose `.nii.gz`
        lies beside a `.nii` of its name.

        Args:
            names: None is the name of an image of which is told elsewhere that it is not understood.
            patient: None where the layout does not say.
            others: images of the case that have no place in the task.
            labelled: the classes that were drawn, as for a `Case`.
        """
        id = composed(id)
        self.named |= {source: (id, name) for source, name in (*names, *others)}
        several = defaultdict(list)
        for source, name in names:
            with collected(self.problems, id, path_of(source)):
                if name and (own := resolved(name, self.task)):
                    with collected(self.problems, id, modality=own):
                        if other := foreign(path := path_of(source)):
                            raise DataError(f"it is {other.what}", other.remedy, path=path)
                        nifti.expect_file(path)
                        several[own].append(source)
        files = {}
        for own in (*self.task.modalities, "label"):
            if own in several:
                with collected(self.problems, id, modality=own):
                    files[own] = _only(several[own])
        place = next((Path(path_of(source)).parent for source in files.values()), None)
        with collected(self.problems, id, place):
            case = Case.from_files(id, files, patient or patient_of(id), labelled)
            undrawn(case.labelled, self.task)
            self.cases.append(case)


def _only(sources: Sequence[Source]) -> Source:
    beside = [path.with_suffix("") for path in map(path_of, sources)
              if path.suffix.lower() == ".gz" and path.with_suffix("").is_file()]
    if len(several := dict.fromkeys((*sources, *beside))) > 1 or len(sources) > 1:
        raise DataError(f"found {len(several)} files, expected one: {', '.join(map(str, several))}",
                        "Keep the right one and move the others away; SimpleITK, asked for a .nii.gz, reads a .nii "
                        "beside it.", path=path_of(sources[0]))
    return sources[0]

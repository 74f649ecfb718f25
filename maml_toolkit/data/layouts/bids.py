"""BIDS, the Brain Imaging Data Structure: `sub-<label>/[ses-<label>/]anat/sub-<label>[_ses-<label>]_T1w.nii.gz`.

A case is a session, `sub-01_ses-1`, or `sub-01` where there are none; its patient is `sub-01`. The suffix names the
modality, as the task or the field calls it (t1 is T1w). A T1w with any `ce-` is t1ce, a FLAIR with one ceFLAIR; a CT
may be told by its entity, `acq-arterial_ct`. A modality that is called like all that follows the session in a name,
such as run_2_T1w or acq_hires_T2w, is that file alone.

Labels are `*_dseg` and `*_mask`, in `derivatives` or beside the images; masks of the brain are none, nor is what
`predict` wrote. All else in `derivatives` and `sourcedata` is left alone. `.bidsignore` is for the validator: what it
lists, such as CTs, is read.

What the values of a `*_dseg` mean, its dseg.tsv says: dseg.py.

References:
    K. Gorgolewski et al. The brain imaging data structure. Scientific Data, 2016.
    https://bids-specification.readthedocs.io
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from maml_toolkit import __version__
from maml_toolkit.data.case import Case, composed
from maml_toolkit.data.layouts import dseg
from maml_toolkit.data.layouts.contents import Contents, stem
from maml_toolkit.data.layouts.found import Found, is_known, understands
from maml_toolkit.data.tasks import Task, common_name
from maml_toolkit.system.errors import DataError, collected
from maml_toolkit.system.files import write_whole

FOLDER = re.compile(r"(?:.*/)?(sub-[^/]+)(?:/(ses-[^/]+))?(?:/([a-z]+))?")
NAME = re.compile(r"(sub-[^_]+(?:_ses-[^_]+)?)((?:_[A-Za-z]+-[^_]+)*)_([^_-]+)")
LABEL = re.compile(r"(?!.*-brain_)sub-.*_(dseg|mask|msk|seg|label)", re.IGNORECASE)

KINDS = {"anat", "beh", "dwi", "eeg", "fmap", "func", "ieeg", "meg", "micr", "motion", "mrs", "nirs", "perf", "pet"}
"""Names of the folders of a session."""

SUFFIXES = {suffix.lower(): suffix for suffix in re.findall(
    r"\w+", "T1w T2w PDw T2starw FLAIR inplaneT1 inplaneT2 PDT2 angio T2star FLASH PD T1map T2map T2starmap R1map "
    "R2map R2starmap PDmap MTRmap MTsat UNIT1 T1rho MWFmap MTVmap Chimap S0map M0map defacemask MESE MEGRE VFA IRT1 "
    "MP2RAGE MPM MTS MTR")}
"""What BIDS knows in `anat`."""

ENDINGS = {"t1": "T1w", "t1c": "ce-GADOLINIUM_T1w", "t2": "T2w", "flair": "FLAIR", "pd": "PDw", "t2star": "T2starw"}
"""Common name of a modality -> how its files end."""

ANSWERS, DRAWN = "maml_toolkit", "labels"
"""The folders of `derivatives` for what was predicted, and for the labels of cases that are written."""


def is_bids(root: Path, lying: Contents) -> bool:
    """Whether a folder holds sessions of BIDS."""
    return any((session := _session(root, folder)) and session[3] in KINDS for folder in lying.images)


def _session(root: Path, folder: Path) -> re.Match | None:
    """Subject, session and kind in the path of a folder, from the root's own name on."""
    return FOLDER.fullmatch(composed(
        f"{Path(os.path.abspath(root)).name}/{folder.relative_to(root).as_posix()}".rstrip("/.")))


def names(root: Path, lying: Contents, task: Task) -> Iterator[str]:
    """What the images call their modalities, as far as it can be told."""
    for path in _images(root, lying):
        with suppress(DataError):
            yield name_in(root, path, stem(path), task)[1]


def find(root: Path, lying: Contents, found: Found) -> None:
    """Add the sessions; two files of one modality in a session, such as two runs, are a problem."""
    _leave_alone(root, lying)
    cases: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in _images(root, lying):
        with collected(found.problems, path=path):
            id, name = name_in(root, path, stem(path), found.task)
            cases[id][name].append(path)
    for id, called in cases.items():
        used, others = [], []
        for name, paths in called.items():
            is_used = name == "label" or understands(name, found.task)
            if several := is_used and len({*map(stem, paths)}) > 1:
                found.problems.append(_several(id, name, paths))
            for path in paths:
                is_other = path.parent.name != "anat" or stem(path).rpartition("_")[2].lower() in SUFFIXES
                is_left = several or (not is_used and (is_other or is_known(name, found.task)))
                (others if is_left else used).append((path, name))
        found.add(id, used, id.partition("_")[0], others)


def _several(id: str, name: str, paths: Sequence[Path]) -> DataError:
    ends = [re.sub(r"\W", "_", stem(path).removeprefix(f"{id}_")) for path in paths]
    remedy = "list the files in a table" if name == "label" else \
        f"name the one that is meant in the task, as the modality {max(ends, key=len)}"
    return DataError(f"found {len(paths)} files, expected one: {', '.join(map(str, paths))}",
                     f"Move the others away, or {remedy}.", case=id, modality=name, path=paths[0])


def place(root: Path, task: Task, path: Path, name: str) -> tuple[str | None, str | None]:
    """The case and the modality, or "label", that a name without its ending stands for, as far as it tells."""
    with suppress(DataError):
        id, called = name_in(root, path, name, task)
        return id, called if called == "label" or understands(called, task) else None
    return None, None


def name_in(root: Path, path: Path, name: str, task: Task) -> tuple[str, str]:
    """The case of a file, and the task's name for what it holds, or "label", or its own name for that.

    Raises:
        DataError: it is not named as BIDS has it, or lies in the folder of another session, or in none.
    """
    match, session = NAME.fullmatch(name := composed(name)), _session(root, path.parent)
    start = "_".join(filter(None, session.group(1, 2))) if session else "sub-<label>[_ses-<label>]"
    is_label = LABEL.fullmatch(name)
    if not match or (session and match[1] != start) or not (is_label or (session and session[3])):
        raise DataError(f"found the image {name!r}, expected {start}[_<key>-<value>]_<suffix> in the folder anat of "
                        "that session", "Rename it as BIDS has it, or move it away.", case=match and match[1])
    if is_label:
        return match[1], "label"
    entities, suffix = dict(part.split("-", 1) for part in match[2].split("_") if part), match[3]
    default = suffix if "ce" not in entities else "t1ce" if suffix.lower() == "t1w" else f"ce{suffix}"
    own = {_bare(modality).lower(): modality for modality in task.modalities}
    for one in (_bare(match[2] + suffix), default, default.removesuffix("w"),
                *(entities.values() if suffix.lower() == "ct" else ())):
        if one.lower() in own or understands(one, task):
            return match[1], own.get(one.lower()) or task.modality(one)
    return match[1], default


def _bare(text: str) -> str:
    """Its letters and digits, which are all that may stand in a label."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _images(root: Path, lying: Contents) -> Iterator[Path]:
    """What is named like NIfTI, without what is left alone."""
    return (path for images in lying.images.values() for path in images if not _rule(root, path))


def _leave_alone(root: Path, lying: Contents) -> None:
    """Takes what belongs to no case out of what lies there, and counts it by rule."""
    def kept(ones: list) -> list:
        rules = [_rule(root, Path(getattr(one, "path", one))) for one in ones]
        lying.ignored.update(filter(None, rules))
        return [one for one, rule in zip(ones, rules, strict=True) if not rule]

    lying.images = {folder: kept(images) for folder, images in lying.images.items()}
    lying.foreign, lying.unknown, lying.problems = map(kept, (lying.foreign, lying.unknown, lying.problems))


def _rule(root: Path, path: Path) -> str | None:
    """By which a file is left alone; None for one that may be a scan or a label of a case."""
    above = path.relative_to(root).parts[:-1]
    if "sourcedata" in above:
        return "files of sourcedata"
    if "derivatives" not in above or path.is_dir():
        return None
    if ANSWERS in above:
        return "predictions of the toolkit"
    return None if LABEL.fullmatch(path.name.partition(".")[0]) else "files of derivatives that are no labels"


def session_of(case: Case) -> tuple[str, ...]:
    """`sub-…`, and `ses-…` where the case is one of several of its patient: letters and digits of patient and id.

    >>> session_of(Case("BraTS-GLI-00005-100", patient="BraTS-GLI-00005")), session_of(Case("sub-01_ses-2"))
    (('sub-BraTSGLI00005', 'ses-100'), ('sub-01', 'ses-2'))

    Raises:
        DataError: there is none.
    """
    match = re.fullmatch(r"(sub-[A-Za-z0-9+]+)(?:_(ses-[A-Za-z0-9+]+))?", case.id)
    if match and case.patient in (None, match[1]):
        return tuple(filter(None, match.groups()))
    patient = case.id if case.patient is None else case.patient
    sub, ses = _bare(patient.removeprefix("sub-")), _bare(case.id.removeprefix(patient))
    if not sub or (patient != case.id and not ses):
        raise DataError(f"found no letter or digit for BIDS in the id {case.id!r} of patient {patient!r}",
                        "Rename the case, with some of a to z and 0 to 9.", case=case.id)
    return (f"sub-{sub}", *([f"ses-{ses}"] if ses else []))


def stem_of(case: Case) -> str:
    """Where the names of a case's files begin: `sub-01/ses-1/anat/sub-01_ses-1`."""
    return "/".join([*(parts := session_of(case)), "anat", "_".join(parts)])


def ending_of(modality: str, task: Task) -> str:
    """How the names of a modality's files end; what BIDS does not know, such as a CT, gets a name of the same form."""
    entities = re.sub(r"(?<![^_])(acq|ce|rec|run)_([A-Za-z0-9]+)_", r"\1-\2_", modality)
    is_phase = task.intensities.get(modality) == "ct" and modality.lower() != "ct"
    return (ENDINGS.get(common_name(modality)) or SUFFIXES.get(modality.lower())
            or ("-" in entities and entities) or (f"acq-{_bare(modality)}_ct" if is_phase else _bare(modality)))


def file_of(case: Case, part: str, task: Task) -> str:
    """Where a modality, or the "label", of a case is written."""
    return f"derivatives/{DRAWN}/{stem_of(case)}_dseg.nii.gz" if part == "label" else \
        f"{stem_of(case)}_{ending_of(part, task)}.nii.gz"


def unwritable(cases: Iterable[Case], task: Task) -> Iterator[DataError]:
    """A problem for each case that has no name in BIDS, or has a file of the same name as another."""
    owners: dict[str, str] = {}
    problems: list[DataError] = []
    for case in cases:
        with collected(problems):
            for name, part in ((file_of(case, part, task).lower(), part) for part in case.files):
                if owner := owners.get(name):
                    raise DataError(f"its {part} would be called {name}, as the {owner}", "Rename one of them; only "
                                    "letters and digits count.", case=case.id)
                owners[name] = f"{part} of {case.id}"
    yield from problems


def describe(cases: Sequence[Case], folder: Path, task: Task) -> None:
    """Write what stands beside the files; a `.bidsignore` tells the validator of endings that BIDS does not know."""
    write_description(folder, task.name, ANSWERS, "raw")
    if any(case.label is not None for case in cases):
        write_description(folder / "derivatives" / DRAWN, f"Labels of {task.name}", "Manual", task=task)
    endings = {ending_of(modality, task) for case in cases for modality in case.images}
    if other := sorted(one for one in endings if one.rpartition("_")[2].lower() not in SUFFIXES):
        (folder / ".bidsignore").write_text("".join(f"*_{one}.nii.gz\n" for one in other), encoding="utf-8")


def write_description(folder: Path, name: str, by: str, kind: str = "derivative", task: Task | None = None) -> None:
    """Write dataset_description.json and, with a task, dseg.tsv: what the values of its labels mean.

    Args:
        by: what generated it.
        kind: "raw" or "derivative", which is linked to the data set in whose `derivatives` it lies.
    """
    made = {"Name": by, **({"Version": __version__} if by == ANSWERS else {})}
    links = {"DatasetLinks": {"raw": "../.."}} if kind == "derivative" else {}
    write_whole(folder / "dataset_description.json", json.dumps({
        "Name": name, "BIDSVersion": "1.10.0", "DatasetType": kind, "GeneratedBy": [made], **links}, indent=1,
        ensure_ascii=False))
    if task:
        write_whole(folder / "dseg.tsv", "index\tname\n" + "".join(
            f"{value}\t{name}\n" for name, values in task.labels.items() for value in values))


def schemes(root: Path, lying: Contents, task: Task, problems: list[DataError]) -> list[dseg.Scheme]:
    """What the tables say of the values of the labels; one that cannot be read is a problem."""
    labels = (path for path in _images(root, lying) if stem(path).lower().endswith("_dseg"))
    found = []
    for path in dseg.tables_of(root, labels):
        with collected(problems):
            found.append(dseg.read(path, task))
    return found

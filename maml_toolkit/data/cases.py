"""Cases: which files belong together, found in folders, in nnU-Net data sets and in tables.

Layouts that are known:

- one folder a case, `<case>/<case>_flair.nii.gz` (BraTS 2018 to 2021), `<case>/<case>-t2f.nii.gz` (from
  2023), or just `<case>/flair.nii.gz`, with `seg`, `label`, `labels` or `mask` in the place of a modality;
- nnU-Net v2 raw: `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`;
- a table, .csv or .tsv: one row a case, one column a modality.

A missing modality is a missing key, never an error here. All problems of a data set are reported together.

References:
    U. Baid et al. The RSNA-ASNR-MICCAI BraTS 2021 benchmark. 2021. https://arxiv.org/abs/2107.02314
    F. Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image
    segmentation. Nature Methods, 2021. https://doi.org/10.1038/s41592-020-01008-z
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from maml_toolkit.data.volumes import Source
from maml_toolkit.errors import DataError
from maml_toolkit.tasks import SYNONYMS, Task

LABEL_NAMES = {"seg", "label", "labels", "mask"}
"""Names that stand in the place of a modality and mean the label."""

LAYOUTS = ("one folder a case with files <case>_<modality>.nii.gz, nnU-Net v2 raw (dataset.json, imagesTr, "
           "labelsTr), or a .csv or .tsv table with a column 'case' and one column a modality")


@dataclass(frozen=True)
class Case:
    """The images of one examination, and its label if there is one.

    Attributes:
        id: names the case in tables and in output folders.
        images: modality -> file, or an image held in memory; a missing modality is a missing key.
        label: file or image of the label map.
        patient: cases of one patient stay on one side of a split; the id when None.

    Raises:
        DataError: the id could lead outside an output folder.
    """

    id: str
    images: Mapping[str, Source] = field(default_factory=dict)
    label: Source | None = None
    patient: str | None = None

    def __post_init__(self):
        if not self.id.strip() or ".." in self.id or set(self.id) & set("/\\\0"):
            raise DataError(f"found the case id {self.id!r}, expected one without path separators and '..'",
                            "Rename the case; its id becomes the name of a folder.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that this case has."""
        return tuple(self.images)


def find_cases(source: str | Path, task: Task, *, part: str = "training") -> list[Case]:
    """The cases of a folder or of a table, sorted by id.

    Modalities that the field knows but the task does not use are left out; any other name is an error.

    Args:
        source: a folder, or a .csv or .tsv file; its relative paths start at its own folder.
        task: names the modalities, and the label values that a dataset.json must agree with.
        part: "training", or "test" for the imagesTs of an nnU-Net data set.

    Raises:
        DataError: everything that is wrong with the data set, together; or no case was found.
        ValueError: `part` is neither of the two, or "test" for a layout that has no parts.
    """
    source, problems = Path(source), []
    nnunet = (source / "dataset.json").is_file()
    if part != "training" and not (nnunet and part == "test"):
        raise ValueError(f"found part {part!r}, expected 'training', or 'test' for an nnU-Net data set")
    if not source.exists():
        raise DataError("found nothing here, expected a folder or a table", "Correct the path.", path=source)
    if source.is_file():
        cases = _in_table(source, task, problems)
    else:
        cases = _in_nnunet(source, task, part, problems) if nnunet else _in_folders(source, task, problems)
    problems += same_twice(cases)
    if problems:
        raise DataError.together(problems)
    if not cases:
        raise DataError(f"no case was found; {_holding(source)}; expected {LAYOUTS}",
                        "Arrange the files in one of these ways, or describe them in a table.", path=source)
    return sorted(cases, key=lambda case: case.id)


def write_table(cases: Iterable[Case], path: str | Path, task: Task) -> None:
    """List cases in a .csv table that `find_cases` reads, with the absolute paths of their files.

    Raises:
        DataError: a case is held in memory and has no files.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["case", "patient", *task.modalities, "label"])
        table.writeheader()
        for case in cases:
            sources = {**case.images, **({} if case.label is None else {"label": case.label})}
            if not all(isinstance(source, Path) for source in sources.values()):
                raise DataError("its images are held in memory, expected files", "Write it to disk first.", case=case.id)
            files = {name: str(source.absolute()) for name, source in sources.items()}
            table.writerow({"case": case.id, "patient": case.patient, **files})


def same_twice(cases: Iterable[Case]) -> list[DataError]:
    """A problem for each id that two cases share (letter case aside), and for each that share a file."""
    ids: dict[str, Case] = {}
    owners: dict[str, str] = {}
    problems = []
    for case in cases:
        key = unicodedata.normalize("NFC", case.id).casefold()
        if key in ids:
            problems.append(_same_id(ids[key], case))
            continue
        files = {os.path.realpath(path): path for path in _paths(case)}
        if shared := next((file for file in files if file in owners), None):
            problems.append(DataError(f"the cases {owners[shared]!r} and {case.id!r} share this file",
                                      "One case must not have two ids: remove one of them.",
                                      case=case.id, path=files[shared]))
        ids[key] = case
        owners |= dict.fromkeys(files, case.id)
    return problems


def _same_id(one: Case, other: Case) -> DataError:
    how = f"equals {one.id!r} but for letter case" if one.id != other.id else "belongs to two cases"
    first, second = (next(map(str, _paths(case)), "images in memory") for case in (one, other))
    return DataError(f"the id {other.id!r} {how}: {first} and {second}",
                     "Give each case an id of its own, or remove one of them.", case=other.id)


def _paths(case: Case) -> list[Path]:
    return [source for source in case.images.values() if isinstance(source, Path)]


def _holding(source: Path) -> str:
    if source.is_file():
        return "the table has no rows"
    names = [path.name + "/" * path.is_dir() for path in sorted(source.iterdir())]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"the folder holds {', '.join(names[:8]) or 'nothing'}{more}"


def _in_folders(source: Path, task: Task, problems: list[DataError]) -> list[Case]:
    cases = []
    for folder in _folders(source):
        id, names = folder.resolve().name, []
        for path in (path for path in _visible(folder) if _stem(path) and path.is_file()):
            with _collected(problems, id, path):
                names.append((path, _name_in(id, path, task)))
        if names:
            with _collected(problems, id, folder):
                cases.append(_case(id, _by_modality(names, task), task))
    return cases


def _folders(folder: Path, depth: int = 3) -> Iterator[Path]:
    """The folder itself and what lies below it; BraTS 2018 has two floors (`HGG/<case>`)."""
    yield folder
    for child in _visible(folder) if depth else ():
        if child.is_dir():
            yield from _folders(child, depth - 1)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _stem(path: Path) -> str | None:
    """The file's name without .nii or .nii.gz; None for other files."""
    match = re.fullmatch(r"(.+?)\.nii(\.gz)?", path.name, re.IGNORECASE)
    return match and match[1]


def _name_in(case: str, path: Path, task: Task) -> str:
    """What the file calls its modality, behind the name of its folder.

    Raises:
        DataError: the file starts with neither the folder's name nor a modality.
    """
    stem = _stem(path)
    if _is_known(stem, task):
        return stem
    if match := re.fullmatch(rf"{re.escape(case)}[_\-. ]+(.+)", stem, re.IGNORECASE):
        return match[1]
    raise DataError(f"found the file name {path.name!r}, expected '{case}_<modality>' or '<modality>' alone",
                    f"Rename it after its folder, or move it out of {case}; the modalities are "
                    f"{', '.join(task.modalities)}.")


def _is_known(name: str, task: Task) -> bool:
    known = LABEL_NAMES | {modality.lower() for modality in task.modalities}
    return name.lower() in known.union(*SYNONYMS)


def _by_modality(names: Iterable[tuple[Path, str]], task: Task) -> dict[str, Path]:
    """The files by the task's own names for what they hold, and "label".

    Raises:
        DataError: a name is unknown, or two files have the same.
    """
    found, problems = defaultdict(list), []
    for path, name in names:
        with _collected(problems, path=path):
            if own := _resolved(name, task):
                found[own].append(path)
    problems += [DataError(f"found {len(paths)} files, expected one: {', '.join(map(str, paths))}",
                           "Keep the right one and move the others away.", modality=own, path=paths[0])
                 for own, paths in found.items() if len(paths) > 1]
    if problems:
        raise DataError.together(problems)
    return {own: paths[0] for own, paths in found.items()}


def _resolved(name: str, task: Task) -> str | None:
    """The task's own name for a modality, "label", or None for one that the task does not use."""
    if name.lower() in LABEL_NAMES:
        return "label"
    try:
        return task.modality(name)
    except DataError:
        if _is_known(name, task):
            return None
        raise


def _case(id: str, files: Mapping[str, Path], task: Task, patient: str | None = None) -> Case:
    images = {modality: files[modality] for modality in task.modalities if modality in files}
    return Case(id, images, files.get("label"), patient)


def _in_nnunet(source: Path, task: Task, part: str, problems: list[DataError]) -> list[Case]:
    description = _described(source / "dataset.json", task)
    ending, channels = description["file_ending"], description["channel_names"]
    suffix = {"training": "Tr", "test": "Ts"}[part]
    files = defaultdict(list)
    for path in _inside(source / f"images{suffix}"):
        with _collected(problems, path=path):
            id, channel = _channel_of(path, ending, channels)
            files[id].append((path, channels[channel]))
    for path in _inside(source / f"labels{suffix}"):
        if path.name.endswith(ending):
            files[path.name.removesuffix(ending)].append((path, "label"))
    cases = []
    for id, names in files.items():
        with _collected(problems, id):
            cases.append(_case(id, _by_modality(names, task), task))
    return cases


def _inside(folder: Path) -> list[Path]:
    return _visible(folder) if folder.is_dir() else []


def _described(path: Path, task: Task) -> dict:
    """The dataset.json, if it is one of nnU-Net v2 and agrees with the task.

    Raises:
        DataError: it is not, or it does not.
    """
    try:
        description = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise DataError(f"the file is no JSON dictionary ({error})", "Write it again.", path=path) from error
    expected = {"channel_names": dict, "labels": dict, "file_ending": str}
    if any(not isinstance(description.get(key), kind) for key, kind in expected.items()):
        raise DataError(f"found the keys {sorted(description)}, expected {', '.join(expected)} of nnU-Net v2",
                        "Convert the data set to nnU-Net v2, or describe its files in a table.", path=path)
    if description["file_ending"] not in (".nii", ".nii.gz"):
        raise DataError(f"found the file_ending {description['file_ending']!r}, expected .nii or .nii.gz",
                        "Convert the images to NIfTI.", path=path)
    _check_scheme(description["labels"], task, path)
    return description


def _check_scheme(labels: Mapping, task: Task, path: Path) -> None:
    if regions := {name: value for name, value in labels.items() if isinstance(value, list)}:
        raise DataError(f"found overlapping regions as labels, {regions}, expected disjoint classes with one "
                        "value each", "List the classes in dataset.json, and put the regions into the task.",
                        path=path)
    moved = any(name.lower() == own.lower() and value not in values
                for name, value in labels.items() for own, values in task.labels.items())
    if moved or set(labels.values()) != task.values:
        raise DataError(f"found the labels {labels}, expected the values {sorted(task.values)} of "
                        f"{task.scheme}", "Choose or write the task that describes these labels.", path=path)


def _channel_of(path: Path, ending: str, channels: Mapping[str, str]) -> tuple[str, str]:
    match = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name)
    if match is None or str(int(match[2])) not in channels:
        raise DataError(f"found the file name {path.name!r}, expected <case>_0000{ending} with a channel of "
                        f"{dict(channels)}", "Rename the file, or add its channel to dataset.json.")
    return match[1], str(int(match[2]))


def _in_table(path: Path, task: Task, problems: list[DataError]) -> list[Case]:
    rows, columns = _table(path)
    id_column = next((name for name in ("case", "id") if name in columns), None)
    if id_column is None or len(set(columns)) < len(columns):
        raise DataError(f"found the columns {columns}, expected each once, and one called 'case'",
                        "Name the columns so, separated by commas (in a .tsv by tabs).", path=path)
    cases = []
    for number, cells in enumerate(rows, start=2):
        named = dict(zip(columns, cells, strict=False)).get(id_column)
        with _collected(problems, named or f"in row {number}", path):
            if any(cells):
                cases.append(_in_row(path, cells, columns, id_column, task))
    return cases


def _table(path: Path) -> tuple[list[list[str]], list[str]]:
    """The rows of a table, stripped of spaces, and the lower-case names of its columns."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise DataError(f"found a file, expected {LAYOUTS}", "Give the folder, or save the table as .csv.",
                        path=path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the table is not UTF-8 ({error})", "Save it as CSV UTF-8.", path=path) from error
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    return rows[1:], [name.lower() for name in rows[0]] if rows else []


def _in_row(table: Path, cells: list[str], columns: list[str], id_column: str, task: Task) -> Case:
    if len(cells) != len(columns):
        raise DataError(f"found {len(cells)} cells in the row, expected {len(columns)}",
                        "Leave cells empty, not out; quote cells that hold commas.")
    row = {column: cell for column, cell in zip(columns, cells, strict=True) if cell}
    id, patient = row.pop(id_column, ""), row.pop("patient", None)
    # other columns (age, site) may stand in the table, but one that holds images must have a known name
    images = [(table.parent / cell, column) for column, cell in row.items()
              if _is_known(column, task) or _stem(Path(cell))]
    if absent := [path for path, _ in images if not path.is_file()]:
        remedy = "Correct the path in the table; leave the cell of a missing modality empty."
        raise DataError.together(DataError("the file does not exist", remedy, path=path) for path in absent)
    return _case(id, _by_modality(images, task), task, patient)


@contextmanager
def _collected(
    problems: list[DataError], case: str | None = None, path: Path | None = None
) -> Iterator[None]:
    """Keeps the problems of the block for later, with the case and the path where they name none."""
    try:
        yield
    except DataError as error:
        problems += [DataError(one.problem, one.remedy, case=one.case or case, modality=one.modality,
                               path=one.path or path) for one in error.errors]

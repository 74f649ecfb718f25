"""Which layout lies in a place, and its entries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from maml_toolkit.data.layouts import decathlon, description, folders, nnunet, table
from maml_toolkit.data.layouts.entries import Entry, visible
from maml_toolkit.errors import DataError, collected
from maml_toolkit.tasks import Task

KNOWN = ("one folder a case with files <case>_<modality>.nii.gz, nnU-Net raw or Medical Segmentation Decathlon "
         "(dataset.json, imagesTr, labelsTr), or a .csv or .tsv table with a column 'case' and one column a modality")

FOREIGN = (".mha", ".mhd", ".nrrd", ".hdr", ".dcm")
"""How the names of images end that are not NIfTI."""


def has_description(source: Path) -> bool:
    """Whether a dataset.json describes the folder."""
    return (source / description.FILE).is_file()


def find(source: Path, task: Task, part: str, problems: list[DataError]) -> list[Entry]:
    """The entries of a folder or table; what is wrong with single ones is added to `problems`.

    Raises:
        DataError: nothing is there, or nothing that can be understood.
    """
    if not source.exists():
        start = "" if source.is_absolute() else f" It starts at the current folder, {Path.cwd()}."
        raise DataError("found nothing here, expected a folder or a table", f"Correct the path.{start}", path=source)
    if source.is_file() and source.suffix.lower() not in table.ENDINGS:
        raise DataError(f"found a file, expected {KNOWN}", "Give the folder, or save the table as .csv.", path=source)
    if source.is_file():
        return table.find(source, task, problems)
    if not has_description(source):
        return folders.find(source, task, problems)
    described = description.described(source)
    with collected(problems):
        description.check_scheme(described, task)
    return (decathlon if decathlon.fits(described) else nnunet).find(described, task, part, problems)


def nothing_in(source: Path) -> DataError:
    """What to say of a folder or table in which no case was found."""
    if source.is_file():
        return DataError("no case was found; the table has no rows", "Add a row for each case.", path=source)
    names = [path.name + "/" * path.is_dir() for path in visible(source)]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    holds = f"the folder holds {', '.join(names[:8]) or 'nothing'}{more}"
    remedy = "Arrange the files in one of these ways, or describe them in a table."
    if other := next(_foreign(source), None):
        holds += f", and {other.suffix.lower()} files such as {other.relative_to(source)}"
        remedy = (f"Convert the {other.suffix.lower()} files to NIfTI, named <case>/<case>_<modality>.nii.gz"
                  f"{_how(other)}.")
    return DataError(f"no case was found; {holds}; expected {KNOWN}", remedy, path=source)


def _foreign(source: Path) -> Iterator[Path]:
    """Images of other formats; BraTS until 2015 has them on four floors (`HGG/<case>/<scan>/<scan>.mha`)."""
    return (path for folder in folders.floors(source, 4) for path in visible(folder)
            if path.suffix.lower() in FOREIGN and path.is_file())


def _how(path: Path) -> str:
    return "" if path.suffix.lower() == ".dcm" else " (SimpleITK.WriteImage(SimpleITK.ReadImage(old), new) does it)"

"""Series: the volumes that lie below a folder of DICOM files, and their voxels.

A PACS exports one file a slice, under names that say nothing, and a series may hold more than one volume. Every file
is looked at; what is found names what is wrong with it instead of leaving it to the reader of a table.
"""

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maml_toolkit.data.volumes import AIR_HU, Volume
from maml_toolkit.dicom.headers import Slice, decoded, library, opened, read_slice
from maml_toolkit.dicom.identity import digest
from maml_toolkit.dicom.stacks import geometry, stacks
from maml_toolkit.system.errors import DataError, expect_none, warn_of
from maml_toolkit.system.integers import holding
from maml_toolkit.system.machine import progress


@dataclass(frozen=True, eq=False)
class Series:
    """One volume of an examination, described without the identity of the patient.

    Attributes:
        name: digest of its slices, so that the same files have the same name anywhere, and others another.
        case: pseudonym of the examination (study) among those that were found together.
        patient: pseudonym of the patient among those that were found together.
        space: digest of the frame of reference; series that share one tell positions alike. Empty where not known.
        kind: CT, MR or PT.
        description: free text of the scanner.
        has_contrast: a contrast agent is named.
        seconds: when it began, after the first series of the case; None where not known.
        shape: columns, rows, slices.
        affine: 4x4, voxel -> mm (RAS+); None where a problem leaves it unknown.
        problems: why it cannot be converted, each with a remedy.
        files: in the order of the slices.
        uids: digests of the slices' SOPInstanceUIDs, in the same order.
    """

    name: str
    case: str
    patient: str
    space: str
    kind: str
    description: str
    has_contrast: bool
    seconds: float | None
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    problems: tuple[DataError, ...]
    files: tuple[Path, ...] = field(repr=False)
    uids: tuple[str, ...] = field(repr=False)

    @property
    def frame(self) -> Volume:
        """Its grid, without voxels."""
        return Volume(np.broadcast_to(np.uint8(0), self.shape), self.affine)

    def check(self) -> None:
        """Raise what is wrong with it.

        Raises:
            DataError: it has problems.
        """
        expect_none(self.problems)


class Found(list[Series]):
    """Series, and how many files of which kind were left out.

    Attributes:
        skipped: by what they are, such as "not DICOM" and "Enhanced SR Storage".
    """

    skipped: Counter[str]


def find_series(folder: str | Path) -> Found:
    """The volumes of CT, MR and PT below a folder, by case and time; nothing is written.

    Numbers of cases and patients follow no order of names or dates. Patients are told apart by PatientID, or else by
    name and birth date; where neither is left, every study counts as a patient of its own.

    Warns:
        DataWarning: of DICOM files too damaged to say where they belong.

    Raises:
        DataError: no such folder, or no image in it.
        ImportError: pydicom is not installed.
    """
    library("pydicom")
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("found no folder here, expected one with DICOM files",
                        "Correct the path: it is the folder to which the PACS exported.", path=folder)
    by_series: dict[str, dict[tuple, Slice]] = defaultdict(dict)
    skipped: Counter[str] = Counter()
    damaged = []
    for path in progress(files_below(folder), desc="reading headers", unit="file"):
        try:
            one = read_slice(path)
        except DataError as error:
            damaged.append(error)
            continue
        if isinstance(one, str):
            skipped[one] += 1
            continue
        copies, key = by_series[one.series], (one.uid, one.position, *one.marks.values())
        skipped["copies of a file"] += key in copies
        if key not in copies or copies[key].problems:
            copies[key] = one
    warn_of(damaged)
    if not by_series:
        listed = [*counts(+skipped), *[f"{len(damaged)} damaged"] * bool(damaged)]
        raise DataError(f"found no CT, MR or PT image among {skipped.total() + len(damaged)} files"
                        + (f" ({', '.join(listed)})" if listed else ""),
                        "Give the folder that the PACS exported to; unpack archives first.", path=folder)
    found = Found(_named([stack for held in by_series.values() for stack in stacks([*held.values()])]))
    found.skipped = +skipped
    return found


def counts(skipped: Counter[str]) -> list[str]:
    """How many files of each kind, the most first, as one would say it."""
    return [f"{count} {what}" for what, count in skipped.most_common()]


def files_below(folder: str | Path) -> list[Path]:
    """Every file of a folder and the folders in it, sorted."""
    return sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names)


def read_series(series: Series) -> Volume:
    """The voxels, in HU or whatever unit slope and intercept of each slice lead to.

    Padding (PixelPaddingValue) in CT becomes air, -1024 HU. The array is (columns, rows, slices), int16 where every
    value is whole and fits, else float32.

    Raises:
        DataError: the series has problems, or its files are gone or cannot be decoded.
    """
    series.check()
    array = np.empty(series.shape, np.float32, order="F")
    is_whole = True
    for index, path in enumerate(series.files):
        values = _values(path, series)
        is_whole = is_whole and bool((values == np.rint(values)).all() and np.abs(values).max() < 2**24)
        array[..., index] = values.T
    fits = is_whole and holding(float(array.min()), float(array.max()), np.int16) == np.int16
    return Volume(array.astype(np.int16) if fits else array, series.affine)


def _named(found: Sequence[list[Slice]]) -> list[Series]:
    cases = _numbered("case", (stack[0].study for stack in found))
    patients = _numbered("patient", (stack[0].patient for stack in found))
    times: dict[str, list[float]] = defaultdict(list)
    for one in itertools.chain(*found):
        times[one.study] += [] if one.seconds is None else [one.seconds]
    series = []
    for name, stack in zip(_names(found), found, strict=True):
        affine, problems = geometry(stack)
        first, start = stack[0], min((one.seconds for one in stack if one.seconds is not None), default=None)
        series.append(Series(
            name=name, case=cases[first.study], patient=patients[first.patient],
            space=first.space if len({one.space for one in stack}) == 1 else "",
            kind=first.kind, description=first.description, has_contrast=any(one.has_contrast for one in stack),
            seconds=None if start is None else start - min(times[first.study]),
            shape=(first.columns, first.rows, first.frames if first.frames > 1 else len(stack)), affine=affine,
            problems=(*_of_slices(stack), *problems), files=tuple(one.path for one in stack),
            uids=tuple(one.uid for one in stack)))
    return sorted(series, key=lambda one: (one.case, one.seconds is None, one.seconds, one.name))


def _names(found: Sequence[list[Slice]]) -> list[str]:
    """What each series is called in a table: a digest of its slices, and of more where others have the same slices."""
    slices = [tuple(sorted(one.uid for one in stack)) for stack in found]
    often = Counter(slices)
    names = [digest(*uids, *([first.series, first.position, *first.marks.values()] if often[uids] > 1 else []))
             for uids, (first, *_) in zip(slices, found, strict=True)]
    return [f"s{name}" if re.fullmatch(r"\d+(e\d+)?", name) else name for name in names]    # else a number to Excel


def _numbered(word: str, digests: Iterable[str]) -> dict[str, str]:
    """Pseudonyms in the order of digests, which is no order of names or dates."""
    return {held: f"{word}_{number:03d}" for number, held in enumerate(sorted(set(digests)), start=1)}


def _of_slices(stack: Sequence[Slice]) -> list[DataError]:
    """The problems of single slices, each kind once, with the first file that has it."""
    kinds: dict[tuple[str, str], list[DataError]] = defaultdict(list)
    for one in stack:
        for error in one.problems:
            kinds[error.problem, error.remedy].append(error)
    return [DataError(f"{problem} (in {len(errors)} of {len(stack)} slices)" if len(stack) > 1 else problem, remedy,
                      path=errors[0].path) for (problem, remedy), errors in kinds.items()]


def _values(path: Path, series: Series) -> np.ndarray:
    """One slice, (rows, columns), float64."""
    again = "Find the series again, and copy the file again from where it came from."
    with decoded("its voxels cannot be decoded", again, path):
        header = opened(path)
        stored = header.pixel_array
        slope, intercept = (usual if header.get(name) is None else float(header.get(name))
                            for name, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)))
    if stored.shape != series.shape[1::-1] or not np.isfinite([slope, intercept]).all() or slope == 0:
        raise DataError(f"found {stored.shape} voxels with slope {slope:g} and intercept {intercept:g}, expected "
                        f"{series.shape[1::-1]} and finite numbers, a slope other than 0", again, path=path)
    values = stored * slope + intercept
    padding = [header.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if series.kind == "CT" and padding[0] is not None:       # scanners write negative ones as 65536 minus it
        ends = np.array([one for one in padding if one is not None], np.int64).astype(stored.dtype)
        values[(stored >= ends.min()) & (stored <= ends.max())] = AIR_HU
    return values

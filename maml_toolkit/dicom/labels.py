"""What somebody drew on a series, DICOM SEG or RTSTRUCT, as a label map on its grid, by names of segments and ROIs.

A voxel belongs to an ROI where a ray from its centre crosses the contours on its slice an odd number of times. So a
contour within another one is a hole, and so is what a keyhole cuts out: its two edges lie on each other and cancel. A
contour that stands twice in an ROI, as some exports write it, is one.

References:
    DICOM PS3.3, A.51 Segmentation IOD, C.8.8.6 ROI Contour Module (keyhole, CLOSEDPLANAR_XOR).
    https://dicom.nema.org/medical/dicom/current/output/chtml/part03/
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine

from maml_toolkit.data.resampling import LPS
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.dicom.headers import decoded, opened
from maml_toolkit.dicom.identity import digest
from maml_toolkit.dicom.series import Series, files_below
from maml_toolkit.system.errors import DataError, collected, expect_none, nearest, warn_of
from maml_toolkit.system.machine import progress

STRUCTURES, *SEGMENTATIONS = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("481.3", "66.4", "66.7"))
"""The SOP classes of RTSTRUCT, and of SEG with a plane for each segment or with label maps."""

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contours that have an inside."""

LARGE = (0x30060050, 0x7FE00010)
"""The tags of ContourData and PixelData."""

OFF_GRID = 0.2
"""How far, in voxels, rounded positions may lie beside the grid of the series."""

_AGAIN = "Copy the file again from where it came from."
_DRAWN_ON = "Give the series that it was drawn on, or have it put onto the slices of this one."

Part = tuple[int, tuple, Any]
"""Number of a segment or ROI, a place in the grid of the series (columns, rows, slices), and which voxels of it."""


def read_label(path: str | Path, series: Series, task: Task, names: Mapping[str, str] | None = None) -> Volume:
    """The label map that a DICOM SEG or RTSTRUCT draws on a series.

    A voxel in several classes is of the one that comes last in the task: a tumour in a liver is a tumour.

    Args:
        path: of the file.
        series: on whose slices it was drawn.
        task: whose classes the segments or ROIs are; letter case and what is no letter or digit do not count.
        names: name of a segment or ROI -> the class that it is; "" for one that is none.

    Returns:
        The values of the task's label files, on the grid of the series.

    Warns:
        DataWarning: voxels in several classes, or an ROI that is drawn on every second slice or fewer.

    Raises:
        DataError: the file cannot be read or is neither, a name is no class, it was drawn on other images, or contours
            or frames do not lie on the slices.
        ImportError: pydicom is not installed.
    """
    series.check()
    try:
        found = _checked(path, series)
        return Volume(task.decode(_label(found, series, task, names or {})), series.affine)
    except DataError as error:
        raise error.at(path=path) from error.__cause__
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:         # elements that are not there
        raise DataError(f"found no whole drawing in it ({type(error).__name__})", _AGAIN, path=path) from error


def labels_in(place: str | Path, cases: Mapping[str, Mapping[str, Series]], task: Task,
              names: Mapping[str, str] | None = None) -> dict[str, Volume]:
    """The label of each case among the files of a folder, told by the images that they refer to.

    Args:
        place: a file, or a folder, with SEG and RTSTRUCT among other files.
        cases: case -> modality -> its series. Of several that a file refers to it is that of the task's `label_on`.
        task, names: as for `read_label`.

    Raises:
        DataError: no such file; or what is wrong with them, together: as for `read_label`, a file that refers to none
            of the series, or two of one case.
    """
    problems: list[DataError] = []
    labels: dict[str, Volume] = {}
    files = [Path(place)] if Path(place).is_file() else files_below(place)
    for path in filter(_is_drawing, progress(files, desc="looking for labels", unit="file")):
        with collected(problems, path=path):
            case, series = _owner(_opened(path)[1], cases, task)
            if case in labels:
                raise DataError("found two drawings of one case, expected one", "Move the other away.", case=case)
            labels[case] = read_label(path, series, task, names)
    if not labels and not problems:
        raise DataError("found neither DICOM SEG nor RTSTRUCT", "Give the file or the folder with it.", path=place)
    expect_none(problems)
    return labels


def inside(polygons: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Which pixels (columns, rows) have their centre within an odd number of polygons.

    Args:
        polygons: corners, (n, 2) columns and rows; the first pixel's centre is (0, 0). Each is closed by itself.

    >>> inside([np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]])], (4, 3)).astype(int).T.tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    crossed, rows = np.zeros((shape[0] + 1, shape[1]), np.uint8), np.arange(shape[1])      # 255 and one more are even
    for polygon in polygons:
        ends = np.stack([polygon, np.roll(polygon, -1, axis=0)], axis=1)
        is_down = ends[:, 0, 1] > ends[:, 1, 1]
        ends[is_down] = ends[is_down, ::-1]             # so that both edges of a keyhole cross at the same place
        (x, y), (to_x, to_y) = ends[:, 0].T, ends[:, 1].T
        edge, row = np.nonzero((y[:, None] <= rows) & (rows < to_y[:, None]))
        at = x[edge] + (row - y[edge]) * (to_x - x)[edge] / (to_y - y)[edge]
        np.add.at(crossed, (np.clip(np.ceil(at), 0, shape[0]).astype(int), row), 1)
    return np.cumsum(crossed, axis=0, dtype=np.uint8)[:-1] % 2 == 1


def _opened(path: str | Path) -> tuple[Any, set[str]]:
    """A file and digests of the images that it refers to.

    Raises:
        DataError: it cannot be read, or is no drawing.
    """
    with decoded("the file cannot be read", _AGAIN):
        if (kind := _kind(path)) not in (STRUCTURES, *SEGMENTATIONS):
            raise DataError(f"found {getattr(kind, 'name', 'no DICOM')}, expected DICOM SEG or RTSTRUCT",
                            "Give the file with what was drawn.")
        found = opened(path)
        return found, {digest(one.value) for one in _elements(found) if one.keyword == "ReferencedSOPInstanceUID"}


def _is_drawing(path: Path) -> bool:
    with suppress(Exception):                          # a damaged header of whatever else lies there
        return _kind(path) in (STRUCTURES, *SEGMENTATIONS)
    return False


def _kind(path: str | Path) -> Any:
    """The SOP class of a file; None where that is no DICOM."""
    with Path(path).open("rb") as file:
        is_dicom = file.read(132).endswith(b"DICM")
    return opened(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).get("SOPClassUID") if is_dicom else None


def _elements(dataset: Any) -> Iterator[Any]:
    """All elements, those of items of sequences too, but for the voxels and contours, which would take long."""
    for tag in [*dataset.keys()]:
        if tag not in LARGE:
            yield (element := dataset[tag])
            for item in element.value if element.VR == "SQ" else ():
                yield from _elements(item)


def _owner(images: set[str], cases: Mapping[str, Mapping[str, Series]], task: Task) -> tuple[str, Series]:
    for case, series in cases.items():
        on = {name: one for name, one in series.items() if images.intersection(one.uids)}
        if len(on) == 1 or task.label_on in on:
            return case, on.get(task.label_on) or next(iter(on.values()))
        if on:
            raise DataError(f"it refers to {', '.join(on)}, expected one of them, or {task.label_on}",
                            "Say in the task on which the label was drawn (label_on).", case=case)
    raise DataError("it refers to none of the series that were given a modality",
                    "Give a modality to the series that it was drawn on, or move the file away.")


def _checked(path: str | Path, series: Series) -> Any:
    """The drawing, if it refers to the images of the series or lies in their frame of reference."""
    found, images = _opened(path)
    frames = {str(one.value) for one in _elements(found) if one.keyword.endswith("FrameOfReferenceUID")}
    own = opened(series.files[0], specific_tags=["FrameOfReferenceUID"], stop_before_pixels=True)
    if not images.intersection(series.uids) and str(own.get("FrameOfReferenceUID")) not in frames:
        raise DataError("it refers to other images than those of the series, in another frame of reference", _DRAWN_ON)
    return found


def _label(found: Any, series: Series, task: Task, names: Mapping[str, str]) -> np.ndarray:
    """The class of each voxel."""
    if found.SOPClassUID == STRUCTURES:                # planning systems list ROIs without contours too
        rois = {int(one.ReferencedROINumber): one.ContourSequence for one in found.ROIContourSequence
                if one.get("ContourSequence")}
        drawn = {int(one.ROINumber): str(one.ROIName) for one in found.StructureSetROISequence
                 if int(one.ROINumber) in rois}
        numbers = _classes(drawn, task, names)
        parts = (part for number in numbers for part in _of_contours(rois[number], number, drawn[number], series))
    else:
        numbers = _classes({int(one.SegmentNumber): str(one.SegmentLabel) for one in found.SegmentSequence}, task,
                           names)
        parts = _of_frames(found, series)
    masks = {index: np.zeros(series.shape, bool, order="F") for index in sorted(set(numbers.values()))}
    for number, place, mask in parts:
        if number in numbers:
            masks[numbers[number]][place] |= mask
    classes, several = np.zeros(series.shape, np.uint8, order="F"), 0
    for index, mask in masks.items():
        several += np.count_nonzero((classes > 0) & mask)
        np.copyto(classes, index, where=mask, casting="unsafe")
    if several:
        warn_of([DataError(f"{several} voxels are in several classes; they are taken for the last of them in the order "
                           f"{', '.join(task.class_names[1:])}", "Look at the label.")])
    return classes


def _classes(drawn: Mapping[int, str], task: Task, names: Mapping[str, str]) -> dict[int, int]:
    """Number of a segment or ROI -> its class, without those that are none."""
    def plain(name: str) -> str:
        return re.sub(r"[\W_]+", " ", name).strip().casefold()

    own = {plain(name): index for index, name in enumerate(task.class_names)}
    given, listed = {plain(name): one for name, one in names.items()}, ", ".join(task.class_names[1:])
    meant = {number: plain(given.get(plain(name), name)) for number, name in drawn.items()}
    if unknown := [f"{drawn[number]!r}{nearest(name, own)}" for number, name in meant.items()
                   if name and name not in own]:
        example = task.class_names[1]
        raise DataError(f"found the names {', '.join(unknown)} of what was drawn, expected the classes {listed}",
                        f'Say which class each is, or that it is none: names={{"GTV": "{example}", "BODY": ""}}, or '
                        f"--name GTV={example} --name BODY= for the command.")
    found = {number: own[name] for number, name in meant.items() if name and own[name]}
    if not found:
        raise DataError(f"found {', '.join(drawn.values()) or 'nothing drawn'}, expected some of the classes {listed}",
                        "Say which class each is.")
    return found


def _of_frames(found: Any, series: Series) -> Iterator[Part]:
    with decoded("its frames cannot be decoded", _AGAIN):
        frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
        shared, groups = found.SharedFunctionalGroupsSequence[0], [*found.PerFrameFunctionalGroupsSequence]
    for frame, group in zip(frames, groups, strict=True):
        item = lambda name, group=group: (group.get(name) or shared.get(name))[0]  # noqa: E731
        to_voxels = _to_voxels(item, series, frame.shape)
        if found.SegmentationType == "LABELMAP":
            masks = {int(number): frame == number for number in np.unique(frame) if number}
        else:                                          # half of the highest value and more, where it has fractions
            number = int(item("SegmentIdentificationSequence").ReferencedSegmentNumber)
            masks = {number: 2 * frame.astype(int) >= int(found.get("MaximumFractionalValue", 1))}
        for number, mask in masks.items():
            row, column = np.nonzero(mask)
            place = to_voxels @ np.stack([column, row, np.ones_like(row)])
            if len(row) and (place.min() < 0 or (place.max(axis=1) >= series.shape).any()):
                raise DataError("found voxels of segments outside of the series", _DRAWN_ON)
            yield number, tuple(place), True


def _to_voxels(item: Any, series: Series, size: tuple[int, int]) -> np.ndarray:
    """From (column, row, 1) of a frame to a voxel of the series: whole numbers."""
    row, column = np.reshape(np.array(item("PlaneOrientationSequence").ImageOrientationPatient, float), (2, 3))
    between_rows, between_columns = map(float, item("PixelMeasuresSequence").PixelSpacing)
    lps = np.eye(4)[:, [0, 1, 3]]
    lps[:3] = np.column_stack([row * between_columns, column * between_rows,
                               np.array(item("PlanePositionSequence").ImagePositionPatient, float)])
    found = (np.linalg.inv(series.affine) @ LPS @ lps)[:3]
    whole = np.rint(found)
    if (np.abs(found - whole) * [*size[::-1], 1]).max() > OFF_GRID or (np.abs(whole[:, :2]).sum(axis=0) != 1).any():
        raise DataError("found frames that do not lie on the slices of the series, voxel on voxel", _DRAWN_ON)
    return whole.astype(int)


def _of_contours(contours: Sequence[Any], number: int, name: str, series: Series) -> Iterator[Part]:
    slices: dict[int, dict[bytes, np.ndarray]] = defaultdict(dict)
    for contour in contours:
        if contour.ContourGeometricType not in CLOSED:
            raise DataError(f"found a contour of the kind {contour.ContourGeometricType} in {name}, expected "
                            f"{' or '.join(CLOSED)}", f'Say that it is no class: --name "{name}=".')
        points = apply_affine(np.linalg.inv(series.affine) @ LPS, _points(contour))
        index = round(float(points[:, 2].mean()))
        if np.abs(points[:, 2] - index).max() > OFF_GRID or not 0 <= index < series.shape[2]:
            raise DataError(f"found a contour of {name} that does not lie on a slice of the series", _DRAWN_ON)
        slices[index][points.tobytes()] = points[:, :2]
    if len(slices) > 2 and (step := np.diff(sorted(slices)).min()) > 1:
        warn_of([DataError(f"{name} is drawn on every {step}. slice or fewer; those between stay empty",
                           "Have the contours interpolated where they were drawn.")])
    yield from ((number, (..., index), inside([*own.values()], series.shape[:2])) for index, own in slices.items())


def _points(contour: Any) -> np.ndarray:
    """Positions in mm (LPS), (n, 3); from the text of the file, since pydicom makes an object of each number."""
    text = contour.get_item(LARGE[0]).value
    try:
        return np.reshape(np.array(text.split(b"\\") if isinstance(text, bytes) else text, float), (-1, 3))
    except ValueError:
        raise DataError("found a contour whose positions are no triples of numbers", _AGAIN) from None

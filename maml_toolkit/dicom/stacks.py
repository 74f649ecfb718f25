"""Which slices of a series make one volume, in which order, and where it lies.

    height = position · normal,   normal = direction of a row × direction of a column

Slices are ordered by height and by nothing else; the distance of slices is that of their positions. File names,
InstanceNumber, SliceThickness and SpacingBetweenSlices are not looked at.

References:
    DICOM PS3.3, C.7.6.2 Image Plane Module. https://dicom.nema.org/medical/dicom/current/output/chtml/part03/
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from maml_toolkit.data.resampling import LPS
from maml_toolkit.dicom.headers import MARKS, Slice
from maml_toolkit.system.errors import DataError, few

SAME_HEIGHT_MM = 0.01
"""Slices nearer than this lie at the same position."""

TILT_DEGREES = 0.1
"""Largest angle between the normal and the way from slice to slice."""

ROUNDING_MM = 0.101
"""How far rounding moves a slice against the first and the last: positions are often written with one decimal."""


def stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices of one series as volumes, each in the order of position.

    Overviews, other orientations, matrices and voxel sizes are set apart; so are acquisitions that share positions,
    by the first of MARKS, or the first few, that tell all of them apart.
    """
    return [_ordered(stack) for alike in _of_one_frame(slices) for stack in _separated(alike)]


def geometry(stack: Sequence[Slice]) -> tuple[np.ndarray | None, list[DataError]]:
    """The affine (4x4, from column, row and slice to mm, RAS+) of an ordered stack, or what is wrong with it."""
    if any(None in (one.position, one.orientation, one.spacing_mm) or one.frames > 1 for one in stack):
        return None, []                                # the slices themselves say it
    if len(stack) == 1:
        return None, [DataError("found one slice, expected a volume of at least two",
                                "Leave it out; it is a localizer, or a picture made from another series.")]
    problem = _repeated(stack) or _gaps(stack) or _tilted(stack)
    return (None, [problem]) if problem else (_affine(stack), [])


def _affine(stack: Sequence[Slice]) -> np.ndarray:
    orientation = np.reshape(stack[0].orientation, (2, 3))
    row, column = orientation / np.linalg.norm(orientation, axis=1, keepdims=True)
    first, last = np.array(stack[0].position), np.array(stack[-1].position)
    between_rows, between_columns = stack[0].spacing_mm
    lps = np.eye(4)
    lps[:3] = np.column_stack([row * between_columns, column * between_rows, (last - first) / (len(stack) - 1), first])
    return LPS @ lps


def _ordered(stack: Sequence[Slice]) -> list[Slice]:
    return [stack[index] for index in np.argsort(_heights(stack), kind="stable")]


def _normal(one: Slice) -> np.ndarray:
    normal = np.cross(one.orientation[:3], one.orientation[3:])
    return normal / (np.linalg.norm(normal) or 1)


def _heights(stack: Sequence[Slice]) -> np.ndarray:
    """Along the normal of the first: noise in the others would turn them about the origin; numbers where not known."""
    if stack[0].position is None or stack[0].orientation is None:
        return np.arange(float(len(stack)))
    return np.array([one.position for one in stack]) @ _normal(stack[0])


def _of_one_frame(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one matrix, orientation and voxel size, up to rounding."""
    alike: list[list[Slice]] = []
    for one in slices:
        for group in alike:
            if _is_alike(one, group[0]):
                group.append(one)
                break
        else:
            alike.append([one])
    return alike


def _is_alike(one: Slice, other: Slice) -> bool:
    def exact(which: Slice):
        return (which.kind, which.rows, which.columns, which.frames, which.is_scout, which.position is None,
                which.orientation is None, which.spacing_mm is None)

    return exact(one) == exact(other) and np.allclose(one.orientation or 0, other.orientation or 0, atol=1e-3) and \
        np.allclose(one.spacing_mm or 0, other.spacing_mm or 0, rtol=1e-3)


def _separated(stack: list[Slice]) -> list[list[Slice]]:
    times = _times_repeated(stack)
    if times == 1:
        return _interleaved(stack) or [stack]
    by_marks = (_by(stack, names) for count in (1, 2, 3) for names in itertools.combinations(MARKS, count))
    for groups in itertools.chain(by_marks, [_by_time(stack, times)]):
        if len(groups) == times and all(_times_repeated(group) == 1 for group in groups):
            return groups
    return [stack]


def _by(stack: Sequence[Slice], names: Sequence[str]) -> list[list[Slice]]:
    groups: dict[tuple[str, ...], list[Slice]] = defaultdict(list)
    for one in stack:
        groups[tuple(one.marks[name] for name in names)].append(one)
    return list(groups.values())


def _times_repeated(stack: Sequence[Slice]) -> int:
    """How many slices share a position, at most."""
    is_new = np.diff(np.sort(_heights(stack)), prepend=-np.inf) > SAME_HEIGHT_MM
    return int(np.bincount(np.cumsum(is_new)).max())


def _by_time(stack: Sequence[Slice], times: int) -> list[list[Slice]]:
    """The n-th slices of all positions as n-th volume, where each volume was over before the next began."""
    if len(stack) % times or any(one.seconds is None for one in stack):
        return []
    ordered = _ordered(stack)
    places = [sorted(ordered[i:i + times], key=lambda one: one.seconds) for i in range(0, len(stack), times)]
    volumes = [list(volume) for volume in zip(*places, strict=True)]
    is_apart = all(max(one.seconds for one in volume) < min(one.seconds for one in following)
                   for volume, following in itertools.pairwise(volumes))
    return volumes if is_apart else []


def _interleaved(stack: Sequence[Slice]) -> list[list[Slice]] | None:
    """Acquisitions of the same region whose slices lie between each other's.

    In MR, slices with numbers of their own may belong together (odd ones first, then even ones), so evenly spaced ones
    are left as they are.
    """
    if stack[0].position is None or (stack[0].kind != "CT" and not _gaps(stack)):
        return None
    for name in ("AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers", "ImageType"):
        groups = _by(stack, [name])
        if len(groups) > 1 and all(len(group) > 2 and not _gaps(group) for group in groups):
            heights = [_heights(group) for group in groups]
            if max(one.min() for one in heights) < min(one.max() for one in heights):
                return groups
    return None


def _repeated(stack: Sequence[Slice]) -> DataError | None:
    heights = _heights(stack)
    twice = heights[1:][np.diff(heights) <= SAME_HEIGHT_MM]
    if not len(twice):
        return None
    return DataError(f"found {len(twice)} slices at a position that has one already, at {_listed(twice)} mm along "
                     "the normal, expected each position once; nothing in the headers tells the acquisitions apart",
                     "Export each acquisition as its own series, or move the slices that are meant elsewhere.")


def _gaps(stack: Sequence[Slice]) -> DataError | None:
    heights = np.sort(_heights(stack))
    steps = np.diff(heights)
    step = float(np.median(steps)) if len(steps) else 0.0
    even = np.linspace(heights[0], heights[-1], len(heights))
    if not len(steps) or np.abs(heights - even).max() <= max(0.05 * step, min(0.2 * step, ROUNDING_MM)):
        return None
    lacking = np.rint(steps / step).astype(int) - 1
    absent = [heights[i] + step * n for i, count in enumerate(lacking) for n in range(1, count + 1)]
    if absent and len(absent) <= len(stack) and (np.abs(steps / step - lacking - 1) <= 0.2).all():
        return DataError(f"{len(absent)} slices are missing: found none at {_listed(absent)} mm along the normal, "
                         f"expected one every {step:.4g} mm",
                         "Export the series again and copy all of its files; a gap cannot be filled in.")
    return DataError(f"found slices {steps.min():.4g} to {steps.max():.4g} mm apart, expected one distance",
                     "Ask for a reconstruction of one distance; of two in one series, give each its own folder.")


def _tilted(stack: Sequence[Slice]) -> DataError | None:
    positions = np.array([one.position for one in stack])
    way, normal = positions[-1] - positions[0], _normal(stack[0])
    angle = float(np.degrees(np.arctan2(np.linalg.norm(np.cross(way, normal)), way @ normal)))
    if angle > TILT_DEGREES:
        return DataError(f"the gantry was tilted: the slices are stacked {angle:.1f} degrees away from their normal, "
                         f"expected at most {TILT_DEGREES}; as a box of voxels the body would be sheared",
                         "Convert the series with dcm2niix, which straightens it, and give the NIfTI file.")
    straight = positions[0] + np.linspace(0, 1, len(stack))[:, None] * way
    off = float(np.linalg.norm(positions - straight, axis=1).max())
    if off > max(0.05 * np.linalg.norm(way) / (len(stack) - 1), ROUNDING_MM):
        return DataError(f"found slices up to {off:.3g} mm beside the line from the first to the last, expected all on "
                         "it", "The table or the field of view was moved during the scan: give each part as a series.")
    return None


def _listed(heights: Sequence[float] | np.ndarray) -> str:
    return few([f"{height:.4g}" for height in heights], 6)

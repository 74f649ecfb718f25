"""A label map on another grid, in which small lesions survive.

    refined grid: every new voxel is cut into samples, so close that none of the old voxels is missed
    -> each sample takes the class of the old voxel in which it lies; the class of most samples gets the new voxel
    -> a connected part of a class that would be gone gets the voxel of which it fills most
    -> where the vote was close, voxels go to the smaller class until it has the volume that it had

On an equal or a finer grid a voxel is one sample: the nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from maml_toolkit.data.resampling import is_one_grid, resampled

CLOSE = 0.25
"""Of a voxel: a class that fills so much less of it than the winner may still get it, for the sake of its volume."""

TURNED = 2
"""Samples of a new voxel along an axis under a transform: none of the old voxels is missed, however they are turned."""

AT_ONCE = 2**25
"""Samples that are held at the same time."""


def resampled_label(values: np.ndarray, affine: np.ndarray, shape: Sequence[int], target: np.ndarray,
                    transform: sitk.Transform | None = None) -> tuple[np.ndarray, dict[int, int]]:
    """A label map (integers, 0 for the background) on another grid; the same array where the grids agree.

    Args:
        affine, target: of the values, and of the grid to which they go; 4x4, voxel to mm (RAS+).
        shape: of the new grid.
        transform: from points of the new grid to points of the values (mm, LPS+); none moves when left out.

    Returns:
        The label map, and value -> number of its connected parts that are gone all the same: they lie outside the
        grid, or would have to share their only voxel.
    """
    if transform is None and is_one_grid(values.shape, affine, shape, target):
        return values, {}
    kinds = np.unique(values)
    kinds = np.concatenate([kinds[kinds == 0], kinds[kinds != 0]]) if (kinds == 0).any() else np.append(0, kinds)
    result = np.zeros(tuple(int(n) for n in shape), values.dtype.newbyteorder("="))
    if len(kinds) == 1:
        return result, {}
    box = ndimage.find_objects((values != 0).astype(np.uint8))[0]
    parts, codes = _parts(values[box], kinds)
    inside = affine @ nibabel.affines.from_matvec(np.eye(3), [one.start for one in box])
    region = _region(parts.shape, inside, shape, target) if transform is None else tuple(map(slice, result.shape))
    near = target @ nibabel.affines.from_matvec(np.eye(3), [one.start or 0 for one in region])
    alone = np.zeros(result[region].shape, np.int32)
    vote = _vote(parts, inside, alone, near, transform)
    winners, is_held = _decided(vote, codes, len(kinds))
    flat = codes[alone.reshape(-1)]
    flat[vote.voxels] = winners
    result[region] = kinds[flat].reshape(alone.shape)
    gone = np.bincount(codes[1:][~is_held[1:]], minlength=len(kinds))
    return result, {int(kinds[code]): int(gone[code]) for code in np.flatnonzero(gone)}


def _region(shape: Sequence[int], affine: np.ndarray, new_shape: Sequence[int],
            target: np.ndarray) -> tuple[slice, ...]:
    """The part of the new grid in which an array may be seen; at least a voxel."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * shape - 0.5
    places = nibabel.affines.apply_affine(np.linalg.inv(target) @ affine, corners)
    first = np.clip(np.floor(places.min(axis=0)), 0, np.subtract(new_shape, 1)).astype(int)
    last = np.clip(np.ceil(places.max(axis=0)), first, np.subtract(new_shape, 1)).astype(int)
    return tuple(map(slice, first.tolist(), (last + 1).tolist()))


def with_every_part(answer: np.ndarray, labels: np.ndarray, affine: np.ndarray, target: np.ndarray) -> np.ndarray:
    """An answer on a grid that was interpolated from logits on another, with the lesions that this has flattened away.

    Args:
        answer: class of each voxel, uint8, on the grid of `target`.
        labels: the answer on the grid of the logits, that of `affine`.
    """
    if is_one_grid(labels.shape, affine, answer.shape, target):
        return answer
    parts, codes = _parts(labels, np.arange(int(labels.max()) + 1))
    there = resampled(parts, affine, answer.shape, target, nearest=True)
    is_seen = np.zeros(len(codes), bool)
    is_seen[0], is_seen[there[codes[there] == answer]] = True, True
    if is_seen.all():
        return answer
    flattened = np.where(is_seen[parts], 0, labels).astype(labels.dtype)
    carried, _ = resampled_label(flattened, affine, answer.shape, target)
    return np.where(carried > 0, carried, answer).astype(answer.dtype)


def _parts(values: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected parts of every class, numbered from 1, and the class of each: its place among the kinds."""
    parts, codes = np.zeros(values.shape, np.int32), [np.zeros(1, np.int32)]
    for code, kind in enumerate(kinds[1:], start=1):
        found, count = ndimage.label(values == kind, np.ones((3, 3, 3)))
        first = sum(map(len, codes)) - 1
        parts[found > 0] = found[found > 0] + first
        codes.append(np.full(count, code, np.int32))
    return parts, np.concatenate(codes)


@dataclass
class _Vote:
    """The new voxels in which more than one part, or the background, has samples.

    Attributes:
        voxels: their places in the flat new grid.
        row, part, count: so many samples of this voxel lie in this part; sorted by row; without the background.
        samples: in a voxel.
        whole: samples of each part in voxels that it has alone.
    """

    voxels: np.ndarray
    row: np.ndarray
    part: np.ndarray
    count: np.ndarray
    samples: int
    whole: np.ndarray


def _vote(parts: np.ndarray, affine: np.ndarray, result: np.ndarray, target: np.ndarray,
          transform: sitk.Transform | None) -> _Vote:
    """Writes into the result the voxels that one part has alone; returns the others."""
    cuts = np.maximum(_cuts(np.linalg.inv(affine) @ target), 1 if transform is None else TURNED)
    samples, last = int(np.prod(cuts)), int(parts.max()) + 1
    thick = max(1, AT_ONCE // (samples * result.shape[1] * result.shape[2]))
    keys, counts = [], []
    for start in range(0, result.shape[0], thick):
        slab = result[start:start + thick]
        fine = target @ nibabel.affines.from_matvec(np.diag(1 / cuts), (1 / cuts - 1) / 2 + [start, 0, 0])
        seen = resampled(parts, affine, (slab.shape * cuts).tolist(), fine, transform=transform, nearest=True)
        cut = seen.reshape([n for pair in zip(slab.shape, cuts, strict=True) for n in pair])
        cut = cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, samples)
        is_mixed = (cut != cut[:, :1]).any(axis=1)
        slab.reshape(-1)[:] = np.where(is_mixed, 0, cut[:, 0])
        found, many = np.unique(np.flatnonzero(is_mixed)[:, None] * last + cut[is_mixed], return_counts=True)
        keys.append((found // last + start * result[0].size) * last + found % last)
        counts.append(many)
    keys, counts = np.concatenate(keys), np.concatenate(counts)
    voxels, row = np.unique(keys // last, return_inverse=True)
    is_part = keys % last > 0
    whole = np.bincount(result.reshape(-1), minlength=last) * samples
    return _Vote(voxels, row[is_part], (keys % last)[is_part], counts[is_part], samples, whole)


def _cuts(move: np.ndarray) -> np.ndarray:
    """Samples of a new voxel along its axes, so that along every old axis neighbours are at most a voxel apart."""
    steps, cuts = np.abs(move[:3, :3]), np.ones(3, int)
    while (far := (steps / cuts).sum(axis=1)).max() > 1 + 1e-3:
        cuts[(steps / cuts)[far.argmax()].argmax()] += 1
    return cuts


def _decided(vote: _Vote, codes: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The class of each voxel of the vote, and which parts have one."""
    rows = len(vote.voxels)
    table = np.bincount(vote.row * classes + codes[vote.part], vote.count, rows * classes).reshape(rows, classes)
    table[:, 0] = vote.samples - table[:, 1:].sum(axis=1)
    sizes = vote.whole + np.bincount(vote.part, vote.count, len(codes))
    sizes[0] = 0
    volumes = np.bincount(codes, sizes, classes)
    volumes[0] = np.inf
    large_first = np.argsort(-volumes)
    winners = large_first[table[:, large_first].argmax(axis=1)] if rows else np.zeros(0, int)
    alone, settled = _rescue(vote, codes, sizes, winners).T
    wanted = volumes - np.bincount(codes[alone], sizes[alone], classes) - np.bincount(codes, vote.whole, classes)
    won = np.bincount(winners, minlength=classes) - np.bincount(codes[alone], minlength=classes)
    for code in large_first[:0:-1].tolist():
        lacking = round(float(wanted[code]) / vote.samples) - int(won[code])
        _fill(code, lacking, table, volumes, winners, settled)
    _rescue(vote, codes, sizes, winners)
    return winners, _holders(vote, codes, winners) > 0


def _holders(vote: _Vote, codes: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """In how many new voxels each part is seen."""
    is_seen = codes[vote.part] == winners[vote.row]
    return vote.whole // vote.samples + np.bincount(vote.part[is_seen], minlength=len(codes))


def _rescue(vote: _Vote, codes: np.ndarray, sizes: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """Give each part that is seen nowhere, the smallest first, the voxel of which it fills most.

    A voxel in which alone another part is seen stays.

    Returns:
        (n, 2), each part and the row of its voxel.
    """
    holders, order, rescued = _holders(vote, codes, winners), np.argsort(vote.part, kind="stable"), []
    lost = np.flatnonzero((holders == 0) & (sizes > 0))
    for part in lost[np.argsort(sizes[lost], kind="stable")]:
        own = order[slice(*np.searchsorted(vote.part, [part, part + 1], sorter=order))]
        for entry in own[np.argsort(-vote.count[own], kind="stable")] if not holders[part] else ():
            row = vote.row[entry]
            there = vote.part[slice(*np.searchsorted(vote.row, [row, row + 1]))]
            before = there[codes[there] == winners[row]]
            if (holders[before] > 1).all():
                holders[before] -= 1
                holders[there[codes[there] == codes[part]]] += 1
                winners[row] = codes[part]
                rescued.append((part, row))
                break
    return np.array(rescued, int).reshape(-1, 2)


def _fill(code: int, lacking: int, table: np.ndarray, volumes: np.ndarray, winners: np.ndarray,
          settled: np.ndarray) -> None:
    """Give a class so many more voxels, of those that it nearly won from larger ones."""
    behind = table[np.arange(len(winners)), winners] - table[:, code]
    is_open = (table[:, code] > 0) & (volumes[winners] > volumes[code]) & (behind <= CLOSE * table[:1].sum())
    is_open[settled] = False
    rows = np.random.default_rng(0).permutation(np.flatnonzero(is_open))
    winners[rows[np.argsort(behind[rows], kind="stable")][:max(0, lacking)]] = code

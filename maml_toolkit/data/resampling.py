"""Values on one grid as values on another: the one way by which images and label maps change their voxels.

A voxel is a box: values reach half a voxel beyond the centres at the border, and beyond that lies the outside. Images
are interpolated linearly; going to coarser voxels, a Gaussian may first take out what those cannot show:

    sigma = voxel size sqrt((factor^2 - 1) / (8 ln 2)),        factor = new voxel size / voxel size

Of a label map small lesions survive:

    refined grid: every new voxel is cut into samples, so close that none of the old voxels is missed
    -> each sample takes the class of the old voxel in which it lies; the class of most samples gets the new voxel
    -> a connected part of a class that would be gone gets the voxel of which it fills most
    -> where the vote was close, voxels go to the smaller class until it has the volume that it had

On an equal or a finer grid a voxel is one sample: the nearest neighbour.

References:
    M. J. Cardoso et al. Scale factor point spread function matching: beyond aliasing in image resampling. MICCAI 2015.
    https://doi.org/10.1007/978-3-319-24571-3_81
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS+ to LPS+, ITK's, and back."""

FEWEST = 4
"""Voxels along an axis that ITK's recursive Gaussian wants."""

CLOSE = 0.25
"""Of a voxel: a class that fills so much less of it than the winner may still get it, for the sake of its volume."""

TURNED = 2
"""Samples of a new voxel along an axis under a transform: none of the old voxels is missed, however they are turned."""

TOUCHING = np.ones((3, 3, 3), bool)
"""What makes voxels one connected part, here and wherever parts are counted: a shared corner, 26 neighbours."""

AT_ONCE = 2**25
"""Samples that are held at the same time."""


def resampled(values: np.ndarray, affine: np.ndarray, shape: Sequence[int], target: np.ndarray, *, outside: float = 0,
              transform: sitk.Transform | None = None, antialias: bool = False, nearest: bool = False) -> np.ndarray:
    """Values (…, depth, height, width) on one grid as values on another; the same array where the grids agree.

    Args:
        affine, target: of the values, and of the grid to which they go; 4x4, voxel to mm (RAS+).
        shape: of the new grid.
        outside: what lies beyond the values.
        transform: from points of the new grid to points of the values (mm, LPS+); none moves when left out.
        antialias: smooth along the axes whose voxels become larger.
        nearest: the value of the nearest voxel in place of interpolation.
    """
    if transform is None and is_one_grid(values.shape[-3:], affine, shape, target):
        return values
    volumes = values.reshape(-1, *values.shape[-3:])
    result = np.empty((len(volumes), *(int(n) for n in shape)), values.dtype.newbyteorder("="))
    reference = _placed(sitk.Image([int(n) for n in shape], sitk.sitkUInt8), target)
    how = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    for volume, moved in zip(volumes, result, strict=True):
        image = itk_image(volume, affine)
        if antialias:
            image = _smoothed(image, reference.GetSpacing())
        if nearest:      # ITK's nearest neighbour of a point just half a voxel beyond the border is whatever lies there
            image = sitk.ConstantPad(image, [1, 1, 1], [1, 1, 1], float(outside))
        image = sitk.Resample(image, reference, transform or sitk.Transform(), how, float(outside))
        moved[...] = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    return result.reshape(*values.shape[:-3], *result.shape[1:])


def is_one_grid(shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other: np.ndarray) -> bool:
    """Whether voxels lie on voxels."""
    return tuple(shape) == tuple(other_shape) and np.allclose(affine, other)


def itk_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An array (i, j, k) in SimpleITK, of the type that it has."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0).astype(array.dtype.newbyteorder("="), copy=False))
    return _placed(image, affine)


def itk_grid(affine: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction (rows of the matrix, one after the other), LPS+."""
    turned, spacing = LPS @ affine, nibabel.affines.voxel_sizes(affine)
    return turned[:3, 3].tolist(), spacing.tolist(), (turned[:3, :3] / spacing).ravel().tolist()


def _placed(image: sitk.Image, affine: np.ndarray) -> sitk.Image:
    origin, spacing, direction = itk_grid(np.asarray(affine, float))
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _smoothed(image: sitk.Image, spacing: Sequence[float]) -> sitk.Image:
    """Without what voxels of this spacing cannot show."""
    for axis, (size, wanted) in enumerate(zip(image.GetSpacing(), spacing, strict=True)):
        if wanted / size <= 1 + 1e-6 or image.GetSize()[axis] == 1:
            continue
        sigma = size * math.sqrt(((wanted / size) ** 2 - 1) / (8 * math.log(2)))
        lacking = [0, 0, 0]
        lacking[axis] = max(0, FEWEST - image.GetSize()[axis])
        # the filter takes the border for going on for ever, and so does the padding
        wide = sitk.ZeroFluxNeumannPad(image, lacking, lacking) if any(lacking) else image
        smooth = sitk.RecursiveGaussian(wide, sigma, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
        image = sitk.Crop(smooth, lacking, lacking) if any(lacking) else smooth
    return image


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
        found, count = ndimage.label(values == kind, TOUCHING)
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
    is_close = behind <= CLOSE * table.sum(axis=1)          # of the samples of a voxel
    is_open = (table[:, code] > 0) & (volumes[winners] > volumes[code]) & is_close
    is_open[settled] = False
    rows = np.random.default_rng(0).permutation(np.flatnonzero(is_open))
    winners[rows[np.argsort(behind[rows], kind="stable")][:max(0, lacking)]] = code

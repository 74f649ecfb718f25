"""The surface of a mask as triangles in mm, smooth and never losing a structure, however small.

A surface net has one point in every cell of eight neighbouring voxels that are not all in or all out, joined across
each edge that leaves the mask. The points then move towards the mean of their neighbours and stay in their cells, so
the surface is smooth and parts in from out at every voxel outside of cavities.

References:
    Constrained Elastic Surface Nets, Gibson, MICCAI 1998, https://doi.org/10.1007/BFb0056277
    MZ3, the mesh format of Surfice and NiiVue, https://github.com/neurolabusc/surf-ice/tree/master/mz3
"""

import struct
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes
from scipy.sparse import coo_matrix

ROOM = 0.3
"""How far a point may go from the middle of its cell, in voxels: a single voxel keeps a body of 0.4."""

RELAXATIONS = 12
"""More move the points by less than a tenth of a voxel."""


@dataclass(frozen=True)
class Surface:
    """Triangles that go round a mask, counter-clockwise when seen from outside.

    Attributes:
        voxels: (points, 3), where the points lie in the mask's voxels.
        points: (points, 3) mm.
        faces: (triangles, 3), numbers of points.
    """

    voxels: np.ndarray
    points: np.ndarray
    faces: np.ndarray

    def mz3(self, colours: np.ndarray | None = None) -> bytes:
        """The surface as an MZ3 file, with a colour of each point, (points, 3) from 0 to 1, where given."""
        kinds = 0b11 | (0b100 if colours is not None else 0)
        parts = [struct.pack("<HHIII", 0x5A4D, kinds, len(self.faces), len(self.points), 0),
                 self.faces.astype("<u4").tobytes(), self.points.astype("<f4").tobytes()]
        if colours is not None:
            bytes_ = np.full((len(self.points), 4), 255, np.uint8)
            bytes_[:, :3] = np.rint(np.clip(colours, 0, 1) * 255)
            parts.append(bytes_.tobytes())
        return b"".join(parts)


def surface(mask: np.ndarray, affine: np.ndarray) -> Surface | None:
    """The outer surface of a mask; closed, also where the mask touches the border of the array. None of an empty mask.

    Cavities, which nobody sees from outside, have none.

    Args:
        mask: (i, j, k), bool.
        affine: 4x4, voxel -> mm, right-handed.
    """
    if not mask.any():
        return None
    box = [(kept.min(), kept.max() + 1) for kept in np.nonzero(mask)]
    inside = binary_fill_holes(np.pad(mask[tuple(slice(*edges) for edges in box)], 1))
    corners = sum(inside[i:i - 1 or None, j:j - 1 or None, k:k - 1 or None].astype(np.int8)
                  for i in (0, 1) for j in (0, 1) for k in (0, 1))
    mixed = (corners > 0) & (corners < 8)
    number = np.full(mixed.shape, -1, np.int64)
    number[mixed] = np.arange(mixed.sum())
    quads = np.concatenate([_quads(inside, number, axis) for axis in range(3)])
    cells = np.argwhere(mixed) - 0.5 + [edges[0] for edges in box]
    voxels = _relaxed(cells, quads)
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    return Surface(voxels, points, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


def _quads(inside: np.ndarray, number: np.ndarray, axis: int) -> np.ndarray:
    """The four cells around each edge along an axis that leaves or enters the mask, in the order of the right hand."""
    turned, cells = np.moveaxis(inside, axis, 0), np.moveaxis(number, axis, 0)
    i, j, k = np.nonzero(turned[1:] != turned[:-1])
    quads = np.stack([cells[i, j - 1, k - 1], cells[i, j, k - 1], cells[i, j, k], cells[i, j - 1, k]], 1)
    leaves = turned[i, j, k] != (axis == 1)    # moving the second axis to the front mirrors the other two
    quads[~leaves] = quads[~leaves, ::-1]
    return quads


def _relaxed(cells: np.ndarray, quads: np.ndarray) -> np.ndarray:
    ends = np.concatenate([quads[:, [one, (one + 1) % 4]] for one in range(4)])
    ends = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0)
    linked = coo_matrix((np.ones(len(ends)), tuple(ends.T)), (len(cells),) * 2).tocsr()
    degree = np.diff(linked.indptr)[:, None]
    voxels = cells.astype(float)
    for _ in range(RELAXATIONS):
        voxels = np.clip(linked @ voxels / degree, cells - ROOM, cells + ROOM)
    return voxels

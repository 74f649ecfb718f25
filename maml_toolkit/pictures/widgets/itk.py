"""The 3-D view in itkwidgets: the scan as a volume, the map as its second component, the prediction as labels.

Its viewer is fetched from other hosts by the browser, and while it has not come, itkwidgets holds back every later
cell; after WAIT_S they are let go. So those hosts are tried first, without importing itkwidgets.

References:
    itkwidgets, https://itkwidgets.readthedocs.io
"""

from __future__ import annotations

import asyncio
import re
import socket
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes

from maml_toolkit.data.resampling import LPS, resampled
from maml_toolkit.pictures.widgets.sight import Sight

WAIT_S = 30.0
"""How long later cells wait for a viewer."""

ANSWER_S = 2.0
"""How long a host may take to answer."""


def show(sight: Sight) -> object:
    """Show a viewer below the cell that runs, at once; it never waits for the browser."""
    import itkwidgets
    from itkwidgets import viewer
    from ngff_zarr import to_ngff_image
    image, labels, spacing, origin = arrays(sight)
    dims = ("z", "y", "x", "c")[:image.ndim]
    place = {"scale": dict(zip("zyx", spacing, strict=True)), "translation": dict(zip("zyx", origin, strict=True))}
    shown = itkwidgets.view(image=to_ngff_image(image, dims=dims, **place),
                            label_image=to_ngff_image(labels, dims=dims[:3], **place))
    asyncio.get_running_loop().call_later(WAIT_S, _let_go, viewer._cell_watcher)
    return shown


def _let_go(watcher: object) -> None:
    """Let later cells run although a viewer has not come."""
    for name in list(watcher.viewers.not_created):
        watcher.update_viewer_status(name, True)


def arrays(sight: Sight) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """Scan (and map) and labels along the patient's axes, in the order and the directions of ITK.

    Returns:
        float32 (z, y, x) or, with a map, (z, y, x, 2); uint8 (z, y, x); spacing and origin in mm by axis (z, y, x),
        x to the patient's left and y to the back.
    """
    affine = sight.scene.affine
    spacing = voxel_sizes(affine)
    corners = apply_affine(LPS @ affine, list(product(*((0, size - 1) for size in sight.image.shape))))
    first, steps = corners.min(0), np.rint(np.ptp(corners, axis=0) / spacing).astype(int)
    grid = affine, (steps + 1).tolist(), LPS @ from_matvec(np.diag(spacing), first)
    layers = [resampled(sight.image, *grid, outside=float(sight.image.min())).T]
    if sight.map:
        whole = np.zeros(sight.image.shape, np.float32)
        whole[sight.scene.grid.box_slices] = sight.values
        layers.append(resampled(whole, *grid).T)
    labels = resampled(sight.scene.whole_classes, *grid, nearest=True).T
    image = np.stack(layers, -1) if sight.map else layers[0]
    return image, labels, tuple(spacing[::-1].tolist()), tuple(first[::-1].tolist())


def unreachable() -> list[str]:
    """The hosts that itkwidgets fetches from and that do not answer."""
    return [host for host in _hosts() if not _answers(host)]


def _hosts() -> list[str]:
    """Read in its settings without importing it."""
    found = find_spec("itkwidgets")
    settings = ""
    if found and found.origin:
        settings = Path(found.origin).with_name("viewer_config.py").read_text(encoding="utf-8")
    return sorted({urlsplit(address).hostname or "" for address in re.findall(r"https://[^\s\"']+", settings)})


def _answers(host: str) -> bool:
    try:
        with socket.create_connection((host, 443), ANSWER_S):
            return True
    except OSError:
        return False

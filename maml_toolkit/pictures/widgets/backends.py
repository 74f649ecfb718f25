"""A case in three dimensions: a scan, the surfaces of ground truth and prediction, and what was made of the scan.

It is drawn by what works here, and nothing is imported to find that out:

- `niivue`: in JupyterLab, Notebook 7 and Voilà, without a network.
- `itkwidgets`: in JupyterLab and Notebook 7, with a network: its viewer is fetched from other hosts by the browser, and
  while it has not come, every later cell waits; after WAIT_S they are let go. So it is looked for only when it is asked
  for by name, and those hosts are tried first.
- `static`: a picture, everywhere. Every view carries it, so that something is seen where no script runs: under
  papermill, on code hosts, in printed and converted notebooks.

References:
    NiiVue, https://github.com/niivue/niivue
    itkwidgets, https://itkwidgets.readthedocs.io
"""

import asyncio
import base64
import os
import re
import socket
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from packaging.specifiers import SpecifierSet

from maml_toolkit.data.cases import Case
from maml_toolkit.data.resampling import LPS, resampled
from maml_toolkit.pictures.plots.view import PLANES
from maml_toolkit.pictures.widgets.scene import Sight, sight, still
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.system.errors import expect_one_of, with_extra
from maml_toolkit.system.processes import installed

EXTRAS = {
    "itkwidgets": ("itkwidgets", {"itkwidgets": ">=1.0a0,<2.0", "ngff-zarr": ">=0.13,<0.33", "zarr": ">=2.0,<3.0",
                                  "imjoy-jupyterlab-extension": ">=0.2,<1.0"}),
    "niivue": ("view", {"ipyniivue": ">=2.4,<3.0"}),
    "static": ("", {})}
"""Back end -> the extra that brings it, and the releases of its packages that work."""

WAIT_S = 30.0
"""How long later cells wait for the viewer of itkwidgets."""

ANSWER_S = 2.0
"""How long a host of itkwidgets may take to answer."""

NO_BROWSER = "no browser looks at this notebook, which is run by papermill, nbconvert or a script"


class View3D:
    """What `view3d` returns, to be shown as the last line of a cell or with `display`.

    Attributes:
        backend: what draws it.
        why: the reason for a picture in place of the back end that was asked for; "" where there is none.
        widget: the interactive view; None of a picture.
        png: the picture: three planes through the lesion.
    """

    def __init__(self, sight: Sight, backend: str, why: str = "", note: str = ""):
        self.backend, self.why = backend, why
        self.png = still(sight.scene, [(plane, sight.modality) for plane in PLANES], sight.map, sight.contrast,
                         title=str(sight), note=note)
        self.widget = None
        if backend == "niivue":
            from maml_toolkit.pictures.widgets.niivue import widget
            self.widget = widget(sight)
        elif backend == "itkwidgets":
            self.widget = _itk_view(sight)
        self._said = (f"3-D view of {sight}{f', {sight.label}' if sight.map else ''}, drawn by {backend}"
                      f"{f': {why}' if why else '.'}")

    def __repr__(self) -> str:
        return self._said

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = self.widget._repr_mimebundle_(**kwargs) if self.backend == "niivue" else {}
        return {**bundle, "image/png": base64.b64encode(self.png).decode(), "text/plain": self._said}


def view3d(case: Case, prediction: Prediction, *, backend: str = "auto", modality: str | None = None,
           map: str | None = "auto", class_name: str | None = None, against: str | None = None) -> View3D:
    """Look at a case in three dimensions: a scan, the surfaces of ground truth and prediction, and a map.

    Args:
        case: that was predicted, with its files or its images in memory.
        prediction: of it, with `attention=True` or `contributions=True` where a map is to be shown.
        backend: "niivue" (interactive), "itkwidgets" (interactive, with a network), "static" (a picture), or "auto":
            NiiVue where it is installed and a browser looks on, a picture elsewhere. Where a back end that is asked
            for by name does not work, a picture stands in its place and says why.
        modality: the scan on show, and the one whose map it is; the task's reference, or the first scan with a map,
            when left out.
        map: "attention" (0 to 1), "contribution" (in one range about 0), None, or "auto": attention where the
            prediction holds it, else the contribution, else none.
        class_name, against: the class or region whose contribution is shown, and that against which it is; the largest
            class of the prediction, and the background (of a region everything else), when left out.

    Raises:
        DataError: the case has no image, one that cannot be read, or one on another grid than the prediction; or the
            task has no such modality.
        ValueError: the prediction is of another case, holds no such map, or nothing has the name of the back end, the
            map or the class.
    """
    name, why = chosen(backend)
    seen = sight(case, prediction, modality, map, class_name, against)
    return View3D(seen, name, why, why if backend != "auto" else "")


def available() -> dict[str, str]:
    """Each back end, and "" where it works here, else the reason why not in one sentence.

    Takes at most a few seconds, where itkwidgets is installed and its hosts do not answer.
    """
    return {name: _why_not(name) for name in EXTRAS}


def chosen(backend: str) -> tuple[str, str]:
    """The back end that will draw, and where it is not the one that was asked for, why.

    Raises:
        ValueError: nothing has this name.
    """
    expect_one_of("backend", backend, ("auto", *EXTRAS))
    name = "niivue" if backend == "auto" else backend
    # a view in NiiVue is kept with the notebook, so it may be asked for without a browser
    reason = _lacking(name) if backend == "niivue" else _why_not(name)
    return ("static", reason) if reason else (name, "")


def _why_not(backend: str) -> str:
    """Why a back end does not work here; "" where it does."""
    reason = _lacking(backend)
    if reason or backend == "static":
        return reason
    if not _looked_at(voila=backend == "niivue"):
        waits = "NiiVue waits" if backend == "niivue" else "itkwidgets would let every later cell wait"
        return f"{waits} for a browser, and {NO_BROWSER}."
    silent = [host for host in _hosts() if not _answers(host)] if backend == "itkwidgets" else []
    return "" if not silent else (f"itkwidgets fetches its viewer from {', '.join(silent)}, which cannot be reached "
                                  f"within {ANSWER_S:.0f} s.")


def _lacking(backend: str) -> str:
    """Why the packages of a back end cannot be used: one is not there, or it is another release."""
    extra, packages = EXTRAS[backend]
    for package, releases in packages.items():
        if not (found := installed(package)):
            return f"{package} is not installed; {with_extra(extra)} brings it."
        if not SpecifierSet(releases).contains(found, prereleases=True):
            return f"{package} is {found}, and {package}{releases} is needed; install that."
    return ""


def _looked_at(voila: bool = True) -> bool:
    """Whether a browser shows what this kernel displays: a Jupyter server or Voilà started it for a page.

    They alone name the page in the environment. A notebook that another notebook runs inherits that name, so it must
    not stand in the environment of the process that started this one.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return False
    names = ["JPY_SESSION_NAME", *(["VOILA_BASE_URL"] if voila else [])]
    return any(name in os.environ and name not in _parents_environment() for name in names)


def _parents_environment() -> dict[str, str]:
    try:
        return psutil.Process(os.getppid()).environ()
    except (psutil.Error, OSError):
        return {}


def _itk_view(sight: Sight) -> object:
    """Show a viewer below the cell that runs, at once; it never waits for the browser."""
    import itkwidgets
    from itkwidgets import viewer
    from ngff_zarr import to_ngff_image
    image, labels, spacing, origin = itk_arrays(sight)
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


def itk_arrays(sight: Sight) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], tuple[float, ...]]:
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

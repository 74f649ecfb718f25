"""A case in three dimensions: a scan, the surfaces of truth and prediction, and what the network made of the scan.

Every view carries a picture, so that something is seen where no script runs: under papermill, on code hosts, in
printed and converted notebooks.
"""

from __future__ import annotations

import base64
from typing import Any

from maml_toolkit.data.cases import Case
from maml_toolkit.pictures.widgets import backends
from maml_toolkit.pictures.widgets.projection import projection
from maml_toolkit.pictures.widgets.sight import Sight, sight
from maml_toolkit.prediction.prediction import Prediction


class View3D:
    """What `view3d` returns, to be shown as the last line of a cell or with `display`.

    Attributes:
        backend: what draws it.
        why: the reason for a picture in place of the back end that was asked for; "" where there is none.
        widget: the interactive view; None of a picture.
        png: the picture.
    """

    def __init__(self, sight: Sight, backend: str, why: str = "", note: str = ""):
        self.backend, self.why = backend, why
        self.png = projection(sight, note)
        self.widget = None
        if backend == "niivue":
            from maml_toolkit.pictures.widgets.niivue import widget
            self.widget = widget(sight)
        elif backend == "itkwidgets":
            from maml_toolkit.pictures.widgets.itk import show
            self.widget = show(sight)
        self._said = (f"3-D view of {sight}{f', {sight.label}' if sight.map else ''}, drawn by {backend}"
                      f"{f': {why}' if why else '.'}")

    def __repr__(self) -> str:
        return self._said

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {}
        if self.backend == "niivue":
            bundle |= self.widget._repr_mimebundle_(**kwargs)
        return {**bundle, "image/png": base64.b64encode(self.png).decode(), "text/plain": self._said}


def view3d(case: Case, prediction: Prediction, *, backend: str = "auto", modality: str | None = None,
           map: str | None = "auto", class_name: str | None = None) -> View3D:
    """Look at a case in three dimensions: a scan, the surfaces of truth and prediction, and a map.

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
        class_name: the class whose contribution is shown; the largest of the prediction when left out.

    Raises:
        DataError: the case has no image, one that cannot be read, or one on another grid than the prediction; or the
            task has no such modality.
        ValueError: the prediction is of another case, holds no such map, or nothing has the name of the back end, the
            map or the class.
    """
    name, why = backends.chosen(backend)
    what = sight(case, prediction, modality, map, class_name)
    return View3D(what, name, why, note=why if why and backend != "auto" else "")

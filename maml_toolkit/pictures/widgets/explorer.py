"""The explorer: a widget that shows a case in three linked planes, and what the network made of each scan.

Everything is sent once and drawn in the browser, so it works while the kernel is busy, after it has gone, and in a
notebook converted with its widget state.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.pictures.plots.view import check_voxel
from maml_toolkit.pictures.widgets.payload import packed
from maml_toolkit.pictures.widgets.scene import Scene, mapped, still
from maml_toolkit.prediction.prediction import Prediction

HERE = Path(__file__).parent


class Explorer(anywidget.AnyWidget):
    """What `explore` returns; `voxel` and `scans` follow the reader, and move the picture when they are set.

    Attributes:
        voxel: (i, j, k) of the crosshair in the case's files.
        scans: the modalities of the subset on show; setting one that was not computed changes nothing.
        summary: what the arrays are: sizes, steps, memory in MB.
        arrays: name -> compressed bytes.
        png: the picture shown where no script runs.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    summary = traitlets.Dict().tag(sync=True)
    arrays = traitlets.Dict().tag(sync=True)
    voxel = traitlets.List(traitlets.Int(), minlen=3, maxlen=3).tag(sync=True)
    scans = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, summary: dict[str, Any], arrays: dict[str, bytes], png: bytes):
        self.png = png
        voxel = np.rint(np.array(summary["to_file"]) @ [*summary["start"], 1])[:3].astype(int).tolist()
        super().__init__(summary=summary, arrays=arrays, voxel=voxel, scans=summary["answers"][0]["modalities"])

    @property
    def memory(self) -> str:
        """How much was sent and what it takes in the browser, as the widget says it."""
        return self.summary["memory"]

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["image/png"] = base64.b64encode(self.png).decode()
            bundle[0]["text/plain"] = f"Explorer of case {self.summary['case']}: {self.memory}"
        return bundle


def explore(case: Case, prediction: Prediction, task: Task | None = None, *, downsample: int | None = None,
            at: Sequence[int] | None = None) -> Explorer:
    """Look through a case: three linked planes of every scan, with contours, attention and contributions.

    A box for each scan answers "what if it were missing?" from `prediction.subsets`, which
    `predictor.subsets(case, attention=True, contributions=True)` fills.

    Args:
        case: that was predicted, with its files or its images in memory.
        prediction: of it; its own modalities are what every subset is compared with.
        task: names of modalities and regions; the prediction's own when left out.
        downsample: attention and contributions hold every n-th voxel on each axis; when left out, every voxel as
            long as all maps of all subsets take at most 256 MB. Images and classes always hold every voxel.
        at: voxel (i, j, k) of the files to start at; a point in the lesion's largest axial cross-section when left out.

    Raises:
        DataError: the case has no image, one that cannot be read, or one on another grid than the prediction.
        ValueError: the prediction is of another case or task, or an argument makes no sense.
    """
    scene = Scene.of(case, prediction, task)
    if at is not None:
        check_voxel(at, scene.grid, case)
    summary, arrays = packed(scene, downsample)
    kind = next((kind for kind in ("contribution", "attention") if mapped(scene.answers[0], kind)), "")
    columns = [("axial", name) for name in scene.task.modalities]
    title = f"case {scene.case}, from {' + '.join(scene.answers[0].modalities)}"
    widget = Explorer(summary, arrays, still(scene, columns, kind, title=title))
    if at is not None:
        widget.voxel = [int(index) for index in at]
    return widget

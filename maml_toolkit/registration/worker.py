"""The process that runs elastix, apart from everything else: `python worker.py <folder>`.

elastix can crash (one slice is a segmentation fault), hang, and drop files where it stands. So it runs in a process
of its own that reads `job.json`, `fixed.npy` and `moving.npy` from a folder and leaves `result.json` there, or
`error.txt`. Positions are ITK's: millimetres, LPS+. It imports nothing of this package, so that it starts quickly.

References:
    S. Klein et al. elastix: a toolbox for intensity-based medical image registration. IEEE Transactions on Medical
    Imaging, 2010. https://doi.org/10.1109/TMI.2009.2035616
    itk-elastix. https://github.com/InsightSoftwareConsortium/ITKElastix
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

NOT_INSTALLED = 3
"""Exit code where itk-elastix is missing."""


def work(folder: Path) -> int:
    """Do the job that lies in the folder.

    Returns:
        The exit code: 0, 1 where elastix raised an error, NOT_INSTALLED.
    """
    try:
        elastix = Elastix()
    except (ImportError, AttributeError) as error:
        (folder / "error.txt").write_text(str(error), encoding="utf-8")
        return NOT_INSTALLED
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        images = {name: elastix.image(np.load(folder / f"{name}.npy"), job[name]) for name in ("fixed", "moving")}
        found = elastix.register(images["fixed"], images["moving"], job["stages"], folder)
        result = {"maps": [{name: list(found.GetParameter(number, name)) for name in found.GetParameterMap(number)}
                           for number in range(found.GetNumberOfParameterMaps())]}
        if (folder / "points.npy").is_file():
            result["points"] = elastix.points(images["moving"], found, np.load(folder / "points.npy"), folder)
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    except Exception:
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return 1
    return 0


class Elastix:
    """elastix for three-dimensional images of 32-bit floats.

    Raises:
        ImportError, AttributeError: itk-elastix is not installed.
    """

    def __init__(self):
        import itk

        self.itk = itk
        try:    # without the 10 seconds in which itk loads what its classes could be combined with
            from itk import elxParameterObjectPython, itkElastixRegistrationMethodPython, itkTransformixFilterPython

            self.parameters = elxParameterObjectPython.elastixParameterObject
            self.method = itkElastixRegistrationMethodPython.itkElastixRegistrationMethodIF3IF3
            self.transformix = itkTransformixFilterPython.itkTransformixFilterIF3
        except (ImportError, AttributeError):
            kind = itk.Image[itk.F, 3]
            self.parameters = itk.ParameterObject
            self.method, self.transformix = itk.ElastixRegistrationMethod[kind, kind], itk.TransformixFilter[kind]

    def image(self, array: np.ndarray, grid: dict[str, list]) -> Any:
        """An array (i, j, k) where spacing, origin and direction put it."""
        image = self.itk.image_from_array(np.ascontiguousarray(array.transpose(2, 1, 0), np.float32))
        image.SetSpacing(grid["spacing"])
        image.SetOrigin(grid["origin"])
        image.SetDirection(self.itk.matrix_from_array(np.array(grid["direction"], float)))
        return image

    def register(self, fixed: Any, moving: Any, stages: list, folder: Path) -> Any:
        """elastix's transform parameter object after all stages."""
        parameters = self.parameters.New()
        for stage, overrides in stages:
            values = {name: list(value) for name, value in dict(parameters.GetDefaultParameterMap(stage)).items()}
            parameters.AddParameterMap({**values, **overrides})
        method = self.method.New()
        method.SetFixedImage(fixed)
        method.SetMovingImage(moving)
        method.SetParameterObject(parameters)
        method.SetOutputDirectory(str(folder))
        method.LogToConsoleOff()
        method.LogToFileOff()
        method.UpdateLargestPossibleRegion()
        return method.GetTransformParameterObject()

    def points(self, moving: Any, found: Any, points: np.ndarray, folder: Path) -> list[list[float]]:
        """Where transformix, elastix's own resampler, maps points (n, 3); the oracle of the tests."""
        listed = "\n".join(" ".join(f"{value:.9f}" for value in point) for point in points)
        (folder / "points.txt").write_text(f"point\n{len(points)}\n{listed}\n", encoding="utf-8")
        transformix = self.transformix.New()
        transformix.SetMovingImage(moving)
        transformix.SetTransformParameterObject(found)
        transformix.SetFixedPointSetFileName(str(folder / "points.txt"))
        transformix.SetOutputDirectory(str(folder))
        transformix.LogToConsoleOff()
        transformix.UpdateLargestPossibleRegion()
        lines = (folder / "outputpoints.txt").read_text(encoding="utf-8").splitlines()
        return [[float(text) for text in line.split("OutputPoint = [")[1].split("]")[0].split()] for line in lines]


def _die_with_parent() -> None:
    """Whoever stops the program that waits for this process stops this process too (Linux)."""
    if sys.platform == "linux":
        death_signal = 1
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    sys.exit(work(Path(sys.argv[1])))

"""The process that runs elastix, apart from everything else: `python worker.py <folder>`.

elastix can crash (one slice is a segmentation fault), hang, and drop files where it stands. So it runs in a process
of its own that reads `job.json`, `fixed.npy` and `moving.npy` from a folder and leaves `transform.tfm` there, or
`error.txt`. Positions are ITK's: millimetres, LPS+. It imports nothing of this package, so that it starts quickly.

References:
    S. Klein et al. elastix: a toolbox for intensity-based medical image registration. IEEE Transactions on Medical
    Imaging, 2010. https://doi.org/10.1109/TMI.2009.2035616
    itk-elastix. https://github.com/InsightSoftwareConsortium/ITKElastix
"""

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

RESULT = "transform.tfm"
"""The file with all stages as one transform of ITK."""


def work(folder: Path) -> int:
    """Do the job that lies in the folder.

    Returns:
        The exit code: 0, 1 where elastix raised an error, NOT_INSTALLED.
    """
    try:
        import itk

        parameters, method = _classes(itk)
    except (ImportError, AttributeError) as error:
        (folder / "error.txt").write_text(str(error), encoding="utf-8")
        return NOT_INSTALLED
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        for stage, overrides in job["stages"]:
            values = {name: list(value) for name, value in dict(parameters.GetDefaultParameterMap(stage)).items()}
            parameters.AddParameterMap({**values, "WriteITKCompositeTransform": ["true"],
                                        "ITKTransformOutputFileNameExtension": ["tfm"], **overrides})
        method.SetFixedImage(_image(itk, folder / "fixed.npy", job["fixed"]))
        method.SetMovingImage(_image(itk, folder / "moving.npy", job["moving"]))
        method.SetParameterObject(parameters)
        method.SetOutputDirectory(str(folder))
        method.LogToConsoleOff()
        method.LogToFileOff()
        method.UpdateLargestPossibleRegion()
        (folder / f"TransformParameters.{len(job['stages']) - 1}-Composite.tfm").replace(folder / RESULT)
    except Exception:
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return 1
    return 0


def _classes(itk: Any) -> tuple[Any, Any]:
    """A parameter object and a registration of three-dimensional images of 32-bit floats."""
    try:    # without the 10 seconds in which itk loads what its classes could be combined with
        from itk import elxParameterObjectPython, itkElastixRegistrationMethodPython

        return (elxParameterObjectPython.elastixParameterObject.New(),
                itkElastixRegistrationMethodPython.itkElastixRegistrationMethodIF3IF3.New())
    except (ImportError, AttributeError):
        kind = itk.Image[itk.F, 3]
        return itk.ParameterObject.New(), itk.ElastixRegistrationMethod[kind, kind].New()


def _image(itk: Any, path: Path, grid: dict[str, list]) -> Any:
    """An array (i, j, k) where spacing, origin and direction put it."""
    image = itk.image_from_array(np.ascontiguousarray(np.load(path).transpose(2, 1, 0), np.float32))
    image.SetSpacing(grid["spacing"])
    image.SetOrigin(grid["origin"])
    image.SetDirection(itk.matrix_from_array(np.array(grid["direction"], float)))
    return image


def _die_with_parent() -> None:
    """Whoever stops the program that waits for this process stops this process too (Linux)."""
    if sys.platform == "linux":
        death_signal = 1
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    sys.exit(work(Path(sys.argv[1])))

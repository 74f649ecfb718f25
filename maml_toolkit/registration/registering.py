"""Register one scan onto another: elastix in a process of its own, with checks before and after.

    moving scan --elastix--> transform (fixed to moving points) --apply--> moving scan on the fixed scan's grid

References:
    S. Klein et al. elastix: a toolbox for intensity-based medical image registration. IEEE Transactions on Medical
    Imaging, 2010. https://doi.org/10.1109/TMI.2009.2035616
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from maml_toolkit.data.volumes import Volume
from maml_toolkit.registration import worker
from maml_toolkit.registration.checks import COARSE_MM, Measures, check_result, check_scan, measured, shrunk
from maml_toolkit.registration.recipes import Recipe, recipe_of
from maml_toolkit.registration.transforms import Grid, Transform, itk_grid
from maml_toolkit.system.errors import DataError

FAR_APART = {"body_dice": 0.2, "covered": 0.05}
"""Below one of these the centres of the scans are brought together first."""


@dataclass(frozen=True)
class Registration:
    """The result of a registration.

    Attributes:
        transform: fixed to moving points.
        before, after: the measures without and with it.
        recipe: name of the recipe, and its stages.
        seconds: that it took.
        notes: what is odd about it and was accepted.
    """

    transform: Transform
    before: Measures
    after: Measures
    recipe: Recipe
    seconds: float
    notes: tuple[str, ...] = ()

    def apply(self, volume: Volume, grid_of: Grid, *, label: bool = False) -> Volume:
        """The moving scan, or a label drawn on it, on a grid of the fixed scan, with air around it."""
        return self.transform.apply(volume, grid_of, label=label, outside=0.0 if label else self.recipe.outside)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], transform: Transform, recipe: Recipe) -> Registration:
        """What `to_json` said."""
        before, after = (Measures(**values[name]) for name in ("before", "after"))
        return cls(transform, before, after, recipe, values["seconds"], tuple(values["notes"]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for records."""
        return {"recipe": self.recipe.name, "stages": list(self.recipe.stages), "before": self.before.to_json(),
                "after": self.after.to_json(), "seconds": round(self.seconds, 1), "notes": list(self.notes)}


class Refused(DataError):
    """A result that is worse than none.

    Attributes:
        registration: the result, to look at.
    """

    def __init__(self, problem: str, remedy: str, registration: Registration, **where: Any):
        super().__init__(problem, remedy, **where)
        self.registration = registration


def register(fixed: Volume, moving: Volume, recipe: str | Recipe = "mr", *, stages: Sequence[str] | None = None,
             time_limit_s: float = 1800, force: bool = False) -> Registration:
    """Find where each point of the fixed scan lies in the moving scan.

    Args:
        recipe: the name of one of RECIPES ("mr": sequences of one head; "liver_phases": CT), or a Recipe.
        stages: some of "rigid", "affine", "bspline", in their order; those of the recipe when left out.
        time_limit_s: after which elastix is stopped, in seconds.
        force: accept a result that is worse than none.

    Raises:
        DataError: a scan cannot be registered; itk-elastix is not installed; elastix failed, died or ran out of time.
        Refused: the result is worse than doing nothing.
        ValueError: an unknown recipe or stage.
    """
    started = time.monotonic()
    recipe = recipe_of(recipe)
    recipe = recipe if stages is None else recipe.with_stages(stages)
    check_scan(fixed, "fixed")
    check_scan(moving, "moving")
    compared = [shrunk(_windowed(scan, None, recipe), COARSE_MM) for scan in (fixed, moving)]
    before = measured(*compared, [Transform.identity()], recipe.kind)[0]
    apart = any(getattr(before, name) < least for name, least in FAR_APART.items())
    settings = recipe.overrides()
    if apart:
        settings[0][1].update(AutomaticTransformInitialization=["true"],
                              AutomaticTransformInitializationMethod=["GeometricalCenter"])
    transform = run_elastix(fixed, moving, recipe, settings, time_limit_s)
    before, after = measured(*compared, [Transform.identity(), transform], recipe.kind)
    note = ("the bodies hardly overlapped, so the centres of the scans were brought together first",)
    found = Registration(transform, before, after, recipe, time.monotonic() - started, note if apart else ())
    if not force:
        try:
            check_result(before, after, max(max(compared[0].spacing_mm), COARSE_MM))
        except DataError as error:
            raise Refused(error.problem, error.remedy, found) from None
    return found


def run_elastix(fixed: Volume, moving: Volume, recipe: Recipe, settings: Sequence[tuple[str, dict[str, list[str]]]],
                time_limit_s: float) -> Transform:
    """Run elastix in a process and a temporary folder of its own.

    Args:
        settings: each stage and what replaces its defaults.

    Raises:
        DataError: itk-elastix is not installed, or it failed, died or ran out of time.
    """
    with TemporaryDirectory(prefix="registration-") as name:
        folder, job = Path(name), {"stages": settings}
        for role, scan in (("fixed", fixed), ("moving", moving)):
            ready = shrunk(upright(_windowed(scan, recipe.window, recipe)), recipe.working_mm)
            np.save(folder / f"{role}.npy", ready.array.astype(np.float32))
            origin, spacing, direction = itk_grid(ready.affine)
            job[role] = {"spacing": spacing, "origin": origin, "direction": np.reshape(direction, (3, 3)).tolist()}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        _run(folder, time_limit_s)
        return Transform.load(folder / worker.RESULT)


def _run(folder: Path, time_limit_s: float) -> None:
    command = [sys.executable, "-P", worker.__file__, str(folder)]      # -P: its neighbours shadow no other module
    try:
        ended = subprocess.run(command, cwd=folder, timeout=time_limit_s, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"elastix did not finish within {time_limit_s:g} seconds and was stopped",
                        "Raise time_limit_s, or take fewer iterations, or a recipe with larger working_mm.") from None
    if ended.returncode == worker.NOT_INSTALLED:
        raise DataError("itk-elastix is not installed", 'Install it: pip install "maml_toolkit[registration]".')
    if ended.returncode < 0:
        raise DataError(f"elastix died ({signal.Signals(-ended.returncode).name})",
                        "The computer may be out of memory: close other programs, or take a recipe with larger "
                        "working_mm. Else look at both scans in a viewer.")
    if ended.returncode or not (folder / worker.RESULT).is_file():
        raise DataError(f"elastix failed: {_last_words(folder, ended.stderr)}",
                        "Look at both scans: do they show the same region of the body? Align them roughly, or leave "
                        "this one out.")


def _last_words(folder: Path, stderr: bytes) -> str:
    file = folder / "error.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else stderr.decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "rror" in line or "xception" in line or "amples" in line]
    return " ".join((told or lines or ["it said nothing"])[-2:])[:400]


def _windowed(scan: Volume, window: tuple[float, float] | None, recipe: Recipe) -> Volume:
    """Intensities in the window, or without what scanners write outside of their field of view."""
    low, high = window or ((recipe.outside, 3071.0) if recipe.kind == "ct" else (-np.inf, np.inf))
    return Volume(np.clip(scan.array.astype(np.float32, copy=False), low, high), scan.affine)


def upright(scan: Volume) -> Volume:
    """With its axes in the order of RAS+, so that the order in the file changes nothing."""
    turned = scan.canonical()
    return Volume(np.ascontiguousarray(turned.array), turned.affine)

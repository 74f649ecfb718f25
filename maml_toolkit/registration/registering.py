"""Register one scan onto another: elastix in a process of its own, with checks before and after.

    moving scan --elastix--> transform (fixed to moving points) --apply--> moving scan on the fixed scan's grid

A recipe says what elastix is told: stages (rigid, affine, bspline) that follow one another, each starting where the
last one ended. The first ones catch how the patient lay, a B-spline what moved inside. Values that a recipe does not
give are elastix's own default parameter maps.

References:
    S. Klein et al. elastix: a toolbox for intensity-based medical image registration. IEEE Transactions on Medical
    Imaging, 2010. https://doi.org/10.1109/TMI.2009.2035616
    The manual of elastix lists every parameter. https://elastix.dev/doxygen/parameter.html
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from maml_toolkit.data.volumes import AIR_HU, Volume
from maml_toolkit.registration import worker
from maml_toolkit.registration.checks import COARSE_MM, Measures, check_result, check_scan, measured, shrunk
from maml_toolkit.registration.transforms import Grid, Transform, itk_grid
from maml_toolkit.system.errors import DataError, expect_one_of, with_extra

STAGES = ("rigid", "affine", "bspline")
"""Names of elastix's default maps that a stage can start from."""

SEED = 20260101
"""Of elastix's samplers: the same scans give the same transform."""

FAR_APART = {"body_dice": 0.2, "covered": 0.05}
"""Below one of these the centres of the scans are brought together first."""


@dataclass(frozen=True)
class Recipe:
    """How a kind of scan is registered.

    Attributes:
        name: of the recipe, for messages and records.
        stages: stage ("rigid", "affine" or "bspline") -> values that replace elastix's defaults, in the order in which
            they run.
        kind: "mr" or "ct": how the body is found, and what lies outside of a scan (0, or -1024 HU).
        window: intensities are clipped to this range before the registration; None leaves them.
        working_mm: voxels smaller than half of this are averaged before the registration.
        common: values that replace elastix's defaults in every stage.

    Raises:
        ValueError: an unknown stage or kind, or no stage.
    """

    name: str
    stages: Mapping[str, Mapping[str, Any]]
    kind: str = "mr"
    window: tuple[float, float] | None = None
    working_mm: float = 1.0
    common: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.stages or set(self.stages) - set(STAGES) or self.kind not in ("mr", "ct"):
            raise ValueError(f"recipe {self.name}: found the stages {list(self.stages)} for {self.kind!r}, expected "
                             f"some of {', '.join(STAGES)}, for 'mr' or 'ct'")

    @property
    def outside(self) -> float:
        """The value of air."""
        return AIR_HU if self.kind == "ct" else 0.0

    def with_stages(self, stages: Sequence[str]) -> Recipe:
        """The same recipe with these stages; one that it does not name has elastix's defaults.

        Raises:
            ValueError: an unknown stage, or none.
        """
        return replace(self, stages={stage: self.stages.get(stage, {}) for stage in stages})

    def overrides(self) -> list[tuple[str, dict[str, list[str]]]]:
        """Each stage and what replaces its defaults, as elastix wants it: lists of text."""
        found = []
        for stage, own in self.stages.items():
            values = {**self.common, **own}
            if stage == "bspline" and "NumberOfResolutions" in values:   # elastix's own schedule is for its 4 levels
                halved = tuple(2**level for level in reversed(range(values["NumberOfResolutions"])))
                values = {"GridSpacingSchedule": halved, **values}
            found.append((stage, {name: _texts(value) for name, value in values.items()}))
        return found


def recipe_of(recipe: str | Recipe) -> Recipe:
    """A recipe from its name, or the recipe itself.

    Raises:
        ValueError: nothing goes by this name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    expect_one_of("recipe", recipe, RECIPES)
    return RECIPES[recipe]


def _texts(value: Any) -> list[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [str(value)]
    return [text for one in value for text in _texts(one)]


_COMMON = {"RandomSeed": SEED, "WriteResultImage": False, "NumberOfHistogramBins": 32, "NumberOfResolutions": 3}

_LINEAR = {"MaximumNumberOfIterations": 500, "NumberOfSpatialSamples": 4096}

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (
    # Sequences of one head: bright in one is dark in the other, hence mutual information; the affine stage takes up
    # what the gradients of two sequences distort differently.
    Recipe("mr", {"rigid": _LINEAR, "affine": _LINEAR}, common=_COMMON),
    # Phases of a liver: the window keeps soft tissue and fat. Twice elastix's samples and 400 iterations a level: 1000
    # found nothing more in CHAOS, and a few dozen are worse than the rigid stage alone. The bending energy, whose
    # numbers are small, keeps the control points 16 mm apart from folding.
    Recipe("liver_phases", {
        "rigid": _LINEAR,
        "bspline": {"FinalGridSpacingInPhysicalUnits": 16, "GridSpacingSchedule": (4, 2, 1),
                    "MaximumNumberOfIterations": 400, "NumberOfSpatialSamples": 4096,
                    "Metric": ("AdvancedMattesMutualInformation", "TransformBendingEnergyPenalty"),
                    "Metric0Weight": 1, "Metric1Weight": 20}},
        kind="ct", window=(-200, 300), working_mm=2.0, common=_COMMON),
)}
"""Recipes by name."""


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

    def apply(self, volume: Volume, grid_of: Grid) -> Volume:
        """The moving scan on a grid of the fixed scan, with air around it; labels go by `transform.carry`."""
        return self.transform.apply(volume, grid_of, outside=self.recipe.outside)

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
            ready = shrunk(_windowed(scan, recipe.window, recipe).canonical(), recipe.working_mm)
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
        raise DataError("itk-elastix is not installed", f"Install it: {with_extra('registration')}.")
    if ended.returncode < 0:
        raise DataError(f"elastix died ({signal.Signals(-ended.returncode).name})",
                        "Is the memory full? Close programs, or raise the recipe's working_mm. Or look at both scans.")
    if ended.returncode or not (folder / worker.RESULT).is_file():
        raise DataError(f"elastix failed: {_last_words(folder, ended.stderr)}",
                        "Do both scans show the same region of the body? Align them roughly, or leave this one out.")


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

"""What elastix is told: its own default parameter maps, and for each kind of scan the few values that differ.

A recipe has stages (rigid, affine, bspline) that follow one another, each starting where the last one ended. The first
ones catch how the patient lay, a B-spline what moved inside. Values that are not given here are elastix's defaults.

References:
    S. Klein et al. elastix: a toolbox for intensity-based medical image registration. IEEE Transactions on Medical
    Imaging, 2010. https://doi.org/10.1109/TMI.2009.2035616
    The manual of elastix lists every parameter. https://elastix.dev/doxygen/parameter.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maml_toolkit.data.volumes import AIR_HU

STAGES = ("rigid", "affine", "bspline")
"""Names of elastix's default maps that a stage can start from."""

SEED = 20260101
"""Of elastix's samplers: the same scans give the same transform."""


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
    if recipe not in RECIPES:
        raise ValueError(f"found the recipe {recipe!r}, expected one of {', '.join(RECIPES)}, or a Recipe")
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

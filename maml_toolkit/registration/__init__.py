"""Register scans of one patient onto one grid, with elastix, and refuse what is worse than doing nothing."""

from maml_toolkit.data.marks import mark_of
from maml_toolkit.registration.checks import Measures
from maml_toolkit.registration.examinations import (
    attempt_cases,
    refused_registration,
    register_case,
    register_cases,
)
from maml_toolkit.registration.recipes import RECIPES, Recipe
from maml_toolkit.registration.records import RegisteredCase, registered_in
from maml_toolkit.registration.registering import Refused, Registration, register, run_elastix
from maml_toolkit.registration.simulation import Simulated, simulate_phase
from maml_toolkit.registration.transforms import Transform

__all__ = ["RECIPES", "Measures", "Recipe", "Refused", "RegisteredCase", "Registration", "Simulated", "Transform",
           "attempt_cases", "mark_of", "refused_registration", "register", "register_case", "register_cases",
           "registered_in",           "run_elastix", "simulate_phase"]

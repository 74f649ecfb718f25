"""Register scans of one patient onto one grid, with elastix, and refuse what is worse than doing nothing."""

from maml_toolkit.data.registration.checks import Measures
from maml_toolkit.data.registration.examinations import RegisteredCase, register_case, register_cases
from maml_toolkit.data.registration.recipes import RECIPES, Recipe
from maml_toolkit.data.registration.registering import Registration, register, run_elastix
from maml_toolkit.data.registration.simulation import Simulated, simulate_phase
from maml_toolkit.data.registration.transforms import Transform

__all__ = ["RECIPES", "Measures", "Recipe", "RegisteredCase", "Registration", "Simulated", "Transform", "register",
           "register_case", "register_cases", "run_elastix", "simulate_phase"]

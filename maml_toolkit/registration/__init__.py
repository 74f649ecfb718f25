"""Register scans of one patient onto one grid, with elastix, and refuse what is worse than doing nothing."""

from maml_toolkit.registration.cases import RegisteredCase, register_case, register_cases, registered_in
from maml_toolkit.registration.checks import Measures
from maml_toolkit.registration.registering import RECIPES, Recipe, Refused, Registration, register
from maml_toolkit.registration.simulation import Simulated, simulate_phase
from maml_toolkit.registration.transforms import Transform

__all__ = ["RECIPES", "Measures", "Recipe", "Refused", "RegisteredCase", "Registration", "Simulated", "Transform",
           "register", "register_case", "register_cases", "registered_in", "simulate_phase"]

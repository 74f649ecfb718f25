"""The methods by name. A new one is a file here and a line in METHODS; it inherits the contract's tests."""

from maml_toolkit.methods.early_fusion import EarlyFusion
from maml_toolkit.methods.hemis import HeMIS
from maml_toolkit.methods.hyperpairing import HyperPairing
from maml_toolkit.methods.kdnet import KDNet
from maml_toolkit.methods.late_fusion import LateFusion
from maml_toolkit.methods.maml import MAML
from maml_toolkit.methods.method import Method
from maml_toolkit.methods.octopusnet import OctopusNet
from maml_toolkit.methods.uhved import UHVED

METHODS: dict[str, type[Method]] = {method.name: method for method in (
    MAML, EarlyFusion, LateFusion, OctopusNet, HyperPairing, HeMIS, UHVED, KDNet)}


def build(name: str, **settings) -> Method:
    """The method of this name with these arguments.

    Raises:
        ValueError: no method has this name, or it does not take one of the arguments.
    """
    if name not in METHODS:
        raise ValueError(f"found the method {name!r}, expected one of {', '.join(METHODS)}")
    try:
        return METHODS[name](**settings)
    except TypeError as error:
        raise ValueError(f"{name} was given {sorted(settings)}: {error}") from error

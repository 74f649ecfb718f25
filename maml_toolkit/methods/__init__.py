"""The methods by name. A new one is a file here and a line in METHODS; it inherits the contract's tests."""

from inspect import Parameter, signature

from maml_toolkit.methods.early_fusion import EarlyFusion
from maml_toolkit.methods.hemis import HeMIS
from maml_toolkit.methods.hyperpairing import HyperPairing
from maml_toolkit.methods.kdnet import KDNet
from maml_toolkit.methods.late_fusion import LateFusion
from maml_toolkit.methods.maml import MAML
from maml_toolkit.methods.method import Method
from maml_toolkit.methods.octopusnet import OctopusNet
from maml_toolkit.methods.uhved import UHVED
from maml_toolkit.system.errors import expect_one_of, nearest

METHODS: dict[str, type[Method]] = {method.name: method for method in (
    MAML, EarlyFusion, LateFusion, OctopusNet, HyperPairing, HeMIS, UHVED, KDNet)}
"""Name -> class of each method, as checkpoints, jobs and `build` name it."""


def arguments(method: type[Method]) -> list[str]:
    """The names of the arguments of a method, its own first."""
    named = {name: one.kind for kind in (method, Method) for name, one in signature(kind).parameters.items()}
    return [name for name, kind in named.items() if kind is not Parameter.VAR_KEYWORD and name != "own"]


def build(name: str, **settings) -> Method:
    """The method of this name with these arguments.

    Raises:
        ValueError: no method has this name, or it does not take one of the arguments.
    """
    expect_one_of("method", name, METHODS)
    known = arguments(METHODS[name])
    if unknown := [one for one in settings if one not in known]:
        named = ", ".join(f"{one!r}{nearest(one, known)}" for one in unknown)
        raise ValueError(f"{name} has no argument {named}, expected some of {', '.join(known)}")
    try:
        return METHODS[name](**settings)
    except TypeError as error:
        raise ValueError(f"{name} was given {sorted(settings)}: {error}") from error

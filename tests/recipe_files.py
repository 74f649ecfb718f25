"""A recipe as a module: recipes/ is no package."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def recipe(name: str) -> Iterator[ModuleType]:
    """recipes/<name>.py, known by its name as long as the block lasts, since dataclasses look there."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "recipes" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]

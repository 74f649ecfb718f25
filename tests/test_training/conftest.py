"""Cases for the tests of training."""

import pytest

from maml_toolkit.data import phantoms


@pytest.fixture(scope="module")
def cases():
    """Three small cases of two phases, one lesion class."""
    return phantoms.liver_phases(3, size=16)

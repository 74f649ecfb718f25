"""Short ways to ask the cache in tests."""

from pathlib import Path

from maml_toolkit.data.cache import Preparation, prepare_all
from maml_toolkit.data.records import record_of


def is_cached(case, task, cache):
    """Whether a case was prepared before, from files of the same content for the same task."""
    return record_of(Path(cache) / case.id, case, task) is not None


def cached(case, task, cache):
    """The arrays of one case, from the cache where they are there."""
    return prepare_all([case], task, cache)[0]


def contents(cases, task, cache=None):
    """Case -> checksum of all that a training reads of it."""
    return Preparation(task, cache).contents(cases)

"""The cases of a training: checked against the method, then prepared as it reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maml_toolkit.data.audit import audit
from maml_toolkit.data.cache import contents, is_cached, prepare_all
from maml_toolkit.data.cases import Case, expect_cases, same_twice
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.preprocessing import with_spacing
from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import Method
from maml_toolkit.system.errors import DataError, MissingModalityError, warn_of


def check_cases(method: Method, training: Sequence[Case], validation: Sequence[Case]) -> None:
    """What can be known of the cases without reading them.

    Raises:
        TypeError: they are a path, or no cases.
        DataError: everything that is wrong with them, together.
    """
    for cases in (training, validation):
        expect_cases(cases)
    errors = [] if training else [DataError("found no training case, expected at least one", "Check the list.")]
    for case in (*training, *validation):
        try:
            method.present(set(case.images) & set(method.modalities), training=True)
        except MissingModalityError as error:
            errors.append(MissingModalityError(error.problem, error.remedy, case=case.id))
        if case.label is None:
            errors.append(DataError("it has no label", "Add the label, or leave the case out.", case=case.id))
    if errors := errors + same_twice((*training, *validation)):
        raise DataError.together(errors)


def with_spacing_of(training: Sequence[Case], validation: Sequence[Case], task: Task) -> Task:
    """The task with its own spacing, or the median over the training cases.

    Raises:
        DataError: everything that is wrong with the files, together, where a header cannot be read.
    """
    try:
        return with_spacing(task, training)
    except DataError:
        _check([training, validation], task)
        raise


def prepared_for(method: Method, training: Sequence[Case], validation: Sequence[Case], task: Task,
                 cache: str | Path | None) -> tuple[list[PreparedCase], list[PreparedCase]]:
    """The cases as arrays of the method's modalities; checked, unless they passed before and are cached.

    Raises:
        DataError: everything that is wrong with their files, together.
    """
    _check([cases if not all(is_cached(case, task, cache) for case in cases) else ()
            for cases in (training, validation)], task)
    ready = [case.of(method.modalities) for case in prepare_all([*training, *validation], task, cache)]
    return ready[:len(training)], ready[len(training):]


def contents_of(training: Sequence[Case], validation: Sequence[Case], task: Task,
                cache: str | Path | None) -> dict[str, str]:
    """Case -> checksum of what its files hold, by which a run knows its data again.

    Raises:
        DataError: everything that is wrong with the files, together, where one cannot be read.
    """
    try:
        return contents([*training, *validation], task, cache)
    except DataError:
        _check([training, validation], task)
        raise


def _check(parts: Sequence[Sequence[Case]], task: Task) -> None:
    """Nothing, when an audit of the training and of the validation cases finds no error; else all that it finds."""
    found = [audit(cases, task, training=part == 0) for part, cases in enumerate(parts) if cases]
    warn_of([oddity for one in found for oddity in one.oddities])
    if errors := [error for one in found for error in one.errors]:
        raise DataError.together(errors)

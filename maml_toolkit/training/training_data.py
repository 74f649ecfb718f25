"""The cases of a training: checked against the method, then prepared as it reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from maml_toolkit.data.audit import audit
from maml_toolkit.data.cache import Preparation
from maml_toolkit.data.cases import Case, expect_cases, same_twice
from maml_toolkit.data.prepared import PreparedCase
from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import Method
from maml_toolkit.system.errors import DataError, MissingModalityError, warn_of
from maml_toolkit.training import distributed

T = TypeVar("T")

WORKERS = 2
"""Cases that are read at the same time."""


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


class TrainingData:
    """The cases of a training: checked, and prepared from the same reading of their files.

    Args:
        training, validation: the cases.
        task: of the cases; without a spacing it gets the median over the training cases.
        cache: folder for their arrays; None keeps them in memory.
        begun: the run was begun before. It may be finished, so without a cache its data is only looked at, and read
            when the arrays are asked for.

    Raises:
        DataError: everything that is wrong with their files, together.
    """

    def __init__(self, training: Sequence[Case], validation: Sequence[Case], task: Task, cache: str | Path | None,
                 begun: bool = False):
        self.parts, self.preparation = (training, validation), Preparation(task, cache)
        if cache:
            with distributed.first_goes_first():
                self._read()
        elif not begun:
            self._read()
        self.task = self._or_all(lambda: self.preparation.take_spacing(training))

    def contents(self) -> dict[str, str]:
        """Case -> checksum of what its files hold, by which a run knows its data again.

        Raises:
            DataError: everything that is wrong with the files, together, where one cannot be read.
        """
        return self._or_all(lambda: self.preparation.contents([*self.parts[0], *self.parts[1]]))

    def arrays(self, method: Method) -> tuple[list[PreparedCase], list[PreparedCase]]:
        """Training and validation cases as arrays of the method's modalities.

        Raises:
            DataError: everything that is wrong with their files, together.
        """
        self._read()
        with distributed.first_goes_first() if self.preparation.cache else nullcontext():
            return tuple([case.of(method.modalities) for case in self.preparation.all(cases)] for cases in self.parts)

    def _read(self) -> None:
        """Nothing, when an audit of the training and of the validation cases finds no error; else all that it finds.

        Cases of which there are arrays passed before.
        """
        found = [audit(cases, self.preparation.task, training=part == 0, workers=WORKERS, preparation=self.preparation)
                 for part, cases in enumerate(self.parts) if not all(map(self.preparation.has, cases))]
        warn_of([oddity for one in found for oddity in one.oddities])
        if errors := [error for one in found for error in one.errors]:
            raise DataError.together(errors)

    def _or_all(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except DataError:
            self._read()
            raise

"""The errors and warnings that a user can do something about: what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
import itertools
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from importlib import import_module
from os import PathLike
from types import ModuleType


class DataError(ValueError):
    """A file, a case or a data set that cannot be used as it is.

    Attributes:
        problem: what was found and what was expected, as one sentence.
        remedy: what the user can do about it.
        case, modality, path: where, as far as known.
        errors: every single problem, when several are reported together (else just this one).
    """

    def __init__(self, problem: str, remedy: str = "", *, case: str | None = None, modality: str | None = None,
                 path: str | PathLike | None = None, errors: Sequence[DataError] = ()):
        self.problem, self.remedy = problem, remedy
        self.case, self.modality, self.path = case, modality, path
        self.errors = tuple(errors) or (self,)

    def __str__(self) -> str:
        named = (("case", self.case), ("modality", self.modality), ("file", self.path))
        where = ", ".join(f"{name} {value}" for name, value in named if value is not None)
        remedy = f"\n  Remedy: {self.remedy}" if self.remedy else ""
        return shown(": ".join(filter(None, (where, self.problem))) + remedy)

    def to_json(self) -> dict[str, str | None]:
        """What it says, as plain values; what is not known is None."""
        return {"case": self.case, "modality": self.modality, "path": None if self.path is None else str(self.path),
                "problem": self.problem, "remedy": self.remedy}

    @classmethod
    def together(cls, errors: Iterable[DataError]) -> DataError:
        """One error that reports all of `errors`; a single one is returned as it is."""
        errors = [single for error in errors for single in error.errors]
        if len(errors) == 1:
            return errors[0]
        listed = "\n".join(f"- {line}" for line in grouped(errors))
        return cls(f"{len(errors)} problems were found:\n{listed}", errors=errors)

    def at(self, case: str | None = None, modality: str | None = None,
           path: PathLike | str | None = None) -> DataError:
        """The same, told anew, with the place where it happened wherever it names none."""
        if self.errors != (self,):
            return DataError.together(one.at(case, modality, path) for one in self.errors)
        found = copy(self)
        found.case, found.modality, found.path = self.case or case, self.modality or modality, self.path or path
        found.errors = (found,)
        return found


def expect_none(problems: Iterable[DataError]) -> None:
    """Nothing, if there is no problem.

    Raises:
        DataError: all of them, together.
    """
    if problems := list(problems):
        raise DataError.together(problems)


@contextmanager
def collected(problems: list[DataError], case: str | None = None, path: PathLike | str | None = None,
              modality: str | None = None) -> Iterator[None]:
    """Keeps the problems of the block for later, with the place where they happened if they name none.

    They are told anew, without the frames in which they were raised, for those hold the volumes that were read.
    """
    try:
        yield
    except DataError as error:
        problems += error.at(case, modality, path).errors


@contextmanager
def unless(problem: str, remedy: str, path: PathLike | str | None) -> Iterator[None]:
    """Does what the block says, or tells the problem with the system's own reason.

    Raises:
        DataError: the operating system refused.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{problem} ({error.strerror or error})", remedy, path=path) from error


def shown(text: object) -> str:
    r"""Text that can be written in UTF-8; bytes of a name in another encoding are escaped.

    >>> shown("M\udcfcller")
    'M\\xfcller'
    """
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def grouped(errors: Iterable[DataError]) -> list[str]:
    """The messages of the errors; one that several cases have word for word is told once, with the cases' ids.

    >>> grouped([DataError("it has no label", case=case) for case in ("a", "b")])
    ['cases a, b: it has no label']
    """
    return [str(ones[0] if len(ones) == 1 else _of_several(ones)) for ones in alike(errors)]


def alike(errors: Iterable[DataError]) -> list[list[DataError]]:
    """The errors, those together that several cases have word for word."""
    found: dict[tuple, list[DataError]] = {}
    for error in errors:
        found.setdefault((error.modality, error.problem, error.remedy), []).append(error)
    return list(found.values())


def _of_several(errors: Sequence[DataError]) -> DataError:
    """All of the cases and how many files; every error counts."""
    ids, paths = (list(dict.fromkeys(str(getattr(error, name)) for error in errors if getattr(error, name) is not None))
                  for name in ("case", "path"))
    where = [f"{'cases' if len(ids) > 1 else 'case'} {', '.join(ids)}"] if ids else []
    where += [f"modality {errors[0].modality}"] if errors[0].modality is not None else []
    where += [f"file {few(paths, 1)}"] if paths else []
    times = "" if max(len(ids), len(paths)) == len(errors) else f" ({len(errors)} times)"
    return DataError(": ".join(filter(None, (", ".join(where), errors[0].problem))) + times, errors[0].remedy)


def few(names: Sequence[str], count: int = 5) -> str:
    """The first names, and how many more there are.

    >>> few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def counted(number: int, noun: str, several: str = "") -> str:
    """How many of something.

    >>> counted(1, "case"), counted(2, "case"), counted(2, "oddity", "oddities")
    ('1 case', '2 cases', '2 oddities')
    """
    return f"{number} {noun if number == 1 else several or noun + 's'}"


def with_extra(extra: str) -> str:
    """The command that installs what an extra brings; there is no release to install by name yet.

    >>> with_extra("dicom")
    'pip install -e ".[dicom]" in your clone of maml_toolkit'
    """
    return f'pip install -e ".[{extra}]" in your clone of maml_toolkit'


def imported(module: str, extra: str, what: str) -> ModuleType:
    """A module that an extra brings.

    Args:
        what: needs it, as the end of "which …".

    Raises:
        ModuleNotFoundError: it is not installed; how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{module} is not installed, which {what}; install it with "
                                  f"{with_extra(extra)}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Did you mean, in parentheses, where something has nearly this name; else nothing.

    >>> nearest("mmal", ["maml", "kdnet"])
    " (did you mean 'maml'?)"
    """
    near = near_to(name, known)
    return f" (did you mean {near!r}?)" if near else ""


def near_to(name: str, known: Iterable[str]) -> str | None:
    """What may have been meant by a name: what differs by a letter or two or in case, not what has another number.

    A year from 2000 on may have two digits.

    >>> near_to("brats21", ["brats2023", "brats2021"]), near_to("patient_0001", ["patient_2001"])
    ('brats2021', None)

    >>> near_to("fliar", ["t1", "flair"]), near_to("dwi", ["t1", "flair"]), near_to("BraTS2021", ["brats2021"])
    ('flair', None, 'brats2021')
    >>> near_to("pet", ["t2"]), near_to("brats2020", ["brats2024"]), near_to("case_2", ["case_02", "case_12"])
    (None, None, 'case_02')
    """
    def same_numbers(text: str) -> bool:
        found = (re.findall(r"\d+", one) for one in (text, name))
        pairs = (sorted(pair, key=len) for pair in itertools.zip_longest(*found, fillvalue=""))
        return all(one and (int(one) == int(other) or (len(one) == 2 and other == f"20{one}")) for one, other in pairs)

    alike = {one.casefold(): one for one in known if same_numbers(one)}
    return next((alike[one] for one in difflib.get_close_matches(name.casefold(), alike, n=1, cutoff=0.7)), None)


def expect_one_of(name: str, found: object, known: Iterable[str]) -> None:
    """Nothing, if what was given for an argument is one of the known words.

    Raises:
        ValueError: it is none.
    """
    if found not in (words := list(known)):
        listed = ", ".join(str(one) or repr(one) for one in words)
        raise ValueError(f"found {name}={found!r}{nearest(str(found), words)}, expected one of {listed}")


class DataWarning(UserWarning):
    """Something odd about the data that may be meant."""


def warn_of(oddities: Sequence[DataError]) -> None:
    """One DataWarning of everything odd; none where nothing is."""
    if oddities:
        warnings.warn("\n".join(grouped(oddities)), DataWarning, stacklevel=3)


@contextmanager
def silenced(*loggers: str, below: int = logging.CRITICAL) -> Iterator[None]:
    """Without what these loggers of libraries say below a level; what goes wrong is raised."""
    before = {logging.getLogger(name): logging.getLogger(name).level for name in loggers}
    try:
        for logger in before:
            logger.setLevel(below)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


class MissingModalityError(DataError):
    """A method was asked for an answer from modalities that it does not know or cannot do without."""

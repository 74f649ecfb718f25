"""The header of a DICOM file, read without a warning, since those quote it, and its values where they are usable."""

from __future__ import annotations

import datetime
import hashlib
import importlib
import logging
import math
import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def library(name: str) -> Any:
    """A module of pydicom or highdicom.

    Raises:
        ImportError: they are not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'DICOM needs {name.partition(".")[0]}: pip install "maml_toolkit[dicom]"') from error


@contextmanager
def unquoted() -> Iterator[None]:
    """Keeps what pydicom and highdicom warn of or log to itself, for they quote the header."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def opened(source: Any, **settings: Any) -> Any:
    """The pydicom dataset of a file (a path, or open for reading), with a transfer syntax in any case."""
    with unquoted():
        dataset = library("pydicom").dcmread(source, force=True, **settings)
    if "TransferSyntaxUID" not in dataset.file_meta:
        uids = library("pydicom.uid")
        dataset.file_meta.TransferSyntaxUID = (
            uids.ImplicitVRLittleEndian if dataset.original_encoding[0] else uids.ExplicitVRLittleEndian)
    return dataset


def digest(*texts: Any) -> str:
    """48 bits that stand for identifiers and do not give them away."""
    return hashlib.sha256("\0".join(map(str, texts)).encode()).hexdigest()[:12]


def several(value: Any) -> list[Any]:
    """The values of an element that may hold none, one or many."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, library("pydicom.multival").MultiValue) else [value]


def numbers(header: Any, name: str, count: int) -> tuple[float, ...] | None:
    """The values of an element, if these are finite numbers and as many as expected."""
    try:
        numbers = tuple(float(number) for number in several(header.get(name)))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def orientation(header: Any) -> tuple[float, ...] | None:
    """Two directions, if they are at a right angle, as far as rounded numbers tell (0.1 degree)."""
    if (cosines := numbers(header, "ImageOrientationPatient", 6)) is None:
        return None
    row, column = cosines[:3], cosines[3:]
    is_unit = all(abs(math.hypot(*axis) - 1) < 0.01 for axis in (row, column))
    return cosines if is_unit and abs(sum(map(operator.mul, row, column))) < math.radians(0.1) else None


def spacing_mm(header: Any) -> tuple[float, ...] | None:
    """From row to row and from column to column."""
    distances = numbers(header, "PixelSpacing", 2)
    return distances if distances and min(distances) > 0 else None


def seconds(header: Any) -> float | None:
    """When it was taken; the date counts, so that an examination may last until after midnight."""
    moment = str(header.get("AcquisitionDateTime") or "")
    times = (header.get("AcquisitionTime"), moment[8:], header.get("SeriesTime"), header.get("ContentTime"))
    dates = (header.get("AcquisitionDate"), moment[:8], header.get("SeriesDate"), header.get("StudyDate"))
    time = next(filter(None, (re.match(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)?", str(one or "")) for one in times)), None)
    date = next(filter(None, (re.match(r"(\d{4})\.?(\d\d)\.?(\d\d)", str(one or "")) for one in dates)), None)
    if time is None:
        return None
    hours, minutes, rest = (float(part or 0) for part in time.groups())
    days = _days(*map(int, date.groups())) if date else 0
    return days * 86400 + hours * 3600 + minutes * 60 + rest


def _days(year: int, month: int, day: int) -> int:
    try:
        return datetime.date(year, month, day).toordinal()
    except ValueError:                                 # 00000000, as some anonymisers write
        return 0

"""The header of a DICOM file, read without a warning, since those quote it; its values and its text as far as usable.

What identifies the patient becomes a digest, or is taken out of the text.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import logging
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from maml_toolkit.system.errors import with_extra

HIDDEN = "…"
"""Stands where something was taken out of a text."""

_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


def library(name: str) -> Any:
    """A module of pydicom or highdicom.

    Raises:
        ImportError: they are not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"DICOM needs {name.partition('.')[0]}: {with_extra('dicom')}") from error


@contextmanager
def unquoted() -> Iterator[None]:
    """Keeps what pydicom and highdicom warn of or log to itself, for they quote the header."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(action="ignore"):
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
    return list(value) if isinstance(value, MutableSequence) else [value]


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
    is_unit = all(abs(math.hypot(*axis) - 1) < 0.01 for axis in (cosines[:3], cosines[3:]))
    return cosines if is_unit and abs(np.dot(cosines[:3], cosines[3:])) < math.radians(0.1) else None


def spacing_mm(header: Any) -> tuple[float, ...] | None:
    """From row to row and from column to column."""
    distances = numbers(header, "PixelSpacing", 2)
    return distances if distances and min(distances) > 0 else None


def seconds(header: Any) -> float | None:
    """When it was taken; the date counts, so that an examination may last until after midnight."""
    moment = str(header.get("AcquisitionDateTime") or "")
    times = (header.get("AcquisitionTime"), moment[8:], header.get("SeriesTime"), header.get("ContentTime"))
    dates = (header.get("AcquisitionDate"), moment[:8], header.get("SeriesDate"), header.get("StudyDate"))
    time, date = (next(filter(None, (re.match(pattern, str(one or "")) for one in ones)), None) for pattern, ones in (
        (r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)?", times), (r"(\d{4})\.?(\d\d)\.?(\d\d)", dates)))
    if time is None:
        return None
    hours, minutes, rest = (float(part or 0) for part in time.groups())
    days = 0
    with suppress(ValueError):                         # 00000000, as some anonymisers write
        days = datetime.date(*map(int, date.groups())).toordinal() if date else 0
    return days * 86400 + hours * 3600 + minutes * 60 + rest


def without_identity(text: str, identity: Mapping[str, Sequence[str]]) -> str:
    """The text with "…" in the place of every part of these values, of every date, and of every long number.

    Letter case and accents do not matter. Parts of four letters and more are found inside words too. A person should
    still read what is left before it is passed on: a nickname is nowhere else in the header.

    Args:
        identity: by the keyword of the header: names, ids, dates (YYYYMMDD).

    >>> without_identity("Liver art. (MUELLER, 3.4.1961)", {"PatientName": ["Müller^Jörg"]})
    'Liver art. (…, …)'
    """
    patterns = [r"\d+(?:\.\d+){4,}", r"\d{1,4}([./-])\d{1,2}\1\d{1,4}", r"\d{6,}"]
    for part in sorted(set(_parts(identity)), key=len, reverse=True):
        plain = "".join(one for one in unicodedata.normalize("NFD", part) if not unicodedata.combining(one))
        for spelling in map(re.escape, {part, plain, part.lower().translate(_GERMAN)}):
            patterns.append(spelling if len(part) > 3 else rf"(?<![^\W_]){spelling}(?![^\W_])")
    text = unicodedata.normalize("NFC", text)
    for pattern in patterns:
        text = re.sub(pattern, HIDDEN, text, flags=re.IGNORECASE)
    return text


def _parts(identity: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name, values in identity.items():
        for value in values:
            value = unicodedata.normalize("NFC", value).strip()
            if name == "StudyID" and len(value) < 4:
                continue                               # usually "1"
            if name.endswith("Date") and re.fullmatch(r"\d{8}", value):
                yield from (value, value[6:] + value[4:6] + value[:4], value[2:])
            elif value:
                yield value
                yield from filter(None, re.split(r"[\s^=,;._-]+", value))

"""What of a DICOM header could say who the patient is: digests in its place, and descriptions without it."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HIDDEN = "…"
"""Stands where something was taken out of a text."""

_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})

IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientBirthName", "OtherPatientNames", "OtherPatientIDs",
            "AccessionNumber", "StudyID", "StudyDate", "InstitutionName", "ReferringPhysicianName",
            "PerformingPhysicianName", "OperatorsName")
"""Keywords of a header that say who the patient is, and what else goes with that."""


def digest(*texts: Any) -> str:
    """48 bits that stand for identifiers and do not give them away."""
    return hashlib.sha256("\0".join(map(str, texts)).encode()).hexdigest()[:12]


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

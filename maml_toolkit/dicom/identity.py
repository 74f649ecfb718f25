"""Free text of a header without what it says of the patient."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

HIDDEN = "…"
"""Stands where something was taken out."""

_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


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
        for spelling in _spellings(part):
            inside = re.escape(spelling)
            patterns.append(inside if len(part) > 3 else rf"(?<![^\W_]){inside}(?![^\W_])")
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


def _spellings(part: str) -> set[str]:
    """The part itself, without accents, and with the umlauts written out."""
    plain = "".join(letter for letter in unicodedata.normalize("NFD", part) if not unicodedata.combining(letter))
    return {part, plain, part.lower().translate(_GERMAN)}

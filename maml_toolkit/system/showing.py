"""How objects show themselves: at most three lines in a shell, a small page without script in a notebook.

An object knows what is to be said of it; what draws that stands on a higher floor, of which this one knows nothing.
The root of the package, which stands above all floors, says who draws (`drawn_by`), and whoever that is gets loaded
when a notebook asks for the first time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from typing import Any

drawn_by = ""
"""The module whose `card(object)` draws; set by the root of the package."""

LINE = 94
"""Letters of a line, so that three of them have less than 300."""


@dataclass(frozen=True)
class Facts:
    """What is to be said of an object.

    Attributes:
        title: what it is, in a line.
        rows: name -> text.
        marked: the names whose texts stand out.
        faults: sentences about what is wrong.
    """

    title: str
    rows: Mapping[str, str] = field(default_factory=dict)
    marked: Sequence[str] = ()
    faults: Sequence[str] = ()


class Shown:
    """Has an object show itself in a notebook.

    It is only looked at: nothing is changed, and whatever cannot be drawn (a file that is gone) is said in its place.
    """

    def _repr_html_(self) -> str:
        try:
            return self._card()
        except Exception as error:      # whatever a file, an extra or a half-made object may raise
            return (f"<p><b>{escape(type(self).__name__)}</b>: cannot be drawn "
                    f"({escape(f'{type(error).__name__}: {error}'[:500])})</p>")

    def _card(self) -> str:
        return import_module(drawn_by).card(self)


def in_lines(*lines: str) -> str:
    """Up to three lines for a shell, each cut where it is too long; empty ones are left out.

    >>> in_lines("Case p1: t1, t2", "")
    'Case p1: t1, t2'
    """
    cut = [" ".join(line.split()) for line in lines if line][:3]
    return "\n".join(line if len(line) <= LINE else f"{line[:LINE - 1]}…" for line in cut)


def size(count: float) -> str:
    """Bytes in GB, of 10^9 each.

    >>> size(31.4e9), size(11.84e9)
    ('31 GB', '11.8 GB')
    """
    return f"{count / 1e9:.0f} GB" if count >= 19.95e9 else f"{count / 1e9:.1f} GB"


def duration(hours: float) -> str:
    """How long, in the unit that one would use.

    >>> duration(0.01), duration(0.5), duration(8), duration(100), duration(24 * 150)
    ('1 minute', '30 minutes', '8.0 hours', '4.2 days', '4.9 months')
    """
    for unit, length in (("months", 24 * 30.44), ("weeks", 7 * 24), ("days", 24)):
        if hours >= 2 * length:
            return f"{hours / length:.1f} {unit}"
    minutes = max(1, round(60 * hours))
    return f"{hours:.1f} hours" if hours >= 1.5 else f"{minutes} minute{'s' * (minutes > 1)}"


def edges(sizes: Iterable[Any]) -> str:
    """A patch, or the size of another box.

    >>> edges((96, 112, 80))
    '96x112x80'
    """
    return "x".join(map(str, sizes))


def widths(channels: Iterable[int]) -> str:
    """The stages of a U-Net.

    >>> widths((32, 64))
    '32-64'
    """
    return "-".join(map(str, channels))

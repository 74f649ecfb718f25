"""A table on its way to a reader: as text, as HTML, as LaTeX, as CSV, always with the caption that says what it is."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from maml_toolkit.system import tables
from maml_toolkit.system.files import write_whole


@dataclass(frozen=True, repr=False)
class Printed:
    """A table of words and its caption.

    Attributes:
        frame: cells as they are printed.
        caption: what the numbers are, and under which protocol.
    """

    frame: pd.DataFrame
    caption: str

    def text(self) -> str:
        """Fixed width, for a terminal."""
        return self.frame.to_string(index=False) + "\n\n" + textwrap.fill(self.caption, 100)

    def html(self) -> str:
        """A <table> with its caption, for a page or a notebook."""
        drawn = self.frame.to_html(index=False, escape=True, border=0)
        start = drawn.index(">") + 1
        caption = f'<caption style="caption-side: bottom">{html.escape(self.caption)}</caption>'
        return f"{drawn[:start]}\n  {caption}{drawn[start:]}"

    def latex(self) -> str:
        """A table environment with booktabs rules."""
        return self.frame.to_latex(index=False, escape=True, caption=self.caption.replace("%", r"\%"))

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return self.text()

    def save(self, stem: str | Path) -> None:
        """Write stem.txt, stem.html, stem.tex and stem.csv."""
        stem = Path(stem)
        for ending, content in (("txt", self.text()), ("html", self.html()), ("tex", self.latex())):
            write_whole(stem.with_name(f"{stem.name}.{ending}"), content + "\n" * (ending == "txt"))
        tables.write(stem.with_name(f"{stem.name}.csv"), self.frame)

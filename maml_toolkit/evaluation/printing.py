"""A table on its way to a reader: as text, as HTML, as LaTeX, as CSV, always with the caption that says what it is."""

import html
import textwrap
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from maml_toolkit.system import tables
from maml_toolkit.system.errors import counted
from maml_toolkit.system.files import write_whole
from maml_toolkit.system.showing import in_lines

PRESENT, MISSING, NO_VALUE = "●", "○", "–"
AVERAGE = "average"

LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", PRESENT: r"$\bullet$", MISSING: r"$\circ$",
    "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "±": r"$\pm$", "−": "$-$", "²": "$^2$", "³": "$^3$",
    NO_VALUE: "--"} | {sign: "\\" + sign for sign in "&%$#_"})
"""What plain LaTeX would take for a command, or has no letter for."""


@dataclass(frozen=True, repr=False)
class Printed:
    """A table of words and its caption.

    Attributes:
        frame: cells as they are printed. Of a table over subsets, a row for each subset (called "t1+flair"), "average"
            and what is published; columns: the modalities, then the regions; with several methods or policies, pairs of
            (group, region), where the group of a modality is "".
        caption: what the numbers are, and under which protocol.
        modalities: of a table over subsets, those whose subsets these are, in the order of their columns.
        missing: subsets for which at least one column has no value.
    """

    frame: pd.DataFrame
    caption: str
    modalities: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def text(self) -> str:
        """Fixed width, for a terminal; all lines of the table are equally wide."""
        with pd.option_context("display.unicode.east_asian_width", True):
            lines = self._cells().to_string(index=False).splitlines()
        rule = "─" * max(map(_width, lines))
        for place in reversed(self._ends()):
            lines.insert(self.frame.columns.nlevels + place, rule)
        return "\n".join(lines) + "\n\n" + textwrap.fill(self.caption, max(72, len(rule)))

    def html(self) -> str:
        """A <table> with its caption, for a page or a notebook; needs no style sheet."""
        drawn = self._styled(html.escape).to_html(exclude_styles=True).rstrip("\n")
        drawn = drawn.replace("<th ", '<th scope="col" ')          # every head stands over a column, none beside a row
        return drawn.replace("<caption>", '<caption style="caption-side: bottom">', 1)

    def latex(self) -> str:
        r"""A table environment with booktabs rules; needs \usepackage{booktabs} only."""
        marks = len(self.modalities)
        columns = "c" * marks + ("r" if marks else "l") * (self.frame.shape[1] - marks)
        lines = self._styled(lambda text: text.translate(LATEX)).to_latex(
            hrules=True, position_float="centering", column_format=columns, multicol_align="c").splitlines()
        first = lines.index(r"\midrule") + 1
        for place in reversed(self._ends()[1:]):
            lines.insert(first + place, r"\midrule")
        return "\n".join(lines)

    def save(self, stem: str | Path) -> None:
        """Write stem.txt, stem.html, stem.tex and stem.csv, each whole or not at all.

        The CSV has one line of column names ("maml WT" where there are groups) and nothing where a value is missing.
        """
        stem, flat = Path(stem), self.frame.replace(NO_VALUE, "")
        if flat.columns.nlevels > 1:
            flat.columns = [" ".join(filter(None, name)) for name in flat.columns]
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(stem.name)}</title>'
        for ending, content in (("txt", self.text()), ("html", f"{head}\n{self.html()}"), ("tex", self.latex())):
            write_whole(stem.with_name(f"{stem.name}.{ending}"), content + "\n")
        tables.write(stem.with_name(f"{stem.name}.csv"),
                     flat.rename_axis("subset").reset_index() if self.modalities else flat)

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        names = [" ".join(filter(None, name)) if isinstance(name, tuple) else str(name) for name in self.frame]
        return in_lines(f"Table of {counted(len(self.frame), 'row')}: {', '.join(names)}", self.caption,
                        "print it to see its rows")

    def __str__(self) -> str:
        return self.text()

    def _cells(self) -> pd.DataFrame:
        """The frame; a row that is no subset says in place of its first mark what it is."""
        cells = self.frame.reset_index(drop=True).astype(str)
        for row in range(self._subsets(), len(cells)):
            cells.iloc[row, 0] = self.frame.index[row]
        return cells

    def _styled(self, escape: Callable[[str], str]) -> Styler:
        styled = self._cells().style.hide(axis="index").set_caption(escape(self.caption)).format(escape)
        for level in range(self.frame.columns.nlevels):
            styled = styled.format_index(escape, axis="columns", level=level)
        return styled

    def _subsets(self) -> int:
        """How many rows are subsets, which alone have marks; all rows of another table are as one."""
        return list(self.frame.index).index(AVERAGE) if self.modalities else len(self.frame)

    def _ends(self) -> list[int]:
        """The rows above which a rule stands: the first, the average, and the first that is published."""
        first = self._subsets()
        return [0, *(place for place in (first, first + 1) if self.modalities and place < len(self.frame))]


def _width(text: str) -> int:
    """Columns of a terminal that it takes; letters of East Asia take two."""
    return sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in text)

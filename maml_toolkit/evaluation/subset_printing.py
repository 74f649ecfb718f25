"""How the table over all subsets is drawn: a mark for each modality, numbers for each region, rules between."""

from __future__ import annotations

import html
import itertools
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from maml_toolkit.system import tables
from maml_toolkit.system.files import write_whole

PRESENT, MISSING, NO_VALUE = "●", "○", "–"

LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", PRESENT: r"$\bullet$", MISSING: r"$\circ$",
    "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "±": r"$\pm$", "−": "$-$", "²": "$^2$", "³": "$^3$",
    NO_VALUE: "--"} | {sign: "\\" + sign for sign in "&%$#_"})
"""What plain LaTeX would take for a command, or has no letter for."""


@dataclass(frozen=True, repr=False)
class SubsetTable:
    """What a method is worth from every subset of the modalities, ready to print.

    Attributes:
        frame: cells as they are printed, a row for each subset (called "t1+flair"), "average" and what is
            published. Columns: the modalities, then the regions; with several methods or policies, pairs of
            (group, region), where the group of a modality is "".
        caption: what the numbers are, over how many cases and subsets, and the protocol of the published ones.
        modalities: whose subsets these are, in the order of their columns.
        missing: subsets for which at least one column has no value.
    """

    frame: pd.DataFrame
    caption: str
    modalities: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def text(self) -> str:
        """Fixed width, for a terminal; all lines of the table are equally wide."""
        (_, names, marks), *groups = self._groups()
        blocks = [_left(names, self._labels(), marks), *(_right(*group) for group in groups)]
        lines = ["   ".join(cells) for cells in zip(*blocks, strict=True)]
        head = lines[:2] if self._grouped else lines[1:2]
        rule = "─" * _width(lines[0])
        table = f"\n{rule}\n".join("\n".join(part) for part in (head, *self._parts(lines[2:])))
        return f"{table}\n\n{textwrap.fill(self.caption, max(72, len(rule)))}"

    def html(self) -> str:
        """A <table> with its caption, for a page or a notebook; needs no style sheet."""
        caption = f'<caption style="caption-side: bottom">{html.escape(self.caption)}</caption>'
        groups = "".join(f'<th scope="colgroup" colspan="{len(names)}">{html.escape(group)}</th>'
                         for group, names, _ in self._groups())
        names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in self._names())
        head = [f"<tr>{groups}</tr>"] * self._grouped + [f"<tr>{names}</tr>"]
        rows = [f"<tr>{_html_marks(label, marks)}{_html_cells(cells)}</tr>" for label, marks, cells in self._rows()]
        bodies = [line for part in self._parts(rows) for line in ("<tbody>", *part, "</tbody>")]
        return "\n".join(["<table>", caption, "<thead>", *head, "</thead>", *bodies, "</table>"])

    def latex(self) -> str:
        r"""A table environment with booktabs rules; needs \usepackage{booktabs} only."""
        columns = "c" * len(self.modalities) + "r" * (self.frame.shape[1] - len(self.modalities))
        rows = [_latex_row([_span(label, len(marks), "l")] if label else map(_latex, marks), map(_latex, cells))
                for label, marks, cells in self._rows()]
        ruled = [line for part in self._parts(rows) for line in (r"\midrule", *part)]
        return "\n".join([r"\begin{table}", r"\centering", rf"\caption{{{_latex(self.caption)}}}",
                          rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *self._latex_groups(),
                          _latex_row(map(_latex, self._names())), *ruled, r"\bottomrule", r"\end{tabular}",
                          r"\end{table}"])

    def save(self, stem: str | Path) -> None:
        """Write stem.txt, stem.html, stem.tex and stem.csv, each whole or not at all.

        The CSV has one line of column names ("maml WT" where there are groups) and nothing where a value is missing.
        """
        stem, flat = Path(stem), self.frame.replace(NO_VALUE, "")
        flat.columns = [" ".join(filter(None, name)) if self._grouped else name for name in flat.columns]
        for ending, content in (("txt", self.text()), ("html", self.html()), ("tex", self.latex())):
            write_whole(stem.with_name(f"{stem.name}.{ending}"), content + "\n")
        tables.write(stem.with_name(f"{stem.name}.csv"), flat.rename_axis("subset").reset_index())

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return self.text()

    @property
    def _grouped(self) -> bool:
        return self.frame.columns.nlevels > 1

    @property
    def _subsets(self) -> int:
        """How many rows are subsets, which alone have marks; they come first."""
        return int((self.frame.iloc[:, 0] != "").sum())

    def _parts(self, rows: list[str]) -> list[list[str]]:
        """The rows of the subsets, of the average and of what is published, if there are any."""
        end = self._subsets
        return [part for part in (rows[:end], rows[end:end + 1], rows[end + 1:]) if part]

    def _labels(self) -> list[str]:
        """What stands in place of the marks, for each row; nothing in the row of a subset."""
        return ["" if row < self._subsets else label for row, label in enumerate(self.frame.index)]

    def _rows(self) -> list[tuple[str, list[str], list[str]]]:
        """Label, marks and numbers of each row."""
        count = len(self.modalities)
        return [(label, cells[:count], cells[count:])
                for label, cells in zip(self._labels(), self.frame.to_numpy().tolist(), strict=True)]

    def _names(self) -> list[str]:
        return [name for _, names, _ in self._groups() for name in names]

    def _groups(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Columns under one heading: the heading, their names, their cells. The modalities come first."""
        marks = len(self.modalities)
        pairs = [name if self._grouped else ("", name) for name in self.frame.columns]
        found = []
        for (_, group), several in itertools.groupby(range(len(pairs)), lambda one: (one < marks, pairs[one][0])):
            columns = list(several)
            found.append((group, [pairs[one][1] for one in columns], self.frame.iloc[:, columns].to_numpy().tolist()))
        return found

    def _latex_groups(self) -> list[str]:
        """The line of headings over the groups and the rules under them, if there are groups."""
        if not self._grouped:
            return []
        sizes = [(group, len(names)) for group, names, _ in self._groups()]
        ends = list(itertools.accumulate(size for _, size in sizes))
        rules = [rf"\cmidrule(lr){{{end - size + 1}-{end}}}" for (_, size), end in zip(sizes, ends, strict=True)]
        return [_latex_row(_span(group, size, "c") for group, size in sizes), "".join(rules[1:])]


def _width(text: str) -> int:
    """Columns of a terminal: East Asian letters take two, combining marks none."""
    return sum(0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def _padded(text: str, width: int, share: float) -> str:
    """Text with blanks around it, of which this share stands before it."""
    before = int(share * (blanks := max(0, width - _width(text))))
    return " " * before + text + " " * (blanks - before)


def _left(names: Sequence[str], labels: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of marks, each under the middle of its modality, or of the label that stands in their place."""
    lines = [label or "  ".join(_padded(mark, len(name), 0.5) for mark, name in zip(row, names, strict=True))
             for label, row in zip(labels, cells, strict=True)]
    lines = ["", "  ".join(names), *lines]
    return [_padded(line, max(map(_width, lines)), 0) for line in lines]


def _right(group: str, names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of numbers under the heading of their group."""
    widths = [max(5, *map(_width, column)) for column in zip(names, *cells, strict=True)]
    lines = ["  ".join(_padded(cell, width, 1) for cell, width in zip(row, widths, strict=True))
             for row in (names, *cells)]
    width = max(_width(group), _width(lines[0]))
    return [_padded(group, width, 0.5), *(_padded(line, width, 1) for line in lines)]


def _html_marks(label: str, marks: Sequence[str]) -> str:
    """The marks of a subset, or the label that stands in their place."""
    if label:
        return f'<th scope="row" colspan="{len(marks)}" style="text-align: left">{html.escape(label)}</th>'
    words = {PRESENT: "present", MISSING: "missing"}
    return "".join(f'<td title="{words[mark]}" style="text-align: center">{mark}</td>' for mark in marks)


def _html_cells(cells: Sequence[str]) -> str:
    return "".join(f'<td style="text-align: right">{html.escape(cell)}</td>' for cell in cells)


def _latex(text: str) -> str:
    return text.translate(LATEX)


def _latex_row(*cells: Iterable[str]) -> str:
    return " & ".join(itertools.chain(*cells)) + r" \\"


def _span(text: str, columns: int, place: str) -> str:
    return rf"\multicolumn{{{columns}}}{{{place}}}{{{_latex(text)}}}"

"""What the benchmark leaves behind: benchmark.csv and a page with bars that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from benchmarks.measuring import Row, as_table
from maml_toolkit.pictures.report.pages import page, table
from maml_toolkit.system import tables
from maml_toolkit.system.files import writable, write_whole

COLOURS = {"yes": "#009e73", "no": "#d55e00", "": "#56b4e9"}
"""Of a bar by whether the goal is met; Okabe and Ito's, as in plots."""


def write(rows: Sequence[Row], folder: str | Path, about: str = "") -> Path:
    """benchmark.csv and benchmark.html in a folder; returns the page.

    Args:
        about: one sentence on the machine and the settings.
    """
    folder = writable(Path(folder))
    tables.write(folder / "benchmark.csv", as_table(rows))
    body = [f"<p>{escape(about)}</p>",
            "<p>Medians over turns in which both sides alternate, with the same number of threads.</p>"]
    measured = [row for row in rows if row.row != "scaling"]
    cells = [(escape(row.row), f"{escape(row.what)}<div class='file'>{escape(row.note)}</div>",
              _side(row.ours, row.ours_value, row.unit), _side(row.theirs, row.theirs_value, row.unit),
              bar(row), "" if row.ratio_cpu is None else f"{row.ratio_cpu:.3g}", f"{row.pairs} / {row.occasions}",
              str(row.threads), _goal(row)) for row in measured]
    body.append(table(["row", "what", "ours", "theirs", "ours / theirs", "by CPU time", "turns / occasions", "threads",
                       "goal"], cells, "A bar is ours over theirs; the thin line is the middle half of the turns, the "
                      "mark is the goal. Green meets it, orange does not, blue has none. Of two occasions the less "
                      "favourable one stands here"))
    body += _scaling([row for row in rows if row.row == "scaling"])
    path = folder / "benchmark.html"
    write_whole(path, page("Benchmark", body))
    return path


def bar(row: Row) -> str:
    """The ratio as a bar in SVG, 200 wide for a ratio of 2 or for the largest of its numbers."""
    if row.ratio is None:
        return "not measured"
    numbers = [one for one in (row.ratio, row.highest, row.goal) if one is not None]
    scale = 200 / max(1.0, *numbers)
    lowest, highest = row.lowest or row.ratio, row.highest or row.ratio
    goal = "" if row.goal is None else f'<path d="M{row.goal * scale:.1f} 0v20" stroke="#222" stroke-width="2"/>'
    return (f'<svg width="204" height="20" role="img" aria-label="ratio {row.ratio:.3g}">'
            f'<rect y="4" width="{row.ratio * scale:.1f}" height="12" fill="{COLOURS[row.met]}"/>'
            f'<path d="M{lowest * scale:.1f} 10H{highest * scale:.1f}" stroke="#222"/>{goal}</svg> {row.ratio:.3g}')


def _side(name: str, value: float | None, unit: str) -> str:
    return escape(name) + ("" if value is None else f"<br>{value:.3g} {escape(unit)}")


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{'at least' if row.at_least else 'at most'} {row.goal:.3g}: {row.met}"


def _scaling(rows: Iterable[Row]) -> list[str]:
    """For each measure its points as bars of absolute values, and the line's slope."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.what, []).append(row)
    parts = ["<h2>How cost grows</h2>"] if groups else []
    for what, found in groups.items():
        points = [row for row in found if row.ours != "line"]
        largest = max(row.ours_value for row in points)
        cells = [(escape(row.ours), f'<svg width="300" height="14"><rect width="{300 * row.ours_value / largest:.1f}" '
                  f'height="12" fill="{COLOURS[""]}"/></svg>', f"{row.ours_value:.3g} {escape(row.unit)}")
                 for row in points]
        cells += [("line", f"slope {row.ours_value:.3g} {escape(row.unit)}", f"R² {row.ratio:.3f}")
                  for row in found if row.ours == "line"]
        parts.append(table(["at", "bar", "value"], cells, what))
    return parts

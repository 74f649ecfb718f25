"""The page of an audit: what must be mended and how, and a picture of every scan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from pathlib import Path

import nibabel as nib
import numpy as np

from maml_toolkit.data.audit import Audit, CaseAudit, Seen
from maml_toolkit.data.geometry import grid_difference
from maml_toolkit.pictures.plots.look import class_colours
from maml_toolkit.pictures.report.pages import findings, outlined, picture, shortened, table, written
from maml_toolkit.system.errors import counted


def audit_page(audit: Audit, path: str | Path, source: str | Path | None = None) -> Path:
    """One page with everything that an audit found: what to do, case by case, and a picture of each scan.

    Args:
        path: of the HTML file.
        source: the folder or table that was audited; paths are shown relative to it.
    """
    return written(path, f"Audit of {audit.task.name}", _parts(audit, source))


def _parts(audit: Audit, source: str | Path | None) -> Iterator[str]:
    local = shortened(source)
    yield f"<h1>Audit of {escape(Path(os.path.abspath(source)).name if source else audit.task.name)}</h1>"
    yield f'<p class="verdict">{_verdict(audit)}</p><p>{escape(audit.account)} {escape(audit.task.about_sides)}</p>'
    yield findings("What must be mended", "error", audit.errors, local)
    yield findings("What is odd and may be meant", "warning", audit.oddities, local)
    yield from _how_to_mend(audit)
    yield ("<h2>Every case</h2>"
           "<p>One axial slice through the largest cross-section of the label (the middle where there is none), the "
           "patient's right on the left. <b>Look at each:</b> no program sees that a label with a wrong but consistent "
           "header lies beside the lesion, or that two scans were swapped.</p>")
    yield from (_case(case, audit) for case in audit.cases)
    rows = [[escape(case.case), *_about(one)] for case in audit.cases for one in case.seen]
    yield "<h2>The files</h2>"
    yield table(["Case", "Scan", "Voxels", "Voxel size (mm)", "Axes towards", "Values"], rows)


def _verdict(audit: Audit) -> str:
    cases = len({error.case for error in audit.errors if error.case})
    number = f"{counted(len(audit.cases), 'case')}, task {escape(audit.task.name)}. "
    if audit.errors:
        number += (f"<b>{counted(len(audit.errors), 'problem')} in {counted(cases, 'case')}</b>. Mend what is listed "
                   "below, or leave those cases out; then audit again. Nothing was changed.")
    else:
        number += "<b>No problem was found.</b> Look at the pictures, then go on with <code>prepare</code>."
    if audit.oddities:
        number += f" {counted(len(audit.oddities), 'oddity', 'oddities')} to look at."
    if not audit.checked_labels:
        number += (" No task was named: names were understood as those of this one, and the values of labels were "
                   "<b>not</b> checked. Name the task with <code>--task</code>.")
    return number


def _how_to_mend(audit: Audit) -> Iterator[str]:
    remedies = " ".join(one.remedy for one in (*audit.errors, *audit.oddities))
    if "`mend" in remedies:
        yield ("<p><code>mend --…</code> stands for <code>python -m maml_toolkit mend FILE NEW_FILE --…</code>: it "
               "writes a mended copy and never changes the file. Look at the copy, put it in the place of the "
               "file, and audit again. <code>python -m maml_toolkit mend --help</code> lists what it can do.</p>")
    if "`register`" in remedies:
        yield ("<p><code>register</code> stands for <code>python -m maml_toolkit register FOLDER NEW_FOLDER "
               "--task …</code>: it aligns the scans of every case.</p>")


def _case(case: CaseAudit, audit: Audit) -> str:
    by_name = {one.name: one for one in case.seen}
    label = by_name.get("label")
    names = [name for name in (*audit.task.modalities, *by_name) if name in by_name and name != "label"]
    shown = [picture(_outlined(by_name[name], label, audit), name) for name in dict.fromkeys(names)]
    if label is not None and all(grid_difference(by_name[name], label) for name in names):
        shown.append(picture((label.picture != 0).astype(np.uint8) * 255, "label, on another grid"))
    bad = {error.case for error in audit.errors}, {oddity.case for oddity in audit.oddities}
    kind = "error" if case.case in bad[0] else "warning" if case.case in bad[1] else ""
    absent = [name for name in audit.task.modalities if name not in by_name]
    note = f" <small>without {escape(', '.join(absent))}</small>" if absent and case.seen else ""
    nothing = "<p>no file could be read</p>" if not case.seen else ""
    return f'<div class="case {kind}"><b>{escape(case.case)}</b>{note}<br>{"".join(shown)}{nothing}</div>'


def _outlined(scan: Seen, label: Seen | None, audit: Audit) -> np.ndarray:
    """The grey picture with a line around each class of the label, or each value, where both lie on one grid."""
    if label is None or grid_difference(scan, label):
        return outlined(scan.picture, None)
    if not audit.checked_labels:
        return outlined(scan.picture, label.picture, [(value,) for value in sorted(label.values - {0})])
    classes = [*audit.task.labels.values()][1:]
    return outlined(scan.picture, label.picture, classes, class_colours(audit.task).values())


def _about(scan: Seen) -> list[str]:
    """What a row says of a file."""
    values = ", ".join(map(str, sorted(scan.values))) if scan.name == "label" else \
        f"{scan.extremes[0]:.5g} to {scan.extremes[1]:.5g}"
    sizes = " x ".join(f"{mm:.3g}" for mm in nib.affines.voxel_sizes(scan.affine))
    return [escape(scan.name), " x ".join(map(str, scan.shape)), sizes, "".join(nib.aff2axcodes(scan.affine)),
            escape(values)]

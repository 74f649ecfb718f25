"""The pages about scans before anything is trained: an audit and a registration, with a picture of every scan.

Of an audit, what must be mended and how; of a registration, what was refused and why, and the measures.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

import nibabel as nib
import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.audit import Audit, CaseAudit, Seen
from maml_toolkit.data.cases import Case
from maml_toolkit.data.geometry import grid_difference
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import mark_of
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.plots.look import class_colours, value_colour
from maml_toolkit.pictures.report import pages
from maml_toolkit.registration import Refused, RegisteredCase, Registration
from maml_toolkit.system.errors import DataError, counted

Outlines = Mapping[str, tuple[Sequence[int], str]]
"""What is outlined: its name, its values in a label and its colour."""

COLUMNS = ("Case", "Scan", "Recipe", "NMI", "Body overlap", "Covered (%)", "Jacobian from", "Folded (%)",
           "Mean shift (mm)", "Remarks")


def audit_page(audit: Audit, path: str | Path, source: str | Path | None = None) -> Path:
    """One page with everything that an audit found: what to do, case by case, and a picture of each scan.

    Args:
        path: of the HTML file.
        source: the folder or table that was audited; paths are shown relative to it.
    """
    name = Path(os.path.abspath(source)).name if source else audit.task.name
    return pages.written(path, f"Audit of {name}", _audit_parts(audit, source))


def _audit_parts(audit: Audit, source: str | Path | None) -> Iterator[str]:
    local = pages.shortened(source)
    known = {case.case for case in audit.cases}
    about = " ".join((audit.account, audit.availability, audit.task.about_sides))
    yield f'<p class="verdict">{_audited_in_words(audit)}</p><p>{escape(about)}</p>'
    yield pages.findings("What must be mended", "error", audit.errors, local, known)
    yield pages.findings("What is odd and may be meant", "warning", audit.oddities, local, known)
    yield from _how_to_mend(audit)
    if audit.cases:
        outlines = _outlines(audit)
        yield ("<h2>Every case</h2>"
               "<p>One axial slice through the largest cross-section of the label (the middle where there is none); "
               "the patient's right is on the left. <b>Look at each:</b> no program sees that a label with a wrong but "
               "consistent header lies beside the lesion, or that two scans were swapped.</p>")
        yield f"<p>Outlines: {pages.legend({name: colour for name, (_, colour) in outlines.items()}) or 'none'}</p>"
        yield from (_case(case, audit, _outlines(audit, case.case) if case.case in audit.schemes else outlines)
                    for case in audit.cases)
    if rows := [[escape(case.case), *_about(one)] for case in audit.cases for one in case.seen]:
        yield "<h2>The files</h2>"
        yield pages.table(["Case", "Scan", "Voxels", "Voxel size (mm)", "Axes towards", "Values"], rows,
                          "Axes towards: the sides of the patient to which voxels are counted, such as R(ight), A "
                          "(front), S (head). Values: from the lowest intensity to the highest; of a label, those that "
                          "it holds")


def _audited_in_words(audit: Audit) -> str:
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


def _case(case: CaseAudit, audit: Audit, outlines: Outlines) -> str:
    by_name = {one.name: one for one in case.seen}
    label = by_name.get("label")
    names = [name for name in (*audit.task.modalities, *by_name) if name in by_name and name != "label"]
    shown = [_picture(case.case, by_name[name], label, outlines) for name in dict.fromkeys(names)]
    if label is not None and all(grid_difference(by_name[name], label) for name in names):
        shown.append(pages.picture((label.picture != 0).astype(np.uint8) * 255, "label, on another grid",
                                   f"{case.case}, label: {_in_picture(label.picture, outlines)}"))
    bad = {error.case for error in audit.errors}, {oddity.case for oddity in audit.oddities}
    kind, said = next((one for one, ids in zip((("error", "to be mended"), ("warning", "odd")), bad, strict=True)
                       if case.case in ids), ("", ""))
    absent = [name for name in audit.task.modalities if name not in by_name]
    notes = [said, f"without {', '.join(absent)}" if absent and case.seen else ""]
    nothing = "<p>no file could be read</p>" if not case.seen else ""
    return (f'<div class="case {kind}" id="{pages.anchor(case.case)}"><h3>{escape(case.case)} '
            f'<small>{escape(", ".join(filter(None, notes)))}</small></h3>{"".join(shown)}{nothing}</div>')


def _outlines(audit: Audit, case: str = "") -> Outlines:
    """What is outlined, its values and its colour: classes, or each value where nobody said what it means."""
    if audit.checked_labels:
        labels = audit.schemes.get(case, audit.task).labels
        return {name: (labels[name], colour) for name, colour in class_colours(audit.task).items()}
    values = frozenset().union(*(one.values for case in audit.cases for one in case.seen if one.name == "label"))
    return {f"value {value}": ((value,), value_colour(value)) for value in sorted(values - {0})}


def _picture(case: str, scan: Seen, label: Seen | None, outlines: Outlines) -> str:
    """The grey picture with a line around each class of the label, where both lie on one grid."""
    on_it = None if label is None or grid_difference(scan, label) else label.picture
    pixels = pages.outlined(scan.picture, on_it, *(zip(*outlines.values(), strict=True) if outlines else ()))
    around = "" if on_it is None else f", outlined: {_in_picture(on_it, outlines)}"
    return pages.picture(pixels, scan.name, f"{case}, {scan.name}{around}")


def _in_picture(label: np.ndarray, outlines: Outlines) -> str:
    return ", ".join(name for name, (values, _) in outlines.items() if np.isin(label, values).any()) or "nothing"


def _about(scan: Seen) -> list[str]:
    """What a row says of a file."""
    values = ", ".join(map(str, sorted(scan.values))) if scan.name == "label" else \
        f"{scan.extremes[0]:.5g} to {scan.extremes[1]:.5g}"
    return [escape(scan.name), " x ".join(map(str, scan.shape)), pages.voxel_size(scan.affine),
            "".join(nib.aff2axcodes(scan.affine)), escape(values)]


def registration_page(cases: Sequence[Case], registered: Sequence[RegisteredCase], task: Task, path: str | Path, *,
                      problems: Sequence[DataError] = (), source: str | Path | None = None,
                      earlier: Sequence[RegisteredCase] = ()) -> Path:
    """One page about the registration of a data set: what was refused, the measures, and every moved scan to look at.

    Args:
        cases: the cases as they were before; their scans are shown.
        registered, problems: what `register_cases` made of them. What was refused as worse than none is shown too.
        path: of the HTML file.
        source: the folder or table of the cases; paths are shown relative to it.
        earlier: what lies in the same folder; those that are none of these cases are listed, with their measures.
    """
    ids = {case.id for case in cases}
    others = [one for one in earlier if one.case.id not in ids]
    name = Path(source).resolve().name if source else task.name
    return pages.written(path, f"Registration of {name}",
                         _registration_parts(cases, registered, task, problems, pages.shortened(source), others))


def _registration_parts(cases: Sequence[Case], registered: Sequence[RegisteredCase], task: Task,
                        problems: Sequence[DataError], local: Callable[[str], str],
                        others: Sequence[RegisteredCase]) -> Iterator[str]:
    found = _found([*registered, *others], problems)
    bad = {(problem.case, problem.modality) for problem in problems}
    yield f'<p class="verdict">{_registered_in_words(cases, registered, problems, task)}</p>'
    yield pages.findings("What was refused, and what to do", "error", problems, local, {case.id for case in cases})
    yield ("<h2>Every scan that was moved</h2><p>In the checkerboard the fields are by turns of the reference and of "
           "the other scan: outlines run on from field to field where the two agree. The lines are edges of the "
           "reference over the other scan, whose organs they shall follow. Above before, below after the registration; "
           "the patient's right is on the left. <b>Look at each:</b> no measure sees that a lesion was pulled out of "
           "shape.</p>")
    for case in cases:
        yield f'<h3 id="{pages.anchor(case.id)}">{escape(case.id)}</h3>'
        if found.get(case.id):
            fixed = volumes.read(case.images[task.reference])
            yield from (_checked(case, name, fixed, one, (case.id, name) in bad, task)
                        for name, one in found[case.id].items())
        elif any(problem.case == case.id for problem in problems):
            yield "<p>nothing to show: see above</p>"
        else:
            yield "<p>no other scan to move</p>"
    rows = [_row(case, name, one, (case.id, name) in bad) for case in (*cases, *(one.case for one in others))
            for name, one in found.get(case.id, {}).items()]
    if rows:
        yield "<h2>Measures</h2>"
        yield pages.table(COLUMNS, rows, "Before → after the registration, a row for each scan that was moved")
        yield ("<p>NMI: normalised mutual information of the intensities inside the body, 1 "
               "(independent) to 2. Body overlap: Dice of the two bodies. Covered: share of the reference's body that "
               "the other scan covers. Jacobian: the factor by which the transform changes volumes, here the smallest; "
               "where it is not positive, the transform folds.</p>")
    if others:
        ids = escape(", ".join(one.case.id for one in others))
        yield (f"<p>{counted(len(others), 'case')} of earlier calls: {ids}. "
               "For the pictures register them again together with the others: what is done is not done again.</p>")


def _found(registered: Sequence[RegisteredCase], problems: Sequence[DataError]) -> dict[str, dict[str, Registration]]:
    """Case -> modality -> what was found, refused or not."""
    found = {one.case.id: dict(one.registrations) for one in registered}
    for problem in problems:
        if isinstance(problem, Refused):
            found.setdefault(problem.case, {})[problem.modality] = problem.registration
    return found


def _registered_in_words(cases: Sequence[Case], registered: Sequence[RegisteredCase], problems: Sequence[DataError],
                         task: Task) -> str:
    said = (f"{len(registered)} of {counted(len(cases), 'case')} registered onto {escape(task.reference or '')}, task "
            f"{escape(task.name)}. ")
    if problems:
        said += (f"<b>{counted(len(cases) - len(registered), 'case')} refused</b>, for what is listed below: nothing "
                 "was written for them. Mend it, or leave those scans out; then register again. What is done is not "
                 "done again. ")
    if any(mark_of(image) for case in cases for image in case.images.values()):
        said += '<span class="mark">Some of the scans are simulated; they are no scans of patients.</span>'
    return said


def _row(case: Case, modality: str, one: Registration, is_refused: bool) -> list[str]:
    before, after = one.before, one.after
    remarks = [*(["<b>refused</b>"] if is_refused else []), *_marked(case, modality), *map(escape, one.notes)]
    if not is_refused and after.nmi < before.nmi:
        remarks.append("NMI sank a little")
    both = [f"{getattr(before, name):.3f}&nbsp;→&nbsp;{getattr(after, name):.3f}" for name in ("nmi", "body_dice")]
    return [escape(case.id), escape(modality), escape(f"{one.recipe.name} ({', '.join(one.recipe.stages)})"), *both,
            f"{100 * before.covered:.0f}&nbsp;→&nbsp;{100 * after.covered:.0f}", f"{after.jacobian_min:.2f}",
            f"{100 * after.folded:.2g}", f"{after.shift_mm:.1f}", "; ".join(remarks)]


def _checked(case: Case, modality: str, fixed: volumes.Volume, one: Registration, is_refused: bool, task: Task) -> str:
    moving = volumes.read(case.images[modality])
    names = tuple(f"{name} (simulated)" if mark_of(case.images[name]) else name for name in (task.reference, modality))
    caption = f"{names[1]} onto {names[0]}{', refused' if is_refused else ''}"
    marks = "".join(f'<p class="mark">{mark}</p>' for mark in _marked(case, modality))
    draw = partial(plots.registration_check, fixed, moving, one, names=names)
    return f'<div class="{"error" if is_refused else "moved"}">{marks}{pages.drawn(draw, caption, kind="jpeg")}</div>'


def _marked(case: Case, modality: str) -> list[str]:
    """What the header of a simulated scan says."""
    return [escape(mark)] if (mark := mark_of(case.images[modality])) else []

"""The page of a registration: what was refused and why, the measures, and a picture of every scan that was moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import mark_of
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.report.pages import drawn, findings, shortened, table, written
from maml_toolkit.registration import Refused, RegisteredCase, Registration
from maml_toolkit.system.errors import DataError, counted

COLUMNS = ("Case", "Scan", "Recipe", "NMI", "Body overlap", "Covered (%)", "Jacobian from", "Folded (%)",
           "Mean shift (mm)", "Remarks")


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
    return written(path, f"Registration of {task.name}", _parts(cases, registered, task, problems, source, others))


def _parts(cases: Sequence[Case], registered: Sequence[RegisteredCase], task: Task, problems: Sequence[DataError],
           source: str | Path | None, others: Sequence[RegisteredCase]) -> Iterator[str]:
    found = _found([*registered, *others], problems)
    bad = {(problem.case, problem.modality) for problem in problems}
    yield f"<h1>Registration of {escape(Path(source).resolve().name if source else task.name)}</h1>"
    yield f'<p class="verdict">{_verdict(cases, registered, problems, task)}</p>'
    yield findings("What was refused, and what to do", "error", problems, shortened(source))
    rows = [_row(case, name, one, (case.id, name) in bad) for case in (*cases, *(one.case for one in others))
            for name, one in found.get(case.id, {}).items()]
    if rows:
        yield "<h2>Measures</h2>"
        yield table(COLUMNS, rows)
        yield ("<p>Before → after. NMI: normalised mutual information of the intensities inside the body, 1 "
               "(independent) to 2. Body overlap: Dice of the two bodies. Covered: share of the reference's body that "
               "the other scan covers. Jacobian: the factor by which the transform changes volumes, here the smallest; "
               "where it is not positive, the transform folds.</p>")
    if others:
        ids = escape(", ".join(one.case.id for one in others))
        yield (f"<p>{counted(len(others), 'case')} of earlier calls: {ids}. "
               "For the pictures register them again together with the others: what is done is not done again.</p>")
    yield ("<h2>Every scan that was moved</h2><p>In the checkerboard the fields are by turns of the reference and of "
           "the other scan: outlines run on from field to field where the two agree. The lines are edges of the "
           "reference over the other scan, whose organs they shall follow. Above before, below after the registration; "
           "the patient's right is on the left. <b>Look at each:</b> no measure sees that a lesion was pulled out of "
           "shape.</p>")
    for case in cases:
        yield f"<h3>{escape(case.id)}</h3>"
        if found.get(case.id):
            fixed = volumes.read(case.images[task.reference])
            yield from (_picture(case, name, fixed, one, (case.id, name) in bad, task)
                        for name, one in found[case.id].items())
        elif any(problem.case == case.id for problem in problems):
            yield "<p>nothing to show: see above</p>"
        else:
            yield "<p>no other scan to move</p>"


def _found(registered: Sequence[RegisteredCase], problems: Sequence[DataError]) -> dict[str, dict[str, Registration]]:
    """Case -> modality -> what was found, refused or not."""
    found = {one.case.id: dict(one.registrations) for one in registered}
    for problem in problems:
        if isinstance(problem, Refused):
            found.setdefault(problem.case, {})[problem.modality] = problem.registration
    return found


def _verdict(cases: Sequence[Case], registered: Sequence[RegisteredCase], problems: Sequence[DataError],
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


def _picture(case: Case, modality: str, fixed: volumes.Volume, one: Registration, is_refused: bool, task: Task) -> str:
    moving = volumes.read(case.images[modality])
    names = tuple(f"{name} (simulated)" if mark_of(case.images[name]) else name for name in (task.reference, modality))
    caption = f"{names[1]} onto {names[0]}{', refused' if is_refused else ''}"
    marks = "".join(f'<p class="mark">{mark}</p>' for mark in _marked(case, modality))
    draw = partial(plots.registration_check, fixed, moving, one, names=names)
    return f'<div class="{"error" if is_refused else "moved"}">{marks}{drawn(draw, caption, kind="jpeg")}</div>'


def _marked(case: Case, modality: str) -> list[str]:
    """What the header of a simulated scan says."""
    return [escape(mark)] if (mark := mark_of(case.images[modality])) else []

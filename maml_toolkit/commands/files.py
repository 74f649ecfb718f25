"""What is done to files before the first job: they are looked at, converted, registered, mended. One call each."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from maml_toolkit.commands.shell import Json, as_printed, command, next_step
from maml_toolkit.system.errors import DataError, counted, grouped
from maml_toolkit.system.files import writable, writable_file


@command()
def audit(
    data: Annotated[Path, typer.Argument(help="Folder of cases, nnU-Net, Decathlon or BIDS data set, or table.")],
    task: Annotated[str, typer.Option(help="A task's name or JSON file; without it, labels are not checked.")] = "",
    page: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("audit.html"),
    part: Annotated[str, typer.Option(help="training, or test for the test cases of a data set.")] = "training",
    strict: Annotated[bool, typer.Option(help="Count oddities as problems.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Cases read at the same time; 0 chooses.")] = 0,
    as_json: Json = False,
) -> int:
    """Open every file of a data set and report every problem; the exit status is their number (100 at most)."""
    from maml_toolkit.data.audit import audit_source
    from maml_toolkit.data.cases import task_of
    from maml_toolkit.data.layouts.finding import expect_source
    from maml_toolkit.data.tasks import Task
    from maml_toolkit.pictures import report

    expect_source(data)             # before a page of nothing takes the place of an earlier one
    page = writable_file(page)
    named = Task.named(task) if task else None
    with suppress(DataError):       # told by the audit
        named = named and task_of(data, named)      # as prepare does
    found = audit_source(data, named, part=part, strict=strict, workers=workers or None)
    report.audit_page(found, page, data)
    if as_json:
        said = [(kind, one) for kind, ones in (("problem", found.errors), ("warning", found.oddities)) for one in ones]
        as_printed({"task": found.task.name, "cases": [case.case for case in found.cases], "page": str(page.resolve()),
                    "lacking": [{"scans": names, "cases": ids} for names, ids in found.lacking.items()],
                    "found": [{"kind": kind, **one.to_json()} for kind, one in said]})
        return min(len(found.errors), 100)
    if not task:
        typer.echo(f"Task {found.task.name}, guessed from the names; label values are not checked. Name it: --task.")
    for kind, ones in (("warning", found.oddities), ("problem", found.errors)):
        for one in grouped(ones):
            typer.echo(f"{kind}: {one}")
    typer.echo("\n".join(filter(None, (found.account, found.availability, found.task.about_sides))))
    typer.echo(f"{counted(len(found.cases), 'case')}, {counted(len(found.errors), 'problem')}, "
               f"{counted(len(found.oddities), 'warning')}. Page: {page.resolve()}")
    typer.echo("Next: mend what is listed (`python -m maml_toolkit mend`), then audit again." if found.errors else
               next_step("audit", {"data": data, "task": task or found.task.name}))
    return min(len(found.errors), 100)


@command("dicom")
def convert_dicom(
    folder: Annotated[Path, typer.Argument(help="What a PACS exported; it is only read.")],
    table: Annotated[Path, typer.Argument(help="The table of series: written the first time, read with --out.")],
    task: Annotated[str, typer.Option(help="A task's name or JSON file; it names the modalities.")],
    out: Annotated[Path | None, typer.Option(help="Write the cases here, as a person filled in the table.")] = None,
    labels: Annotated[Path | None, typer.Option(help="DICOM SEG or RTSTRUCT of the cases: a file or a folder.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="What a segment or ROI is: GTV=tumour, or BODY= for no class; "
                                                        "may be given again.")] = None,
) -> None:
    """List the series of a folder in a table; with --out, convert those to which you gave a modality."""
    from maml_toolkit import dicom
    from maml_toolkit.data.tasks import Task
    from maml_toolkit.dicom.series import counts

    if wrong := [one for one in name or () if "=" not in one]:
        raise ValueError(f"found --name {wrong[0]}, expected what was drawn and its class, such as GTV=tumour")
    if out is None and (labels or name):
        raise ValueError("found --labels or --name without --out, expected the folder of the cases too; fill in the "
                         "table first")
    if out is None:
        found = dicom.find_series(folder)
        dicom.write_series_table(found, table, Task.named(task))
        if found.skipped:
            typer.echo(f"Left aside: {', '.join(counts(found.skipped))}.")
        typer.echo(f"{len(found)} series in {table.resolve()}. Fill in the column modality, then run this again "
                   "with --out FOLDER.")
    else:
        names = dict(one.rpartition("=")[::2] for one in name or ())
        cases = dicom.convert(folder, table, out, Task.named(task), labels=labels, names=names)
        typer.echo(f"{counted(len(cases), 'case')} in {(out / 'cases.csv').resolve()}")


@command()
def chaos(
    folder: Annotated[Path, typer.Argument(help="Train_Sets or Test_Sets of CHAOS; it is only read.")],
    out: Annotated[Path, typer.Argument(help="A new or empty folder for the cases.")],
    part: Annotated[str, typer.Option(help="CT, T1DUAL or T2SPIR; the tasks are chaos_ct and so on.")] = "CT",
) -> None:
    """Convert a part of the data set CHAOS, DICOM slices and PNG labels, to cases."""
    from maml_toolkit.dicom.chaos import convert

    written = convert(folder, out, part)
    typer.echo(f"Cases in {written.resolve()}. Their task: chaos_{part.lower()}.")


@command()
def register(
    data: Annotated[Path, typer.Argument(help="Folder of cases or table; it is only read.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; what is done in it already is not done again.")],
    task: Annotated[str, typer.Option(help="A task's name or JSON file; it names the reference.")],
    recipe: Annotated[str, typer.Option(help="mr or liver_phases; as the task's intensities are when left out.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Accept results that are worse than none.")] = False,
) -> int:
    """Register all scans of every case onto the task's reference scan, and carry the labels along.

    Look at every picture of OUT/registration.html. The exit status is the number of cases that failed (100 at most).
    """
    from maml_toolkit import find_cases, registration
    from maml_toolkit.data.tasks import Task
    from maml_toolkit.pictures import report

    named, writable_out = Task.named(task), writable(out)
    cases, problems = find_cases(data, named), list[DataError]()
    done = registration.register_cases(cases, named, writable_out, recipe or None, force=force, problems=problems)
    page = report.registration_page(cases, done, named, out / "registration.html", problems=problems,
                                    source=data, earlier=registration.registered_in(out))
    for one in grouped(problems):
        typer.echo(f"problem: {one}")
    typer.echo(f"{len(done)} of {len(cases)} cases in {out.resolve()}. Look at each: {page.resolve()}")
    return min(len(cases) - len(done), 100)


@command()
def mend(
    source: Annotated[Path, typer.Argument(help="The file; it stays as it is.")],
    result: Annotated[Path, typer.Argument(help="The new file.")],
    label: Annotated[bool, typer.Option("--label", help="It is a label: whole numbers, small lesions kept.")] = False,
    frame: Annotated[int | None, typer.Option(help="The frame of a 4-D file to keep, from 0.")] = None,
    fill: Annotated[float | None, typer.Option(help="What replaces NaN and Inf.")] = None,
    prefer: Annotated[str | None, typer.Option(help="sform or qform: which of them is right.")] = None,
    orientation: Annotated[str | None, typer.Option(help="Directions of the axes, such as LPS.")] = None,
    unit: Annotated[str | None, typer.Option(help="What the header counts in: millimetre, metre, micrometre.")] = None,
    straighten: Annotated[bool, typer.Option("--straighten", help="Resample a sheared grid.")] = False,
    onto: Annotated[Path | None, typer.Option(help="A file on whose grid to resample.")] = None,
) -> None:
    """Write a mended copy of one file; each repair is asked for by name."""
    from maml_toolkit.data import mending

    written = mending.mend(source, result, label=label, frame=frame, fill=fill, prefer=prefer,
                           orientation=orientation, unit=unit, straighten=straighten, onto=onto)
    typer.echo(f"Written: {written.resolve()}. Look at it before you use it.")

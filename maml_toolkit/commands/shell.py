"""The application, what its commands share (errors as messages, an exit status), and those that are one call each.

Such a call is what is done to files before the first job, or after the last.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from maml_toolkit.commands import launching
from maml_toolkit.commands.jobs import JobStopped
from maml_toolkit.system import processes
from maml_toolkit.system.errors import DataError, counted, few, grouped
from maml_toolkit.system.files import writable

app = typer.Typer(help="Segment lesions from several scans at once. Every command runs a notebook.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs; what is said for people goes to stderr.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder that train wrote.")]


@app.callback(help=app.info.help)
def every_command() -> None:
    """Names that an output cannot say are escaped."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")


def command(name: str | None = None, **settings: Any) -> Callable[[Callable], Callable]:
    """Adds a function to the commands; what it returns is the exit status, and None is 0.

    An error becomes its message and exit status 1, or the one of a job that can be run again. With --debug, which every
    command takes, it is shown whole.

    Args:
        name: of the command; the function's when left out.
        settings: of typer's `command`.
    """
    def add(function: Callable) -> Callable:
        @functools.wraps(function)
        def told(debug: bool, **given: Any) -> None:
            try:
                status = function(**given)
            except (JobStopped, processes.Stopped) as error:
                typer.echo(str(error), err=True)
                raise typer.Exit(getattr(error, "status", processes.AGAIN)) from None
            except Exception as error:
                if debug:
                    raise
                typer.echo(f"Error: {error}" if str(error) else f"Error: {type(error).__name__}", err=True)
                raise typer.Exit(1) from None
            raise typer.Exit(status or 0)

        taken = inspect.signature(function, eval_str=True).parameters
        extra = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
        told.__signature__ = inspect.Signature([*taken.values(), extra])
        told.__annotations__ = {one.name: one.annotation for one in (*taken.values(), extra)}
        app.command(name, **settings)(told)
        return function
    return add


def as_printed(found: Any) -> None:
    """Print what was found as JSON, paths as text."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False, default=str))


@command()
def audit(
    source: Annotated[Path, typer.Argument(help="Folder of cases, nnU-Net, Decathlon or BIDS data set, or table.")],
    task: Annotated[str, typer.Option(help="A task's name or JSON file; without it, labels are not checked.")] = "",
    page: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("audit.html"),
    part: Annotated[str, typer.Option(help="training, or test for the test cases of a data set.")] = "training",
    strict: Annotated[bool, typer.Option(help="Count oddities as problems.")] = False,
    workers: Annotated[int, typer.Option(help="Cases read at the same time; 0 chooses.")] = 0,
    as_json: Json = False,
) -> int:
    """Open every file of a data set and report every problem; the exit status is their number (100 at most)."""
    from maml_toolkit.data.audit import audit_source
    from maml_toolkit.data.tasks import Task
    from maml_toolkit.pictures import report

    if not source.exists():         # before a page of nothing takes the place of an earlier one
        raise DataError("there is no such folder or table", "Look at its name.", path=source)
    found = audit_source(source, Task.named(task) if task else None, part=part, strict=strict, workers=workers or None)
    report.audit_page(found, page, source)
    if as_json:
        said = [(kind, one) for kind, ones in (("problem", found.errors), ("warning", found.oddities)) for one in ones]
        as_printed({"task": found.task.name, "cases": [case.case for case in found.cases], "page": str(page.resolve()),
                    "found": [{"kind": kind, **one.to_json()} for kind, one in said]})
        return min(len(found.errors), 100)
    if not task:
        typer.echo(f"Task {found.task.name}, guessed from the names; label values are not checked. Name it: --task.")
    for kind, ones in (("warning", found.oddities), ("problem", found.errors)):
        for one in grouped(ones):
            typer.echo(f"{kind}: {one}")
    typer.echo("\n".join(filter(None, (found.account, found.task.about_sides))))
    typer.echo(f"{counted(len(found.cases), 'case')}, {counted(len(found.errors), 'problem')}, "
               f"{counted(len(found.oddities), 'warning')}. Page: {page.resolve()}")
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

    if wrong := [one for one in name or () if "=" not in one]:
        raise ValueError(f"found --name {wrong[0]}, expected what was drawn and its class, such as GTV=tumour")
    if out is None and (labels or name):
        raise ValueError("found --labels or --name without --out, expected the folder of the cases too; fill in the "
                         "table first")
    if out is None:
        found = dicom.find_series(folder)
        dicom.write_series_table(found, table, Task.named(task))
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
    source: Annotated[Path, typer.Argument(help="Folder of cases or table; it is only read.")],
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
    cases, problems = find_cases(source, named), list[DataError]()
    done = registration.register_cases(cases, named, writable_out, recipe or None, force=force, problems=problems)
    page = report.registration_page(cases, done, named, out / "registration.html", problems=problems,
                                    source=source, earlier=registration.registered_in(out))
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


@command("report")
def report_run(
    run: RunFolder,
    data: Annotated[Path | None, typer.Option(help="Folder or table of the test cases, for pictures of them.")] = None,
    page: Annotated[Path | None, typer.Option(help="The HTML page to write; report.html of the run.")] = None,
    shown: Annotated[int, typer.Option(help="How many of the worst and of the best cases to show.")] = 2,
) -> None:
    """Write one page about a run: training, scores, subsets, worst and best cases, settings."""
    from maml_toolkit import Predictor, find_cases
    from maml_toolkit.pictures import report
    from maml_toolkit.prediction.runs import Run

    predictor = Predictor.load(run, saved=Run(run).predictions) if data else None
    cases = find_cases(data, predictor.task) if data and predictor else []
    written = report.run_page(run, cases, predictor, shown=shown, path=page)
    typer.echo(f"Page: {written.resolve()}")


@command()
def explore(
    run: RunFolder,
    data: Annotated[Path, typer.Argument(help="Folder or table of the cases to look through.")],
    port: Annotated[int, typer.Option(help="Of the page, on 127.0.0.1.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> int:
    """Look through cases in the browser without code: choose one, take scans away, see, save."""
    from maml_toolkit.prediction.runs import Run

    run = run if Run(run).model else run.resolve()
    return launching.serve("explorer", {"run": run, "data": data.resolve()}, port, browser)


@command()
def fit(
    run: RunFolder,
    data: Annotated[Path, typer.Argument(help="Folder or table with the labelled cases to fit to.")],
    case: Annotated[list[str] | None, typer.Option(
        help="Id of one of them, may be given again; the run's validation cases, or all not trained on.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Which to fit: best or newest.")] = "best",
) -> None:
    """Fit what a run's answers gain from validation cases, and keep it in the run: by-size, and what is too small.

    A training that has validation cases does this at its end. predict and evaluate use it with --policy by-size,
    --policies by-size and --drop-small.
    """
    from maml_toolkit import Predictor, find_cases
    from maml_toolkit.data.splits import select
    from maml_toolkit.evaluation import fit_policy, fit_smallest
    from maml_toolkit.prediction.fitted import FITTED
    from maml_toolkit.prediction.runs import Run

    predictor, known = Predictor.load(run, checkpoint), Run(run).settings.get("cases", {})
    cases, trained = find_cases(data, predictor.task), set(known.get("training", ()))
    ids = case or known.get("validation")
    cases = select(cases, ids) if ids else [one for one in cases if one.id not in trained]
    if seen := [one.id for one in cases if one.id in trained]:
        raise DataError(f"found {few(seen)} among the cases to fit to, on which the run was trained, expected others",
                        "Name cases that it has not seen: --case ID.")
    if predictor.tells_each:
        typer.echo(fit_policy(predictor, cases).round(4).to_string(index=False) + "\n")
    typer.echo(fit_smallest(predictor, cases).round(4).to_string(index=False))
    typer.echo(f"Kept: {(predictor.checkpoint / FITTED).resolve()}")


@command("merge")
def merge_shards(
    out: Annotated[Path, typer.Argument(help="Folder that was given to predict as --out.")],
    shards: Annotated[int, typer.Option(help="How many there are to be; as the folder says when left out.")] = 0,
) -> int:
    """Report missing shards and failed cases, list what is there; the exit status is their number (255 at most)."""
    from maml_toolkit.prediction.merging import merge

    merged = merge(out, shards or None)
    typer.echo(str(merged))
    return min(merged.problems, 255)


@command()
def share(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="New folder to give away.")],
    license: Annotated[str, typer.Option(help="Of the model, such as cc-by-4.0; never guessed.")] = "",
    license_link: Annotated[str, typer.Option(help="To the text, with --license other.")] = "",
    data: Annotated[str, typer.Option(help="Names of the data sets and where they are from, for the card.")] = "",
    data_license: Annotated[str, typer.Option(help="Under which the data were given to you, for the card.")] = "",
    limit: Annotated[list[str] | None, typer.Option(help="What else a user must know; may be given again.")] = None,
    name: Annotated[str, typer.Option(help="Under which others will load it: owner/name on huggingface.co.")] = "",
    upload: Annotated[bool, typer.Option("--upload", help="Send it there too, to a private repository.")] = False,
) -> None:
    """Write the best checkpoint and a model card into a folder; with --upload, send it to huggingface.co."""
    from maml_toolkit import sharing

    if upload:
        sharing.check_name(name)
    written = sharing.save_pretrained(run, folder, license=license, license_link=license_link, data=data,
                                      data_license=data_license, limits=limit or (), name=name)
    typer.echo(f"Read the card before you give it away: {(written / sharing.CARD).resolve()}")
    if upload:
        typer.echo(f"Sent: {sharing.upload(written, name)}")


@command("export")
def export_network(
    run: Annotated[str, typer.Argument(help="Folder that train or share wrote, or hf://owner/name[@revision].")],
    path: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    modalities: Annotated[str, typer.Option(help="Those that will be present: t1,flair; all when left out.")] = "",
    attention: Annotated[bool, typer.Option("--attention", help="Attention maps are outputs too.")] = False,
    contributions: Annotated[bool, typer.Option("--contributions", help="Contributions are outputs too.")] = False,
) -> None:
    """Write the network for one set of modalities as ONNX, checked against torch."""
    from maml_toolkit import Predictor, sharing
    from maml_toolkit.sharing import export

    predictor = sharing.from_pretrained(run) if sharing.is_shared(run) else Predictor.load(run)
    names = [name.strip() for name in modalities.split(",") if name.strip()]
    found = export.export_onnx(predictor, path, names or None, attention=attention, contributions=contributions)
    size = " × ".join(map(str, predictor.window))
    typer.echo(f"Written: {path.resolve()}, for windows of {size} voxels. Largest difference from torch: "
               f"{max(found.values()):.1e}")

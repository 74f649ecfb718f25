"""The jobs from a shell or a cluster: `python -m maml_toolkit train --run runs/first --epochs 20`.

A job runs one notebook and does nothing that the notebook does not do; its options are the notebook's parameters,
which `python -m maml_toolkit train --help` lists. What is done to files before the first job (`dicom`, `audit`,
`mend`, `register`) and the `merge` and the `report` after it are one call of the library each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from maml_toolkit import jobs

JOBS = {
    "prepare": ("1-prepare", "Check a data set and bring it onto one grid."),
    "train": ("2-train", "Train a method, or go on where it stopped."),
    "predict": ("3-predict", "Segment cases with a trained method."),
    "evaluate": ("4-evaluate", "Measure predictions against the truth, for every subset of modalities."),
    "compare": ("5-compare", "Train several systems alike and print the paper's tables with intervals."),
    "benchmark": ("benchmark", "Time what an answer costs on this machine."),
    "demo": ("1-first-segmentation", "Train on phantoms, segment with and without a scan, print the table."),
}
"""Command -> the notebook that it runs, and what for."""

app = typer.Typer(help="Segment lesions from several scans at once. Every command runs a notebook.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Words = Annotated[list[str] | None, typer.Argument(metavar="[--PARAMETER VALUE]...")]
Output = Annotated[Path | None, typer.Option(help="Where the executed notebook goes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Help = Annotated[bool, typer.Option("--help", help="List the parameters and leave.")]


def _command(command: str, notebook: str, purpose: str) -> None:
    def job(words: Words = None, output: Output = None, debug: Debug = False,
            show_help: Help = False) -> None:
        with _short_errors(debug):
            if show_help:
                return typer.echo(describe(command, notebook, purpose))
            given = options(words or [], jobs.parameters_of(notebook))
            if command == "predict":
                failed = predict_shard(notebook, output, given)
            else:
                executed, failed = jobs.run(notebook, output, given), 0
                typer.echo(f"Executed notebook: {executed}")
            if command == "demo":
                typer.echo(summary(Path(given.get("run", _default_run(notebook)))))
        raise typer.Exit(min(failed, 255))

    app.command(command, help=purpose, add_help_option=False,
                context_settings={"ignore_unknown_options": True})(job)


for _name, (_notebook, _purpose) in JOBS.items():
    _command(_name, _notebook, _purpose)


@app.command()
def audit(
    source: Annotated[Path, typer.Argument(help="Folder of cases, nnU-Net or Decathlon data set, or table.")],
    task: Annotated[str, typer.Option(help="A task's name or JSON file; without it, labels are not checked.")] = "",
    page: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("audit.html"),
    part: Annotated[str, typer.Option(help="training, or test for the test cases of a data set.")] = "training",
    strict: Annotated[bool, typer.Option(help="Count oddities as problems.")] = False,
    workers: Annotated[int, typer.Option(help="Cases read at the same time; 0 chooses.")] = 0,
    debug: Debug = False,
) -> None:
    """Open every file of a data set and report every problem; the exit status is their number (100 at most)."""
    with _short_errors(debug):
        from maml_toolkit import report
        from maml_toolkit.data.audit import audit_source
        from maml_toolkit.tasks import Task

        found = audit_source(source, Task.named(task) if task else None, part=part, strict=strict,
                             workers=workers or None)
        report.audit_page(found, page, source)
    for kind, ones in (("warning", found.oddities), ("problem", found.errors)):
        for one in ones:
            typer.echo(f"{kind}: {one}")
    typer.echo(f"{len(found.cases)} cases, {len(found.errors)} problems, {len(found.oddities)} warnings. "
               f"Page: {page.resolve()}")
    raise typer.Exit(min(len(found.errors), 100))


@app.command("dicom")
def convert_dicom(
    folder: Annotated[Path, typer.Argument(help="What a PACS exported; it is only read.")],
    table: Annotated[Path, typer.Argument(help="The table of series: written the first time, read with --out.")],
    task: Annotated[str, typer.Option(help="A task's name or JSON file; it names the modalities.")],
    out: Annotated[Path | None, typer.Option(help="Write the cases here, as a person filled in the table.")] = None,
    debug: Debug = False,
) -> None:
    """List the series of a folder in a table; with --out, convert those to which you gave a modality."""
    with _short_errors(debug):
        from maml_toolkit.data import dicom
        from maml_toolkit.tasks import Task

        if out is None:
            found = dicom.find_series(folder)
            dicom.write_series_table(found, table, Task.named(task))
            typer.echo(f"{len(found)} series in {table.resolve()}. Fill in the column modality, then run this again "
                       "with --out FOLDER.")
        else:
            cases = dicom.convert(folder, table, out, Task.named(task))
            typer.echo(f"{len(cases)} cases in {(out / 'cases.csv').resolve()}")


@app.command()
def register(
    source: Annotated[Path, typer.Argument(help="Folder of cases or table; it is only read.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; what is done in it already is not done again.")],
    task: Annotated[str, typer.Option(help="A task's name or JSON file; it names the reference.")],
    recipe: Annotated[str, typer.Option(help="mr or liver_phases; as the task's intensities are when left out.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Accept results that are worse than none.")] = False,
    debug: Debug = False,
) -> None:
    """Register all scans of every case onto the task's reference scan, and carry the labels along.

    Look at every picture of OUT/registration.html. The exit status is the number of cases that failed (100 at most).
    """
    with _short_errors(debug):
        from maml_toolkit import find_cases, report
        from maml_toolkit.data import registration
        from maml_toolkit.files import writable
        from maml_toolkit.tasks import Task

        named, writable_out = Task.named(task), writable(out)
        cases = find_cases(source, named)
        done, problems = registration.attempt_cases(cases, named, writable_out, recipe or None, force=force)
        page = report.registration_page(cases, done, named, out / "registration.html", problems=problems,
                                        source=source)
    for one in problems:
        typer.echo(f"problem: {one}")
    typer.echo(f"{len(done)} of {len(cases)} cases in {out.resolve()}. Look at each: {page.resolve()}")
    raise typer.Exit(min(len(cases) - len(done), 100))


@app.command("report")
def report_run(
    run: Annotated[Path, typer.Argument(help="Folder that train wrote.")],
    data: Annotated[Path | None, typer.Option(help="Folder or table of the test cases, for pictures of them.")] = None,
    page: Annotated[Path | None, typer.Option(help="The HTML page to write; report.html of the run.")] = None,
    shown: Annotated[int, typer.Option(help="How many of the worst and of the best cases to show.")] = 2,
    debug: Debug = False,
) -> None:
    """Write one page about a run: training, scores, subsets, worst and best cases, settings."""
    with _short_errors(debug):
        from maml_toolkit import Predictor, find_cases, report

        predictor = Predictor.load(run) if data else None
        cases = find_cases(data, predictor.task) if data and predictor else []
        written = report.run_page(run, cases, predictor, shown=shown, path=page)
        typer.echo(f"Page: {written.resolve()}")


@app.command()
def explore(
    run: Annotated[Path, typer.Argument(help="Folder that train wrote.")],
    data: Annotated[Path, typer.Argument(help="Folder or table of the cases to look through.")],
    port: Annotated[int, typer.Option(help="Of the page, on 127.0.0.1.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    debug: Debug = False,
) -> None:
    """Look through cases in the browser without code: choose one, take scans away, see, save."""
    with _short_errors(debug):
        from maml_toolkit import serving

        status = serving.serve("explorer", {"run": run.resolve(), "data": data.resolve()}, port, browser)
    raise typer.Exit(status)


@app.command("merge")
def merge_shards(
    out: Annotated[Path, typer.Argument(help="Folder that was given to predict as --out.")],
    shards: Annotated[int, typer.Option(help="How many there are to be; as the folder says when left out.")] = 0,
    debug: Debug = False,
) -> None:
    """Report missing shards and failed cases, list what is there; the exit status is their number (255 at most)."""
    with _short_errors(debug):
        from maml_toolkit.sharding.merging import merge

        merged = merge(out, shards or None)
        typer.echo(str(merged))
    raise typer.Exit(min(merged.problems, 255))


@app.command()
def mend(
    source: Annotated[Path, typer.Argument(help="The file; it stays as it is.")],
    result: Annotated[Path, typer.Argument(help="The new file.")],
    label: Annotated[bool, typer.Option("--label", help="It is a label: whole numbers, nearest neighbour.")] = False,
    frame: Annotated[int | None, typer.Option(help="The frame of a 4-D file to keep, from 0.")] = None,
    fill: Annotated[float | None, typer.Option(help="What replaces NaN and Inf.")] = None,
    prefer: Annotated[str | None, typer.Option(help="sform or qform: which of them is right.")] = None,
    orientation: Annotated[str | None, typer.Option(help="Directions of the axes, such as LPS.")] = None,
    unit: Annotated[str | None, typer.Option(help="What the header counts in: millimetre, metre, micrometre.")] = None,
    straighten: Annotated[bool, typer.Option("--straighten", help="Resample a sheared grid.")] = False,
    onto: Annotated[Path | None, typer.Option(help="A file on whose grid to resample.")] = None,
    debug: Debug = False,
) -> None:
    """Write a mended copy of one file; each repair is asked for by name."""
    with _short_errors(debug):
        from maml_toolkit.data import mending

        written = mending.mend(source, result, label=label, frame=frame, fill=fill, prefer=prefer,
                               orientation=orientation, unit=unit, straighten=straighten, onto=onto)
        typer.echo(f"Written: {written.resolve()}. Look at it before you use it.")


def predict_shard(notebook: str, output: Path | None, given: Mapping[str, Any]) -> int:
    """Run the job of one shard, say what became of its cases, and return how many failed.

    Each shard has an executed notebook of its own, so that no two processes write the same file.

    Raises:
        JobError: the job stopped for another reason than that cases failed.
    """
    from maml_toolkit.sharding.shards import Shard, in_words, output_folder

    shard = Shard.named(given.get("shard") or "1/1")
    out = output_folder(given.get("run") or _default_run(notebook), given.get("out"), given.get("present"))
    if output is None and given.get("shard"):
        output = shard.folder(out) / jobs.find(notebook).name
    before = shard.record(out)
    try:
        executed = jobs.run(notebook, output, given)
    except jobs.JobError as error:
        record, executed = shard.record(out), error.executed
        if record in (None, before) or not record["failed"]:
            raise
    typer.echo(f"Executed notebook: {executed}")
    record = shard.record(out)
    typer.echo(in_words(record, out))
    return len(record["failed"])


def options(words: list[str], known: Mapping[str, jobs.Parameter]) -> dict[str, Any]:
    """A command line as parameters: `--name value` or `--name=value`; `--name` alone means true.

    Raises:
        ValueError: a word that belongs to no option, or an option named twice.
    """
    found: dict[str, Any] = {}
    words = list(words)
    while words:
        name, equals, text = words.pop(0).partition("=")
        if not name.startswith("--"):
            raise ValueError(f"found {name!r}, expected --name value")
        name = name.removeprefix("--").replace("-", "_")
        if name in found:
            raise ValueError(f"--{name} was given twice; write several values as one list: --{name} '[a, b]'")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        found[name] = jobs.typed(text, known.get(name))
    return found


def describe(command: str, notebook: str, purpose: str) -> str:
    """The help of a command: what it does and each parameter with its default and comment."""
    path, known = jobs.find(notebook), jobs.parameters_of(notebook)
    width = max((len(name) for name in known), default=0)
    lines = [f"  --{name:<{width}}  {one.help or '-'}  [{one.default}]" for name, one in known.items()]
    return "\n".join([f"python -m maml_toolkit {command} [--parameter value ...] [--output PATH] [--debug]",
                      f"\n{purpose}\n\nParameters of {path.name}, their defaults in brackets:",
                      *(lines or ["  none"]), "\n--output: executed notebook; --debug: tracebacks"])


def summary(run: Path) -> str:
    """What the first tutorial found, from the files that it left in its run folder."""
    import pandas as pd

    table = pd.read_csv(run / "summary.csv", dtype=str, keep_default_na=False)
    return f"Picture: {(run / 'segmentation.png').resolve()}\n\n{table.to_string(index=False)}"


def _default_run(notebook: str) -> str:
    declared = jobs.parameters_of(notebook).get("run")
    return (declared and declared.value) or "runs/first"


@contextmanager
def _short_errors(debug: bool) -> Iterator[None]:
    """Turns an error into its message and exit status 1."""
    try:
        yield
    except Exception as error:
        if debug:
            raise
        typer.echo(f"Error: {error}" if str(error) else f"Error: {type(error).__name__}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="python -m maml_toolkit")

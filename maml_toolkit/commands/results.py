"""What follows a job: one call of the library each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maml_toolkit.commands.shell import Debug, app, short_errors


@app.command("report")
def report_run(
    run: Annotated[Path, typer.Argument(help="Folder that train wrote.")],
    data: Annotated[Path | None, typer.Option(help="Folder or table of the test cases, for pictures of them.")] = None,
    page: Annotated[Path | None, typer.Option(help="The HTML page to write; report.html of the run.")] = None,
    shown: Annotated[int, typer.Option(help="How many of the worst and of the best cases to show.")] = 2,
    debug: Debug = False,
) -> None:
    """Write one page about a run: training, scores, subsets, worst and best cases, settings."""
    with short_errors(debug):
        from maml_toolkit import Predictor, find_cases
        from maml_toolkit.pictures import report
        from maml_toolkit.prediction.runs import Run

        predictor = Predictor.load(run, saved=Run(run).predictions) if data else None
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
    with short_errors(debug):
        from maml_toolkit.commands import serving

        status = serving.serve("explorer", {"run": run.resolve(), "data": data.resolve()}, port, browser)
    raise typer.Exit(status)


@app.command("merge")
def merge_shards(
    out: Annotated[Path, typer.Argument(help="Folder that was given to predict as --out.")],
    shards: Annotated[int, typer.Option(help="How many there are to be; as the folder says when left out.")] = 0,
    debug: Debug = False,
) -> None:
    """Report missing shards and failed cases, list what is there; the exit status is their number (255 at most)."""
    with short_errors(debug):
        from maml_toolkit.prediction.merging import merge

        merged = merge(out, shards or None)
        typer.echo(str(merged))
    raise typer.Exit(min(merged.problems, 255))

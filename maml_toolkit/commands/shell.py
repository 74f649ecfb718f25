"""The application to which the commands belong, and what they share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from maml_toolkit.commands import jobs
from maml_toolkit.system import signals

app = typer.Typer(help="Segment lesions from several scans at once. Every command runs a notebook.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback(help=app.info.help)
def every_command() -> None:
    """Names that an output cannot say are escaped."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")


Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@contextmanager
def short_errors(debug: bool) -> Iterator[None]:
    """Turns an error into its message and exit status 1, or the one of a job that can be run again."""
    try:
        yield
    except (jobs.JobStopped, signals.Stopped) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.status if isinstance(error, jobs.JobStopped) else signals.AGAIN) from None
    except Exception as error:
        if debug:
            raise
        typer.echo(f"Error: {error}" if str(error) else f"Error: {type(error).__name__}", err=True)
        raise typer.Exit(1) from None

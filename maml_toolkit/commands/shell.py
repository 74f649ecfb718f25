"""The application to which the commands belong, and what they share: errors as messages, and an exit status."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from maml_toolkit.commands.jobs import JobStopped
from maml_toolkit.system import processes

app = typer.Typer(help="Segment lesions from several scans at once. Every command runs a notebook.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
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

"""The application and what all commands share: errors as messages, exit statuses, help, and what to do next."""

import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import maml_toolkit
from maml_toolkit.commands.jobs import JobStopped
from maml_toolkit.system import processes
from maml_toolkit.system.errors import near_to, nearest

PROGRAM = "python -m maml_toolkit"
NEXT = {
    "audit": "prepare {data} --task {task}",
    "prepare": "train {out}",
    "plan": "train {prepared}",
    "train": "predict {run} DATA",
    "predict": "evaluate {run} {data}",
    "predict --out": "evaluate --predictions {out} --data {data}",
    "predict --shard": "merge {out}",
    "evaluate": "explore {run} {data}",
    "report": "explore {run} {data}",
    "explore": "evaluate {run} {data}",
    "compare": "report {run}",
    "demo": "audit DATA --task TASK",
}
"""Command -> the command that usually follows it; {what} was given to the first."""


class Group(TyperGroup):
    """Commands, of which a near name is suggested for one that is not there."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple:
        """The command that the first word names."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command {args[0]!r}{nearest(args[0], self.commands)}.")
        return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """A command whose arguments may be named as options too, and whose help names tasks and layouts."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words: `--run RUN` is the argument RUN; a near option is suggested for one that is not there."""
        places = [f"--{one.name}" for one in self.params if one.param_type_name == "argument" and one.nargs == 1]
        words, named = [], dict[str, str]()
        for word in (left := iter(args)):
            name, equals, value = word.partition("=")
            if name in places and (value := value if equals else next(left, "")):
                named[name] = value
            else:
                words.append(word)
        first = [named.pop(places[0])] if places and places[0] in named else []
        try:
            return super().parse_args(ctx, [*first, *words, *(named[one] for one in places if one in named)])
        except typer.Exit:
            raise
        except Exception as error:
            if hasattr(error, "possibilities"):         # of an option that there is not
                near = near_to(error.option_name, [name for one in self.params for name in one.opts])
                error.possibilities = [near] if near else None
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the help."""
        if "task" in {one.name for one in self.params}:
            self.epilog = "\n\n".join(known_names())
        super().format_help(ctx, formatter)


app = typer.Typer(help="Segment lesions from several scans at once, and see which scan said so.", cls=Group,
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={"token_normalize_func": lambda name: name.replace("_", "-")})


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"maml_toolkit {maml_toolkit.__version__}")
        raise typer.Exit
    return asked


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs; what is said for people goes to stderr.")]
COMMON = {"debug": Debug, "version": Version}
"""The options of every command."""


@app.callback(help=app.info.help)
def every_command(version: Version = False) -> None:
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
        def told(debug: bool, version: bool, **given: Any) -> None:
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
        extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
                 for name, kind in COMMON.items()]
        told.__signature__ = inspect.Signature([*taken.values(), *extra])
        told.__annotations__ = {one.name: one.annotation for one in (*taken.values(), *extra)}
        app.command(name, cls=Command, **settings)(told)
        return function
    return add


def as_printed(found: Any) -> None:
    """Print what was found as JSON, paths as text."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False, default=str))


def next_step(after: str, given: Mapping[str, Any]) -> str:
    """The line that says which command usually follows another one; what is not known of it stays in capitals.

    >>> next_step("train", {"run": "runs/a b"})
    "Next: python -m maml_toolkit predict 'runs/a b' DATA"
    """
    def said(word: str) -> str:
        value = given.get(word[1:-1]) or word[1:-1].upper()
        return shlex.quote(f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value))

    words = (said(word) if word.startswith("{") else word for word in NEXT[after].split())
    return f"Next: {PROGRAM} {' '.join(words)}"


def known_names() -> list[str]:
    """The tasks and the layouts by name, for a help."""
    from maml_toolkit.data.layouts.finding import KNOWN
    from maml_toolkit.data.tasks import SAME_SCHEME, TASKS

    alike = {last: ", ".join(name for name, of in SAME_SCHEME.items() if of == last) for last in SAME_SCHEME.values()}
    names = (f"{name} (also called {alike[name]})" if name in alike else name for name in TASKS)
    return [f"Tasks: {', '.join(names)}, or the path of a JSON file.", f"Layouts: {KNOWN}."]

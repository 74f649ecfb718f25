"""The jobs from a shell or a cluster: `python -m maml_toolkit train --run runs/first --epochs 20`.

Every command runs one notebook and does nothing that the notebook does not do; its options are the notebook's
parameters. `python -m maml_toolkit train --help` lists them.
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
            executed = jobs.run(notebook, output, given)
            typer.echo(f"Executed notebook: {executed}")
            if command == "demo":
                typer.echo(summary(Path(given.get("run", _default_run(notebook)))))
        return None

    app.command(command, help=purpose, add_help_option=False,
                context_settings={"ignore_unknown_options": True})(job)


for _name, (_notebook, _purpose) in JOBS.items():
    _command(_name, _notebook, _purpose)


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

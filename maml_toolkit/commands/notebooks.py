"""The commands that run a notebook: its parameters are their options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from maml_toolkit.commands import jobs, launching
from maml_toolkit.commands.shell import Debug, app, short_errors
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import tables
from maml_toolkit.system.errors import nearest

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

Words = Annotated[list[str] | None, typer.Argument(metavar="[--PARAMETER VALUE]...")]
Output = Annotated[Path | None, typer.Option(help="Where the executed notebook goes.")]
Help = Annotated[bool, typer.Option("--help", help="List the parameters and leave.")]


def _command(command: str, notebook: str, purpose: str) -> None:
    def job(words: Words = None, output: Output = None, debug: Debug = False,
            show_help: Help = False) -> None:
        with short_errors(debug):
            if show_help:
                return typer.echo(describe(command, notebook, purpose))
            known = jobs.parameters_of(notebook)
            given = options(words or [], known)
            if given.get("predictions"):
                trained(given["predictions"], "folder of predictions", "predict or another program")
            elif command in ("predict", "evaluate"):
                trained(given.get("run") or _default_run(notebook))
            if command == "predict":
                failed = predict_shard(notebook, output, given)
            else:
                executed, failed = launching.run(command, notebook, output, given), 0
                if executed:
                    typer.echo(f"Executed notebook: {executed}")
            if command in FOUND:
                typer.echo(FOUND[command]({name: one.value for name, one in known.items()} | given))
        raise typer.Exit(min(failed, 255))

    app.command(command, help=purpose, add_help_option=False,
                context_settings={"ignore_unknown_options": True})(job)


for _name, (_notebook, _purpose) in JOBS.items():
    _command(_name, _notebook, _purpose)


def predict_shard(notebook: str, output: Path | None, given: Mapping[str, Any]) -> int:
    """Run the job of one shard, say what became of its cases, and return how many failed.

    Each shard has an executed notebook of its own, so that no two processes write the same file.

    Raises:
        JobError: the job stopped for another reason than that cases failed.
    """
    from maml_toolkit.prediction.shards import Shard, in_words, output_folder

    shard = Shard.named(given.get("shard") or "1/1")
    out = output_folder(given.get("run") or _default_run(notebook), given.get("out"), given.get("present"))
    if output is None and given.get("shard"):
        output = shard.folder(out) / jobs.find(notebook).name
    before = shard.record(out)
    try:
        executed = jobs.run(notebook, output, given)
    except jobs.JobError as error:
        record = shard.record(out)
        if record in (None, before) or not record["failed"]:
            raise
        executed = error.finished()
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
    words, option = list(words), ""
    while words:
        name, equals, text = words.pop(0).partition("=")
        if not name.startswith("--"):
            several = f"; write several values as one list: --{option} '[a, b]'" if option else ""
            raise ValueError(f"found {name!r}, expected --name value{several}")
        name = name.removeprefix("--").replace("-", "_")
        if name in found:
            raise ValueError(f"--{name} was given twice; write several values as one list: --{name} '[a, b]'")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        found[name], option = jobs.typed(text, known.get(name)), name
    return found


def describe(command: str, notebook: str, purpose: str) -> str:
    """The help of a command: what it does and each parameter with its default and comment."""
    path, known = jobs.find(notebook), jobs.parameters_of(notebook)
    width = max((len(name) for name in known), default=0)
    lines = [f"  --{name:<{width}}  {one.help or '-'}  [{one.default}]" for name, one in known.items()]
    return "\n".join([f"python -m maml_toolkit {command} [--parameter value ...] [--output PATH] [--debug]",
                      f"\n{purpose}\n\nParameters of {path.name}, their defaults in brackets:",
                      *(lines or ["  none"]), "\n--output: executed notebook; --debug: tracebacks"])


def trained(run: str | Path, kind: str = "run folder", writer: str = "train") -> None:
    """Nothing, if there is such a folder.

    Raises:
        FileNotFoundError: there is none; said before a job makes one, for its executed notebook.
    """
    if not Path(run).is_dir():
        near = nearest(Path(run).name, (one.name for one in Path(run).parent.glob("*/")))
        raise FileNotFoundError(f"found no {kind} {run}{near}, expected one that {writer} wrote, from the current "
                                "folder")


def summary(given: Mapping[str, Any]) -> str:
    """What the first tutorial found, from the files that it left in its run folder."""
    run = Path(given["run"])
    table = tables.read(run / "summary.csv")
    return f"Picture: {(run / 'segmentation.png').resolve()}\n\n{table.to_string(index=False)}"


def scores(given: Mapping[str, Any]) -> str:
    """What an evaluation found, from the table that it wrote."""
    from maml_toolkit.evaluation import formatted
    from maml_toolkit.evaluation.table import read_table

    measured = given.get("predictions")
    path = Path(given["out"] or (Path(measured) / "metrics.csv" if measured else Run(given["run"]).metrics))
    table = formatted(read_table(path), metrics=[("dice", "fraction"), ("assd", "mm"), ("hd95", "mm")])
    return f"Table: {path.resolve()}\n\n{table.to_string(index=False)}"


FOUND = {"demo": summary, "evaluate": scores}
"""Command -> what to say at its end, from its parameters."""


def _default_run(notebook: str) -> str:
    declared = jobs.parameters_of(notebook).get("run")
    return (declared and declared.value) or "runs/first"

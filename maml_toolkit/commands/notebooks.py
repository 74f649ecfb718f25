"""The commands that run a notebook, whose parameters are their options, and the one that says how it would train."""

import inspect
import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from maml_toolkit.commands import jobs, launching, studies
from maml_toolkit.commands.parameters import as_words, check, find, options, parameters_of
from maml_toolkit.commands.shell import PROGRAM, Json, as_printed, command, known_names, next_step
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system import tables
from maml_toolkit.system.errors import counted, nearest


class Job(NamedTuple):
    """A command that runs a notebook.

    Attributes:
        notebook: its name.
        purpose: what for.
        places: the parameters that may be given first and without their names.
    """

    notebook: str
    purpose: str
    places: tuple[str, ...]


JOBS = {
    "prepare": Job("1-prepare", "Check a data set and bring it onto one grid.", ("data",)),
    "train": Job("2-train", "Train a method, or go on where it stopped.", ("prepared",)),
    "predict": Job("3-predict", "Segment cases with a trained method.", ("run", "data")),
    "evaluate": Job("4-evaluate", "Measure predictions against the ground truth, for every subset of scans.",
                    ("run", "data")),
    "compare": Job("5-compare", "Train several systems alike and print the paper's tables with intervals.",
                   ("prepared",)),
    "demo": Job("1-first-segmentation", "Train on phantoms, segment with and without a scan, print the table.",
                ("run",)),
}

VALIDATION = "validation/dice/"
"""How the columns of history.csv begin that hold the Dice of a region."""

Words = Annotated[list[str] | None, typer.Argument(metavar="[VALUE]... [--PARAMETER VALUE]...")]
Output = Annotated[Path | None, typer.Option(help="Where the executed notebook goes.")]
Help = Annotated[bool, typer.Option("--help", help="List the parameters and leave.")]


def _add(name: str, job: Job) -> None:
    def run(words: Words = None, output: Output = None, show_help: Help = False, as_json: Json = False) -> int:
        if show_help:
            typer.echo(describe(name, job))
            return 0
        known = parameters_of(job.notebook)
        if name == "predict" and studies.is_asked(words or []):
            studies.predict(words, known, as_json)
            return 0
        given = options(words or [], known, job.places)
        all_of_them = {one.name: one.value for one in known.values()} | given
        if given.get("predictions"):
            trained(given["predictions"], "folder of predictions", "predict or another program")
        elif name in ("predict", "evaluate"):
            for folder in as_list(all_of_them.get("run") or "runs/first"):
                trained(folder)
        if name == "predict":
            return min(predict_shard(job.notebook, output, given, all_of_them, as_json), 255)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            executed = launching.run(name, job.notebook, output, given)
        if as_json:
            as_printed({"executed": executed, **(measured(all_of_them) if name == "evaluate" else {})})
            return 0
        if executed:                        # in the first of several processes
            typer.echo("\n".join([f"Executed notebook: {executed}", FOUND[name](all_of_them),
                                  next_step(name, all_of_them | one_run(name, all_of_them))]))
        return 0

    command(name, help=job.purpose, add_help_option=False, context_settings={"ignore_unknown_options": True})(run)


for _name, _job in JOBS.items():
    _add(_name, _job)


@command("plan", context_settings={"ignore_unknown_options": True})
def plan_training(
    words: Words = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file to write, for train --plan.")] = None,
    cards: Annotated[bool, typer.Option("--cards", help="Only a table for cards of 8 to 80 GB.")] = False,
    as_json: Json = False,
) -> None:
    """Say how train would train here and why, what that takes, and what it gives up; its parameters are train's."""
    from maml_toolkit.training import planning
    from maml_toolkit.training.planning.choosing import card_table
    from maml_toolkit.training.starting import as_before

    if cards:
        return typer.echo(card_table())
    known = parameters_of("2-train")
    told = options(words or [], known, JOBS["train"].places)
    given = {one.name: one.value for one in known.values()} | check("2-train", told)
    if given["start"]:
        given |= as_before(given["start"], given["channels"], given["patch_size"])
    asked = {*inspect.signature(planning.plan).parameters, *planning.PAPER}
    settings = {name: value for name, value in given.items() if name in asked}
    found = planning.plan(settings.pop("prepared"), **settings)
    why = found.hopeless()
    if as_json:
        return as_printed({**asdict(found), "hopeless": why, "saved": out and found.save(out).resolve()})
    typer.echo(str(found))
    if why:
        typer.echo(f"Do not: {why}. train asks for --yes.")
    if out:
        typer.echo(f"Plan: {found.save(out).resolve()}")
    fixed = {"prepared", *((*planning.PAPER, "plan", "memory", "hours") if out else ())}        # said already
    words = as_words({name: value for name, value in told.items() if name not in fixed}, known)
    words = [f"--plan {shlex.quote(str(out))}"] * bool(out) + [shlex.quote(one) for one in words]
    typer.echo(" ".join([next_step("plan", given), *words]))
    return None


def predict_shard(notebook: str, output: Path | None, given: Mapping[str, Any], settings: Mapping[str, Any],
                  as_json: bool = False) -> int:
    """Run the job of one shard, say what became of its cases, and return how many failed.

    Each shard has an executed notebook of its own, so that no two processes write the same file.

    Args:
        given: the parameters that differ from the notebook's.
        settings: all of them.
        as_json: whether to say it in JSON.

    Raises:
        JobError: the job stopped for another reason than that cases failed.
    """
    from maml_toolkit.prediction.shards import Shard, in_words, output_folder

    shard = Shard.named(settings.get("shard"))
    out = output_folder(settings.get("run") or "runs/first", settings.get("out"), settings.get("present"))
    if output is None and settings.get("shard"):
        output = shard.folder(out) / find(notebook).name
    before = shard.record(out)
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            executed = jobs.run(notebook, output, given)
    except jobs.JobError as error:
        record = shard.record(out)
        if record in (None, before) or not record["failed"]:
            raise
        executed = error.finished()
    record = shard.record(out)
    if as_json:
        as_printed({"executed": executed, "out": out, **record})
    else:
        how = "predict --shard" if shard.count > 1 else "predict --out" if settings.get("out") else "predict"
        then = next_step(how, {**settings, "out": out})
        typer.echo(f"Executed notebook: {executed}\n{in_words(record, out)}\n{then}")
    return len(record["failed"])


def describe(command: str, job: Job) -> str:
    """The help of a command: what it does, each parameter with its default and comment, tasks and layouts by name."""
    path, known = find(job.notebook), parameters_of(job.notebook)
    width = max((len(name) for name in known), default=0)
    lines = [f"  --{name:<{width}}  {one.help}  [{one.default}]" for name, one in known.items()]
    first = "".join(f" [{one.upper()}]" for one in job.places)
    return "\n".join([f"{PROGRAM} {command}{first} [--parameter value ...]",
                      f"\n{job.purpose}\n\nParameters of {path.name}, their defaults in brackets:",
                      *(lines or ["  none"]), *(studies.describe() if command == "predict" else ()),
                      *(["", *known_names()] if {"data", "task"} & set(known) else []),
                      "\n--a-b is --a_b. --output: executed notebook; --json: for programs; --debug: tracebacks; "
                      "--version"])


def as_list(runs: str | list[str]) -> list[str]:
    """One run as a list of it."""
    return [runs] if isinstance(runs, str) else runs


def trained(run: str | Path, kind: str = "run folder", writer: str = "train") -> None:
    """Nothing, if there is such a folder, or a model of that name comes with the toolkit.

    Raises:
        FileNotFoundError: there is none; said before a job makes one, for its executed notebook.
    """
    if not Path(run).is_dir() and not Run(run).model:
        near = nearest(Path(run).name, (one.name for one in Path(run).parent.glob("*/")))
        raise FileNotFoundError(f"found no {kind} {run}{near}, expected one that {writer} wrote, from here")


def summary(given: Mapping[str, Any]) -> str:
    """What the first tutorial found, from the files that it left in its run folder."""
    run = Path(given["run"])
    table = tables.read(run / "summary.csv")
    return f"Picture: {(run / 'segmentation.png').resolve()}\n\n{table.to_string(index=False)}"


def table_of(given: Mapping[str, Any]) -> Path:
    """The table that an evaluation wrote."""
    predictions = given.get("predictions")
    return Path(given["out"] or (Path(predictions) / "metrics.csv" if predictions else Run.only(given["run"]).metrics))


def scores(given: Mapping[str, Any]) -> str:
    """What an evaluation found, from the table that it wrote."""
    from maml_toolkit.evaluation.table import formatted, metrics_of, read_table

    table = read_table(path := table_of(given))
    return f"Table: {path.resolve()}\n\n{formatted(table, metrics_of(table)).to_string(index=False)}"


def final_score(given: Mapping[str, Any]) -> str:
    """The run, and the Dice of its validation cases at the end and at best, or its loss where it had none."""
    run = Run(given["run"])
    history, where = run.epochs(), f"Run: {run.folder.resolve()}"
    if history.empty:
        return where
    where += f", {counted(len(history), 'epoch')}."
    dice = history.set_index("epoch").filter(like=VALIDATION).dropna(how="all")
    if dice.empty:
        return f"{where} Loss {history['loss/total'].iloc[-1]:.3f}; there were no validation cases."
    mean, epoch = run.best(history)
    last = ", ".join(f"{name.removeprefix(VALIDATION)} {100 * one:.1f}" for name, one in dice.iloc[-1].dropna().items())
    return (f"{where} Validation Dice (%) after epoch {dice.index[-1]}: {last}. "
            f"Best mean: {100 * mean:.1f}, after epoch {epoch}.")


def one_run(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The run to look at next: the first of several, or of those that a comparison trained; none of another program."""
    runs = sorted((Path(given["out"]) / "runs").glob("*/")) if name == "compare" else as_list(given.get("run") or [])
    return {"run": runs[0] if runs and not given.get("predictions") else None}


def measured(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same for programs: the table's place, and a row for each mean."""
    from maml_toolkit.evaluation.table import read_table, summary

    means = summary(read_table(path := table_of(given)), intervals=True)
    return {"table": path.resolve(), "means": json.loads(means.to_json(orient="records"))}


FOUND = {"prepare": lambda given: f"Prepared: {Path(given['out']).resolve()}",
         "train": final_score, "evaluate": scores, "demo": summary,
         "compare": lambda given: f"Tables, scores and runs: {Path(given['out']).resolve()}"}
"""Command -> what to say at its end, from its parameters."""

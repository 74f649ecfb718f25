"""The command that says how this machine would train."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from maml_toolkit.commands import jobs
from maml_toolkit.commands.notebooks import Words, options
from maml_toolkit.commands.shell import Debug, app, short_errors


@app.command("plan", context_settings={"ignore_unknown_options": True})
def plan_training(
    words: Words = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file to write, for train --plan.")] = None,
    cards: Annotated[bool, typer.Option("--cards", help="Only a table for cards of 8 to 80 GB.")] = False,
    debug: Debug = False,
) -> None:
    """Say how train would train here and why, what that takes, and what it gives up; its parameters are train's."""
    with short_errors(debug):
        from maml_toolkit.training import planning
        from maml_toolkit.training.planning.choosing import card_table

        if cards:
            return typer.echo(card_table())
        known = jobs.parameters_of("2-train")
        given = options(words or [], known)
        jobs.check("2-train", given)
        asked = {*signature(planning.plan).parameters, *planning.PAPER}
        settings = {name: value for name, value in {**{name: one.value for name, one in known.items()}, **given}.items()
                    if name in asked}
        found = planning.plan(settings.pop("prepared"), **settings)
        typer.echo(str(found))
        if why := found.hopeless():
            typer.echo(f"Do not: {why}. train asks for --yes.")
        if out:
            typer.echo(f"Plan: {found.save(out).resolve()}")
    return None

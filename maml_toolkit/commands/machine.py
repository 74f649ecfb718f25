"""The command that looks at this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from maml_toolkit.commands.shell import Debug, app, short_errors


@app.command("doctor")
def look_at_this_machine(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
    debug: Debug = False,
) -> None:
    """Say what is installed, what this machine offers and what does not work; the exit status is 1 if it matters."""
    with short_errors(debug):
        from maml_toolkit.commands import doctor

        found = doctor.examine()
        typer.echo(doctor.as_json(found) if as_json else doctor.text(found))
    raise typer.Exit(bool(doctor.problems(found)))

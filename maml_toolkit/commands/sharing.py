"""A trained model for others: as a folder with a card, as a file for programs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maml_toolkit.commands.shell import Debug, app, short_errors


@app.command()
def share(
    run: Annotated[Path, typer.Argument(help="Folder that train wrote.")],
    folder: Annotated[Path, typer.Argument(help="New folder to give away.")],
    license: Annotated[str, typer.Option(help="Of the model, such as cc-by-4.0; never guessed.")] = "",
    license_link: Annotated[str, typer.Option(help="To the text, with --license other.")] = "",
    data: Annotated[str, typer.Option(help="Names of the data sets and where they are from, for the card.")] = "",
    data_license: Annotated[str, typer.Option(help="Under which the data were given to you, for the card.")] = "",
    limit: Annotated[list[str] | None, typer.Option(help="What else a user must know; may be given again.")] = None,
    name: Annotated[str, typer.Option(help="Under which others will load it: owner/name on huggingface.co.")] = "",
    upload: Annotated[bool, typer.Option("--upload", help="Send it there too, to a private repository.")] = False,
    debug: Debug = False,
) -> None:
    """Write the best checkpoint and a model card into a folder; with --upload, send it to huggingface.co."""
    with short_errors(debug):
        from maml_toolkit import sharing

        if upload:
            sharing.check_name(name)
        written = sharing.save_pretrained(run, folder, license=license, license_link=license_link, data=data,
                                          data_license=data_license, limits=limit or (), name=name)
        typer.echo(f"Read the card before you give it away: {(written / sharing.CARD).resolve()}")
        if upload:
            typer.echo(f"Sent: {sharing.upload(written, name)}")


@app.command("export")
def export_network(
    run: Annotated[str, typer.Argument(help="Folder that train or share wrote, or hf://owner/name[@revision].")],
    path: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    modalities: Annotated[str, typer.Option(help="Those that will be present: t1,flair; all when left out.")] = "",
    attention: Annotated[bool, typer.Option("--attention", help="Attention maps are outputs too.")] = False,
    contributions: Annotated[bool, typer.Option("--contributions", help="Contributions are outputs too.")] = False,
    debug: Debug = False,
) -> None:
    """Write the network for one set of modalities as ONNX, checked against torch."""
    with short_errors(debug):
        from maml_toolkit import Predictor, sharing
        from maml_toolkit.sharing import export

        predictor = sharing.from_pretrained(run) if sharing.is_shared(run) else Predictor.load(run)
        names = [name.strip() for name in modalities.split(",") if name.strip()]
        found = export.export_onnx(predictor, path, names or None, attention=attention, contributions=contributions)
        size = " × ".join(map(str, predictor.window))
        typer.echo(f"Written: {path.resolve()}, for windows of {size} voxels. Largest difference from torch: "
                   f"{max(found.values()):.1e}")

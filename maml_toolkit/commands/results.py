"""What follows the last job: pages, the explorer, fitting, and models for others. One call of the library each."""

from pathlib import Path
from typing import Annotated

import typer

from maml_toolkit.commands import launching
from maml_toolkit.commands.kinds import from_text
from maml_toolkit.commands.notebooks import as_list, trained
from maml_toolkit.commands.shell import command, next_step
from maml_toolkit.prediction.runs import Run
from maml_toolkit.system.errors import DataError, few

RunFolder = Annotated[Path, typer.Argument(help="Folder that train wrote.")]
Values = Annotated[str | None, typer.Option(help="Whose values the labels hold: a task or its JSON file; the run's.")]


@command("report")
def report_run(
    run: RunFolder,
    data: Annotated[Path | None, typer.Argument(help="Folder or table of test cases, for pictures of them.")] = None,
    page: Annotated[Path | None, typer.Option(help="The HTML page to write; report.html of the run.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="How many of the worst and of the best cases to show.")] = 2,
    task: Values = None,
) -> None:
    """Write one page about a run: training, scores, subsets, worst and best cases, settings."""
    from maml_toolkit import Predictor, Task, find_cases
    from maml_toolkit.data.cases import task_of
    from maml_toolkit.pictures import report

    trained(run)
    predictor = Predictor.load(run, saved=Run(run).predictions) if data else None
    cases = find_cases(data, task_of(data, Task.named(task or predictor.task))) if data and predictor else []
    written = report.run_page(run, cases, predictor, shown=shown, path=page)
    typer.echo(f"Page: {written.resolve()}\n{next_step('report', {'run': run, 'data': data})}")


@command()
def explore(
    run: RunFolder,
    data: Annotated[Path, typer.Argument(help="Folder or table of the cases to look through.")],
    port: Annotated[int, typer.Option(help="Of the page, on 127.0.0.1.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    task: Values = None,
) -> int:
    """Look through cases in the browser without code: choose one, take scans away, see, save."""
    run = run if Run(run).model else run.resolve()
    from maml_toolkit import Task
    from maml_toolkit.data.layouts.finding import expect_source

    trained(run)
    expect_source(data)
    if task:
        Task.named(task)                # what is wrong is said before a page opens
    labels = str(Path(task).resolve()) if task and Path(task).is_file() else task
    status = launching.serve("explorer", {"run": run, "data": data.resolve(), "task": labels}, port, browser)
    typer.echo(f"Label maps that were saved: {Run(run).predictions.resolve()}\n"
               + next_step("explore", {"run": run, "data": data}))
    return status


@command()
def fit(
    run: Annotated[str, typer.Argument(help="Folder that train wrote; several that answer together: '[RUN, RUN]'.")],
    data: Annotated[Path, typer.Argument(help="Folder or table with the labelled cases to fit to.")],
    case: Annotated[list[str] | None, typer.Option(
        help="Id of one of them, may be given again; the run's validation cases, or all not trained on.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Which to fit: best or newest.")] = "best",
    task: Values = None,
) -> None:
    """Fit to validation cases, and keep it in the run: by-size, what is too small, and which Dice to expect.

    A training that has validation cases does this at its end, but not for several runs together, which need cases that
    none of them was trained on. predict and evaluate use it with --policy by-size, --policies by-size, --drop-small,
    --uncertainty and --metrics expected_dice.
    """
    from maml_toolkit import Predictor, Task, find_cases
    from maml_toolkit.data.cases import task_of
    from maml_toolkit.data.splits import select
    from maml_toolkit.evaluation.fitting import fit_all
    from maml_toolkit.prediction.checkpoints import TRAINING
    from maml_toolkit.prediction.kept import fitted_file

    runs = as_list(from_text(run, "str | list[str]"))
    predictor, known = Predictor.load(runs, checkpoint), [Run(one).settings.get("cases", {}) for one in runs]
    if shared := [one for one in predictor.checkpoints if not (one / TRAINING).exists()]:
        raise ValueError(f"found the shared model {shared[0]}, whose files stay as they are, expected runs that train "
                         "wrote; evaluation.fit_policy and its like fit in Python what a Predictor keeps in memory")
    cases = find_cases(data, task_of(data, Task.named(task or predictor.task)))
    trained = {id for one in known for part in ("training", "earlier training") for id in one.get(part, ())}
    ids = case or sorted({id for one in known for id in one.get("validation", ())} - trained)
    cases = select(cases, ids) if ids else [one for one in cases if one.id not in trained]
    if seen := [one.id for one in cases if one.id in trained]:
        raise DataError(f"found {few(seen)} among the cases to fit to, on which the run was trained, expected others",
                        "Name cases that it has not seen: --case ID.")
    if not cases:
        raise DataError("found no case on which none of these runs was trained, expected some to fit to",
                        "Give other cases, with labels.", path=data)
    typer.echo("\n\n".join(table.round(4).to_string(index=False) for table in fit_all(predictor, cases)))
    for one in predictor.checkpoints:
        typer.echo(f"Kept: {(one / fitted_file(predictor.members)).resolve()}")


@command("merge")
def merge_shards(
    out: Annotated[Path, typer.Argument(help="Folder that was given to predict as --out.")],
    shards: Annotated[int | None, typer.Option(min=1, help="How many there are; as the folder says else.")] = None,
) -> int:
    """Report missing shards and failed cases, list what is there; the exit status is their number (255 at most)."""
    from maml_toolkit.prediction.merging import merge
    from maml_toolkit.prediction.shards import TABLE

    merged = merge(out, shards)
    typer.echo(f"Table: {(out / TABLE).resolve()}\n{merged}")
    return min(merged.problems, 255)


@command()
def share(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="New folder to give away.")],
    license: Annotated[str, typer.Option(help="Of the model, such as cc-by-4.0; never guessed.")] = "",
    license_link: Annotated[str, typer.Option(help="To the text, with --license other.")] = "",
    data: Annotated[str, typer.Option(help="Names of the data sets and where they are from, for the card.")] = "",
    data_license: Annotated[str, typer.Option(help="Under which the data were given to you, for the card.")] = "",
    limit: Annotated[list[str] | None, typer.Option(help="What else a user must know; may be given again.")] = None,
    name: Annotated[str, typer.Option(help="Under which others will load it: owner/name on huggingface.co.")] = "",
    upload: Annotated[bool, typer.Option("--upload", help="Send it there too, to a private repository.")] = False,
) -> None:
    """Write the best checkpoint and a model card into a folder; with --upload, send it to huggingface.co."""
    from maml_toolkit import sharing

    if upload:
        sharing.check_name(name)
    written = sharing.save_pretrained(run, folder, license=license, license_link=license_link, data=data,
                                      data_license=data_license, limits=limit or (), name=name)
    typer.echo(f"Read the card before you give it away: {(written / sharing.CARD).resolve()}")
    if upload:
        typer.echo(f"Sent: {sharing.upload(written, name)}")


@command("export")
def export_network(
    run: Annotated[str, typer.Argument(help="Folder that train or share wrote, or hf://owner/name[@revision].")],
    path: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    modalities: Annotated[str, typer.Option(help="Those present, such as t1,flair; all when left out.")] = "",
    attention: Annotated[bool, typer.Option("--attention", help="Attention maps are outputs too.")] = False,
    contributions: Annotated[bool, typer.Option("--contributions", help="Contributions are outputs too.")] = False,
) -> None:
    """Write the network for one set of modalities as ONNX, checked against torch."""
    from maml_toolkit import Predictor, sharing
    from maml_toolkit.sharing import export

    predictor = sharing.from_pretrained(run) if sharing.is_shared(run) else Predictor.load(run)
    names = from_text(modalities, "list[str]") if modalities else None
    found = export.export_onnx(predictor, path, names, attention=attention, contributions=contributions)
    size = " × ".join(map(str, predictor.window))
    typer.echo(f"Written: {path.resolve()}, for windows of {size} voxels. Largest difference from torch: "
               f"{max(found.values()):.1e}")

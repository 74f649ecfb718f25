"""The best checkpoint of a run as a folder that can be given away."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from maml_toolkit.evaluation.measuring import read_table
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.sharing import hub, sums
from maml_toolkit.sharing.card import Facts, card
from maml_toolkit.sharing.scores import scores
from maml_toolkit.system import tables
from maml_toolkit.system.files import whole_folder, writable

KNOWN = {sums.CARD, sums.SUMS, "settings.json", "scores.csv", "checkpoints"}
"""What a shared folder holds."""


def save_pretrained(run: str | Path, folder: str | Path, *, license: str = "", license_link: str = "", data: str = "",
                    data_license: str = "", limits: Sequence[str] = (), name: str = "") -> Path:
    """Write the best checkpoint of a run into a folder that can be given away, with a model card made from the run.

    Args:
        run: folder that a Trainer wrote; the card has a table of scores where `evaluate` left a metrics.csv.
        folder: new, empty, or a shared model, which is replaced.
        license: of the model, as huggingface.co spells it ("cc-by-4.0", "apache-2.0"); "other" with a link. It is never
            guessed: what it can be depends on the licence of the data.
        license_link: to the text of another licence.
        data: names of the data sets and where they come from, in your words, for the card.
        data_license: under which the data were given to you, for the card.
        limits: what else a user must know, a sentence each, for the card.
        name: under which others will load it from the hub (owner/name); the folder's own name when left out.

    Raises:
        ValueError: no licence, or one that the hub cannot spell; a folder that holds something else.
        FileNotFoundError: there is no such run, or it has no checkpoint yet.
    """
    check_license(license, license_link)
    run, folder = Run(run), Path(folder)
    if name:
        hub.check_name(name)
    if (run.folder / sums.SUMS).exists():
        raise ValueError(f"{run.folder} is a shared model already; copy it, or send it with `upload`")
    _check_free(folder)
    predictor = Predictor.load(run.folder, device="cpu")
    writable(folder.absolute().parent)
    measured = read_table(run.metrics) if run.metrics.exists() else None
    text = card(predictor, Facts(
        hub.SCHEME + name if name else folder.absolute().name, license, license_link, data, data_license, limits,
        frozenset(run.settings["cases"]["training"]), frozenset(run.settings["cases"]["validation"]),
        run.settings["trainer"], _epochs_done(run), measured))
    with whole_folder(folder) as writing:
        step = int(checkpoints.best(run.checkpoints).name.rpartition("-")[2])
        saved = checkpoints.save(writing / "checkpoints", step, predictor.method, best=True)
        (saved / "training.pt").unlink()                    # a pickle, and empty
        shared = {key: run.settings[key] for key in ("method", "task", "trainer")}
        (writing / "settings.json").write_text(json.dumps(shared, indent=2), encoding="utf-8")
        if measured is not None:
            tables.write(writing / "scores.csv", scores(measured, predictor.method.modalities))
        for weights in saved.glob("*.safetensors"):         # written for their owner alone
            shutil.copymode(writing / "settings.json", weights)
        (writing / sums.CARD).write_text(text, encoding="utf-8")
        sums.write(writing)
    return folder


def check_license(license: str, link: str = "") -> None:
    """Nothing, if it is a licence as the hub spells them.

    Raises:
        ValueError: none was given, or it is spelt otherwise.
    """
    if not license:
        raise ValueError("no licence was given and none is guessed: say which, such as cc-by-4.0. What it can be "
                         "depends on the licence of the data; ask whoever owns them")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"found the licence {license!r}, expected an identifier in small letters such as cc-by-4.0, "
                         "cc-by-nc-sa-4.0, apache-2.0, or other")
    if (license == "other") != bool(link):
        raise ValueError(f"found the licence {license!r} with the link {link!r}, expected a link with \"other\" and "
                         "with no other licence")


def _check_free(folder: Path) -> None:
    """Whether the folder may be replaced: it is not there, empty, or holds a shared model and nothing beside it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder; choose another")
    inside = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    if inside and (sums.SUMS not in inside or inside - KNOWN):
        raise ValueError(f"{folder} holds {', '.join(sorted(inside - KNOWN) or sorted(inside))}, which would be lost; "
                         "choose a new or an empty folder")


def _epochs_done(run: Run) -> int:
    return int(run.epochs()["epoch"].max()) if run.history.exists() else 0

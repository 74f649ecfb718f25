"""A shared folder: written from the best checkpoint of a run, held against its sums, loaded ready to predict."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from maml_toolkit.evaluation.table import read_table
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.fitted import Fitted
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import MODELS, Run
from maml_toolkit.prediction.typical import Typical
from maml_toolkit.sharing import hub
from maml_toolkit.sharing.card import Facts, card, scores
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import checksum, whole_folder, writable

SUMS, CARD = "SHA256SUMS", "README.md"

KNOWN = {CARD, SUMS, "settings.json", "scores.csv", "checkpoints"}
"""What a shared folder holds."""

READ = ("settings.json", "checkpoints/")
"""What `Predictor.load` reads; other files that somebody puts beside them do no harm."""


def save_pretrained(run: str | Path, folder: str | Path, *, license: str = "", license_link: str = "", data: str = "",
                    data_license: str = "", limits: Sequence[str] = (), name: str = "", half: bool = False,
                    measured: pd.DataFrame | None = None, measured_on: str = "") -> Path:
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
        half: whether weights are kept as float16, in half the bytes.
        measured, measured_on: a tidy table for the card in place of the run's metrics.csv, and what it is of, in your
            words, such as "eight trainings, each measured on the case that it did not see".

    Raises:
        ValueError: no licence, or one that the hub cannot spell; a folder that holds something else.
        FileNotFoundError: there is no such run, or it has no checkpoint yet.
    """
    check_license(license, license_link)
    run, folder = Run(run), Path(folder)
    if name:
        hub.check_name(name)
    if (run.folder / SUMS).exists():
        raise ValueError(f"{run.folder} is a shared model already; copy it, or send it with `upload`")
    _check_free(folder)
    predictor = Predictor.load(run.folder, device="cpu")
    writable(folder.absolute().parent)
    if measured is None and run.metrics.exists():
        measured = read_table(run.metrics)
    text = card(predictor, Facts(
        hub.SCHEME + name if name else folder.absolute().name, license, license_link, data, data_license, limits,
        frozenset(run.settings["cases"]["training"]), frozenset(run.settings["cases"]["validation"]),
        run.settings["trainer"], int(run.epochs()["epoch"].max()) if run.history.exists() else 0, measured,
        measured_on))
    with whole_folder(folder) as writing:
        step = int(checkpoints.best(run.checkpoints).name.rpartition("-")[2])
        saved = checkpoints.save(writing / "checkpoints", step, predictor.method, best=True, half=half)
        (saved / "training.pt").unlink()                    # a pickle, and empty
        if predictor.fitted != Fitted():
            replace(predictor.fitted, cases=()).save(saved)
        if predictor.typical != Typical():
            predictor.typical.save(saved)
        shared = {key: run.settings[key] for key in ("method", "task", "trainer")}
        (writing / "settings.json").write_text(json.dumps(shared, indent=2), encoding="utf-8")
        if measured is not None:
            tables.write(writing / "scores.csv", scores(measured, predictor.method.modalities))
        for weights in saved.glob("*.safetensors"):         # written for their owner alone
            shutil.copymode(writing / "settings.json", weights)
        (writing / CARD).write_text(text, encoding="utf-8")
        write_sums(writing)
    return folder


def from_pretrained(source: str | Path, **settings) -> Predictor:
    """A shared model, ready to predict.

    Args:
        source: a folder that `save_pretrained` wrote or the name of a model that comes with the toolkit, for which no
            network is used; or a model on huggingface.co, as hf://owner/name or hf://owner/name@revision (a branch, a
            tag or a commit).
        settings: other arguments of the Predictor.

    Raises:
        FileNotFoundError: there is no such folder, or the hub has no such model or cannot be reached.
        ModuleNotFoundError: a model on the hub was named and the extra `hub` is not installed.
        DataError: files that are missing, damaged, not listed, or do not hold what they should.
    """
    asked = str(source)
    if from_hub := isinstance(source, str) and source.startswith(hub.SCHEME):
        folder = hub.fetch(source)
    elif known := Run(source).model:
        folder = known
    elif Path(source).is_dir():
        folder = Path(source)
    else:
        raise FileNotFoundError(f"there is no folder {asked}; a model on huggingface.co is named "
                                f"{hub.SCHEME}owner/name, and these come with the toolkit: "
                                f"{', '.join(sorted(one.name for one in MODELS.glob('*/'))) or 'none'}")
    verify(folder)
    _check_settings(folder / "settings.json")
    predictor = Predictor.load(folder, **settings)
    predictor.run = asked.removeprefix(hub.SCHEME) if from_hub else folder.resolve().name
    return predictor


def is_shared(source: str | Path) -> bool:
    """Whether it is a shared model, on the hub, in a folder or of the toolkit, and not a run."""
    return str(source).startswith(hub.SCHEME) or (Run(source).model or Path(source) / SUMS).exists()


def upload(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Send a shared folder to huggingface.co as one commit, and return the address of that commit.

    The card and the files that the sums list are sent, whatever else lies beside them.

    Args:
        folder: that `save_pretrained` wrote.
        name: of the repository (owner/name); it is made if it is not there.
        private: whether only its owner sees a repository that is made now.

    Raises:
        ModuleNotFoundError: the extra `hub` is not installed.
        DataError: the folder is not what was written.
        ConnectionError: the hub refused, or could not be reached.
    """
    hub.check_name(name)
    return hub.send(Path(folder), name, [*verify(Path(folder)), SUMS, CARD], private)


def write_sums(folder: Path) -> None:
    """Write the sums of all files in a folder; the card is not among them, since people edit it on the hub."""
    lines = [f"{checksum(folder / name)}  {name}\n" for name in sorted(_files(folder))]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def verify(folder: Path) -> list[str]:
    """The names of the files that the sums list, if they are there, unchanged, and no other would be read.

    Raises:
        DataError: everything that is wrong.
    """
    listed, present = _listed(folder), _files(folder)
    wrong = [DataError("it is listed and missing", path=folder / name) for name in sorted(set(listed) - present)]
    wrong += [DataError("it is damaged: its SHA-256 is not the one listed", path=folder / name)
              for name in sorted(present & set(listed)) if checksum(folder / name) != listed[name]]
    wrong += [DataError("it is not listed", path=folder / name) for name in sorted(present - set(listed))
              if name.startswith(READ)]
    if wrong:
        raise DataError(f"{folder} is not what was shared:\n" + "\n".join(f"- {one}" for one in wrong),
                        "Fetch or copy it again; a model that you changed is shared again with save_pretrained.",
                        errors=wrong)
    return sorted(listed)


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
    if inside and (SUMS not in inside or inside - KNOWN):
        raise ValueError(f"{folder} holds {', '.join(sorted(inside - KNOWN) or sorted(inside))}, which would be lost; "
                         "choose a new or an empty folder")


def _check_settings(path: Path) -> None:
    """Whether the settings, which may come from anybody, hold what `Predictor.load` reads."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        there = isinstance(settings["task"], dict) and all(int(n) > 0 for n in settings["trainer"]["patch_size"])
    except (OSError, ValueError, KeyError, TypeError):
        there = False
    if not there:
        raise DataError("found no task or no patch size, expected what save_pretrained wrote",
                        "Ask whoever shared the model.", path=path)


def _listed(folder: Path) -> dict[str, str]:
    """File -> sum, as written down. Names are compared with those found and never opened, wherever they lead."""
    if not (folder / SUMS).is_file():
        raise DataError(f"found no {SUMS}, expected a folder that save_pretrained wrote",
                        "Name such a folder; a run is loaded with Predictor.load.", path=folder)
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: found for found, _, name in (line.partition("  ") for line in lines)}


def _files(folder: Path) -> set[str]:
    found = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}
    return found - {SUMS, CARD}

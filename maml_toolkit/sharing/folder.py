"""A shared folder: written from the best checkpoint of a run, held against its sums, loaded ready to predict.

From huggingface.co it is fetched, and sent there, when a name on it is given and never otherwise.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from maml_toolkit.evaluation.table import read_table
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.kept import Fitted
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import MODELS, SETTINGS, Run
from maml_toolkit.prediction.typical import Typical
from maml_toolkit.sharing.card import Facts, card, scores
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, imported, warn_of
from maml_toolkit.system.files import checksum, whole_folder, writable

SUMS, CARD, SCORES = "SHA256SUMS", "README.md", "scores.csv"

KNOWN = {CARD, SUMS, SETTINGS, SCORES, "checkpoints"}
"""What a shared folder holds."""

READ = (SETTINGS, "checkpoints/")
"""What `Predictor.load` reads; other files that somebody puts beside them do no harm."""

SCHEME = "hf://"
"""How the name of a model on the hub starts; whatever starts otherwise is a folder, and no network is asked for it."""

FETCHED = ("*.safetensors", "*.json", "*.csv", "*.md", SUMS)
"""The names of files that are fetched; none of them can hold code that runs when it is opened."""

_WORD = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}\w)?"
_NAME = re.compile(rf"{_WORD}/{_WORD}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)


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

    Warns:
        DataWarning: the run went on since it was measured.

    Raises:
        ValueError: no licence, or one that the hub cannot spell; a folder that holds something else.
        FileNotFoundError: there is no such run, or it has no checkpoint yet.
    """
    check_license(license, license_link)
    run, folder = Run(run), Path(folder)
    if name:
        check_name(name)
    if (run.folder / SUMS).exists():
        raise ValueError(f"{run.folder} is a shared model already; copy it, or send it with `upload`")
    _check_free(folder)
    predictor = Predictor.load(run.folder, device="cpu")
    writable(folder.absolute().parent)
    if measured is None and run.metrics.exists():
        measured = read_table(run.metrics)
        if run.is_older(run.metrics):
            warn_of([DataError("it is older than the weights, and the card will say its scores of them",
                               "Evaluate the run again, and share it then.", path=run.metrics)])
    known = run.settings["cases"]
    limits = [*limits, *["Its weights were rounded to float16 when it was shared."] * half]
    seen = {part: frozenset([*known[part], *known.get(f"earlier {part}", ())]) for part in ("training", "validation")}
    text = card(predictor, Facts(
        name=SCHEME + name if name else folder.absolute().name, license=license, license_link=license_link, data=data,
        data_license=data_license, limits=limits, **seen, fitted=frozenset(predictor.fitted.cases),
        trainer=run.settings["trainer"], epochs=int(run.epochs()["epoch"].max()) if run.history.exists() else 0,
        measured=measured, measured_on=measured_on))
    with whole_folder(folder) as writing:
        step = int(checkpoints.best(run.checkpoints).name.rpartition("-")[2])
        saved = checkpoints.save(writing / "checkpoints", step, predictor.method, best=True, half=half)
        (saved / checkpoints.TRAINING).unlink()             # a pickle, and empty
        if predictor.fitted != Fitted():
            replace(predictor.fitted, cases=()).save(saved)
        if predictor.typical != Typical():
            predictor.typical.save(saved)
        shared = {key: run.settings[key] for key in ("method", "task", "trainer")}
        (writing / SETTINGS).write_text(json.dumps(shared, indent=2), encoding="utf-8")
        if measured is not None:
            tables.write(writing / SCORES, scores(measured, predictor.method.modalities))
        for weights in saved.glob("*.safetensors"):         # written for their owner alone
            shutil.copymode(writing / SETTINGS, weights)
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
    if from_hub := isinstance(source, str) and source.startswith(SCHEME):
        folder = fetch(source)
    elif known := Run(source).model:
        folder = known
    elif Path(source).is_dir():
        folder = Path(source)
    else:
        raise FileNotFoundError(f"there is no folder {asked}; a model on huggingface.co is named "
                                f"{SCHEME}owner/name, and these come with the toolkit: "
                                f"{', '.join(sorted(one.name for one in MODELS.glob('*/'))) or 'none'}")
    verify(folder)
    _check_settings(folder / SETTINGS)
    predictor = Predictor.load(folder, **settings)
    predictor.run = asked.removeprefix(SCHEME) if from_hub else folder.resolve().name
    return predictor


def is_shared(source: str | Path) -> bool:
    """Whether it is a shared model, on the hub, in a folder or of the toolkit, and not a run."""
    return str(source).startswith(SCHEME) or (Run(source).model or Path(source) / SUMS).exists()


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
    check_name(name)
    files = [*verify(Path(folder)), SUMS, CARD]
    hub = imported("huggingface_hub", "hub", "sending a model there needs")
    try:
        hub.create_repo(name, repo_type="model", private=private, exist_ok=True)
        return str(hub.upload_folder(
            repo_id=name, repo_type="model", folder_path=str(folder), allow_patterns=files,
            delete_patterns=["checkpoints/*", SCORES], commit_message="Model shared with maml_toolkit"))
    except Exception as error:      # what the client raises has other classes in each of its major versions
        raise ConnectionError(f"{name} could not be sent to huggingface.co: {_first_line(error)}. Log in with `hf auth "
                              "login`, look at the name and the network, and send it again") from error


def check_name(name: str) -> None:
    """Nothing, if it can be the name of a repository.

    Raises:
        ValueError: it is not owner/name.

    >>> check_name("lab/liver-phases_2")
    >>> check_name("../liver")
    Traceback (most recent call last):
    ValueError: found the name '../liver', expected owner/name of letters, digits, single dots and hyphens, underscores
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"found the name {name!r}, expected owner/name of letters, digits, single dots and hyphens, "
                         "underscores")


def fetch(address: str) -> Path:
    """The folder into which the files of hf://owner/name, or hf://owner/name@revision, were fetched, or lay already.

    Raises:
        ValueError: it is spelt otherwise.
        ModuleNotFoundError: the extra `hub` is not installed.
        FileNotFoundError: there is no such repository, or it cannot be reached.
    """
    name, at, revision = address.removeprefix(SCHEME).partition("@")
    check_name(name)
    if at and not _REVISION.fullmatch(revision):
        raise ValueError(f"found the revision {revision!r}, expected a branch, a tag or a commit after the @")
    hub = imported("huggingface_hub", "hub", "a name on huggingface.co needs (a folder does not)")
    try:
        return Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FETCHED)))
    except Exception as error:      # what the client raises has other classes in each of its major versions
        raise FileNotFoundError(
            f"huggingface.co did not give {address}: {_first_line(error)}. Look at the name and the network; log in "
            "with `hf auth login` where it is private; without a network, fetch it elsewhere (`hf download "
            f"{name} --local-dir FOLDER`) and name the folder") from error


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
                        "Fetch or copy it again; what you changed is shared again with save_pretrained.", errors=wrong)
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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")

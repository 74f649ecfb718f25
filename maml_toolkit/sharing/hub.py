"""huggingface.co: where a shared folder is sent to and fetched from, when it is named and never otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from maml_toolkit.system.errors import with_extra

SCHEME = "hf://"
"""How the name of a model on the hub starts; whatever starts otherwise is a folder, and no network is asked for it."""

FETCHED = ("*.safetensors", "*.json", "*.csv", "*.md", "SHA256SUMS")
"""The names of files that are fetched; none of them can hold code that runs when it is opened."""

_WORD = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}\w)?"
_NAME = re.compile(rf"{_WORD}/{_WORD}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)


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
    hub = _hub()
    try:
        return Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FETCHED)))
    except Exception as error:      # what the client raises has other classes in each of its major versions
        raise FileNotFoundError(
            f"huggingface.co did not give {address}: {_first_line(error)}. Look at the name and the network; log in "
            "with `hf auth login` where it is private; without a network, fetch it elsewhere (`hf download "
            f"{name} --local-dir FOLDER`) and name the folder") from error


def send(folder: Path, name: str, files: list[str], private: bool) -> str:
    """Send these files of a folder to a repository, which is made if it is not there; returns the commit's address.

    Raises:
        ModuleNotFoundError: the extra `hub` is not installed.
        ConnectionError: the hub refused, or could not be reached.
    """
    hub = _hub()
    try:
        hub.create_repo(name, repo_type="model", private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=name, repo_type="model", folder_path=str(folder), allow_patterns=files,
            delete_patterns=["checkpoints/*", "scores.csv"], commit_message="Model shared with maml_toolkit")
    except Exception as error:      # as above
        raise ConnectionError(f"{name} could not be sent to huggingface.co: {_first_line(error)}. Log in with `hf auth "
                              "login`, look at the name and the network, and send it again") from error
    return str(commit)


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("huggingface_hub is not installed, which a name on huggingface.co needs (a folder "
                                  f"does not); install it with {with_extra('hub')}") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")

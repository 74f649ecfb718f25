"""A shared model, from a folder or from the hub, ready to predict."""

from __future__ import annotations

import json
from pathlib import Path

from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.sharing import hub, sums
from maml_toolkit.system.errors import DataError


def from_pretrained(source: str | Path, **settings) -> Predictor:
    """A shared model, ready to predict.

    Args:
        source: a folder that `save_pretrained` wrote, for which no network is used; or a model on huggingface.co, as
            hf://owner/name or hf://owner/name@revision (a branch, a tag or a commit).
        settings: other arguments of the Predictor.

    Raises:
        FileNotFoundError: there is no such folder, or the hub has no such model or cannot be reached.
        ModuleNotFoundError: a model on the hub was named and the extra `hub` is not installed.
        DataError: files that are missing, damaged, not listed, or do not hold what they should.
    """
    asked = str(source)
    if from_hub := isinstance(source, str) and source.startswith(hub.SCHEME):
        folder = hub.fetch(source)
    elif Path(source).is_dir():
        folder = Path(source)
    else:
        raise FileNotFoundError(f"there is no folder {asked}; a model on huggingface.co is named "
                                f"{hub.SCHEME}owner/name")
    sums.verify(folder)
    _check_settings(folder / "settings.json")
    predictor = Predictor.load(folder, **settings)
    predictor.run = asked.removeprefix(hub.SCHEME) if from_hub else folder.resolve().name
    return predictor


def is_shared(source: str | Path) -> bool:
    """Whether it is a shared model, on the hub or in a folder, and not a run."""
    return str(source).startswith(hub.SCHEME) or (Path(source) / sums.SUMS).exists()


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

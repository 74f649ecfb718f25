"""Manifests: what a prediction in a folder was made from, and whether it still is what would be made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from maml_toolkit.prediction.shards import MANIFEST

WRITTEN = re.compile(r"(labels|probabilities|attention_\w+|contribution_\w+)\.nii\.gz|(prediction|manifest)\.json")
"""The names of the files in the folder of a prediction."""


def manifest(folder: Path) -> dict[str, Any] | None:
    """What is written about the prediction in a folder; None where none is, or a file of it is gone or was cut."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in found["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def is_done(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether a folder holds, whole, the prediction that would be made from this."""
    found = manifest(folder)
    return found is not None and all(found.get(name) == value for name, value in made_from.items())


def foreign(folder: Path) -> list[str]:
    """Files in the folder of a prediction that no prediction wrote, and that must not be lost with it."""
    return sorted(path.name for path in folder.iterdir() if not WRITTEN.fullmatch(path.name)) if folder.exists() else []

"""What a shared folder holds, by SHA-256: written when it is made, looked at before anything in it is read."""

from __future__ import annotations

from pathlib import Path

from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import checksum

SUMS, CARD = "SHA256SUMS", "README.md"

READ = ("settings.json", "checkpoints/")
"""What `Predictor.load` reads; other files that somebody puts beside them do no harm."""


def write(folder: Path) -> None:
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

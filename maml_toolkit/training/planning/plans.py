"""A plan: how a network is trained on a machine, why so, and what that takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from maml_toolkit.system.errors import nearest
from maml_toolkit.system.files import read_json, write_whole
from maml_toolkit.system.showing import duration, edges, size, widths

PAPER: dict[str, Any] = {
    "channels": (32, 64, 128, 256, 320, 320), "patch_size": (128, 128, 128), "batch_size": 2, "accumulate": 1,
    "recompute": False, "epochs": 600, "steps_per_epoch": 250, "learning_rate": 3e-4, "schedule": "constant"}
"""What the paper trains with; the release of nnU-Net's widths, batch and steps, which the paper does not name."""
PAPER_STEPS = PAPER["epochs"] * PAPER["steps_per_epoch"]
WEEK_H = 7 * 24
"""A training that takes longer is started only if somebody says that it is meant."""


@dataclass(frozen=True)
class Plan:
    """How a network is trained: parameters of the job 2-train, with their reasons.

    Attributes:
        channels: width of each stage of the U-Nets, full resolution first; as many as there are stages.
        patch_size: voxels on each axis; strides and kernels follow from it (`networks.unet.layout`).
        batch_size, accumulate, recompute, epochs, steps_per_epoch, learning_rate, schedule: as the Trainer's.
        device, precision: for which it was made.
        given: the parameters that were not chosen but given.
        memory: bytes that a step is expected to take, and `available` those that there were; None where not measured.
        hours: that the whole training is expected to take; None where not measured.
        reasons: a sentence for each choice.
    """

    channels: tuple[int, ...]
    patch_size: tuple[int, ...]
    batch_size: int = 2
    accumulate: int = 1
    recompute: bool = False
    epochs: int = 600
    steps_per_epoch: int = 250
    learning_rate: float = 3e-4
    schedule: str = "constant"
    device: str = "cpu"
    precision: str = "float32"
    given: tuple[str, ...] = ()
    memory: float | None = None
    available: float | None = None
    hours: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters of 2-train that it fixes, by name."""
        return {name: getattr(self, name) for name in PAPER}

    @property
    def steps(self) -> int:
        """Of each stage of the training."""
        return self.epochs * self.steps_per_epoch

    def changed(self, given: Mapping[str, Any]) -> Plan:
        """The plan with these parameters instead of its own; what was expected of it then counts no longer."""
        given = as_tuples(given)
        if all(value == getattr(self, name) for name, value in given.items()):
            return self
        told = ", ".join(f"{name} {said(name, value)}" for name, value in given.items())
        return replace(self, **given, given=tuple(dict.fromkeys((*self.given, *given))), memory=None, hours=None,
                       reasons=(*self.reasons, f"Given, not planned: {told}."))

    def hopeless(self) -> str:
        """Why it should not be started on this device; empty where nothing says so."""
        if self.hours is not None and self.hours > WEEK_H:
            return f"this training would take {duration(self.hours)} on {self.device}"
        if self.memory is not None and self.available is not None and self.memory > self.available:
            return f"a step would take {size(self.memory)} of the {size(self.available)} there are on {self.device}"
        return ""

    def save(self, path: str | Path) -> Path:
        """Write it as JSON; returns the path."""
        write_whole(Path(path), json.dumps(asdict(self), indent=2))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """A plan that was saved.

        Raises:
            ValueError: there is no such file, or it holds no plan.
        """
        try:
            found = read_json(path)
            known = [one.name for one in fields(cls)]
            if unknown := [name for name in found if name not in known]:
                raise ValueError(f"{unknown[0]!r}{nearest(unknown[0], known)} is no part of a plan")
            return cls(**as_tuples(found))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"found no plan in {path} ({error}), expected 'auto', 'paper', or a file that "
                             "`maml_toolkit plan --out FILE` wrote") from error

    def __str__(self) -> str:
        return "\n".join(self.reasons)


def as_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with tuples in place of the lists that JSON and the command line give."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def said(name: str, value: Any) -> str:
    """The value of a parameter, as one would say it."""
    return {"patch_size": edges, "channels": widths}.get(name, str)(value)


def bytes_of(text: str | float) -> float:
    """A size as it is typed; a number is in GB.

    >>> bytes_of("12GB"), bytes_of("512 MB"), bytes_of(24)
    (12000000000.0, 512000000.0, 24000000000.0)

    Raises:
        ValueError: it is none.
    """
    units = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2**20, "GIB": 2**30, "G": 1e9, "": 1e9}
    number = str(text).strip().rstrip("KMGTBIkmgtbi").strip()
    unit = str(text).strip()[len(number):].strip().upper()
    try:
        found = float(number) * units[unit]
    except (ValueError, KeyError):
        found = 0
    if not 0 < found < float("inf"):
        raise ValueError(f"found memory={text!r}, expected a size such as 12GB")
    return found

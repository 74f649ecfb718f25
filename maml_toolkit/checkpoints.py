"""Checkpoints: weights in safetensors, the JSON that rebuilds the method, and the state of the training.

    checkpoints/step-00000500/weights.safetensors    the parameters
                              method.json            name and arguments of the method
                              training.pt            optimiser, schedule, step, best score (plain values and tensors)

A checkpoint is written under a temporary name, flushed to the disk and renamed, so what has its final name is
whole. The two newest are kept, and the best by validation under `best-step-…`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from maml_toolkit.files import whole_folder
from maml_toolkit.methods import Method, build

KEPT = 2
"""How many of the newest checkpoints stay."""


def save(folder: Path, step: int, method: Method, training: dict | None = None, best: bool = False) -> Path:
    """Write a checkpoint into the folder of checkpoints, drop those no longer kept, and return its path.

    Args:
        folder: of all checkpoints of a run.
        step: training steps done; part of the name.
        method: whose weights and settings are saved.
        training: tensors and plain values needed to go on.
        best: whether it is the best so far, kept apart from the newest.
    """
    kind = "best-step" if best else "step"
    final = folder / f"{kind}-{step:08d}"
    with whole_folder(final) as writing:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()},
                  writing / "weights.safetensors")
        (writing / "method.json").write_text(json.dumps({"method": method.name, **method.settings}, indent=2))
        torch.save(training or {}, writing / "training.pt")
    for old in found(folder, kind)[:-1 if best else -KEPT]:
        shutil.rmtree(old)
    return final


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, to go on from; None where there is none yet."""
    return (found(folder, "step") or [None])[-1]


def best(folder: Path) -> Path | None:
    """The best checkpoint by validation, or the newest where nothing was validated yet."""
    return (found(folder, "best-step") or [newest(folder)])[-1]


def found(folder: Path, kind: str) -> list[Path]:
    """The whole checkpoints of a kind, oldest first."""
    return sorted(path for path in folder.glob(f"{kind}-*") if path.is_dir())


def load(checkpoint: Path) -> Method:
    """The method that a checkpoint holds, rebuilt with its weights, on the CPU and ready to predict.

    Raises:
        ValueError: the checkpoint is damaged, or of a method that this version does not have.
    """
    try:
        settings = json.loads((checkpoint / "method.json").read_text())
        method = build(settings.pop("method"), **settings)
        method.load_state_dict(load_file(checkpoint / "weights.safetensors"))
    except (OSError, KeyError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"the checkpoint {checkpoint} cannot be read: {error}; choose another one") from error
    return method.eval()


def load_training(checkpoint: Path) -> dict:
    """The training state that `save` was given; nothing in the file is executed."""
    return torch.load(checkpoint / "training.pt", map_location="cpu", weights_only=True)

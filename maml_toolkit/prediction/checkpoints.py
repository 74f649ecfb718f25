"""Checkpoints: weights in safetensors, the JSON that rebuilds the method, and the state of the training.

    checkpoints/step-00000500/weights.safetensors    the parameters
                              method.json            name and arguments of the method
                              training.pt            optimiser, step, best score, … (plain values and tensors)
                              checksums.json         SHA-256 of each of these, written last

A checkpoint is written under a temporary name, flushed to the disk and renamed, so what has its final name is
whole. What happens to it later is found by its checksums: neither safetensors nor torch notices a flipped bit. The
two newest are kept, and the best by validation under `best-step-…`. Nothing in a checkpoint is ever executed.
"""

import hashlib
import json
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from maml_toolkit.methods import Method, build
from maml_toolkit.system.errors import expect_one_of
from maml_toolkit.system.files import checksum, no_room, remove, whole_folder

KEPT = 2
"""How many of the newest checkpoints stay."""
WEIGHTS, METHOD, TRAINING, CHECKSUMS = "weights.safetensors", "method.json", "training.pt", "checksums.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used."""


class CheckpointWarning(UserWarning):
    """An older checkpoint was used than there should be."""


def save(folder: Path, step: int, method: Method, training: dict | None = None, best: bool = False,
         half: bool = False) -> Path:
    """Write a checkpoint into the folder of checkpoints, drop those no longer kept, and return its path.

    Args:
        folder: of all checkpoints of a run.
        step: training steps done; part of the name. Checkpoints of later steps are dropped: the run went on from
            an earlier one.
        method: whose weights and settings are saved.
        training: tensors and numbers, numpy's too, needed to go on.
        best: whether it is the best so far, kept apart from the newest.
        half: whether weights are rounded to float16, in half the bytes; `load` makes float32 of them.

    Raises:
        OSError: it could not be written, as on a full disk: how much is needed and how much there is. The
            checkpoints that were there still are.
    """
    kind = "best-step" if best else "step"
    final = folder / f"{kind}-{step:08d}"
    weights = {name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
               for name, tensor in method.state_dict().items()}
    try:
        with whole_folder(final) as writing:
            save_file(weights, writing / WEIGHTS)
            (writing / METHOD).write_text(json.dumps({"method": method.name, **method.settings}, indent=2),
                                          encoding="utf-8")
            torch.save(_plain(training or {}), writing / TRAINING)
            sign(writing)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not folder.exists():
            raise
        raise no_room(folder, size_of([weights, training]), error) from error
    whole = found(folder, kind)
    kept = [path for path in whole if path.name <= final.name][-(1 if best else KEPT):]
    for path in whole:
        if path not in kept:
            remove(path)
    return final


def _plain(value: Any) -> Any:
    """The same, numbers of numpy as Python's own: nothing else is read back."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def sign(checkpoint: Path) -> None:
    """Write down the checksums of a checkpoint's files as they are now."""
    sums = {name: checksum(checkpoint / name) for name in (WEIGHTS, METHOD, TRAINING)}
    (checkpoint / CHECKSUMS).write_text(json.dumps(sums, indent=2), encoding="utf-8")


def fingerprint(method: Method) -> str:
    """SHA-256 of a method's settings and weights, wherever they lie."""
    found = hashlib.sha256(json.dumps([method.name, method.settings], sort_keys=True).encode())
    for name, tensor in method.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def size_of(value: Any) -> int:
    """Bytes of all tensors in a value, at any depth, and a little for the rest."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return size_of(list(value.values()))
    return sum(map(size_of, value)) if isinstance(value, list | tuple) else 64


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, whole or not; None where there is none yet."""
    return (found(folder, "step") or [None])[-1]


def best(folder: Path) -> Path | None:
    """The best checkpoint by validation, or the newest where nothing was validated yet."""
    return (found(folder, "best-step") or [newest(folder)])[-1]


def forget_best(folder: Path) -> None:
    """Drop the best checkpoint: the newest is the one that answers."""
    for path in found(folder, "best-step"):
        remove(path)


def chosen(folder: Path, checkpoint: str) -> Path:
    """The "best" or the "newest" checkpoint of a run.

    Raises:
        ValueError: another word.
        FileNotFoundError: there is none.
    """
    choose = {"best": best, "newest": newest}
    expect_one_of("checkpoint", checkpoint, choose)
    if (path := choose[checkpoint](folder)) is None:
        raise FileNotFoundError(f"no checkpoint was found in {folder.absolute()}; train first, or name the folder that "
                                "was given to the Trainer as run=, from the current folder")
    return path


def found(folder: Path, kind: str) -> list[Path]:
    """The checkpoints of a kind, oldest first."""
    return sorted(path for path in folder.glob(f"{kind}-*") if path.is_dir())


def load(checkpoint: Path) -> Method:
    """The method that a checkpoint holds, rebuilt with its weights, on the CPU and ready to predict.

    Raises:
        CheckpointError: the checkpoint is damaged, or of a method that this version does not have.
    """
    verify(checkpoint, (WEIGHTS, METHOD))
    try:
        settings = json.loads((checkpoint / METHOD).read_text(encoding="utf-8"))
        method = build(settings.pop("method"), **settings)
        method.load_state_dict(load_file(checkpoint / WEIGHTS))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable(checkpoint, error) from error
    return method.eval()


def load_training(checkpoint: Path) -> dict:
    """The training state that `save` was given; nothing in the file is executed.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors and plain values.
    """
    verify(checkpoint, (TRAINING,))
    try:
        return torch.load(checkpoint / TRAINING, map_location="cpu", weights_only=True)
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise _unreadable(checkpoint, error) from error


def load_newest(folder: Path) -> tuple[Method, dict] | None:
    """Method and training state of the newest checkpoint that is whole; None where the folder holds none at all.

    Warns:
        CheckpointWarning: newer ones are damaged: which, and how.

    Raises:
        CheckpointError: there are checkpoints, but none that can be gone on from.
    """
    problems = []
    for checkpoint in reversed(found(folder, "step")):
        try:
            loaded = load(checkpoint), load_training(checkpoint)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn("\n".join([*problems, f"The run goes on from {checkpoint} instead."]), CheckpointWarning,
                          stacklevel=2)
        return loaded
    others = [f"{path} holds weights, but no state to go on from" for path in found(folder, "best-step")]
    if not problems + others:
        return None
    raise CheckpointError("\n".join([f"no checkpoint in {folder} can be gone on from:", *problems, *others])
                          + "\nBring one back from a copy, or choose another run folder to start again.")


def verify(checkpoint: Path, names: Sequence[str] = (WEIGHTS, METHOD, TRAINING)) -> None:
    """Nothing, if these files of a checkpoint are what was written.

    Raises:
        CheckpointError: a file is missing, or its checksum is another one.
    """
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        changed = [name for name in names if checksum(checkpoint / name) != sums[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(checkpoint, error) from error
    if changed:
        raise _unreadable(checkpoint, f"{' and '.join(changed)} changed since it was written (checksum)")


def _unreadable(checkpoint: Path, why: Exception | str) -> CheckpointError:
    what = f"{type(why).__name__}: {why}" if isinstance(why, KeyError) else why
    return CheckpointError(f"the checkpoint {checkpoint} cannot be read: {what}; choose another one")

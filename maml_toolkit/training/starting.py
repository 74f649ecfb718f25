"""Start from another run or a shared model: of the same scans, of fewer or more, of the same classes or of others.

What both have is taken over. A scan that is new gets a stream of its own, and joint layers are made wider so that the
answer without it stays what it was; classes or regions of other names get heads that begin anew, and so do all heads
where the one was trained on classes and the other on regions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maml_toolkit.data.tasks import Task
from maml_toolkit.methods import Method
from maml_toolkit.networks.unet import Head
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.sharing.folder import from_pretrained, is_shared


def opened(source: str | Path | Predictor) -> Predictor:
    """The Predictor of a run folder or of a shared model (a folder, or hf://owner/name).

    Raises:
        FileNotFoundError: there is no such run or model.
    """
    if isinstance(source, Predictor):
        return source
    return from_pretrained(source, device="cpu") if is_shared(source) else Predictor.load(source, device="cpu")


def as_before(source: str | Path | Predictor, channels: Sequence[int] | None = None,
              patch_size: Sequence[int] | None = None) -> dict[str, list[int]]:
    """`channels` and `patch_size` of a training that starts there: where they are not given those of the source.

    No other widths fit, and strides follow from the patch.
    """
    source = opened(source)
    return {"channels": [*(channels or source.method.plan[0])], "patch_size": [*(patch_size or source.window)]}


def start_from(method: Method, task: Task, source: str | Path | Predictor) -> dict[str, Any]:
    """Give a method what it can use of one that was trained before.

    Args:
        method: to be trained; its weights are changed in place.
        task: that it is trained for, of which classes, or regions, are known by their names.
        source: a run folder, a shared model (a folder, or hf://owner/name), or a Predictor.

    Returns:
        `source`, its `weights` as a checksum, and for people `taken` over, `widened` and `new`: names of modules.

    Raises:
        FileNotFoundError: there is no such run or model.
        ValueError: several runs, another method, or U-Nets of other widths, strides or kernels.
    """
    source = opened(source)
    if source.others:
        raise ValueError(f"found a start from {len(source.members)} runs that answer together, expected one; name one")
    other = source.method
    if other.name != method.name or other.plan != method.plan:
        found, wanted = ((one.name, *one.plan) for one in (other, method))
        raise ValueError(f"found a start from {found} (method, channels, strides, kernels), expected {wanted}; make "
                         "the method as the one before, with its patch size where strides follow from it")
    now, before = task.answers.names, source.task.answers.names if source.task.train_on == task.train_on else ()
    rows = [(now.index(name), before.index(name)) for name in now if name in before]
    heads = {f"{path}.{part}" for path, module in method.named_modules() for part in ("weight", "bias")
             if isinstance(module, Head) and module.out_channels == method.outputs
             and path.partition(".")[0] != method.painting}
    known, found = other.state_dict(), {"taken": set(), "widened": set(), "new": set()}
    for name, tensor in method.state_dict().items():
        how = "new"
        if name in known:
            old = method.adopted(name, known[name], other)
            how = "taken" if old.shape == tensor.shape and torch.equal(old, known[name]) else "widened"
            if name in heads and now != before:
                how = "widened" if rows else "new"
                for here, there in rows:
                    tensor[here] = old[there]
            elif old.shape == tensor.shape:
                tensor.copy_(old)
            else:
                how = "new"
        found[how].add(".".join(name.split(".")[:2]))
    return {"source": source.run or source.method.name, "weights": checkpoints.fingerprint(other),
            **{how: sorted(names) for how, names in found.items()}}


def in_words(started: dict[str, Any]) -> str:
    """What was taken over and what began anew, in one line each."""
    return "\n".join([f"starts from {started['source']}", *(f"  {how}: {', '.join(started[how])}"
                                                             for how in ("taken", "widened", "new") if started[how])])

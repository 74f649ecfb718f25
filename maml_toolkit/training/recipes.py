"""How a network is trained, apart from its budget: optimiser, schedule, patches, augmentation, as data.

                        paper                               nnunet
    optimiser           Adam                                SGD, Nesterov momentum 0.99
    learning rate       3e-4, constant                      1e-2, polynomial with exponent 0.9
    weight decay        none                                3e-5
    gradient norm       not clipped                         clipped at 12
    deep supervision    none                                every decoder level but the lowest
    foreground          every third patch holds a lesion    a third of a batch, rounded (one patch of two), is
                        voxel anywhere in it                centred on a voxel of a class that is drawn first
    augmentation        mirror, rotation, scaling,          mirror, rotation, scaling, noise, blur, brightness,
                        elastic deformation, gamma          contrast, low resolution, gamma, inverted gamma
    inference           as it is                            mean over all mirrors

`paper` is what Zhang et al. say (Adam, 3e-4, mirror, rotation, deformation, gamma); what they do not say, the rate
after its start, foreground, scaling and the chances of the augmentation, is chosen here. `nnunet` is nnU-Net v2's
default.

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et al., Nature
    Methods 2021, https://doi.org/10.1038/s41592-020-01008-z; numbers from nnUNetTrainer.py and data_loader.py of v2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from maml_toolkit.data.augmentation import NNUNET as NNUNET_AUGMENTATION
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.patches import FOREGROUND
from maml_toolkit.system.errors import expect_one_of

OPTIMIZERS = ("adam", "sgd")

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "poly": lambda done: (1 - done) ** 0.9,
    # a cosine up from 1/25 over the first 30 %, then one down to nearly 0
    "one-cycle": lambda done: (0.04 + 0.48 * (1 - math.cos(math.pi * done / 0.3)) if done < 0.3
                               else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))),
}
"""Share of the learning rate after a share of all steps."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the recipe `paper`.

    Args:
        name: that tables show.
        optimizer: "adam" or "sgd".
        learning_rate: the highest of the schedule.
        schedule: "constant", "poly" (exponent 0.9) or "one-cycle".
        momentum: of SGD, as Nesterov's.
        weight_decay: of all weights.
        clip_norm: the largest norm of the gradient of a step, to which longer ones are shortened; None: any.
        deep_supervision: whether the method is made with it. The Trainer takes the method as it is and warns.
        foreground: which patches hold a lesion: "every-third" or "centred" (data/patches.py).
        augmentation: what is drawn for each patch; None for nothing.
        mirror: whether whole cases are answered by the mean over all mirrors.

    Raises:
        ValueError: a value out of its range.
    """

    name: str = "paper"
    optimizer: str = "adam"
    learning_rate: float = 3e-4
    schedule: str = "constant"
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    deep_supervision: bool = False
    foreground: str = "every-third"
    augmentation: Augmentation | None = Augmentation()      # noqa: RUF009 - frozen
    mirror: bool = False

    def __post_init__(self):
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("foreground", FOREGROUND)):
            expect_one_of(name, getattr(self, name), known)
        if not (self.learning_rate > 0 and 0 <= self.momentum < 1 and self.weight_decay >= 0
                and (self.clip_norm is None or self.clip_norm > 0)):
            raise ValueError(f"found learning_rate={self.learning_rate}, momentum={self.momentum}, weight_decay="
                             f"{self.weight_decay} and clip_norm={self.clip_norm}, expected a learning rate and a norm "
                             "above 0, a momentum from 0 to below 1, a weight decay of 0 or more")

    @classmethod
    def of(cls, given: Recipe | str) -> Recipe:
        """A recipe, or that of a name.

        Raises:
            ValueError: no such name.
        """
        if isinstance(given, Recipe):
            return given
        expect_one_of("recipe", given, RECIPES)
        return RECIPES[given]

    def settings(self) -> dict[str, Any]:
        """Its values by their names, and its own name as "recipe"."""
        return {"recipe" if name == "name" else name: value for name, value in vars(self).items()}

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser of these parameters, in one operation for all of them."""
        shared = {"lr": self.learning_rate, "weight_decay": self.weight_decay, "fused": True}
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, **shared)
        return begun(torch.optim.SGD(parameters, momentum=self.momentum, nesterov=self.momentum > 0, **shared))

    def rate(self, done: float) -> float:
        """The learning rate after a share of all steps, 0 to 1."""
        return self.learning_rate * SCHEDULES[self.schedule](done)


def begun(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same, each weight's momentum 0 where it has none yet.

    torch's fused SGD makes it in the first step: of whatever the memory holds, where that step is skipped; and it
    refuses a step with a weight that earlier ones did without, as of a modality that their cases lacked.
    """
    for group in optimizer.param_groups:
        for one in group["params"] if group.get("momentum") else ():
            if optimizer.state[one].get("momentum_buffer") is None:
                optimizer.state[one]["momentum_buffer"] = torch.zeros_like(one)
    return optimizer


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what an optimiser of the same kind knew of the weights; how it steps stays what this one was told."""
    optimizer.load_state_dict({**state, "param_groups": optimizer.state_dict()["param_groups"]})
    begun(optimizer)


RECIPES = {"paper": Recipe(), "nnunet": Recipe(
    "nnunet", "sgd", 1e-2, "poly", momentum=0.99, weight_decay=3e-5, clip_norm=12.0, deep_supervision=True,
    foreground="centred", augmentation=NNUNET_AUGMENTATION, mirror=True)}
"""By their names."""

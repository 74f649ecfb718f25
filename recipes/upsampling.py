"""What an even start of transposed convolutions does: `python recipes/upsampling.py`, ten minutes on a core.

MAML is trained on phantoms with each of four seeds twice: as it is, and with weights of their own for each of the
voxels that one is made into, as in nnU-Net. It prints the Dice from both scans, and the share of the maps of
contributions that repeats every four voxels, the checkerboard of two upsamplings.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import uniform_filter

from maml_toolkit import Predictor, Trainer, evaluate
from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build

TASK = TASKS["liver_phases"]
PERIOD = 4
"""Voxels: two upsamplings by two."""


def trained(seed: int, even: bool, cases: list, folder: Path) -> Predictor:
    """MAML after 200 steps."""
    torch.manual_seed(seed)
    network = build("maml", modalities=TASK.modalities, **TASK.outputs, channels=[8, 16, 32])
    if not even:
        for layer in network.modules():
            if isinstance(layer, torch.nn.ConvTranspose3d):
                torch.nn.init.kaiming_normal_(layer.weight, a=0.01)
    Trainer(network, folder, TASK, patch_size=(32, 32, 32), batch_size=2, epochs=4, steps_per_epoch=50,
            learning_rate=3e-3, schedule="one-cycle", seed=seed, checkpoint_minutes=60).fit(cases)
    return Predictor.load(folder)


def repeating(image: np.ndarray) -> float:
    """The share of a map's detail, what is left without its means over four voxels, that repeats every four voxels."""
    detail = image - uniform_filter(image, PERIOD)
    detail = detail[tuple(slice(0, size - size % PERIOD) for size in detail.shape)]
    blocks = detail.reshape([part for size in detail.shape for part in (size // PERIOD, PERIOD)])
    return float(blocks.mean(axis=(0, 2, 4)).var() / detail.var())


if __name__ == "__main__":
    cases, rows = phantoms.liver_phases(24), []
    for seed in range(4):
        for even in (True, False):
            with TemporaryDirectory() as folder:
                predictor = trained(seed, even, cases[:16], Path(folder))
                table = evaluate(predictor, cases[16:], [set(TASK.modalities)], metrics=["dice"])
                answers = [predictor(case).log_odds(TASK.class_names[1]) for case in cases[16:]]
            rows.append({"seed": seed, "start": "even" if even else "uneven", "Dice": 100 * table["value"].mean(),
                         "repeats every four voxels": np.mean(
                             [repeating(share) for answer in answers for share in answer.shares.values()])})
            sys.stdout.write(pd.DataFrame(rows).tail(1).round(2).to_string(header=len(rows) == 1, index=False) + "\n")
    sys.stdout.write(pd.DataFrame(rows).groupby("start").mean().drop(columns="seed").round(2).to_string() + "\n")

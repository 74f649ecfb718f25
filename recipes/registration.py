"""What a registration gains on patients: `python recipes/registration.py DATA`, DATA cases in the layout of BraTS 2021.

The scans of such a case lie on one another. So FLAIR is moved by a rigid movement that is known, registered to T1ce
again, and the distance of points of the brain from their true place is measured before and after. It leaves a row for
each case and a picture of the median one in docs/results and tutorials/pictures. A quarter of a minute a case.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from maml_toolkit import TASKS, find_cases, plots
from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.volumes import Volume
from maml_toolkit.registration import Registration, Transform, register
from maml_toolkit.system import tables
from maml_toolkit.system.machine import progress

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "results" / "registration-patients.csv"
PICTURE = ROOT / "tutorials" / "pictures" / "registration-patient.png"
TURN_DEGREES, SHIFT_MM = 8, 10
"""The largest turn about each axis through the middle of the brain, and the largest shift along it."""


def moved(scan: Volume, centre: np.ndarray, random: np.random.Generator) -> tuple[Volume, Transform]:
    """A scan after a rigid movement, on its own grid, and where points of the scan as it was lie in it; mm, RAS+."""
    matrix = np.eye(4)
    angles = random.uniform(-TURN_DEGREES, TURN_DEGREES, 3)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = centre + random.uniform(-SHIFT_MM, SHIFT_MM, 3) - matrix[:3, :3] @ centre
    return Transform.linear(np.linalg.inv(matrix)).apply(scan, scan), Transform.linear(matrix)


def gained(case: Case, seed: int) -> tuple[dict[str, float | str], tuple[Volume, Volume, Registration]]:
    """Mean and largest error in mm at 1000 points of the brain, before and after; and what a picture is made of."""
    random = np.random.default_rng(seed)
    fixed, flair = (volumes.read(case.images[name]) for name in ("t1ce", "flair"))
    brain = nib.affines.apply_affine(fixed.affine, random.choice(np.argwhere(fixed.array > 0), 1000))
    moving, true = moved(flair, brain.mean(0), random)
    found = register(fixed, moving, "mr", stages=["rigid"])
    row: dict[str, float | str] = {"case": case.id, "nmi_before": found.before.nmi, "nmi_after": found.after.nmi}
    for when, transform in {"before": Transform.identity(), "after": found.transform}.items():
        error = np.linalg.norm(transform.points(brain) - true.points(brain), axis=1)
        row |= {f"mean_mm_{when}": error.mean(), f"largest_mm_{when}": error.max()}
    return row, (fixed, moving, found)


def run(cases: Sequence[Case], table: Path = TABLE, picture: Path = PICTURE) -> pd.DataFrame:
    """Register every case, and leave the table and the picture of the case with the median error."""
    rows = pd.DataFrame([gained(case, seed)[0] for seed, case in enumerate(
        progress(cases, desc="registration", unit="case"))]).round(3)
    tables.write(table, rows)
    median = rows["mean_mm_after"].sort_values().index[len(rows) // 2]
    _, made = gained(cases[median], median)         # again, so that no other case's scans are held
    axes = plots.registration_check(*made, planes=("axial",), names=("T1ce", "FLAIR, moved"))
    axes.flat[0].figure.savefig(picture, dpi=80, bbox_inches="tight")
    plt.close(axes.flat[0].figure)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of cases in the layout of BraTS 2021")
    sys.stdout.write(run(find_cases(parser.parse_args().data, TASKS["brats2021"])).to_string(index=False) + "\n")

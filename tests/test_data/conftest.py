"""Small NIfTI files, good and bad, for the tests of reading, finding and auditing."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

LPS = np.array([[-1.0, 0, 0, 90], [0, -1.5, 0, 120], [0, 0, 2, -70], [0, 0, 0, 1]])


@pytest.fixture
def save(tmp_path):
    """Saves an array, noise when it is left out, under a name in the test's folder."""

    def save(name: str, array: np.ndarray | None = None, affine: np.ndarray = LPS) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if array is None:
            array = np.random.default_rng(sum(name.encode())).normal(100, 20, (6, 7, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, affine), path)
        return path

    return save

import itertools

import numpy as np
import pytest
from dicom_files import write_slices

from maml_toolkit.dicom import find_series


@pytest.fixture
def scan(tmp_path):
    """Writes a series, noise if nothing else is said, and returns its voxels, (slices, rows, columns)."""
    seeds = itertools.count()

    def scan(folder="export", slices=8, values=None, prefix=None, **elements):
        seed = next(seeds)
        if values is None:
            values = np.random.default_rng(seed).integers(0, 2000, (slices, 10, 12)).astype(np.uint16)
        write_slices(tmp_path / folder, values, prefix or seed, **elements)
        return np.array(values)

    return scan


@pytest.fixture
def export(tmp_path):
    return tmp_path / "export"


@pytest.fixture
def phases(scan, export):
    """Three phases of a liver; only the last one says what it is."""
    def phases(last="Leber portal venous", **elements):
        for number, (time, text) in enumerate([("1000", "Leber"), ("1030", "Leber"), ("1100", last)], start=1):
            scan(slices=5 + number, SeriesInstanceUID=f"1.2.3.{number}", SeriesDescription=text, origin=(0, 0, number),
                 AcquisitionTime=f"{time}00", **elements)
        return find_series(export)

    return phases

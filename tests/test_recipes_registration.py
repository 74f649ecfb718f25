"""The registration of patients: a movement that is known, and the error against it."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from recipe_files import recipe
from scipy.ndimage import gaussian_filter

from maml_toolkit.data.cases import Case
from maml_toolkit.data.volumes import Volume
from maml_toolkit.registration import Transform

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 2, 10], [0, 0, 0, 1]])


@pytest.fixture
def registration():
    with recipe("registration") as module:
        yield module


def blob(at):
    spot = np.zeros((32, 32, 32), np.float32)
    spot[tuple(at)] = 1000
    return gaussian_filter(spot, 2)


def test_what_is_seen_at_a_point_is_seen_where_the_movement_says(registration):
    at = np.array([18, 13, 17])
    scan = Volume(blob(at), AFFINE)
    centre = nib.affines.apply_affine(AFFINE, (16, 16, 16))
    moved, true = registration.moved(scan, centre, np.random.default_rng(3))
    weight = moved.array / moved.array.sum()
    seen = [(weight * index).sum() for index in np.indices(weight.shape)]
    point = nib.affines.apply_affine(AFFINE, at)
    np.testing.assert_allclose(nib.affines.apply_affine(AFFINE, seen), true.points(point[None])[0], atol=0.05)
    assert np.linalg.norm(true.points(point[None])[0] - point) > 2
    assert np.abs(true.points(centre[None])[0] - centre).max() <= registration.SHIFT_MM


@pytest.mark.parametrize("perfect", [False, True])
def test_the_error_is_the_distance_from_the_true_place(registration, monkeypatch, perfect):
    made, known = registration.moved, []

    def moved(*given):
        known.append(made(*given))
        return known[-1]

    def registered(*given, **words):
        measures = SimpleNamespace(nmi=1.1)
        return SimpleNamespace(before=measures, after=measures,
                               transform=known[-1][1] if perfect else Transform.identity())

    monkeypatch.setattr(registration, "moved", moved)
    monkeypatch.setattr(registration, "register", registered)
    image = nib.Nifti1Image(blob((16, 16, 16)), AFFINE)
    row, _ = registration.gained(Case("one", {"t1ce": image, "flair": image}), seed=0)
    assert row["mean_mm_before"] > 1
    assert row["largest_mm_before"] >= row["mean_mm_before"]
    assert row["mean_mm_after"] == pytest.approx(0 if perfect else row["mean_mm_before"], abs=1e-9)

"""Images and labels on other grids: nothing is lost at a border, small lesions survive, volumes stay."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio
from nibabel.affines import from_matvec

from maml_toolkit.data.resampling import LPS, resampled, resampled_label

OBLIQUE = from_matvec(np.array([[0.9, -0.2, 0.3], [0.1, 1.4, -0.2], [-0.4, 0.2, 2.8]]), [-90, 120, -70])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [1, 1.5, 3]
FLIPPED = np.array([[-1.0, 0, 0, 90], [0, -1.5, 0, 120], [0, 0, 3, -70], [0, 0, 0, 1]])
GRIDS = {"plain": np.diag([1.0, 1.5, 3.0, 1.0]), "flipped": FLIPPED, "oblique": OBLIQUE}


def noise(shape=(7, 8, 9)):
    return np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)


def coarser(shape, ratio):
    """Shape and affine of the grid that fills the same box with voxels of about this size (1 mm before)."""
    working = tuple(max(1, round(n / one)) for n, one in zip(shape, ratio, strict=True))
    step = np.divide(shape, working)
    return working, from_matvec(np.diag(step), (step - 1) / 2)


def by_simpleitk(values, affine, target, how):
    """Independent of the package: SimpleITK asked in its own coordinates."""
    def place(image, affine):
        turned, sizes = LPS @ affine, nib.affines.voxel_sizes(affine)
        image.SetOrigin(turned[:3, 3].tolist())
        image.SetSpacing(sizes.tolist())
        image.SetDirection((turned[:3, :3] / sizes).ravel().tolist())
        return image
    image = place(sitk.GetImageFromArray(np.ascontiguousarray(values.T)), affine)
    moved = sitk.Resample(image, place(sitk.Image(values.shape, sitk.sitkUInt8), target), sitk.Transform(), how, -1.0)
    return sitk.GetArrayFromImage(moved).T


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shift", [1e-6, 1e-3, 0.02, 0.4])
def test_a_grid_a_fraction_of_a_voxel_off_loses_no_voxel_at_any_border(grid, shift):
    affine, values = GRIDS[grid], noise()
    label = np.ones(values.shape, np.uint8)
    for axis, sign in np.ndindex(3, 2):
        step = np.eye(3)[axis] * shift * (1, -1)[sign]
        target = affine @ from_matvec(np.eye(3), step)
        moved = resampled(values, affine, values.shape, target, outside=-1)
        assert moved.min() > 50, (axis, sign)
        np.testing.assert_allclose(moved, by_simpleitk(values, affine, target, sitk.sitkLinear), atol=1e-4)
        inner = np.take(moved, range(1, values.shape[axis] - 1), axis)      # by hand: the mean of two neighbours
        neighbours = [np.take(values, np.arange(1, values.shape[axis] - 1) + far, axis) for far in (0, (1, -1)[sign])]
        np.testing.assert_allclose(inner, (1 - shift) * neighbours[0] + shift * neighbours[1], atol=1e-3)
        carried, lost = resampled_label(label, affine, label.shape, target)
        assert (carried == 1).all()
        assert not lost


def test_what_lies_more_than_half_a_voxel_beyond_the_border_is_outside():
    values = noise()
    moved = resampled(values, np.eye(4), values.shape, from_matvec(np.eye(3), [0.6, 0, 0]), outside=-7)
    assert (moved[-1] == -7).all()
    assert (moved[:-1] > 50).all()
    label, lost = resampled_label(np.pad(np.ones((1, 8, 9), np.uint8), ((6, 0), (0, 0), (0, 0))), np.eye(4),
                                  values.shape, from_matvec(np.eye(3), [-0.6, 0, 0]))
    assert not label.any()
    assert lost == {1: 1}
    for far in ([100, 0, 0], [0, -100, 0]):
        label, lost = resampled_label(np.ones((2, 2, 2), np.int16), np.eye(4), (4, 5, 6), from_matvec(np.eye(3), far))
        assert (label.shape, label.any(), lost) == ((4, 5, 6), False, {1: 1})


@pytest.mark.parametrize("ratio", [(2, 2, 2), (2, 2, 1), (1.6, 1, 0.5), (0.5, 0.7, 1)])
def test_images_have_the_values_that_torchio_gives_them(ratio):
    values = np.random.default_rng(1).normal(0, 1, (2, 24, 20, 16)).astype(np.float32)
    shape, target = coarser(values.shape[1:], ratio)
    move = torchio.Resample((shape, target), antialias=True)
    expected = move(torchio.ScalarImage(tensor=torch.from_numpy(values), affine=np.eye(4))).numpy()
    np.testing.assert_allclose(resampled(values, np.eye(4), shape, target, antialias=True), expected, atol=1e-4)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_few_slices_can_be_smoothed_and_a_constant_stays_itself(slices):
    shape, target = coarser((24, 24, slices), (2, 2, slices))
    moved = resampled(np.full((24, 24, slices), 5, np.float32), np.eye(4), shape, target, antialias=True)
    assert moved.shape == (12, 12, 1)
    np.testing.assert_allclose(moved, 5, atol=1e-4)


@pytest.mark.parametrize("ratio", [(2, 2, 2), (2, 2, 1), (1.5, 1.5, 1.5), (0.5, 0.5, 0.5), (0.7, 0.7, 1.3)])
def test_no_lesion_of_one_to_eight_voxels_vanishes(ratio):
    random = np.random.default_rng(0)
    shape, target = coarser((16, 16, 16), ratio)
    survived, touched = 0, 0
    for _ in range(200):
        voxels = [random.integers(0, 16, 3)]
        for _ in range(random.integers(8)):
            near = voxels[random.integers(len(voxels))] + random.permutation([1, 0, 0]) * random.choice([-1, 1])
            voxels.append(near.clip(0, 15))
        label = np.zeros((16, 16, 16), np.uint8)
        label[tuple(np.array(voxels).T)] = 1
        moved, lost = resampled_label(label, np.eye(4), shape, target)
        survived += moved.any() and not lost
        points = (np.argwhere(moved) @ target[:3, :3] + target[:3, 3])[:, None] - np.argwhere(label)
        touched += np.abs(points).max(-1).min(1).max() <= max(ratio)      # it lies where the lesion was
    assert (survived, touched) == (200, 200)


@pytest.mark.slow
def test_of_a_thousand_lesions_none_vanishes():
    for seed in range(1000):
        random = np.random.default_rng(seed)
        label = np.zeros((12, 12, 12), np.uint8)
        label[tuple(np.clip(random.integers(2, 10, (1, 3)) + random.integers(0, 2, (random.integers(1, 9), 3)),
                            0, 11).T)] = 1
        for ratio in ((2, 2, 2), (2, 2, 1)):
            moved, lost = resampled_label(label, np.eye(4), *coarser(label.shape, ratio))
            assert moved.any() or lost
            assert not lost


@pytest.mark.parametrize("ratio", [(2, 2, 2), (2, 2, 1), (1.5, 1.5, 1.5), (3, 3, 1)])
def test_larger_lesions_keep_their_volume(ratio):
    random, bias = np.random.default_rng(0), []
    for radius in (4, 5, 6, 8, 10):
        for _ in range(3):
            size = 30
            away = np.stack(np.indices((size,) * 3), -1) - (size / 2 + random.uniform(-1, 1, 3))
            label = ((away**2).sum(-1) <= radius**2).astype(np.uint8)
            shape, target = coarser(label.shape, ratio)
            moved, lost = resampled_label(label, np.eye(4), shape, target)
            assert not lost
            bias.append(moved.sum() * np.linalg.det(target) / label.sum() - 1)
    assert abs(np.mean(bias)) < 0.01
    assert np.abs(bias).max() < 0.06


@pytest.mark.parametrize("place", list(np.ndindex(2, 2, 2)))
def test_a_spot_inside_another_class_and_one_beside_it_survive(place):
    label = np.zeros((16, 16, 16), np.uint8)
    label[3:13, 3:13, 3:13] = 2
    label[tuple(np.add(place, 6))] = 4
    label[13, 5:7, 5] = 1
    shape, target = coarser(label.shape, (2, 2, 2))
    moved, lost = resampled_label(label, np.eye(4), shape, target)
    assert not lost
    assert (moved == 4).sum() == 1
    assert moved[tuple(np.add(place, 6) // 2)] == 4
    assert (moved == 1).any()
    assert (moved == 2).sum() == pytest.approx(10**3 / 8, rel=0.1)


def test_parts_that_would_share_a_voxel_are_counted_by_class():
    label = np.zeros((8, 8, 8), np.uint8)
    label[2, 2, 2], label[3, 3, 3], label[6, 6, 6] = 1, 2, 2
    moved, lost = resampled_label(label, np.eye(4), *coarser(label.shape, (2, 2, 2)))
    assert sum(lost.values()) == 1
    assert set(lost) <= {1, 2}
    assert (moved > 0).sum() == 2


def test_finer_voxels_are_the_nearest_ones_and_a_turned_grid_keeps_every_lesion():
    label = np.random.default_rng(0).integers(0, 4, (6, 6, 6)).astype(np.int16)
    moved, _ = resampled_label(label, np.eye(4), *coarser(label.shape, (0.5, 0.5, 0.5)))
    np.testing.assert_array_equal(moved, label.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert moved.dtype == np.int16
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    middle = np.full(3, 11.5)
    spots = np.zeros((24, 24, 24), np.uint8)
    spots[5:20:3, 5:20:3, 5:20:3] = 1
    moved, lost = resampled_label(spots, np.eye(4), spots.shape, from_matvec(turn, middle - turn @ middle))
    assert not lost
    assert 125 <= moved.sum() <= 200

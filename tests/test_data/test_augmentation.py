"""One pass of augmentation: what it may change and what it may not."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from maml_toolkit.data.augmentation import Augmentation, by_interpolation, by_products, gamma_

NOTHING = {"mirror": 0, "rotation": 0, "scaling": 0, "elastic": 0, "gamma": 0}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 12, 16, 10), generator=generator)
    return {name: torch.randn(2, 1, 12, 16, 10, generator=generator) for name in ("t1", "t2")}, labels


def ball(shape, spacing=(1, 1, 1), radius=4):
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    return torch.from_numpy(distance <= radius)


def test_without_any_chance_nothing_changes(batch):
    images, labels = Augmentation(**NOTHING)(*batch, seeds=(1, 2))
    torch.testing.assert_close(images["t1"], batch[0]["t1"], atol=1e-5, rtol=0)
    assert torch.equal(labels, batch[1])


def test_mirroring_flips_images_and_labels_alike(batch):
    images, labels = Augmentation(**NOTHING | {"mirror": 1})(*batch, seeds=(1, 2))
    torch.testing.assert_close(images["t2"], batch[0]["t2"].flip(2, 3, 4), atol=1e-5, rtol=0)
    assert torch.equal(labels, batch[1].flip(1, 2, 3))


def test_each_patch_draws_from_its_own_seed_alone(batch):
    images, labels = batch
    both, truth = Augmentation()(images, labels, seeds=(5, 6))
    second, its_truth = Augmentation()({name: image[1:] for name, image in images.items()}, labels[1:], seeds=(6,))
    torch.testing.assert_close(both["t1"][1:], second["t1"])
    assert torch.equal(truth[1:], its_truth)


def test_the_same_seed_gives_the_same_patch_and_another_does_not(batch):
    one, other = (Augmentation()(*batch, seeds=(5, 6))[0]["t1"] for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, Augmentation()(*batch, seeds=(7, 8))[0]["t1"])


def test_images_and_labels_move_together():
    mask = ball((24, 24, 24), radius=7)
    mask[:12] = False
    images = {"t1": mask[None, None].float()}
    moved, labels = Augmentation(**NOTHING | {"rotation": 1, "scaling": 1, "elastic": 1})(
        images, mask[None].long(), seeds=(3,))
    assert not torch.equal(labels[0].bool(), mask)
    agreement = ((moved["t1"][0, 0] > 0.5) == labels[0].bool()).float().mean()
    assert agreement > 0.99


def test_a_rotation_keeps_a_ball_a_ball_on_an_anisotropic_grid():
    spacing = (1.0, 1.0, 2.0)
    mask = ball((32, 32, 16), spacing, radius=10)
    turn = Augmentation(**NOTHING | {"rotation": 1, "rotation_degrees": 90})
    _, labels = turn({"t1": mask[None, None].float()}, mask[None].long(), seeds=(4,), spacing_mm=spacing)
    assert (labels[0].bool() == mask).float().mean() > 0.97


def test_only_the_coarse_axis_is_turned_around_on_a_strongly_anisotropic_grid():
    matrix = Augmentation().rotation_matrix(np.random.default_rng(0), (1, 1, 4))
    np.testing.assert_allclose(matrix[2], [0, 0, 1])
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


def test_a_scale_of_two_doubles_a_ball():
    mask = ball((32, 32, 32), radius=5)
    grown = Augmentation(**NOTHING | {"scaling": 1, "scale": (2, 2)})
    _, labels = grown({"t1": mask[None, None].float()}, mask[None].long(), seeds=(1,))
    assert labels.sum() / mask.sum() == pytest.approx(8, rel=0.05)


def test_gamma_keeps_mean_and_spread():
    images = torch.randn(1, 2, 8, 8, 8)
    changed = images.clone()
    gamma_(changed, [[1.4, 1.0]])
    assert torch.equal(changed[:, 1], images[:, 1])
    assert not torch.allclose(changed[:, 0], images[:, 0])
    torch.testing.assert_close(changed.mean((2, 3, 4)), images.mean((2, 3, 4)))
    torch.testing.assert_close(changed.std((2, 3, 4)), images.std((2, 3, 4)))


def test_a_constant_patch_survives_gamma():
    patch = torch.ones(1, 1, 4, 4, 4)
    gamma_(patch, [[1.3]])
    assert torch.isfinite(patch).all()


@pytest.mark.parametrize("size", [(12, 16, 10), (1, 5, 2)])
def test_the_coordinates_are_those_of_torchs_grid_and_interpolation(size):
    augmentation = Augmentation(**NOTHING | {"rotation": 1, "scaling": 1, "elastic": 1})
    grid = augmentation.coordinates(np.random.default_rng(3), size, (1, 1, 2), torch.device("cpu"))
    random = np.random.default_rng(3)
    random.random(4)
    turn = augmentation.rotation_matrix(random, (1, 1, 2))
    random.random()
    factor, extent = random.uniform(*augmentation.scale), np.multiply(size, (1, 1, 2))
    random.random()
    matrix = (np.diag(1 / extent) @ turn @ np.diag(extent) / factor)[::-1, ::-1].copy()
    theta = torch.cat([torch.from_numpy(matrix), torch.zeros(3, 1)], 1)[None]
    control = torch.from_numpy(random.normal(0, 0.06, (1, 3, 5, 5, 5)))
    moved = functional.interpolate(control, size, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    expected = functional.affine_grid(theta, [1, 1, *size], align_corners=False)[0] + moved
    torch.testing.assert_close(grid.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(12, 16, 10), (1, 5, 2)])
def test_products_of_matrices_interpolate_as_torch_does(size):
    points = torch.randn(5, 5, 5, 3)
    torch.testing.assert_close(by_products(points, size), by_interpolation(points, size), atol=1e-5, rtol=0)


def test_gamma_is_the_formula():
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    shares = (image - image.min()) / (image.max() - image.min())
    raised = shares**1.3
    expected = (raised - raised.mean()) / raised.std() * image.std() + image.mean()
    gamma_(image[None, None], [[1.3]])
    torch.testing.assert_close(image, expected)

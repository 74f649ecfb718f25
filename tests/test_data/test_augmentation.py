"""One pass of augmentation: a patch is the transformed scan cut at that place, lesions as large as geometry says."""

import itertools

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import map_coordinates
from torch.nn import functional

from maml_toolkit import TASKS, Task
from maml_toolkit.data.augmentation import CONTROL, NNUNET, Augmentation, enlarged
from maml_toolkit.data.intensities import Drawn, Intensity, change_, gamma_
from maml_toolkit.data.patches import PatchSampler
from maml_toolkit.data.prepared import Grid
from maml_toolkit.data.preprocessing import PreparedCase

NOTHING = {"mirror": 0, "rotation": 0, "scaling": 0, "elastic": 0, "gamma": 0}
CHANGES = {
    "rotation": {"rotation": 1, "rotation_degrees": 30},
    "scaling": {"scaling": 1},
    "elastic": {"elastic": 1},
    "sum": {"mirror": 0.5, "rotation": 1, "scaling": 1, "elastic": 1},
}


def prepared(images, labels, spacing=(1, 1, 1), outside=0.0):
    shape, affine = labels.shape, tuple(map(tuple, np.diag([*spacing, 1.0])))
    grid = Grid(shape, affine, tuple((0, n) for n in shape), shape)
    nowhere = np.zeros((0, 4), np.int32)
    return PreparedCase("case", images, labels, nowhere, grid, outside=dict.fromkeys(images, outside))


def noise(shape, spacing=(1, 1, 1), outside=0.0):
    random = np.random.default_rng(7)
    images = {name: random.normal(size=shape).astype(np.float32) for name in ("t1", "t2")}
    return prepared(images, random.integers(0, 3, shape, np.uint8), spacing, outside)


def read(case, size, start, seed, **settings):
    """Transform, images and labels of the patch of a case at a place."""
    sampler = PatchSampler([case], size, 1, augmentation=Augmentation(**NOTHING | settings))
    patch = sampler.read(case, start, seed)
    return patch.transform, *patch.transformed()


def places(transform):
    """Where each voxel of a patch lies in the scan, from its first voxel: (3, depth, height, width), in float64."""
    axes = [np.linspace(0, n - 1, CONTROL) for n in transform.size]
    voxels = np.stack(np.meshgrid(*map(np.arange, transform.size), indexing="ij"), -1)
    return np.moveaxis(RegularGridInterpolator(axes, transform.points)(voxels), -1, 0)


def ball(shape, centre, radius, spacing=(1, 1, 1)):
    axes = [((np.arange(n) - middle) * mm)**2 for n, middle, mm in zip(shape, centre, spacing, strict=True)]
    return sum(np.meshgrid(*axes, indexing="ij", sparse=True)) <= radius**2


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 1.0, 1.6), (0.5, 0.5, 3)])
@pytest.mark.parametrize("change", CHANGES)
def test_a_patch_is_the_transformed_scan_cut_at_that_place(change, spacing):
    case, start, size = noise((60, 64, 48), spacing), (22, 25, 17), (16, 14, 12)
    for seed in range(5):
        transform, images, labels = read(case, size, start, seed, **CHANGES[change])
        at = places(transform) + np.reshape(start, (3, 1, 1, 1))
        if change != "sum" or spacing != (0.5, 0.5, 3):
            assert at.min() > 0      # the scan is larger than any margin
        for image, whole in zip(images, case.images.values(), strict=True):
            np.testing.assert_allclose(image, map_coordinates(whole, at, order=1, cval=0), atol=1e-3)
        clear = (np.abs(at % 1 - 0.5) > 1e-3).all(0)
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(labels[clear], map_coordinates(case.labels, at, order=0, cval=0)[clear])


@pytest.mark.parametrize("start", [(0, 0, 0), (14, 18, 8), (-3, 5, 0)])
def test_what_lies_beyond_the_scan_is_filled(start):
    case = noise((30, 32, 20), outside=-2.5)
    for seed in range(4):
        transform, images, labels = read(case, (16, 14, 12), start, seed, **CHANGES["sum"])
        at = places(transform) + np.reshape(start, (3, 1, 1, 1))
        beyond = ((at < -1) | (at > np.reshape(case.labels.shape, (3, 1, 1, 1)))).any(0)
        assert beyond.any()
        np.testing.assert_allclose(images[:, beyond], -2.5, atol=1e-5)
        assert not labels[beyond].any()
        around = np.pad(case.images["t1"], 40, constant_values=-2.5)
        np.testing.assert_allclose(images[0], map_coordinates(around, at + 40, order=1), atol=1e-3)


def test_no_voxel_of_a_scans_border_is_repeated():
    shape = (40, 36, 30)
    numbers = np.arange(1, 1 + np.prod(shape), dtype=np.int32).reshape(shape)
    case = prepared({"t1": numbers.astype(np.float32)}, numbers)
    border = set(numbers.ravel()) - set(numbers[1:-1, 1:-1, 1:-1].ravel())
    met = 0
    for seed, start in enumerate(itertools.product((0, 16, 24), (0, 12, 20), (0, 8, 14))):
        _, _, labels = read(case, (16, 16, 16), start, seed, rotation=1, scaling=1, scale=(0.7, 0.7))
        values, counts = np.unique(labels[labels > 0], return_counts=True)
        hit = np.isin(values, list(border))
        met += hit.sum()
        assert counts.max() == 1      # a step of 1 / 0.7 voxels meets none twice
    assert met > 500


def test_a_ball_cut_by_the_patchs_edge_has_the_volume_that_geometry_says():
    shape, size, start = (128, 128, 128), (40, 40, 40), (44, 44, 44)
    found, expected = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        # nearly half a patch from its middle along one axis, so that its edge cuts the ball
        centre = 63.5 + random.normal(0, 1, 3) + random.permutation([0, 0, random.choice([-16, 16])])
        radius = random.uniform(11, 14)
        labels = ball(shape, centre, radius).astype(np.uint8)
        transform, _, classes = read(prepared({"t1": labels.astype(np.float32)}, labels), size, start, seed,
                                     mirror=0.5, rotation=0.5, scaling=0.5, elastic=0.5)
        expected.append((np.linalg.norm(transform_places(transform) + start - centre, axis=-1) <= radius).sum())
        found.append(int(classes.sum()))
        assert found[-1] == pytest.approx(expected[-1], rel=0.05)
    assert sum(found) == pytest.approx(sum(expected), rel=0.01)
    assert min(found) > 1000


def test_without_any_chance_nothing_changes():
    case = noise((12, 16, 10))
    _, images, labels = read(case, (12, 16, 10), (0, 0, 0), 1)
    np.testing.assert_array_equal(images[0], case.images["t1"])
    np.testing.assert_array_equal(labels, case.labels)


def test_mirroring_flips_images_and_labels_alike():
    case = noise((12, 16, 10))
    _, images, labels = read(case, (12, 16, 10), (0, 0, 0), 1, mirror=1)
    np.testing.assert_array_equal(images[1], case.images["t2"][::-1, ::-1, ::-1])
    np.testing.assert_array_equal(labels, case.labels[::-1, ::-1, ::-1])


def test_an_axis_without_chance_is_never_mirrored():
    case = noise((8, 8, 8))
    changed = dict.fromkeys(range(3), 0)
    for seed in range(40):
        transform, images, _ = read(case, (8, 8, 8), (0, 0, 0), seed, mirror=(0, 1, 0.5))
        np.testing.assert_array_equal(images[0], np.flip(case.images["t1"], transform.mirrored))
        for axis in transform.mirrored:
            changed[axis] += 1
    assert (changed[0], changed[1]) == (0, 40)
    assert 8 < changed[2] < 32


@pytest.mark.parametrize("task", [
    Task("pair", ("t1",), {"background": 0, "left": 1, "right": 2}),
    Task("one", ("t1",), {"background": 0, "Left-Hippocampus": 17}),
    Task("short", ("t1",), {"background": 0, "kidneyL": 1, "kidneyR": 2}),
    Task("said", ("t1",), {"background": 0, "pancreas": 1}, sides=["pancreas"]),
    TASKS["chaos_t2spir"],
])
def test_a_task_with_sides_is_not_mirrored_from_left_to_right(task):
    assert Augmentation().for_task(task).mirror == (0, 0.5, 0.5)


@pytest.mark.parametrize("task", [
    TASKS["brats2021"], TASKS["liver_phases"],
    Task("letters", ("t1",), {"background": 0, "class l": 1, "class m": 2}),
    Task("said", ("t1",), {"background": 0, "left": 1, "right": 2}, sides=()),
])
def test_a_task_without_sides_is_mirrored(task):
    assert Augmentation().for_task(task).mirror == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("wrong", [{"mirror": (0.5, 0.5)}, {"mirror": 2}, {"rotation": -0.1}, {"scale": (1.4, 0.7)},
                                   {"gamma_range": (0, 1)}, {"gamma": 0.3, "intensities": NNUNET.intensities}])
def test_chances_and_ranges_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)


def test_each_patch_draws_from_its_own_seed_alone():
    case, size, start = noise((20, 20, 20)), (8, 8, 8), (6, 6, 6)
    one, same, other = (read(case, size, start, seed, **CHANGES["sum"], gamma=1)[1] for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_images_and_labels_move_together():
    mask = ball((24, 24, 24), (11.5, 11.5, 11.5), 7)
    mask[:12] = False
    case = prepared({"t1": mask.astype(np.float32)}, mask.astype(np.uint8))
    _, images, labels = read(case, (24, 24, 24), (0, 0, 0), 3, rotation=1, scaling=1, elastic=1)
    assert not np.array_equal(labels, case.labels)
    assert ((images[0] > 0.5) == labels.bool()).float().mean() > 0.99


def test_a_rotation_keeps_a_ball_a_ball_on_an_anisotropic_grid():
    spacing = (1.0, 1.0, 2.0)
    mask = ball((32, 32, 16), (15.5, 15.5, 7.5), 10, spacing)
    case = prepared({"t1": mask.astype(np.float32)}, mask.astype(np.uint8), spacing)
    _, _, labels = read(case, (32, 32, 16), (0, 0, 0), 4, rotation=1, rotation_degrees=90)
    assert (labels.bool() == torch.from_numpy(mask)).float().mean() > 0.97


def test_only_the_coarse_axis_is_turned_around_on_a_strongly_anisotropic_grid():
    matrix = Augmentation().rotation_matrix(np.random.default_rng(0), (1, 1, 4))
    np.testing.assert_allclose(matrix[2], [0, 0, 1])
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(("factor", "volume"), [(2, 8), (0.7, 0.343)])
def test_a_scale_changes_a_balls_volume_by_its_cube(factor, volume):
    mask = ball((48, 48, 48), (23.5, 23.5, 23.5), 8)
    case = prepared({"t1": mask.astype(np.float32)}, mask.astype(np.uint8))
    _, _, labels = read(case, (40, 40, 40), (4, 4, 4), 1, scaling=1, scale=(factor, factor))
    assert labels.sum() / mask.sum() == pytest.approx(volume, rel=0.05)


def test_gamma_keeps_mean_and_spread():
    images = torch.randn(2, 8, 8, 8)
    changed = images.clone()
    change_(changed, [Drawn("gamma", 0, 1.4, 0)])
    assert torch.equal(changed[1], images[1])
    assert not torch.allclose(changed[0], images[0])
    torch.testing.assert_close(changed.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(changed.std((1, 2, 3)), images.std((1, 2, 3)))


def test_gamma_is_drawn_for_each_modality_by_its_chance_and_done_last():
    """The numbers of numpy's generator, in the order in which they are asked for."""
    settings = NOTHING | {"gamma": 0.5, "gamma_range": (0.8, 1.2), "intensities": [Intensity("blur", 1, 1, 1, 1)]}
    for seed in range(8):
        random, powers = np.random.default_rng(seed), {}
        random.random(3 + 3)                            # mirrors; rotation, scaling, elastic
        for modality in range(2):
            if random.random() < 0.5:
                powers[modality] = random.uniform(0.8, 1.2)
        drawn = Augmentation(**settings).draw(seed, (8, 8, 8), (1, 1, 1), 2).intensities
        assert [one.change for one in drawn] == ["blur", "blur", *["gamma"] * len(powers)]
        assert {one.modality: one.amount for one in drawn[2:]} == powers


def test_a_constant_patch_survives_gamma():
    patch = torch.ones(1, 4, 4, 4)
    gamma_(patch[0], 1.3)
    assert torch.isfinite(patch).all()


def test_gamma_does_not_change_the_case():
    case = noise((8, 8, 8))
    before = case.images["t1"].copy()
    _, images, _ = read(case, (8, 8, 8), (0, 0, 0), 0, gamma=1)
    assert not np.array_equal(images[0], before)
    np.testing.assert_array_equal(case.images["t1"], before)


@pytest.mark.parametrize("size", [(12, 16, 10), (1, 5, 2)])
def test_the_places_are_those_of_torchs_grid_and_interpolation(size):
    augmentation = Augmentation(**NOTHING | {"rotation": 1, "scaling": 1, "elastic": 1})
    transform = augmentation.draw(3, size, (1, 1, 2), 1)
    random = np.random.default_rng(3)
    random.random(4)
    turn = augmentation.rotation_matrix(random, (1, 1, 2))
    random.random()
    factor, extent = random.uniform(*augmentation.scale), np.multiply(size, (1, 1, 2))
    random.random()
    matrix = (np.diag(1 / extent) @ turn @ np.diag(extent) / factor)[::-1, ::-1].copy()
    theta = torch.cat([torch.from_numpy(matrix), torch.zeros(3, 1)], 1)[None]
    moves = np.clip(random.standard_normal((5, 5, 5, 3)), -3, 3)
    control = torch.from_numpy(np.moveaxis(moves, -1, 0)[None, ::-1] * 0.06)
    moved = functional.interpolate(control, size, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    expected = functional.affine_grid(theta, [1, 1, *size], align_corners=False)[0] + moved
    # torch's -1 and 1 are corners here, so half a voxel beyond the centres of the outer ones
    voxels = ((expected.numpy()[..., ::-1] + 1) * size - 1) / 2
    np.testing.assert_allclose(np.moveaxis(places(transform), 0, -1) if 1 not in size else transform_places(transform),
                               voxels, atol=1e-5)


def transform_places(transform):
    """As `places`, where an axis has one voxel, from the coordinates that torch is given."""
    first, shape = (-3, -3, -3), (9, 9, 9)
    shares = transform.coordinates(first, shape, torch.device("cpu")).numpy()[..., ::-1]
    return (shares + 1) * 4 + first


@pytest.mark.parametrize("size", [(12, 16, 10), (1, 5, 2)])
def test_products_of_matrices_interpolate_as_torch_does(size):
    points = torch.randn(5, 5, 5, 3)
    expected = functional.interpolate(points.movedim(-1, 0)[None], size, mode="trilinear", align_corners=True)
    torch.testing.assert_close(enlarged(points, size), expected[0].movedim(0, -1), atol=1e-5, rtol=0)


def test_gamma_is_the_formula():
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    shares = (image[:1] - image[:1].min()) / (image[:1].max() - image[:1].min())
    raised = shares**1.3
    expected = (raised - raised.mean()) / raised.std() * image[:1].std() + image[:1].mean()
    gamma_(image[0], 1.3)
    torch.testing.assert_close(image[:1], expected)

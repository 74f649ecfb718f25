"""Changes of intensities: right values, and the same ones when a step is repeated."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from maml_toolkit.data.augmentation import NNUNET, Augmentation
from maml_toolkit.data.intensities import CHANGES, Drawn, Intensity, change_


def changed(change: str, amount: float, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(2, 12, 14, 10, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    change_(images, [Drawn(change, 1, amount, seed)])
    assert torch.equal(images[0], before[0])
    return before[1], images[1]


def test_noise_has_its_spread_and_its_seed():
    before, after = changed("noise", 0.5)
    assert float((after - before).std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(after, changed("noise", 0.5)[1])
    assert not torch.equal(after, changed("noise", 0.5, seed=4)[1])


def test_blur_is_scipys():
    before, after = changed("blur", 0.8)
    expected = ndimage.gaussian_filter(before.numpy().astype(float), 0.8, mode="mirror", radius=2)
    np.testing.assert_allclose(after.numpy(), expected, atol=1e-5)


def test_brightness_is_a_factor():
    before, after = changed("brightness", 1.2)
    torch.testing.assert_close(after, before * 1.2)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_contrast_stretches_around_the_mean_within_the_range(factor):
    before, after = changed("contrast", factor)
    expected = ((before - before.mean()) * factor + before.mean()).clamp(before.min(), before.max())
    torch.testing.assert_close(after, expected)


def test_resolution_keeps_what_has_no_detail():
    image = torch.full((1, 8, 8, 8), 3.0)
    change_(image, [Drawn("resolution", 0, 0.5, 0)])
    assert torch.equal(image, torch.full((1, 8, 8, 8), 3.0))
    before, after = changed("resolution", 0.5)
    coarse = functional.interpolate(before[None, None], [6, 7, 5], mode="nearest-exact")
    torch.testing.assert_close(after, functional.interpolate(coarse, before.shape, mode="trilinear")[0, 0])


def test_inverted_gamma_is_gamma_upside_down_and_keeps_mean_and_spread():
    before, after = changed("inverted gamma", 1.4)
    torch.testing.assert_close(after.mean(), before.mean())
    torch.testing.assert_close(after.std(), before.std())
    share = 1 - (before - before.min()) / (before.max() - before.min())
    assert np.corrcoef(-(share**1.4).flatten(), after.flatten())[0, 1] == pytest.approx(1, abs=1e-5)


def test_amounts_below_and_above_one_are_equally_likely_and_chances_hold():
    random = np.random.default_rng(0)
    one = Intensity("brightness", 0.25, 0.5, 0.75, 2.0)
    patches = [one.draw(random, 2) for _ in range(4000)]
    amounts = np.array([drawn.amount for patch in patches for drawn in patch])
    assert np.mean(amounts < 1) == pytest.approx(0.5, abs=0.06)
    assert amounts.min() >= 0.75
    assert amounts.max() <= 2
    assert len(amounts) / 4000 == pytest.approx(0.25 * 2 * 0.5, abs=0.03)


def test_nnunets_augmentation_draws_every_change_and_is_a_function_of_the_seed():
    drawn = [NNUNET.draw(seed, (8, 8, 8), (1, 1, 1), 2) for seed in range(200)]
    assert {one.change for transform in drawn for one in transform.intensities} == set(CHANGES)
    assert Counter(one.change for transform in drawn for one in transform.intensities)["gamma"] < 2 * 200 * 0.4
    assert NNUNET.draw(5, (8, 8, 8), (1, 1, 1), 2).intensities == drawn[5].intensities


@pytest.mark.parametrize("wrong", [("fog", 0.5, 1, 0, 1), ("blur", 1.5, 1, 0, 1), ("blur", 0.5, 1, 2, 1)])
def test_what_is_no_change_is_refused(wrong):
    with pytest.raises(ValueError, match="found"):
        Intensity(*wrong)


def test_the_papers_draws_are_those_of_before():
    plain, more = Augmentation(), Augmentation(intensities=[{"change": "noise", "chance": 1, "share": 1, "lowest": 0.1,
                                                             "highest": 0.1}])
    for seed in range(20):
        one, other = (each.draw(seed, (8, 8, 8), (1, 1, 1), 2) for each in (plain, more))
        assert np.array_equal(one.points, other.points)
        assert [one.change for one in other.intensities[:2]] == ["noise", "noise"]
        assert other.intensities[2:] == one.intensities

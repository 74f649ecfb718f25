"""What augmentation does to the intensities of a patch, each modality by itself: noise, blur, contrast, gamma, ….

What is drawn is known before the patch is read, as plain numbers, so that a step is the same when it is repeated; it
is done on whatever device the patch is on, in place, one modality at a time, so that it stays in the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from maml_toolkit.system.errors import expect_one_of


class Drawn(NamedTuple):
    """One change of one modality: which, of which modality, how much, and the seed of what is random in it."""

    change: str
    modality: int
    amount: float
    seed: int


@dataclass(frozen=True)
class Intensity:
    """A change that a patch may get.

    Args:
        change: "noise" (added, its standard deviation), "blur" (standard deviation in voxels), "brightness" (factor),
            "contrast" (factor around the mean, the range kept), "resolution" (factor by which the voxels of an axis
            become fewer and many again), "gamma" or "inverted gamma" (power, of the range turned around; mean and
            spread kept).
        chance: that a patch gets it.
        share: chance of each modality of such a patch.
        lowest, highest: amounts. Where 1 lies between them it is as likely that less is drawn as that more is.

    Raises:
        ValueError: an unknown change, or a number out of its range.
    """

    change: str
    chance: float
    share: float
    lowest: float
    highest: float

    def __post_init__(self):
        expect_one_of("change", self.change, CHANGES)
        if not (0 <= self.chance <= 1 and 0 <= self.share <= 1 and 0 <= self.lowest <= self.highest):
            raise ValueError(f"found {self}, expected chances from 0 to 1 and 0 <= lowest <= highest")

    def draw(self, random: np.random.Generator, modalities: int) -> list[Drawn]:
        """What one patch gets."""
        if random.random() >= self.chance:
            return []
        return [Drawn(self.change, index, self.amount(random), int(random.integers(2**62)))
                for index in range(modalities) if random.random() < self.share]

    def amount(self, random: np.random.Generator) -> float:
        """How much; as in nnU-Net, factors below and above 1 are equally likely."""
        low, high = self.lowest, self.highest
        if low < 1 < high:
            low, high = (low, 1.0) if random.random() < 0.5 else (1.0, high)
        return random.uniform(low, high)


def change_(images: Tensor, drawn: Sequence[Drawn]) -> None:
    """Do what was drawn to the images (modalities, depth, height, width), in place. No gradient passes."""
    for change, modality, amount, seed in drawn:
        CHANGES[change](images[modality], amount, seed)


def noise_(image: Tensor, sigma: float, seed: int) -> None:
    """Add Gaussian noise; drawn on the computer, so that it is the same on every device."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=image.dtype)
    image.add_(noise.to(image.device, non_blocking=True), alpha=sigma)


def blur_(image: Tensor, sigma: float, seed: int) -> None:
    """Gaussian blur, one axis after the other, up to three standard deviations far; the border is mirrored."""
    reach = min(max(1, round(3 * sigma)), *(n - 1 for n in image.shape))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype) / sigma) ** 2)
    blurred = functional.pad(image[None, None], [reach] * 6, mode="reflect")
    for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        blurred = functional.conv3d(blurred, (weights / weights.sum()).view(1, 1, *shape))
    image.copy_(blurred[0, 0])


def contrast_(image: Tensor, factor: float, seed: int) -> None:
    """Stretch around the mean; what leaves the range of before stops at its ends."""
    low, high = image.aminmax()
    mean = image.mean()
    image.sub_(mean).mul_(factor).add_(mean).clamp_(low, high)


def resolution_(image: Tensor, factor: float, seed: int) -> None:
    """Fewer voxels on each axis, the nearest ones, and trilinear interpolation back."""
    fewer = [max(1, round(n * factor)) for n in image.shape]
    coarse = functional.interpolate(image[None, None], fewer, mode="nearest-exact")
    image.copy_(functional.interpolate(coarse, image.shape, mode="trilinear")[0, 0])


def gamma_(image: Tensor, power: float, seed: int = 0) -> None:
    """Raise to a power within its range, mean and spread as before."""
    low, high = image.aminmax()
    mean, spread = image.mean(), image.std()
    image.sub_(low).div_((high - low).clamp_min(1e-6)).pow_(power)
    factor = spread / image.std().clamp_min(1e-6)
    torch.addcmul(mean - factor * image.mean(), image, factor, out=image)


def inverted_gamma_(image: Tensor, power: float, seed: int) -> None:
    """Gamma of the image turned around, dark for bright."""
    image.neg_()
    gamma_(image, power)
    image.neg_()


CHANGES = {"noise": noise_, "blur": blur_, "brightness": lambda image, factor, seed: image.mul_(factor),
           "contrast": contrast_, "resolution": resolution_, "gamma": gamma_, "inverted gamma": inverted_gamma_}
"""By their names: what does each to one modality."""

NNUNET = tuple(Intensity(*one) for one in (
    ("noise", 0.1, 1, 0, 0.1), ("blur", 0.2, 0.5, 0.5, 1), ("brightness", 0.15, 1, 0.75, 1.25),
    ("contrast", 0.15, 1, 0.75, 1.25), ("resolution", 0.25, 0.5, 0.5, 1), ("inverted gamma", 0.1, 1, 0.7, 1.5),
    ("gamma", 0.3, 1, 0.7, 1.5)))
"""nnU-Net v2's default, in its order (nnUNetTrainer.get_training_transforms); two differences: its noise has one
standard deviation for all modalities, its blur one for each axis."""

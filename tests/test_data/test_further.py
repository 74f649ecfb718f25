"""TorchIO's transforms as augmentation: seeded by the patch, labels and images together, nothing else disturbed."""

import json

import pytest
import torch
import torchio

from maml_toolkit import Trainer
from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.further import Further
from maml_toolkit.data.patches import PatchSampler
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build

LIVER = TASKS["liver_phases"]


@pytest.fixture(scope="module")
def prepared():
    return prepare_all(phantoms.liver_phases(2, 16), LIVER)


def sampler(prepared, *transforms, **settings):
    return PatchSampler(prepared, (8, 8, 8), 2, further=Further(transforms) if transforms else None, **settings)


def test_a_patch_is_a_function_of_the_seed_and_torchs_numbers_stay(prepared):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, other = (sampler(prepared, torchio.RandomNoise(std=(1, 1))).batch(4).transformed() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    plain, labels = sampler(prepared).batch(4).transformed()
    for name, image in one[0].items():
        assert torch.equal(image, other[0][name])
        assert float((image - plain[name]).std()) == pytest.approx(1, rel=0.1)
    assert torch.equal(one[1], labels)
    following, _ = sampler(prepared, torchio.RandomNoise(std=(1, 1))).batch(5).transformed()
    before, _ = sampler(prepared).batch(5).transformed()
    assert not torch.allclose(following["venous"] - before["venous"], one[0]["venous"] - plain["venous"])


def test_images_and_labels_are_moved_together_after_our_own_augmentation(prepared):
    mirrored = Augmentation(mirror=0, rotation=0, scaling=0, elastic=0, gamma=0)
    flip = torchio.RandomFlip(axes=(1,), flip_probability=1)
    (images, labels), (plain, before) = (sampler(prepared, *more, augmentation=mirrored).batch(0).transformed()
                                         for more in ((flip,), ()))
    assert torch.equal(labels, before.flip(2))
    assert torch.equal(images["arterial"], plain["arterial"].flip(3))


def test_what_changes_the_size_or_is_no_transform_is_refused(prepared):
    with pytest.raises(ValueError, match="voxels"):
        sampler(prepared, torchio.Crop(1)).batch(0).transformed()
    with pytest.raises(TypeError, match="TorchIO"):
        Further((lambda image: image,))


def test_transforms_that_others_are_made_of_are_settings_too():
    def settings(std):
        noise = torchio.RandomNoise(std=std)
        return [json.dumps(Further((one,)).settings()) for one in (
            noise, torchio.Compose([noise]), torchio.OneOf({noise: 1, torchio.RandomBlur(): 2}))]

    assert all(one != other for one, other in zip(settings((0, 1)), settings((0, 2)), strict=True))
    chances = [json.dumps(Further((torchio.OneOf({torchio.RandomNoise(): one, torchio.RandomBlur(): 1}),)).settings())
               for one in (1, 2)]
    assert chances[0] != chances[1]


def test_a_resumed_run_is_the_whole_one_and_other_transforms_are_other_settings(tmp_path):
    cases, weights = phantoms.liver_phases(2, 16), {}

    def train(run, epochs, transform=None):
        torch.manual_seed(0)
        method = build("early_fusion", modalities=LIVER.modalities, classes=2, channels=(2, 4))
        Trainer(method, tmp_path / run, LIVER, patch_size=(8, 8, 8), batch_size=1, epochs=epochs, steps_per_epoch=2,
                augmentation=[Augmentation(), transform or torchio.RandomNoise()], device="cpu").fit(cases)
        weights[run] = method.state_dict()

    train("whole", 2), train("parts", 1), train("parts", 2)
    assert all(torch.equal(one, weights["parts"][name]) for name, one in weights["whole"].items())
    with pytest.raises(ValueError, match="further"):
        train("parts", 2, torchio.RandomNoise(std=(3, 4)))
    with pytest.raises(ValueError, match=r"augmentation=.*Augmentation"):
        train("two", 1, Augmentation(mirror=0))             # which would have been left out

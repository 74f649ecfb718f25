"""What every method promises; a new line in METHODS is tested by this file without a change to it."""

import re
from dataclasses import replace

import pytest
import torch

from maml_toolkit.methods import METHODS, build, contract
from maml_toolkit.methods.early_fusion import EarlyFusion
from maml_toolkit.methods.maml import MAML
from maml_toolkit.methods.octopusnet import OctopusNet
from maml_toolkit.prediction import checkpoints

MODALITIES = ("t1", "t2", "flair")


def fresh(name, **own):
    torch.manual_seed(0)
    return build(name, **{"modalities": MODALITIES, "classes": 3, "channels": (4, 6, 8), **own})


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("sentence", contract.PROMISES)
def test_every_method_keeps_every_promise(name, sentence):
    contract.PROMISES[sentence](fresh(name))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_takes_anisotropic_grids_and_deep_supervision(name):
    deep = fresh(name, channels=(4, 6, 8, 8), deep_supervision=True, kernels=[[3, 3, 1], *[[3, 3, 3]] * 3],
                 strides=[[1, 1, 1], [2, 2, 1], [2, 2, 2], [1, 1, 2]])
    assert deep.divisor == (4, 4, 4)
    assert contract.report(deep)["found"].tolist() == [""] * len(contract.PROMISES)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_checkpoint_rebuilds_the_method(name, tmp_path):
    method = fresh(name)
    again = checkpoints.load(checkpoints.save(tmp_path, 1, method))
    scans = contract.largest(method)
    assert type(again) is type(method)
    assert torch.equal(again(scans).logits, method.eval()(scans).logits)


class Overconfident(OctopusNet):
    def accepts(self, present):
        return bool(present)


class Forgetful(MAML):
    def loss(self, images, labels, generator):
        return {"total": super().loss(images, labels, generator)["joint"]}


class Random(EarlyFusion):
    def loss(self, images, labels, generator):
        return {"total": super().loss(images, labels, generator)["total"] * (1 + torch.rand(()))}


class Talkative(MAML):
    def answer(self, *args, **named):
        answer = super().answer(*args, **named)
        for one in answer.contributions.values():
            one += 1
        return answer


class Restless(EarlyFusion):
    def forward(self, images):
        answer = super().forward(images)
        return replace(answer, logits=answer.logits + torch.rand(()))


class Rude(EarlyFusion):
    def forward(self, images):
        size = next(iter(images.values())).shape
        return super().forward({name: torch.nn.functional.interpolate(one, [n - n % 2 for n in size[2:]])
                                for name, one in images.items()})


class Small(EarlyFusion):
    def forward(self, images):
        answer = super().forward(images)
        return replace(answer, logits=answer.logits[..., :-1])


@pytest.mark.parametrize(("method", "promise", "words"), [
    (Overconfident, "The logits have the size of the image", "RuntimeError"),
    (Small, "The logits have the size of the image", "logits of shape"),
    (Forgetful, "The loss of each stage reaches", "not reached in"),
    (Random, "The loss has finite terms", "another loss with the same generator"),
    (Restless, "The same images give the same answer twice", "another answer the second time"),
    (Rude, "Images that do not divide", "were not refused"),
])
def test_the_report_names_the_promise_that_a_method_breaks_and_how(method, promise, words):
    found = contract.report(method(MODALITIES, 3, channels=(4, 6))).set_index("promise")
    broken = found.loc[[one for one in found.index if one.startswith(promise)]]
    assert broken["kept"].tolist() == [False]
    assert words in broken["found"].item()


def test_contributions_that_do_not_add_up_break_that_promise_and_no_other():
    """Each of three contributions says 1 too much, and nothing else is wrong."""
    found = contract.report(Talkative(MODALITIES, 3, channels=(4, 6))).set_index("promise")["found"]
    (broken, said), = ((promise, said) for promise, said in found.items() if said)
    assert broken.startswith("Contributions")
    assert said.startswith("AssertionError: the sum is ")
    assert 1.99 < float(re.search(r"the sum is (\S+) off", said)[1]) < 3.01


def test_names_that_are_no_names_are_refused():
    for name in METHODS:
        for modalities in (("t1", "t 2"), ("t1", "T1"), ()):
            with pytest.raises(ValueError, match="modality names"):
                build(name, modalities=modalities, classes=2)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="early_fusion"):
        build("mamal", modalities=("t1",), classes=2)
    with pytest.raises(ValueError, match="depth"):
        build("maml", modalities=("t1",), classes=2, depth=3)

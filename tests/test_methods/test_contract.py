"""What every method promises; a new line in METHODS is tested by this file without a change to it."""

import pytest
import torch

from maml_toolkit import checkpoints
from maml_toolkit.methods import METHODS, build, contract
from maml_toolkit.methods.early_fusion import EarlyFusion
from maml_toolkit.methods.maml import MAML

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


def test_the_report_says_what_a_method_breaks():
    """Six ways to be wrong, each found by the promise that is about it, and by name."""

    class Wrong(EarlyFusion):
        def accepts(self, present):
            return bool(present)

    found = contract.report(Wrong(MODALITIES, 3, channels=(4, 6))).set_index("promise")["found"]
    assert "RuntimeError" in found["The logits have the size of the image, from every subset that it accepts"]

    class Forgetful(MAML):
        def loss(self, images, labels, generator):
            return {"total": super().loss(images, labels, generator)["joint"]}

    found = contract.report(Forgetful(MODALITIES, 3, channels=(4, 6))).set_index("promise")["found"]
    assert "heads.t1" in found[next(one for one in found.index if one.startswith("The loss of each stage"))]

    class Random(EarlyFusion):
        def loss(self, images, labels, generator):
            return {"total": super().loss(images, labels, generator)["total"] * (1 + torch.rand(()))}

    report = contract.report(Random(MODALITIES, 3, channels=(4, 6)))
    assert not report.loc[report["promise"].str.contains("all randomness"), "kept"].item()

    class Talkative(MAML):
        def joint(self, *args):
            answer = super().joint(*args)
            answer.contributions["t1"] += 1
            return answer

    report = contract.report(Talkative(MODALITIES, 3, channels=(4, 6)))
    assert not report.loc[report["promise"].str.startswith("Contributions"), "kept"].item()


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

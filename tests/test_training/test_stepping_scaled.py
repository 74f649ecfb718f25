"""A step of the optimiser: skipped where the gradient is no number, scaled in float16, told in one piece."""

import pandas as pd
import pytest
import torch
from tiny_training import interrupted, same_end, spoiled, trainer, weights

from maml_toolkit.prediction import checkpoints
from maml_toolkit.training.resuming import PATIENCE
from maml_toolkit.training.stepping import update


def in_float16(run, scale=2.0**16, growth_interval=2000, **settings):
    """A training in float16 on the CPU, which has both autocast and a scaler for it."""
    one = trainer(run, precision="float16", **settings)
    assert one.scaler.is_enabled()
    one.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
    return one


def scale_of(run):
    return checkpoints.load_newest(run / "checkpoints")[1]["scaler"]["scale"]


def test_only_float16_scales_the_loss(tmp_path):
    for precision in ("float32", "bfloat16"):
        assert not trainer(tmp_path, precision=precision).scaler.is_enabled()
    assert trainer(tmp_path, precision="float16").scaler.is_enabled()


def test_the_loss_falls_in_float16_as_in_float32(tmp_path, cases):
    histories = [one.fit(cases) for one in (in_float16(tmp_path / "half", steps_per_epoch=10),
                                            trainer(tmp_path / "whole", steps_per_epoch=10, precision="float32"))]
    for history in histories:
        assert history["loss/total"].iloc[-1] < 0.95 * history["loss/total"].iloc[0]
    assert histories[0]["skipped"].sum() == 0
    assert (histories[0]["loss/total"] - histories[1]["loss/total"]).abs().max() < 0.05


def test_steps_in_float16_see_losses_in_float32(tmp_path, cases):
    one, kinds = in_float16(tmp_path), set()
    loss = one.method.loss

    def watched(*given):
        assert torch.get_autocast_dtype("cpu") == torch.float16
        terms = loss(*given)
        kinds.update(term.dtype for term in terms.values())
        return terms

    one.method.loss = watched
    one.fit(cases)
    assert kinds == {torch.float32}
    assert {parameter.dtype for parameter in one.method.parameters()} == {torch.float32}


@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_training_in_float16_goes_on_as_if_nothing_had_happened(tmp_path, cases, at):
    # the scale overflows in the first steps, is halved, and grows every second step
    given = {"scale": 2.0**24, "growth_interval": 2, "steps_per_epoch": 12, "checkpoint_minutes": 0}
    in_float16(tmp_path / "whole", **given).fit(cases)
    interrupted(in_float16(tmp_path / "halves", **given), 3 * at, cases)
    resumed = in_float16(tmp_path / "halves", **given | {"scale": 8.0}, seed=9)
    resumed.fit(cases)
    same_end(tmp_path / "whole", tmp_path / "halves")
    assert scale_of(tmp_path / "whole") == scale_of(tmp_path / "halves") != 2.0**24
    assert pd.read_csv(tmp_path / "halves" / "history.csv")["skipped"].iloc[0] > 0


def test_finding_the_scale_takes_more_steps_than_a_loss_may_be_no_number(tmp_path, cases):
    one = in_float16(tmp_path, scale=2.0**34, steps_per_epoch=30, epochs=1)
    history = one.fit(cases)
    assert PATIENCE < history["skipped"].item() < 30
    assert scale_of(tmp_path) == 2.0 ** (34 - history["skipped"].item())
    state = checkpoints.load_newest(tmp_path / "checkpoints")[1]
    assert {int(moments["step"]) for moments in state["optimizer"]["state"].values()} == {
        30 - history["skipped"].item()}
    assert torch.isfinite(weights(one)).all()


@pytest.mark.parametrize(("where", "scale"), [("loss", 2.0**16), ("gradient", 4.0)])
def test_a_fault_in_float16_is_not_taken_for_a_scale_that_is_too_large(tmp_path, cases, where, scale):
    """A loss that is no number is none of the scale's; a gradient that stays none when the scale is 1 neither."""
    one = spoiled(in_float16(tmp_path, scale=scale, epochs=8), set(range(2, 24)), where)
    with pytest.raises(FloatingPointError, match=rf"\b{PATIENCE} steps"):
        one.fit(cases)
    assert torch.isfinite(weights(one)).all()


def of_one_weight(kind, gradient):
    """An optimiser of one weight of 1 that has this gradient."""
    weight = torch.nn.Parameter(torch.ones(()))
    weight.grad = torch.tensor(gradient)
    return kind([weight]), weight


@pytest.mark.parametrize("kind", [torch.optim.SGD, lambda weights: torch.optim.SGD(weights, fused=True),
                                  lambda weights: torch.optim.Adam(weights, fused=True)])
@pytest.mark.parametrize(("gradient", "skipped"), [(0.5, False), (float("nan"), True), (float("-inf"), True)])
def test_no_optimiser_takes_a_step_whose_gradient_is_no_number(kind, gradient, skipped):
    optimizer, weight = of_one_weight(kind, gradient)
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    parts = [{"total": torch.tensor(2.0), "joint": torch.tensor(3.0)}, {"total": torch.tensor(1.0)}]
    found = update(optimizer, disabled, parts).found()
    assert found.skipped == skipped
    assert (weight.item() == 1) == skipped
    assert found.terms == [{name: term.item() for name, term in part.items()} for part in parts]
    assert found.scale == 1
    assert not hasattr(optimizer, "found_inf")

"""Start from another run: what is known is kept exactly, what is new begins anew, and both are said."""

import itertools
from dataclasses import replace

import pytest
import torch

from maml_toolkit import Predictor, Trainer
from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import METHODS, build
from maml_toolkit.training.starting import as_before, start_from

BRAIN = TASKS["brats2021"]
SCANS = BRAIN.modalities


def made(name="maml", modalities=SCANS, classes=4, seed=0, **own):
    torch.manual_seed(seed)
    return build(name, modalities=modalities, classes=classes, channels=(4, 6), **own).double().eval()


def predictor(method, task=BRAIN):
    return Predictor(method, task, (8, 8, 8), device="cpu")


def scans(names=SCANS):
    generator = torch.Generator().manual_seed(5)
    drawn = {name: torch.randn(1, 1, 8, 8, 8, generator=generator, dtype=torch.float64) for name in SCANS}
    return {name: drawn[name] for name in names}


@pytest.mark.parametrize(("before", "after"), [(SCANS[:2], SCANS[:3]), (SCANS[1:3], SCANS), (SCANS, SCANS[:3]),
                                               (SCANS[:3], (SCANS[3], SCANS[0], SCANS[2]))])
@pytest.mark.parametrize("own", [{}, {"attention": "released"}, {"intra_weight": 0, "subset_weight": 1}])
def test_maml_with_other_scans_answers_the_old_ones_as_before(before, after, own):
    old, new = made(modalities=before, seed=1, **own), made(modalities=after, seed=2, **own)
    start_from(new, BRAIN, predictor(old))
    common = [name for name in before if name in after]
    for size in range(1, len(common) + 1):
        for subset in itertools.combinations(common, size):
            one, other = (method(scans(subset)) for method in (old, new))
            torch.testing.assert_close(other.logits, one.logits, rtol=0, atol=1e-6)
            for name in subset:
                torch.testing.assert_close(other.contributions[name], one.contributions[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_order_of_the_scans_is_no_matter(name):
    old, new = (made(name, order, seed=order is SCANS) for order in (SCANS, SCANS[::-1]))
    found = start_from(new, BRAIN, predictor(old))
    assert not found["new"]
    for subset in old.answerable(set(SCANS)):
        torch.testing.assert_close(new(scans(subset)).logits, old(scans(subset)).logits, rtol=0, atol=1e-6)
    if name == "kdnet":                     # its teacher answers nobody, and teaches
        said = [one.teacher(torch.cat([scans()[scan] for scan in one.modalities], 1))[0] for one in (old, new)]
        torch.testing.assert_close(*said, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["early_fusion", "octopusnet", "hyperpairing"])
@pytest.mark.parametrize("after", [SCANS[:3], (SCANS[1], SCANS[3], SCANS[0])])
def test_a_new_scan_is_not_heard_at_first(name, after):
    old, new = made(name, SCANS[:2], seed=1), made(name, after, seed=2)
    start_from(new, BRAIN, predictor(old))
    torch.testing.assert_close(new(scans(after)).logits, old(scans(SCANS[:2])).logits, rtol=0, atol=1e-6)


def test_several_runs_are_no_start():
    together = Predictor([made(seed=1), made(seed=2)], BRAIN, (8, 8, 8), device="cpu")
    with pytest.raises(ValueError, match="2 runs"):
        start_from(made(), BRAIN, together)


def test_each_form_of_the_attention_reads_features_where_it_expects_them():
    """Paper: [F_dual; F_i]; released: [F_i; F_dual]."""
    old, new = made(seed=1, attention="released"), made(seed=2)
    start_from(new, BRAIN, predictor(old))
    of_own, of_dual = old.aware.attend["t2"][0].weight.split(4, dim=1)
    assert torch.equal(new.aware.attend["t2"][0].weight, torch.cat([of_dual, of_own], 1))


def test_what_was_taken_and_what_is_new_is_said():
    new = made(modalities=SCANS[:3], seed=2)
    found = start_from(new, BRAIN, predictor(made(modalities=SCANS[:2], seed=1)))
    assert {f"streams.{SCANS[2]}", f"heads.{SCANS[2]}", "aware.attend"} <= set(found["new"])
    assert f"streams.{SCANS[0]}" in found["taken"]
    assert set(found["widened"]) == {"aware.fuse", "classifier.weight"}


def test_classes_are_known_by_their_names():
    task = replace(BRAIN, name="other", labels={"background": 0, "enhancing": 1, "cyst": 2}, regions={}, codes={})
    old_task = replace(BRAIN, labels={"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 4}, regions={},
                       codes={})
    old, new = made(seed=1), made(classes=3, seed=2)
    untouched = new.classifier.weight[2].clone()
    start_from(new, task, predictor(old, old_task))
    assert torch.equal(new.classifier.weight[0], old.classifier.weight[0])
    assert torch.equal(new.classifier.weight[1], old.classifier.weight[3])
    assert torch.equal(new.classifier.weight[2], untouched)
    assert torch.equal(new.streams[SCANS[0]].decoder.up[0].weight, old.streams[SCANS[0]].decoder.up[0].weight)


def test_what_paints_images_is_no_head_of_a_class_even_where_there_is_one_region():
    now, before = (replace(BRAIN, labels={"background": 0, name: 1}, regions={name: [name]}, codes={},
                           train_on="regions") for name in ("cyst", "tumour"))
    old, new = (made("uhved", classes=2, regions=[[1]], seed=seed) for seed in (1, 2))
    found = start_from(new, now, predictor(old, before))
    assert {f"painters.{name}" for name in SCANS} <= set(found["taken"])
    assert found["new"] == ["heads.levels"]


@pytest.mark.parametrize("wrong", [{"name": "hemis"}, {"deep": True}])
def test_another_network_is_refused(wrong):
    torch.manual_seed(0)
    old = made(wrong["name"]) if "name" in wrong else build("maml", modalities=SCANS, classes=4, channels=(4, 6, 8))
    with pytest.raises(ValueError, match="channels, strides, kernels"):
        start_from(made(), BRAIN, predictor(old))


def test_a_training_that_starts_elsewhere_is_as_wide_as_that_unless_told_otherwise():
    old = predictor(made())
    assert as_before(old) == {"channels": [4, 6], "patch_size": [8, 8, 8]}
    assert as_before(old, [4, 8], [16, 16, 8]) == {"channels": [4, 8], "patch_size": [16, 16, 8]}


def test_a_run_starts_from_a_run_says_so_and_goes_on_without_starting_again(tmp_path, capsys):
    cases = phantoms.brains(2, 16)
    settings = {"patch_size": (8, 8, 8), "batch_size": 1, "steps_per_epoch": 1, "device": "cpu"}
    task = replace(BRAIN, spacing_mm=(1, 1, 1))
    Trainer(made(modalities=SCANS[:2]).float(), tmp_path / "first", task, epochs=1, **settings).fit(cases)
    weights = []
    for epochs in (1, 2):
        trainer = Trainer(made(seed=3).float(), tmp_path / "second", task, epochs=epochs, start=tmp_path / "first",
                          **settings)
        trainer.fit(cases)
        weights.append(trainer.method.classifier.weight.clone())
    assert "starts from" in capsys.readouterr().out
    assert trainer.started["weights"] == trainer.run.settings["trainer"]["start"]
    assert not torch.equal(*weights)
    with pytest.raises(ValueError, match="start"):
        Trainer(made(seed=3).float(), tmp_path / "second", task, epochs=2, **settings).fit(cases)

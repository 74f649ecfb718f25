"""Other answers of the same weights: mixed by size, averaged over mirror images and over runs, without crumbs."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.data.cases import Case, find_cases, write_cases
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.methods import build
from maml_toolkit.prediction import checkpoints
from maml_toolkit.prediction.checkpoints import CheckpointError
from maml_toolkit.prediction.kept import FITTED, Fitted
from maml_toolkit.prediction.predicting import predict_cases
from maml_toolkit.prediction.prediction import Prediction, connected_parts, without_small
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.shards import output_folder
from maml_toolkit.prediction.sureness import Expected
from maml_toolkit.prediction.windows import flips, mirrored_axes
from maml_toolkit.system.errors import DataError
from maml_toolkit.training.trainer import Trainer

LIVER = TASKS["liver_phases"]
WINDOW = (16, 16, 16)


@pytest.fixture
def case():
    return phantoms.liver_phases(1, size=(20, 24, 16))[0]


def network(method="maml", seed=0):
    torch.manual_seed(seed)
    return build(method, modalities=LIVER.modalities, classes=2, channels=(4, 6))


def predictor(method=None, **settings):
    return Predictor(method or network(), LIVER, WINDOW, precision="float32", **settings)


def probabilities(prediction):
    return softmax(prediction.maps["logits"], axis=0)


def test_by_size_mixes_the_probabilities_of_the_fused_answer_and_of_the_heads(case):
    fused, heads = (probabilities(predictor(policy=policy)(case)) for policy in ("fused", "heads"))
    assert np.abs(fused - heads).max() > 0.01
    for share in (0, 0.3, 1):
        found = predictor(policy="by-size", fitted=Fitted({1: 0.5, 2: share}))(case)
        np.testing.assert_allclose(probabilities(found), (1 - share) * fused + share * heads, atol=1e-6)
        assert found.policy == "by-size"


@pytest.mark.parametrize("policy", ["fused", "heads"])
def test_an_answer_that_is_no_number_is_an_error_and_no_label_map(case, policy):
    """The first score that is no number counts as the largest: all of the case would be tumour."""
    broken = network()
    with torch.no_grad():
        for head in (broken.classifier, *(one.finest for one in broken.heads.values())):
            head.bias[1] = torch.nan
    with pytest.raises(DataError, match="float32") as caught:
        predictor(broken, policy=policy)(case)
    assert caught.value.case == case.id


def test_the_share_is_that_of_the_number_of_scans_in_a_sweep(case):
    one = predictor(policy="by-size", fitted=Fitted({1: 0, 2: 1}))
    found = dict(one.sweep(case, [["venous"], ["venous", "arterial"]], ["by-size", "heads", "fused"]))
    both, alone = frozenset(LIVER.modalities), frozenset(["venous"])
    for subset, policy in ((both, "heads"), (alone, "fused")):
        np.testing.assert_allclose(probabilities(found[subset, "by-size"]), probabilities(found[subset, policy]),
                                   atol=1e-6)


def test_contributions_of_a_mixture_are_those_of_its_fused_part(case):
    fused, mixture = (predictor(policy=policy, fitted=Fitted({2: 0.4}))(case) for policy in ("fused", "by-size"))
    total = sum(mixture.contributions.values()) + mixture.bias[:, None, None, None]
    np.testing.assert_allclose(total, fused.logits - fused.logits[0], atol=1e-4)
    np.testing.assert_array_equal(mixture.attention["venous"], fused.attention["venous"])


def test_a_saved_mixture_comes_back_as_it_was_and_not_as_its_contributions(case, tmp_path):
    made = predictor(policy="by-size", fitted=Fitted({2: 0.4}))(case)
    found = Prediction.load(made.save(tmp_path))
    assert found.how == made.how == {"by_size": {"2": 0.4}}
    np.testing.assert_array_equal(found.probabilities, made.probabilities)
    np.testing.assert_allclose(softmax(found.in_box("logits"), 0), softmax(made.in_box("logits"), 0), atol=1e-6)


@pytest.mark.parametrize("policy", ["heads", "by-size"])
def test_a_method_without_heads_refuses_by_name_before_it_computes(policy, case):
    with pytest.raises(ValueError, match=f"'{policy}'.*early_fusion"):
        predictor(network("early_fusion"), policy=policy, fitted=Fitted({2: 0.5}))
    with pytest.raises(ValueError, match=f"'{policy}'.*early_fusion"):
        next(predictor(network("early_fusion")).sweep(case, [LIVER.modalities], [policy]))


def test_a_number_of_scans_that_was_not_fitted_is_refused(case):
    with pytest.raises(ValueError, match="fit"):
        predictor(policy="by-size")
    with pytest.raises(ValueError, match=r"by-size.*\b1\b"):
        predictor(policy="by-size", fitted=Fitted({2: 0.5}))(case, "venous")
    with pytest.raises(ValueError, match="by_size"):
        Fitted({2: 1.5})


def test_what_was_fitted_is_read_back_and_damage_is_named(tmp_path):
    assert Fitted.load(tmp_path) == Fitted()
    known = Fitted({1: 0, 2: 0.3}, {"fused": {"tumour": 12.5}}, ["a", "b"],
                   {"fused": {2: {"tumour": Expected(0.1, 0.8, 0.05, 6)}}})
    known.save(tmp_path)
    assert Fitted.load(tmp_path) == known
    for damaged in ('{"by_size": {"two": 1}}', '{"by_size": {}, "expected_dice": {"fused": {"2": {"tumour": {}}}}}'):
        (tmp_path / FITTED).write_text(damaged)
        with pytest.raises(CheckpointError, match=FITTED):
            Fitted.load(tmp_path)


def turned(case, axis):
    """The mirror image of a case, its grid as it was."""
    flip = lambda image: nibabel.Nifti1Image(np.flip(np.asarray(image.dataobj), axis).copy(), image.affine)  # noqa: E731
    return Case(case.id, {name: flip(image) for name, image in case.images.items()})


def test_the_mean_over_mirror_images_is_that_of_the_answers_turned_back(case):
    """In one window, by asking for each mirror image by itself."""
    case = phantoms.liver_phases(1, size=16)[0]
    plain, mirrored = predictor(), predictor(mirror=(0, 2))(case)
    for name in mirrored.maps:
        axes = [(), (-3,), (-1,), (-3, -1)]
        images = [case, turned(case, 0), turned(case, 2), turned(turned(case, 0), 2)]
        each = [np.flip(plain(image).maps[name], flip) for image, flip in zip(images, axes, strict=True)]
        expected = np.mean(each, axis=0)
        np.testing.assert_allclose(mirrored.maps[name], expected, atol=1e-5)
    assert np.abs(mirrored.maps["logits"] - plain(case).maps["logits"]).max() > 0.01
    assert mirrored.how == {"mirror": [0, 2]}


def test_a_network_without_a_sense_of_direction_answers_a_mirror_image_alike(case):
    torch.manual_seed(0)
    method = build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6), strides=[[1, 1, 1], [1, 1, 1]])
    with torch.no_grad():
        for weight in method.parameters():
            if weight.ndim == 5:
                weight.copy_(torch.stack([weight.flip(axes) for axes in flips((0, 1, 2))]).mean(0))
    plain, mirrored = (predictor(method, mirror=mirror)(case) for mirror in (False, True))
    assert set(mirrored.maps) == set(plain.maps) > {"logits", "attention/venous", "contribution/venous"}
    for name, values in plain.maps.items():
        np.testing.assert_allclose(mirrored.maps[name], values, atol=1e-4)


@pytest.mark.parametrize("policy", ["fused", "heads"])
def test_contributions_add_up_over_mirror_images(case, policy):
    for present in (None, "venous"):
        found = predictor(mirror=True, policy=policy)(case, present)
        if policy == "fused":
            total = sum(found.contributions.values()) + found.bias[:, None, None, None]
            np.testing.assert_allclose(total, found.logits - found.logits[0], atol=1e-4)
        np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)


def test_left_and_right_stay_what_they_are_where_a_class_has_a_side():
    kidneys = Task("kidneys", LIVER.modalities, {"background": 0, "left kidney": 1}, intensities="ct")
    assert mirrored_axes(True, kidneys) == (1, 2)
    assert mirrored_axes(True, LIVER) == (0, 1, 2)
    assert mirrored_axes(False, kidneys) == mirrored_axes([], kidneys) == ()
    with pytest.raises(ValueError, match="left kidney"):
        mirrored_axes((0, 1), kidneys)
    with pytest.raises(ValueError, match="3"):
        mirrored_axes((3,), LIVER)


def test_mirroring_takes_the_axes_of_the_training(tmp_path):
    at = Run(tmp_path / "one")
    checkpoints.save(at.checkpoints, 1, network())
    expected = {"all": (0, 1, 2), "some": (1, 2)}
    for name, augmentation in {"all": {}, "some": {"augmentation": {"mirror": [0, 0.5, 0.5]}},
                               "none": {"augmentation": None}}.items():
        at.write_settings({"task": LIVER.to_json(), "trainer": {"patch_size": WINDOW, **augmentation}})
        if name == "none":
            with pytest.raises(ValueError, match="mirror=True"):
                Predictor.load(at.folder, mirror=True)
            assert Predictor.load(at.folder, mirror=[1]).mirror == (1,)
        else:
            assert Predictor.load(at.folder, mirror=True).mirror == expected[name]


@pytest.mark.parametrize("present", [None, "venous"])
def test_one_method_twice_answers_as_itself(case, present):
    one, twice = (predictor(members)(case, present) for members in (network(), [network(), network()]))
    assert list(twice.maps) == list(one.maps)
    for name, values in one.maps.items():
        np.testing.assert_allclose(twice.maps[name], values, atol=1e-5)
    np.testing.assert_allclose(twice.bias, one.bias, atol=1e-6)


def test_several_methods_answer_by_the_mean_and_contributions_still_add_up(case):
    members = [network(seed=seed) for seed in range(3)]
    alone, together = [predictor(one)(case) for one in members], predictor(members)(case)
    assert set(together.maps) == set(alone[0].maps)
    for name, values in together.maps.items():
        np.testing.assert_allclose(values, np.mean([one.maps[name] for one in alone], axis=0), atol=1e-5)
    total = sum(together.contributions.values()) + together.bias[:, None, None, None]
    np.testing.assert_allclose(total, together.logits - together.logits[0], atol=1e-4)
    assert together.how == {"members": 3}
    assert together.method == "maml"


def test_maps_that_not_all_members_have_are_left_out(case):
    members = [network("late_fusion"), network()]
    for order in (members, members[::-1]):
        found = predictor(order)(case)
        assert set(found.maps) == {"logits"}
        assert found.bias is None
        expected = np.mean([predictor(one)(case).maps["logits"] for one in members], axis=0)
        np.testing.assert_allclose(found.maps["logits"], expected, atol=1e-5)
        assert set(found.method.split("+")) == {"maml", "late_fusion"}


def test_memory_holds_the_sums_of_one_however_many_members_and_mirror_images(case, monkeypatch):
    made, new = [], torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, **more: (made.append(new(*shape, **more)), made[-1])[1])
    counts = []
    for one in (predictor(), predictor([network(seed=seed) for seed in range(3)], mirror=(0, 1))):
        made.clear()
        one(case)
        counts.append(sum(tensor.numel() for tensor in made))
    assert counts[0] == counts[1] > 0


def test_members_that_cannot_answer_together_are_refused(tmp_path):
    other = build("maml", modalities=["venous"], classes=2, channels=(4, 6))
    with pytest.raises(ValueError, match=r"arterial.*\['venous'\]"):
        predictor([network(), other])
    with pytest.raises(ValueError, match="'classes': 3"):
        predictor([network(), build("maml", modalities=LIVER.modalities, classes=3, channels=(4, 6))])
    with pytest.raises(ValueError, match=r"maml.*early_fusion"):
        predictor([network(), network("early_fusion")])
    for name, facts in (("a", {}), ("window", {"trainer": {"patch_size": [8, 16, 16]}}),
                        ("spacing", {"task": LIVER.with_spacing(2).to_json()})):
        at = Run(tmp_path / name)
        checkpoints.save(at.checkpoints, 1, network())
        at.write_settings({"task": LIVER.to_json(), "trainer": {"patch_size": [16, 16, 16]}} | facts)
    with pytest.raises(ValueError, match=r"16, 16, 16.*\ba\b.*8, 16, 16.*\bwindow\b"):
        Predictor.load([tmp_path / "a", tmp_path / "window"])
    assert Predictor.load([tmp_path / "a", tmp_path / "window"], window=(8, 8, 8)).run == "a+window"
    with pytest.raises(ValueError, match=r"spacing_mm.*\ba\b.*2\.0.*\bspacing\b"):
        Predictor.load([tmp_path / "a", tmp_path / "spacing"])
    with pytest.raises(ValueError, match=r"\brun\b"):
        Predictor.load([])


def test_several_runs_are_loaded_and_written_down_as_such(case, tmp_path):
    for seed, share in ((0, 0.2), (1, 0.6)):
        at = Run(tmp_path / f"fold-{seed}")
        checkpoint = checkpoints.save(at.checkpoints, 1, network(seed=seed))
        at.write_settings({"task": LIVER.to_json(), "trainer": {"patch_size": [16, 16, 16]}})
        by_size = {1: 0, 2: share} if seed else {2: share}
        Fitted(by_size, {"fused": {"tumour": 10 * share}}, [f"case-{seed}"]).save(checkpoint)
    runs = [tmp_path / "fold-0", tmp_path / "fold-1"]
    together = Predictor.load(runs, device="cpu", policy="by-size")
    assert together.fitted == Fitted({2: 0.4}, {"fused": {"tumour": 4}}, ["case-0", "case-1"])
    with pytest.raises(ValueError, match=r"\b2\b.*\bout\b"):
        output_folder(runs)
    found = find_cases(write_cases([case], tmp_path / "data", "folders", LIVER), LIVER)
    predict_cases(together, found, output_folder(runs, tmp_path / "out"), attention=False)
    manifest = json.loads((tmp_path / "out" / case.id / "manifest.json").read_text())
    assert manifest["settings"]["members"] == 2
    assert len(set(manifest["settings"]["weights"])) == 2
    assert manifest["settings"]["by_size"] == {"2": 0.4}
    expected = np.mean([Predictor.load(one, device="cpu")(found[0]).maps["logits"] for one in runs], axis=0)
    fused = Predictor.load(runs[::-1], device="cpu")(found[0])
    np.testing.assert_allclose(fused.maps["logits"], expected, atol=1e-5)


def test_a_part_that_is_too_small_becomes_what_is_likeliest_outside_its_region():
    brain = TASKS["brats2021"]
    background, necrosis, oedema, enhancing = range(4)
    classes = np.zeros((8, 8, 8), np.uint8)
    classes[:3, :3, :3] = enhancing                     # a lesion of 27 voxels
    classes[6, 6, 6] = classes[7, 7, 7] = enhancing     # two that touch at a corner: one part of 2 voxels
    classes[0, 0, 7] = enhancing                        # a crumb of 1 voxel
    logits = np.zeros((4, 8, 8, 8), np.float32)
    logits[necrosis] = 1
    logits[oedema, 0, 0, 7] = 2
    asked = []
    found = without_small(classes, brain, {"ET": 5}, 2.0, lambda: (asked.append(1), logits.copy())[1])
    expected = classes.copy()
    expected[6, 6, 6] = expected[7, 7, 7] = necrosis
    expected[0, 0, 7] = oedema
    np.testing.assert_array_equal(found, expected)
    assert (classes[6, 6, 6], len(asked)) == (enhancing, 1)
    whole = without_small(classes, brain, {"WT": 5, "ET": 0}, 2.0, lambda: logits.copy())
    np.testing.assert_array_equal(whole, np.where(np.arange(8)[:, None, None] < 3, classes, background)
                                  * (np.arange(8) < 7))
    unasked = lambda: pytest.fail("nothing is dropped")  # noqa: E731
    np.testing.assert_array_equal(without_small(classes, brain, {"WT": 2, "ET": 2}, 2.0, unasked), classes)
    just_below = 2 - 1e-7                               # what is left of 2 mm³ by the header of a turned scan
    np.testing.assert_array_equal(without_small(classes, brain, {"WT": 2, "ET": 2}, just_below, unasked), classes)


def test_dropping_is_off_unless_asked_and_said_in_what_is_saved(case, tmp_path):
    method = network()
    background, tumour = predictor(method)(case).maps["logits"]
    method.classifier.bias.data[1] -= float(np.quantile(tumour - background, 0.97))     # crumbs are left of the tumour
    plain = predictor(method)(case)
    _, voxels = connected_parts(plain.classes == 1)
    middle = float(np.median(voxels[1:])) + 0.5
    assert len(voxels) > 2
    cut = predictor(method, drop_small={"tumour": middle})(case)
    assert plain.how == {}
    assert cut.how == {"smallest_mm3": {"tumour": middle}}
    _, kept = connected_parts(cut.classes == 1)
    assert sorted(kept[1:]) == sorted(one for one in voxels[1:] if one >= middle) != []
    np.testing.assert_array_equal(cut.probabilities, plain.probabilities)
    found = Prediction.load(cut.save(tmp_path))
    np.testing.assert_array_equal(found.classes, cut.classes)
    assert found.how == cut.how


def test_what_was_learned_is_asked_for_by_policy(case):
    with pytest.raises(ValueError, match="fit"):
        predictor(drop_small=True)
    known = Fitted(smallest_mm3={"fused": {"tumour": 30}, "heads": {"tumour": 0}})
    one = predictor(drop_small=True, fitted=known)
    found = {policy: answer.how for (_, policy), answer in one.sweep(case, [LIVER.modalities], ["fused", "heads"])}
    assert found == {"fused": {"smallest_mm3": {"tumour": 30}}, "heads": {}}
    with pytest.raises(ValueError, match="liver"):
        predictor(drop_small={"liver": 3})
    with pytest.raises(ValueError, match=r"found \{'tumour': nan\} as smallest volumes"):
        predictor(drop_small={"tumour": float("nan")})


def test_a_run_by_nnunets_recipe_is_answered_with_mirrors_unless_told_otherwise(tmp_path):
    torch.manual_seed(0)
    method = build("early_fusion", modalities=LIVER.modalities, classes=2, channels=(2, 4, 4), deep_supervision=True)
    Trainer(method, tmp_path / "run", LIVER, recipe="nnunet", patch_size=(8, 8, 8), batch_size=1, epochs=1,
            steps_per_epoch=1, device="cpu").fit(phantoms.liver_phases(1, 12))
    assert Predictor.load(tmp_path / "run").mirror == (0, 1, 2)
    assert Predictor.load(tmp_path / "run", mirror=None).mirror == (0, 1, 2)
    assert Predictor.load(tmp_path / "run", mirror=False).mirror == ()


def test_what_a_training_fits_is_about_the_mirrored_answers_that_its_run_gives(tmp_path, monkeypatch):
    mirrored = []
    monkeypatch.setattr("maml_toolkit.evaluation.fitting.fit_expected_dice",
                        lambda predictor, cases, **_: mirrored.append(predictor.mirror) or pd.DataFrame())
    for name, mirror in (("some", [0, 0.5, 0.5]), ("none", 0)):
        torch.manual_seed(0)
        method = build("early_fusion", modalities=LIVER.modalities, classes=2, channels=(2, 4), deep_supervision=True)
        training, validation = (phantoms.liver_phases(1, 12, seed=seed) for seed in (0, 1))
        Trainer(method, tmp_path / name, LIVER, recipe="nnunet", augmentation=Augmentation(mirror), device="cpu",
                patch_size=(8, 8, 8), batch_size=1, epochs=1, steps_per_epoch=1).fit(training, validation)
        assert mirrored[-1] == Predictor.load(tmp_path / name).mirror
    assert mirrored == [(1, 2), ()]

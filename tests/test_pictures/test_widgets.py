import base64
import zlib
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from browser import predicted

from maml_toolkit import DataError
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.pictures.widgets import explore, payload
from maml_toolkit.pictures.widgets.scene import Scene

LIVER, BRATS = TASKS["liver_phases"], TASKS["brats2021"]


@pytest.fixture(scope="module")
def brain():
    (case,) = phantoms.brains(1, size=24)
    return case


@pytest.fixture(scope="module")
def prediction(brain):
    return predicted(brain, BRATS)


def turned(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """The same picture with its axes in another order."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))


def unpacked(widget, name: str) -> np.ndarray:
    """What the browser makes of an array, axes (…, x, y, z)."""
    about = widget.summary["arrays"][name]
    shape = about["shape"]
    values = np.frombuffer(zlib.decompress(widget.arrays[name]), about["type"])
    return np.swapaxes(values.reshape([*shape[:-3], *shape[:-4:-1]]), -1, -3)


def test_bias_and_contributions_as_the_table_shows_them_add_up_to_the_log_odds_of_every_subset(brain, prediction):
    widget = explore(brain, prediction)
    scene = Scene.of(brain, prediction)
    assert len(widget.summary["answers"]) == 15
    for number, (answer, facts) in enumerate(zip(scene.answers, widget.summary["answers"], strict=True)):
        terms = [unpacked(widget, f"contribution/{number}/{name}").astype(int) for name in facts["contributions"]]
        shown = facts["step"] * (sum(terms) + np.reshape(facts["bias"], (-1, 1, 1, 1)))
        logits = answer.in_box("logits")
        assert np.abs(shown - (logits - logits[0])).max() <= facts["step"] / 2 + 2e-5
        for name, term in zip(facts["contributions"], terms, strict=True):
            exact = answer.in_box(f"contribution/{name}")
            assert np.abs(facts["step"] * term - (exact - exact[0])).max() <= facts["step"] + 2e-5


def test_of_regions_each_is_sent_behind_a_channel_of_zeros_and_adds_up_to_its_own_logit(brain):
    task = replace(BRATS, train_on="regions")
    prediction = predicted(brain, task)
    widget, scene = explore(brain, prediction), Scene.of(brain, prediction)
    for number, (answer, facts) in enumerate(zip(scene.answers, widget.summary["answers"], strict=True)):
        terms = [unpacked(widget, f"contribution/{number}/{name}").astype(int) for name in facts["contributions"]]
        shown = facts["step"] * (sum(terms) + np.reshape(facts["bias"], (-1, 1, 1, 1)))
        assert (shown[0] == 0).all()
        assert np.abs(shown[1:] - answer.in_box("logits")).max() <= facts["step"] / 2 + 2e-5
    assert [(one["name"], one["classes"], one["against"]) for one in widget.summary["sides"]] == [
        (name, [number], "everything else") for number, name in enumerate(task.regions, start=1)]
    assert (widget.summary["channels"], widget.summary["against"]) == (4, ["everything else"])
    np.testing.assert_array_equal(unpacked(widget, "classes/0"), prediction.classes_in_box)
    with pytest.raises(ValueError, match="trained on regions"):
        explore(brain, prediction, BRATS)


def test_the_classes_sent_are_those_of_the_prediction_for_every_subset(brain, prediction):
    widget = explore(brain, prediction)
    box = tuple(slice(*edges) for edges in widget.summary["box"])
    for number, facts in enumerate(widget.summary["answers"]):
        answer = prediction.subsets[frozenset(facts["modalities"])]
        whole = nib.as_closest_canonical(nib.Nifti1Image(answer.classes.astype(np.uint8), answer.affine)).dataobj
        np.testing.assert_array_equal(unpacked(widget, f"classes/{number}"), np.asarray(whole)[box])
    assert set(widget.summary["answers"][0]["modalities"]) == set(BRATS.modalities)
    assert widget.scans == list(prediction.modalities)


def test_uncertainty_is_sent_in_the_range_of_all_classes_where_there_is_one(brain, prediction):
    plain = explore(brain, prediction).summary
    assert all(one["uncertainty"] == [] for one in plain["answers"])
    assert not any(name.startswith("uncertainty") for name in plain["arrays"])
    shape = prediction.maps["logits"].shape[1:]
    nats = np.random.default_rng(0).uniform(0, np.log(4), shape).astype(np.float32)
    unsure = replace(prediction, maps={**prediction.maps, "uncertainty": nats})
    widget = explore(brain, unsure)
    assert widget.summary["answers"][0]["uncertainty"] == list(BRATS.modalities)
    sent = unpacked(widget, "uncertainty/0") / 255 * np.log(4)
    assert np.abs(sent - unsure.in_box("uncertainty")).max() <= 0.5 / 255 * np.log(4) + 1e-6


def test_attention_has_one_range_and_comes_back_within_half_a_step(brain, prediction):
    widget = explore(brain, prediction)
    for name in prediction.modalities:
        sent = unpacked(widget, f"attention/0/{name}") / 255
        assert np.abs(sent - prediction.in_box(f"attention/{name}")).max() <= 0.5 / 255 + 1e-6


def test_a_ct_is_sent_in_hounsfield_units_and_an_mr_in_255_steps(brain, prediction):
    (liver,) = phantoms.liver_phases(1, size=16)
    widget = explore(liver, predicted(liver, LIVER))
    np.testing.assert_array_equal(unpacked(widget, "image/arterial"),
                                  np.rint(nib.as_closest_canonical(liver.images["arterial"]).get_fdata()))
    widget = explore(brain, prediction)
    facts = next(one for one in widget.summary["modalities"] if one["name"] == "t1ce")
    image = nib.as_closest_canonical(brain.images["t1ce"]).get_fdata()
    sent = unpacked(widget, "image/t1ce")
    np.testing.assert_array_equal(sent == 0, image == 0)
    below = (image != 0) & (sent < 255)
    assert np.abs(facts["low"] + facts["step"] * sent - image)[below].max() <= facts["step"] / 2 * 1.001
    assert facts["percentiles"][0] == pytest.approx(image[image != 0].min())


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_whatever_the_order_of_the_axes_the_crosshair_names_the_voxel_of_the_file(brain, codes):
    case = Case(brain.id, {name: turned(image, codes) for name, image in brain.images.items()},
                turned(brain.label, codes))
    prediction = predicted(case, BRATS, subsets=False)
    widget = explore(case, prediction)
    truth = np.asarray(case.label.dataobj)
    assert truth[tuple(widget.voxel)] > 0
    images = unpacked(widget, "image/flair")
    facts = next(one for one in widget.summary["modalities"] if one["name"] == "flair")
    at = tuple(widget.summary["start"])
    value = np.asarray(case.images["flair"].dataobj)[tuple(widget.voxel)]
    assert facts["low"] + facts["step"] * images[at] == pytest.approx(value, abs=2 * facts["step"])
    place = (np.array(widget.summary["affine"]) @ [*at, 1])[:3]
    np.testing.assert_allclose(place, (case.label.affine @ [*widget.voxel, 1])[:3], atol=1e-4)


def test_a_scan_that_was_not_acquired_is_said_and_never_sent_as_an_image(brain):
    case = Case(brain.id, {name: brain.images[name] for name in ("t1", "flair")}, brain.label)
    widget = explore(case, predicted(case, BRATS))
    present = {one["name"]: one["present"] for one in widget.summary["modalities"]}
    assert present == {"t1": True, "t1ce": False, "t2": False, "flair": True}
    assert "image/t1ce" not in widget.arrays
    assert [one["modalities"] for one in widget.summary["answers"]] == [["t1", "flair"], ["t1"], ["flair"]]


def test_where_all_maps_take_too_much_they_are_sampled_and_it_is_said(brain, prediction, monkeypatch):
    whole = explore(brain, prediction)
    assert whole.summary["every"] == 1
    monkeypatch.setattr(payload, "MAPS_MB", whole.summary["subsets_mb"] / 3)
    coarse = explore(brain, prediction)
    assert coarse.summary["every"] == 2
    assert coarse.summary["subsets_mb"] < whole.summary["subsets_mb"] / 3
    every, fine = unpacked(coarse, "attention/0/t1"), unpacked(whole, "attention/0/t1")
    assert every.shape == tuple(-(-size // 2) for size in fine.shape)
    within = tuple(slice(size // 2) for size in fine.shape)
    np.testing.assert_array_equal(every[within], fine[1::2, 1::2, 1::2][within])
    assert unpacked(coarse, "classes/0").shape == fine.shape
    with pytest.raises(ValueError, match="downsample=0"):
        explore(brain, prediction, downsample=0)


def test_the_memory_that_is_said_is_what_the_arrays_take(brain, prediction):
    widget = explore(brain, prediction)
    assert widget.summary["sent_mb"] == pytest.approx(sum(map(len, widget.arrays.values())) / 1e6)
    assert widget.summary["unpacked_mb"] == pytest.approx(
        sum(unpacked(widget, name).nbytes for name in widget.arrays) / 1e6)
    assert f"{widget.summary['sent_mb']:.1f} MB sent once" in widget.memory
    assert "15 answers" in widget.memory


def test_a_method_without_contributions_sends_its_logits(brain, prediction):
    maps = {name: array for name, array in prediction.maps.items() if not name.startswith("contribution/")}
    plain = replace(prediction, maps=maps, bias=None, subsets={})
    widget = explore(brain, plain)
    (facts,) = widget.summary["answers"]
    assert facts["contributions"] == []
    sent = facts["step"] * unpacked(widget, "logits/0")
    logits = plain.in_box("logits")
    assert np.abs(sent - (logits - logits[0])).max() <= facts["step"] / 2 + 2e-5


def test_what_is_mixed_by_size_sends_its_own_logits_beside_the_contributions_of_a_part(brain, prediction):
    mixed = replace(prediction, policy="by-size", subsets={}, maps={**prediction.maps,
                                                                    "logits": 0.5 * prediction.maps["logits"][::-1]})
    widget, scene = explore(brain, mixed), Scene.of(brain, mixed)
    (facts,) = widget.summary["answers"]
    assert (facts["sums"], bool(facts["contributions"])) == (False, True)
    logits = scene.answers[0].in_box("logits")
    shown = facts["step"] * unpacked(widget, "logits/0").astype(int)
    assert np.abs(shown - (logits - logits[0])).max() <= facts["step"] / 2 + 2e-5
    assert "logits/0" not in explore(brain, prediction).summary["arrays"]


def test_what_is_open_in_a_label_is_not_sent_as_background(brain, prediction):
    label = np.asarray(brain.label.dataobj).copy()
    label[0, 0, 0] = 9
    case = replace(brain, label=nib.Nifti1Image(label, brain.label.affine))
    task = replace(BRATS, ignore=9)
    widget = explore(case, replace(prediction, task=task, subsets={}), task)
    sent = unpacked(widget, "truth")
    assert (sent >= task.classes).sum() == 1
    assert Scene.of(case, replace(prediction, task=task, subsets={}), task).truth.max() < task.classes


def test_a_picture_goes_where_no_script_runs(brain, prediction):
    bundle = explore(brain, prediction)._repr_mimebundle_()[0]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert brain.id in bundle["text/plain"]


def test_what_does_not_belong_together_is_said_before_anything_is_sent(brain, prediction):
    other = phantoms.brains(2, size=24)[1]
    with pytest.raises(ValueError, match=f"'{brain.id}'.*'{other.id}'"):
        explore(other, prediction)
    cropped = Case(brain.id, {name: image.slicer[:20] for name, image in brain.images.items()})
    with pytest.raises(DataError, match="grid"):
        explore(cropped, prediction)
    fewer = Case(brain.id, {"t1": brain.images["t1"]})
    with pytest.raises(ValueError, match="t1ce, t2, flair"):
        explore(fewer, prediction)
    with pytest.raises(ValueError, match=r"\[24, 0, 0\].*\(24, 24, 24\)"):
        explore(brain, prediction, at=(24, 0, 0))
    with pytest.raises(ValueError, match="expected background, "):
        explore(brain, prediction, LIVER)


def test_it_starts_where_it_is_told(brain, prediction):
    assert explore(brain, prediction, at=(3, 4, 5)).voxel == [3, 4, 5]

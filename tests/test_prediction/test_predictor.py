"""The Predictor: windows, weights, grids, missing modalities, files."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.preprocessing import prepare
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import METHODS, build
from maml_toolkit.prediction.answering import Answering
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.windows import gaussian, padded, windows
from maml_toolkit.system.errors import DataError, MissingModalityError

LIVER, BRAIN = TASKS["liver_phases"], TASKS["brats2021"]
WINDOW = (16, 16, 16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6, 8))


@pytest.fixture
def predictor(model):
    return Predictor(model, LIVER, WINDOW, precision="float32")


@pytest.fixture
def case():
    return phantoms.liver_phases(1, size=(20, 24, 16))[0]


def test_windows_cover_every_voxel_with_half_overlap():
    for shape in ((16, 16, 16), (17, 40, 33)):
        covered = np.zeros(shape, int)
        places = list(windows(shape, WINDOW, 0.5))
        for place in places:
            covered[place] += 1
            assert covered[place].shape == WINDOW
        assert covered.min() >= 1
    starts = sorted({place[1].start for place in places})
    assert starts == [0, 8, 16, 24]
    assert max(np.diff(sorted({place[2].start for place in places}))) <= 8


def test_the_weights_are_a_gaussian_with_an_eighth_of_the_window_as_sigma():
    weights = gaussian((17, 17, 17))
    assert weights.max() == weights[8, 8, 8] == 1
    assert weights[8, 8, 10].item() == pytest.approx(np.exp(-0.5 * (2 / (17 / 8)) ** 2))
    assert weights.min() > 0


def test_one_window_is_the_network_itself(model):
    case = phantoms.liver_phases(1, size=16)[0]
    prediction = Predictor(model, LIVER, WINDOW, precision="float32")(case)
    images = {name: torch.from_numpy(image)[None, None] for name, image in prepare(case, LIVER).images.items()}
    with torch.inference_mode():
        expected = model.eval()(images)
    np.testing.assert_allclose(prediction.maps["logits"], expected.logits[0], atol=1e-5)
    np.testing.assert_allclose(prediction.maps["attention/venous"], expected.attention["venous"][0].mean(0), atol=1e-6)


def test_the_answer_lies_on_the_grid_of_the_case(predictor, case):
    prediction = predictor(case)
    shape = case.images["venous"].shape
    assert prediction.labels.shape == shape
    assert prediction.probabilities.shape == (2, *shape)
    np.testing.assert_allclose(prediction.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(prediction.affine, case.images["venous"].affine)


def test_contributions_and_bias_add_up_to_the_log_odds_over_windows(predictor, case):
    for present in (None, {"venous"}):
        prediction = predictor(case, present)
        total = sum(prediction.contributions.values()) + prediction.bias[:, None, None, None]
        np.testing.assert_allclose(total, prediction.logits - prediction.logits[0], atol=1e-4)


def test_attention_is_between_zero_and_one_and_empty_for_one_modality(predictor, case):
    attention = predictor(case).attention
    assert set(attention) == set(LIVER.modalities)
    assert all(0 <= one.min() < one.max() <= 1 for one in attention.values())
    assert predictor(case, present={"venous"}).attention == {}


def test_maps_are_kept_on_request_only(predictor, case):
    assert set(predictor(case, attention=False, contributions=False).maps) == {"logits"}


def test_a_case_without_a_modality_is_answered_like_one_from_which_it_is_left_out(predictor, case):
    lacking = Case(case.id, {"venous": case.images["venous"]}, case.label)
    found = predictor(lacking)
    assert found.modalities == ("venous",)
    np.testing.assert_allclose(found.logits, predictor(case, present={"venous"}).logits, atol=1e-5)


def test_modalities_that_cannot_be_used_are_refused_by_case_and_name(predictor, case):
    lacking = Case("anna", {"venous": case.images["venous"]}, case.label)
    with pytest.raises(MissingModalityError, match=r"case anna: .*arterial.*venous"):
        predictor(lacking, present={"arterial", "venous"})
    with pytest.raises(MissingModalityError, match=r"anna.*delayed"):
        predictor(lacking, present={"delayed"})
    with pytest.raises(MissingModalityError, match=r"anna.*modality"):
        predictor(lacking, present=set())
    early = Predictor(METHODS["early_fusion"](LIVER.modalities, 2, channels=(4, 6)), LIVER, WINDOW)
    with pytest.raises(MissingModalityError, match=r"anna.*arterial"):
        early(lacking)


@pytest.mark.parametrize("codes", ["LAS", "LPS", "RAS", "PIR"])
def test_the_axes_of_the_file_do_not_change_the_answer_in_space(predictor, codes):
    case = phantoms.brains(1, size=(20, 24, 16))[0]
    task = TASKS["brats2021"]
    model = build("late_fusion", modalities=("t1", "flair"), classes=4, channels=(4, 6))
    predictor = Predictor(model, task, WINDOW, precision="float32")
    plain = predictor(case)
    move = nibabel.orientations.ornt_transform(nibabel.io_orientation(plain.affine),
                                               nibabel.orientations.axcodes2ornt(codes))
    turn = lambda image: image.as_reoriented(move)  # noqa: E731
    other = predictor(Case(case.id, {name: turn(image) for name, image in case.images.items()}))
    expected = turn(nibabel.Nifti1Image(plain.classes, plain.affine))
    np.testing.assert_array_equal(other.classes, np.asarray(expected.dataobj))
    np.testing.assert_allclose(other.affine, expected.affine)


def test_another_spacing_of_the_network_still_answers_on_the_files_grid(model, case):
    prediction = Predictor(model, LIVER.with_spacing((0.8, 1.5, 2)), WINDOW)(case)
    assert prediction.labels.shape == case.images["venous"].shape
    assert prediction.maps["logits"].shape == (2, 25, 16, 8)


def test_a_small_case_is_padded_and_cropped_again(predictor):
    case = phantoms.liver_phases(1, size=(12, 16, 13))[0]
    assert predictor(case).labels.shape == (12, 16, 13)
    images, margins = padded(torch.ones(2, 12, 16, 13), WINDOW, [-3.0, 0.0])
    assert images.shape == (2, 16, 16, 16)
    assert margins == [(2, 2), (0, 0), (1, 2)]
    assert [image.sum().item() for image in images] == [12 * 16 * 13 - 3 * (16**3 - 12 * 16 * 13), 12 * 16 * 13]


def test_around_a_small_ct_lies_air(model, monkeypatch):
    case, seen = phantoms.liver_phases(1, size=(12, 16, 13))[0], []
    sweep = model.sweep
    monkeypatch.setattr(model, "sweep", lambda window, subsets: (seen.append(window), sweep(window, subsets))[1])
    predictor = Predictor(model, LIVER, WINDOW)
    predictor(case)
    lowest = {name: image.min() for name, image in predictor.prepared(case).images.items()}
    assert set(lowest) == {"arterial", "venous"}
    for name, value in lowest.items():
        assert seen[0][name][0, 0, 0, 0, 0].item() == pytest.approx(float(value))


def test_saved_files_overlay_on_the_input(predictor, case, tmp_path):
    prediction = predictor(case)
    prediction.save(tmp_path / "Müller 1")
    names = {path.name for path in (tmp_path / "Müller 1").iterdir()}
    parts = ("seg", "prob", *(f"{kind}_{one}" for kind in ("attention", "contribution") for one in case.images))
    assert names == {*(f"{case.id}_{part}.nii.gz" for part in parts), "prediction.json"}
    labels = nibabel.load(tmp_path / "Müller 1" / f"{case.id}_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(labels.dataobj), prediction.labels)
    np.testing.assert_allclose(labels.affine, case.images["venous"].affine, atol=1e-5)
    assert json.loads((tmp_path / "Müller 1" / "prediction.json").read_text())["modalities"] == ["arterial", "venous"]


def test_a_folder_holds_one_prediction(predictor, case, tmp_path):
    predictor(case).save(tmp_path)
    predictor(case, "venous").save(tmp_path)
    expected = {*(f"{case.id}_{part}.nii.gz" for part in ("seg", "prob", "contribution_venous")), "prediction.json"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    replace(predictor(case, "venous"), case="other").save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {one.replace(case.id, "other") for one in expected}


def test_a_prediction_never_replaces_a_ground_truth_of_its_name(predictor, case, tmp_path):
    label = tmp_path / f"{case.id}_seg.nii.gz"
    label.write_bytes(b"drawn by hand")
    with pytest.raises(DataError, match=label.name):
        predictor(case).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [label.name]
    replace(predictor(case), case="other").save(tmp_path)
    replace(predictor(case), case="third").save(tmp_path)
    assert label.read_bytes() == b"drawn by hand"


def test_a_prediction_whose_saving_was_interrupted_is_replaced(predictor, case, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("maml_toolkit.prediction.prediction.write_whole", stopped)
        with pytest.raises(KeyboardInterrupt):
            predictor(case).save(tmp_path)
    assert Prediction.load(predictor(case).save(tmp_path)).case == case.id


def test_labels_are_saved_in_the_values_of_the_task():
    task = TASKS["brats2021"]
    model = build("late_fusion", modalities=("t1",), classes=4, channels=(4, 6))
    model.heads["t1"].finest.bias.data[3] = 100
    prediction = Predictor(model, task, WINDOW)(phantoms.brains(1, size=16)[0])
    assert set(np.unique(prediction.labels)) <= {0, 4}
    assert 4 in prediction.labels


def test_outside_the_box_is_background():
    prediction = Predictor(build("late_fusion", modalities=("t1",), classes=4, channels=(4, 6)), TASKS["brats2021"],
                           WINDOW)(phantoms.brains(1, size=32)[0])
    assert prediction.probabilities[0, 0, 0, 0] == pytest.approx(1)
    assert prediction.logits[0, 0, 0, 0] == 0


def test_bfloat16_gives_nearly_the_same_masks(model, case):
    exact, rounded = (Predictor(model, LIVER, WINDOW, precision=one)(case).classes for one in ("float32", "bfloat16"))
    assert (exact == rounded).mean() > 0.98


def test_sums_that_do_not_fit_beside_the_network_are_kept_in_the_computers_memory(predictor, case, monkeypatch):
    plain, add = predictor(case), Answering.add

    def full(self, *given):
        if self.predictor.sums_on.type == "meta":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        add(self, *given)

    monkeypatch.setattr(Answering, "add", full)
    predictor.sums_on = torch.device("meta")
    with pytest.warns(UserWarning, match=f"case {case.id} .*meta"):
        again = predictor(case)
    assert set(again.maps) == set(plain.maps) > {"logits"}
    for name, one in plain.maps.items():
        np.testing.assert_array_equal(again.maps[name], one)
    assert predictor.sums_on == torch.device("cpu")


def test_settings_out_of_their_range_are_refused(model):
    with pytest.raises(ValueError, match="overlap=1"):
        Predictor(model, LIVER, WINDOW, overlap=1)
    with pytest.raises(ValueError, match=r"\(16, 16, 18\).*\(4, 4, 4\)"):
        Predictor(model, LIVER, (16, 16, 18))
    with pytest.raises(ValueError, match=r"patch of \(4, 4, 4\)"):
        Predictor(model, LIVER, (4, 4, 4))


def test_a_run_without_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.checkpoints"):
        Predictor.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="checkpoint='last'"):
        Predictor.load(tmp_path / "nothing", checkpoint="last")


@pytest.mark.parametrize("name", ["maml", "hemis", "late_fusion", "uhved"])
def test_a_sweep_over_subsets_equals_single_predictions(name):
    case = phantoms.brains(1, size=(16, 20, 16))[0]
    torch.manual_seed(0)
    one = Predictor(METHODS[name](BRAIN.modalities, 4, channels=(4, 6)), BRAIN, (16, 16, 16), precision="float32")
    swept = one.subsets(case)
    assert len(swept.subsets) == 15
    assert set(swept.modalities) == set(BRAIN.modalities)
    for subset in ({"t1"}, {"t1ce", "flair"}, {"t1", "t2", "flair"}, set(BRAIN.modalities)):
        alone = one(case, present=subset)
        found = swept.subsets[frozenset(subset)]
        assert found.modalities == alone.modalities
        np.testing.assert_allclose(found.logits, alone.logits, atol=1e-4)


def test_a_sweep_keeps_maps_that_are_asked_for():
    case = phantoms.liver_phases(1, size=16)[0]
    one = Predictor(METHODS["maml"](LIVER.modalities, 2, channels=(4, 6)), LIVER, (16, 16, 16))
    swept = one.subsets(case, [{"venous"}, {"arterial", "venous"}], attention=True, contributions=True)
    assert set(swept.attention) == {"arterial", "venous"}
    assert set(swept.subsets[frozenset({"venous"})].contributions) == {"venous"}
    assert one.subsets(case).contributions == {}


def test_a_sweep_in_parts_is_the_sweep_at_once():
    case = phantoms.brains(1, size=16)[0]
    torch.manual_seed(0)
    method = METHODS["maml"](BRAIN.modalities, 4, channels=(4, 6))
    whole, parts = (Predictor(method, BRAIN, (16, 16, 16), precision="float32", at_once=count).subsets(case)
                    for count in (16, 4))
    assert list(whole.subsets) == list(parts.subsets)
    for subset, expected in whole.subsets.items():
        np.testing.assert_allclose(parts.subsets[subset].logits, expected.logits, atol=1e-5)
    with pytest.raises(ValueError, match="at_once=0"):
        Predictor(method, BRAIN, (16, 16, 16), at_once=0)


def test_a_sweep_leaves_out_what_the_method_does_not_accept():
    case = phantoms.liver_phases(1, size=16)[0]
    early = Predictor(METHODS["early_fusion"](LIVER.modalities, 2, channels=(4, 6)), LIVER, (16, 16, 16))
    assert list(early.subsets(case).subsets) == [frozenset(LIVER.modalities)]
    with pytest.raises(MissingModalityError, match="arterial"):
        early.subsets(case, [{"venous"}])


@pytest.mark.parametrize("at_once", [16, 1])
def test_a_subset_or_a_policy_that_is_listed_twice_is_answered_once_and_counts_once(at_once):
    case = prepare(phantoms.liver_phases(1, size=16)[0], LIVER)
    torch.manual_seed(0)
    one = Predictor(METHODS["maml"](LIVER.modalities, 2, channels=(4, 6)), LIVER, (16, 16, 16), at_once=at_once)
    once = dict(one.sweep(case, [{"venous"}, {"arterial", "venous"}], ["fused", "heads"]))
    twice = [*one.sweep(case, [["venous"], ["arterial", "venous"], ["venous", "venous"], ["venous", "arterial"]],
                        ["fused", "heads", "fused"])]
    assert [key for key, _ in twice] == list(once)
    assert len(once) == 4
    for key, found in twice:
        np.testing.assert_array_equal(found.logits, once[key].logits)
    assert len(one.subsets(case, [["venous"], ["venous"]]).subsets) == 1


def test_the_policy_chooses_who_answers():
    case = phantoms.liver_phases(1, size=16)[0]
    torch.manual_seed(0)
    method = METHODS["maml"](LIVER.modalities, 2, channels=(4, 6))
    fused, heads = (Predictor(method, LIVER, (16, 16, 16), policy=policy) for policy in ("fused", "heads"))
    assert not np.allclose(fused(case).logits, heads(case).logits)
    np.testing.assert_allclose(fused(case, "venous").probabilities, heads(case, "venous").probabilities, atol=1e-5)
    assert heads(case).contributions == {}
    with pytest.raises(ValueError, match="policy='mean'"):
        Predictor(method, LIVER, (16, 16, 16), policy="mean")


@pytest.mark.parametrize("shape", [(24, 24, 2), (3, 24, 24), (2, 2, 3)])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 8), (0.5, 0.5, 2)])
def test_a_scan_of_a_few_slices_is_segmented_on_its_own_grid(predictor, shape, spacing):
    affine, random = np.diag([0.7, 0.7, 4, 1]), np.random.default_rng(0)
    images = {name: nibabel.Nifti1Image(random.integers(-900, 900, shape).astype(np.int16), affine)
              for name in LIVER.modalities}
    predictor.task = LIVER.with_spacing(spacing)
    prediction = predictor(Case("thin", images))
    assert prediction.labels.shape == shape
    np.testing.assert_array_equal(prediction.affine, affine)
    assert np.isfinite(prediction.logits).all()


def test_a_mask_that_normalisation_would_erase_is_refused_by_name_when_predicting_too(predictor, case):
    mask = np.zeros((20, 24, 16), np.uint8)
    mask[5:8, 5:8, 5:8] = 1
    affine = case.images["venous"].affine
    with pytest.raises(DataError) as caught:
        predictor(Case("masked", {**case.images, "arterial": nibabel.Nifti1Image(mask, affine)}))
    assert [(one.case, one.modality) for one in caught.value.errors] == [("masked", "arterial")]
    assert '"none"' in caught.value.remedy


def test_a_lesion_found_in_one_voxel_of_another_grid_is_in_the_label_map(case):
    ready = prepare(case, LIVER.with_spacing((2, 2, 2)))
    logits = np.stack([np.ones(ready.grid.working_shape), np.zeros(ready.grid.working_shape)]).astype(np.float32)
    logits[1, 4, 5, 3] = 2
    prediction = Prediction("a", LIVER, LIVER.modalities, ready.grid, {"logits": logits})
    found = np.argwhere(prediction.labels)
    np.testing.assert_array_equal(found.min(0), [8, 10, 6])        # by hand: voxels of 2 mm over those of 1 mm
    np.testing.assert_array_equal(found.max(0), [9, 11, 7])

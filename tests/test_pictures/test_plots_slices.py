"""Figures say what the arrays say, and show every volume upright whatever the order of its axes."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from nibabel.affines import from_matvec
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from maml_toolkit.data import phantoms, volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.findings import greys
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.methods import build
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.plots.view import Plane, View, brightness, window
from maml_toolkit.pictures.widgets.payload import coded_image
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system.errors import DataError

LIVER = TASKS["liver_phases"]
TASK = Task("two", ("t1", "flair"), {"background": 0, "lesion": 1})
RAS = np.diag([2.0, 1.0, 3.0, 1.0])
SHAPE = (12, 20, 10)
LEVEL = 7


def oriented(array: np.ndarray, codes: str) -> nib.Nifti1Image:
    """The same scan, its array stored in another order of axes."""
    turn = ornt_transform(io_orientation(RAS), axcodes2ornt(codes))
    return nib.Nifti1Image(apply_orientation(array, turn), RAS @ inv_ornt_aff(turn, array.shape))


def brain() -> tuple[np.ndarray, np.ndarray]:
    """An image, and a label on the patient's right (high i in RAS), in front, largest at LEVEL."""
    image = np.random.default_rng(0).uniform(50, 100, SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    label[8:11, 14:18, 6] = 1
    label[8:11, 13:18, LEVEL] = 1
    return image + 400 * label.astype(np.float32), label


def case_of(codes: str = "RAS", modalities=("t1", "flair")) -> Case:
    image, label = brain()
    return Case("a", {name: oriented(image, codes) for name in modalities}, oriented(label, codes))


def prediction_of(case: Case, **other) -> SimpleNamespace:
    label = volumes.read_label(case.label)
    there = {name: np.full(label.array.shape, 0.25, np.float32) for name in case.images}
    terms = {name: np.stack([0 * one, one * (2 if name == "t1" else -4)]) for name, one in there.items()}
    usual = {"labels": label.array, "affine": label.affine, "modalities": case.modalities, "attention": there,
             "contributions": terms, "bias": np.array([0.0, 0.1]), "policy": "fused"}
    return SimpleNamespace(**usual | other)


def shown(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def letters(ax) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in ax.texts}


def test_the_uncertainty_is_drawn_in_the_range_of_all_classes():
    case = case_of()
    nats = np.where(brain()[1] > 0, 0.5, 0.1).astype(np.float32)
    axes = plots.uncertainty_map(case, prediction_of(case, uncertainty=nats), TASK)
    assert len(axes) == len(TASK.modalities) + 1
    assert axes[-1].images[0].get_clim() == (0, pytest.approx(np.log(TASK.classes)))
    assert {round(float(one), 2) for one in np.unique(shown(axes[-1]))} == {0.1, 0.5}
    with pytest.raises(ValueError, match="uncertainty=True"):
        plots.uncertainty_map(case, prediction_of(case, uncertainty=None), TASK)


def test_the_patients_right_is_on_the_left_and_the_front_at_the_top():
    ax = plots.case_slices(case_of(), TASK)[0]
    bright = np.argwhere(shown(ax) > 0.9).mean(axis=0)
    label = brain()[1]
    i, j = np.argwhere(label[..., LEVEL])[:, :2].mean(axis=0)
    assert bright == pytest.approx([j, SHAPE[0] - 1 - i])
    assert ax.images[0].origin == "lower"
    assert letters(ax)["R"][0] < letters(ax)["L"][0]
    assert letters(ax)["P"][1] < letters(ax)["A"][1]


@pytest.mark.parametrize("codes", ["LAS", "LPS", "PIR", "SAL"])
def test_the_order_of_the_axes_in_the_file_does_not_change_the_picture(codes):
    pictures = [shown(plots.case_slices(case_of(one), TASK)[0]) for one in ("RAS", codes)]
    np.testing.assert_allclose(*pictures)


def test_pixels_have_the_shape_of_voxels():
    left, right, bottom, top = plots.case_slices(case_of(), TASK)[0].images[0].get_extent()
    assert (right - left, top - bottom) == (SHAPE[0] * 2, SHAPE[1] * 1)


def test_the_slice_is_the_one_with_most_lesion():
    case = case_of()
    found = shown(plots.case_slices(case, TASK)[0])
    at = shown(plots.case_slices(case, TASK, at=(0, 0, LEVEL))[0])
    other = shown(plots.case_slices(case, TASK, at=(0, 0, 6))[0])
    np.testing.assert_array_equal(found, at)
    assert not np.array_equal(found, other)


def test_a_slice_of_a_sagittal_file_is_chosen_by_its_own_voxel():
    flipped = case_of("SAL")
    at = (LEVEL, 0, 0)
    np.testing.assert_allclose(shown(plots.case_slices(flipped, TASK, at=at)[0]),
                               shown(plots.case_slices(case_of(), TASK, at=(0, 0, LEVEL))[0]))


def test_a_modality_on_another_grid_is_shown_in_its_place():
    """A scan of half the resolution is interpolated: the lesion stays where it is, within a voxel."""
    image, label = brain()
    coarse = nib.Nifti1Image(image[::2, ::2], RAS @ np.diag([2, 2, 1, 1]))
    case = Case("a", {"t1": oriented(image, "RAS"), "flair": coarse}, oriented(label, "RAS"))
    fine, same = (np.argwhere(shown(ax) > 0.6).mean(axis=0) for ax in plots.case_slices(case, TASK))
    assert np.abs(fine - same).max() < 1


def test_a_modality_that_was_not_acquired_is_hatched_and_says_so():
    ax = plots.case_slices(case_of(modalities=("t1",)), TASK)[1]
    assert not ax.images
    assert ax.patches[0].get_hatch()
    assert "not acquired" in letters(ax)


def test_truth_and_prediction_are_told_apart():
    case = case_of()
    ax = plots.case_slices(case, TASK, prediction=prediction_of(case))[0]
    colours = {tuple(lines.get_edgecolor()[0]) for lines in ax.collections}
    assert len(colours) == 2
    assert [text.get_text() for text in ax.figure.legends[0].texts] == ["lesion, ground truth", "lesion, prediction"]


def test_every_region_has_a_colour_of_its_own():
    task = replace(TASKS["brats2021"], modalities=("t1", "flair"), intensities="mr", reference="t1")
    image, label = brain()
    label[9, 15, LEVEL] = 4
    case = Case("a", {"t1": oriented(image, "RAS")}, oriented(label, "RAS"))
    ax = plots.case_slices(case, task)[0]
    assert len({tuple(lines.get_edgecolor()[0]) for lines in ax.collections}) == 3


def test_a_contour_encloses_its_mask():
    ax = plots.case_slices(case_of(), TASK)[0]
    left, bottom, right, top = ax.collections[0].get_paths()[0].get_extents().extents
    assert (left, right) == (2 * (SHAPE[0] - 11), 2 * (SHAPE[0] - 8))
    assert (bottom, top) == (13, 18)


def test_a_case_without_lesion_is_shown_through_its_middle():
    image, label = brain()
    empty = Case("a", {"t1": oriented(image, "RAS")}, oriented(0 * label, "RAS"))
    bare = Case("a", {"t1": oriented(image, "RAS")})
    pictures = [shown(plots.case_slices(case, TASK, at=at)[0])
                for case, at in ((empty, None), (bare, None), (bare, (1, 1, SHAPE[2] // 2)))]
    np.testing.assert_array_equal(pictures[0], pictures[2])
    np.testing.assert_array_equal(pictures[1], pictures[2])


def test_ct_is_windowed_inside_the_body():
    hounsfield = np.full(SHAPE, -1000, np.float32)
    hounsfield[3:9, 5:15] = np.linspace(0, 100, 10)[None, :, None]
    case = Case("a", {"t1": nib.Nifti1Image(hounsfield, RAS)})
    picture = shown(plots.case_slices(case, replace(TASK, intensities="ct"))[0])
    assert np.unique(picture[5:15, 3:9]).size == 10
    assert picture[0, 0] == 0


@pytest.mark.parametrize("at", [(0, 0, SHAPE[2]), (-1, 0, 0), (0, 0)])
def test_a_voxel_outside_is_refused(at):
    with pytest.raises(ValueError, match="expected one inside"):
        plots.case_slices(case_of(), TASK, at=at)


def test_a_case_without_images_is_refused():
    with pytest.raises(DataError, match="case a: found no image"):
        plots.case_slices(Case("a", {}, case_of().label), TASK)


def test_given_axes_are_drawn_into_and_returned():
    axes = plt.subplots(1, 2)[1]
    assert list(plots.case_slices(case_of(), TASK, axes=axes)) == list(axes)
    with pytest.raises(ValueError, match="found 2 axes, expected 4"):
        plots.attention_maps(case_of(), prediction_of(case_of()), TASK, axes=axes)


def test_drawing_leaves_the_users_style_alone():
    before = dict(mpl.rcParams)
    plots.case_slices(case_of(), TASK)
    assert dict(mpl.rcParams) == before


def test_attention_has_one_range_from_zero_to_one():
    case = case_of()
    _, maps = plots.attention_maps(case, prediction_of(case), TASK)
    assert all(ax.images[0].get_clim() == (0, 1) for ax in maps)
    assert shown(maps[0]) == pytest.approx(0.25)
    assert [ax.get_ylabel() for ax in maps[0].figure.axes[4:]] == ["attention"]


def test_attention_of_a_modality_left_out_is_not_drawn():
    case = case_of()
    prediction = prediction_of(case, attention={}, modalities=("t1",))
    maps = plots.attention_maps(case, prediction, TASK)[1]
    assert "no attention" in letters(maps[0])
    assert "not used" in letters(maps[1])


def test_contributions_share_a_range_around_zero_and_add_up():
    case = case_of()
    first, second, total = axes = plots.contribution_maps(case, prediction_of(case), TASK, "lesion")
    assert len({ax.images[0].get_clim() for ax in axes}) == 1
    low, high = first.images[0].get_clim()
    assert low == -high == pytest.approx(-1)                           # flair argues with -4 * 0.25
    assert shown(total) == pytest.approx(shown(first) + shown(second) + 0.1)
    assert total.get_title() == "log-odds = sum + 0.10"
    assert axes[0].figure.axes[-1].get_ylabel() == "log-odds of lesion\nagainst background"


def test_where_both_scans_raise_the_tumour_over_the_background_the_map_is_red_in_both():
    """What a scan adds to all classes alike makes its own term of the tumour negative, and must not be seen."""
    case, random = case_of(), np.random.default_rng(0)
    alike = {name: random.normal(-5, 3, (1, *SHAPE)) for name in case.images}
    terms = {name: alike[name] + np.stack([np.zeros(SHAPE), random.uniform(0.1, 2, SHAPE)]) for name in case.images}
    assert np.mean([one[1] < 0 for one in terms.values()]) > 0.5
    for class_name, against, sign in (("lesion", None, 1), ("lesion", "everything else", 1), ("background", None, -1)):
        axes = plots.contribution_maps(case, prediction_of(case, contributions=terms), TASK, class_name,
                                       against=against)
        assert all((sign * shown(ax) > 0).all() for ax in axes[:2])
        red, _, blue, _ = axes[0].images[0].to_rgba(np.array([[sign * 2.0]]))[0, 0]
        assert (red > blue) == (sign > 0)


def test_a_region_stands_against_everything_else_and_it_is_said_that_this_is_not_linear():
    task = replace(TASKS["brats2021"], modalities=("t1", "flair"), intensities="mr", reference="t1")
    case, random = case_of(), np.random.default_rng(1)
    terms = {name: random.normal(0, 4, (4, *SHAPE)).astype(np.float32) for name in case.images}
    bias = np.array([0.5, -0.2, 0.3, 0.1])
    prediction = prediction_of(case, contributions=terms, bias=bias)
    first, second, total = plots.contribution_maps(case, prediction, task, "TC", at=(9, 15, LEVEL))
    logits = (sum(terms.values()) + bias[:, None, None, None])[:, ::-1, :, LEVEL]
    core, other = (np.log(np.exp(logits[list(k)]).sum(0)).T for k in ((1, 3), (0, 2)))
    np.testing.assert_allclose(shown(total), core - other, atol=2e-5)
    by_bias = np.log(np.exp(bias[[1, 3]]).sum() / np.exp(bias[[0, 2]]).sum())
    np.testing.assert_allclose(shown(first) + shown(second) + by_bias, core - other, atol=2e-5)
    assert "not linear" in total.figure.get_suptitle()
    assert "TC more likely than everything else" in total.figure.get_suptitle()


def test_of_a_network_trained_on_regions_a_region_is_the_sum_of_its_own_channel():
    task = replace(TASKS["brats2021"], modalities=("t1", "flair"), intensities="mr", reference="t1", train_on="regions")
    case, random = case_of(), np.random.default_rng(1)
    terms = {name: random.normal(0, 4, (3, *SHAPE)).astype(np.float32) for name in case.images}
    prediction = prediction_of(case, contributions=terms, bias=np.array([0.5, -0.2, 0.3]))
    *each, total = plots.contribution_maps(case, prediction, task, "TC", at=(9, 15, LEVEL))
    for ax, term in zip(each, terms.values(), strict=True):
        np.testing.assert_allclose(shown(ax), term[1, ::-1, :, LEVEL].T, atol=2e-5)
    np.testing.assert_allclose(shown(total), (sum(terms.values())[1, ::-1, :, LEVEL] - 0.2).T, atol=2e-5)
    assert "not linear" not in total.figure.get_suptitle()
    painted = plots.contribution_maps(case, prediction, task, at=(9, 15, LEVEL))[0].figure.get_suptitle()
    assert any(f"{region} more likely than everything else" in painted for region in task.regions)
    with pytest.raises(ValueError, match=r"prediction\.task"):
        plots.contribution_maps(case, prediction, replace(task, train_on="classes"), "TC")


def test_contributions_that_do_not_exist_are_refused():
    case = case_of()
    with pytest.raises(ValueError, match="no contributions"):
        plots.contribution_maps(case, prediction_of(case, contributions={}), TASK)
    with pytest.raises(ValueError, match="'tumour', expected one of background, lesion"):
        plots.contribution_maps(case, prediction_of(case), TASK, "tumour")


def test_answers_about_one_case_are_shown_in_one_slice_where_its_ground_truth_is_empty(monkeypatch):
    """One answer lies at level 2 and one at level 8; both are shown where the first has its lesion."""
    case = case_of()
    case = replace(case, label=nib.Nifti1Image(np.zeros(SHAPE, np.uint8), RAS))
    found = {}
    for level in (2, 8):
        there = np.zeros(SHAPE, np.uint8)
        there[4:7, 5:9, level] = 1
        found[f"at {level}"] = [prediction_of(case, labels=there)]
    planes = []
    monkeypatch.setattr(plots.slices, "image", lambda ax, view, modality: planes.append(view.plane.to_mm[2, 3]))
    plots.side_by_side([case], TASK, found)
    assert planes == [3.0 * 2] * 2


def test_where_the_ground_truth_is_empty_the_lesion_is_that_of_the_answer():
    """Its largest class there is the one whose contributions are shown."""
    three = Task("three", ("t1", "flair"), {"background": 0, "rim": 1, "core": 2})
    image, label = brain()
    case = Case("a", dict.fromkeys(three.modalities, oriented(image, "RAS")), nib.Nifti1Image(0 * label, RAS))
    view = View.of(case, three, SimpleNamespace(labels=2 * label, affine=RAS))
    assert (view.source, view.largest_class) == ("prediction", "core")
    np.testing.assert_array_equal(view.lesion.sum(), (label[:, :, LEVEL] > 0).sum())


def test_cases_are_rows_and_systems_columns():
    cases = phantoms.liver_phases(2, size=16)
    torch.manual_seed(0)
    network = build("maml", modalities=LIVER.modalities, classes=2, channels=(4, 6))
    predictor = Predictor(network, LIVER, (16, 16, 16))
    answers = {"venous alone": [predictor(case, "venous") for case in cases], "both": list(map(predictor, cases))}
    axes = plots.side_by_side(cases, LIVER, answers)
    assert axes.shape == (2, 2)
    assert axes[0, 0].get_title() == "venous alone\non venous"
    assert axes[1, 1].get_title() == "on arterial"
    assert axes[1, 0].get_ylabel() == cases[1].id
    with pytest.raises(ValueError, match=r"expected 2, one for each case"):
        plots.side_by_side(cases, LIVER, {"both": answers["both"][:1]})
    with pytest.raises(ValueError, match="expected 4"):
        plots.side_by_side(cases, LIVER, answers, axes=plt.subplots(1, 3)[1])


def test_a_published_scan_is_shown_upright(real_data):
    """BraTS is stored LPS; the eyes (here: the narrow end of the brain) are in front, so at the top."""
    folder = real_data / "brats2021_2mm" / "BraTS2021_00006"
    case = Case("00006", {name: folder / f"BraTS2021_00006_{name}.nii.gz" for name in ("t1", "flair")},
                folder / "BraTS2021_00006_seg.nii.gz")
    axes = plots.case_slices(case, TASKS["brats2021"])
    label = nib.as_closest_canonical(nib.load(case.label)).get_fdata()
    level = (label > 0).sum((0, 1)).argmax()
    x, y = np.argwhere(label[..., level] > 0).mean(axis=0) * 2 + 1
    extents = np.vstack([lines.get_paths()[0].get_extents().extents for lines in axes[0].collections])
    assert extents[:, 0].min() < label.shape[0] * 2 - x < extents[:, 2].max()
    assert extents[:, 1].min() < y < extents[:, 3].max()
    assert "not acquired" in letters(axes[1])


@pytest.mark.parametrize("shift", [1e-9, 0.02, 0.4])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_plane_a_fraction_of_a_voxel_off_shows_every_voxel_at_the_border(shift, sign):
    scan = Volume(np.full((6, 7, 8), 5, np.float32), np.diag([1.0, 1.5, 3.0, 1.0]))
    moved = scan.affine.copy()
    moved[:3, 3] = sign * shift * np.array([1, 1.5, 3])
    for level in (0, 21):
        plane = Plane.through((0, 0, level), Volume(scan.array, moved))
        assert (plane.cut(scan) == 5).all()
        assert (plane.cut(Volume(np.ones((6, 7, 8), np.uint8), scan.affine), order=0) == 1).all()
    far = Volume(scan.array, from_matvec(scan.affine[:3, :3], [0.6, 0, 0]))
    assert (Plane.through((0, 0, 0), scan).cut(far) == 0).any(0).sum() == 1      # more than half a voxel: one column


@pytest.mark.parametrize("size", [2, 8])
def test_a_mask_that_is_taken_as_it_is_is_seen_in_every_picture(size):
    mask = np.zeros((16, 16, 16), np.float32)
    mask[2:2 + size, 2:2 + size, 2:2 + size] = 1
    for shown in (brightness(mask, *window(mask, "none")), coded_image(mask, "none")[0] / 255,
                  greys(mask, "none") / 255):
        np.testing.assert_array_equal(shown, mask)


def test_zero_is_a_value_like_others_where_a_channel_is_taken_as_it_is():
    values = np.linspace(-5, 5, 11, dtype=np.float32).repeat(10).reshape(11, 10, 1)
    coded, facts = coded_image(values, "none")
    np.testing.assert_allclose(facts["low"] + facts["step"] * coded, values, atol=facts["step"])

"""One scan onto another: the mathematics of transforms, the refusals, whole cases, and elastix itself."""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case, find_cases
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.registration import (
    RECIPES,
    Recipe,
    Transform,
    cases,
    checks,
    register,
    register_case,
    register_cases,
    registered_in,
    registering,
    simulate_phase,
    worker,
)
from maml_toolkit.registration.registering import run_elastix
from maml_toolkit.system.errors import DataError

TASK = Task("two", ("flair", "t1"), {"background": 0, "lesion": 1})
TILTED = Rotation.from_euler("xyz", [10, -20, 15], degrees=True).as_matrix() @ np.diag([1.5, 2.0, 2.5])
OBLIQUE = nib.affines.from_matvec(TILTED, TILTED @ [-14, -14, -10])
"""The grid of (28, 28, 20) voxels around the origin, askew."""
TINY = {"MaximumNumberOfIterations": 60, "NumberOfSpatialSamples": 1500, "NumberOfResolutions": 2}


def head(shape=(32, 32, 32), affine=None, shift_mm=(0.0, 0.0, 0.0), seed=0) -> Volume:
    """Blobs in a ball, at the same place in millimetres on every grid; moved by a shift."""
    affine = nib.affines.from_matvec(np.eye(3) * 2, [-31.0] * 3) if affine is None else affine
    place = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)) - shift_mm
    random = np.random.default_rng(seed)
    values = 100 / (1 + np.exp((np.linalg.norm(place / [22, 26, 20], axis=-1) - 1) * 12))
    for centre, size, bright in zip(random.uniform(-12, 12, (12, 3)), random.uniform(3, 6, 12),
                                    random.uniform(-60, 120, 12), strict=True):
        values = values + bright * np.exp(-((place - centre) ** 2).sum(-1) / (2 * size**2))
    return Volume(values.astype(np.float32), affine)


def rigid(angles_degrees=(0, 0, 0), shift_mm=(0, 0, 0)) -> Transform:
    rotation = Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix()
    return Transform.linear(nib.affines.from_matvec(rotation, shift_mm))


def bent(amplitude_mm: float = 3.0) -> Transform:
    """A smooth B-spline over the head."""
    spline = sitk.BSplineTransformInitializer(sitk.Image([40] * 3, sitk.sitkUInt8), [4] * 3)
    spline.SetTransformDomainOrigin([-50.0] * 3)
    spline.SetTransformDomainPhysicalDimensions([100.0] * 3)
    spline.SetParameters(np.random.default_rng(1).normal(0, amplitude_mm, 3 * 7**3).tolist())
    return Transform(spline)


def followed(one: Transform, by: Transform) -> Transform:
    """Both, of which ITK applies the one that was added last first."""
    both = sitk.CompositeTransform([by.itk, one.itk])
    both.FlattenTransform()
    return Transform(both)


def points(number=20, seed=3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-25, 25, (number, 3))


def image(volume: Volume) -> nib.Nifti1Image:
    return nib.Nifti1Image(volume.array, volume.affine)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A program that runs in elastix's place."""
    def write(code: str) -> None:
        script = tmp_path / "stand_in.py"
        script.write_text("import json, os, sys, time, signal\nfolder = sys.argv[1]\n" + code, encoding="utf-8")
        monkeypatch.setattr(worker, "__file__", str(script))
    return write


ANSWER = """
shift = {shift}       # LPS
open(os.path.join(folder, "transform.tfm"), "w").write(chr(10).join((
    "#Insight Transform File V1.0", "#Transform 0", "Transform: TranslationTransform_double_3_3",
    "Parameters: " + " ".join(map(str, shift)), "FixedParameters:", "")))
"""


def test_a_rotation_by_hand():
    """90 degrees about the axis from foot to head: what was in front comes to lie on the patient's left (-x)."""
    turned = rigid((0, 0, 90), (1, 2, 3)).points(np.array([[0.0, 10.0, 5.0]]))
    assert turned == pytest.approx(np.array([[-10 + 1, 0 + 2, 5 + 3]]))


def test_points_that_go_there_come_back():
    transform = followed(rigid((5, -8, 12), (4, 5, -6)), by=bent())
    assert np.abs(transform.points(points()) - points()).max() > 2
    assert np.abs(transform.inverse_points(transform.points(points())) - points()).max() < 0.01


def test_a_transform_that_folds_cannot_be_inverted():
    with pytest.raises(DataError, match="inverted"):
        bent(60.0).inverse_points(points(60))


def test_a_grid_is_mapped_like_its_points():
    transform, grid = followed(rigid((5, 5, 5)), by=bent()), ((4, 5, 6), OBLIQUE)
    voxels = np.argwhere(np.ones(grid[0]))
    one_by_one = transform.points(nib.affines.apply_affine(OBLIQUE, voxels))
    assert transform.points_of_grid(grid).reshape(-1, 3) == pytest.approx(one_by_one)


@pytest.mark.parametrize("ending", [".tfm", ".txt"])
def test_a_saved_transform_is_the_same_when_loaded_and_itk_reads_it(tmp_path, ending):
    transform = followed(rigid((5, -8, 12), (4, 5, -6)), by=bent())
    transform.save(tmp_path / f"t1{ending}")
    assert [file.name for file in tmp_path.iterdir()] == [f"t1{ending}"]
    assert Transform.load(tmp_path / f"t1{ending}").points(points()) == pytest.approx(transform.points(points()))
    read = sitk.ReadTransform(str(tmp_path / f"t1{ending}"))
    assert read.TransformPoint((1, 2, 3)) == pytest.approx(transform.itk.TransformPoint((1, 2, 3)))


def test_files_that_are_no_transforms_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no transform")
    with pytest.raises(DataError) as caught:
        Transform.load(tmp_path / "notes.txt")
    assert (caught.value.path, bool(caught.value.remedy)) == (tmp_path / "notes.txt", True)
    with pytest.raises(ValueError, match=r"ends in \.tfm or \.txt"):
        Transform.identity().save(tmp_path / "t1.h5")


def test_apply_equals_simpleitk():
    moving, transform, grid = head(), rigid((4, 3, 2), (3, -2, 1)), head((20, 24, 16), OBLIQUE)
    direction = np.diag([-1, -1, 1]) @ OBLIQUE[:3, :3] / nib.affines.voxel_sizes(OBLIQUE)
    source = sitk.GetImageFromArray(moving.array.T)
    source.SetOrigin([31, 31, -31])
    source.SetSpacing([2, 2, 2])
    source.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    expected = sitk.Resample(source, [20, 24, 16], transform.itk, sitk.sitkLinear,
                             (np.diag([-1, -1, 1]) @ OBLIQUE[:3, 3]).tolist(),
                             nib.affines.voxel_sizes(OBLIQUE).tolist(), direction.ravel().tolist(), -5.0)
    result = transform.apply(moving, grid, outside=-5.0)
    np.testing.assert_allclose(result.array, sitk.GetArrayFromImage(expected).T, atol=1e-3)
    assert volumes.grid_difference(result, grid) is None


def test_a_label_keeps_its_values_and_its_type():
    label = Volume((head().array > 120).astype(np.uint8) * 4, head().affine)
    carried = rigid((4, 3, 2), (3, -2, 1)).apply(label, label, label=True)
    assert carried.array.dtype == np.uint8
    assert set(np.unique(carried.array)) == {0, 4}


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_the_order_of_the_axes_in_the_file_does_not_change_what_elastix_gets(codes):
    scan = head((20, 24, 16), OBLIQUE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(OBLIQUE), nib.orientations.axcodes2ornt(codes))
    stored = image(scan).as_reoriented(turn)
    one, other = (volume.canonical() for volume in (scan, Volume(stored.get_fdata(), stored.affine)))
    np.testing.assert_allclose(one.array, other.array)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-9)


def test_blocks_are_averaged_where_they_lie():
    """By hand: blocks of 2 x 1 x 1; the middle of voxels 0 and 1 is half a voxel further on."""
    scan = head((20, 24, 16), OBLIQUE)
    small = checks.shrunk(scan, 3.9)
    assert small.shape == (10, 24, 16)
    np.testing.assert_allclose(small.array[0], scan.array[:2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(nib.affines.apply_affine(small.affine, [0, 0, 0]),
                               nib.affines.apply_affine(OBLIQUE, [0.5, 0, 0]))


def test_mutual_information_by_hand():
    """Two fair coins: 1 if they are independent, 2 if one tells the other, whichever way round."""
    one, other = np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1])
    assert checks.normalised_mutual_information(one, other) == pytest.approx(1)
    assert checks.normalised_mutual_information(one, 1 - one) == pytest.approx(2)
    assert checks.normalised_mutual_information(one[:0], one[:0]) == 1


def test_measures_know_a_better_place():
    fixed, moving = head(), head(shift_mm=(6, 0, 0))
    before, after = checks.measured(fixed, moving, [Transform.identity(), rigid(shift_mm=(6, 0, 0))], "mr")
    assert after.nmi > before.nmi
    assert after.body_dice > 0.98 > before.body_dice
    assert after.jacobian_min == pytest.approx(1)
    assert (before.shift_mm, after.shift_mm) == (0, pytest.approx(6))


def test_a_fold_is_found_and_a_stretch_measured():
    stretched, folded = Transform.linear(np.diag([2.0, 1, 1, 1])), Transform.linear(np.diag([-1.0, 1, 1, 1]))
    measures = checks.measured(head(), head(), [stretched, folded], "mr")
    assert [one.jacobian_min for one in measures] == pytest.approx([2, -1])
    assert [one.folded for one in measures] == [0, 1]


GOOD = checks.Measures(1.2, 0.95, 1.0, shift_mm=5.0)


@pytest.mark.parametrize(("result", "words"), [
    (replace(GOOD, folded=0.02, jacobian_min=-0.3), r"folds in 2 % of the body .*-0\.30"),
    (replace(GOOD, covered=0.3), "covers 30 % of the fixed body, and without registration 100 %"),
    (replace(GOOD, covered=0.0), "covers 0 %"),
    (replace(GOOD, body_dice=0.5), r"Dice 0\.50 after registration and 0\.95 without"),
    (replace(GOOD, nmi=1.1), r"1\.1000 after registration and 1\.2000 without: worse than doing nothing"),
])
def test_what_is_worse_than_doing_nothing_is_refused_with_its_numbers(result, words):
    with pytest.raises(DataError, match=words):
        checks.check_result(GOOD, result, 3.0)


def test_scans_that_lay_on_one_another_may_lose_what_interpolation_takes():
    checks.check_result(GOOD, replace(GOOD, nmi=1.15, shift_mm=0.3), 3.0)


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda array: 0 * array, "every voxel of the moving scan is 0"),
    (lambda array: array[:, :, :1], r"the moving scan has the shape \(32, 32, 1\), expected three axes of at least 4"),
    (lambda array: np.where(array > 150, np.nan, array), "not finite"),
])
def test_scans_that_elastix_answers_with_a_crash_or_a_riddle_are_refused_before(spoil, words):
    scan = head()
    with pytest.raises(DataError, match=words):
        register(scan, Volume(spoil(scan.array), scan.affine))


@pytest.mark.parametrize(("code", "words"), [
    ("os.kill(os.getpid(), signal.SIGSEGV)", r"elastix died \(SIGSEGV\)"),
    ("open(folder + '/error.txt', 'w').write('Error: Too many samples map outside'); sys.exit(1)",
     "elastix failed: Error: Too many samples map outside"),
    ("sys.exit(3)", r'pip install -e "\.\[registration\]'),
    ("", "elastix failed: it said nothing"),
])
def test_an_elastix_that_dies_or_fails_is_reported_with_a_remedy(stand_in, code, words):
    stand_in(code)
    with pytest.raises(DataError, match=words) as refusal:
        register(head(), head())
    assert refusal.value.remedy


def test_an_elastix_that_hangs_is_stopped(stand_in, tmp_path):
    stand_in(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    with pytest.raises(DataError, match=r"\b2 seconds"):
        register(head(), head(), time_limit_s=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def test_elastix_runs_elsewhere_and_leaves_nothing_where_the_user_stands(stand_in, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    stand_in("open('IterationInfo.txt', 'w').write('dropped')" + ANSWER.format(shift=[-6, 0, 0]))
    assert register(head(), head(shift_mm=(6, 0, 0))).after.body_dice > 0.98
    assert Path.cwd() == here
    assert not list(here.iterdir())


def test_a_result_that_is_worse_is_refused_and_can_be_forced(stand_in):
    stand_in(ANSWER.format(shift=[12, 0, 0]))
    with pytest.raises(registering.Refused) as refusal:
        register(head(), head(shift_mm=(6, 0, 0)))
    assert refusal.value.registration.after.nmi < refusal.value.registration.before.nmi
    assert register(head(), head(shift_mm=(6, 0, 0)), force=True).after.nmi > 1


def test_scans_that_do_not_overlap_are_brought_together_first_and_it_is_said(stand_in, tmp_path):
    stand_in(f"import shutil; shutil.copy(folder + '/job.json', {str(tmp_path)!r})" + ANSWER.format(shift=[-400, 0, 0]))
    affine = head().affine + np.eye(4)[:, [0]] * [[0, 0, 0, 400]]
    result = register(head(), Volume(head().array, affine))
    assert "centres of the scans were brought together" in result.notes[0]
    assert result.before.covered == 0
    assert result.after.covered == 1
    _, first = json.loads((tmp_path / "job.json").read_text())["stages"][0]
    assert first["AutomaticTransformInitialization"] == ["true"]


def test_unknown_recipes_and_stages_are_refused():
    with pytest.raises(ValueError, match=r"'ct'.*\bmr, liver_phases"):
        register(head(), head(), "ct")
    with pytest.raises(ValueError, match="rigid, affine, bspline"):
        register(head(), head(), stages=("elastic",))


def test_a_recipe_becomes_lists_of_text():
    recipe = Recipe("mine", {"bspline": {"A": True, "B": (4, 2), "C": "x"}}, common={"A": 1, "D": 0.5})
    assert recipe.overrides() == [("bspline", {"A": ["true"], "D": ["0.5"], "B": ["4", "2"], "C": ["x"]})]


def test_a_bspline_has_a_grid_for_each_level():
    """elastix fails where its own schedule, for 4 levels, meets another number of them."""
    ((_, values),) = RECIPES["mr"].with_stages(["bspline"]).overrides()
    assert values["NumberOfResolutions"] == ["3"]
    assert values["GridSpacingSchedule"] == ["4", "2", "1"]
    assert "GridSpacingSchedule" not in Recipe("mine", {"bspline": {}}).overrides()[0][1]


def two_modalities(label_on: str = "flair") -> Case:
    """A case whose t1 lies 6 mm to the right, on another grid; its label was drawn on one of the two."""
    flair, t1 = head(), head((30, 30, 24), OBLIQUE, (6, 0, 0))
    owner = {"flair": flair, "t1": t1}[label_on]
    label = Volume((owner.array > 130).astype(np.int16), owner.affine)
    return Case("p1", {"flair": image(flair), "t1": image(t1)}, image(label), patient="p")


@pytest.fixture
def found_shift(monkeypatch):
    """In the place of elastix: a registration that knows the truth."""
    calls = []

    def known(fixed, moving, recipe, **_):
        calls.append(recipe.name)
        transform = rigid(shift_mm=(6, 0, 0))
        before, after = checks.measured(fixed, moving, [Transform.identity(), transform], recipe.kind)
        return registering.Registration(transform, before, after, recipe, 1.0)
    monkeypatch.setattr(cases, "register", known)
    return calls


def test_a_registered_case_is_found_again_on_one_grid(found_shift, tmp_path):
    case = two_modalities()
    result = register_case(case, TASK, tmp_path)
    again = find_cases(tmp_path, TASK)[0]
    assert dict(again.images) == dict(result.case.images)
    flair, t1 = (volumes.read(again.images[name]) for name in ("flair", "t1"))
    assert volumes.grid_difference(flair, t1) is None
    np.testing.assert_array_equal(flair.array, head().array)
    np.testing.assert_array_equal(volumes.read_label(again.label).array, np.asarray(case.label.dataobj))
    saved = Transform.load(result.folder / "transforms" / "t1.tfm")
    assert saved.points(np.zeros((1, 3))) == pytest.approx(np.array([[6.0, 0, 0]]))
    assert result.record()["modalities"]["t1"]["after"]["nmi"] > result.record()["modalities"]["t1"]["before"]["nmi"]


def test_a_label_drawn_on_another_modality_is_carried_with_its_transform(found_shift, tmp_path):
    result = register_case(two_modalities("t1"), replace(TASK, label_on="t1"), tmp_path)
    carried = volumes.read_label(result.case.label)
    truth = head().array > 130
    assert volumes.grid_difference(carried, head()) is None
    assert 2 * (truth & (carried.array > 0)).sum() / (truth.sum() + carried.array.sum()) > 0.8


def test_a_label_that_is_not_on_its_owners_grid_is_refused(found_shift, tmp_path):
    with pytest.raises(DataError, match="flair") as caught:
        register_case(two_modalities("t1"), TASK, tmp_path)
    assert caught.value.case == "p1"
    assert "t1" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_outside_of_a_ct_is_air_whatever_the_recipe_was_made_for(found_shift, tmp_path):
    far = Volume(head().array[:12] - 1000, head().affine)             # hardly half of the reference
    case, corner = Case("p1", {"flair": image(head()), "t1": image(far)}), (-1, 0, 0)
    made_for_mr = {"t1": RECIPES["mr"]}
    for at, (kind, recipe, air) in enumerate([("ct", "mr", -1024), ("mr", "liver_phases", 0),
                                              ("ct", made_for_mr, -1024)]):
        again = register_case(case, replace(TASK, intensities=kind), tmp_path / str(at), recipe)
        assert volumes.read(again.case.images["t1"]).array[corner] == air


def test_names_that_the_task_does_not_know_are_refused_before_anything_is_done(found_shift, tmp_path):
    other = two_modalities()
    for own in ("t1w", "pet"):              # the one is another spelling of t1, the other something else
        task = replace(TASK, modalities=("flair", own), intensities="mr")
        with pytest.raises(DataError) as caught:
            register_cases([other], task, tmp_path)
        assert (caught.value.case, caught.value.modality, bool(caught.value.remedy)) == ("p1", "t1", True)
    with pytest.raises(ValueError, match="T1X"):
        register_case(other, TASK, tmp_path, {"T1X": "mr"})
    assert found_shift == []


def test_stages_in_another_order_are_another_recipe(found_shift, tmp_path):
    stages = {"rigid": {}, "affine": {}}
    for one in (stages, dict([*stages.items()][::-1]), dict([*stages.items()][::-1])):
        register_case(two_modalities(), TASK, tmp_path, Recipe("mine", one))
    assert found_shift == ["mine", "mine"]


def test_a_case_without_its_reference_is_refused(tmp_path):
    case = Case("p1", {"t1": image(head())})
    with pytest.raises(DataError, match=r"flair.*t1") as caught:
        register_case(case, TASK, tmp_path)
    assert (caught.value.case, bool(caught.value.remedy)) == ("p1", True)


def test_a_case_that_was_done_is_done_again_only_with_other_inputs(found_shift, tmp_path):
    case = two_modalities()
    for _ in range(2):
        register_case(case, TASK, tmp_path)
    assert found_shift == ["mr"]
    changed = Case("p1", {**case.images, "t1": image(head(shift_mm=(5, 0, 0)))}, case.label)
    register_case(changed, TASK, tmp_path)
    register_case(changed, TASK, tmp_path, "liver_phases")
    assert found_shift == ["mr", "mr", "liver_phases"]


def test_what_is_said_of_a_registered_case_later_is_what_its_folder_says(found_shift, tmp_path):
    """Whose it is decides about folds; a patient that was corrected must not stay another's."""
    case = two_modalities()
    for facts in ({"patient": "p"}, {"patient": "q", "labelled": "lesion"}, {}):
        now = replace(case, **{"patient": None, **facts}, task=TASK)
        assert register_case(now, TASK, tmp_path).case.task is TASK
        (found,), (kept,) = find_cases(tmp_path, TASK), registered_in(tmp_path)
        for one in (found, kept.case):
            assert (one.patient, one.labelled) == (now.patient, now.labelled)
    assert found_shift == ["mr"]


def test_a_refused_modality_is_named_and_the_other_cases_go_on(found_shift, tmp_path, monkeypatch):
    good, bad = two_modalities(), Case("p2", {"flair": image(head()), "t1": image(head(seed=5))})
    known = cases.register

    def some(fixed, moving, recipe, **more):
        if volumes.grid_difference(fixed, moving) is None:
            raise registering.Refused("worse than doing nothing", "Leave it out.", known(fixed, moving, recipe))
        return known(fixed, moving, recipe, **more)
    monkeypatch.setattr(cases, "register", some)
    with pytest.raises(registering.Refused) as caught:
        register_cases([bad, good], TASK, tmp_path)
    assert (caught.value.case, caught.value.modality, bool(caught.value.remedy)) == ("p2", "t1", True)
    assert caught.value.registration.after.shift_mm == pytest.approx(6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p1", "registration.csv"]
    assert "nmi_after" in (tmp_path / "registration.csv").read_text()
    assert [case.id for case in find_cases(tmp_path, TASK)] == ["p1"]


def abdomen() -> tuple[Volume, Volume]:
    """A body in HU with a liver on the right, and the label of the liver."""
    affine = nib.affines.from_matvec(np.diag([-8.0, -8, 8]), [124, 124, -92])
    place = nib.affines.apply_affine(affine, np.moveaxis(np.indices((32, 32, 24)), 0, -1))
    body = np.linalg.norm(place / [100, 80, 300], axis=-1) < 1
    liver = np.linalg.norm((place - [40, 20, 0]) / [45, 40, 50], axis=-1) < 1
    array = gaussian_filter(np.where(body, 40.0, -1000) + 60 * liver, 0.5).astype(np.float32)
    return Volume(array, affine), Volume(liver.astype(np.uint8), affine)


def test_a_simulated_phase_says_so_and_knows_where_every_point_went(tmp_path):
    scan, label = abdomen()
    phase = simulate_phase(scan, label, seed=1, spacing_mm=(3.0, 4.0, 5.0))
    assert phase.volume.spacing_mm == pytest.approx((3.0, 4.0, 5.0))
    there = nib.affines.apply_affine(label.affine, np.argwhere(label.array)[::40])
    true = phase.true_points(there)
    assert np.abs(phase.to_acquired.points(true) - there).max() < 0.001
    assert 3 < np.linalg.norm(true - there, axis=1).mean() < 30
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(phase.label.affine), true)).astype(int)
    inside = ((index >= 0) & (index < phase.label.shape)).all(1)
    assert inside.mean() > 0.95
    assert phase.label.array[tuple(index[inside].T)].mean() > 0.9
    for path in phase.write(tmp_path, "p1_venous"):
        assert "simulated" in path.name
        assert b"simulated" in bytes(nib.load(path).header["descrip"])


TRANSFORMIX = """
import sys, itk
elastix = itk.ParameterObject.New()
elastix.ReadParameterFiles(sys.argv[2:])
transformix = itk.TransformixFilter[itk.Image[itk.F, 3]].New()
transformix.SetMovingImage(itk.image_from_array(__import__("numpy").zeros((4, 4, 4), "float32")))
transformix.SetTransformParameterObject(elastix)
transformix.SetFixedPointSetFileName("points.txt")
transformix.SetOutputDirectory(sys.argv[1])
transformix.UpdateLargestPossibleRegion()
"""


@pytest.fixture(scope="module")
def elastix_run(tmp_path_factory):
    """elastix itself, once: all three stages, on an oblique grid; the scans, what it found, and its folder."""
    fixed, moving = head((28, 28, 20), OBLIQUE), head(shift_mm=(5, -3, 2))
    stages = {"rigid": TINY, "affine": TINY, "bspline": {**TINY, "FinalGridSpacingInPhysicalUnits": 20,
                                                         "GridSpacingSchedule": (2, 1), "Metric1Weight": 1}}
    recipe, folder = replace(RECIPES["mr"], stages=stages), tmp_path_factory.mktemp("elastix")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registering, "TemporaryDirectory", lambda **_: nullcontext(folder))
        return fixed, moving, run_elastix(fixed, moving, recipe, recipe.overrides(), 300), folder


def test_points_are_mapped_as_by_transformix(elastix_run):
    """Oracle: transformix, for a rigid, an affine and a B-spline stage, one after the other."""
    *_, transform, folder = elastix_run
    maps = [folder / f"TransformParameters.{number}.txt" for number in range(3)]
    kinds = ("Euler3DTransform", "AffineTransform", "BSplineTransform")
    assert all(f"Transform: {kind}_" in one.with_suffix(".tfm").read_text()
               for kind, one in zip(kinds, maps, strict=True))
    listed = "\n".join(" ".join(f"{mm:.9f}" for mm in point) for point in points(40) * [-1, -1, 1])
    (folder / "points.txt").write_text(f"point\n40\n{listed}\n")
    subprocess.run([sys.executable, "-c", TRANSFORMIX, folder, *maps], cwd=folder, check=True, capture_output=True)
    lines = (folder / "outputpoints.txt").read_text().splitlines()
    expected = np.array([line.split("OutputPoint = [")[1].split("]")[0].split() for line in lines], float)
    assert np.abs(transform.points(points(40)) - expected * [-1, -1, 1]).max() < 1e-3


def test_elastix_finds_a_known_shift(elastix_run):
    fixed, moving, transform, _ = elastix_run
    inside = points(40) / 2
    assert np.linalg.norm(transform.points(inside) - inside - [5, -3, 2], axis=1).mean() < 0.5
    before, after = checks.measured(fixed, moving, [Transform.identity(), transform], "mr")
    checks.check_result(before, after, 3.0)


@pytest.mark.slow
def test_an_elastix_that_really_crashes_on_one_slice_leaves_this_process_alive():
    recipe, slice_ = RECIPES["mr"], Volume(head().array[:, :, 16:17], head().affine)
    with pytest.raises(DataError, match=r"elastix (died|failed)"):
        run_elastix(slice_, slice_, recipe, recipe.overrides(), 120)


def study(folder: Path, number: int, modality: str) -> Volume:
    return volumes.read(folder / f"{folder.name}_study{number}_{modality}.nii.gz")


def published(folder: Path, number: int, what: str) -> Transform:
    return Transform.load(folder / f"{folder.name}_study{number}_{what}.txt")


def correlation(one: Volume, other: Volume) -> float:
    return float(np.corrcoef(one.array.ravel(), other.array.ravel())[0, 1])


def points_in(scan: Volume) -> np.ndarray:
    small = checks.shrunk(scan, 6.0)
    return nib.affines.apply_affine(small.affine, np.argwhere(checks.body(small, "mr")))


@pytest.mark.parametrize(("patient", "with_it", "without"), [("patient01", 0.985, 0.857), ("patient12", 0.990, 0.838)])
def test_published_transforms_map_as_published(real_data, patient, with_it, without):
    """Reference answer: FLAIR of two dates on the grid of the label, with the transforms of Lesjak et al. 2016."""
    folder = real_data / "open_ms_longitudinal" / patient
    grid = volumes.read_label(folder / f"{patient}_changeseg.nii.gz")
    transforms = [published(folder, number, "FLAIR_to_common_space") for number in (1, 2)]
    scans = [study(folder, number, "flair") for number in (1, 2)]
    assert correlation(*(transform.apply(scan, grid) for transform, scan in zip(transforms, scans, strict=True))) \
        == pytest.approx(with_it, abs=5e-4)
    assert correlation(*(Transform.identity().apply(scan, grid) for scan in scans)) == pytest.approx(without, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("patient", ["patient01", "patient12"])
def test_two_dates_match_as_well_as_with_the_published_transforms(real_data, patient):
    """Date 1 goes to the label's grid with its published transform both times; date 2 with its own or with ours."""
    folder = real_data / "open_ms_longitudinal" / patient
    grid = volumes.read_label(folder / f"{patient}_changeseg.nii.gz")
    one, other = (study(folder, number, "flair") for number in (1, 2))
    to_one, to_other = (published(folder, number, "FLAIR_to_common_space") for number in (1, 2))
    result = register(one, other, "mr")
    first = to_one.apply(one, grid)
    ours = correlation(first, followed(to_one, by=result.transform).apply(other, grid))
    theirs = correlation(first, to_other.apply(other, grid))
    assert ours == pytest.approx(theirs, abs=5e-4) or ours > theirs
    assert result.after.nmi > result.before.nmi + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("patient", ["patient01", "patient12"])
@pytest.mark.parametrize(("modality", "theirs"), [("t1", "T1W"), ("t2", "T2W")])
def test_sequences_of_one_date_land_where_the_published_transforms_put_them(real_data, patient, number, modality,
                                                                           theirs):
    folder = real_data / "open_ms_longitudinal" / patient
    fixed, moving = study(folder, number, "flair"), study(folder, number, modality)
    known, found = published(folder, number, f"{theirs}_intrastudy_to_FLAIR"), register(fixed, moving, "mr").transform
    with_theirs, with_ours = checks.measured(fixed, moving, [known, found], "mr")
    assert with_ours.nmi > 0.99 * with_theirs.nmi
    there = points_in(fixed)
    assert np.linalg.norm(known.points(there) - found.points(there), axis=1).mean() < 1.5


@pytest.mark.slow
def test_a_simulated_phase_of_a_published_ct_comes_back(real_data):
    """Known B-spline and shift of 15 mm in the mean, another range, spacing and contrast: simulated, not acquired."""
    folder = real_data / "chaos_ct" / "chaos_ct_eval"
    scan = volumes.read(folder / "chaos_ct_eval_ct_portal.nii.gz")
    liver = volumes.read_label(folder / "chaos_ct_eval_seg.nii.gz")
    phase = simulate_phase(scan, liver, seed=1)
    inside = nib.affines.apply_affine(liver.affine, np.argwhere(liver.array > 0)[::997])
    true = phase.true_points(inside)
    assert np.linalg.norm(true - inside, axis=1).mean() > 10
    result = register(scan, phase.volume, "liver_phases")
    assert np.linalg.norm(result.transform.points(inside) - true, axis=1).mean() < 1.5
    carried = result.transform.apply(phase.label, scan, label=True).array > 0
    whole = Volume(np.ones_like(phase.label.array), phase.label.affine)
    covered = result.transform.apply(whole, scan, label=True).array > 0
    truth = (liver.array > 0) & covered
    assert 2 * (carried & truth).sum() / (carried.sum() + truth.sum()) > 0.96
    assert result.after.folded == 0

"""Which slices make a volume, and where it lies."""

import itertools
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import AXIAL, OBLIQUE, SAGITTAL, only, problem, rewrite

from maml_toolkit.dicom import find_series, read_series


def test_an_axial_series_has_the_affine_computed_by_hand(scan, export):
    values = scan()
    series = only(export)
    assert (series.kind, series.shape, series.problems) == ("CT", (12, 10, 8), ())
    # columns are 0.75 mm apart and run to the left (R-), rows 0.5 mm and run to the back (A-), slices 2.5 mm upwards
    np.testing.assert_allclose(series.affine, [[-0.75, 0, 0, 20], [0, -0.5, 0, 30], [0, 0, 2.5, 100], [0, 0, 0, 1]])
    volume = read_series(series)
    assert volume.array.dtype == np.int16
    assert volume.array[3, 5, 2] == int(values[2, 5, 3]) - 1024
    np.testing.assert_array_equal(volume.array, values.transpose(2, 1, 0).astype(int) - 1024)


def test_directions_that_differ_by_noise_are_one_volume(scan, export):
    noise = np.random.default_rng(0).normal(0, 1e-5, (8, 6))
    scan(origin=(900, -900, 100), step=(0, 0, 0.4), ImageOrientationPatient=tuple(
        [f"{value:.8f}" for value in AXIAL + one] for one in noise))
    assert only(export).problems == ()


def test_a_sagittal_series_has_the_affine_computed_by_hand(scan, export):
    scan(kind="MR", orientation=SAGITTAL, origin=(-10, -50, 60), step=(-3, 0, 0))
    # a row runs to the back, a column downwards, the normal to the right: what is in LPS (-1, 0, 0)
    np.testing.assert_allclose(only(export).affine, [[0, 0, 3, 10], [-0.75, 0, 0, 50], [0, -0.5, 0, 60], [0, 0, 0, 1]])


@pytest.mark.parametrize(("orientation", "step"), [
    (AXIAL, (0, 0, 2.5)), (AXIAL, (0, 0, -2.5)), (SAGITTAL, (-3, 0, 0)), (OBLIQUE, (0.96, -1.28, 1.2))])
def test_voxels_lie_where_simpleitk_puts_them(scan, export, orientation, step):
    scan(orientation=orientation, step=step)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(export)))
    image = reader.Execute()
    volume = read_series(only(export))
    for voxel in itertools.product(range(0, 12, 5), range(0, 10, 4), range(8)):
        lps = (volume.affine @ (*voxel, 1))[:3] * (-1, -1, 1)
        index = image.TransformPhysicalPointToIndex(lps.tolist())
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), lps, atol=1e-6)
        assert image[index] == volume.array[voxel]


def test_names_and_numbers_of_files_do_not_matter_only_positions(scan, export):
    values = scan()
    before = read_series(only(export))
    order = [3, 7, 0, 5, 1, 6, 2, 4]
    rewrite(export, lambda one, index: setattr(one, "InstanceNumber", order[index]))
    for index, path in enumerate(sorted(export.iterdir())):
        path.rename(export / f"IM{order[index]}")
    after = read_series(only(export))
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.array[0, 0, 0] == int(values[0, 0, 0]) - 1024


def test_a_series_from_head_to_foot_is_turned(scan, export):
    values = scan(origin=(-20, -30, 117.5), step=(0, 0, -2.5))
    volume = read_series(only(export))
    np.testing.assert_allclose(volume.affine[:3, 3], [20, 30, 100])
    np.testing.assert_array_equal(volume.array[..., 0], values[-1].T.astype(int) - 1024)


def test_the_distance_of_slices_is_that_of_their_positions(scan, export):
    scan(SliceThickness=5, SpacingBetweenSlices=4)
    assert read_series(only(export)).spacing_mm == (0.75, 0.5, 2.5)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even(scan, export):
    scan(step=(0, 0, 1.25))
    rewrite(export, lambda one, _: setattr(one, "ImagePositionPatient", [
        round(float(mm), 1) for mm in one.ImagePositionPatient]))
    assert only(export).problems == ()


def test_a_tilted_gantry_is_named_with_its_angle(scan, export):
    scan(step=(0, 2.5 * np.tan(np.radians(12)), 2.5))
    message = problem(export)
    assert "12.0 degrees" in message
    assert "dcm2niix" in message
    assert only(export).affine is None


def test_a_field_of_view_that_moves_is_named(scan, export):
    scan(slices=9, ImagePositionPatient=tuple([-20 + 3 * (index == 4), -30, 2.0 * index] for index in range(9)))
    assert "beside the line" in problem(export)


def test_missing_slices_are_named_with_their_positions(scan, export):
    scan(slices=12)
    for index in (4, 8, 9):
        (export / f"0-{index:03d}.dcm").unlink()
    message = problem(export)
    assert "3 slices are missing: found none at 110, 120, 122.5 mm" in message
    assert "every 2.5 mm" in message


def test_slices_at_two_distances_are_named(scan, export):
    scan(slices=6, ImagePositionPatient=tuple([0, 0, z] for z in (0, 1, 2, 3, 4.5, 6)))
    assert "1 to 1.5 mm apart" in problem(export)


@pytest.mark.parametrize("mark", [
    {"AcquisitionNumber": 2}, {"TemporalPositionIdentifier": 2}, {"EchoNumbers": 2}, {"TriggerTime": 400},
    {"AcquisitionTime": "101010"}, {"ImageType": ["DERIVED", "PRIMARY", "OP"]}])
def test_two_acquisitions_in_one_series_are_told_apart(scan, export, mark):
    first, second = scan(kind="MR"), scan(kind="MR", slices=7, origin=(-20, -30, 102.5), **mark)
    found = sorted(find_series(export), key=lambda series: -series.shape[2])
    assert [series.problems for series in found] == [(), ()]
    for series, values in zip(found, (first, second), strict=True):
        np.testing.assert_array_equal(read_series(series).array, values.transpose(2, 1, 0))
    assert len({series.name for series in found}) == 2
    assert {series.case for series in found} == {"case_001"}


def test_two_echoes_at_two_times_are_four_volumes(scan, export):
    for echo, number in itertools.product((1, 2), (1, 2)):
        scan(kind="MR", EchoNumbers=echo, AcquisitionNumber=number)
    assert [series.problems for series in find_series(export)] == [()] * 4


def test_volumes_whose_slices_each_have_a_time_are_told_apart_by_it(scan, export):
    values = [scan(kind="MR", AcquisitionTime=tuple(f"10{minute:02d}{second:02d}" for second in range(8)))
              for minute in (5, 6, 7)]
    found = find_series(export)
    assert [series.seconds for series in found] == [0, 60, 120]
    np.testing.assert_array_equal(read_series(found[1]).array, values[1].transpose(2, 1, 0))


@pytest.mark.parametrize("shift", [0.7, 1.25])
def test_acquisitions_that_lie_between_each_others_slices_are_told_apart(scan, export, shift):
    scan(AcquisitionNumber=1)
    scan(AcquisitionNumber=2, origin=(-20, -30, 100 + shift))
    assert [(series.shape[2], series.problems) for series in find_series(export)] == [(8, ()), (8, ())]


def test_rotations_with_numbers_of_their_own_stay_together(scan, export):
    scan(slices=12, AcquisitionNumber=tuple(index // 4 for index in range(12)))
    assert only(export).problems == ()


def test_a_position_that_comes_twice_for_no_reason_is_named(scan, export):
    scan()
    scan(slices=2)
    message = problem(export)
    assert "found 2 slices at a position that has one already, at 100, 102.5 mm" in message


def test_a_copy_of_a_file_is_not_a_second_slice(scan, export):
    scan()
    shutil.copytree(export, export / "copy")
    found = find_series(export)
    assert (len(found), found[0].problems, found.skipped) == (1, (), {"copies of a file": 8})


def test_a_scout_in_the_series_is_set_apart(scan, export):
    scan()
    scan(slices=1, orientation=(1, 0, 0, 0, 0, -1), values=np.ones((1, 20, 12), np.uint16))
    scout, volume = sorted(find_series(export), key=lambda series: series.shape[2])
    assert "found one slice" in str(scout.problems[0])
    assert (volume.shape, volume.problems) == ((12, 10, 8), ())

"""What was drawn, as SEG or RTSTRUCT, becomes a label map: where it was drawn and of the class that its name says."""

import nibabel as nib
import numpy as np
import pytest
from dicom_files import AXIAL, BRATS, OBLIQUE, SAGITTAL, filled, labelled, only, pydicom, write_structures
from matplotlib.path import Path as Polygon

from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.data.volumes import read_label as read_nifti
from maml_toolkit.dicom import convert, find_series, read_label, write_segmentation
from maml_toolkit.dicom.labels import inside
from maml_toolkit.system.errors import DataError, DataWarning

LIVER = TASKS["msd_liver"]


def to_mm(points, k):
    """Columns and rows of slice k as positions (LPS) in the series that the tests write, by its header."""
    return [(-20 + 0.75 * column, -30 + 0.5 * row, 100 + 2.5 * k) for column, row in points]


def box(left, top, right, bottom):
    """Corners of the pixels from (left, top) to (right, bottom), both included."""
    return [(left - 0.5, top - 0.5), (right + 0.5, top - 0.5), (right + 0.5, bottom + 0.5), (left - 0.5, bottom + 0.5)]


def classes(path, series, task=LIVER, **names):
    return task.encode(read_label(path, series, task, names).array)


@pytest.fixture
def structures(scan, export, tmp_path):
    """Writes an RTSTRUCT on a new series; returns it and the series."""
    def structures(rois, **elements):
        if not export.exists():
            scan()
        series = only(export)
        write_structures(tmp_path / "rt.dcm", series, rois, **elements)
        return tmp_path / "rt.dcm", series

    return structures


@pytest.mark.parametrize(("orientation", "step"), [
    (AXIAL, (0, 0, -2.5)), (SAGITTAL, (-3, 0, 0)), (OBLIQUE, (0.96, -1.28, 1.2))])
def test_a_segmentation_is_read_back_as_it_was_written(scan, export, tmp_path, orientation, step):
    scan(orientation=orientation, step=step)
    series = only(export)
    label = labelled(series)
    label.array[..., 3] = 0                             # a slice without a frame
    write_segmentation(tmp_path / "seg.dcm", label, series, BRATS)
    found = read_label(tmp_path / "seg.dcm", series, BRATS)
    np.testing.assert_array_equal(found.array, label.array)
    np.testing.assert_array_equal(found.affine, series.affine)


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP", "BINARY"])
def test_segmentations_that_highdicom_makes_are_read(scan, export, tmp_path, kind):
    highdicom = pytest.importorskip("highdicom")
    codes = pytest.importorskip("pydicom.sr.codedict").codes
    scan(FrameOfReferenceUID="1.2.3.5", StudyDate="", StudyTime="", PatientBirthDate="", PatientSex="",
         AccessionNumber="", StudyID="1", SliceThickness=2.5)
    series = only(export)
    drawn = np.random.default_rng(1).choice([0, 1, 2], (8, 10, 12)).astype(np.uint8)
    pixels = np.stack([drawn == 1, drawn == 2], -1) * 0.7 if kind == "FRACTIONAL" else drawn
    segments = [highdicom.seg.SegmentDescription(number, name, codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
                for number, name in enumerate(("LIVER", "lesion 1"), start=1)]
    highdicom.seg.Segmentation(
        [pydicom.dcmread(file) for file in series.files], pixels, kind, segments, highdicom.UID(), 1, highdicom.UID(),
        1, "m", "m", "1", "1", max_fractional_value=200).save_as(tmp_path / "seg.dcm")
    names = {"lesion_1": "cancer"}
    np.testing.assert_array_equal(classes(tmp_path / "seg.dcm", series, **names), drawn.transpose(2, 1, 0))


def test_a_contour_by_hand_fills_the_voxels_whose_centres_it_holds(structures):
    """Columns 2 to 5 and rows 3 to 7 of slice 3, and a second contour on the same slice."""
    path, series = structures({"Liver": [(to_mm(box(2, 3, 5, 7), 3)), to_mm(box(8, 0, 9, 1), 3),
                                         to_mm([(0.9, 0.9), (2.2, 0.9), (0.9, 2.2)], 4)]})
    expected = np.zeros((12, 10, 8), np.uint8)
    expected[2:6, 3:8, 3] = expected[8:10, 0:2, 3] = 1
    expected[1, 1, 4] = expected[2, 1, 4] = expected[1, 2, 4] = 1       # (2, 1) and (1, 2) lie just within the slope
    np.testing.assert_array_equal(classes(path, series), expected)


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_hole_is_empty_as_a_contour_of_its_own_and_by_a_keyhole(structures, kind):
    outer, hole = box(1, 1, 8, 8), box(3, 4, 5, 6)
    # from a corner of the outer one, through a channel of no width, around the hole and back by the same way
    keyhole = [*outer, outer[0], *hole, hole[0], outer[0]]
    path, series = structures({"liver": [to_mm(outer, 2), to_mm(hole, 2), to_mm(keyhole, 5)]}, kind=kind)
    expected = np.zeros((12, 10, 8), np.uint8)
    expected[1:9, 1:9, [2, 5]] = 1
    expected[3:6, 4:7, [2, 5]] = 0
    found = classes(path, series)
    assert found.sum() == 2 * (64 - 9)
    np.testing.assert_array_equal(found, expected)


def test_a_contour_that_stands_twice_is_no_hole(structures):
    path, series = structures({"liver": [to_mm(box(2, 3, 5, 7), 3)] * 2})
    assert np.argwhere(classes(path, series)).shape == (4 * 5, 3)


def test_a_contour_that_leaves_the_image_is_cut_at_its_border(structures):
    path, series = structures({"liver": [to_mm(box(-5, -4, 2, 3), 0), to_mm(box(9, 7, 30, 40), 7)]})
    expected = np.zeros((12, 10, 8), np.uint8)
    expected[:3, :4, 0] = expected[9:, 7:, 7] = 1
    np.testing.assert_array_equal(classes(path, series), expected)


@pytest.mark.parametrize("seed", range(20))
def test_the_inside_of_any_polygon_is_the_one_that_matplotlib_finds(seed):
    random = np.random.default_rng(seed)
    polygons = [random.uniform(-3, 33, (random.integers(3, 30), 2)) for _ in range(seed % 3 + 1)]
    pixels = np.stack(np.meshgrid(np.arange(30), np.arange(25), indexing="ij"), -1).reshape(-1, 2)
    expected = np.zeros(len(pixels), bool)
    for corners in polygons:
        expected ^= Polygon(np.vstack([corners, corners[:1]]), closed=True).contains_points(pixels)
    np.testing.assert_array_equal(inside(polygons, (30, 25)), expected.reshape(30, 25))
    assert 0 < expected.sum() < len(pixels)


def test_a_contour_lies_on_the_slice_of_its_position_in_any_orientation(scan, export, tmp_path):
    scan(orientation=OBLIQUE, step=(0.96, -1.28, 1.2))
    series = only(export)
    source = pydicom.dcmread(series.files[6])
    row, column = np.reshape(source.ImageOrientationPatient, (2, 3))
    points = [np.array(source.ImagePositionPatient) + 0.75 * i * row + 0.5 * j * column for i, j in box(4, 2, 6, 8)]
    write_structures(tmp_path / "rt.dcm", series, {"cancer": [np.round(points, 2)]})
    expected = np.zeros(series.shape, np.uint8)
    expected[4:7, 2:9, 6] = 2
    np.testing.assert_array_equal(classes(tmp_path / "rt.dcm", series), expected)


def test_contours_become_the_voxels_that_dcmrtstruct2nii_finds(scan, export, tmp_path):
    """From positions in mm to voxels, on slices that GDCM orders; stars with a hole each, two on some slices."""
    converting = pytest.importorskip("dcmrtstruct2nii.adapters.convert.rtstructcontour2mask")
    sitk = pytest.importorskip("SimpleITK")
    scan(orientation=OBLIQUE, step=(0.96, -1.28, 1.2), values=np.random.default_rng(0).integers(
        0, 2000, (8, 60, 70)).astype(np.uint16))
    series, random, contours = only(export), np.random.default_rng(1), []
    for k in random.integers(0, 8, 12):
        source = pydicom.dcmread(series.files[k])
        row, column = np.reshape(source.ImageOrientationPatient, (2, 3))
        angles, centre = np.sort(random.uniform(0, 2 * np.pi, 40)), random.uniform((20, 15), (50, 45))
        for size in (14, 5):
            points = centre + size * random.uniform(0.6, 1, (40, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
            contours.append(np.round([np.array(source.ImagePositionPatient) + 0.75 * i * row + 0.5 * j * column
                                      for i, j in points], 3))
    write_structures(tmp_path / "rt.dcm", series, {"liver": contours})
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(export)))
    image = reader.Execute()
    expected = sitk.GetArrayFromImage(converting.DcmPatientCoords2Mask().convert(
        [{"type": "CLOSED_PLANAR", "points": dict(zip("xyz", points.T.tolist(), strict=True))} for points in contours],
        image, 0, 1)).transpose(2, 1, 0)
    if not np.allclose(image.GetOrigin(), series.affine[:3, 3] * (-1, -1, 1), atol=1e-3):
        expected = expected[..., ::-1]
    assert expected.sum() > 2000
    np.testing.assert_array_equal(classes(tmp_path / "rt.dcm", series), expected)


def test_a_tumour_in_an_organ_is_a_tumour_and_that_is_said(structures):
    path, series = structures({"Cancer": [to_mm(box(2, 2, 3, 3), 1)], "liver": [to_mm(box(0, 0, 5, 5), 1)]})
    with pytest.warns(DataWarning, match=r"\b4 voxels\b"):
        found = classes(path, series)
    assert np.bincount(found.ravel()).tolist() == [960 - 36, 32, 4]


def test_several_rois_are_one_class_and_what_is_none_is_left_out_by_name(structures):
    path, series = structures({"GTV-1": [to_mm(box(0, 0, 1, 1), 1)], "GTV 2": [to_mm(box(5, 5, 5, 5), 1)],
                               "BODY": [to_mm(box(0, 0, 9, 9), 1)], "empty": []})
    found = classes(path, series, **{"gtv 1": "cancer", "GTV-2": "cancer", "body": ""})
    assert np.bincount(found.ravel(), minlength=3).tolist() == [955, 0, 5]


def test_a_name_that_is_no_class_is_refused_with_all_others_and_the_nearest(structures):
    path, series = structures({"livre": [to_mm(box(0, 0, 1, 1), 1)], "BODY": [to_mm(box(0, 0, 9, 9), 1)]})
    with pytest.raises(DataError) as caught:
        read_label(path, series, LIVER)
    assert "'livre' (did you mean 'liver'?), 'BODY'" in str(caught.value)
    assert "liver, cancer" in str(caught.value)
    with pytest.raises(DataError, match="classes"):
        read_label(path, series, LIVER, {"livre": "", "BODY": ""})


def test_what_does_not_lie_on_the_slices_is_refused(structures, scan, export, tmp_path):
    between = to_mm(box(0, 0, 1, 1), 1.5)
    tilted = [(*point[:2], point[2] + 2 * (number > 1)) for number, point in enumerate(to_mm(box(0, 0, 1, 1), 1))]
    for points in (between, tilted, to_mm(box(0, 0, 1, 1), 8)):
        with pytest.raises(DataError, match="does not lie on a slice"):
            read_label(*structures({"liver": [points]}), LIVER)
    with pytest.raises(DataError, match="POINT"):
        read_label(*structures({"liver": [to_mm([(1, 1)], 1)]}, kind="POINT"), LIVER)
    series = only(export)
    write_segmentation(tmp_path / "seg.dcm", labelled(series), series, BRATS)
    for other in ({"PixelSpacing": [0.5, 0.5]}, {"origin": (-20, -30, 101)}, {"origin": (-23, -30, 100)}):
        scan(folder=str(other), SeriesInstanceUID="1.2.3.9", **other)
        with pytest.raises(DataError, match=r"slices|outside"):
            read_label(tmp_path / "seg.dcm", only(tmp_path / str(other)), BRATS)


def test_slices_between_contours_stay_empty_and_that_is_said(structures):
    path, series = structures({"liver": [to_mm(box(0, 0, 1, 1), k) for k in (1, 4, 7)]})
    with pytest.warns(DataWarning, match="every 3. slice"):
        assert np.unique(np.nonzero(classes(path, series))[2]).tolist() == [1, 4, 7]


def test_what_was_drawn_on_another_patient_is_refused(structures, scan, tmp_path):
    path, _ = structures({"liver": [to_mm(box(0, 0, 1, 1), 1)]})
    scan(folder="other", FrameOfReferenceUID="9.9")
    with pytest.raises(DataError, match="frame of reference"):
        read_label(path, only(tmp_path / "other"), LIVER)


def test_a_file_that_is_no_drawing_is_refused(scan, export, tmp_path):
    scan()
    series = only(export)
    (tmp_path / "text.dcm").write_text("no")
    for path, words in ((series.files[0], "CT Image Storage"), (tmp_path / "text.dcm", "no DICOM"),
                        (tmp_path / "none.dcm", "cannot be read")):
        with pytest.raises(DataError, match=words) as caught:
            read_label(path, series, LIVER)
        assert str(path) in str(caught.value)


def test_drawings_of_an_export_become_the_labels_of_its_cases(scan, export, tmp_path):
    """Two studies; RTSTRUCT of one beside its images, SEG of the other, both told by the images they refer to."""
    for number in (1, 2):
        scan(SeriesInstanceUID=f"1.5.{number}", StudyInstanceUID=f"1.6.{number}", PatientID=str(number), prefix=number)
    series = find_series(export)
    drawn = Volume(np.random.default_rng(0).choice([0, 1, 2], series[1].shape).astype(np.uint8), series[1].affine)
    write_structures(export / "rt.dcm", series[0], {"Liver": [to_mm(box(2, 3, 5, 7), 3)]})
    write_segmentation(export / "seg.dcm", drawn, series[1], LIVER)
    table = filled(series, tmp_path / "series.csv", ["ct", "ct"], LIVER)
    one, two = convert(export, table, tmp_path / "cases", LIVER, labels=export)
    assert (one.id, two.id) == ("case_001", "case_002")
    assert read_nifti(one.label).array.sum() == 20
    np.testing.assert_array_equal(read_nifti(two.label).array, drawn.array)
    np.testing.assert_allclose(nib.load(two.label).affine, nib.load(two.images["ct"]).affine)
    (export / "more").mkdir()
    write_segmentation(export / "more" / "seg.dcm", drawn, series[1], LIVER)
    with pytest.raises(DataError, match="two drawings of one case"):
        convert(export, table, tmp_path / "again", LIVER, labels=export)
    with pytest.raises(DataError, match=r"SEG\b.*RTSTRUCT"):
        convert(export, table, tmp_path / "again", LIVER, labels=tmp_path / "cases")
    damaged = export / "more" / "cut.dcm"
    damaged.write_bytes((export / "rt.dcm").read_bytes()[:900])
    (export / "more" / "seg.dcm").rename(tmp_path / "seg.dcm")
    with pytest.raises(DataError, match=r"cut\.dcm"):
        convert(export, table, tmp_path / "again", LIVER, labels=export)
    table = filled(series, tmp_path / "one.csv", ["ct", ""], LIVER)
    with pytest.raises(DataError, match="none of the series"):
        convert(export, table, tmp_path / "again", LIVER, labels=tmp_path / "seg.dcm")
    assert not (tmp_path / "again").exists()


def test_of_several_series_the_one_on_which_the_task_says_the_label_was_drawn_counts(scan, export, tmp_path):
    """Two series whose slices lie between each other's, and contours on those of the first."""
    for number in (1, 2):
        scan(SeriesInstanceUID=f"1.5.{number}", prefix=number, origin=(-20, -30, 100 + number))
    series = find_series(export)
    shift = pydicom.dcmread(series[0].files[0]).ImagePositionPatient[2] - 100
    points = [(x, y, z + shift) for x, y, z in to_mm(box(2, 3, 5, 7), 3)]
    table = filled(series, tmp_path / "series.csv", ["arterial", "venous"])

    def converted(label_on, others):
        write_structures(tmp_path / "rt.dcm", series[0], {"tumour": [points]}, others=others)
        task = Task("two", ("arterial", "venous"), {"background": 0, "tumour": 1}, intensities="ct", label_on=label_on)
        (case,) = convert(export, table, tmp_path / f"{label_on}{len(others)}", task, labels=tmp_path / "rt.dcm")
        return case

    for case in (converted("arterial", series[1:]), converted("venous", [])):
        label = nib.load(case.label)
        assert np.asanyarray(label.dataobj).sum() == 20
        np.testing.assert_allclose(label.affine, nib.load(case.images["arterial"]).affine)
    with pytest.raises(DataError, match="does not lie on a slice"):
        converted("venous", series[1:])

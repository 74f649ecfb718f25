import csv
import gzip
import importlib
import itertools
import shutil
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from maml_toolkit.data.cases import find_cases
from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.dicom import convert, find_series, read_series, write_segmentation, write_series_table
from maml_toolkit.dicom.identity import without_identity
from maml_toolkit.system.errors import DataError, DataWarning

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

LIVER, BRATS = TASKS["liver_phases"], TASKS["brats2021"]
AXIAL, SAGITTAL, OBLIQUE = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, -0.36, 0.48, 0.8)
SOP_CLASSES = {kind: f"1.2.840.10008.5.1.4.1.1.{number}" for kind, number in (
    ("CT", "2"), ("MR", "4"), ("PT", "128"), ("SR", "88.22"), ("enhanced CT", "2.1"))}
RESCALED = {"CT": {"RescaleSlope": 1, "RescaleIntercept": -1024}}
PLANTED = {"PatientName": "Zwetschgenknödel^Quirin", "PatientID": "PID4711XY", "PatientBirthDate": "19330711",
           "StudyDate": "20190223", "AcquisitionDate": "20190223", "InstitutionName": "Klinikum Hinterholz",
           "AccessionNumber": "ACC0815", "PatientSex": "O", "ReferringPhysicianName": "Obermayr^Xaver"}


def header(kind="CT", **elements):
    """A DICOM object of twelve columns and ten rows without voxels."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = SOP_CLASSES[kind]
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = pydicom.uid.generate_uid()
    one.SpecificCharacterSet = "ISO_IR 192"
    usual = {"Modality": kind[-2:], "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4",
             "FrameOfReferenceUID": "1.2.3.5", "PatientID": "P", "PatientName": "", "Rows": 10, "Columns": 12,
             "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
             "HighBit": 15, "PixelRepresentation": 0, "PixelSpacing": [0.5, 0.75], "ImageOrientationPatient": [*AXIAL]}
    for name, value in {**usual, **RESCALED.get(kind, {}), **elements}.items():
        if value is not None:
            setattr(one, name, value)
    return one


@pytest.fixture
def scan(tmp_path):
    """Writes a series, one file a slice, and returns its voxels, (slices, rows, columns)."""
    seeds = itertools.count()

    def scan(folder="export", slices=8, kind="CT", orientation=AXIAL, origin=(-20, -30, 100), step=(0, 0, 2.5),
             values=None, prefix=None, **elements):
        place, seed = tmp_path / folder, next(seeds)
        place.mkdir(parents=True, exist_ok=True)
        if values is None:
            values = np.random.default_rng(seed).integers(0, 2000, (slices, 10, 12)).astype(np.uint16)
        for index, voxels in enumerate(values):
            at = {name: value[index] if isinstance(value, tuple) else value for name, value in elements.items()}
            one = header(kind, **{"ImageOrientationPatient": list(orientation), "InstanceNumber": index + 1,
                                  "ImagePositionPatient": [a + index * b for a, b in zip(origin, step, strict=True)],
                                  "Rows": voxels.shape[0], "Columns": voxels.shape[1], **at})
            one.PixelData = voxels.tobytes()
            one.save_as(place / f"{prefix or seed}-{index:03d}.dcm", enforce_file_format=True)
        return np.array(values)

    return scan


@pytest.fixture
def export(tmp_path):
    return tmp_path / "export"


def only(folder):
    series = find_series(folder)
    assert len(series) == 1
    return series[0]


def problem(folder):
    """The one problem of the one series, which has a remedy and cannot be read past."""
    series = only(folder)
    (error,) = series.problems
    assert error.remedy
    with pytest.raises(DataError) as caught:
        read_series(series)
    return str(caught.value)


def rewrite(folder, change):
    """Change the headers of all files, by their order of name."""
    for index, path in enumerate(sorted(folder.iterdir())):
        one = pydicom.dcmread(path)
        change(one, index)
        one.save_as(path)


def filled(series, path, modalities, task=LIVER):
    """A table in which a person has given these modalities, by the order of rows."""
    write_series_table(series, path, task)
    rows = rows_of(path)
    for row, modality in zip(rows, modalities, strict=True):
        row["modality"] = modality
    return saved(path, rows)


def rows_of(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [*csv.DictReader(file)]


def saved(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def refusal(*arguments):
    with pytest.raises(DataError) as caught:
        convert(*arguments)
    assert all(error.remedy for error in caught.value.errors)
    return str(caught.value)


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


def test_every_slice_has_its_own_slope_and_intercept(scan, export):
    slopes = tuple(0.5 + index for index in range(8))
    values = scan(kind="PT", RescaleSlope=slopes, RescaleIntercept=tuple(range(8)))
    array = read_series(only(export)).array
    assert array.dtype == np.float32
    expected = values * np.array(slopes)[:, None, None] + np.arange(8)[:, None, None]
    np.testing.assert_allclose(array, expected.transpose(2, 1, 0))


def test_signed_voxels_keep_their_sign_whatever_the_unused_bits_hold(scan, export):
    values = np.random.default_rng(0).integers(-2000, 2000, (8, 10, 12)).astype(np.int16)
    scan(values=values & 0x0FFF, PixelRepresentation=1, BitsStored=12, HighBit=11, RescaleIntercept=0)
    np.testing.assert_array_equal(read_series(only(export)).array, values.transpose(2, 1, 0))


def test_unsigned_voxels_that_do_not_fit_become_floats(scan, export):
    scan(kind="MR", values=np.full((8, 10, 12), 60000, np.uint16))
    array = read_series(only(export)).array
    assert array.dtype == np.float32
    assert (array == 60000).all()


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_of_a_ct_becomes_air_even_where_its_sign_is_lost(scan, export, padding):
    values = np.full((8, 10, 12), 40, np.int16)
    values[:, :3] = -2000
    scan(values=values, PixelRepresentation=1, RescaleIntercept=0)

    def pad(one, index):
        one.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)

    rewrite(export, pad)
    array = read_series(only(export)).array
    assert (array[:, :3] == -1024).all()
    assert (array[:, 3:] == 40).all()


def test_a_range_of_padding_becomes_air(scan, export):
    scan(values=np.full((8, 10, 12), 5, np.uint16), PixelPaddingValue=0, PixelPaddingRangeLimit=7, RescaleIntercept=0)
    assert (read_series(only(export)).array == -1024).all()


def test_files_without_a_preamble_are_read(scan, export):
    before = scan()
    for path in export.iterdir():
        one = pydicom.dcmread(path)
        del one.file_meta, one.preamble
        pydicom.dcmwrite(path, one, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[:2] == b"\x08\x00"
    np.testing.assert_array_equal(read_series(only(export)).array, before.transpose(2, 1, 0).astype(int) - 1024)


def test_compressed_voxels_are_read_where_a_decoder_is_there(scan, export):
    before = scan()
    rewrite(export, lambda one, _: one.compress(pydicom.uid.RLELossless))
    np.testing.assert_array_equal(read_series(only(export)).array, before.transpose(2, 1, 0).astype(int) - 1024)


def test_compressed_voxels_without_a_decoder_name_the_package(scan, export, monkeypatch):
    scan()

    def claim(one, _):
        one.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        one.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1

    rewrite(export, claim)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    message = problem(export)
    assert "pip install pylibjpeg pylibjpeg-libjpeg" in message
    assert "8 of 8 slices" in message


def test_voxels_that_cannot_be_decoded_are_refused_with_their_file(scan, export):
    scan()
    rewrite(export, lambda one, _: one.compress(pydicom.uid.RLELossless))
    path = export / "0-003.dcm"
    path.write_bytes(path.read_bytes()[:-120])
    with pytest.raises(DataError, match=r"0-003\.dcm.*cannot be decoded"):
        read_series(only(export))


def test_a_truncated_file_is_named(scan, export):
    scan()
    path = export / "0-003.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    message = problem(export)
    assert "found 220 bytes, expected 240 (in 1 of 8 slices)" in message
    assert "0-003.dcm" in message


def test_a_file_that_ends_in_its_header_is_warned_of_and_leaves_a_gap(scan, export):
    scan()
    path = export / "0-003.dcm"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.warns(DataWarning, match=r"0-003\.dcm"):
        series = only(export)
    assert "1 slices are missing" in str(series.problems[0])


def test_a_file_that_ends_before_its_voxels_is_named(scan, export):
    scan()
    rewrite(export, lambda one, index: index == 3 and one.__delattr__("PixelData"))
    assert "no voxels behind the header" in problem(export)


@pytest.mark.parametrize(("elements", "words"), [
    ({"ImagePositionPatient": None}, "ImagePositionPatient missing"),
    ({"ImageOrientationPatient": None}, "ImageOrientationPatient missing"),
    ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "ImageOrientationPatient missing or not usable"),
    ({"PixelSpacing": None}, "PixelSpacing missing"),
    ({"RescaleIntercept": None}, "RescaleIntercept missing"),
    ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "a colour image"),
    ({"NumberOfFrames": 8}, "enhanced multi-frame"),
])
def test_what_the_header_lacks_is_named(scan, export, elements, words):
    scan(**elements)
    assert words in problem(export)


def test_an_enhanced_object_is_named_with_the_way_out(scan, export):
    scan(slices=1, kind="enhanced CT", NumberOfFrames=40)
    message = problem(export)
    assert "dcm2niix" in message
    assert only(export).shape == (12, 10, 40)


def test_what_is_no_image_is_skipped_and_counted(scan, export):
    scan()
    (export / "readme").write_text("not an image")
    (export / "half.bin").write_bytes(b"\x08\x00" + bytes(range(256)))
    header("SR").save_as(export / "report", enforce_file_format=True)
    found = find_series(export)
    assert len(found) == 1
    assert found.skipped == {"not DICOM": 2, "Enhanced SR Storage": 1}


def test_a_folder_without_images_says_what_it_holds(export, tmp_path):
    export.mkdir()
    with pytest.raises(DataError, match="among 0 files"):
        find_series(export)
    (export / "scan.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"1 not DICOM.*\n.*unpack") as caught:
        find_series(str(export))
    assert caught.value.path == export
    with pytest.raises(DataError, match="found no folder"):
        find_series(tmp_path / "elsewhere")


def test_without_pydicom_the_way_to_install_it_is_said(export, monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ImportError, match=r"maml_toolkit\[dicom\]"):
        find_series(export)


def test_folders_may_have_any_names_and_are_not_modified(scan, tmp_path):
    scan(folder="export/Lebér 患者/ä b")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "export").rglob("*.dcm")}
    table = filled(find_series(tmp_path / "export"), tmp_path / "tüte.csv", ["arterial"])
    convert(tmp_path / "export", table, tmp_path / "fälle", LIVER)
    files = [path for path in (tmp_path / "export").rglob("*") if path.is_file()]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before


@pytest.fixture
def phases(scan, export):
    """Three phases of a liver; only the last one says what it is."""
    def phases(last="Leber portal venous", **elements):
        for number, (time, text) in enumerate([("1000", "Leber"), ("1030", "Leber"), ("1100", last)], start=1):
            scan(slices=5 + number, SeriesInstanceUID=f"1.2.3.{number}", SeriesDescription=text, origin=(0, 0, number),
                 AcquisitionTime=f"{time}00", **elements)
        return find_series(export)

    return phases


def test_the_table_says_what_was_found_and_confirms_nothing(phases, tmp_path):
    write_series_table(phases(), tmp_path / "series.csv", LIVER)
    rows = rows_of(tmp_path / "series.csv")
    assert [(row["seconds"], row["slices"], row["size"], row["spacing_mm"]) for row in rows] == [
        ("0", "6", "12x10x6", "0.75x0.5x2.5"), ("1800", "7", "12x10x7", "0.75x0.5x2.5"),
        ("3600", "8", "12x10x8", "0.75x0.5x2.5")]
    assert {(row["case"], row["patient"], row["kind"], row["problem"], row["modality"]) for row in rows} == {
        ("case_001", "patient_001", "CT", "", "")}
    assert [row["description"] for row in rows] == ["Leber", "Leber", "Leber portal venous"]


def test_words_suggest_a_phase_and_order_the_rest_where_the_numbers_agree(phases, export, tmp_path):
    write_series_table(phases(), tmp_path / "three.csv", LIVER)
    assert [row["suggested"] for row in rows_of(tmp_path / "three.csv")] == ["", "", "venous"]
    three = Task("three", ("plain", "art", "pv"), LIVER.labels, intensities="ct")
    write_series_table(find_series(export), tmp_path / "order.csv", three)
    assert [row["suggested"] for row in rows_of(tmp_path / "order.csv")] == ["plain", "art", "pv"]
    for path in export.glob("0-*"):
        path.unlink()
    write_series_table(find_series(export), tmp_path / "two.csv", LIVER)
    assert [row["suggested"] for row in rows_of(tmp_path / "two.csv")] == ["arterial", "venous"]


@pytest.mark.parametrize(("text", "agent", "hint"), [
    ("T1 mprage", None, "t1"), ("t1_mprage", "Gadovist", "t1ce"), ("T2 FLAIR sag", None, "flair"),
    ("t2w tse", None, "t2"), ("T1 +C", None, "t1ce"), ("t1 t2 map", None, ""), ("localizer", None, "")])
def test_words_suggest_an_mr_contrast(scan, export, tmp_path, text, agent, hint):
    scan(kind="MR", SeriesDescription=text, ContrastBolusAgent=agent)
    write_series_table(find_series(export), tmp_path / "series.csv", BRATS)
    assert [row["suggested"] for row in rows_of(tmp_path / "series.csv")] == [hint]


def test_what_is_suggested_is_not_used_without_a_person(phases, export, tmp_path):
    write_series_table(phases(), tmp_path / "series.csv", LIVER)
    message = refusal(export, tmp_path / "series.csv", tmp_path / "out", LIVER)
    assert "no row has a modality" in message
    assert "arterial, venous" in message
    assert not (tmp_path / "out").exists()


def test_a_table_is_never_overwritten(phases, tmp_path):
    series = phases()
    path = filled(series, tmp_path / "series.csv", ["arterial", "", "venous"])
    with pytest.raises(DataError, match="already"):
        write_series_table(series, path, LIVER)
    with pytest.raises(DataError, match="cannot be written"):
        write_series_table(series, tmp_path / "elsewhere" / "series.csv", LIVER)


def test_a_confirmed_table_becomes_cases_on_their_own_grids(phases, export, tmp_path):
    series = phases()
    cases = convert(export, filled(series, tmp_path / "series.csv", ["", "Arterial", "PV"]), tmp_path / "out", LIVER)
    assert [(case.id, case.patient, case.modalities) for case in cases] == [
        ("case_001", "patient_001", ("arterial", "venous"))]
    assert find_cases(tmp_path / "out" / "cases.csv", LIVER) == cases
    for modality, source in (("arterial", series[1]), ("venous", series[2])):
        image, volume = nib.load(cases[0].images[modality]), read_series(source)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.array)
        np.testing.assert_allclose(image.affine, volume.affine)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_table_that_went_through_a_spreadsheet_is_read(phases, export, tmp_path, delimiter):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", ""])
    rows = rows_of(path)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, [*rows[0]], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    assert convert(export, path, tmp_path / "out", LIVER)[0].modalities == ("arterial",)


def test_a_table_that_contradicts_itself_is_refused_with_all_its_faults(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "art", "spleen"])
    message = refusal(export, path, tmp_path / "out", LIVER)
    assert "2 problems" in message
    assert "'spleen'" in message
    assert "modality arterial" in message
    assert "found two series" in message
    rows = rows_of(path)
    rows[1] |= {"modality": "venous", "patient": "patient_002"}
    rows[2] |= {"series": rows[0]["series"], "modality": "venous"}
    message = refusal(export, saved(path, rows), tmp_path / "out", LIVER)
    assert "two patients in one case" in message
    assert "twice" in message


def test_a_table_that_cannot_be_understood_says_why(phases, export, tmp_path):
    phases()
    path = tmp_path / "series.csv"
    assert "cannot be read" in refusal(export, path, tmp_path / "out", LIVER)
    path.write_text("series,case\n1,2\n")
    assert "found no column patient, modality" in refusal(export, path, tmp_path / "out", LIVER)
    path.write_bytes(b"s\x81ries")
    assert "UTF-8" in refusal(export, path, tmp_path / "out", LIVER)


def test_a_series_that_is_gone_or_has_changed_is_refused(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", "venous"])
    next(export.glob("0-*")).unlink()
    message = refusal(export, path, tmp_path / "out", LIVER)
    assert "case case_001, modality arterial" in message
    assert "its files are others now" in message


def test_a_series_with_a_problem_is_refused_and_nothing_is_left(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", "venous"])
    shutil.copytree(export, tmp_path / "whole")
    file = next(export.glob("2-*"))
    file.write_bytes(file.read_bytes()[:-20])
    assert "the voxels are cut off" in refusal(export, path, tmp_path / "out", LIVER)
    assert "only read" in refusal(export, path, export / "out", LIVER)
    assert not (tmp_path / "out").exists()
    assert len(convert(tmp_path / "whole", path, tmp_path / "out", LIVER)) == 1
    assert "already holds" in refusal(tmp_path / "whole", path, tmp_path / "out", LIVER)


def test_an_error_while_voxels_are_read_leaves_nothing(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", "venous"])
    rewrite(export, lambda one, _: one.compress(pydicom.uid.RLELossless))
    file = export / "2-001.dcm"
    file.write_bytes(file.read_bytes()[:-120])
    assert "modality venous" in refusal(export, path, tmp_path / "out", LIVER)
    assert not (tmp_path / "out").exists()


def test_a_patient_keeps_the_pseudonym_over_several_examinations(scan, export, tmp_path):
    for number, patient in enumerate(["A", "B", "A"]):
        scan(SeriesInstanceUID=f"1.5.{number}", StudyInstanceUID=f"1.6.{number}", PatientID=patient,
             SeriesDescription=patient * 3)
    series = find_series(export)
    assert [one.case for one in series] == ["case_001", "case_002", "case_003"]
    counts = sorted([one.patient for one in series].count(name) for name in {one.patient for one in series})
    assert counts == [1, 2]
    cases = convert(export, filled(series, tmp_path / "series.csv", ["arterial"] * 3), tmp_path / "out", LIVER)
    assert [case.patient for case in cases] == [one.patient for one in series]


@pytest.mark.parametrize(("text", "left"), [
    ("Leber Zwetschgenknoedel art", "Leber … art"), ("ZWETSCHGENKNODEL_quirin", "…_…"), ("PID4711xy/ACC0815", "…/…"),
    ("geb. 11.07.1933", "geb. …"), ("1933-07-11 t1", "… t1"), ("11071933", "…"), ("liver 3.0 x 1.5", "liver 3.0 x 1.5"),
    ("quirinus", "…us"), ("fall 1.2.840.10008.5.1", "fall …"), ("b 1000", "b 1000")])
def test_descriptions_do_not_say_who_it_is(text, left):
    assert without_identity(text, {name: [value] for name, value in PLANTED.items()}) == left


def test_a_short_name_is_taken_out_as_a_word_and_left_inside_others():
    assert without_identity("Li liver", {"PatientName": ["Li^An"]}) == "… liver"


def everything_written(folder):
    """Every byte below a folder, also decompressed, and the names of the files."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        yield path, content + str(path.relative_to(folder)).encode()
        if path.name.endswith(".gz"):
            yield path, gzip.decompress(content)


def secrets():
    texts = [*PLANTED.values(), "Zwetschgen", "Quirin", "Hinterholz", "1933", "1.2.826.0.1.99", "1.2.826.0.1.77"]
    return [text.encode(encoding) for text in texts for encoding in ("utf-8", "latin-1", "utf-16-le") if len(text) > 3]


def test_identity_is_written_nowhere(scan, export, tmp_path):
    scan(SeriesInstanceUID="1.2.826.0.1.99.1", StudyInstanceUID="1.2.826.0.1.77",
         FrameOfReferenceUID="1.2.826.0.1.99.2", SeriesDescription="Art Zwetschgenknödel 11.07.1933",
         ProtocolName="Quirin PID4711XY", **PLANTED)
    scan(SeriesInstanceUID="1.2.826.0.1.99.3", StudyInstanceUID="1.2.826.0.1.77", slices=1, **PLANTED)
    out = tmp_path / "written"
    out.mkdir()
    series = find_series(export)
    table = filled(series, out / "series.csv", ["arterial" if one.shape[2] > 1 else "" for one in series])
    convert(export, table, out / "cases", LIVER)
    volume = next(one for one in series if not one.problems)
    label = Volume(np.ones(volume.shape, np.uint8), volume.affine)
    written = [*everything_written(out)]
    assert {path.name for path, _ in written} == {"series.csv", "cases.csv", "arterial.nii.gz"}
    assert not [(path, secret) for path, content in written for secret in secrets() if secret in content]
    assert all(word not in repr(series) for word in ("Quirin", "PID4711", "1.2.826"))
    write_segmentation(out / "seg.dcm", label, volume, LIVER)
    needed = (b"1.2.826.0.1.99", b"1.2.826.0.1.77")                    # UIDs link it to its source
    content = (out / "seg.dcm").read_bytes()
    assert not [secret for secret in secrets() if secret in content and not secret.startswith(needed)]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("at", [1, 2])
def test_a_conversion_that_is_interrupted_leaves_nothing_and_changes_no_input(scan, export, tmp_path, monkeypatch, at):
    for number in (1, 2):
        scan(SeriesInstanceUID=f"1.2.3.{number}", prefix=number)
    table = filled(find_series(export), tmp_path / "series.csv", ["arterial", "venous"])
    before, calls = contents(export), []

    def interrupted(series):
        calls.append(series)
        if len(calls) == at:
            raise KeyboardInterrupt
        return read_series(series)

    with monkeypatch.context() as patched:
        patched.setattr("maml_toolkit.dicom.conversion.read_series", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(export, table, tmp_path / "cases", LIVER)
    assert len(calls) == at
    assert not (tmp_path / "cases").exists()
    (case,) = convert(export, table, tmp_path / "cases", LIVER)
    assert case.modalities == ("arterial", "venous")
    assert contents(export) == before


def test_nothing_warns_of_headers_or_logs_them(scan, export, tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan(AcquisitionNumber=1, **{**PLANTED, "AccessionNumber": "longer than sixteen characters"})
        rewrite(export, lambda one, _: one.add_new("PatientBirthDate", "DA", "Quirin"))
    caplog.clear()
    series = only(export)
    read_series(series)
    write_segmentation(tmp_path / "seg.dcm", labelled(series), series, BRATS)
    assert caplog.text == ""


def labelled(series, seed=0):
    return Volume(np.random.default_rng(seed).choice([0, 1, 2, 4], series.shape).astype(np.uint8), series.affine)


def frames(seg):
    """Mask of every frame by its segment and position."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    assert [float(mm) for mm in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.5, 0.75]
    return {(one.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
             tuple(round(float(mm), 4) for mm in one.PlanePositionSequence[0].ImagePositionPatient)): mask
            for one, mask in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)}


@pytest.mark.parametrize(("orientation", "step"), [
    (AXIAL, (0, 0, -2.5)), (SAGITTAL, (-3, 0, 0)), (OBLIQUE, (0.96, -1.28, 1.2))])
def test_a_segmentation_comes_back_voxel_by_voxel(scan, export, tmp_path, orientation, step):
    scan(kind="MR", orientation=orientation, step=step, SliceThickness=7)
    series = only(export)
    label = labelled(series)
    write_segmentation(tmp_path / "seg.dcm", label, series, BRATS)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert seg.SegmentationType == "BINARY"
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["necrosis", "oedema", "enhancing"]
    found, sources = frames(seg), [pydicom.dcmread(path) for path in series.files]
    for (number, value), source in itertools.product(enumerate((1, 2, 4), start=1), sources):
        position = tuple(round(float(mm), 4) for mm in source.ImagePositionPatient)
        index = np.rint(np.linalg.inv(series.affine) @ (*np.multiply(position, (-1, -1, 1)), 1))[2].astype(int)
        np.testing.assert_array_equal(found[number, position], value == label.array[..., index].T)


def test_a_segmentation_lies_where_its_source_lies(scan, export, tmp_path):
    scan(orientation=OBLIQUE, step=(0.96, -1.28, 1.2), SliceThickness=7)
    series = only(export)
    write_segmentation(tmp_path / "seg.dcm", labelled(series), series, BRATS)
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    one = volume.to_patient_orientation("LPS") if hasattr(volume, "to_patient_orientation") else volume
    affine = np.diag([-1.0, -1, 1, 1]) @ one.affine
    corners = [affine @ (*corner, 1) for corner in itertools.product(*((0, n - 1) for n in one.spatial_shape))]
    expected = [series.affine @ (*corner, 1) for corner in itertools.product(*((0, n - 1) for n in series.shape))]
    np.testing.assert_allclose(sorted(np.round(corners, 3).tolist()), sorted(np.round(expected, 3).tolist()), atol=2e-3)


def test_a_label_with_turned_axes_gives_the_same_segmentation(scan, export, tmp_path):
    scan()
    series = only(export)
    label = labelled(series)
    image = nib.as_closest_canonical(nib.Nifti1Image(label.array, label.affine))
    turned = Volume(np.asanyarray(image.dataobj).transpose(2, 0, 1), image.affine[:, [2, 0, 1, 3]])
    for name, one in (("as_is.dcm", label), ("turned.dcm", turned)):
        write_segmentation(tmp_path / name, one, series, BRATS)
    as_is, other = (frames(highdicom.seg.segread(tmp_path / name)) for name in ("as_is.dcm", "turned.dcm"))
    assert as_is.keys() == other.keys()
    assert sum(one.sum() for one in as_is.values()) > 0
    assert all((as_is[key] == other[key]).all() for key in as_is)


def test_a_segmentation_refers_to_its_source_and_says_what_made_it(scan, export, tmp_path):
    scan(**PLANTED)
    series = only(export)
    write_segmentation(tmp_path / "seg.dcm", labelled(series), series, BRATS, method="MAML")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("1.2.3", "1.2.3.5")
    assert seg.SeriesInstanceUID != "1.2.3.4"
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == "1.2.3.4"
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == {
        pydicom.dcmread(path).SOPInstanceUID for path in series.files}
    assert seg.Manufacturer == "maml_toolkit"
    assert "research use only" in seg.SeriesDescription
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"AUTOMATIC"}
    assert [one.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for one in seg.SegmentSequence] == [
        "Necrosis", "Edema", "Neoplasm"]
    assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "MAML"


def coded(path):
    """Label, category, type and modifier of each segment, as highdicom reads them."""
    return {one.SegmentLabel: (
        (one.segmented_property_category.value, one.segmented_property_category.meaning),
        (one.segmented_property_type.value, one.segmented_property_type.meaning),
        *((code.CodeValue, code.CodeMeaning) for code in one.SegmentedPropertyTypeCodeSequence[0].get(
            "SegmentedPropertyTypeModifierCodeSequence", ())))
        for one in highdicom.seg.segread(path).SegmentSequence}


ANATOMICAL, ABNORMAL = ("123037004", "Anatomical Structure"), ("49755003", "Morphologically Abnormal Structure")
LEFT, RIGHT = ("7771000", "Left"), ("24028007", "Right")
LESION, NEOPLASM = ("52988006", "Lesion"), ("108369006", "Neoplasm")


@pytest.mark.parametrize(("task", "expected"), [
    ("msd_liver", {"liver": (ANATOMICAL, ("10200004", "Liver")), "cancer": (ABNORMAL, NEOPLASM)}),
    ("chaos_t1dual", {"liver": (ANATOMICAL, ("10200004", "Liver")),
                      "right kidney": (ANATOMICAL, ("64033007", "Kidney"), RIGHT),
                      "left kidney": (ANATOMICAL, ("64033007", "Kidney"), LEFT),
                      "spleen": (ANATOMICAL, ("78961009", "Spleen"))}),
    ("liver_phases", {"tumour": (ABNORMAL, NEOPLASM)}),
    ("ms_lesions", {"lesion": (ABNORMAL, LESION)}),
    ("prostatex", {"lesion": (ABNORMAL, LESION)}),
    ("msd_brain", {"edema": (ABNORMAL, ("79654002", "Edema")), "non-enhancing tumor": (ABNORMAL, NEOPLASM),
                   "enhancing tumour": (ABNORMAL, NEOPLASM)}),
    ("brats2015", {"necrosis": (ABNORMAL, ("6574001", "Necrosis")), "oedema": (ABNORMAL, ("79654002", "Edema")),
                   "non-enhancing": (ABNORMAL, NEOPLASM), "enhancing": (ABNORMAL, NEOPLASM)})])
def test_a_segment_is_coded_as_what_its_class_is(scan, export, tmp_path, task, expected):
    scan()
    series = only(export)
    label = Volume(np.zeros(series.shape, np.uint8), series.affine)
    write_segmentation(tmp_path / "seg.dcm", label, series, TASKS[task])
    assert coded(tmp_path / "seg.dcm") == expected


def test_a_task_says_what_its_classes_are_and_still_does_from_its_json(scan, export, tmp_path):
    """The name of one says nothing, that of the other something else."""
    codes = {"segment VII": {"category": ANATOMICAL, "type": ("245406005", "Segment VII of liver")},
             "mass": {"category": ABNORMAL, "type": ("X1", "99MINE", "Mass of mine"), "modifier": LEFT}}
    task = Task("mine", ("ct",), {"background": 0, "segment VII": 1, "mass": 2}, codes=codes)
    task.save(tmp_path / "task.json")
    scan()
    series = only(export)
    again = Task.named(tmp_path / "task.json")
    assert again == task
    assert task.with_spacing((1, 1, 1)).codes == task.codes
    write_segmentation(tmp_path / "seg.dcm", Volume(np.zeros(series.shape, np.uint8), series.affine), series, again)
    assert coded(tmp_path / "seg.dcm") == {
        "segment VII": (ANATOMICAL, ("245406005", "Segment VII of liver")),
        "mass": (ABNORMAL, ("X1", "Mass of mine"), LEFT)}


def test_a_class_that_nobody_coded_is_no_lesion_and_is_said_to_need_a_code(scan, export, tmp_path):
    task = Task("mine", ("ct",), {"background": 0, "Größe/Niere links": 1, "left kidney": 2})
    scan()
    series = only(export)
    with pytest.warns(DataWarning, match="codes") as warned:
        write_segmentation(tmp_path / "seg.dcm", Volume(np.zeros(series.shape, np.uint8), series.affine), series, task)
    assert "Größe/Niere links" in str(warned[0].message)
    assert "left kidney" not in str(warned[0].message)
    found = coded(tmp_path / "seg.dcm")
    assert found["Größe/Niere links"][1][1] == "Größe/Niere links"
    assert found["left kidney"] == (ANATOMICAL, ("64033007", "Kidney"), LEFT)


@pytest.mark.parametrize("codes", [{"kidney": {}}, {"liver": {"type": ("10200004", "Liver")}},
                                   {"liver": {"category": ANATOMICAL, "type": 10200004}}])
def test_a_code_that_is_none_is_refused_with_the_task(codes):
    with pytest.raises(ValueError, match="task mine: the code of"):
        Task("mine", ("ct",), {"background": 0, "liver": 1}, codes=codes)


def test_a_task_without_codes_is_written_as_before():
    assert all("codes" not in task.to_json() for task in TASKS.values())


def test_identity_is_in_a_segmentation_only_where_it_is_asked_for(scan, export, tmp_path):
    scan(**PLANTED)
    series = only(export)
    for name, keep in (("blank.dcm", False), ("kept.dcm", True)):
        write_segmentation(tmp_path / name, labelled(series), series, BRATS, keep_identity=keep)
    blank, kept = (pydicom.dcmread(tmp_path / name) for name in ("blank.dcm", "kept.dcm"))
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert not blank.get(name)
        assert str(kept.get(name)) == PLANTED[name]


def test_an_empty_label_becomes_empty_segments(scan, export, tmp_path):
    scan()
    series = only(export)
    write_segmentation(tmp_path / "seg.dcm", Volume(np.zeros(series.shape, np.uint8), series.affine), series, BRATS)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert len(seg.SegmentSequence) == 3
    assert not seg.pixel_array.any()


def test_a_label_on_another_grid_or_with_other_values_is_refused(scan, export, tmp_path):
    scan()
    series = only(export)
    label = labelled(series)
    moved = label.affine.copy()
    moved[2, 3] += 4
    for other, words in ((Volume(label.array, moved), "4 mm apart"), (Volume(label.array[1:], label.affine), "shapes"),
                         (Volume(label.array + 5, label.affine), "label values")):
        with pytest.raises(DataError, match=words):
            write_segmentation(tmp_path / "seg.dcm", other, series, BRATS)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_without_a_frame_of_reference_or_with_a_problem_is_refused(scan, export, tmp_path):
    scan(FrameOfReferenceUID=None)
    series = only(export)
    with pytest.raises(DataError, match="FrameOfReferenceUID"):
        write_segmentation(tmp_path / "seg.dcm", labelled(series), series, BRATS)
    (export / "0-003.dcm").unlink()
    with pytest.raises(DataError, match="missing"):
        write_segmentation(tmp_path / "seg.dcm", labelled(series), only(export), BRATS)

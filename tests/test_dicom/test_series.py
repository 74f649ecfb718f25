"""What is found below a folder, the voxels of a series, and what is wrong with its files."""

import importlib

import numpy as np
import pytest
from dicom_files import LIVER, filled, header, only, problem, pydicom, rewrite
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.dicom import convert, find_series, read_series
from maml_toolkit.system.errors import DataError, DataWarning


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
    with pytest.raises(DataError, match="decoded") as caught:
        read_series(only(export))
    assert (caught.value.path, bool(caught.value.remedy)) == (path, True)


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
    ({"kind": "MR", "PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
    ({"NumberOfFrames": 8}, "enhanced multi-frame"),
])
def test_what_the_header_lacks_is_named(scan, export, elements, words):
    scan(**elements)
    assert words in problem(export)


def test_hounsfield_units_are_what_they_are_however_they_are_shown(scan, export):
    values = scan(kind="CT", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(np.sort(read_series(only(export)).array, None), np.sort(values, None) - 1024.0)


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
    said = CliRunner().invoke(app, ["dicom", str(export), str(export.parent / "series.csv"), "--task", "liver_phases"])
    assert "2 not DICOM, 1 Enhanced SR Storage" in said.output


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
    with pytest.raises(ImportError, match=r"\.\[dicom\]"):
        find_series(export)


def test_folders_may_have_any_names_and_are_not_modified(scan, tmp_path):
    scan(folder="export/Lebér 患者/ä b")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "export").rglob("*.dcm")}
    table = filled(find_series(tmp_path / "export"), tmp_path / "tüte.csv", ["arterial"])
    convert(tmp_path / "export", table, tmp_path / "fälle", LIVER)
    files = [path for path in (tmp_path / "export").rglob("*") if path.is_file()]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from maml_toolkit.data import volumes
from maml_toolkit.system.errors import DataError

SHAPE = (6, 7, 8)
LPS = np.array([[-1.0, 0, 0, 90], [0, -1.5, 0, 120], [0, 0, 2, -70], [0, 0, 0, 1]])
ORIENTATIONS = ["LAS", "LPS", "RAS", "PIR"]


def noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def lesion():
    label = np.zeros(SHAPE, np.uint8)
    label.flat[:4] = 0, 1, 2, 4
    return label


def affine_of(axes, spacing=(0.7, 1.3, 3.0), origin=(-31.5, 12.25, 100)):
    turn = nib.orientations.axcodes2ornt(axes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(turn):
        affine[int(world), axis] = sign * spacing[axis]
    affine[:3, 3] = origin
    return affine


def refusal(source, reader=volumes.read, **where):
    """The message, after a look at what every message must say."""
    with pytest.raises(DataError) as caught:
        reader(source, case="case7", **({"modality": "flair"} if reader is not volumes.read_label else {}))
    error = caught.value
    assert error.remedy
    assert error.case == "case7"
    assert error.modality == ("label" if reader is volumes.read_label else "flair")
    if not isinstance(source, nib.Nifti1Image):
        assert str(volumes.path_of(source)) in str(error)
    return str(error)


def patched(path, offset, kind, *values):
    """Overwrites a field of the header of an uncompressed file."""
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("axes", ORIENTATIONS)
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_what_was_written_lies_on_the_voxels_it_was_made_from(tmp_path, save, axes, name):
    source = volumes.read(save(f"in/{name}", noise(), affine_of(axes)))
    volumes.write(tmp_path / name, source.array > 100, source.affine)
    written = nib.load(tmp_path / name)
    assert nib.aff2axcodes(written.affine) == tuple(axes)
    np.testing.assert_allclose(written.get_qform(), source.affine, atol=1e-4)
    np.testing.assert_allclose(written.get_sform(), source.affine, atol=1e-5)
    np.testing.assert_array_equal(written.get_fdata() > 0, source.array > 100)
    assert volumes.corner_distance_mm(SHAPE, source.affine, volumes.read_label(tmp_path / name).affine) < 1e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_a_round_trip_keeps_every_value_and_the_type(tmp_path, dtype):
    array = noise().astype(dtype)
    volumes.write(tmp_path / "x.nii.gz", array, LPS)
    back = nib.load(tmp_path / "x.nii.gz")
    assert back.get_data_dtype() == dtype
    assert back.header.get_xyzt_units()[0] == "mm"
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (1, 1)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), array)


def test_the_type_of_a_mask_is_uint8_and_of_half_precision_float32(tmp_path):
    for array, dtype in ((noise() > 100, np.uint8), (noise().astype(np.float16), np.float32)):
        volumes.write(tmp_path / "x.nii", array, LPS)
        assert nib.load(tmp_path / "x.nii").get_data_dtype() == dtype


def test_a_sheared_grid_is_kept_by_the_sform_alone(tmp_path):
    sheared = LPS + np.eye(4, k=1) * [[0, 0.3, 0, 0]]
    volumes.write(tmp_path / "x.nii", noise(), sheared)
    np.testing.assert_allclose(nib.load(tmp_path / "x.nii").affine, sheared, atol=1e-5)
    assert nib.load(tmp_path / "x.nii").header["qform_code"] == 0


def with_forms(path, qform=LPS, sform=LPS, pixdim=None, unit=2):
    """Saves noise whose header says these things, whether they agree or not."""
    image = nib.Nifti1Image(noise(), None)
    image.header.set_zooms(nib.affines.voxel_sizes(sform if qform is None else qform))
    image.set_qform(qform, code=int(qform is not None))
    image.set_sform(sform, code=int(sform is not None))
    image.header["xyzt_units"] = unit
    nib.save(image, path)
    return path if pixdim is None else patched(path, 80, "fff", *pixdim)


def larger(factor):
    return LPS @ np.diag([factor, factor, factor, 1])


@pytest.mark.parametrize("reader", [volumes.read, volumes.read_header])
def test_a_qform_and_an_sform_of_other_spacings_are_refused_with_both(tmp_path, reader):
    message = refusal(with_forms(tmp_path / "x.nii", larger(2), LPS), reader)
    assert "2 x 3 x 4 mm in pixdim and the qform" in message
    assert "1 x 1.5 x 2 mm in the sform" in message
    assert "--prefer qform" in message
    assert "in pixdim and of" in refusal(with_forms(tmp_path / "y.nii", None, LPS, pixdim=(2, 2, 2)), reader)
    volumes.read(with_forms(tmp_path / "z.nii", larger(1.0005), LPS))           # rounding


def test_directions_that_differ_a_little_are_noted_and_mirror_images_are_refused(tmp_path):
    angle = np.radians(3)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    (note,) = volumes.opened(with_forms(tmp_path / "x.nii", LPS, turn @ LPS)).notes
    assert "differ by 3.0 degrees" in note
    message = refusal(with_forms(tmp_path / "y.nii", LPS, np.diag([-1, 1, 1, 1]) @ LPS))
    assert "LPS" in message
    assert "RPS" in message
    assert "left and right" in message


def test_forms_that_are_half_a_turn_apart_are_noted_whatever_rounding_does(tmp_path):
    """The cosine between these axes comes out a little below -1."""
    form = np.eye(4)
    form[:3, :3] = [[0.9100812741723557, -0.25198060092618624, 0.9925051942740972],
                    [-0.1004006469621273, -1.5083405742493958, -0.1751801868716626],
                    [2.252190500720672, 0.03458164699603852, -0.40886798680211706]]
    path = with_forms(tmp_path / "x.nii", form @ np.diag([-1, -1, 1, 1]), form)
    assert any("differ by 180.0 degrees" in note for note in volumes.opened(path).notes)


def test_forms_that_put_an_image_at_two_places_are_noted_and_itk_takes_the_other(tmp_path):
    moved, nearly = LPS.copy(), LPS.copy()
    moved[0, 3], nearly[0, 3] = LPS[0, 3] + 20, LPS[0, 3] + 0.1
    path = with_forms(tmp_path / "x.nii", LPS, moved)
    patched(path, 254, "h", 4)            # sform_code: of a template, as registration programs write
    stored = volumes.opened(path)
    assert "20 mm apart" in stored.notes[0]
    assert stored.affine[0, 3] == pytest.approx(moved[0, 3])
    assert sitk.ReadImage(path).GetOrigin()[0] == pytest.approx(-LPS[0, 3])
    assert volumes.opened(with_forms(tmp_path / "y.nii", LPS, nearly)).notes == ()


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_a_left_handed_grid_whose_forms_agree_is_read_as_nibabel_reads_it(tmp_path, axes):
    affine = affine_of(axes)
    for name, forms in (("q", (affine, None)), ("s", (None, affine)), ("both", (affine, affine))):
        stored = volumes.opened(with_forms(tmp_path / f"{name}.nii", *forms))
        np.testing.assert_allclose(stored.affine, affine, atol=1e-5)
        assert stored.notes == ()


@pytest.mark.parametrize("pixdim", [(-1, 1.5, 2), (1, np.nan, 2)])
def test_a_voxel_size_that_is_none_is_refused(tmp_path, pixdim):
    assert "left and right" in refusal(with_forms(tmp_path / "x.nii", None, LPS, pixdim=pixdim))


def test_a_slight_shear_is_noted_and_a_larger_one_refused(tmp_path):
    slight, larger = (LPS + np.eye(4, k=1) * [[0, 1.5 * np.tan(np.radians(angle)), 0, 0]] for angle in (0.05, 0.2))
    volumes.write(tmp_path / "x.nii", noise(), slight)
    (note,) = volumes.opened(tmp_path / "x.nii").notes
    assert "0.050 degrees" in note
    volumes.write(tmp_path / "y.nii", noise(), larger)
    assert "0.20 degrees" in refusal(tmp_path / "y.nii")
    assert "--straighten" in refusal(tmp_path / "y.nii", volumes.read_header)


@pytest.mark.parametrize(("unit", "name"), [(1, "metre"), (3, "micrometre")])
def test_a_unit_that_is_not_the_millimetre_is_refused(tmp_path, unit, name):
    message = refusal(with_forms(tmp_path / "x.nii", unit=unit))
    assert f"the unit {name}" in message
    assert "--unit millimetre" in message
    volumes.read(with_forms(tmp_path / "x.nii", unit=0))


def test_a_frame_of_a_file_is_a_volume(tmp_path):
    frames = np.stack([noise(seed) for seed in range(3)], axis=-1)
    nib.save(nib.Nifti1Image(frames, LPS), tmp_path / "x.nii.gz")
    frame = volumes.Frame(tmp_path / "x.nii.gz", 1)
    np.testing.assert_array_equal(volumes.read(frame).array, noise(1))
    assert volumes.read_header(frame)[0] == SHAPE
    assert "at least 4 frames" in refusal(volumes.Frame(tmp_path / "x.nii.gz", 3))
    assert "--frame" in refusal(tmp_path / "x.nii.gz")


def test_what_was_accepted_is_noted(save):
    assert "length one" in volumes.opened(save("x.nii.gz", noise()[..., None])).notes[0]
    nearly = save("y.nii.gz", lesion() + np.float32(0.0005))
    assert "rounded" in volumes.opened(nearly, label=True).notes[0]
    assert volumes.opened(save("z.nii.gz", lesion().astype(np.float32)), label=True).notes == ()


def test_the_same_array_makes_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        volumes.write(tmp_path / name, noise(), LPS)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, save, monkeypatch):
    path = save("x.nii.gz", noise())
    before = path.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        volumes.write(path, noise(1), LPS)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == before


def test_a_name_that_is_not_nifti_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.nii"):
        volumes.write(tmp_path / "x.mha", noise(), LPS)


def test_an_image_is_float32_with_the_scaling_of_its_header(save):
    path = patched(save("x.nii", np.arange(336, dtype=np.int16).reshape(SHAPE)), 112, "ff", 2.0, -1024.0)
    volume = volumes.read(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array.ravel(), 2 * np.arange(336) - 1024)
    assert volume.spacing_mm == (1, 1.5, 2)


def test_nibabel_reads_the_same_voxels(real_data):
    paths = sorted((real_data / "brats2021_2mm").glob("BraTS2021_00006/*.nii.gz"))
    assert len(paths) == 5
    for path in paths:
        np.testing.assert_array_equal(volumes.read(path).array, nib.load(path).get_fdata(dtype=np.float32))


def test_a_header_tells_what_the_whole_file_tells(save):
    for name in ("x.nii", "x.nii.gz"):
        path = save(name, noise())
        shape, affine = volumes.read_header(path)
        assert shape == SHAPE
        np.testing.assert_array_equal(affine, volumes.read(path).affine)
    shape, affine = volumes.read_header(nib.Nifti1Image(noise(), LPS))
    assert shape == SHAPE
    np.testing.assert_array_equal(affine, LPS)


def test_nifti_2_and_big_endian_files_are_read(tmp_path):
    nib.save(nib.Nifti2Image(noise(), LPS), tmp_path / "two.nii.gz")
    big_endian = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(noise().astype(">f4"), LPS, big_endian), tmp_path / "big.nii")
    for name in ("two.nii.gz", "big.nii"):
        np.testing.assert_array_equal(volumes.read(tmp_path / name).array, noise())


def test_a_trailing_axis_of_length_one_is_dropped(save):
    assert volumes.read(save("x.nii.gz", noise()[..., None])).array.shape == SHAPE
    assert volumes.read(nib.Nifti1Image(noise()[..., None, None], LPS)).array.shape == SHAPE


def test_an_image_in_memory_is_not_modified(save):
    image = nib.Nifti1Image(noise(), LPS)
    np.testing.assert_array_equal(volumes.read(image).array, noise())
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), noise())


def test_names_with_spaces_and_accents_and_of_great_length_work(tmp_path):
    for name in ("Läsion (1) 病灶.nii.gz", "x" * 240 + ".nii.gz"):
        volumes.write(tmp_path / name, noise(), LPS)
        np.testing.assert_array_equal(volumes.read(tmp_path / name).array, noise())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reader", [volumes.read, volumes.read_label])
def test_nan_and_inf_are_counted_and_refused(save, value, reader):
    array = noise().round()
    array[0, 0, :3] = value
    expected = "3 NaN and 0 Inf" if np.isnan(value) else "0 NaN and 3 Inf"
    assert expected in refusal(save("x.nii.gz", array), reader)
    assert expected in refusal(nib.Nifti1Image(array, LPS), reader)


def test_infinity_is_refused_whatever_the_sign_of_the_slope(tmp_path):
    array = noise()
    array[0, 0, 0] = np.inf
    nib.save(nib.Nifti1Image(array, LPS), tmp_path / "x.nii")
    assert "1 Inf" in refusal(patched(tmp_path / "x.nii", 112, "ff", -1.0, 0.0))


def test_a_value_beyond_float32_is_refused(save):
    array = noise().astype(np.float64)
    array[0, 0, 0] = 1e300
    assert "1 Inf" in refusal(save("x.nii.gz", array))


@pytest.mark.parametrize(("shape", "found"), [
    ((6, 7, 8, 4), "4 frames"), ((6, 7, 8, 1, 3), "several values a voxel"), ((6, 7), "two slices"),
    ((6, 7, 1), "two slices")])
def test_what_is_not_three_dimensional_is_refused(save, shape, found):
    for source in (save("x.nii.gz", noise(shape=shape)), nib.Nifti1Image(noise(shape=shape), LPS)):
        assert found in refusal(source)
        assert found in refusal(source, volumes.read_header)


def test_complex_and_colour_voxels_are_refused(save):
    assert "complex" in refusal(save("x.nii.gz", noise().astype(np.complex64)))
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "colour" in refusal(save("y.nii.gz", colour))


def test_a_constant_image_is_refused_and_an_empty_label_is_not(save):
    path = save("x.nii.gz", np.zeros(SHAPE, np.uint8))
    assert "every voxel is 0" in refusal(path)
    assert not volumes.read_label(path).array.any()


@pytest.mark.parametrize("part", [0.002, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(save, part):
    for name in ("x.nii", "x.nii.gz"):
        path = save(name, noise(shape=(30, 30, 30)))
        path.write_bytes(path.read_bytes()[:int(part * path.stat().st_size)])
        assert "truncated" in refusal(path)


def test_a_flipped_bit_in_a_compressed_file_is_found(save):
    path = save("x.nii.gz", noise(shape=(20, 20, 20)))
    intact = path.read_bytes()
    for place in np.random.default_rng(0).integers(12, len(intact), 40):
        broken = bytearray(intact)
        broken[place] ^= 1 << int(place) % 8
        path.write_bytes(broken)
        assert "Copy or download" in refusal(path)


@pytest.mark.parametrize(("content", "found"), [
    (b"", "empty"), (b"\n<!DOCTYPE html><html></html>", "web page"), (b"not an image" * 100, "NIfTI header"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "Git-LFS")])
def test_a_file_that_is_no_image_is_named_for_what_it_is(tmp_path, content, found):
    for name in ("x.nii", "x.nii.gz"):
        path = tmp_path / name
        packed = found == "NIfTI header" and name.endswith("gz")
        path.write_bytes(gzip.compress(content) if packed else content)
        assert found in refusal(path)
        assert found in refusal(path, volumes.read_header)


def test_a_wrong_ending_is_refused_with_the_right_one(save):
    plain, packed = save("a.nii", noise()), save("b.nii.gz", noise())
    assert "Rename it to .nii.gz" in refusal(packed.rename(packed.with_name("c.nii")))
    assert "Rename it to .nii if" in refusal(plain.rename(plain.with_name("d.nii.gz")))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_absurd_dimensions_are_refused_before_anything_is_allocated(save, name):
    path = patched(save("x.nii", noise()), 42, "hhh", 30000, 30000, 30000)
    if name.endswith("gz"):
        path.with_name(name).write_bytes(gzip.compress(path.read_bytes()))
    assert "108,000,000,000,352" in refusal(path.with_name(name))


def test_impossible_header_fields_are_refused(save):
    assert "dimensions" in refusal(patched(save("x.nii", noise()), 42, "h", -6))
    assert "dimensions" in refusal(patched(save("x.nii", noise()), 40, "h", 9))
    assert "magic" in refusal(patched(save("x.nii", noise()), 344, "4s", b"nope"))
    assert "voxel sizes" in refusal(patched(save("x.nii", noise()), 80, "f", 0.0))
    assert "voxel sizes" in refusal(patched(save("x.nii", noise()), 80, "f", -1.0))
    assert "voxel type 77" in refusal(patched(save("x.nii", noise()), 70, "h", 77))


def test_an_unknown_or_impossible_grid_is_refused(save):
    flat, lost = LPS.copy(), LPS.copy()
    flat[:, 1] = flat[:, 0]
    lost[0, 3] = np.nan
    forms_unset = patched(save("x.nii", noise()), 252, "hh", 0, 0)
    for reader in (volumes.read, volumes.read_header):
        assert "neither a qform nor an sform" in refusal(forms_unset, reader)
        assert "neither a qform nor an sform" in refusal(nib.Nifti1Image(noise(), None), reader)
        assert "singular" in refusal(patched(save("y.nii", noise()), 280, "12f", *flat[:3].ravel()), reader)
        assert "finite" in refusal(patched(save("z.nii", noise()), 280, "12f", *lost[:3].ravel()), reader)


def test_a_missing_or_unreadable_file_is_reported_like_any_other(tmp_path):
    assert "does not exist" in refusal(tmp_path / "x.nii.gz")
    (tmp_path / "y.nii.gz").mkdir()
    assert "cannot be read" in refusal(tmp_path / "y.nii.gz")
    assert "ends in neither" in refusal(tmp_path / "x.nrrd")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_label_comes_as_integers_whatever_the_type_of_the_file(save, dtype):
    label = volumes.read_label(save("x.nii.gz", lesion().astype(dtype))).array
    assert label.dtype.kind in "iu"
    np.testing.assert_array_equal(label, lesion())


def test_labels_within_a_thousandth_are_rounded_and_others_refused(save):
    nearly, half = lesion() + np.float32(0.0005), lesion() * np.float32(0.5)
    np.testing.assert_array_equal(volumes.read_label(save("x.nii.gz", nearly)).array, lesion())
    assert "1 label values that are not whole numbers, such as 0.5" in refusal(save("y.nii.gz", half),
                                                                               volumes.read_label)
    assert "class numbers" in refusal(save("z.nii.gz", lesion() * np.float32(1e12)), volumes.read_label)


def test_a_scaled_label_is_refused(save):
    path = patched(save("x.nii", lesion()), 112, "ff", 2.0, 0.0)
    assert "scl_slope 2" in refusal(path, volumes.read_label)


def test_the_distance_of_two_grids_is_that_of_their_farthest_corners():
    moved, turned = LPS.copy(), LPS.copy()
    moved[0, 3] += 5
    turned[:, [0, 1]] = turned[:, [1, 0]]
    assert volumes.corner_distance_mm(SHAPE, LPS, LPS) == 0
    assert volumes.corner_distance_mm(SHAPE, LPS, moved) == pytest.approx(5)
    assert volumes.corner_distance_mm((3, 3, 3), LPS, turned) == pytest.approx(np.hypot(2, 3))


def test_a_scaled_label_is_refused_in_a_frame_of_a_file_too(save):
    frames = np.stack([lesion(), lesion()], axis=-1)
    path = patched(save("x.nii", frames), 112, "ff", 2.0, 0.0)
    assert "scl_slope 2" in refusal(volumes.Frame(path, 1), volumes.read_label)
    np.testing.assert_array_equal(volumes.read(volumes.Frame(path, 1)).array, lesion() * 2.0)


class Grid:
    def __init__(self, affine, shape=(240, 240, 24)):
        self.affine, self.shape = affine, shape


def turned(degrees, spacing=(0.3, 0.3, 6)):
    """About the patient's axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ np.diag([*spacing, 1])


@pytest.mark.parametrize(("other", "is_one"), [
    (np.diag([0.3, 0.3, 6.0003, 1]), True),             # 0.0012 voxels at the last slice
    (np.diag([0.3, 0.3, 6.006, 1]), False),             # 0.023
    (np.diag([0.3001, 0.3, 6, 1]), False),              # 0.08 voxels at the last column
    (turned(0.002), True), (turned(0.01), False),       # 0.008 and 0.042 voxels at the corner
    (turned(0) + np.eye(4, k=3) * 0.005, True), (turned(0) + np.eye(4, k=3) * 0.007, False)])
def test_grids_are_one_within_a_fiftieth_of_a_voxel_along_each_axis(other, is_one):
    assert (volumes.grid_difference(Grid(turned(0)), Grid(other)) is None) == is_one
    assert (volumes.grid_difference(Grid(other), Grid(turned(0))) is None) == is_one


@pytest.mark.parametrize("dtype", [">i2", np.float64, np.int32])
def test_the_fingerprint_is_of_all_voxels_whatever_their_type_and_order(save, dtype):
    array = np.arange(336, dtype=np.int16).reshape(SHAPE)
    one = volumes.opened(save("x.nii.gz", array))
    assert volumes.opened(save("y.nii", array.astype(dtype))).fingerprint == one.fingerprint
    assert volumes.opened(nib.Nifti1Image(array, LPS)).fingerprint == one.fingerprint
    halved = patched(save("z.nii", array * 2), 112, "ff", 0.5, 0.0)
    assert volumes.opened(halved).fingerprint == one.fingerprint
    others = set()
    for place in range(0, 336, 7):
        other = array.copy()
        other.flat[place] += 1
        others.add(volumes.opened(nib.Nifti1Image(other, LPS)).fingerprint)
    assert len(others) == 48
    assert one.fingerprint not in others

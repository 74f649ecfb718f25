import gzip
import re

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.data import volumes
from maml_toolkit.data.mending import mend, straight_grid
from maml_toolkit.system.errors import DataError

SHAPE = (9, 10, 11)
LPS = np.array([[-1.0, 0, 0, 90], [0, -1.5, 0, 120], [0, 0, 2, -70], [0, 0, 0, 1]])


def smooth(shape=SHAPE):
    """A linear ramp, which linear interpolation keeps exactly."""
    i, j, k = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return (100 + 3 * i - 2 * j + 5 * k).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    """Saves an image with this header, whether it agrees with itself or not."""

    def file(array=None, qform=None, sform=LPS, zooms=None, unit=2, name="bad.nii.gz"):
        image = nib.Nifti1Image(smooth() if array is None else array, None)
        image.set_qform(qform, code=int(qform is not None))
        image.set_sform(sform, code=int(sform is not None))
        image.header["xyzt_units"] = unit
        content = bytearray(image.to_bytes())
        sizes = nib.affines.voxel_sizes(sform) if zooms is None else zooms
        content[80:92] = np.array(sizes, "<f4").tobytes()
        if qform is None and sform is None:
            content[252:256] = bytes(4)                  # nibabel does not save an image that lies nowhere
        (tmp_path / name).write_bytes(gzip.compress(bytes(content)))
        return tmp_path / name

    return file


def mended(source, **how):
    """The volume of the mended file, which the readers refused before; the source keeps its bytes."""
    reader = volumes.read_label if how.get("label") else volumes.read
    with pytest.raises(DataError):
        reader(source)
    before = source.read_bytes()
    result = mend(source, source.with_name("mended.nii.gz"), **how)
    assert source.read_bytes() == before
    return reader(result)


def test_the_form_that_is_right_is_chosen_by_name(file):
    for prefer, sizes in (("sform", (1, 1.5, 2)), ("qform", (2, 3, 4))):
        image = nib.Nifti1Image(smooth(), None)
        image.set_sform(LPS, 1)
        image.set_qform(LPS @ np.diag([2, 2, 2, 1]), 1)
        source = file(name=f"{prefer}.nii.gz")
        nib.save(image, source)
        volume = mended(source, prefer=prefer)
        assert volume.spacing_mm == pytest.approx(sizes)
        source.with_name("mended.nii.gz").unlink()


def test_an_orientation_can_be_given_to_a_file_that_has_none(file):
    volume = mended(file(sform=None, zooms=(1, 1.5, 2)), orientation="LPS")
    assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
    assert volume.spacing_mm == pytest.approx((1, 1.5, 2))
    np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, np.subtract(SHAPE, 1) / 2), 0, atol=1e-5)


@pytest.mark.parametrize(("code", "unit", "factor"), [(3, "micrometre", 0.001), (1, "millimetre", 1.0)])
def test_units_are_converted_or_corrected(file, code, unit, factor):
    volume = mended(file(unit=code), unit=unit)
    np.testing.assert_allclose(volume.affine[:3], LPS[:3] * factor, rtol=1e-6)


def test_a_frame_is_taken_out_of_several(file):
    frames = np.stack([smooth(), smooth() * 2, smooth() * 3], axis=-1)
    np.testing.assert_allclose(mended(file(frames), frame=1).array, smooth() * 2)


def test_nan_and_inf_are_replaced_only_when_asked(file):
    array = smooth()
    array[0, 0, :2] = np.nan, np.inf
    source = file(array)
    with pytest.raises(DataError, match="1 NaN and 1 Inf"):
        mend(source, source.with_name("a.nii.gz"))
    assert not source.with_name("a.nii.gz").exists()
    volume = mended(source, fill=-5)
    assert volume.array[0, 0, :2].tolist() == [-5, -5]
    np.testing.assert_array_equal(volume.array[1:], smooth()[1:])


def test_a_sheared_image_is_resampled_onto_right_angles_and_keeps_its_places(file):
    sheared = LPS.copy()
    sheared[0, 2] = 0.4
    volume = mended(file(sform=sheared), straighten=True)
    inside = nib.affines.apply_affine(np.linalg.inv(sheared) @ volume.affine,
                                      np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1))
    held = ((inside > 1e-6 - 0.5) & (inside < np.subtract(SHAPE, 0.5 + 1e-6))).all(axis=-1)    # half a voxel beyond
    assert held.sum() > 0.8 * np.prod(SHAPE)
    expected = 100 + inside.clip(0, np.subtract(SHAPE, 1)) @ [3, -2, 5]
    np.testing.assert_allclose(volume.array[held], expected[held], atol=1e-3)
    beyond = ((inside < -0.5 - 1e-6) | (inside > np.subtract(SHAPE, 0.5 - 1e-6))).any(axis=-1)
    assert beyond.any()
    assert set(volume.array[beyond]) == {volume.array.min()}


def test_the_straight_grid_of_a_straight_one_is_itself():
    shape, affine = straight_grid(SHAPE, LPS)
    assert shape == SHAPE
    np.testing.assert_allclose(affine, LPS, atol=1e-9)


def test_a_label_is_carried_onto_another_grid_by_nearest_neighbour(tmp_path, file):
    label = np.zeros(SHAPE, np.float32)
    label[3:6, 4:7, 5:8] = 4
    shifted = LPS.copy()
    shifted[:3, 3] += LPS[:3, :3] @ [1, 0, 2]
    grid = file(sform=shifted, name="grid.nii.gz")
    source = file(label, name="label.nii.gz")
    volume = volumes.read_label(mend(source, tmp_path / "on.nii.gz", label=True, onto=grid))
    np.testing.assert_array_equal(volume.array[2:5, 4:7, 3:6], 4)
    assert volume.array.sum() == label.sum()
    np.testing.assert_allclose(volume.affine, shifted, atol=1e-5)


def test_the_scaling_of_a_label_is_applied(file, tmp_path):
    image = nib.Nifti1Image(np.ones(SHAPE, np.uint8), LPS)
    image.dataobj[0, 0, 0] = 0
    image.header.set_slope_inter(2, 0)
    image.header["xyzt_units"] = 2
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([2, 0], "<f4").tobytes()
    (tmp_path / "scaled.nii").write_bytes(bytes(content))
    assert set(np.unique(mended(tmp_path / "scaled.nii", label=True).array)) == {0, 2}


def test_what_was_not_asked_to_be_mended_is_refused_and_nothing_is_written(file, tmp_path):
    half = np.zeros(SHAPE, np.float32)
    half[0] = 0.5
    for source, how, found in ((file(half, name="h.nii.gz"), {"label": True}, "away from whole numbers"),
                               (file(sform=None, zooms=(1, 1, 1), name="u.nii.gz"), {"unit": "metre"}, "neither"),
                               (file(name="f.nii.gz"), {"frame": 0}, "four axes")):
        with pytest.raises(DataError, match=found) as caught:
            mend(source, tmp_path / "new.nii.gz", **how)
        assert str(source) in str(caught.value)
        assert not (tmp_path / "new.nii.gz").exists()


def test_nothing_is_overwritten_and_arguments_are_checked(file):
    source = file()
    with pytest.raises(DataError, match="nothing is overwritten"):
        mend(source, source)
    with pytest.raises(DataError, match="folder does not exist"):
        mend(source, source.parent / "no" / "x.nii.gz")
    for wrong in ({"prefer": "pixdim"}, {"unit": "inch"}, {"orientation": "LPX"}, {"orientation": "LRS"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            mend(source, source.with_name("new.nii.gz"), **wrong)


def sheared(degrees=2):
    return LPS + np.eye(4, k=1) * [[0, 1.5 * np.tan(np.radians(degrees)), 0, 0]]


def patched(path, offset, *values):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[offset:offset + 4 * len(values)] = np.array(values, "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    return path


DAMAGES = {
    "negative size, qform alone": lambda file: file(qform=LPS, sform=None, zooms=(-1, 1.5, 2)),
    "negative size, sform alone": lambda file: file(zooms=(-1, 1.5, 2)),
    "negative size, both": lambda file: file(qform=LPS, zooms=(1, 1.5, -2)),
    "negative size, neither": lambda file: file(sform=None, zooms=(1, -1.5, 2)),
    "no size, sform alone": lambda file: file(zooms=(0, np.nan, 2)),
    "no size, qform alone": lambda file: file(qform=LPS, sform=None, zooms=(0, 1.5, 2)),
    "sizes disagree": lambda file: file(zooms=(2, 2, 2)),
    "mirrored": lambda file: file(qform=np.diag([-1, 1, 1, 1]) @ LPS),
    "no form": lambda file: file(sform=None, zooms=(1, 1.5, 2)),
    "unit": lambda file: file(unit=1),
    "frames": lambda file: file(np.stack([smooth(), smooth() + 1], axis=-1)),
    "nan": lambda file: file(np.where(smooth() > 150, np.nan, smooth())),
    "shear": lambda file: file(sform=sheared()),
    "scaled label": lambda file: patched(file((smooth() > 120).astype(np.uint8)), 112, 2, 0),
}
NOTHING_TO_MEND = {"no size, qform alone"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_repair_that_an_error_names_works(damage, file, tmp_path):
    source, label = DAMAGES[damage](file), damage.endswith("label")
    reader = volumes.read_label if label else volumes.read
    with pytest.raises(DataError) as caught:
        reader(source)
    commands = re.findall(r"`mend (--[^`]*)`", caught.value.remedy)
    assert bool(commands) == (damage not in NOTHING_TO_MEND), caught.value
    assert caught.value.remedy
    for number, command in enumerate(commands):
        result = tmp_path / f"{number}.nii.gz"
        done = CliRunner().invoke(app, ["mend", str(source), str(result), *command.replace("N", "1").split()])
        assert done.exit_code == 0, done.output
        assert reader(result).array.size >= np.prod(SHAPE)
    if damage.startswith("negative"):
        assert reader(result).spacing_mm == pytest.approx((1, 1.5, 2))
        if "neither" not in damage:
            np.testing.assert_allclose(reader(result).affine, LPS, atol=1e-5)


def test_a_form_that_a_file_does_not_have_is_refused_with_the_one_that_it_has(file, tmp_path):
    with pytest.raises(DataError, match=r"sform\n  Remedy: .*qform") as caught:
        mend(file(qform=LPS, sform=None, zooms=(1, 1.5, 2)), tmp_path / "new.nii", prefer="sform")
    assert caught.value.path == tmp_path / "bad.nii.gz"
    assert not (tmp_path / "new.nii").exists()


def test_a_unit_that_nobody_asked_to_mend_is_not_dropped(tmp_path):
    image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.diag([1000.0, 1000, 1000, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(DataError):
        mend(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", fill=0)
    assert not (tmp_path / "b.nii.gz").exists()
    mend(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", unit="micrometre")
    assert nib.load(tmp_path / "b.nii.gz").header.get_zooms() == pytest.approx((1, 1, 1))

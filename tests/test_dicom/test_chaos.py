"""CHAOS as it is published becomes cases: each label on its slice, and its faults named."""

import numpy as np
import pytest
from dicom_files import write_slices
from typer.testing import CliRunner

from maml_toolkit.__main__ import app
from maml_toolkit.data import volumes
from maml_toolkit.data.cases import find_cases
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.dicom.chaos import convert
from maml_toolkit.system.errors import DataError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def chaos(tmp_path):
    """A patient of each part of CHAOS; slices run head to foot, and a voxel's label is its image divided by 100."""
    greys = {"CT": [0, 255], "MR": [0, 63, 126, 189, 252]}

    def save(scan, places, kind, patient):
        labels = np.random.default_rng(patient).integers(0, len(greys[kind]), (4, 6, 5)).astype(np.int16)
        for place in places:
            write_slices(scan / place, labels * 100, "IMG", kind, origin=(0, 0, 30), step=(0, 0, -10),
                         PixelSpacing=[1.5, 2], PixelRepresentation=1, RescaleIntercept=0, RescaleSlope=1)
        (scan / "Ground").mkdir()
        for index, classes in enumerate(labels):
            Image.fromarray(np.array(greys[kind], np.uint8)[classes]).save(scan / "Ground" / f"IMG-{index:03d}.png")

    save(tmp_path / "Train_Sets/CT/2", ["DICOM_anon"], "CT", 2)
    save(tmp_path / "Train_Sets/MR/1/T1DUAL", ["DICOM_anon/InPhase", "DICOM_anon/OutPhase"], "MR", 1)
    save(tmp_path / "Train_Sets/MR/1/T2SPIR", ["DICOM_anon"], "MR", 3)
    return tmp_path / "Train_Sets"


@pytest.mark.parametrize(("part", "id", "names"), [
    ("CT", "CT_2", ("venous",)), ("T1DUAL", "MR_1", ("in_phase", "out_phase")), ("T2SPIR", "MR_1", ("t2spir",))])
def test_chaos_is_converted_with_each_label_on_its_slice(chaos, tmp_path, part, id, names):
    task = TASKS[f"chaos_{part.lower()}"]
    case, = find_cases(convert(chaos, tmp_path / "out", part), task)
    assert (case.id, case.modalities) == (id, names)
    label = volumes.read_label(case.label)
    assert set(np.unique(label.array)) == task.values
    for source in case.images.values():
        image = volumes.read(source)
        np.testing.assert_array_equal(image.array, label.array.astype(np.float32) * 100)
        np.testing.assert_allclose(image.affine, label.affine)
    assert image.spacing_mm == (2, 1.5, 10)


def test_the_test_set_of_chaos_has_no_labels(chaos, tmp_path):
    for path in (chaos / "CT/2/Ground").iterdir():
        path.unlink()
    (chaos / "CT/2/Ground").rmdir()
    case, = find_cases(convert(chaos, tmp_path / "out"), TASKS["chaos_ct"])
    assert (case.modalities, case.label) == (("venous",), None)


def test_faults_of_chaos_are_named_and_nothing_is_written(chaos, tmp_path):
    ground = chaos / "MR/1/T1DUAL/Ground"
    (ground / "IMG-000.png").write_bytes(b"not a picture")
    for message, path in (("cannot be read", ground / "IMG-000.png"),
                          ("3 labels, expected one for each of 4", ground)):
        with pytest.raises(DataError, match=message) as caught:
            convert(chaos, tmp_path / "out", "T1DUAL")
        assert (caught.value.case, caught.value.path, bool(caught.value.remedy)) == ("MR_1", path, True)
        (ground / "IMG-000.png").unlink(missing_ok=True)
    (ground / "IMG-003.png").rename(ground / "IMG-000.png")
    (chaos / "MR" / "7").symlink_to(chaos / "elsewhere")
    (chaos / "MR" / "readme.txt").write_text("")
    with pytest.raises(DataError) as caught:
        convert(chaos, tmp_path / "out", "T2SPIR")
    assert (caught.value.case, caught.value.path, bool(caught.value.remedy)) == (
        "MR_7", chaos / "MR" / "7" / "T2SPIR", True)
    (chaos / "MR" / "7").unlink()
    Image.fromarray(np.full((6, 5), 99, np.uint8)).save(ground / "IMG-004.png")
    with pytest.raises(DataError, match=r"grey values \[99\]"):
        convert(chaos, tmp_path / "out", "T1DUAL")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="Train_Sets"):
        convert(chaos / "CT" / "2", tmp_path / "out", "CT")
    with pytest.raises(ValueError, match="T1DUAL"):
        convert(chaos, tmp_path / "out", "MR")


def test_the_command_converts_a_part(chaos, tmp_path):
    done = CliRunner().invoke(app, ["chaos", str(chaos), str(tmp_path / "out"), "--part", "T2SPIR"])
    assert done.exit_code == 0, done.output
    assert [case.id for case in find_cases(tmp_path / "out", TASKS["chaos_t2spir"])] == ["MR_1"]

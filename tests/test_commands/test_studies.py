"""A study as DICOM, answered: the one command, from the series of a PACS to a SEG on the grid of one of them."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import PLANTED, pydicom, rows_of, saved, write_slices
from typer.testing import CliRunner

from maml_toolkit import Trainer
from maml_toolkit.__main__ import app
from maml_toolkit.commands import studies
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import Case
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.dicom import find_series
from maml_toolkit.dicom.conversion import image_of
from maml_toolkit.methods import build
from maml_toolkit.system.errors import DataWarning

highdicom = pytest.importorskip("highdicom")

BRATS = TASKS["brats2021"]
TEXTS = {"t1": "T1 mprage", "t1ce": "t1 post KM T1CE", "t2": "T2 tse", "flair": "t2 tirm FLAIR"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that answers every class everywhere: one step away from random weights, so on any processor."""
    folder = tmp_path_factory.mktemp("run") / "brains"
    torch.manual_seed(0)
    method = build("maml", modalities=BRATS.modalities, classes=4, channels=(4, 8))
    Trainer(method, folder, BRATS, patch_size=(16, 16, 16), epochs=1, steps_per_epoch=1, batch_size=1,
            learning_rate=1e-5).fit(phantoms.brains(3, size=24))
    return folder


def export(folder, case, modalities, study=1, moved=None, **elements):
    """Write scans of a phantom as series of one study, in MR units, slices from head to feet; `moved` by mm along z."""
    for number, name in enumerate(modalities):
        array = np.asanyarray(case.images[name].dataobj)
        values = np.rint(array / array.max() * 4000).astype(np.uint16).transpose(2, 1, 0)[::-1]
        write_slices(folder, values, f"{study}{name}", "MR", PixelSpacing=[1, 1], step=(0, 0, -1.5),
                     origin=(-10, -11, 50 + (moved or {}).get(name, 0)), SeriesDescription=TEXTS[name],
                     SeriesInstanceUID=f"1.2.{study}.{number}", StudyInstanceUID=f"1.2.{study}", SliceThickness=1.5,
                     FrameOfReferenceUID=f"1.2.{study}.99", AcquisitionTime=f"1{number}0000", **elements)


def predict(*words):
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def segments(path, series):
    """Segment numbers on the grid of a series (column, row, slice), as highdicom finds them by the source images."""
    seg = highdicom.seg.segread(path)
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in series.files]
    return seg.get_pixels_by_source_instance(uids, combine_segments=True,
                                             assert_missing_frames_are_empty=True).transpose(2, 1, 0)


def by_text(folder):
    return {one.description: one for one in find_series(folder)}


def test_one_command_answers_a_study_with_a_segmentation_on_the_grid_of_its_source(run, tmp_path):
    """Three of four scans: nothing is done before the table is confirmed, then what is in the SEG is the prediction."""
    (case,), pacs, out = phantoms.brains(1, size=24, seed=5), tmp_path / "pacs", tmp_path / "out"
    export(pacs, case, ("t1", "t2", "flair"), **PLANTED)
    words = ("--run", run, "--dicom", pacs, "--out", out, "--device", "cpu")

    asked = predict(*words)
    assert asked.exit_code == 0, asked.output
    assert [one.name for one in out.iterdir()] == ["series.csv"]
    assert {row["suggested"]: row["modality"] for row in rows_of(out / "series.csv")} == dict.fromkeys(
        ("t1", "t2", "flair"), "")
    assert "series.csv" in asked.output
    assert f"--dicom {pacs} --out {out} --device cpu --yes" in asked.output

    told = json.loads(predict(*words, "--json").stdout)
    assert told == {"series": str(out / "series.csv"), "answers": []}
    done = predict(*words, "--yes", "--json", "--drop-small", "{WT: 1}", "--mirror", "[1]")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["answers"] == [
        {"segmentation": str(out / "case_001_seg.dcm"), "page": str(out / "case_001.html")}]
    saved_label = nib.load(out / "predictions" / "case_001" / "case_001_seg.nii.gz")
    label = np.asanyarray(saved_label.dataobj)
    assert len(np.unique(label)) > 1
    series = by_text(pacs)
    np.testing.assert_allclose(saved_label.affine, series["T1 mprage"].affine, atol=1e-4)
    np.testing.assert_array_equal(segments(out / "case_001_seg.dcm", series["T1 mprage"]), BRATS.encode(label))
    seg = highdicom.seg.segread(out / "case_001_seg.dcm")
    assert [one.segmented_property_type.meaning for one in seg.SegmentSequence] == [
        "Necrosis", "Edema", "Enhancing Lesion"]
    assert json.loads((out / "predictions" / "case_001" / "manifest.json").read_text())["modalities"] == [
        "t1", "t2", "flair"]
    page = (out / "case_001.html").read_text(encoding="utf-8")
    assert "from <b>t1, t2, flair</b>, without t1ce" in page
    assert "nobody confirmed it" in page
    assert page.count("<img") == 3
    for file in re.findall(r'href="([^"#]+)"', page):
        assert (out / file).exists()
    assert 'href="case_001_seg.dcm"' in page
    ml = float(re.search(r">WT</th><td>[^<]*</td><td[^>]*>([\d.]+)</td>", page)[1])
    assert ml == pytest.approx((label > 0).sum() * 1.5 / 1000, abs=0.006)
    planted = [text.encode() for text in PLANTED.values() if len(text) > 3]
    for path in (path for path in out.rglob("*") if path.is_file() and path.suffix != ".gz"):
        assert not [text for text in planted if text in path.read_bytes()]


def test_two_studies_that_lack_another_scan_each_have_their_own_segmentation(run, tmp_path):
    pacs, out = tmp_path / "pacs", tmp_path / "out"
    for study, (case, names) in enumerate(zip(phantoms.brains(2, size=24, seed=7), (
            ("t1", "t1ce", "t2"), ("t1ce", "t2", "flair")), strict=True), start=1):
        export(pacs / str(study), case, names, study=study, PatientID=f"p{study}")
    done = predict("--run", run, "--dicom", pacs, "--out", out, "--device", "cpu", "--maps", "false", "--yes")
    assert done.exit_code == 0, done.output
    found, used = find_series(pacs), {}
    for case in ("case_001", "case_002"):
        saved_label = np.asanyarray(nib.load(out / "predictions" / case / f"{case}_seg.nii.gz").dataobj)
        assert len(np.unique(saved_label)) > 1
        first = next(one for text in TEXTS.values() for one in found if (one.case, one.description) == (case, text))
        np.testing.assert_array_equal(segments(out / f"{case}_seg.dcm", first), BRATS.encode(saved_label))
        used[case] = json.loads((out / "predictions" / case / "manifest.json").read_text())["modalities"]
    assert sorted(used.values()) == [["t1", "t1ce", "t2"], ["t1ce", "t2", "flair"]]


def test_what_a_person_filled_in_counts_and_nothing_else(run, tmp_path):
    (case,), pacs, out = phantoms.brains(1, size=24, seed=6), tmp_path / "pacs", tmp_path / "out"
    export(pacs, case, ("t1", "t2", "flair"), PatientName="A^B")
    words = ("--run", run, "--dicom", pacs, "--out", out, "--device", "cpu", "--maps", "false", "--keep-identity")
    assert predict(*words).exit_code == 0
    rows = rows_of(out / "series.csv")
    for row in rows:
        row["case"], row["modality"] = "mine", {"t1": "", "t2": "flair", "flair": "t2"}[row["suggested"]]
    saved(out / "series.csv", rows)
    for further in ((), ("--yes",)):
        done = predict(*words, *further)
        assert done.exit_code == 0, done.output
    names = {one.name for one in (out / "predictions" / "mine").iterdir()}
    assert names == {"mine_seg.nii.gz", "mine_prob.nii.gz", "prediction.json", "manifest.json"}
    label = np.asanyarray(nib.load(out / "predictions" / "mine" / "mine_seg.nii.gz").dataobj)
    # t2 is the first of the task that is there; a person says that the FLAIR is it
    source = by_text(pacs)[TEXTS["flair"]]
    np.testing.assert_array_equal(segments(out / "mine_seg.dcm", source), BRATS.encode(label))
    assert str(pydicom.dcmread(out / "mine_seg.dcm").PatientName) == "A^B"
    assert "confirmed in series.csv" in (out / "mine.html").read_text(encoding="utf-8")
    assert not (out / "series_suggested.csv").exists()


def test_what_is_ambiguous_is_named_and_nothing_is_predicted(run, tmp_path):
    one, other = phantoms.brains(2, size=24)
    pacs, out = tmp_path / "pacs", tmp_path / "out"
    export(pacs, one, ("t1", "flair"))
    export(pacs, other, ("flair",), study=2)
    rewritten = pydicom.dcmread(pacs / "2flair-000.dcm").SeriesInstanceUID
    for path in pacs.glob("2flair*"):
        image = pydicom.dcmread(path)
        image.StudyInstanceUID, image.SeriesDescription = "1.2.1", "FLAIR again"
        image.save_as(path)
    shown = predict("--run", run, "--dicom", pacs, "--out", out, "--yes")
    assert shown.exit_code == 1
    assert "modality flair: found 2 series" in shown.output
    assert "FLAIR again" in shown.output
    assert rewritten not in shown.output
    assert [path.name for path in out.iterdir()] == ["series.csv"]


def test_scans_of_several_frames_of_reference_want_to_be_registered_and_the_other_cases_are_answered(run, tmp_path):
    one, other = phantoms.brains(2, size=24)
    pacs, out = tmp_path / "pacs", tmp_path / "out"
    export(pacs, one, ("t1", "t2"), moved={"t2": 4})
    for path in pacs.glob("1t2*"):
        image = pydicom.dcmread(path)
        image.FrameOfReferenceUID = "1.2.1.98"
        image.save_as(path)
    export(pacs, other, ("t1", "t2"), study=2, PatientID="Q")
    with pytest.warns(DataWarning, match=r"\b4 mm\b"):           # before anything is segmented
        shown = predict("--run", run, "--dicom", pacs, "--out", out, "--yes", "--device", "cpu")
    assert shown.exit_code == 1
    assert "corners up to 4 mm apart" in shown.output
    assert f"python -m maml_toolkit predict --run {run} --dicom {pacs} --out {out} --yes --register" in " ".join(
        shown.output.split())
    (seg,) = out.glob("*_seg.dcm")
    (good,) = (one for one in find_series(pacs) if one.description == "T1 mprage" and one.case in seg.name)
    assert segments(seg, good).any()
    assert not (out / "resampled").exists()


def test_scans_of_one_frame_of_reference_are_put_onto_one_grid_by_their_positions(run, tmp_path):
    """The second scan begins two slices (3 mm) higher: two slices of it are outside, the others lie on slices."""
    (case,), pacs, out = phantoms.brains(1, size=24, seed=7), tmp_path / "pacs", tmp_path / "out"
    export(pacs, case, ("t1", "t2"), moved={"t2": 3})
    done = predict("--run", run, "--dicom", pacs, "--out", out, "--yes", "--device", "cpu", "--maps", "false")
    assert done.exit_code == 0, done.output
    before, after = (nib.load(path) for path in (
        out / "cases" / "images" / "case_001" / "t2.nii.gz", out / "resampled" / "case_001" / "case_001_t2.nii.gz"))
    np.testing.assert_allclose(after.affine, by_text(pacs)["T1 mprage"].affine, atol=1e-4)
    assert before.affine[2, 3] - after.affine[2, 3] == pytest.approx(3)
    values, moved = before.get_fdata(), after.get_fdata()
    np.testing.assert_allclose(moved[..., 2:], values[..., :-2], atol=0.01)
    np.testing.assert_array_equal(moved[..., 0], values.min())
    page = (out / "case_001.html").read_text(encoding="utf-8")
    assert page.count("--register") == 1


def test_a_scan_that_ends_within_the_body_is_told(tmp_path):
    """A bright ball in 24 slices of 1.5 mm; the other scan begins 12 slices higher and reaches the upper half of it."""
    ball = (np.square(np.indices((24, 24, 24)) - 11.5).sum(0) < 100).astype(np.float32)
    scans = {name: nib.Nifti1Image(ball, np.eye(4)) for name in ("t1", "t2")}
    export(tmp_path, Case("a", scans), scans, moved={"t2": 18})
    series = {name: by_text(tmp_path)[TEXTS[name]] for name in scans}
    case = Case("a", {name: image_of(one) for name, one in series.items()})
    with pytest.warns(DataWarning, match=r"\bt2\b.*\b50%.*\bt1\b"):
        studies._on_one_grid(case, series, BRATS, tmp_path / "out", "")


@pytest.mark.parametrize(("words", "message"), [
    (("--dicom", "pacs"), "found no --out"), (("--dicom", "pacs", "--out", "pacs/out"), "only read"),
    (("--dicom", "pacs", "--out", "out", "--regster"), "--regster (did you mean 'register'?)"),
    (("--dicom", "none", "--out", "out"), "found no folder"),
    (("--dicom", "pacs", "--out", "out", "--yes", "7"), "--yes")])
def test_what_cannot_be_meant_is_said_before_anything_is_written(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    export(tmp_path / "pacs", phantoms.brains(1, size=16)[0], ("t1",))
    shown = predict("--run", run, *words)
    assert shown.exit_code == 1
    assert message in shown.output
    assert not [*tmp_path.rglob("*.csv")]


def test_the_help_of_predict_says_how_a_study_is_answered():
    shown = predict("--help").output
    assert all(f"--{name}" in shown for name in ("data", "dicom", "yes", "register", "keep_identity"))


def test_scans_are_registered_where_that_is_asked_for(run, tmp_path):
    """The second scan lies 3 mm beside the first by its header; its voxels are back where they belong afterwards."""
    pytest.importorskip("itk")
    case, pacs, out = phantoms.brains(1, size=32, seed=1)[0], tmp_path / "pacs", tmp_path / "out"
    export(pacs, case, ("t1ce", "t2"), moved={"t2": 3})
    done = predict("--run", run, "--dicom", pacs, "--out", out, "--yes", "--register", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert (out / "case_001_registration.html").exists()
    before, after = (np.asanyarray(nib.load(path).dataobj).astype(float) for path in (
        out / "cases" / "images" / "case_001" / "t2.nii.gz", out / "registered" / "case_001" / "case_001_t2.nii.gz"))
    inside = np.s_[6:-6, 6:-6, 6:-6]
    assert np.corrcoef(before[inside].ravel(), after[inside].ravel())[0, 1] > 0.95
    first = by_text(pacs)[TEXTS["t1ce"]]
    label = np.asanyarray(nib.load(out / "predictions" / "case_001" / "case_001_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(segments(out / "case_001_seg.dcm", first), BRATS.encode(label))

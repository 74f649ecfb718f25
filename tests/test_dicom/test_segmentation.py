"""A label map comes back as DICOM SEG, where it was drawn and as what its classes are."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from dicom_files import AXIAL, BRATS, OBLIQUE, PLANTED, SAGITTAL, labelled, only, pydicom

from maml_toolkit.data.tasks import TASKS, Task
from maml_toolkit.data.volumes import Volume
from maml_toolkit.dicom import write_segmentation
from maml_toolkit.system.errors import DataError, DataWarning

highdicom = pytest.importorskip("highdicom")
codes = pytest.importorskip("pydicom.sr.codedict").codes


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
        "Necrosis", "Edema", "Enhancing Lesion"]
    assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "MAML"


def coded(path):
    """Label, category, type and modifier of each segment, as highdicom reads them."""
    return {one.SegmentLabel: (
        (one.segmented_property_category.value, one.segmented_property_category.meaning),
        (one.segmented_property_type.value, one.segmented_property_type.meaning),
        *((code.CodeValue, code.CodeMeaning) for code in one.SegmentedPropertyTypeCodeSequence[0].get(
            "SegmentedPropertyTypeModifierCodeSequence", ())))
        for one in highdicom.seg.segread(path).SegmentSequence}


ANATOMICAL, ABNORMAL = ("91723000", "Anatomical Structure"), ("49755003", "Morphologically Abnormal Structure")
LEFT, RIGHT = ("7771000", "Left"), ("24028007", "Right")
LESION, NEOPLASM = ("52988006", "Lesion"), ("108369006", "Neoplasm")
ENHANCING, NON_ENHANCING = ("C113842", "Enhancing Lesion"), ("C81175", "Non-Enhancing Lesion")


@pytest.mark.parametrize(("task", "expected"), [
    ("msd_liver", {"liver": (ANATOMICAL, ("10200004", "Liver")), "cancer": (ABNORMAL, NEOPLASM)}),
    ("chaos_t1dual", {"liver": (ANATOMICAL, ("10200004", "Liver")),
                      "right kidney": (ANATOMICAL, ("64033007", "Kidney"), RIGHT),
                      "left kidney": (ANATOMICAL, ("64033007", "Kidney"), LEFT),
                      "spleen": (ANATOMICAL, ("78961009", "Spleen"))}),
    ("liver_phases", {"tumour": (ABNORMAL, NEOPLASM)}),
    ("ms_lesions", {"lesion": (ABNORMAL, LESION)}),
    ("prostatex", {"lesion": (ABNORMAL, LESION)}),
    ("msd_brain", {"edema": (ABNORMAL, ("79654002", "Edema")), "non-enhancing tumor": (ABNORMAL, NON_ENHANCING),
                   "enhancing tumour": (ABNORMAL, ENHANCING)}),
    ("brats2015", {"necrosis": (ABNORMAL, ("6574001", "Necrosis")), "oedema": (ABNORMAL, ("79654002", "Edema")),
                   "non-enhancing": (ABNORMAL, NON_ENHANCING), "enhancing": (ABNORMAL, ENHANCING)})])
def test_a_segment_is_coded_as_what_its_class_is(scan, export, tmp_path, task, expected):
    scan()
    series = only(export)
    label = Volume(np.zeros(series.shape, np.uint8), series.affine)
    write_segmentation(tmp_path / "seg.dcm", label, series, TASKS[task])
    assert coded(tmp_path / "seg.dcm") == expected


@pytest.mark.parametrize("name", TASKS)
def test_the_codes_of_the_known_tasks_are_those_of_the_standard(scan, export, tmp_path, name):
    """As pydicom lists them: CID 7150 (categories), CID 7194 and 7192 (what it is), SNOMED CT (where it lies)."""
    lists = {"category": (codes.cid7150,), "type": (codes.cid7194, codes.cid7192), "anatomy": (codes.SCT,)}
    given = 0
    for code in TASKS[name].codes.values():
        for part, (value, *scheme, meaning) in code.items():
            if scheme == ["99MAML"]:        # there is none
                assert (name, value) == ("brats2024", "resection_cavity")
                continue
            known = [tuple(getattr(one, meaning.title().replace(" ", "").replace("-", ""), ()))
                     for one in lists[part]]
            assert (value, *(scheme or ["SCT"]), meaning, None) in known
            given += 1
    assert given == 3 * len(TASKS[name].codes) - (name == "brats2024")
    scan()
    series = only(export)
    write_segmentation(tmp_path / "seg.dcm", Volume(np.zeros(series.shape, np.uint8), series.affine), series,
                       TASKS[name])
    for one in highdicom.seg.segread(tmp_path / "seg.dcm").SegmentSequence:
        expected = TASKS[name].codes.get(one.SegmentLabel, {}).get("anatomy")
        assert [(found.value, found.meaning) for found in one.anatomic_regions] == ([expected] if expected else [])


def test_a_task_says_what_its_classes_are_and_still_does_from_its_json(scan, export, tmp_path):
    """The name of one says nothing, that of the other something else."""
    own = {"segment VII": {"category": ANATOMICAL, "type": ("245406005", "Segment VII of liver")},
           "mass": {"category": ABNORMAL, "type": ("X1", "99MINE", "Mass of mine"), "modifier": LEFT,
                    "anatomy": ("78961009", "Spleen")}}
    task = Task("mine", ("ct",), {"background": 0, "segment VII": 1, "mass": 2}, codes=own)
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
    (spleen,) = highdicom.seg.segread(tmp_path / "seg.dcm").SegmentSequence[1].anatomic_regions
    assert (spleen.value, spleen.scheme_designator, spleen.meaning) == ("78961009", "SCT", "Spleen")


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


@pytest.mark.parametrize("wrong", [{"kidney": {}}, {"liver": {"type": ("10200004", "Liver")}},
                                   {"liver": {"category": ANATOMICAL, "type": 10200004}}])
def test_a_code_that_is_none_is_refused_with_the_task(wrong):
    with pytest.raises(ValueError, match="task mine: the code of"):
        Task("mine", ("ct",), {"background": 0, "liver": 1}, codes=wrong)


def test_a_task_without_codes_is_written_and_read_as_before():
    values = {"name": "mine", "modalities": ["ct"], "labels": {"background": [0], "liver": [1]}}
    task = Task.from_json(values)
    assert task.codes == {}
    assert "codes" not in task.to_json()
    assert Task.from_json(task.to_json()) == task


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

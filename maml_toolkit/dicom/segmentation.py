"""A label map as DICOM SEG, which a PACS or a viewer opens beside the series it was drawn on.

What a class is, an organ or something abnormal in one, is said in SNOMED CT: by the task, or else by the class's name.

References:
    C. P. Bridge et al. Highdicom: a Python library for standardized encoding of image annotations. J Digit Imaging,
    2022. https://doi.org/10.1007/s10278-022-00683-y
    DICOM PS3.3, A.51 Segmentation IOD. https://dicom.nema.org/medical/dicom/current/output/chtml/part03/
    DICOM PS3.16, CID 7150 (categories), CID 7192 (anatomy), CID 7194 (lesions of the brain), CID 244 (laterality).
    https://dicom.nema.org/medical/dicom/current/output/chtml/part16/
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import maml_toolkit
from maml_toolkit.data.label_sets import closed
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume, corner_distance_mm, grid_difference
from maml_toolkit.dicom.headers import decoded, library, opened, unquoted
from maml_toolkit.dicom.series import Series
from maml_toolkit.system.errors import DataError, unless, warn_of
from maml_toolkit.system.files import write_whole

DESCRIPTION = "research use only"

ANATOMICAL = ("91723000", "Anatomical Structure")
ABNORMAL = ("49755003", "Morphologically Abnormal Structure")
TISSUE = ("85756007", "Tissue")
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
PRIVATE = "99MAML"
"""Scheme of a class that nobody coded, whose meaning is its name; DICOM keeps names that start with 99 for such."""

ABNORMALITIES = {word: name for name, words in {
    "Necrosis": "necrosis necrotic ncr", "Edema": "oedema edema ed",
    "Neoplasm": "tumour tumor tumours tumors cancer neoplasm carcinoma glioma hcc enhancing et core",
    "Metastasis": "metastasis metastases", "Lesion": "lesion lesions hyperintensity", "Mass": "mass", "Cyst": "cyst",
    "Nodule": "nodule", "Abscess": "abscess", "Hematoma": "hematoma haematoma", "Hemorrhage": "hemorrhage haemorrhage",
    "Plaque": "plaque"}.items() for word in words.split()}
"""Word in the name of a class -> its name in pydicom's list of codes: something abnormal, whatever it lies in."""

ANATOMY = {"adrenal": "AdrenalGland", "oesophagus": "Esophagus", "small bowel": "SmallIntestine", "bone": "Bone",
           "brainstem": "BrainStem", "postcava": "InferiorVenaCava", "parotid": "ParotidGland"}
"""The whole name of a class, its side left out -> its name in pydicom's list, where that says it in other words."""

_LINKS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
          "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "LossyImageCompression")

_IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
             "StudyTime", "ReferringPhysicianName")

Code = Mapping[str, Sequence[str]]
"""What a class is: "category", "type" and perhaps "modifier" (its side) and "anatomy" (in which organ) -> (value,
meaning) of SNOMED CT, or (value, scheme, meaning)."""


def write_segmentation(path: str | Path, label: Volume, series: Series, task: Task, *, method: str = "maml_toolkit",
                       keep_identity: bool = False) -> None:
    """Write a label map as DICOM SEG: one binary segment a foreground class, even where that is empty.

    By default the patient's name, id, birth date and sex, the study's date and its accession number are left blank.
    The UIDs of study, series and images must stay, or nothing would open beside the source: whoever has that archive
    can find the patient by them, so the file is pseudonymous, not anonymous.

    Args:
        label: the values of the task's label files, on the grid of the series as `read_series` and `convert` give it;
            its axes may be swapped or flipped. From a prediction: `Volume(prediction.labels, prediction.affine)`.
        series: that it was drawn on.
        task: names the segments, whose numbers are those of the classes, and says what they are (`Task.codes`).
        method: name of the algorithm.
        keep_identity: copy patient and study from the source, which a PACS needs to file it with the patient. Only
            for files that stay where the source lies.

    Warns:
        DataWarning: a class that the task does not code, and whose name says nothing.

    Raises:
        DataError: the series has problems, the label lies on another grid or holds other values, the source has no
            frame of reference or has changed, or the file cannot be written.
        ImportError: highdicom is not installed.
    """
    library("highdicom")
    series.check()
    planes = np.ascontiguousarray(closed(task.encode(_on_grid(label, series))).transpose(2, 1, 0))
    codes = _codes(task)
    with unquoted():
        content = _encoded([_source(file, keep_identity) for file in series.files], planes, series, task,
                           [_segment(number, name, codes[name], method) for number, name in enumerate(codes, start=1)])
    with unless("the file cannot be written", "Choose a folder that you may write.", path):
        write_whole(Path(path), content)


def code_of(name: str) -> Code:
    """What the name of a class says.

    >>> code_of("left kidney")["type"], code_of("left kidney")["modifier"]
    (('64033007', 'Kidney'), ('7771000', 'Left'))
    """
    words = re.findall(r"[^\W\d_]+", name.lower())
    sides = [SIDES[word] for word in words if word in SIDES]
    side = {"modifier": sides[0]} if len(sides) == 1 else {}
    rest = " ".join(word for word in words if word not in SIDES)
    codes = library("pydicom.sr.codedict").codes
    if abnormal := [ABNORMALITIES[word] for word in words if word in ABNORMALITIES]:
        category, found = ABNORMAL, getattr(codes.SCT, abnormal[-1])
    else:
        title = rest.title().replace(" ", "")
        names = (ANATOMY.get(rest, title), title.removesuffix("s"))
        category, found = ANATOMICAL, next((getattr(codes.SCT, one) for one in names
                                            if one in ANATOMY.values() or one in codes.cid7192.dir()), None)
    if found is None:
        category, kind = TISSUE, (re.sub(r"\W", "_", name, flags=re.ASCII)[:16], PRIVATE, name[:64])
    else:
        kind = (found.value, found.meaning)
    return {"category": category, "type": kind, **side}


def _codes(task: Task) -> dict[str, Code]:
    """Of the foreground classes in their order; those that the task does not code and whose names say nothing have one
    of their own, and are warned of."""
    found = {name: task.codes[name] if name in task.codes else code_of(name) for name in task.class_names[1:]}
    warn_of([DataError(f"the class {name!r} has no code, and its name stands for it",
                       f'Say in the task what it is: "codes": {{"{name}": {{"category": {[*ANATOMICAL]}, "type": '
                       '["10200004", "Liver"]}}, with values of SNOMED CT.'.replace("'", '"'))
             for name, one in found.items() if PRIVATE in one["type"] and name not in task.codes])
    return found


def _on_grid(label: Volume, series: Series) -> np.ndarray:
    """The label with the axes of the series."""
    way = nib.io_orientation(np.linalg.inv(series.affine) @ label.affine)
    image = nib.Nifti1Image(label.array, label.affine).as_reoriented(way)
    turned = Volume(np.asanyarray(image.dataobj), image.affine)
    if difference := grid_difference(turned, series.frame):
        distance = corner_distance_mm(series.shape, turned.affine, series.affine)
        raise DataError(f"the label lies on another grid than the series: {difference} (a box of the series' shape "
                        f"would have corners {distance:.4g} mm apart)",
                        "Give the series that the label was drawn on, or resample the label to its grid.")
    return turned.array


def _source(path: Path, keep_identity: bool) -> Any:
    """The header of a slice: all of it, or what links to it and says nothing of the patient."""
    with decoded("the header cannot be read", "Find the series again.", path):
        source = opened(path, stop_before_pixels=True, specific_tags=None if keep_identity else [*_LINKS])
    if not keep_identity and "SpecificCharacterSet" in source:
        del source.SpecificCharacterSet
    if not source.get("FrameOfReferenceUID"):
        raise DataError("FrameOfReferenceUID is missing, expected one: a segmentation cannot be laid over this series",
                        "Export the series again, unprocessed.", path=path)
    for name in _IDENTITY:
        value = source.get(name)
        setattr(source, name, None if value is None else str(value))
    return source


def _encoded(sources: Sequence[Any], planes: np.ndarray, series: Series, task: Task, segments: Sequence[Any]) -> bytes:
    """The bytes of the file; planes (slices, rows, columns) hold classes."""
    highdicom, content = library("highdicom"), io.BytesIO()
    for source in sources:                             # of the positions, not what the header claims
        source.SliceThickness = source.SpacingBetweenSlices = round(float(np.linalg.norm(series.affine[:3, 2])), 6)
    highdicom.seg.Segmentation(
        source_images=sources, pixel_array=planes, segmentation_type="BINARY", segment_descriptions=segments,
        series_instance_uid=highdicom.UID(), sop_instance_uid=highdicom.UID(), series_number=9000, instance_number=1,
        manufacturer="maml_toolkit", manufacturer_model_name="maml_toolkit",
        software_versions=maml_toolkit.__version__, device_serial_number="1", content_label="SEGMENTATION",
        content_description=DESCRIPTION, series_description=f"{task.name[:40]}: {DESCRIPTION}",
        omit_empty_frames=bool(planes.any()), specific_character_set="ISO_IR 192",
    ).save_as(content)
    return content.getvalue()


def _segment(number: int, name: str, code: Code, method: str) -> Any:
    """The description of a segment."""
    highdicom, codes = library("highdicom"), library("pydicom.sr.codedict").codes
    concepts = {part: highdicom.sr.CodedConcept(one[0], "SCT" if len(one) == 2 else one[1], one[-1])
                for part, one in code.items()}
    algorithm = highdicom.AlgorithmIdentificationSequence(method, codes.cid7162.ArtificialIntelligence,
                                                          maml_toolkit.__version__)
    where = [concepts["anatomy"]] if "anatomy" in concepts else None
    segment = highdicom.seg.SegmentDescription(number, name, concepts["category"], concepts["type"], "AUTOMATIC",
                                               algorithm, anatomic_regions=where)
    if "modifier" in concepts:
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concepts["modifier"]]
    return segment

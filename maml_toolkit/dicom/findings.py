"""What a class is, in SNOMED CT: an organ, or something abnormal in one; from the task, or else from the class's name.

References:
    DICOM PS3.16, CID 7150 (categories), CID 244 (laterality).
    https://dicom.nema.org/medical/dicom/current/output/chtml/part16/
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maml_toolkit.data.tasks import Task
from maml_toolkit.dicom.headers import library
from maml_toolkit.system.errors import DataError, warn_of

ANATOMICAL = ("123037004", "Anatomical Structure")
ABNORMAL = ("49755003", "Morphologically Abnormal Structure")
TISSUE = ("85756007", "Tissue")
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
PRIVATE = "99MAML"
"""Scheme of a class that nobody coded, whose meaning is its name; DICOM keeps names that start with 99 for such."""

ABNORMALITIES = {
    "necrosis": "Necrosis", "necrotic": "Necrosis", "ncr": "Necrosis",
    "oedema": "Edema", "edema": "Edema", "ed": "Edema",
    "tumour": "Neoplasm", "tumor": "Neoplasm", "tumours": "Neoplasm", "tumors": "Neoplasm", "cancer": "Neoplasm",
    "neoplasm": "Neoplasm", "carcinoma": "Neoplasm", "glioma": "Neoplasm", "hcc": "Neoplasm", "enhancing": "Neoplasm",
    "et": "Neoplasm", "core": "Neoplasm", "metastasis": "Metastasis", "metastases": "Metastasis",
    "lesion": "Lesion", "lesions": "Lesion", "hyperintensity": "Lesion", "mass": "Mass", "cyst": "Cyst",
    "nodule": "Nodule", "abscess": "Abscess", "hematoma": "Hematoma", "haematoma": "Hematoma",
    "hemorrhage": "Hemorrhage", "haemorrhage": "Hemorrhage", "plaque": "Plaque",
}
"""Word in the name of a class -> its name in pydicom's list of codes: something abnormal, whatever it lies in."""

ANATOMY = {
    "liver": "Liver", "spleen": "Spleen", "kidney": "Kidney", "kidneys": "Kidney", "pancreas": "Pancreas",
    "prostate": "Prostate", "brain": "Brain", "gallbladder": "Gallbladder", "stomach": "Stomach", "heart": "Heart",
    "lung": "Lung", "lungs": "Lung", "aorta": "Aorta", "adrenal gland": "AdrenalGland", "adrenal": "AdrenalGland",
    "oesophagus": "Esophagus", "esophagus": "Esophagus", "duodenum": "Duodenum", "colon": "Colon", "rectum": "Rectum",
    "small intestine": "SmallIntestine", "small bowel": "SmallIntestine", "hippocampus": "Hippocampus",
    "uterus": "Uterus", "breast": "Breast", "bone": "Bone", "femur": "Femur", "spinal cord": "SpinalCord",
    "cerebellum": "Cerebellum", "brainstem": "BrainStem", "brain stem": "BrainStem", "white matter": "WhiteMatter",
    "portal vein": "PortalVein", "inferior vena cava": "InferiorVenaCava", "postcava": "InferiorVenaCava",
    "eye": "Eye", "parotid gland": "ParotidGland", "parotid": "ParotidGland",
}
"""The whole name of a class, its side left out -> its name in pydicom's list of codes."""


@dataclass(frozen=True)
class Finding:
    """A class as DICOM says it; codes are (value, meaning) or (value, scheme, meaning), SNOMED CT where none is named.

    Attributes:
        category: organ, abnormal structure or tissue.
        type: what it is.
        modifier: such as its side; empty where it has none.
    """

    category: Sequence[str]
    type: Sequence[str]
    modifier: Sequence[str] = ()


def findings(task: Task) -> list[Finding]:
    """The foreground classes of a task in their order.

    Warns:
        DataWarning: of classes that the task does not code and whose names say nothing; they are coded by their names.
    """
    found = {name: Finding(**task.codes[name]) if name in task.codes else of_name(name)
             for name in task.class_names[1:]}
    warn_of([DataError(f"the class {name!r} has no code, and its name stands for it",
                       f'Say in the task what it is: "codes": {{"{name}": {{"category": {[*ANATOMICAL]}, "type": '
                       '["10200004", "Liver"]}}, with values of SNOMED CT.'.replace("'", '"'))
             for name, one in found.items() if PRIVATE in one.type])
    return list(found.values())


def of_name(name: str) -> Finding:
    """What the name of a class says.

    >>> of_name("left kidney").type, of_name("left kidney").modifier
    (('64033007', 'Kidney'), ('7771000', 'Left'))
    """
    words = re.findall(r"[^\W\d_]+", name.lower())
    sides = [SIDES[word] for word in words if word in SIDES]
    modifier = sides[0] if len(sides) == 1 else ()
    if abnormal := [ABNORMALITIES[word] for word in words if word in ABNORMALITIES]:
        return Finding(ABNORMAL, _known(abnormal[-1]), modifier)
    if (rest := " ".join(word for word in words if word not in SIDES)) in ANATOMY:
        return Finding(ANATOMICAL, _known(ANATOMY[rest]), modifier)
    return Finding(TISSUE, (re.sub(r"\W", "_", name, flags=re.ASCII)[:16], PRIVATE, name[:64]), modifier)


def described(highdicom: Any, finding: Finding, number: int, name: str, algorithm: Any) -> Any:
    """The description of a segment."""
    category, kind = (_coded(highdicom, code) for code in (finding.category, finding.type))
    segment = highdicom.seg.SegmentDescription(number, name, category, kind, "AUTOMATIC", algorithm)
    if finding.modifier:
        (item,) = segment.SegmentedPropertyTypeCodeSequence
        item.SegmentedPropertyTypeModifierCodeSequence = [_coded(highdicom, finding.modifier)]
    return segment


def _known(name: str) -> tuple[str, str]:
    code = getattr(library("pydicom.sr.codedict").codes.SCT, name)
    return code.value, code.meaning


def _coded(highdicom: Any, code: Sequence[str]) -> Any:
    value, scheme, meaning = code if len(code) == 3 else (code[0], "SCT", code[1])
    return highdicom.sr.CodedConcept(value, scheme, meaning)

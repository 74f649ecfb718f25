"""DICOM files as the tests write them, and what they ask of them."""

import csv

import numpy as np
import pytest

from maml_toolkit.data.tasks import TASKS
from maml_toolkit.data.volumes import Volume
from maml_toolkit.dicom import convert, find_series, read_series, write_series_table
from maml_toolkit.system.errors import DataError

pydicom = pytest.importorskip("pydicom")

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


def write_slices(folder, values, prefix="IM", kind="CT", orientation=AXIAL, origin=(-20, -30, 100), step=(0, 0, 2.5),
                 **elements):
    """Write voxels (slices, rows, columns) as one file a slice; an element that is a tuple has a value for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, voxels in enumerate(values):
        at = {name: value[index] if isinstance(value, tuple) else value for name, value in elements.items()}
        one = header(kind, **{"ImageOrientationPatient": list(orientation), "InstanceNumber": index + 1,
                              "ImagePositionPatient": [a + index * b for a, b in zip(origin, step, strict=True)],
                              "Rows": voxels.shape[0], "Columns": voxels.shape[1], **at})
        one.PixelData = voxels.tobytes()
        one.save_as(folder / f"{prefix}-{index:03d}.dcm", enforce_file_format=True)


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


def labelled(series, seed=0):
    return Volume(np.random.default_rng(seed).choice([0, 1, 2, 4], series.shape).astype(np.uint8), series.affine)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_structures(path, series, rois, kind="CLOSED_PLANAR", others=()):
    """Write an RTSTRUCT on a series: by the name of an ROI, its contours, each a list of positions in mm (LPS)."""
    first = pydicom.dcmread(series.files[0])
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = pydicom.uid.generate_uid()
    one.Modality, one.StudyInstanceUID, one.SeriesInstanceUID = "RTSTRUCT", first.StudyInstanceUID, "1.2.3.77"
    images = []
    for file in (file for each in (series, *others) for file in each.files):
        source, image = pydicom.dcmread(file), pydicom.Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        images.append(image)
    referenced, study, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    referenced.SeriesInstanceUID, referenced.ContourImageSequence = first.SeriesInstanceUID, images
    study.RTReferencedSeriesSequence = [referenced]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    one.ReferencedFrameOfReferenceSequence = [frame]
    one.StructureSetROISequence, one.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=11):
        named, drawn = pydicom.Dataset(), pydicom.Dataset()
        named.ROINumber = drawn.ReferencedROINumber = number
        named.ROIName, named.ReferencedFrameOfReferenceUID = name, first.FrameOfReferenceUID
        drawn.ContourSequence = []
        for points in contours:
            contour = pydicom.Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{mm:.6g}" for point in points for mm in point]
            drawn.ContourSequence.append(contour)
        one.StructureSetROISequence.append(named)
        one.ROIContourSequence.append(drawn)
    one.save_as(path, enforce_file_format=True)

"""Who the patient is stays where it is."""

import gzip
import re
import warnings

import numpy as np
import pytest
from dicom_files import BRATS, LIVER, PLANTED, filled, labelled, only, pydicom, rewrite

from maml_toolkit.data.volumes import Volume
from maml_toolkit.dicom import convert, find_series, read_series, write_segmentation
from maml_toolkit.dicom.identity import without_identity


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
    content = re.sub(rb"1\.2\.826\.0\.1\.3680043[\d.]+", b"", (out / "seg.dcm").read_bytes())      # random numbers
    assert not [secret for secret in secrets() if secret in content and not secret.startswith(needed)]


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


def test_identity_is_in_a_segmentation_only_where_it_is_asked_for(scan, export, tmp_path):
    scan(**PLANTED)
    series = only(export)
    for name, keep in (("blank.dcm", False), ("kept.dcm", True)):
        write_segmentation(tmp_path / name, labelled(series), series, BRATS, keep_identity=keep)
    blank, kept = (pydicom.dcmread(tmp_path / name) for name in ("blank.dcm", "kept.dcm"))
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert not blank.get(name)
        assert str(kept.get(name)) == PLANTED[name]

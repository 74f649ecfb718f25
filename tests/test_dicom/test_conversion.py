"""The table of series that a person fills in, and the cases that come of it."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_files import BRATS, LIVER, contents, filled, pydicom, refusal, rewrite, rows_of, saved

from maml_toolkit.data.cases import find_cases
from maml_toolkit.data.tasks import Task
from maml_toolkit.dicom import convert, find_series, only_candidates, read_series, write_series_table
from maml_toolkit.dicom import series as dicom_series
from maml_toolkit.system.errors import DataError


def test_the_table_says_what_was_found_and_confirms_nothing(phases, tmp_path):
    write_series_table(phases(), tmp_path / "series.csv", LIVER)
    rows = rows_of(tmp_path / "series.csv")
    assert [(row["seconds"], row["slices"], row["size"], row["spacing_mm"]) for row in rows] == [
        ("0", "6", "12x10x6", "0.75x0.5x2.5"), ("1800", "7", "12x10x7", "0.75x0.5x2.5"),
        ("3600", "8", "12x10x8", "0.75x0.5x2.5")]
    assert {(row["case"], row["patient"], row["kind"], row["problem"], row["modality"]) for row in rows} == {
        ("case_001", "patient_001", "CT", "", "")}
    assert [row["description"] for row in rows] == ["Leber", "Leber", "Leber portal venous"]


def test_words_suggest_a_phase_and_order_the_rest_where_the_numbers_agree(phases, export, tmp_path):
    write_series_table(phases(), tmp_path / "three.csv", LIVER)
    assert [row["suggested"] for row in rows_of(tmp_path / "three.csv")] == ["", "", "venous"]
    three = Task("three", ("plain", "art", "pv"), LIVER.labels, intensities="ct")
    write_series_table(find_series(export), tmp_path / "order.csv", three)
    assert [row["suggested"] for row in rows_of(tmp_path / "order.csv")] == ["plain", "art", "pv"]
    for path in export.glob("0-*"):
        path.unlink()
    write_series_table(find_series(export), tmp_path / "two.csv", LIVER)
    assert [row["suggested"] for row in rows_of(tmp_path / "two.csv")] == ["arterial", "venous"]


@pytest.mark.parametrize(("text", "agent", "hint"), [
    ("T1 mprage", None, "t1"), ("t1_mprage", "Gadovist", "t1ce"), ("T2 FLAIR sag", None, "flair"),
    ("t2w tse", None, "t2"), ("T1 +C", None, "t1ce"), ("t1 t2 map", None, ""), ("localizer", None, "")])
def test_words_suggest_an_mr_contrast(scan, export, tmp_path, text, agent, hint):
    scan(kind="MR", SeriesDescription=text, ContrastBolusAgent=agent)
    write_series_table(find_series(export), tmp_path / "series.csv", BRATS)
    assert [row["suggested"] for row in rows_of(tmp_path / "series.csv")] == [hint]


def named(scan, export, *texts, kind="MR", **elements):
    """Series of one study with these descriptions; their modalities by description, where each has one candidate."""
    for number, text in enumerate(texts):
        scan(kind=kind, prefix=number, SeriesInstanceUID=f"1.5.{number}", SeriesDescription=text,
             AcquisitionTime=f"1{number}0000", **elements)
    series = find_series(export)
    found = only_candidates(series, BRATS if kind == "MR" else LIVER)
    return {one.description: found[one.name] for one in series if one.name in found}


def test_where_each_modality_has_one_candidate_nobody_needs_to_choose(scan, export):
    assert named(scan, export, "t1w", "FLAIR ax", "t2 tse", "DWI b1000") == {
        "t1w": "t1", "FLAIR ax": "flair", "t2 tse": "t2"}


def test_two_candidates_of_one_modality_are_named(scan, export):
    with pytest.raises(DataError) as caught:
        named(scan, export, "t1w", "t2 tse", "t2 blade")
    (error,) = caught.value.errors
    assert (error.case, error.modality) == ("case_001", "t2")
    assert "t2 tse" in str(error)
    assert "t2 blade" in str(error)


def test_a_modality_whose_only_series_has_a_problem_is_not_left_out_without_a_word(scan, export):
    scan(kind="MR", prefix=9, slices=5, SeriesInstanceUID="1.5.9", SeriesDescription="flair")
    (export / "9-002.dcm").unlink()
    with pytest.raises(DataError, match=r"\b1 slices") as caught:
        named(scan, export, "t1w", "t2 tse")
    assert [error.modality for error in caught.value.errors] == ["flair"]


def test_a_phase_that_does_not_say_which_one_it_is_wants_a_person(scan, export, phases):
    with pytest.raises(DataError) as caught:
        only_candidates(phases(), LIVER)        # "Leber", "Leber", "Leber portal venous"
    (error,) = caught.value.errors
    assert error.modality == "arterial"
    assert "2 series" in error.problem
    with pytest.raises(DataError, match="no series that says"):
        only_candidates([one for one in find_series(export) if one.description == "Leber"][:1], LIVER)


def test_what_is_suggested_is_not_used_without_a_person(phases, export, tmp_path):
    write_series_table(phases(), tmp_path / "series.csv", LIVER)
    message = refusal(export, tmp_path / "series.csv", tmp_path / "out", LIVER)
    assert "no row has a modality" in message
    assert "arterial, venous" in message
    assert not (tmp_path / "out").exists()


def test_a_table_is_never_overwritten(phases, tmp_path):
    series = phases()
    path = filled(series, tmp_path / "series.csv", ["arterial", "", "venous"])
    with pytest.raises(DataError, match="already"):
        write_series_table(series, path, LIVER)
    with pytest.raises(DataError, match="cannot be written"):
        write_series_table(series, tmp_path / "elsewhere" / "series.csv", LIVER)


def test_a_confirmed_table_becomes_cases_on_their_own_grids(phases, export, tmp_path):
    series = phases()
    cases = convert(export, filled(series, tmp_path / "series.csv", ["", "Arterial", "PV"]), tmp_path / "out", LIVER)
    assert [(case.id, case.patient, case.modalities) for case in cases] == [
        ("case_001", "patient_001", ("arterial", "venous"))]
    assert find_cases(tmp_path / "out" / "cases.csv", LIVER) == cases
    for modality, source in (("arterial", series[1]), ("venous", series[2])):
        image, volume = nib.load(cases[0].images[modality]), read_series(source)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.array)
        np.testing.assert_allclose(image.affine, volume.affine)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_table_that_went_through_a_spreadsheet_is_read(phases, export, tmp_path, delimiter):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", ""])
    rows = rows_of(path)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, [*rows[0]], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    assert convert(export, path, tmp_path / "out", LIVER)[0].modalities == ("arterial",)


def test_a_table_that_contradicts_itself_is_refused_with_all_its_faults(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "art", "spleen"])
    message = refusal(export, path, tmp_path / "out", LIVER)
    assert "2 problems" in message
    assert "'spleen'" in message
    assert "modality arterial" in message
    assert "found two series" in message
    rows = rows_of(path)
    rows[1] |= {"modality": "venous", "patient": "patient_002"}
    rows[2] |= {"series": rows[0]["series"], "modality": "venous"}
    message = refusal(export, saved(path, rows), tmp_path / "out", LIVER)
    assert "two patients in one case" in message
    assert "twice" in message


def test_a_table_that_cannot_be_understood_says_why(phases, export, tmp_path):
    phases()
    path = tmp_path / "series.csv"
    assert "cannot be read" in refusal(export, path, tmp_path / "out", LIVER)
    path.write_text("series,case\n1,2\n")
    assert "found no column patient, modality" in refusal(export, path, tmp_path / "out", LIVER)
    path.write_bytes(b"s\x81ries")
    assert "UTF-8" in refusal(export, path, tmp_path / "out", LIVER)


def test_series_whose_slices_were_numbered_alike_are_told_apart(scan, export, tmp_path):
    for number in (7, 8):
        scan(values=np.full((4, 10, 12), 1024 + number, np.uint16), prefix=number, SeriesInstanceUID=f"1.2.{number}",
             SeriesDescription=str(number), SOPInstanceUID=tuple(f"1.9.{at}" for at in range(4)))
    found = find_series(export)
    for number in (7, 8):
        given = ["venous" if one.description == str(number) else "" for one in found]
        case, = convert(export, filled(found, tmp_path / f"{number}.csv", given), tmp_path / str(number), LIVER)
        assert np.unique(nib.load(case.images["venous"]).get_fdata()) == [number]


def test_no_series_has_a_name_that_a_spreadsheet_takes_for_a_number(phases, monkeypatch):
    for digest, name in (("140544123456", "s140544123456"), ("14e544123456", "s14e544123456"), ("1a", "1a")):
        monkeypatch.setattr(dicom_series, "digest", lambda *_, digest=digest: digest)
        assert {one.name for one in phases()} == {name}


def test_a_series_that_is_gone_or_has_changed_is_refused(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", "venous"])
    next(export.glob("0-*")).unlink()
    message = refusal(export, path, tmp_path / "out", LIVER)
    assert "case case_001, modality arterial" in message
    assert "its files are others now" in message


def test_a_series_with_a_problem_is_refused_and_nothing_is_left(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", "venous"])
    shutil.copytree(export, tmp_path / "whole")
    file = next(export.glob("2-*"))
    file.write_bytes(file.read_bytes()[:-20])
    assert "the voxels are cut off" in refusal(export, path, tmp_path / "out", LIVER)
    assert "only read" in refusal(export, path, export / "out", LIVER)
    assert not (tmp_path / "out").exists()
    assert len(convert(tmp_path / "whole", path, tmp_path / "out", LIVER)) == 1
    assert "already holds" in refusal(tmp_path / "whole", path, tmp_path / "out", LIVER)


def test_an_error_while_voxels_are_read_leaves_nothing(phases, export, tmp_path):
    path = filled(phases(), tmp_path / "series.csv", ["arterial", "", "venous"])
    rewrite(export, lambda one, _: one.compress(pydicom.uid.RLELossless))
    file = export / "2-001.dcm"
    file.write_bytes(file.read_bytes()[:-120])
    assert "modality venous" in refusal(export, path, tmp_path / "out", LIVER)
    assert not (tmp_path / "out").exists()


def test_a_patient_keeps_the_pseudonym_over_several_examinations(scan, export, tmp_path):
    for number, patient in enumerate(["A", "B", "A"]):
        scan(SeriesInstanceUID=f"1.5.{number}", StudyInstanceUID=f"1.6.{number}", PatientID=patient,
             SeriesDescription=patient * 3)
    series = find_series(export)
    assert [one.case for one in series] == ["case_001", "case_002", "case_003"]
    counts = sorted([one.patient for one in series].count(name) for name in {one.patient for one in series})
    assert counts == [1, 2]
    cases = convert(export, filled(series, tmp_path / "series.csv", ["arterial"] * 3), tmp_path / "out", LIVER)
    assert [case.patient for case in cases] == [one.patient for one in series]


@pytest.mark.parametrize("at", [1, 2])
def test_a_conversion_that_is_interrupted_leaves_nothing_and_changes_no_input(scan, export, tmp_path, monkeypatch, at):
    for number in (1, 2):
        scan(SeriesInstanceUID=f"1.2.3.{number}", prefix=number)
    table = filled(find_series(export), tmp_path / "series.csv", ["arterial", "venous"])
    before, calls = contents(export), []

    def interrupted(series):
        calls.append(series)
        if len(calls) == at:
            raise KeyboardInterrupt
        return read_series(series)

    with monkeypatch.context() as patched:
        patched.setattr("maml_toolkit.dicom.conversion.read_series", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(export, table, tmp_path / "cases", LIVER)
    assert len(calls) == at
    assert not (tmp_path / "cases").exists()
    (case,) = convert(export, table, tmp_path / "cases", LIVER)
    assert case.modalities == ("arterial", "venous")
    assert contents(export) == before

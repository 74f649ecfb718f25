"""What a training says of its files before it starts."""

import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from tiny_training import LIVER, trainer

from maml_toolkit.data import phantoms
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.methods import build
from maml_toolkit.system.errors import DataError, DataWarning
from maml_toolkit.training.checking import check_cases


@pytest.fixture
def cases(tmp_path):
    """Three small cases in files."""
    return find_cases(write_cases(phantoms.liver_phases(3, size=16), tmp_path / "data", task=LIVER), LIVER)


@pytest.mark.parametrize("spacing", [None, (1, 1, 1)])
@pytest.mark.parametrize("cache", [None, "arrays"])
def test_missing_files_of_training_and_validation_are_told_together(tmp_path, cases, cache, spacing):
    gone = [cases[0].images["arterial"], cases[0].label, cases[1].images["arterial"], cases[2].images["arterial"],
            cases[2].images["venous"]]
    for file in gone:
        file.unlink()
    one = trainer(tmp_path / "run", cache=cache and tmp_path / cache)
    one.task = one.task if spacing is None else one.task.with_spacing(spacing)
    with pytest.raises(DataError) as caught:
        one.fit(cases[:2], cases[2:])
    assert {error.path for error in caught.value.errors} == set(gone)
    assert all(error.case and error.remedy for error in caught.value.errors)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_patient_in_training_and_in_validation_is_told_by_name():
    first, second, third = (replace(case, patient=patient) for case, patient in zip(
        phantoms.liver_phases(3, size=16), ("anna", "anna", None), strict=True))
    method = trainer("unused").method
    with pytest.warns(DataWarning, match=r"1 patient .*anna"):
        check_cases(method, [first, third], [second])
    check_cases(method, [first, second], [third])


def test_a_training_goes_on_from_its_arrays_where_the_files_are_gone(tmp_path, cases):
    task = LIVER.with_spacing((1, 1, 1))
    prepare_all(cases, task, tmp_path / "arrays")
    shutil.rmtree(tmp_path / "data")
    one = trainer(tmp_path / "run", cache=tmp_path / "arrays")
    one.task = task
    assert one.fit(cases[:2], cases[2:])["step"].max() == 6


def having(case, *names):
    return replace(case, images={name: case.images[name] for name in names})


def test_a_scan_that_no_training_case_has_is_refused_and_scans_never_seen_together_are_told():
    one, two = phantoms.liver_phases(2, 16)
    method = build("maml", modalities=LIVER.modalities, classes=2, channels=(2, 4))
    with pytest.raises(DataError, match="arterial"):
        check_cases(method, [having(one, "venous"), having(two, "venous")], [])
    check_cases(method, [one, having(two, "venous")])
    check_cases(method, [having(one, "venous")], started=True)          # the weights of before may know it
    with pytest.warns(DataWarning, match="together"):
        check_cases(method, [having(one, "venous"), having(two, "arterial")])
    check_cases(build("hemis", modalities=LIVER.modalities, classes=2, channels=(2, 4)),
                [having(one, "venous"), having(two, "arterial")])


def test_what_is_wrong_between_cases_is_found_however_often_it_is_asked(tmp_path):
    """Each case alone is good and leaves arrays, with which the second call begins."""
    (case, other) = phantoms.liver_phases(2, size=16)
    copy = replace(case, id="copy")
    for number, (training, validation) in enumerate([([case, copy], []), ([case, other], [copy])]):
        for _ in range(2):
            with pytest.warns(DataWarning, match="same label"), pytest.raises(DataError, match="same voxels"):
                trainer(tmp_path / "run", cache=tmp_path / str(number)).fit(training, validation)
    empty = [replace(one, label=nibabel.Nifti1Image(0 * np.asarray(one.label.dataobj), one.label.affine))
             for one in (case, other)]
    for _ in range(2):
        with pytest.raises(DataError, match="tumour"):
            trainer(tmp_path / "run", cache=tmp_path / "empty").fit(empty[:1], [other])

"""What is simulated says so, and a patient stays with the case, through every layout and every copy."""

import nibabel as nib
import numpy as np
import pytest

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import LAYOUTS, Case, find_cases, task_of, write_cases, write_table
from maml_toolkit.data.mending import mend
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.data.volumes import Frame, mark_of
from maml_toolkit.registration import cases as registered
from maml_toolkit.registration import register_case

TASK = TASKS["brats2021"]
SAID = "Simulated, seed 3"


def array(seed):
    return np.random.default_rng(seed).integers(1, 1000, (5, 6, 7)).astype(np.int16)


def label():
    values = np.zeros((5, 6, 7), np.uint8)
    values[1:3, 1:3, 1:3] = 4
    return values


def in_memory(values, mark=SAID):
    image = nib.Nifti1Image(values, np.eye(4))
    image.header["descrip"] = mark.encode()
    return image


@pytest.fixture(params=["in memory", "in the header", "in the name", "in a name of NIfTI-2", "a frame"])
def case(request, tmp_path):
    """A case of a known patient; its t1ce and its label are simulated, its other scans are not."""
    values = {name: array(seed) for seed, name in enumerate(TASK.modalities)}
    real = {name: nib.Nifti1Image(one, np.eye(4)) for name, one in values.items()}
    if request.param == "in memory":
        simulated = in_memory(values["t1ce"]), in_memory(label())
    elif request.param == "a frame":
        nib.save(in_memory(np.stack([values["t1ce"], label().astype(np.int16)], -1)), tmp_path / "four.nii.gz")
        simulated = Frame(tmp_path / "four.nii.gz", 0), Frame(tmp_path / "four.nii.gz", 1)
    else:
        in_name = request.param != "in the header"
        kind = nib.Nifti2Image if "2" in request.param else nib.Nifti1Image
        for name, one in (("t1ce", values["t1ce"]), ("seg", label())):
            image = kind(one, np.eye(4))
            image.header["descrip"] = b"FSL 5.0" if in_name else SAID.encode()
            nib.save(image, tmp_path / f"{name}{'_simulated' if in_name else ''}.nii.gz")
        simulated = next(iter(tmp_path.glob("t1ce*"))), next(iter(tmp_path.glob("seg*")))
    return Case("a", {**real, "t1ce": simulated[0]}, simulated[1], "p7")


def is_kept(case, again, named=("a", "p7")):
    assert (again.id, again.patient) == named
    assert "simulated" in mark_of(again.images["t1ce"]).lower()
    assert "simulated" in mark_of(again.label).lower()
    assert [mark_of(again.images[name]) for name in ("t1", "t2", "flair")] == [""] * 3
    for name in TASK.modalities:
        np.testing.assert_array_equal(volumes.read(again.images[name]).array, volumes.read(case.images[name]).array)
    np.testing.assert_array_equal(volumes.read_label(again.label).array > 0, label() > 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_simulated_and_whose_it_is_survive_every_layout(case, tmp_path, layout):
    written = write_cases([case], tmp_path / "out", layout, TASK)
    task = task_of(written, TASK)
    named = ("sub-p7_ses-a", "sub-p7") if layout == "bids" else ("a", "p7")
    (again,) = find_cases(written, task)
    is_kept(case, again, named)
    write_table([again], tmp_path / "again.csv", task)
    is_kept(case, *find_cases(tmp_path / "again.csv", task), named)


def test_a_registered_case_keeps_them(case, tmp_path, monkeypatch):
    monkeypatch.setattr(registered, "register", lambda *_, **__: pytest.fail("one modality needs no registration"))
    one = Case("a", {"t1ce": case.images["t1ce"]}, case.label, "p7")
    task = TASKS["brats2021"].from_json({**TASK.to_json(), "reference": "t1ce", "label_on": "t1ce"})
    register_case(one, task, tmp_path / "out")
    (again,) = find_cases(tmp_path / "out", task)
    assert again.patient == "p7"
    assert "simulated" in mark_of(again.images["t1ce"]).lower()
    assert "simulated" in mark_of(again.label).lower()


def test_a_mended_copy_keeps_the_mark_and_says_nothing_of_a_real_scan(tmp_path):
    for name, said in (("real", "FSL 5.0"), ("marked", SAID), ("named_simulated", "")):
        nib.save(in_memory(array(0), said), tmp_path / f"{name}.nii.gz")
    found = {name: mark_of(mend(tmp_path / f"{name}.nii.gz", tmp_path / f"{name[0]}.nii", fill=0))
             for name in ("real", "marked", "named_simulated")}
    assert found == {"real": "", "marked": SAID, "named_simulated": "simulated"}


def test_a_mark_from_a_name_changes_nothing_else_of_a_file(tmp_path):
    scaled = nib.Nifti1Image(array(0), np.diag([2.0, 1, 1, 1]))
    scaled.header.set_slope_inter(0.5, -3)
    nib.save(scaled, tmp_path / "t1_simulated.nii")
    write_cases([Case("a", {"t1": tmp_path / "t1_simulated.nii"})], tmp_path / "out")
    old, new = nib.load(tmp_path / "t1_simulated.nii"), nib.load(tmp_path / "out" / "a" / "a_t1.nii.gz")
    for field in set(old.header.keys()) - {"descrip"}:
        np.testing.assert_array_equal(new.header[field], old.header[field], err_msg=field)
    np.testing.assert_array_equal(new.dataobj.get_unscaled(), old.dataobj.get_unscaled())
    assert bytes(new.header["descrip"]).startswith(b"simulated")

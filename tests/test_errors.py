"""Errors say where, what and what to do; several are reported as one."""

from maml_toolkit.errors import DataError


def test_an_error_names_place_problem_and_remedy():
    error = DataError("found NaN", "Repair it.", case="a", modality="t1", path="a_t1.nii")
    assert str(error) == "case a, modality t1, file a_t1.nii: found NaN\n  Remedy: Repair it."


def test_several_errors_are_reported_together():
    one, two, three = (DataError(name) for name in ("one", "two", "three"))
    together = DataError.together([one, DataError.together([two, three])])
    assert together.errors == (one, two, three)
    assert str(together).startswith("3 problems were found:\n- one\n- two\n- three")


def test_a_single_error_stays_as_it_is():
    error = DataError("one")
    assert DataError.together([error]) is error

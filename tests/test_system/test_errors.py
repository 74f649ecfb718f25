"""Errors say where, what and what to do; several are reported as one."""

from maml_toolkit.system.errors import DataError, grouped


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


def test_what_many_cases_have_is_told_once_and_still_counted():
    errors = [DataError("found 4", "Choose the task.", case=f"c{number}", modality="label", path=f"c{number}.nii")
              for number in range(7)]
    together = DataError.together([*errors, DataError("found NaN", case="c1")])
    assert len(together.errors) == 8
    assert str(together) == ("8 problems were found:\n- cases c0, c1, c2, c3, c4, c5, c6, modality label, "
                             "file c0.nii and 6 more: found 4\n  Remedy: Choose the task.\n- case c1: found NaN")
    twice = [DataError("odd", case="a", path=name) for name in ("x", "y")]
    assert grouped(twice) == ["case a, file x and 1 more: odd"]
    assert grouped([DataError("a row is short", path="cases.csv") for _ in "ab"]) == [
        "file cases.csv: a row is short (2 times)"]

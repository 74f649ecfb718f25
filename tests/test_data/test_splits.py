import numpy as np
import pytest

from maml_toolkit.data.cases import Case
from maml_toolkit.data.splits import holdout, kfold, read, select, write
from maml_toolkit.system.errors import DataError


def some_cases(count, per_patient=1):
    return [Case(f"case-{i:02d}", patient=f"patient-{i // per_patient}") for i in range(count)]


def ids(cases):
    return [case.id for case in cases]


@pytest.mark.parametrize("per_patient", [1, 3])
def test_every_case_is_held_out_once_and_no_patient_is_on_both_sides(per_patient):
    cases = some_cases(17, per_patient)
    folds = kfold(cases, folds=4, seed=7)
    assert sorted(case.id for _, held_out in folds for case in held_out) == ids(cases)
    for training, held_out in folds:
        assert sorted(ids(training) + ids(held_out)) == ids(cases)
        assert not {case.patient for case in training} & {case.patient for case in held_out}


def test_the_order_of_the_cases_is_irrelevant():
    cases = some_cases(12, per_patient=2)
    assert kfold(cases[::-1]) == kfold(cases)


def test_another_seed_gives_other_folds():
    assert kfold(some_cases(30), seed=1) != kfold(some_cases(30), seed=2)


def test_the_names_of_patients_do_not_change_the_folds():
    renamed = [Case(case.id, patient=f"{99 - i}") for i, case in enumerate(some_cases(10))]
    anonymous = [Case(case.id) for case in renamed]
    for (_, held_out), (_, expected) in zip(kfold(renamed), kfold(anonymous), strict=True):
        assert ids(held_out) == ids(expected)


def test_the_folds_are_those_of_scikit_learn():
    """scikit-learn is no dependency: these are the steps of its KFold.

    RandomState(12345) shuffles 0 … 9 to 0 7 3 9 6 4 1 8 5 2; 10 % 3 = 1, so the first fold takes four of
    them and the others three, each sorted.
    """
    held_out = [ids(held_out) for _, held_out in kfold(some_cases(10), folds=3, seed=12345)]
    assert held_out == [[f"case-{i:02d}" for i in fold] for fold in ([0, 3, 7, 9], [1, 4, 6], [2, 5, 8])]
    order = np.arange(10)
    np.random.RandomState(12345).shuffle(order)
    assert list(order) == [0, 7, 3, 9, 6, 4, 1, 8, 5, 2]


def test_too_few_patients_for_the_folds_are_refused():
    with pytest.raises(ValueError, match=r"\b2 patients\b.*\b3 folds"):
        kfold(some_cases(6, per_patient=3), folds=3)
    with pytest.raises(ValueError, match="at least two folds"):
        kfold(some_cases(6), folds=1)


def test_two_cases_of_one_id_are_refused():
    with pytest.raises(DataError, match="case-00"):
        kfold([*some_cases(3), Case("case-00")])


def test_selected_cases_come_in_the_order_of_the_ids():
    assert ids(select(some_cases(5), ["case-03", "case-01"])) == ["case-03", "case-01"]


def test_a_case_that_is_selected_twice_is_selected_once():
    assert ids(select(some_cases(5), ["case-03", "case-01", "case-03"])) == ["case-03", "case-01"]


def test_whole_numbers_stand_for_cases_called_so_and_nothing_else_does():
    cases = [Case(id) for id in ("12", "7", "007", "1e5", "True", "None")]
    assert ids(select(cases, [12, 7, "007"])) == ["12", "7", "007"]
    assert ids(select(cases, 12)) == ["12"]
    for wrong in (1e5, True, None, ["12"]):
        with pytest.raises(DataError) as caught:
            select(cases, [wrong])
        assert caught.value.remedy


def test_the_ids_of_a_list_of_folds_stay_text(tmp_path):
    cases = [Case(id) for id in ("001", "1e5", "NA", "null", "12", "Müller, A")]
    folds = [(cases[:3], cases[3:])]
    write(tmp_path / "splits.json", folds)
    assert read(tmp_path / "splits.json", cases) == folds
    (tmp_path / "hand.json").write_bytes(b'\xef\xbb\xbf{"folds": [{"training": ["001"], "test": [12]}]}')
    assert read(tmp_path / "hand.json", cases) == [(cases[:1], cases[4:5])]


def test_an_unknown_id_is_named_with_the_nearest_one():
    with pytest.raises(DataError, match=r"csae-04\b.*\bcase-04") as error:
        select(some_cases(5), ["case-01", "csae-04"])
    assert "csae-04" in error.value.problem
    assert "case-01" not in error.value.problem
    with pytest.raises(DataError, match="among 0 cases"):
        select([], ["case-01"])


def test_a_hold_out_is_disjoint_by_patient_and_of_the_size_asked_for():
    cases = some_cases(20, per_patient=2)
    ((training, test),) = holdout(cases, share=0.2)
    assert (len(training), len(test)) == (16, 4)
    assert not {case.patient for case in training} & {case.patient for case in test}
    assert holdout(cases[::-1], share=0.2) == [(training, test)]
    for share in (0, 1, 0.01):
        with pytest.raises(ValueError, match="at least one"):
            holdout(cases, share)


def test_folds_come_back_from_their_file(tmp_path):
    cases = some_cases(10)
    folds = kfold(cases, 3)
    write(tmp_path / "splits.json", folds)
    assert read(tmp_path / "splits.json", cases) == folds


def test_a_patient_in_two_folds_is_an_error(tmp_path):
    cases = some_cases(6, per_patient=2)
    with pytest.raises(DataError, match=r"\bpatient-0\b.*\bfold 0\b"):
        write(tmp_path / "splits.json", [(cases[:1], cases[1:2])])
    with pytest.raises(DataError, match=r"\bpatient-1\b.*\bfold 0\b.*\bfold 1\b"):
        write(tmp_path / "splits.json", [(cases[:2], cases[2:3]), (cases[:2], cases[3:4])])
    assert not (tmp_path / "splits.json").exists()
    (tmp_path / "hand.json").write_text('{"folds": [{"training": ["case-00"], "test": ["case-01"]}]}')
    with pytest.raises(DataError, match="patient-0"):
        read(tmp_path / "hand.json", cases)


@pytest.mark.parametrize("side", ["training", "test"])
def test_a_case_that_a_fold_lists_twice_is_refused_by_its_id(tmp_path, side):
    cases = some_cases(3)
    fold = ([*cases[:1], *cases[:1]], cases[2:]) if side == "training" else (cases[1:], [*cases[:1], *cases[:1]])
    with pytest.raises(DataError) as caught:
        write(tmp_path / "splits.json", [fold])
    assert caught.value.case == "case-00"
    assert side in caught.value.problem


@pytest.mark.parametrize("text", ["[]", "{", '{"folds": [{"training": []}]}'])
def test_a_file_without_folds_is_refused(tmp_path, text):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(DataError, match="found no folds"):
        read(tmp_path / "splits.json", some_cases(3))


def test_folds_by_hand_may_name_cases_by_numbers_and_a_bad_line_is_named(tmp_path):
    cases = [Case(id) for id in ("7", "8", "9")]
    path = tmp_path / "splits.json"
    path.write_text('\ufeff{"folds": [{"training": [7, "8"], "test": [9]}]}', encoding="utf-8")
    ((training, test),) = read(path, cases)
    assert ([case.id for case in training], [case.id for case in test]) == (["7", "8"], ["9"])
    for content, said in (('{"folds": [\n{"training": ["7",], "test": []}]}', "line 2, column"),
                          ('{"folds": [{"training": "7", "test": []}]}', "'7', expected a list of ids")):
        path.write_text(content)
        with pytest.raises(DataError) as caught:
            read(path, cases)
        assert caught.value.path == path
        assert said in caught.value.problem
        assert "training" in caught.value.remedy


def test_a_file_of_folds_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "folds.json", tmp_path):
        with pytest.raises(DataError, match="cannot be read") as caught:
            read(path, [])
        assert caught.value.path == path

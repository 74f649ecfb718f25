"""Which cases train and which are held out.

The folds are those of scikit-learn's `KFold(folds, shuffle=True, random_state=seed)` over the sorted ids, as
in nnU-Net and so in the release of MAML: with one case a patient and the seed 12345 the same cases meet in
the same folds. Cases of one patient always stay together.

References:
    Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation,
    Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maml_toolkit.data.case import Case, Cases, composed
from maml_toolkit.system.errors import DataError, expect_none, few, near_to
from maml_toolkit.system.files import read_json, write_whole


def kfold(cases: Sequence[Case], folds: int = 3, seed: int = 12345) -> list[tuple[Cases, Cases]]:
    """For each fold its training cases and its held-out cases, sorted by id, disjoint by patient.

    Every case is held out in exactly one fold. The order in which the cases come is irrelevant.

    Raises:
        ValueError: fewer than two folds, or fewer patients than folds.
        DataError: two cases of one id.
    """
    patients = _patients(cases)
    if folds < 2 or len(patients) < folds:
        raise ValueError(f"found {len(patients)} patients for {folds} folds, expected at least two folds "
                         "and as many patients")
    parts = np.array_split(np.array(_shuffled(patients, seed), object), folds)       # the first ones larger by one
    return [_fold(cases, set(part)) for part in parts]


def holdout(cases: Sequence[Case], share: float = 0.2, seed: int = 12345) -> list[tuple[Cases, Cases]]:
    """One fold: a share of the patients (the paper's liver data: a fifth) held out, the others for training.

    Raises:
        ValueError: a share that leaves one of the sides empty.
        DataError: two cases of one id.
    """
    patients = _patients(cases)
    count = round(share * len(patients))
    if not 0 < count < len(patients):
        raise ValueError(f"found share={share} of {len(patients)} patients, expected one that leaves at least one "
                         "patient on each side")
    return [_fold(cases, set(_shuffled(patients, seed)[:count]))]


def _patients(cases: Sequence[Case]) -> list[str]:
    """Each once, in the order of the ids of their cases."""
    return list(dict.fromkeys(patient_of(case) for _, case in sorted(_by_id(cases).items())))


def _shuffled(patients: Sequence[str], seed: int) -> list[str]:
    """In the order of the legacy generator, which is scikit-learn's."""
    return [patients[index] for index in np.random.RandomState(seed).permutation(len(patients))]


def _fold(cases: Sequence[Case], held_out: set[str]) -> tuple[Cases, Cases]:
    in_order = sorted(cases, key=lambda case: case.id)
    return (Cases(case for case in in_order if patient_of(case) not in held_out),
            Cases(case for case in in_order if patient_of(case) in held_out))


def write(path: str | Path, folds: Sequence[tuple[Sequence[Case], Sequence[Case]]]) -> None:
    """Write folds as JSON, {"folds": [{"training": [ids], "test": [ids]}, …]}, for `read`.

    Raises:
        DataError: a patient on both sides of a fold, or held out twice.
    """
    check_folds(folds)
    listed = [{"training": [case.id for case in training], "test": [case.id for case in test]}
              for training, test in folds]
    write_whole(Path(path), json.dumps({"folds": listed}, indent=1))


def read(path: str | Path, cases: Iterable[Case]) -> list[tuple[Cases, Cases]]:
    """The folds that a JSON file lists, of these cases.

    Raises:
        DataError: an id that no case has, a patient on both sides of a fold or held out twice, or a file of
            another form.
    """
    cases = list(cases)
    try:
        listed = [[_ids(fold[part]) for part in ("training", "test")] for fold in read_json(path)["folds"]]
    except (KeyError, TypeError, ValueError) as error:
        what, remedy = (error.problem, f"{error.remedy} ") if isinstance(error, DataError) else (
            f"{type(error).__name__}: {error}", "")
        raise DataError(f"found no folds in it ({what})",
                        f'{remedy}Write {{"folds": [{{"training": [ids], "test": [ids]}}, …]}}.', path=path) from error
    folds = [(select(cases, training), select(cases, test)) for training, test in listed]
    check_folds(folds)
    return folds


def _ids(listed: object) -> list[str]:
    if not isinstance(listed, list):
        raise TypeError(f"found {listed!r}, expected a list of ids")
    return list(map(_id, listed))


def check_folds(folds: Sequence[tuple[Sequence[Case], Sequence[Case]]]) -> None:
    """Nothing, if no patient trains and tests a network, none is held out in two folds, and no case is listed twice.

    Raises:
        DataError: every patient and case for whom that is not so.
    """
    errors, held_out = [], {}
    for number, (training, test) in enumerate(folds):
        errors += [DataError(f"found it {count} times in the {side} cases of fold {number}, expected it once",
                             "List it once.", case=id) for side, ones in (("training", training), ("test", test))
                   for id, count in Counter(case.id for case in ones).items() if count > 1]
        seen = {patient_of(case) for case in training}
        for patient in dict.fromkeys(patient_of(case) for case in test):
            if patient in seen:
                errors.append(DataError(f"patient {patient} is in training and test of fold {number}",
                                        "Keep all cases of a patient on one side."))
            if (first := held_out.setdefault(patient, number)) != number:
                errors.append(DataError(f"patient {patient} is held out in fold {first} and in fold {number}",
                                        "Hold each patient out once."))
    expect_none(errors)


def select(cases: Iterable[Case], ids: str | int | Iterable[Any]) -> Cases:
    """The cases of these ids (or of this one), each once, in the order of the ids.

    A whole number counts as its digits: where a case is called 12, so does 12.

    Raises:
        DataError: an id that no case has, with the nearest that one has; one that is no text; or two cases of one id.
    """
    by_id, ids = _by_id(cases), list(dict.fromkeys(map(_id, [ids] if isinstance(ids, str | int) else ids)))
    if unknown := [one for one in ids if one not in by_id]:
        near = {one: near_to(one, by_id) for one in unknown}
        hints = [f"For {one}, did you mean {match}?" for one, match in near.items() if match]
        raise DataError(f"found no case of the id {', '.join(unknown)} among {len(by_id)} cases",
                        " ".join([*hints, f"The cases are called {few(sorted(by_id))}." if by_id else
                                  "Give the cases to select from."]))
    return Cases(by_id[one] for one in ids)


def _id(given: Any) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise DataError(f"found the id {given!r}, expected text", "Write it in quotes, as the case is called.")
    return composed(str(given))


def _by_id(cases: Iterable[Case]) -> dict[str, Case]:
    by_id: dict[str, Case] = {}
    for case in cases:
        if by_id.setdefault(case.id, case) is not case:
            raise DataError("found two cases of this id, expected each id once", "Rename one of them.", case=case.id)
    return by_id


def patient_of(case: Case) -> str:
    """Whose case it is; a case of nobody in particular is a patient of its own."""
    return case.patient if case.patient is not None else case.id

"""Which cases train and which are held out.

The folds are those of scikit-learn's `KFold(folds, shuffle=True, random_state=seed)` over the sorted ids, as
in nnU-Net and so in the release of MAML: with one case a patient and the seed 12345 the same cases meet in
the same folds. Cases of one patient always stay together.

References:
    Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation,
    Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from maml_toolkit.data.cases import Case
from maml_toolkit.errors import DataError


def kfold(cases: Sequence[Case], folds: int = 3, seed: int = 12345) -> list[tuple[list[Case], list[Case]]]:
    """For each fold its training cases and its held-out cases, sorted by id, disjoint by patient.

    Every case is held out in exactly one fold. The order in which the cases come is irrelevant.

    Raises:
        ValueError: fewer than two folds, or fewer patients than folds.
        DataError: two cases of one id.
    """
    by_id = _by_id(cases)
    in_order = [by_id[case_id] for case_id in sorted(by_id)]
    patients = list(dict.fromkeys(_patient(case) for case in in_order))
    if folds < 2 or len(patients) < folds:
        raise ValueError(f"found {len(patients)} patients for {folds} folds, expected at least two folds "
                         "and as many patients")
    return [([case for case in in_order if _patient(case) not in held_out],
             [case for case in in_order if _patient(case) in held_out])
            for held_out in _parts(patients, folds, seed)]


def select(cases: Iterable[Case], ids: str | Iterable[str]) -> list[Case]:
    """The cases of these ids (or of this one), in the order of the ids.

    Raises:
        DataError: an id that no case has, with the nearest that one has; or two cases of one id.
    """
    by_id, ids = _by_id(cases), [ids] if isinstance(ids, str) else list(ids)
    if unknown := [one for one in ids if one not in by_id]:
        near = {one: difflib.get_close_matches(one, by_id, n=1, cutoff=0.0) for one in unknown}
        hints = [f"For {one}, did you mean {match[0]}?" for one, match in near.items() if match]
        raise DataError(f"found no case of the id {', '.join(unknown)} among {len(by_id)} cases",
                        " ".join(hints) or "Give the cases to select from.")
    return [by_id[one] for one in ids]


def _by_id(cases: Iterable[Case]) -> dict[str, Case]:
    by_id: dict[str, Case] = {}
    for case in cases:
        if by_id.setdefault(case.id, case) is not case:
            raise DataError("found two cases of this id, expected each id once", "Rename one of them.",
                            case=case.id)
    return by_id


def _patient(case: Case) -> str:
    return case.patient if case.patient is not None else case.id


def _parts(patients: Sequence[str], folds: int, seed: int) -> list[set[str]]:
    """The shuffled patients (legacy generator, as scikit-learn's), the first folds larger by one."""
    order = np.arange(len(patients))
    np.random.RandomState(seed).shuffle(order)
    return [{patients[index] for index in part} for part in np.array_split(order, folds)]

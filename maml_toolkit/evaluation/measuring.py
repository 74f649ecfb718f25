"""Evaluation: cases x subsets x regions -> one tidy table (table.py), of what is predicted now or was saved before."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maml_toolkit.data.cases import Case, expect_cases, same_twice
from maml_toolkit.data.checksums import content
from maml_toolkit.data.geometry import grid_difference, reaches
from maml_toolkit.data.label_sets import compared_masks, opened, undrawn
from maml_toolkit.data.nifti import ENDINGS
from maml_toolkit.data.reading import read_case
from maml_toolkit.data.tasks import Task
from maml_toolkit.data.volumes import Volume, path_of
from maml_toolkit.evaluation.metrics import METRICS, VERSION, asked, measure
from maml_toolkit.evaluation.table import COLUMNS, Table
from maml_toolkit.prediction.answering import check_policies
from maml_toolkit.prediction.prediction import Prediction, check_smallest
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.saved import ABOUT, task_in
from maml_toolkit.prediction.sureness import plain
from maml_toolkit.system import machine
from maml_toolkit.system.errors import DataError, counted, expect_none, few
from maml_toolkit.system.files import as_json

WORDS = ("full", "each", "all")
"""Which subsets of the modalities to answer from, in a word."""

EXPECTED = "expected_dice"
"""The metric that an answer knows of itself."""

FIT = "maml-toolkit fit RUN CASES, then predict with --uncertainty true"
"""What makes an answer know it."""

EMPTY = {(False, False): "", (True, False): "prediction", (False, True): "truth", (True, True): "both"}
"""Which of (prediction, truth) holds no voxel, in a word."""


def evaluate(predictor: Predictor | Sequence[Prediction] | str | Path, cases: Sequence[Case],
             subsets: str | Iterable[Iterable[str]] = "full", *, policies: Sequence[str] | None = None,
             metrics: str | Sequence[str] = METRICS, smallest_mm3: Mapping[str, float] | None = None,
             fold: int | None = None, seed: int | None = None,
             task: str | Path | Task | None = None) -> Table:
    """Measure predictions against the labels, on each case's own grid.

    Args:
        predictor: of a trained method; or the answers themselves: a folder of predictions as `predict` leaves it, a
            folder of label maps that another program made (`<case>.nii.gz`, as nnU-Net names them), or a list of
            predictions.
        cases: with labels.
        subsets: which modalities to answer from: "full" (all that a case has; each alone for
            a method that takes one at a time), "each" (all, then each alone),
            "all" (every non-empty subset), or a list of sets. Sets that a case lacks, or that the method does
            not accept when the word "each" or "all" asked for them, are left out.
        policies: who answers, of `answering.POLICIES`, each once; the predictor's own policy when left out.
        metrics: what is measured, in this order: "dice", "assd", "hd95", "volume" (ml), "nsd@2" (surface Dice at a
            tolerance of 2 mm, or any other), "lesions" (lesion by lesion, as BraTS 2023 GLI does) or "lesions@met" (as
            another of its challenges); `metrics.measure` lists the rows of each. With "expected_dice" the Dice that
            was to be expected without the ground truth stands beside the real one (prediction/sureness.py), for the
            numbers of scans of which that was learned.
        smallest_mm3: by region, the volume under which what was predicted of it is dropped. It is measured beside
            the plain region, as a region of its own: {"ET": 500} adds "ET ≥ 500 mm³", as the literature of BraTS does.
            Parts of a region that are too small are dropped by the Predictor (`drop_small`).
        fold, seed: written into the table.
        task: whose values the label maps of another program hold. Their method is called as their folder, and is taken
            to have seen all scans of a case.

    Returns:
        One row for each case, subset, region and metric: unless told otherwise Dice (fraction), ASSD and HD95 (mm and
        voxel). Ignored voxels count neither in the prediction nor in the ground truth; a region with a class that was
        not drawn in a case has no row for it.

    Raises:
        DataError: a case without label, without an answer or listed twice, together; a file that cannot be read; an
            answer that lies on another grid than the ground truth, is of other classes than the task (in another order
            too), or holds values that the task does not know.
        MissingModalityError: a listed set that the method does not accept.
        ValueError: another word for subsets, an unknown metric, a policy that is none, that the method does not know or
            that was not fitted, or a smallest volume of an unknown region; subsets or policies asked of saved
            predictions; no task for the label maps of another program.
    """
    expect_cases(cases)
    metrics = asked(metrics)
    metrics = asked(("dice", *metrics)) if EXPECTED in metrics else metrics
    if isinstance(predictor, Predictor):
        task = predictor.task
        answered = computed_answers(predictor, cases, subsets, policies, expects=EXPECTED in metrics)
    elif subsets != "full" or policies is not None:
        raise ValueError("found subsets or policies beside saved predictions, which are what they are; leave them out, "
                         "or give a Predictor")
    else:
        task, answered = read_answers(predictor, cases, None if task is None else Task.named(task))
    check_smallest(smallest_mm3, task)
    rows = []
    for case, answers in machine.progress(answered, total=len(cases), desc="evaluating", unit="case"):
        truth = ground_truth(case, task)
        for answer in answers:
            expect_comparable(answer, truth, case, task)
            about = {"case": case.id, "method": answer.method, "run": answer.run, "fold": fold, "seed": seed,
                     "policy": answer.policy,
                     "present": "+".join(one for one in task.modalities if one in answer.modalities)}
            measured = compare_regions(answer.classes, truth.array, task, answer.grid.file_spacing_mm, smallest_mm3,
                                       metrics)
            measured += expected_rows(answer, measured) if EXPECTED in metrics else ()
            rows += [about | row for row in measured]
    if len(cases) and not rows:
        raise DataError(f"found nothing to measure in {counted(len(cases), 'case')}: none has a region that was drawn "
                        "and scans that were asked for", "Give cases whose labels hold a region of the task, and "
                        "subsets of their scans.")
    if EXPECTED in metrics and not any(row["metric"] == EXPECTED for row in rows):
        raise DataError("found nothing learned of the Dice to expect in any answer, expected what validation cases say "
                        "of it", f"Fit it, and predict again: {FIT}.")
    return Table.of(pd.DataFrame(rows, columns=list(COLUMNS)), f"Scores of {counted(len(cases), 'case')}")


def computed_answers(predictor: Predictor, cases: Sequence[Case], subsets: str | Iterable[Iterable[str]],
                     policies: Sequence[str] | None, expects: bool) -> Iterator[tuple[Case, Iterator[Prediction]]]:
    """Each case with the answers of a Predictor to it, computed when they are taken.

    Args:
        predictor, cases, subsets, policies: as for `evaluate`.
        expects: whether they have to say which Dice is to be expected of them.

    Raises:
        DataError, MissingModalityError, ValueError: as `evaluate`, at once and not when answers are taken, of what can
            be known without reading a case.
    """
    expect_labelled(cases)
    wanted = sets_of(subsets, predictor)
    asked_of = check_policies(predictor.policy if policies is None else policies)
    if expects and (lacking := [one for one in asked_of if one not in predictor.fitted.expected_dice]):
        raise ValueError(f"found the metric {EXPECTED!r} and nothing learned of the policy {lacking[0]!r}, "
                         "expected what was learned on validation cases; learn it: maml-toolkit fit RUN CASES, or "
                         "evaluation.fit_expected_dice(predictor, cases)")
    sets = {case.id: subsets_of(case, predictor, wanted) for case in cases}
    for case in cases:
        for one in sets[case.id]:
            predictor.wanted(case, one)
    return ((case, (answer for _, answer in predictor.sweep(case, sets[case.id], policies, uncertainty=expects)))
            for case in cases)


def read_answers(answers: Sequence[Prediction] | str | Path, cases: Sequence[Case],
                 task: Task | None) -> tuple[Task, Iterator[tuple[Case, list[Prediction]]]]:
    """The task of saved predictions, and each case with those of it, read when it is its turn.

    Raises:
        DataError: cases without label, without an answer or listed twice, together.
        TypeError: they are no predictions.
        ValueError: no task is known.
    """
    folder = Path(answers) if isinstance(answers, str | Path) else None
    if folder is None and not (isinstance(answers, Sequence) and all(isinstance(one, Prediction) for one in answers)):
        raise TypeError(f"found a {type(answers).__name__}, expected a Predictor, a folder of predictions, or a list "
                        "of them")
    if folder is not None:
        places = {case.id: [one for one in (folder / case.id / ABOUT, *(folder / f"{case.id}{end}" for end in ENDINGS))
                            if one.is_file()][:1] for case in cases}
        others = sorted(one.name for one in folder.glob("[!.]*"))
    else:
        places = {case.id: [one for one in answers if one.case == case.id] for case in cases}
        others = sorted({one.case for one in answers})
    problems = []
    if lacking := [id for id, found in places.items() if not found]:
        problems.append(DataError(f"{len(lacking)} cases have no answer: {few(lacking)}; found "
                                  f"{few(others) or 'nothing'}, expected a prediction or {lacking[0]}.nii.gz",
                                  "Predict them, leave them out, or name the label maps as the cases.", path=folder))
    expect_labelled(cases, problems)
    task = task or (answers[0].task if folder is None else task_in(folder))

    def read(case: Case, place: Path | Prediction) -> Prediction:
        if isinstance(place, Prediction):
            return place
        if place.name == ABOUT:
            return Prediction.load(place.parent)
        seen = [name for name in task.modalities if name in case.images]
        return Prediction.of_label_map(place, case.id, task, seen, folder.resolve().name)

    return task, ((case, [read(case, place) for place in places[case.id]]) for case in cases)


def expect_comparable(answer: Prediction, truth: Volume, case: Case, task: Task) -> None:
    """Nothing, if an answer for a case has the classes and scans of the task, and lies on the grid of the ground truth.

    Raises:
        DataError: it has or lies on others.
    """
    if answer.task.class_names != task.class_names:
        raise DataError(f"found an answer of the classes {', '.join(answer.task.class_names)}, expected "
                        f"{', '.join(task.class_names)} as of task {task.name}", "Measure answers of other "
                        "classes apart, and leave task out for their own.", case=case.id)
    if unknown := sorted(set(answer.modalities) - set(task.modalities)):
        raise DataError(f"found an answer from {', '.join(unknown)}, expected some of "
                        f"{', '.join(task.modalities)} of task {task.name}", "Name the task of the answers, or "
                        "leave it out.", case=case.id)
    if difference := grid_difference(truth, Volume(answer.classes, answer.affine)):
        raise DataError(f"{difference}, expected one grid for ground truth and prediction",
                        "Predict on the grid of the case's scans, or bring the label map back onto it.",
                        case=case.id, path=path_of(case.label))


def ground_truth(case: Case, task: Task) -> Volume:
    """The true class of each voxel of a case, or what is open as in label_sets.py, on the grid of its files.

    Raises:
        DataError: the label cannot be read, or has values that the task does not know.
    """
    found = read_case(replace(case, images={}), task)
    expect_none(found.errors)
    label = found.stored["label"].label()
    return Volume(opened(case.scheme(task).encode(label.array), undrawn(case.labelled, task), task), label.affine)


def expect_labelled(cases: Sequence[Case], problems: Sequence[DataError] = ()) -> None:
    """Nothing, if these are cases with labels, each of them once, and there are no other problems.

    Raises:
        TypeError: they are something else.
        DataError: the cases without label, those listed twice, and the other problems, together.
    """
    expect_cases(cases)
    problems = [*problems, *same_twice(cases)]
    if unlabelled := [case.id for case in cases if case.label is None]:
        problems.append(DataError(f"{len(unlabelled)} cases have no label to compare with: {few(unlabelled)}",
                                  "Add the label files, or leave these cases out."))
    expect_none(problems)


def measured_from(predictor: Predictor, cases: Sequence[Case], subsets: str | Iterable[Iterable[str]] = "full",
                  **measures: Any) -> str:
    """All that decides about the table of `evaluate` with these arguments, as JSON: another table, another text.

    It names what the files of the cases hold, images and labels, not where they lie; the weights; the task with its
    regions; the definition of the metrics; and the other arguments.

    Raises:
        DataError: a file that cannot be read.
    """
    subsets = sets_of(subsets, predictor)
    subsets = subsets if isinstance(subsets, str) else [*map(sorted, subsets)]
    of = {case.id: content(case, predictor.task) for case in machine.progress(cases, desc="checksum", unit="case")}
    policies = check_policies(measures.get("policies") or ())
    how = [predictor.how(policy) for policy in policies]
    settings = {**{name: value for one in how for name, value in one.items()}, **predictor.settings()}
    if predictor.drop_small is True and policies:       # each was learned its own
        settings["smallest_mm3"] = {policy: predictor.smallest_mm3(policy) for policy in policies}
    if EXPECTED in measures.get("metrics", ()):
        settings["expected_dice"] = {policy: plain(own) for policy, own in predictor.fitted.expected_dice.items()}
    return json.dumps(as_json({"metrics": VERSION, "predictor": settings, "cases": of, "subsets": subsets, **measures}),
                      sort_keys=True)


def subsets_of(case: Case, predictor: Predictor, subsets: str | Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """The sets of modalities to answer from, the largest first or as listed, as `evaluate` describes them."""
    has = frozenset(predictor.method.modalities) & set(case.images)
    if not isinstance(subsets, str):
        return [one for one in subsets if one <= has]
    if subsets == "full":
        return predictor.method.largest(has) or [has]    # what is refused is refused by name
    return [one for one in predictor.method.answerable(has) if subsets == "all" or len(one) in (len(has), 1)]


def sets_of(subsets: str | Iterable[Iterable[str]], predictor: Predictor | None = None) -> str | list[frozenset[str]]:
    """The sets of modalities that somebody listed, each once, or the word for them.

    Args:
        predictor: whose method has to answer from each of the sets, if there is one.

    Raises:
        ValueError: another word, or a name where a set of names is expected.
        MissingModalityError: a set that the method does not accept.
    """
    if isinstance(subsets, str):
        if subsets not in WORDS:
            raise ValueError(f"found subsets={subsets!r}, expected {', '.join(map(repr, WORDS))} or a list of sets")
        return subsets
    listed = list(subsets)
    if names := [one for one in listed if isinstance(one, str)]:
        raise ValueError(f"found the names {names} among the subsets, expected sets of names, such as {[[names[0]]]}")
    return list(dict.fromkeys(frozenset(predictor.method.present(one) if predictor else one) for one in listed))


def compare_regions(answer: np.ndarray, truth: np.ndarray, task: Task, spacing_mm: Sequence[float],
                    smallest_mm3: Mapping[str, float] | None = None,
                    metrics: str | Sequence[str] = METRICS) -> list[dict]:
    """Rows of region, metric, unit, value and empty for two arrays of classes on one grid, as `evaluate` says.

    The ground truth may leave something open, as label_sets.py says.
    """
    rows = []
    for region, found, true in compared_masks(answer, truth, task):
        masks = {region: found}
        if least := (smallest_mm3 or {}).get(region):
            masks[f"{region} ≥ {least:g} mm³"] = found & reaches(found.sum() * np.prod(spacing_mm), least)
        for name, mask in masks.items():
            measured = measure(mask, true, spacing_mm, metrics=metrics)
            empty = EMPTY[measured.prediction_empty, measured.truth_empty]
            rows += [{"region": name, **one._asdict(), "empty": empty} for one in measured]
    return rows


def expected_rows(answer: Prediction, measured: Sequence[dict]) -> list[dict]:
    """A row for each region that was measured and of which was learned which Dice was to be expected.

    Raises:
        DataError: the prediction does not say how sure it is.
    """
    if answer.sureness is None:
        raise DataError(f"found an answer that does not say how sure it is, expected it for {EXPECTED!r}",
                        f"Predict again: {FIT}; or leave {EXPECTED!r} out.", case=answer.case)
    empty = {row["region"]: row["empty"] for row in measured}
    return [{"region": region, "metric": EXPECTED, "unit": "fraction", "value": dice, "empty": empty[region]}
            for region, dice in answer.sureness.expected_dice.items() if region in empty]

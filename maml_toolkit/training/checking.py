"""What can be known to fail before anything is read: of the settings of a training, and of its cases."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

from maml_toolkit.data.cases import Case, expect_cases, same_twice
from maml_toolkit.data.splits import patient_of
from maml_toolkit.methods import METHODS, Method
from maml_toolkit.system.errors import DataError, collected, counted, expect_none, few, nearest, warn_of

if TYPE_CHECKING:
    from maml_toolkit.training.trainer import Trainer


def check_settings(trainer: Trainer) -> None:
    """What can be known of a Trainer's settings.

    Warns:
        UserWarning: a recipe with deep supervision, and a method without.

    Raises:
        ValueError: a setting out of its range, or a method that is not made for the task.
    """
    method, task = trainer.method, trainer.task
    if trainer.run.model:
        raise ValueError(f"found run={trainer.run.name!r}, the name of a model that comes with the toolkit; choose "
                         "another folder, and name the model as start= to go on from it")
    own, known = type(method), METHODS.get(method.name)
    if known is not own:
        raise ValueError(f"found a method of the class {own.__name__} and, under its name {method.name!r} in METHODS, "
                         f"{known.__name__ if known else 'none'}, expected that class: a checkpoint would be read back "
                         f"as another; give it a name of its own, and list it: METHODS[{own.__name__}.name] = "
                         f"{own.__name__}")
    if unknown := sorted(set(method.modalities) - set(task.modalities)):
        named = ", ".join(f"{name!r}{nearest(name, task.modalities)}" for name in unknown)
        raise ValueError(f"the method has the modalities {named}, expected some of {list(task.modalities)} "
                         f"of the task {task.name}; make the method with the task's names, or choose another task")
    method.expect_answers(task.outputs, task.name)
    method.check_size(trainer.patch_size)
    counts = ("batch_size", "accumulate", "epochs", "steps_per_epoch", "validate_every")
    if wrong := {name: one for name in counts if not isinstance(one := getattr(trainer, name), Integral) or one <= 0}:
        raise ValueError(f"found {wrong}, expected whole numbers above 0")
    if trainer.batch_size % trainer.accumulate:
        raise ValueError(f"found batch_size={trainer.batch_size} and accumulate={trainer.accumulate}, expected a "
                         "number of parts that divides the batch")
    if not isinstance(trainer.seed, Integral) or trainer.seed < 0:
        raise ValueError(f"found seed={trainer.seed!r}, expected a whole number, 0 or more")
    if trainer.recipe.deep_supervision and not method.deep_supervision:
        warnings.warn(f"the recipe {trainer.recipe.name} supervises the lower levels of the decoder too, which this "
                      f"method is not made for: make {method.name} with deep_supervision=True, where it can",
                      stacklevel=3)


def check_cases(method: Method, training: Sequence[Case], validation: Sequence[Case] = (),
                started: bool = False) -> None:
    """What can be known of the cases without reading them.

    Args:
        started: whether weights were trained before, so that what no case shows may be known.

    Warns:
        DataWarning: a patient has cases in training and in validation, or nothing trains what joins several scans.

    Raises:
        TypeError: they are a path, or no cases.
        DataError: everything that is wrong with them, together; a modality that no training case has among it.
    """
    for cases in (training, validation):
        expect_cases(cases)
    errors = [] if training else [DataError("found no training case, expected at least one", "Check the list.")]
    for case in (*training, *validation):
        with collected(errors, case.id):
            method.present(set(case.images) & set(method.modalities), training=True)
        if case.label is None:
            errors.append(DataError("it has no label", "Add the label, or leave the case out.", case=case.id))
    seen = [set(case.images) & set(method.modalities) for case in training]
    known = [one for one in method.modalities if any(one in own for own in seen)]
    if not errors and not started and (never := [one for one in method.modalities if one not in known]):
        errors.append(DataError(f"found no training case with {', '.join(never)}, expected some, or what it adds to an "
                                "answer would be chance", "Make the method with the modalities that the cases have, "
                                f"{', '.join(known)} (modalities=, --modalities), or add cases."))
    expect_none(errors + same_twice((*training, *validation)))
    if not started and len(method.modalities) > 1 and not any(map(method.joins, seen)):
        warn_of([DataError("found no training case with two scans together, so nothing trains what joins them, and an "
                           "answer from several would be chance",
                           "Add cases that have several, or answer from one alone (present=), or by policy 'heads'.")])
    if both := sorted(set(map(patient_of, training)).intersection(map(patient_of, validation))):
        warn_of([DataError(f"{counted(len(both), 'patient')} ({few(both)}) have cases in training and in validation: "
                           "what is validated, and what is fitted to it, is too good for new patients",
                           "Keep all cases of a patient on one side.")])

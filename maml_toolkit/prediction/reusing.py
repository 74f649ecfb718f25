"""Answers that were saved and would be made again: read, not computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maml_toolkit.data.cases import Case
from maml_toolkit.prediction.answering import Key
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.saved import MANIFEST, is_done, made_from
from maml_toolkit.prediction.sureness import expecting

if TYPE_CHECKING:
    from maml_toolkit.prediction.predictor import Predictor


def saved_answers(predictor: Predictor, case: Case, keys: Sequence[Key], maps: Sequence[str]) -> dict[Key, Prediction]:
    """Those of the answers that lie in the Predictor's folder of saved ones, and are what it would make.

    Args:
        predictor, case: who would answer, and of what.
        keys: subsets of the scans and policies.
        maps: the kinds that are asked for, as `named_maps` has them.
    """
    places = {}
    for subset, policy in keys if predictor.saved else ():
        names = predictor.wanted(case, subset)
        beside = predictor.saved.with_name(f"{predictor.saved.name}_{'+'.join(names)}")
        places |= {(subset, policy, folder / case.id): names for folder in (predictor.saved, beside)
                   if (folder / case.id / MANIFEST).exists()}
    if not places:
        return {}
    settings, found = predictor.settings() | {"maps": list(maps)}, {}
    plain = {name: value for name, value in settings.items() if name not in predictor.how(predictor.policy)}
    wanted = made_from(case, predictor.task, (), settings)
    for (subset, policy, folder), names in places.items():
        own = plain | {"policy": policy} | predictor.how(policy)
        if is_done(folder, wanted | {"modalities": list(names), "settings": own}, True):
            answer = replace(Prediction.load(folder), run=predictor.run)
            asked = "uncertainty" in maps
            found[subset, policy] = expecting(answer, predictor.fitted.lines(policy, len(subset))) if asked else answer
    return found

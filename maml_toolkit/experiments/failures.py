"""Cases where every single modality fails and all together do not: the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from maml_toolkit.data.cases import Case
from maml_toolkit.evaluation.paper import check_one_answer, largest_subset, mono_modal
from maml_toolkit.experiments.running import run_name
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor


def rescued(table: pd.DataFrame, folder: str | Path, cases: Sequence[Case], *, joint: str = "MAML",
            count: int = 3) -> tuple[list[Case], dict[str, list[Prediction]]]:
    """Cases where every single modality fails and the joint answer does not, with the answers: the paper's Figure 3.

    A modality alone is answered by its own network where the experiment has one, else by the joint system. The
    cases are those with the largest Dice of the joint answer minus the best of the single ones, mean over
    regions.

    Args:
        table, folder: what `run` returned and where.
        cases: all cases of the experiment.
        joint: the system that answers from all modalities.
        count: of cases.

    Raises:
        ValueError: the joint system is not in the table, nothing answered from single modalities, or rows of several
            policies.
    """
    columns = _columns(table, joint)
    check_one_answer(table)
    scores = _scores(table, columns)
    gain = (scores.iloc[:, -1] - scores.iloc[:, :-1].max(axis=1)).dropna().sort_values(ascending=False)
    chosen = gain[~gain.index.get_level_values("case").duplicated()].index[:count]
    by_id = {case.id: case for case in cases}
    answers: dict[str, list[Prediction]] = {name: [] for name in columns}
    for case, fold, seed in chosen:
        for name, (system, present) in columns.items():
            predictor = Predictor.load(Path(folder) / "runs" / run_name(system, fold, seed), "newest")
            answers[name].append(predictor(by_id[case], present.split("+"), attention=False, contributions=False))
    return [by_id[case] for case, *_ in chosen], answers


def _columns(table: pd.DataFrame, joint: str) -> dict[str, tuple[str, str]]:
    """Title of a column -> the system and the modalities that it answers from; the joint answer last."""
    full = largest_subset(table[table["method"] == joint])
    answered = set(zip(table["method"], table["present"], strict=True))
    singles = {}
    for one in full.split("+"):
        mono = mono_modal(one)
        system = mono if (mono, one) in answered else joint
        singles[mono if system == mono else f"{joint} ({one})"] = (system, one)
    columns = {title: found for title, found in singles.items() if found in answered}
    if not columns or len(full.split("+")) < 2:
        raise ValueError(f"found no answer of {joint} from all and from single modalities; evaluate with "
                         "subsets='each'")
    return columns | {f"{joint} (all)": (joint, full)}


def _scores(table: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Dice, mean over regions, of each case, fold and seed (rows) in each of the columns."""
    dice = table[table["metric"] == "dice"]
    return pd.DataFrame({title: dice[(dice["method"] == system) & (dice["present"] == present)].groupby(
        ["case", "fold", "seed"])["value"].mean() for title, (system, present) in columns.items()})

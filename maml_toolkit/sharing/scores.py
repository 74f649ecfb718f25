"""What was measured, over cases: what the card and scores.csv of a shared model say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from maml_toolkit.evaluation.comparing import interval
from maml_toolkit.evaluation.subset_table import AVERAGE


def scores(measured: pd.DataFrame, modalities: Sequence[str]) -> pd.DataFrame:
    """A tidy table without its cases.

    Args:
        measured: the tidy table of `evaluate`.
        modalities: of the method; where all of their subsets were measured, their plain mean is "average".

    Returns:
        A row for each policy, subset, region, metric and unit: mean, low and high (95 % interval over cases; NaN for
        one case), standard deviation, number of cases, and how many of them had an empty mask.
    """
    measured = measured.assign(policy=measured["policy"].fillna(""), empty=measured["empty"].fillna("") != "")
    keys, rows = ["policy", "region", "metric", "unit"], []
    for names, part in measured.groupby(keys, sort=False):
        about = dict(zip(keys, names, strict=True))
        rows += [about | {"present": present} | _summary(own) for present, own in part.groupby("present", sort=False)]
        if part["present"].nunique() == 2 ** len(modalities) - 1 > 1:
            rows.append(about | {"present": AVERAGE} | _summary(part))
    columns = ["policy", "present", "region", "metric", "unit", "mean", "low", "high", "sd", "cases", "empty"]
    return pd.DataFrame(rows, columns=columns)


def _summary(values: pd.DataFrame) -> dict[str, float]:
    """The plain mean over subsets of means over cases; its interval, where every case has every subset."""
    by_case = values.groupby(["case", "present"])["value"].mean().unstack()
    complete = bool(by_case.notna().to_numpy().all())
    low, high = interval(by_case.mean(axis=1).to_numpy()) if complete else (np.nan, np.nan)
    return {"mean": by_case.mean().mean(), "low": low, "high": high, "sd": by_case.mean(axis=1).std(),
            "cases": len(by_case), "empty": int(values.groupby("case")["empty"].any().sum())}

"""The paper's three tables from a table of one's own, beside the published figures.

    Table 1   every system from all modalities: Dice and ASSD, mean ± sd over cases
    Table 2   from each modality alone, a network of its own and MAML, and the gap between the modalities
    Table 3   from one modality, methods for missing modalities: Dice of each region, mean ± sd over folds

A published figure belongs to its own data; next to one's own it shows whether the pattern is the same, never
which number is higher. Paired differences with intervals, which the paper does not give, stand in tables of
their own (`differences`).

References:
    Modality-aware Mutual Learning for Multi-modal Medical Image Segmentation, Zhang et al., MICCAI 2021,
    https://arxiv.org/abs/2107.09842
"""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from maml_toolkit.evaluation.comparing import gap, trainings_in_words
from maml_toolkit.evaluation.intervals import BOTH, CASES_ONLY
from maml_toolkit.evaluation.metrics import title
from maml_toolkit.evaluation.printing import NO_VALUE, Printed
from maml_toolkit.evaluation.table import check_each_once, one_order
from maml_toolkit.system.errors import counted

MEASURED = (("dice", "fraction", "Dice (%)"), ("assd", "voxel", "ASSD (voxel)"))

PUBLISHED_1 = {
    "nnUNet": ("78.76±18.91", "8.02±20.21"), "OctopusNet": ("78.89±18.65", "12.67±42.43"),
    "MS+Ensemble": ("78.96±19.37", "5.88±10.73"), "MS+MA": ("80.98±18.58", "5.38±9.20"),
    "MAML": ("81.25±17.02", "4.71±6.13")}
PUBLISHED_2 = {
    ("nnUNet", "arterial"): ("71.21±25.87", "9.51±28.34"), ("MAML", "arterial"): ("79.55±19.06", "6.38±12.00"),
    ("nnUNet", "venous"): ("75.10±20.65", "9.26±30.82"), ("MAML", "venous"): ("79.81±18.42", "6.35±12.03")}
PUBLISHED_3 = {
    "HeMIS": {"ET": "60.8", "TC": "58.5", "WT": "58.5"}, "U-HVED": {"ET": "65.5", "TC": "66.7", "WT": "62.4"},
    "KD-Net": {"ET": "71.67±1.22", "TC": "81.45±1.25", "WT": "76.98±1.54"},
    "MAML": {"ET": "73.42±1.10", "TC": "83.36±1.23", "WT": "78.32±1.41"}}

LIVER = ("Published: liver tumours in two-phase CT, data that is not public; a fifth of the cases for testing, one "
         "training, mean ± sd over cases.")
BRATS = ("Published: BraTS 2018, T1ce alone, 3-fold cross-validation, mean ± sd over folds; HeMIS and U-HVED as that "
         "paper quotes them, without sd.")


def table_1(table: pd.DataFrame) -> Printed:
    """Every system from all modalities: Dice and ASSD, mean ± sd over cases, beside the published figures.

    Args:
        table: the tidy table of `evaluate`, its `method` the name of a system (`experiments.papers_systems`).

    Raises:
        ValueError: no system answered from all modalities, or rows that would be averaged without a word.
    """
    full = one_order(table)
    full = full[full["present"] == largest_subset(full)]
    full = full[~full["method"].map(is_mono_modal)]
    check_one_answer(full)
    rows = []
    for method in _in_order(full, PUBLISHED_1):
        for region in full["region"].unique():
            part = full[(full["method"] == method) & (full["region"] == region)]
            published = PUBLISHED_1.get(method, ("", ""))
            rows.append({"method": method, "region": region, **_figures(part), "published Dice": published[0],
                         "published ASSD": published[1]})
    return Printed(_lean(rows), f"All modalities ({largest_subset(table)}). {_over_cases(full)} {LIVER}")


def table_2(table: pd.DataFrame, modalities: Sequence[str]) -> Printed:
    """From each modality alone: a network trained on it, and MAML, and the gap between best and worst modality.

    Args:
        table: as for `table_1`; the networks trained on one modality are called "nnUNet (<modality>)".
        modalities: in the order of the columns.

    Raises:
        ValueError: no system answered from one modality, or rows that would be averaged without a word.
    """
    alone = single_modality(table, modalities)
    check_one_answer(alone)
    regions, rows = list(alone["region"].unique()), []
    for region in regions:
        for method in _in_order(alone, ("nnUNet", "MAML")):
            part = alone[(alone["method"] == method) & (alone["region"] == region)]
            row = {"method": method, "region": region}
            for one in modalities:
                row |= {f"{one} {heading}": text for heading, text in _figures(part[part["present"] == one]).items()}
            rows.append({**row, "gap in Dice": gap_in_words(part)})
    published = [f"{method} {one} {dice} / {assd}" for (method, one), (dice, assd) in PUBLISHED_2.items()]
    return Printed(_lean(rows), f"Each modality alone. Gap: best minus worst modality in points [95 % interval], "
                   "chosen on one half of the cases and trainings and measured on the other, and the other way round, "
                   f"so that a gap that is not there is 0 on average. {_over_cases(alone)} Published, Dice / ASSD: "
                   f"{'; '.join(published)}; the gaps are 3.89 and 0.26. {LIVER}")


def table_3(table: pd.DataFrame, single: str) -> Printed:
    """From one modality: Dice of each region, mean ± sd over folds (over seeds where there is one fold).

    Args:
        table: as for `table_1`.
        single: the modality (the paper: t1ce).

    Raises:
        ValueError: no system answered from it alone, or rows that would be averaged without a word.
    """
    alone = table[(table["present"] == single) & (table["metric"] == "dice")]
    if alone.empty:
        raise ValueError(f"no system answered from {single!r} alone; evaluate with subsets='each'")
    check_one_answer(alone)
    over = "fold" if alone["fold"].nunique() > 1 else "seed"
    means = 100 * alone.groupby(["method", "region", over], dropna=False)["value"].mean()
    rows = []
    for method in _in_order(alone, PUBLISHED_3):
        regions = alone.loc[alone["method"] == method, "region"].unique()
        row = {"method": method} | {f"{region} Dice (%)": _spread(means[method, region]) for region in regions}
        rows.append(row | {f"published {region}": PUBLISHED_3.get(method, {}).get(region, "") for region in regions})
    count = alone[over].nunique(dropna=False)
    return Printed(pd.DataFrame(rows), f"{single} alone. Mean ± sd over {counted(count, over)} of the mean over cases; "
                   f"{_cases(alone)}, {_runs(alone)}, {_empty(alone)}. {BRATS}")


def check_one_answer(table: pd.DataFrame) -> None:
    """Nothing, if each system has one policy, one run of each fold and seed, and one row of each value.

    Raises:
        ValueError: a system has several, which a mean would mix.
    """
    for column, keys in (("policy", ["method"]), ("run", ["method", "present", "fold", "seed"])):
        for names, part in table.groupby(keys, sort=False, dropna=False):
            if len(several := list(part[column].fillna("").unique())) > 1:
                raise ValueError(f"found answers of the {column} {' and '.join(map(repr, several))} under {names[0]}, "
                                 f"expected one; keep the rows of one {column}, or give each its own name as method")
    check_each_once(table, ["method", "present", "fold", "seed", "case", "region", "metric", "unit"])


def mono_modal(modality: str) -> str:
    """What the network that sees one modality and no other is called."""
    return f"nnUNet ({modality})"


def is_mono_modal(system: str) -> bool:
    """Whether a system is called so."""
    return system.startswith("nnUNet (")


def single_modality(table: pd.DataFrame, modalities: Sequence[str]) -> pd.DataFrame:
    """The rows that answer from one modality, the networks trained on it alone under the one name "nnUNet".

    Raises:
        ValueError: there is none.
    """
    mono = table["method"].map(is_mono_modal)
    alone = table[table["present"].isin(modalities) & (mono | (table["method"] == "MAML"))]
    if alone.empty:
        raise ValueError(f"neither MAML nor a network of its own answered from one of {list(modalities)} alone; "
                         "evaluate with subsets='each'")
    return alone.assign(method=["nnUNet" if is_mono_modal(name) else name for name in alone["method"]])


def gap_in_words(table: pd.DataFrame) -> str:
    """Dice of the best minus the worst modality in points, with its interval and what that holds; "" where unknown."""
    found = gap(table)
    return "" if np.isnan(found["difference"]) else f"{_difference(found, 100)}, {found['holds']}"


def differences(found: pd.DataFrame) -> Printed:
    """What `compare` found, for a reader: Dice in points, distances in their unit."""
    scale = 100 if found["unit"].iloc[0] == "fraction" else 1
    rows = [{"compared": f"{row['reference']} − {row['other']}", "present": row.get("present", ""),
             "region": row.get("region", ""), "difference [95 %]": _difference(row, scale), "interval": row["holds"],
             "over trainings": _ends(row["low_trainings"], row["high_trainings"], scale), "p (Holm)": _p(row["p_holm"]),
             "Wilcoxon": _p(row["p_wilcoxon"]), "trainings": row["trainings"], "cases": row["cases"],
             "wins": row["wins"], "losses": row["losses"], "missing": row["missing"]} for _, row in found.iterrows()]
    name = "Dice in points" if scale == 100 else f"{title(found['metric'].iloc[0])} in {found['unit'].iloc[0]}"
    return Printed(_lean(rows), f"Difference of {name} over the same cases, from {trainings_in_words(found)}. "
                                f"{_held(found)}")


def largest_subset(table: pd.DataFrame) -> str:
    """The largest subset of modalities that anything in the table answered from; "" where nothing did."""
    return max(table["present"].unique(), key=lambda present: present.count("+"), default="")


def _in_order(table: pd.DataFrame, known: Collection[str]) -> list[str]:
    """Systems in the paper's order, then the others; MAML last."""
    found = list(table["method"].unique())
    order = [name for name in known if name in found and name != "MAML"]
    rest = [name for name in found if name not in known and name != "MAML"]
    return [*order, *rest, *(["MAML"] if "MAML" in found else [])]


def _figures(part: pd.DataFrame) -> dict[str, str]:
    found = {}
    for metric, unit, heading in MEASURED:
        values = part[(part["metric"] == metric) & (part["unit"] == unit)].groupby("case")["value"].mean()
        found[heading] = _spread(100 * values if metric == "dice" else values)
    return found


def _spread(values: pd.Series) -> str:
    if values.empty:
        return NO_VALUE
    return f"{values.mean():.2f}±{values.std():.2f}" if len(values) > 1 else f"{values.mean():.2f}"


def _difference(row: pd.Series | dict, scale: float) -> str:
    return f"{scale * row['difference']:+.1f} {_ends(row['low'], row['high'], scale)}"


def _ends(low: float, high: float, scale: float) -> str:
    return NO_VALUE if np.isnan(low) else f"[{scale * low:+.1f}, {scale * high:+.1f}]"


def _held(found: pd.DataFrame) -> str:
    """What the intervals and p-values of a comparison answer."""
    said = []
    if (found["holds"] == BOTH).any():
        said.append("Interval and p, Holm-corrected for this table: would other trainings and other cases differ on "
                    "average? 'Over trainings': other trainings, these cases. Wilcoxon, not corrected: are these "
                    "trained networks better case by case? It says nothing of other trainings.")
    if (found["holds"] == CASES_ONLY).any():
        said.append("'Cases only': how the methods would differ in another training is not in the interval, so there "
                    "is no p; train each with several seeds or folds.")
    return " ".join(said)


def _p(value: float) -> str:
    return NO_VALUE if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _lean(rows: list[dict]) -> pd.DataFrame:
    """The rows without columns that say the same in each, or nothing, of those that tell rows apart."""
    frame = pd.DataFrame(rows)
    idle = [name for name in ("region", "present") if name in frame and frame[name].nunique() == 1 and len(frame) > 0]
    return frame.drop(columns=idle)


def _over_cases(table: pd.DataFrame) -> str:
    return f"Mean ± sd over {_cases(table)}, each the mean of its runs; {_runs(table)}, {_empty(table)}."


def _cases(table: pd.DataFrame) -> str:
    """Over how many cases the means are, and whether these are the same ones in every row."""
    rows = {frozenset(part["case"]) for _, part in table.groupby(["method", "present", "region"])}
    fewest, most = (limit(map(len, rows)) for limit in (min, max))
    return (f"{fewest} to " * (fewest < most) + counted(most, "case")
            + ", not the same in every row" * (len(rows) > 1))


def _runs(table: pd.DataFrame) -> str:
    """How many trainings; by system where they were not trained alike."""
    known = table.astype({"fold": object, "seed": object}).fillna("")
    trained = {method: frozenset(zip(part["fold"], part["seed"], strict=True))
               for method, part in known.groupby("method", sort=False)}
    if len(set(trained.values())) > 1:
        return "; ".join(f"{method}: {_folds_and_seeds(pairs)}" for method, pairs in trained.items())
    return _folds_and_seeds(next(iter(trained.values())))


def _folds_and_seeds(pairs: frozenset[tuple]) -> str:
    folds, seeds = (len(set(ones)) for ones in zip(*pairs, strict=True))
    if len(pairs) < folds * seeds:
        return f"{len(pairs)} of {folds} x {seeds} folds and seeds"
    return f"{counted(folds, 'fold')} x {counted(seeds, 'seed')}"


def _empty(table: pd.DataFrame) -> str:
    count = int((table.loc[table["metric"] == "dice", "empty"].fillna("") != "").sum())
    return f"{count} values with an empty mask (both empty: Dice 100; one: 0 and the image's diagonal)"

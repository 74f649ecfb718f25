"""The table over all subsets of modalities, as the literature on missing modalities prints it.

    mean(S, r) = mean_c mean_runs Dice(c, S, r)                   for each of the 2^N - 1 subsets S and region r
    average(r) = sum_S mean(S, r) / (2^N - 1)

A row for each subset with a mark for each modality (● present, ○ missing), a column for each region, and the
plain average over the subsets below. Where the regions are those of BraTS and the cases many, the published averages
stand beneath, with their protocol.

References:
    HeMIS: Hetero-Modal Image Segmentation, Havaei et al., MICCAI 2016, https://arxiv.org/abs/1607.05194
    Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation (U-HVED), Dorent et
        al., MICCAI 2019, https://arxiv.org/abs/1907.11150
    RFNet: Region-aware Fusion Network for Incomplete Multi-modal Brain Tumor Segmentation, Ding et al., ICCV 2021,
        https://github.com/dyh127/RFNet (from where the averages of HeMIS and U-HVED are, too)
    mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of Brain Tumor Segmentation, Zhang
        et al., MICCAI 2022, https://arxiv.org/abs/2206.02425
    Scratch Each Other's Back: Incomplete Multi-modal Brain Tumor Segmentation Via Category Aware Group Self-Support
        Learning (GSS), Qiu et al., ICCV 2023, https://github.com/qysgithubopen/GSS
    Decoupling Feature Representations of Ego and Other Modalities for Incomplete Multi-modal Brain Tumor
        Segmentation (DeMoSeg), Yang et al., 2024, https://arxiv.org/abs/2408.08708
"""

import itertools
from collections.abc import Sequence

import pandas as pd

from maml_toolkit.data.tasks import Task, check_names
from maml_toolkit.evaluation.metrics import title
from maml_toolkit.evaluation.printing import AVERAGE, MISSING, NO_VALUE, PRESENT, Printed
from maml_toolkit.evaluation.table import COLUMNS, check_each_once, one_metric
from maml_toolkit.system.errors import counted, expect_one_of

ONE_VALUE = ["group", "run", "fold", "seed", "case", "subset", "region"]
"""What tells the values of one metric apart."""

PUBLISHED = {
    "HeMIS": ("78.6", "59.7", "48.1"), "U-HVED": ("80.1", "64.0", "50.0"), "RFNet": ("85.67", "76.53", "57.12"),
    "mmFormer": ("86.38", "75.82", "59.12"), "GSS": ("87.20", "78.25", "63.49"), "DeMoSeg": ("87.96", "79.79", "64.90")}
"""Averages over 15 subsets on BraTS 2018, Dice in per cent of PUBLISHED_REGIONS."""

ENOUGH_CASES = 20
"""Beside which the published averages are printed unasked."""

PUBLISHED_REGIONS = ("WT", "TC", "ET")
PROTOCOL = (
    "Published: averages over the 15 subsets of the four modalities of BraTS 2018, mean over the three splits of RFNet "
    "(199 cases for training, 29 for validation, 57 for testing). Labels 1 necrosis, 2 oedema, 3 enhancing tumour; "
    "WT = 1+2+3, TC = 1+3, ET = 3; two empty masks have a Dice of 1; windows of 80×80×80 voxels that overlap by "
    "half. Numbers from other data or another protocol cannot be compared with them.")


def subset_table(table: pd.DataFrame, task: Task, *, method: str | None = None, policy: str | None = None,
                 metric: str = "dice", modalities: Sequence[str] | None = None,
                 published: bool | None = None) -> Printed:
    """Print a tidy table over all subsets of the modalities, the fewest modalities first.

    A value is the mean over cases, a case's runs (run, fold, seed) averaged first; Dice in per cent. Several methods
    or policies stand side by side, in the order in which the table has them; so do the regions.

    Args:
        table: the tidy table of `evaluate(subsets="all")`, of one or several methods and policies.
        task: that names the modalities and their order.
        method, policy: the one to print; all of them when left out.
        metric: "dice", or a distance, which is given in mm where the table has mm.
        modalities: whose subsets to print, for methods of fewer modalities than the task has; other
            subsets of the table are left out.
        published: whether to print the published averages on BraTS 2018 below, for Dice of WT, TC and ET; when left
            out, beside 20 cases or more, since beside fewer they mislead.

    Raises:
        ValueError: no row, a column that the table lacks, an unknown metric, method, policy or modality, or rows
            that cannot be told apart.
    """
    names = _in_order(task, modalities)
    values = _with_subsets(_chosen(table, method, policy, metric), task, names)
    means = _means(values, names)
    if published is None:
        published = values["case"].nunique() >= ENOUGH_CASES
    published = (published and metric == "dice" and set(task.regions) == set(PUBLISHED_REGIONS)
                 and not values[values["region"].isin(PUBLISHED_REGIONS)].empty)
    missing = tuple(one for one in subset_order(names) if one not in means.index or means.loc[one].isna().any())
    caption = " ".join([_what(values, names, metric), _how_many(means, names, missing), _empty(values, metric),
                        *([PROTOCOL] if published else [])])
    return Printed(_frame(means, names, published), caption, names, missing)


def subset_order(modalities: Sequence[str]) -> list[str]:
    """Every non-empty subset as printed: by size, then by the marks read from the last modality, ● before ○.

    >>> subset_order(["t1", "t2", "flair"])
    ['flair', 't2', 't1', 't2+flair', 't1+flair', 't1+t2', 't1+t2+flair']
    """
    backwards = list(reversed(modalities))
    return ["+".join(reversed(one)) for size in range(1, len(backwards) + 1)
            for one in itertools.combinations(backwards, size)]


def _in_order(task: Task, modalities: Sequence[str] | None) -> tuple[str, ...]:
    """The modalities that were asked for, in the task's order."""
    asked = task.modalities if modalities is None else check_names(modalities)
    _check_known(asked, task, "modalities")
    return tuple(name for name in task.modalities if name in asked)


def _check_known(found: Sequence[str], task: Task, where: str) -> None:
    if unknown := [name for name in found if name not in task.modalities]:
        raise ValueError(f"found {', '.join(unknown)} among the {where}, expected modalities of task {task.name}: "
                         f"{', '.join(task.modalities)}; pass the task with which the methods were trained")


def _chosen(table: pd.DataFrame, method: str | None, policy: str | None, metric: str) -> pd.DataFrame:
    """The rows of one metric in one unit, of the method and policy asked for, named by their `group`."""
    if lacking := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"the table lacks the columns {', '.join(lacking)}, expected the tidy table of `evaluate`")
    if table.empty:
        raise ValueError("the table holds no row; make one with evaluate(predictor, cases, subsets='all')")
    values = one_metric(table, metric)
    values = values.assign(policy=values["policy"].fillna(""), empty=values["empty"].fillna(""))
    for column, asked in (("method", method), ("policy", policy)):
        if asked is not None:
            expect_one_of(column, asked, values[column].unique())
            values = values[values[column] == asked]
    groups = values["method"] + (" / " + values["policy"]).where(values["policy"] != "", "")
    return values.assign(group=[" ".join(group.split()) for group in groups])


def _with_subsets(values: pd.DataFrame, task: Task, names: Sequence[str]) -> pd.DataFrame:
    """The rows whose modalities are all among `names`, with their `subset` in the task's order."""
    present = {joined: set(joined.split("+")) for joined in values["present"].unique()}
    _check_known(sorted(set().union(*present.values())), task, "table's subsets")
    subsets = {joined: "+".join(name for name in names if name in found)
               for joined, found in present.items() if found <= set(names)}
    values = values.assign(subset=values["present"].map(subsets)).dropna(subset="subset")
    if values.empty:
        raise ValueError(f"the table holds no subset of {', '.join(names)}, only {', '.join(present)}")
    check_each_once(values, ONE_VALUE, "keep one of each")
    return values


def _means(values: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Means over cases: a row for each subset that there is, a column for each group and region."""
    by_case = values.groupby(["subset", "group", "region", "case"])["value"].mean()
    means = by_case.groupby(["subset", "group", "region"]).mean().unstack(["group", "region"])
    columns = [pair for pair in itertools.product(values["group"].unique(), values["region"].unique())
               if pair in means.columns]
    means = means.loc[[one for one in subset_order(names) if one in means.index], columns]
    return means * (100 if values["unit"].iloc[0] == "fraction" else 1)


def _frame(means: pd.DataFrame, names: Sequence[str], published: bool) -> pd.DataFrame:
    """Marks, means, their average and what is published, in words."""
    marks = pd.DataFrame([[PRESENT if name in subset.split("+") else MISSING for name in names]
                          for subset in means.index], means.index, pd.MultiIndex.from_product([[""], names]))
    words = pd.concat([means, means.mean().to_frame(AVERAGE).T])
    words = words.map(lambda value: NO_VALUE if pd.isna(value) else f"{value:.1f}")
    groups = list(means.columns.unique(0))
    parts = [pd.concat([marks, words], axis=1)]
    if published:
        home = groups[0] if len(groups) == 1 else "published, BraTS 2018"
        regions = [one for one in PUBLISHED_REGIONS if len(groups) > 1 or (home, one) in means.columns]
        parts.append(pd.DataFrame({(home, one): [row[PUBLISHED_REGIONS.index(one)] for row in PUBLISHED.values()]
                                   for one in regions}, [f"{name} (published)" for name in PUBLISHED]))
    frame = pd.concat(parts).fillna("").astype(str)
    frame.index.name, frame.columns.names = None, [None, None]
    return frame if len(groups) > 1 else frame.droplevel(0, axis=1)


def _what(values: pd.DataFrame, names: Sequence[str], metric: str) -> str:
    """What the numbers are: metric, unit, cases, runs."""
    unit = "per cent" if values["unit"].iloc[0] == "fraction" else values["unit"].iloc[0]
    cases = values.groupby(["group", "subset", "region"])["case"].nunique()
    total, groups = values["case"].nunique(), list(values["group"].unique())
    fewer = f", {cases.min()} to {cases.max()} for a single number" if cases.min() < total else ""
    trained = values.groupby("group")[["run", "fold", "seed"]].apply(lambda one: len(one.drop_duplicates()))
    fewest, runs = int(trained.min()), int(trained.max())
    in_all = f"{f'{fewest} to ' if fewest < runs else ''}{runs} in all{' for each' if len(groups) > 1 else ''}"
    averaged = f", each the mean of its runs ({in_all})" if runs > 1 else ""
    return (f"{title(metric)} in {unit} of {', '.join(groups)} from the subsets of "
            f"{', '.join(names)} ({PRESENT} present, {MISSING} missing): mean over {counted(total, 'case')}{fewer}"
            f"{averaged}.")


def _how_many(means: pd.DataFrame, names: Sequence[str], missing: Sequence[str]) -> str:
    """What the average is over: all subsets, or those that are there."""
    total = 2 ** len(names) - 1
    if not missing:
        return f"Average: the plain mean over all {counted(total, 'subset')}."
    groups = list(means.columns.unique(0))
    there = [f"{len(means[group].dropna())} of {total}" + (f" for {group}" if len(groups) > 1 else "")
             for group in groups]
    return (f"Not all subsets are in the table ({', '.join(there)}; missing: {', '.join(missing)}): the average is the "
            "plain mean over those there, and cannot be compared with one over others.")


def _empty(values: pd.DataFrame, metric: str) -> str:
    """In how many cases, and for how many values, the rule for empty masks spoke."""
    empty = values[values["empty"] != ""]
    stem = metric.partition("@")[0]
    rule = {"dice": "; Dice 100 where both are, 0 where one is", "nsd": "; NSD 100 where both are, 0 where one is"}.get(
        stem, "; 0 where both are, else the diagonal" if stem in ("assd", "hd95") else "")
    return (f"In {empty['case'].nunique()} of {counted(values['case'].nunique(), 'case')} a mask was empty, in ground "
            f"truth, prediction or both ({len(empty)} of {len(values)} values{rule}).")

"""The card of a shared model: what it was made from, what it answers, what it scores, what nobody knows of it.

It is the README.md of a shared folder, with the header that huggingface.co reads: card.md with values in it. Ids of
cases can tell who somebody is: the card has their number only.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
import yaml

from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation.printing import AVERAGE, MISSING, NO_VALUE, PRESENT
from maml_toolkit.evaluation.subset_table import subset_order
from maml_toolkit.evaluation.table import one_metric, summary
from maml_toolkit.methods import Method
from maml_toolkit.prediction.predictor import Predictor

PACKAGES = ("maml_toolkit", "torch", "numpy", "safetensors")
"""Whose versions wrote the files."""


@dataclass(frozen=True)
class Facts:
    """What a card says that the model itself does not know.

    Attributes:
        name: under which `from_pretrained` finds the model: hf://owner/name, or a folder.
        license: identifier, as the hub spells it ("cc-by-4.0"), or "other".
        license_link: where the text of another licence is.
        data, data_license: what the cases are and under which licence they were given, in the words of whoever shares.
        limits: what else a user must know, a sentence each.
        training, validation: ids of the cases, of which only the number is written.
        fitted: ids of the cases to which what answers gain was fitted.
        trainer: its settings, as settings.json has them.
        epochs: trained so far.
        measured: the tidy table of `evaluate`, or None.
        measured_on: what was measured in place of these weights, such as a cross-validation of the same training.
    """

    name: str
    license: str
    license_link: str = ""
    data: str = ""
    data_license: str = ""
    limits: Sequence[str] = ()
    training: Set[str] = frozenset()
    validation: Set[str] = frozenset()
    fitted: Set[str] = frozenset()
    trainer: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    measured: pd.DataFrame | None = None
    measured_on: str = ""


def card(predictor: Predictor, facts: Facts) -> str:
    """The card in Markdown."""
    task, method = predictor.task, predictor.method
    # what the recipe says of deep supervision is a wish, what the method says is so
    settings = {"method": method.name, **facts.trainer} | method.settings
    text = Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(
        header=_header(method, facts), name=facts.name.rpartition("/")[2], classes=_listed(task.class_names[1:]),
        modalities=_listed(method.modalities), method=method.name,
        license=", ".join(filter(None, (facts.license, facts.license_link))),
        data=facts.data or "Whoever shared this model did not say where the cases come from.",
        data_license=facts.data_license or "not said", task=task.name, training=len(facts.training),
        validation=len(facts.validation),
        intensities=", ".join(f"`{name}` ({task.intensities[name].upper()})" for name in task.modalities),
        spacing=_size(task.spacing_mm or ()), window=_size(predictor.window),
        labels=table(["class", "name", "value in a label file", "regions that it is part of"], _labels(task)),
        epochs=facts.epochs, all_epochs=_epochs(predictor, facts),
        best=", of which the best by validation" if facts.validation else "",
        weights=f"{sum(one.numel() for one in method.parameters()):,}",
        settings=table(["setting", "value"], [[key, f"`{json.dumps(value)}`"] for key, value in settings.items()]),
        scores=_scores(predictor, facts), limits="\n".join(f"- {one}" for one in _limits(predictor, facts)),
        address=repr(facts.name), first=method.modalities[0],
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES))
    own = "" if method.name == "maml" else references(method)
    return text + (f"\nThe method `{method.name}`:\n\n```\n{own}\n```\n" if own else "")


def scores(measured: pd.DataFrame, modalities: Sequence[str]) -> pd.DataFrame:
    """A tidy table without its cases: what scores.csv holds.

    Args:
        measured: the tidy table of `evaluate`.
        modalities: of the method; where all of their subsets were measured, their plain mean is "average".

    Returns:
        A row for each policy, subset, region, metric and unit: what `summary` says of it, with the 95 % interval of the
        mean (NaN for one case, and of an average over subsets that not all cases have).
    """
    measured = measured.fillna({"policy": ""})
    keys, parts = ["policy", "region", "metric", "unit"], []
    for _, part in measured.groupby(keys, sort=False):
        parts.append(summary(part, ["policy", "present", *keys[1:]], intervals=True))
        if part["present"].nunique() == 2 ** len(modalities) - 1 > 1:
            average = summary(part.assign(present=AVERAGE), ["policy", "present", *keys[1:]], intervals=True)
            by_case = part.groupby(["case", "present"])["value"].mean().unstack()
            if by_case.isna().to_numpy().any():
                average = average.assign(mean=by_case.mean().mean(), low=np.nan, high=np.nan)
            parts.append(average)
    return pd.concat(parts, ignore_index=True)


def references(method: Method) -> str:
    """What the file of the method names as its sources; empty where it names none."""
    text = sys.modules[type(method).__module__].__doc__ or ""
    lines = text.partition("References:\n")[2].splitlines()
    return "\n".join(line.strip() for line in lines).strip()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
                     for cells in (heads, ["---"] * len(heads), *rows))


def _header(method: Method, facts: Facts) -> str:
    """The YAML that huggingface.co reads."""
    values = {"license": facts.license}
    if facts.license_link:
        values |= {"license_name": "see-license-link", "license_link": facts.license_link}
    values |= {"library_name": "maml_toolkit", "pipeline_tag": "image-segmentation",
               "tags": ["medical-imaging", "3d-segmentation", "missing-modality", method.name]}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _labels(task: Task) -> list[list[str]]:
    return [[str(index), name, ", ".join(map(str, task.labels[name])),
             ", ".join(region for region, classes in task.regions.items() if name in classes) or NO_VALUE]
            for index, name in enumerate(task.class_names)]


def _epochs(predictor: Predictor, facts: Facts) -> int:
    """Those asked for, of all stages."""
    return facts.trainer.get("epochs", 0) * len(predictor.method.stages())


def _scores(predictor: Predictor, facts: Facts) -> str:
    if facts.measured is None:
        return "Nothing was measured: nobody knows what this model is worth."
    dice = one_metric(scores(facts.measured, predictor.method.modalities), "dice")
    parts = []
    for policy, part in dice.groupby("policy", sort=False):
        of = f", policy {policy}" if dice["policy"].nunique() > 1 else ""
        held = ", or ".join(part["holds"].unique())
        parts += [f"Dice in per cent{of}: mean over cases and its 95 % interval, which holds {held}, of "
                  f"{facts.measured_on or 'this one training'}; {PRESENT} present, {MISSING} missing.",
                  _by_subset(predictor, part)]
    one_each = dice[dice["present"] != AVERAGE]
    parts.append("Both masks empty is a Dice of 100, one empty is 0; that was so for "
                 f"{int(one_each['empty'].sum())} of {int(one_each['cases'].sum())} values."
                 + (" `scores.csv` has distances too." if "assd" in set(facts.measured["metric"]) else ""))
    return "\n\n".join(parts)


def _by_subset(predictor: Predictor, dice: pd.DataFrame) -> str:
    """A row for each subset that was measured, and the average where all were."""
    names = [name for name in predictor.task.modalities if name in predictor.method.modalities]
    cells = dice.assign(text=[_value(row) for _, row in dice.iterrows()]).pivot(index="present", columns="region")
    rows = []
    for subset in (one for one in (*subset_order(names), AVERAGE) if one in cells.index):
        marks = [PRESENT if name in subset.split("+") else MISSING for name in names]
        rows.append([*(marks if subset != AVERAGE else [AVERAGE, *[""] * (len(names) - 1)]),
                     *cells.loc[subset, "text"].reindex(dice["region"].unique()).fillna(NO_VALUE),
                     str(int(cells.loc[subset, "cases"].max()))])
    return table([*names, *dice["region"].unique(), "cases"], rows)


def _value(row: pd.Series) -> str:
    spread = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['mean']:.1f}{spread}"


def _limits(predictor: Predictor, facts: Facts) -> Iterator[str]:
    method = predictor.method
    answers = method.answerable(set(method.modalities))
    yield (f"It learned from {len(facts.training)} cases. Other scanners, protocols, hospitals, ages and diseases "
           "may give other results, without a sign of it.")
    if facts.measured_on:
        yield f"The scores above are not of these weights: they are of {facts.measured_on}."
    elif facts.measured is not None:
        cases = set(facts.measured["case"])
        seen = len(cases & {*facts.training, *facts.validation, *facts.fitted})
        yield (f"Of the {len(cases)} cases measured, {seen} were trained or validated on"
               + ("; the scores above are too good for new cases." if seen else "."))
    listed = "; ".join("+".join(name for name in method.modalities if name in one) for one in answers)
    yield (f"It answers from {len(answers)} of the {2 ** len(method.modalities) - 1} subsets of its modalities"
           + (f" ({listed})" if len(answers) <= 4 else "") + "; a subset without a row above was not measured.")
    if facts.epochs < _epochs(predictor, facts):
        yield "Its training was not finished."
    yield "The scans of a case must be registered to one another; it does not see when they are not."
    yield f"It knows the classes above and no others: whatever else a scan shows is {predictor.task.class_names[0]}."
    yield "Attention and contributions say what the network used, not what is true."
    yield "Weights can hold traces of the cases that they were trained on."
    yield from facts.limits


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _size(numbers: Sequence[float]) -> str:
    return " × ".join(f"{one:g}" for one in numbers)

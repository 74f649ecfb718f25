"""The card of a shared model: what it was made from, what it answers, what it scores, what nobody knows of it.

It is the README.md of a shared folder, with the header that huggingface.co reads. Ids of cases can tell who somebody
is: the card has their number only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pandas as pd
import yaml

from maml_toolkit.evaluation.measuring import one_metric
from maml_toolkit.evaluation.subset_printing import MISSING, NO_VALUE, PRESENT
from maml_toolkit.evaluation.subset_table import AVERAGE, subset_order
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.sharing.citation import citation
from maml_toolkit.sharing.scores import scores

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
        trainer: its settings, as settings.json has them.
        epochs: trained so far.
        measured: the tidy table of `evaluate`, or None.
    """

    name: str
    license: str
    license_link: str = ""
    data: str = ""
    data_license: str = ""
    limits: Sequence[str] = ()
    training: Set[str] = frozenset()
    validation: Set[str] = frozenset()
    trainer: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    measured: pd.DataFrame | None = None


def card(predictor: Predictor, facts: Facts) -> str:
    """The card in Markdown."""
    sections = (_header, _opening, _use, _data, _labels, _training, _scores, _limits, _how, _versions)
    parts = [*(section(predictor, facts) for section in sections), citation(predictor.method)]
    return "\n".join(line for part in parts for line in (*part, ""))


def _header(predictor: Predictor, facts: Facts) -> Iterator[str]:
    values = {"license": facts.license}
    if facts.license_link:
        values |= {"license_name": "see-license-link", "license_link": facts.license_link}
    values |= {"library_name": "maml_toolkit", "pipeline_tag": "image-segmentation",
               "tags": ["medical-imaging", "3d-segmentation", "missing-modality", predictor.method.name]}
    yield f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _opening(predictor: Predictor, facts: Facts) -> Iterator[str]:
    task = predictor.task
    yield f"# {facts.name.rpartition('/')[2]}"
    yield ""
    yield (f"Segments {_listed(task.class_names[1:])} from {_listed(predictor.method.modalities)}, in 3-D, with the "
           f"method `{predictor.method.name}` of maml_toolkit. Research use only.")
    yield ""
    yield f"Licence of this model: {facts.license}" + (f", {facts.license_link}" if facts.license_link else "") + "."


def _data(predictor: Predictor, facts: Facts) -> Iterator[str]:
    task = predictor.task
    yield "## Data"
    yield ""
    yield facts.data or "Whoever shared this model did not say where the cases come from."
    yield ""
    yield f"- licence of the data: {facts.data_license or 'not said'}"
    yield f"- task `{task.name}`; {len(facts.training)} cases for training, {len(facts.validation)} for validation"
    yield f"- modalities: {', '.join(f'`{name}` ({task.intensities[name].upper()})' for name in task.modalities)}"
    yield (f"- working grid: {_size(task.spacing_mm or ())} mm, windows of {_size(predictor.window)} voxels, "
           "axes towards right, front, top (RAS+)")


def _labels(predictor: Predictor, facts: Facts) -> Iterator[str]:
    task = predictor.task
    yield "## Label scheme"
    yield ""
    rows = [[str(index), name, ", ".join(map(str, task.labels[name])),
             ", ".join(region for region, classes in task.regions.items() if name in classes) or NO_VALUE]
            for index, name in enumerate(task.class_names)]
    yield from table(["class", "name", "value in a label file", "regions that it is part of"], rows)


def _use(predictor: Predictor, facts: Facts) -> Iterator[str]:
    yield "## Intended use"
    yield ""
    yield ("Research use only. It is not a medical device, nobody has approved it for the care of patients, and no "
           "decision about a patient may rest on it.")


def _training(predictor: Predictor, facts: Facts) -> Iterator[str]:
    method = predictor.method
    weights = sum(one.numel() for one in method.parameters())
    yield "## Training"
    yield ""
    yield (f"{facts.epochs} of {_epochs(predictor, facts)} epochs"
           + (", of which the best by validation" if facts.validation else "") + f"; {weights:,} weights.")
    yield ""
    values = {"method": method.name, **method.settings, **facts.trainer}
    yield from table(["setting", "value"], [[key, f"`{json.dumps(value)}`"] for key, value in values.items()])


def _epochs(predictor: Predictor, facts: Facts) -> int:
    """Those asked for, of all stages."""
    return facts.trainer.get("epochs", 0) * len(predictor.method.stages())


def _scores(predictor: Predictor, facts: Facts) -> Iterator[str]:
    yield "## Scores"
    yield ""
    if facts.measured is None:
        yield "Nothing was measured: nobody knows what this model is worth."
        return
    found = scores(facts.measured, predictor.method.modalities)
    dice = one_metric(found, "dice")
    for policy, part in dice.groupby("policy", sort=False):
        of = f", policy {policy}" if dice["policy"].nunique() > 1 else ""
        yield (f"Dice in per cent{of}: mean over cases and 95 % interval (bootstrap over cases); {PRESENT} present, "
               f"{MISSING} missing.")
        yield ""
        yield from _subset_rows(predictor, part)
        yield ""
    one_each = dice[dice["present"] != AVERAGE]
    yield (f"Both masks empty is a Dice of 100, one empty is 0; that was so for {int(one_each['empty'].sum())} of "
           f"{int(one_each['cases'].sum())} values. `scores.csv` has distances too.")


def _subset_rows(predictor: Predictor, dice: pd.DataFrame) -> Iterator[str]:
    """A row for each subset that was measured, and the average where all were."""
    names = [name for name in predictor.task.modalities if name in predictor.method.modalities]
    regions, cells, rows = list(dice["region"].unique()), dice.set_index(["present", "region"]), []
    for subset in (*subset_order(names), AVERAGE):
        if subset not in cells.index.get_level_values(0):
            continue
        marks = [PRESENT if name in subset.split("+") else MISSING for name in names]
        there = [cells.loc[(subset, region)] if (subset, region) in cells.index else None for region in regions]
        rows.append([*(marks if subset != AVERAGE else [AVERAGE, *[""] * (len(names) - 1)]),
                     *(NO_VALUE if one is None else _value(one) for one in there),
                     str(max(int(one["cases"]) for one in there if one is not None))])
    yield from table([*names, *regions, "cases"], rows)


def _value(row: pd.Series) -> str:
    spread = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['mean']:.1f}{spread}"


def _limits(predictor: Predictor, facts: Facts) -> Iterator[str]:
    method = predictor.method
    answers = method.answerable(set(method.modalities))
    yield "## Limits"
    yield ""
    yield (f"- It learned from {len(facts.training)} cases. Other scanners, protocols, hospitals, ages and diseases "
           "may give other results, without a sign of it.")
    if facts.measured is not None:
        cases = set(facts.measured["case"])
        seen = len(cases & {*facts.training, *facts.validation})
        yield (f"- Of the {len(cases)} cases measured, {seen} were trained or validated on"
               + ("; the scores above are too good for new cases." if seen else "."))
    listed = "; ".join("+".join(name for name in method.modalities if name in one) for one in answers)
    yield (f"- It answers from {len(answers)} of the {2 ** len(method.modalities) - 1} subsets of its modalities"
           + (f" ({listed})" if len(answers) <= 4 else "") + "; a subset without a row above was not measured.")
    if facts.epochs < _epochs(predictor, facts):
        yield "- Its training was not finished."
    yield "- The scans of a case must be registered to one another; it does not see when they are not."
    yield f"- It knows the classes above and no others: whatever else a scan shows is {predictor.task.class_names[0]}."
    yield "- Attention and contributions say what the network used, not what is true."
    yield "- Weights can hold traces of the cases that they were trained on."
    yield from (f"- {one}" for one in facts.limits)


def _how(predictor: Predictor, facts: Facts) -> Iterator[str]:
    first = predictor.method.modalities[0]
    yield "## How to use"
    yield ""
    yield "```python"
    yield "from maml_toolkit import find_cases, from_pretrained"
    yield ""
    yield f"predictor = from_pretrained({facts.name!r})"
    yield f"cases = find_cases('data', predictor.task)       # data/case_01/case_01_{first}.nii.gz, …"
    yield "for case in cases:"
    yield "    prediction = predictor(case)                 # labels, probabilities, and maps where the method has them"
    yield "    prediction.save(f'predictions/{case.id}')    # NIfTI files that overlay on the scans"
    yield "```"


def _versions(predictor: Predictor, facts: Facts) -> Iterator[str]:
    yield "## Versions"
    yield ""
    yield "Written with " + ", ".join(f"{name} {version(name)}" for name in PACKAGES) + "."


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    for cells in (heads, ["---"] * len(heads), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _size(numbers: Sequence[float]) -> str:
    return " × ".join(f"{one:g}" for one in numbers)

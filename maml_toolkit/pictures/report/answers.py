"""The pages about answers: of a run, and of one case, which is to be looked at first.

Of a run, how it was trained, what it scores, what each scan is worth, its worst and its best cases; of a case, where
something was found, what, and from which scans.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maml_toolkit.data.cases import Case
from maml_toolkit.data.checksums import content
from maml_toolkit.data.geometry import voxel_ml
from maml_toolkit.data.tasks import Task
from maml_toolkit.evaluation import compare_regions, formatted, shapley, subset_table
from maml_toolkit.evaluation.measuring import ground_truth
from maml_toolkit.evaluation.table import metrics_of, one_metric, read_table, summary
from maml_toolkit.pictures import plots
from maml_toolkit.pictures.report.pages import drawn, files, made_of, table, wide, written
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.prediction.runs import Run
from maml_toolkit.prediction.sureness import Sureness
from maml_toolkit.system import machine, processes, tables
from maml_toolkit.system.errors import counted, few

UNCERTAIN = ("where all that was asked, every scan and all but each one, does not say the same: 0 where it does for "
             "certain, largest where every class is as likely")

SAME = 0.005
"""How far the mean Dice of an answer may be from the one in the table, which another processor may have found."""

PACKAGES = ("maml_toolkit", "torch", "torchio", "nibabel", "numpy", "scipy", "SimpleITK")
"""Whose versions a number depends on."""

EARLIER = "The run went on since this was measured: it is of earlier weights."

FILES = ("metrics.csv", "history.csv", "settings.json", "predictions")
"""What lies in a run beside its page."""

EXPLAINED = {
    "assd": "ASSD: average distance between the two surfaces. ",
    "hd95": "HD95: 95th percentile of the distances between the surfaces, in both directions the larger. ",
    "nsd": "NSD, the surface Dice: share of the surfaces that lie within the tolerance of one another; 100 where both "
           "are empty, 0 where one is. ",
    "lesion": "Lesions are counted as BraTS 2023 does. "}
"""What the abbreviations of metrics mean."""

MEANING = {
    "completeness": "how far contributions and bias miss the log-odds, at the worst voxel",
    "pointing": "how often a scan's map is largest at most 3 mm from the lesion",
    "pointing_mm": "how far from the lesion it is largest, in mm",
    "deletion_over_random": "how much sooner the lesion goes when parts are replaced in the map's order than at random",
    "insertion_over_random": "how much sooner it comes when they are put back so",
    "deletion_over_distance": "the same as against the order of the distance from the lesion",
    "insertion_over_distance": "and put back",
}
"""What a measure of the maps says, in a line."""

MEASURED = ("value", "low", "high", "chance", "count", "cases", "share", "seed")
"""The columns with numbers of the tables about maps."""


def case_page(case: Case, prediction: Prediction, path: str | Path, facts: Mapping[str, str] | None = None,
              beside: Sequence[Path] = ()) -> Path:
    """One page about one case: who answered from which scans, slices, maps, the volume of each class and region.

    Args:
        case: whose scans are shown.
        prediction: of it.
        path: of the HTML file.
        facts: what else to say, by its name.
        beside: the files with the answer, linked to where they lie below the folder of the page.
    """
    return written(path, f"Case {case.id}", _case_parts(case, prediction, facts or {}, files(path, beside)))


def case_pictures(case: Case, task: Task, prediction: Any) -> Iterator[str]:
    """Slices of a case with what was found, and what each scan said about it."""
    whose = "the prediction" if case.label is None else "ground truth and prediction"
    lesion = f"{case.id}, the whole lesion ({', '.join(task.class_names[1:])}) outlined"
    yield drawn(lambda: plots.case_slices(case, task, prediction=prediction),
                f"{case.id}, outlines of {', '.join(task.regions)} in {whose}: one axial slice, through the largest "
                "cross-section of the lesion; the patient's right is on the left")
    if prediction.contributions:
        yield drawn(lambda: plots.contribution_maps(case, prediction, task),
                    f"{case.id}, {', '.join(prediction.contributions)}: the shares of the scans and of the bias add up "
                    "to the log-odds. Outside the box around the body nothing is computed")
    if prediction.uncertainty is not None:
        yield drawn(lambda: plots.uncertainty_map(case, prediction, task), f"{lesion}. Uncertainty: {UNCERTAIN}")
    if prediction.attention:
        yield drawn(lambda: plots.attention_maps(case, prediction, task),
                    f"{lesion}. Attention has no sign and is no probability over scans; read it beside the "
                    "contributions. It is 0 where nothing is computed")


def _case_parts(case: Case, prediction: Prediction, facts: Mapping[str, str], beside: str) -> Iterator[str]:
    task, used = prediction.task, prediction.modalities
    absent = escape(", ".join(name for name in task.modalities if name not in used))
    yield (f'<p class="verdict">Segmented by {escape(prediction.method)} of the run {escape(prediction.run)} from '
           f"<b>{escape(', '.join(used))}</b>{f', without {absent}' if absent else ''}. A network draws what it has "
           "learned, and may be wrong without a sign of it: look at every slice before anything is done with this.</p>")
    yield "<h2>Where</h2>"
    yield from case_pictures(case, task, prediction)
    yield "<h2>What was found</h2>"
    each_ml, classes = voxel_ml(prediction.affine), prediction.classes
    regions = {name: (name,) for name in task.class_names[1:]} | dict(task.regions)
    ml = {name: each_ml * np.isin(classes, [task.class_names.index(one) for one in of]).sum()
          for name, of in regions.items()}
    yield table(["class or region", "made of", "volume (ml)"],
                [[escape(name), escape(" + ".join(of) if of != (name,) else ""), f"{ml[name]:.2f}"]
                 for name, of in regions.items()],
                "Volume of each class, and of each region that is made of some")
    if prediction.sureness:
        yield "<h2>How sure</h2>"
        yield from how_sure(prediction.sureness)
    if rows := [[escape(name), escape(text)] for name, text in facts.items()] + [["files", beside]] * bool(beside):
        yield "<h2>How it was made</h2>"
        yield table((), rows, "The scans that were used, and where the answer lies")


def how_sure(sure: Sureness) -> Iterator[str]:
    """What is to be expected of an answer, and what becomes of it without each of its scans."""
    dice = sure.expected_dice
    rows = []
    for region, nats in sure.entropy.items():
        line, agreed = sure.expected.get(region), sure.agreement.get(region)
        rows.append([escape(region), f"{100 * dice[region]:.0f} %" if line else "–",
                     "–" if line is None or line.error is None else f"{100 * line.error:.0f} in {line.cases} cases",
                     "–" if agreed is None else f"{100 * agreed:.0f} %", f"{nats:.2f}"])
    heads = ["region", "expected Dice", "mean error (points)", "agreement without each scan", "uncertainty (nats)"]
    yield table(heads, rows, "Expected Dice and its mean error: learned from labelled cases that were not trained on, "
                "– where not. Agreement: Dice of this answer with those without one scan. Uncertainty: mean over the "
                "region; 0 is certain")
    if sure.worst:
        yield "<ul>" + "".join(f"<li>{escape(str(one))}</li>" for one in sure.worst) + "</ul>"


def run_page(run: str | Path | Run, cases: Sequence[Case] = (), predictor: Predictor | None = None,
             *, shown: int = 2, path: str | Path | None = None) -> Path:
    """One page about a run, from what lies in its folder.

    Args:
        run: a run folder; what it does not hold yet (metrics, subsets) is left out of the page.
        cases, predictor: with both, the page shows the worst and the best of these cases and where the answer came
            from; one whose prediction was not saved is segmented once more. Cases that were not measured are left out.
        shown: how many of the worst and how many of the best cases.
        path: of the HTML file; report.html of the run when left out.

    Raises:
        ValueError: the folder holds no run.
    """
    run = Run(run)
    if not run.settings:
        raise ValueError(f"{run.folder} holds no run (no settings.json); expected a folder that a Trainer wrote")
    path = path or run.folder / "report.html"
    return written(path, f"Run {run.name}", _run_parts(run, cases, predictor, shown, path))


def _run_parts(run: Run, cases: Sequence[Case], predictor: Predictor | None, shown: int,
               path: str | Path) -> Iterator[str]:
    task = Task.from_json(run.settings["task"])
    measured = read_table(run.metrics) if run.metrics.exists() else None
    if measured is None:
        yield '<p class="verdict">Nothing was measured yet: <code>python -m maml_toolkit evaluate</code></p>'
    else:
        cases = [case for case in cases if case.id in set(measured["case"])]
        yield _verdict(measured, run, task)
        yield from _scores(measured, task)
        if cases and predictor:
            yield from _cases(measured, cases, predictor, shown)
        yield from _subsets(measured, task)
    yield from _maps(run)
    if run.history.exists():
        history, ids = run.epochs(), run.settings.get("cases", {}).get("validation", ())
        over = f", mean over {counted(len(ids), 'validation case')} ({few(ids, 10)})" if ids else ""
        if run.settings.get("cases", {}).get("earlier validation"):
            over += "; of the first epochs over other cases too"
        yield "<h2>Training</h2>"
        yield drawn(lambda: plots.learning_curves(history, task=task),
                    f"{counted(len(history), 'epoch')}: loss and its terms; Dice of {', '.join(task.regions)}{over}")
    yield from _settings(run, cases, task, path)


def _verdict(measured: pd.DataFrame, run: Run, task: Task) -> str:
    """The Dice from most scans, over which cases, and whether the run knew some of them."""
    dice = _from_most(one_metric(measured, "dice"))
    policy, first = next(iter(dice.groupby("policy", sort=False, dropna=False)))
    ids = list(first["case"].unique())          # those that lack a scan were answered from fewer
    means = [f"{escape(one.region)} <b>{100 * one.mean:.1f} %</b>" for one in summary(first, ["region"]).itertuples()]
    told = [run.about_seen(measured["case"]), EARLIER * run.is_older(run.metrics)]
    used, method = first["present"].iloc[0], " / ".join(filter(None, (first["method"].iloc[0], str(policy))))
    return (f'<p class="verdict">Mean Dice from {escape(used.replace("+", ", "))}: {", ".join(means)}, over '
            f"{counted(len(ids), 'case')} ({escape(few(ids, 10))})."
            + "".join(f" <b>{escape(one)}</b>" for one in told if one)
            + f"</p><p>Answered by {escape(method)}. {escape(made_of(task))}.</p>")


def _scores(measured: pd.DataFrame, task: Task) -> Iterator[str]:
    count = measured["case"].nunique()
    yield "<h2>Scores</h2>"
    regions = ", ".join(one_metric(measured, "dice")["region"].unique())
    yield drawn(lambda: plots.scores(measured),
                f"Dice of {regions}, from 0 to 1: each of {counted(count, 'case')}, and their mean")
    yield _table(_from_most(measured) if _subsets_of(measured, task) else measured)
    metrics = {metric.partition("@")[0].partition("_")[0] for metric in measured["metric"]}
    yield ("<p>" + ("These rest on one training: the interval holds other cases, not another training. "
                    if count > 1 else "") + "".join(said for metric, said in EXPLAINED.items() if metric in metrics) +
           "<i>Empty masks</i> counts cases in which ground truth or prediction holds no voxel of the region: both "
           "empty is Dice 100 and distance 0, one empty is Dice 0 and the diagonal of the image as distance.</p>")


def _table(measured: pd.DataFrame) -> str:
    """A row for each subset and region; what follows a mean in brackets stands below it."""
    rows = formatted(measured, metrics_of(measured), intervals=True).drop(columns="method")
    rows = rows.rename(columns={"present": "scans", "empty": "empty masks"})
    cells = [[re.sub(r" ([\[(].*)$", r"<br><small>\1</small>", escape(str(cell))) for cell in row]
             for row in rows.to_numpy().tolist()]
    count = measured["case"].nunique()
    return table(list(rows), cells, f"Mean ± standard deviation over {count} cases, below it the 95 % interval of the "
                 "mean; of distances also the median, below it the quartiles" if count > 1 else
                 "One case, so neither spread nor interval")


def _from_most(measured: pd.DataFrame) -> pd.DataFrame:
    """The rows from the largest subset of the scans."""
    return measured[measured["present"] == max(measured["present"].unique(), key=lambda one: len(one.split("+")))]


def _subsets_of(measured: pd.DataFrame, task: Task) -> list[str]:
    """The modalities all of whose subsets were measured."""
    present = set(measured["present"])
    modalities = [name for name in task.modalities if any(name in one.split("+") for one in present)]
    return modalities if len(present) >= 2 ** len(modalities) - 1 and len(modalities) > 1 else []


def _subsets(measured: pd.DataFrame, task: Task) -> Iterator[str]:
    """The tables over all subsets and what each modality is worth, where all were measured."""
    if not (modalities := _subsets_of(measured, task)):
        return
    yield "<h2>Any subset of the scans</h2>"
    for policy, part in measured.groupby("policy", sort=False):
        printed = subset_table(part, task, modalities=modalities)
        yield f"<h3>{escape(str(policy))}</h3>{wide(printed.html(), printed.caption, 'marks')}"
    yield "<h2>What each scan is worth</h2>"
    values = shapley(measured)
    yield drawn(lambda: plots.shapley_bars(values),
                f"What each scan adds to the Dice of {', '.join(values['region'].unique())}, mean over "
                f"{_in_all(values)}: exact Shapley values. Those of a region add up to the "
                "Dice from all scans, minus that of an empty answer")
    yield f"<h2>Every metric of every subset</h2>{_table(measured)}"


def _in_all(values: pd.DataFrame) -> str:
    """How many cases were answered from every subset."""
    fewest, most = int(values["cases"].min()), int(values["cases"].max())
    return counted(most, "case") if fewest == most else f"{fewest} to {counted(most, 'case')}"


def _cases(measured: pd.DataFrame, cases: Sequence[Case], predictor: Predictor, shown: int) -> Iterator[str]:
    dice = _from_most(one_metric(measured, "dice"))
    dice = dice[dice["region"].isin(predictor.task.regions)]        # not those that are measured beside them
    policies = dice["policy"].unique()
    shown_by = predictor.policy if predictor.policy in policies else policies[0]
    by_case = dice[dice["policy"] == shown_by].groupby("case")["value"].mean().sort_values()
    known = {case.id: case for case in cases}
    ids = [id for id in by_case.index if id in known]
    best = ids[shown:][::-1][:shown]        # none that is among the worst
    for heading, chosen in (("Worst cases", ids[:shown]), ("Best cases", best)):
        if chosen:
            yield f"<h2>{heading}</h2>"
        for id in chosen:
            over = ", ".join(predictor.task.regions)
            by = f", answered by {shown_by}" if len(policies) > 1 or shown_by != predictor.policy else ""
            yield f"<h3>{escape(id)}: mean Dice {100 * by_case[id]:.1f} % over {escape(over)}{escape(by)}</h3>"
            scans = dice.loc[dice["case"] == id, "present"].iloc[0].split("+")
            (_, answer), = predictor.sweep(known[id], [scans], shown_by, attention=True, contributions=True)
            drawn_dice = _mean_dice(answer, known[id])
            if abs(drawn_dice - by_case[id]) > SAME:
                yield (f"<p><b>What is drawn has {100 * drawn_dice:.1f} %: it was measured otherwise</b>, by other "
                       "mirrors, windows or smallest parts, or by another checkpoint.</p>")
            yield from case_pictures(known[id], predictor.task, answer)


def _mean_dice(answer: Prediction, case: Case) -> float:
    """Over the regions of the task."""
    truth = ground_truth(case, answer.task)
    rows = compare_regions(answer.classes, truth.array, answer.task, truth.spacing_mm, metrics=["dice"])
    return float(np.mean([row["value"] for row in rows]))


def _maps(run: Run) -> Iterator[str]:
    """What was measured of attention and contributions: maps.csv, deletion.csv and randomisation.csv of the run."""
    folder = run.folder
    if not (folder / "maps.csv").exists():
        return
    maps = tables.read(folder / "maps.csv", MEASURED)
    yield "<h2>Are the maps worth looking at?</h2>" + f"<p><b>{EARLIER}</b></p>" * run.is_older(folder / "maps.csv")
    rows = [[escape(MEANING[one.measure]), escape(one.map), f"{one.value:.3g}",
             "" if np.isnan(one.low) else f"[{one.low:.3g}, {one.high:.3g}]",
             "" if np.isnan(one.chance) else f"{one.chance:.2g}", str(one.cases)]
            for one in maps[maps["modality"] == "all"].itertuples() if one.measure in MEANING]
    yield table(["measure", "map", "value", "95 % interval", "chance", "cases"], rows,
                "Means over so many cases, and over the scans; chance: what a map that knows nothing would have")
    if (folder / "deletion.csv").exists() and len(curves := tables.read(folder / "deletion.csv", MEASURED)):
        for measure in ("deletion", "insertion"):
            yield drawn(lambda measure=measure: plots.deletion_curves(curves, measure),
                        f"Mean probability of {', '.join(curves['class'].unique())} over "
                        f"{counted(curves['case'].nunique(), 'case')} while parts are replaced, or put back: the "
                        "steeper, the better the order")
    if (folder / "randomisation.csv").exists():
        layers = tables.read(folder / "randomisation.csv", MEASURED)
        yield drawn(lambda: plots.randomisation_curves(layers),
                    f"What is left of the maps of {', '.join(layers['class'].unique())}, over "
                    f"{counted(layers['case'].nunique(), 'case')}, while layers are drawn anew: a map that stays shows "
                    "the scan, not what was learned")


def _settings(run: Run, cases: Sequence[Case], task: Task, path: str | Path) -> Iterator[str]:
    settings = run.settings
    yield "<h2>How it was made</h2>"
    facts = [(name, _in_words(settings[name])) for name in ("method", "trainer") if name in settings]
    facts += [(f"{part} cases", f"{len(ids)}: {', '.join(ids)}") for part, ids in settings.get("cases", {}).items()]
    if cases:
        facts.append(("test cases", f"{len(cases)}: {', '.join(case.id for case in cases)}"))
        facts.append(("their files", f"SHA-256 {contents(cases, task)}"))
    facts.append(("task", f"{task.scheme}; scans {', '.join(task.modalities)}; {made_of(task)}"))
    facts.append(("versions", ", ".join(f"{name} {processes.installed(name) or 'not installed'}" for name in PACKAGES)))
    facts.append(("machine", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"))
    beside = files(path, (run.folder / name for name in FILES))
    yield table((), [[escape(name), escape(text)] for name, text in facts] + [["files", beside]],
                "Settings, cases and versions that these numbers come from")


def _in_words(value: Any) -> str:
    """A setting, or several by their names; what is not set is left out."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} ({said})" if isinstance(own, Mapping) else f"{name} {said}"
                         for name, own in value.items() if own is not None and (said := _in_words(own)))
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def contents(cases: Sequence[Case], task: Task) -> str:
    """Changes when a byte of a scan of the task or of a label does; the first 16 hexadecimal digits of a SHA-256."""
    of = {case.id: content(case, task) for case in machine.progress(cases, desc="checksum", unit="case")}
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]

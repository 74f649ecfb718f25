"""A study from a PACS, answered: DICOM in, DICOM SEG and a page out.

    <out>/series.csv            the series, and which of them may be which modality; a person confirms it
          cases/                the scans as NIfTI, without the patient's identity
          resampled/            those that lie on another grid than the first, in one frame of reference with it
          registered/           all of them, where that was asked
          predictions/<case>/   what `predict` writes
          <case>_seg.dcm        the answer, on the grid of the reference scan (of the first, where that is missing)
          <case>.html           the same to look at, on one page
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from maml_toolkit.commands.parameters import Parameter, options
from maml_toolkit.commands.shell import PROGRAM, as_printed
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, collected, expect_none, nearest, warn_of
from maml_toolkit.system.files import whole_folder, writable

if TYPE_CHECKING:
    from maml_toolkit.data.cases import Case
    from maml_toolkit.data.tasks import Task
    from maml_toolkit.dicom import Series

TABLE = "series.csv"

RESAMPLED = ("; put onto the grid of the first scan by the positions that DICOM says, so look whether the patient "
             "moved: --register corrects that")
"""What the page says of a scan that lay on another grid."""

OWN = {one.name: one for one in (
    Parameter("dicom", "", "folder of a study that a PACS exported; it is only read", "str"),
    Parameter("out", "", "folder to write: table, cases, predictions, <case>_seg.dcm and <case>.html", "str"),
    Parameter("yes", "False", "take the suggested modalities, where each has exactly one candidate", "bool"),
    Parameter("register", "False", "register the scans onto the task's reference, or onto the first that is there",
              "bool"),
    Parameter("keep_identity", "False", "copy the patient's identity into the SEG, which a PACS needs", "bool"))}
"""The parameters of `predict --dicom`; those of SHARED are the notebook's."""

SHARED = ("run", "policy", "mirror", "drop_small", "maps", "uncertainty", "checkpoint", "device", "precision", "window")


def is_asked(words: Sequence[str]) -> bool:
    """Whether a command line is about a study."""
    return any(word.partition("=")[0] == "--dicom" for word in words)


def describe() -> list[str]:
    """The lines of the command's help about studies."""
    return ["\nA study as DICOM in place of --data, answered as DICOM SEG and a page; no notebook is run:",
            *(f"  --{name:<13}  {one.help}  [{one.default}]" for name, one in OWN.items()),
            f"  and {', '.join(f'--{name}' for name in SHARED)}"]


def predict(words: Sequence[str], of_notebook: Mapping[str, Parameter], as_json: bool = False) -> None:
    """The command `predict --dicom`: says what was written, or shows the table that a person is to confirm first.

    As JSON: `series`, that table, and `answers`, DICOM SEG and page of each case, none before the table is filled in.

    Raises:
        ValueError: an option that is none, or of another kind, or no --out.
    """
    known = OWN | {name: of_notebook[name] for name in SHARED if name in of_notebook}
    given = {name: known[name].value for name in SHARED if name in known} | options(words, known, ["run"])
    if unknown := [f"--{name}{nearest(name, known)}" for name in given if name not in known]:
        raise ValueError(f"found {', '.join(unknown)}, expected options of predict --dicom: "
                         + ", ".join(f"--{name}" for name in known))
    if not given.get("out"):
        raise ValueError("found no --out, expected the folder to write")
    out, again = Path(given.pop("out")), f"{PROGRAM} predict {shlex.join(words)}"
    written = predict_study(given.pop("dicom"), given.pop("run"), out, **given)
    if as_json:
        return as_printed({"series": (out / TABLE).resolve(), "answers": [
            {"segmentation": seg.resolve(), "page": page.resolve()} for seg, page in written]})
    for seg, page in written:
        typer.echo(f"DICOM SEG: {seg.resolve()}. Look at it: {page.resolve()}")
    if not written:
        shown = tables.read(out / TABLE)[["case", "series", "kind", "description", "slices", "spacing_mm", "problem",
                                          "suggested", "modality"]]
        typer.echo(f"{shown.to_string(index=False)}\n\nFill in the column modality of {(out / TABLE).resolve()}, "
                   f"then:\n  {again}\nWhere what is suggested is right:\n  {again} --yes")
    return None


def predict_study(folder: str | Path, run: str | Path, out: str | Path, *, yes: bool = False, register: bool = False,
                  keep_identity: bool = False, maps: bool = True, uncertainty: bool = False,
                  checkpoint: str = "best", **settings: Any) -> list[tuple[Path, Path]]:
    """Segment the cases of a DICOM export with a trained run.

    A case may lack modalities, where the method accepts that.

    Args:
        folder: of the export; it is only read.
        run: folder that train wrote; its task names the modalities.
        out: folder to write; what is registered or predicted in it is not done again.
        yes: where nobody filled in the table, take what is suggested, if every modality has exactly one candidate.
        register: move the scans of a case onto the task's reference, or onto the first that is there. Without it, those
            of the same frame of reference are only resampled onto its grid, as they lie.
        keep_identity: as for `dicom.write_segmentation`.
        maps: keep attention and contributions, which the page shows.
        uncertainty: how sure each answer is too (prediction/sureness.py), which the page says.
        checkpoint, settings: as for `Predictor.load`.

    Returns:
        DICOM SEG and page of each case; nothing where series.csv is to be filled in first.

    Raises:
        DataError: nothing in the folder can be used, or what is suggested is ambiguous; or, once the other cases are
            written, those whose scans lie on several grids and in several frames of reference or cannot be segmented.

    Warns:
        DataWarning: of such grids, before anything is segmented.
    """
    from maml_toolkit import Predictor, dicom
    from maml_toolkit.data.cases import find_cases
    from maml_toolkit.prediction.predicting import predict_cases

    dicom.expect_elsewhere(Path(out), Path(folder))
    predictor = Predictor.load(run, checkpoint, **settings)
    task, out, found = predictor.task, writable(Path(out)), dicom.find_series(folder)
    table, how = _table(found, out, task, yes)
    if table is None:
        return []
    sources = dicom.confirmed(found, table, task)
    with whole_folder(out / "cases") as place:
        dicom.convert(folder, table, place, task, series=found)
    cases, problems = [], list[DataError]()
    again = f"{PROGRAM} predict " + shlex.join(["--run", str(run), "--dicom", str(folder), "--out", str(out),
                                                *["--yes"] * yes, "--register"])
    for case in find_cases(out / "cases" / "cases.csv", task):
        for old in _results(out, case):
            old.unlink(missing_ok=True)
        with collected(problems, case.id):
            cases.append(_registered(case, sources[case.id], task, out) if register else
                         _on_one_grid(case, sources[case.id], task, out / "resampled", again))
    if cases:
        warn_of(problems)
    outcome = predict_cases(predictor, cases, out / "predictions", attention=maps, contributions=maps,
                            uncertainty=uncertainty)
    written = [_answered(case, sources[case.id], task, out, how, keep_identity) for case in cases
               if case.id not in outcome.record["failed"]]
    expect_none([*problems, *outcome.errors])
    return written


def _answered(case: Case, series: Mapping[str, Series], task: Task, out: Path, how: str,
              keep_identity: bool) -> tuple[Path, Path]:
    """DICOM SEG and page of a case, written from its prediction; the page says how its series became its scans."""
    from maml_toolkit import dicom, report
    from maml_toolkit.data.volumes import Volume
    from maml_toolkit.prediction.prediction import Prediction

    folder, (seg, page) = out / "predictions" / case.id, _results(out, case)
    prediction = Prediction.load(folder)
    dicom.write_segmentation(seg, Volume(prediction.labels, prediction.affine), series[_reference(task, series)], task,
                             method=prediction.method, keep_identity=keep_identity)
    facts = {name: f"{one.description or 'no description'}; {one.shape[2]} slices; series {one.name}"
             + RESAMPLED * Path(case.images[name]).is_relative_to(out / "resampled") for name, one in series.items()}
    return seg, report.case_page(case, prediction, page, facts | {"which scan is which": how}, [seg, folder])


def _table(found: Sequence[Series], out: Path, task: Task, yes: bool) -> tuple[Path | None, str]:
    """The table that says which series is which modality, and who says it; none where nobody does yet."""
    from maml_toolkit import dicom

    table, taken = out / TABLE, out / "series_suggested.csv"
    if not table.exists():
        dicom.write_series_table(found, table, task)
    columns, rows = tables.read_rows(table)
    if any(dict(zip(columns, row, strict=False)).get("modality") for row in rows):
        return table, f"confirmed in {TABLE}"
    if not yes:
        return None, ""
    modalities = dicom.only_candidates(found, task)
    taken.unlink(missing_ok=True)
    dicom.write_series_table(found, taken, task, modalities)
    return taken, "as the descriptions of the series say; nobody confirmed it"


def _registered(case: Case, series: Mapping[str, Series], task: Task, out: Path) -> Case:
    """The case with its scans moved onto the first of them, and a page about that."""
    from maml_toolkit import report
    from maml_toolkit.registration import register_case

    if len(series) == 1:
        return case
    own = replace(task, reference=(first := _reference(task, series)), label_on=first)
    done = register_case(case, own, out / "registered")
    report.registration_page([case], [done], own, out / f"{case.id}_registration.html")
    return done.case


def _on_one_grid(case: Case, series: Mapping[str, Series], task: Task, out: Path, again: str) -> Case:
    """The case with its scans on the grid of the first of them; those of its frame of reference are resampled.

    What they do not reach has their lowest value there, with a warning where that is more than a twentieth of the body.

    Args:
        out: for what is resampled.
        again: the command that registers.

    Raises:
        DataError: a scan of another frame of reference lies on another grid, or one has nothing in common with it.
    """
    from maml_toolkit.data import volumes
    from maml_toolkit.data.layouts.folders import file_of
    from maml_toolkit.data.resampling import resampled

    first, problems = _reference(task, series), list[DataError]()
    found, grid = dict(case.images), series[first].frame
    for name, one in series.items():
        with collected(problems, case.id, modality=name):
            if not (difference := volumes.grid_difference(grid, one.frame)):
                continue
            if not one.space or one.space != series[first].space:
                raise DataError(f"{difference}; expected one grid, or one frame of reference, for {first} and {name}",
                                f"Register them, and look at the page about it: {again}")
            scan = volumes.read(case.images[name])
            array = resampled(scan.array, scan.affine, grid.shape, grid.affine, outside=float(scan.array.min()),
                              antialias=True)
            if array.min() == array.max():
                raise DataError(f"{difference}, and nothing of it lies on the grid of {first}", "Choose another series "
                                f"in {TABLE}, or leave this one out.")
            reached = resampled(scan.array * 0 + 1, scan.affine, grid.shape, grid.affine)
            body = (whole := volumes.read(case.images[first]).array) > whole.mean()
            if (share := reached[body].mean()) < 0.95:
                warn_of([DataError(f"it reaches {share:.0%} of the body in {first}, and is empty in the rest",
                                   f"Mistrust the answer there, or choose another series in {TABLE}.", case=case.id,
                                   modality=name)])
            found[name] = out / file_of(case, name, task)
            found[name].parent.mkdir(parents=True, exist_ok=True)
            volumes.write(found[name], array, grid.affine, volumes.mark_of(case.images[name]))
    expect_none(problems)
    return replace(case, images=found)


def _reference(task: Task, series: Mapping[str, Series]) -> str:
    return task.reference if task.reference in series else next(iter(series))


def _results(out: Path, case: Case) -> tuple[Path, Path]:
    return out / f"{case.id}_seg.dcm", out / f"{case.id}.html"

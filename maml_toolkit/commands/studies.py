"""A study from a PACS, answered: DICOM in, DICOM SEG and a page out.

    <out>/series.csv            the series, and which of them may be which modality; a person confirms it
          cases/, registered/   the scans as NIfTI, without the patient's identity; on one grid, where that was asked
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
from maml_toolkit.system import tables
from maml_toolkit.system.errors import DataError, collected, nearest
from maml_toolkit.system.files import whole_folder, writable

if TYPE_CHECKING:
    from maml_toolkit.data.cases import Case
    from maml_toolkit.data.tasks import Task
    from maml_toolkit.dicom import Series

TABLE = "series.csv"

OWN = {one.name: one for one in (
    Parameter("dicom", "", "folder of a study that a PACS exported; it is only read", "str"),
    Parameter("out", "", "folder to write: table, cases, predictions, <case>_seg.dcm and <case>.html", "str"),
    Parameter("yes", "False", "take the suggested modalities, where each has exactly one candidate", "bool"),
    Parameter("register", "False", "register the scans onto the task's reference, or onto the first that is there",
              "bool"),
    Parameter("keep_identity", "False", "copy the patient's identity into the SEG, which a PACS needs", "bool"))}
"""The parameters of `predict --dicom`; those of SHARED are the notebook's."""

SHARED = ("run", "maps", "checkpoint", "device", "precision", "window")


def is_asked(words: Sequence[str]) -> bool:
    """Whether a command line is about a study."""
    return any(word.partition("=")[0] == "--dicom" for word in words)


def describe() -> list[str]:
    """The lines of the command's help about studies."""
    return ["\nA study as DICOM in place of --data, answered as DICOM SEG and a page; no notebook is run:",
            *(f"  --{name:<13}  {one.help}  [{one.default}]" for name, one in OWN.items()),
            f"  and {', '.join(f'--{name}' for name in SHARED)}"]


def predict(words: Sequence[str], of_notebook: Mapping[str, Parameter]) -> None:
    """The command `predict --dicom`: says what was written, or shows the table that a person is to confirm first.

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
    out, again = Path(given.pop("out")), shlex.join(["python", "-m", "maml_toolkit", "predict", *words])
    for seg, page in (written := predict_study(given.pop("dicom"), given.pop("run"), out, **given)):
        typer.echo(f"DICOM SEG: {seg.resolve()}. Look at it: {page.resolve()}")
    if not written:
        shown = tables.read(out / TABLE)[["case", "series", "kind", "description", "slices", "spacing_mm", "problem",
                                          "suggested", "modality"]]
        typer.echo(f"{shown.to_string(index=False)}\n\nFill in the column modality of {(out / TABLE).resolve()}, "
                   f"then:\n  {again}\nWhere what is suggested is right:\n  {again} --yes")


def predict_study(folder: str | Path, run: str | Path, out: str | Path, *, yes: bool = False, register: bool = False,
                  keep_identity: bool = False, maps: bool = True, checkpoint: str = "best",
                  **settings: Any) -> list[tuple[Path, Path]]:
    """Segment the cases of a DICOM export with a trained run.

    A case may lack modalities, where the method accepts that.

    Args:
        folder: of the export; it is only read.
        run: folder that train wrote; its task names the modalities.
        out: folder to write; what is registered or predicted in it is not done again.
        yes: where nobody filled in the table, take what is suggested, if every modality has exactly one candidate.
        register: bring the scans of a case onto the grid of the task's reference, or of the first that is there.
        keep_identity: as for `dicom.write_segmentation`.
        maps: keep attention and contributions, which the page shows.
        checkpoint, settings: as for `Predictor.load`.

    Returns:
        DICOM SEG and page of each case; nothing where series.csv is to be filled in first.

    Raises:
        DataError: nothing in the folder can be used, or what is suggested is ambiguous; or, once the other cases are
            written, those whose scans lie on several grids or cannot be segmented.
    """
    from maml_toolkit import Predictor, dicom, report
    from maml_toolkit.data.cases import find_cases
    from maml_toolkit.data.volumes import Volume
    from maml_toolkit.prediction.predicting import predict_cases
    from maml_toolkit.prediction.prediction import Prediction

    dicom.expect_elsewhere(Path(out), Path(folder))
    predictor = Predictor.load(run, checkpoint, **settings)
    task, out, found = predictor.task, writable(Path(out)), dicom.find_series(folder)
    table, how = _table(found, out, task, yes)
    if table is None:
        return []
    sources = dicom.confirmed(found, table, task)
    with whole_folder(out / "cases") as place:
        dicom.convert(folder, table, place, task, series=found)
    cases, problems, written = [], list[DataError](), []
    for case in find_cases(out / "cases" / "cases.csv", task):
        for old in _results(out, case):
            old.unlink(missing_ok=True)
        with collected(problems, case.id):
            cases.append(_on_one_grid(case, sources[case.id], task, out, register))
    outcome = predict_cases(predictor, cases, out / "predictions", attention=maps, contributions=maps)
    for case in (case for case in cases if case.id not in outcome.record["failed"]):
        prediction, (seg, page) = Prediction.load(out / "predictions" / case.id), _results(out, case)
        source = sources[case.id][_reference(task, sources[case.id])]
        dicom.write_segmentation(seg, Volume(prediction.labels, prediction.affine), source, task,
                                 method=prediction.method, keep_identity=keep_identity)
        facts = {name: f"{one.description or 'no description'}; {one.shape[2]} slices; series {one.name}"
                 for name, one in sources[case.id].items()}
        written.append((seg, report.case_page(case, prediction, page, facts | {"which scan is which": how})))
    if problems := [*problems, *outcome.errors]:
        raise DataError.together(problems)
    return written


def _table(found: Sequence[Series], out: Path, task: Task, yes: bool) -> tuple[Path | None, str]:
    """The table that says which series is which modality, and who says it; none where nobody does yet."""
    from maml_toolkit import dicom

    table, taken = out / TABLE, out / "series_suggested.csv"
    if not table.exists():
        dicom.write_series_table(found, table, task)
    columns, rows = tables.read_rows(table, by_hand=True)
    if any(dict(zip(columns, row, strict=False)).get("modality") for row in rows):
        return table, f"confirmed in {TABLE}"
    if not yes:
        return None, ""
    modalities = dicom.only_candidates(found, task)
    taken.unlink(missing_ok=True)
    dicom.write_series_table(found, taken, task, modalities)
    return taken, "as the descriptions of the series say; nobody confirmed it"


def _on_one_grid(case: Case, series: Mapping[str, Series], task: Task, out: Path, register: bool) -> Case:
    from maml_toolkit import report
    from maml_toolkit.data.volumes import grid_difference

    first = _reference(task, series)
    if register and len(series) > 1:
        from maml_toolkit.registration import register_case

        own = replace(task, reference=first, label_on=first)
        done = register_case(case, own, out / "registered")
        report.registration_page([case], [done], own, out / f"{case.id}_registration.html")
        return done.case
    if problems := [DataError(f"{difference}; expected one grid for {first} and {name}", "Add --register, and look at "
                              "its page.", modality=name) for name, one in series.items()
                    if (difference := grid_difference(series[first].frame, one.frame))]:
        raise DataError.together(problems)
    return case


def _reference(task: Task, series: Mapping[str, Series]) -> str:
    return task.reference if task.reference in series else next(iter(series))


def _results(out: Path, case: Case) -> tuple[Path, Path]:
    return out / f"{case.id}_seg.dcm", out / f"{case.id}.html"

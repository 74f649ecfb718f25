"""Answers as BIDS derivatives, beside the scans or in a data set of their own.

    derivatives/maml_toolkit/dataset_description.json, dseg.tsv     whose they are, what the values mean
                             sub-01/[ses-1/]anat/sub-01_[ses-1_]dseg.nii.gz, _probseg.nii.gz (classes are the 4th axis)
                                                 and a .json beside each: from which files, by which run

Their names have `space-` where those of the scans agree on one, and `desc-` with the modalities where not all of the
case's were used.

References:
    BIDS derivatives, https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html
"""

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from maml_toolkit.data import volumes
from maml_toolkit.data.cases import Case
from maml_toolkit.data.layouts import bids
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.files import writable, write_whole
from maml_toolkit.system.machine import progress


def write_bids(predictions: Iterable[Prediction], folder: str | Path, cases: Iterable[Case] = ()) -> Path:
    """Write label maps and probabilities as BIDS derivatives; an earlier answer of the same name is replaced.

    Args:
        predictions: one after the other, so that they may be loaded when their turn comes.
        folder: the data set; `derivatives/maml_toolkit` is written into it. Nobody takes it for ground truth.
        cases: those that are predicted, for their files and patients; without its case an answer is named by the id.

    Returns:
        The folder of derivatives.

    Raises:
        DataError: a case has no name in BIDS, or two of them share one; before anything is written, of `cases`. Or two
            answers for a case from the same scans.
        PermissionError: the folder cannot be written.
    """
    home = writable(Path(folder) / "derivatives" / bids.ANSWERS)
    known, owners, made = {case.id: case for case in cases}, {}, set[Path]()
    for case in known.values():
        _take_name(case, owners)
    for number, prediction in enumerate(progress(predictions, desc="writing BIDS", unit="case")):
        task, case = prediction.task, known.get(prediction.case, Case(prediction.case))
        _take_name(case, owners)
        if number == 0:
            bids.write_description(home, f"Answers of maml_toolkit, {task.name}", bids.ANSWERS, task=task)
        start = home / _start(case, prediction)
        if start in made:
            raise DataError(f"two of its answers would be called {start.name}", "Write those of other policies or runs "
                            "into another data set.", case=case.id)
        made.add(start)
        start.parent.mkdir(parents=True, exist_ok=True)
        about = {"Description": f"Answer of {prediction.method or 'a method'} from {', '.join(prediction.modalities)}",
                 "Manual": False, **_sources(case, prediction, Path(folder)), "Method": prediction.method,
                 "Run": prediction.run, "Policy": prediction.policy, "Modalities": list(prediction.modalities)}
        for suffix, array, more in (
                ("dseg", prediction.labels, {}),
                ("probseg", np.moveaxis(prediction.probabilities, 0, -1), {"LabelMap": list(task.answers.names)})):
            volumes.write(start.with_name(f"{start.name}_{suffix}.nii.gz"), array, prediction.affine)
            write_whole(start.with_name(f"{start.name}_{suffix}.json"), json.dumps({**about, **more}, indent=1))
    return home


def _take_name(case: Case, owners: dict[str, str]) -> None:
    if (owner := owners.setdefault((stem := bids.stem_of(case)).lower(), case.id)) != case.id:
        raise DataError(f"its answer would be called {stem}, as that of {owner}",
                        "Rename one of them; only letters and digits count.", case=case.id)


def _start(case: Case, prediction: Prediction) -> str:
    """The path of an answer within the derivatives, up to its suffix."""
    spaces = {tuple(re.findall(r"_space-([^_]+)", Path(path).name)) for path in _files(case, prediction)}
    space = f"_space-{spaces.pop()[0]}" if len(spaces) == 1 and () not in spaces else ""
    is_part = {one for one in case.images if one in prediction.task.modalities} > set(prediction.modalities)
    used = "".join(re.sub("[^A-Za-z0-9]", "", one) for one in prediction.modalities)
    return f"{bids.stem_of(case)}{space}{f'_desc-{used}' if is_part else ''}"


def _files(case: Case, prediction: Prediction) -> list[Path | str]:
    """Those of the scans that were used, as far as they are files."""
    paths = (volumes.path_of(case.images.get(name)) for name in prediction.modalities)
    return [path for path in paths if path is not None]


def _sources(case: Case, prediction: Prediction, folder: Path) -> dict:
    """The files of the scans, from the data set on; the answer lies on the grid of the first."""
    found = []
    for path in _files(case, prediction):
        with suppress(ValueError):                      # another drive of Windows
            found.append(f"bids:raw:{Path(os.path.relpath(path, folder)).as_posix()}")
    return {"Sources": found, "SpatialReference": found[0]} if found else {}

"""The row of many cases: reading, network and writing at the same time, against one case after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.rows import Row, compared
from benchmarks.settings import Settings, task_of
from benchmarks.steps import made
from benchmarks.timing import alternating
from maml_toolkit.data import phantoms
from maml_toolkit.data.cases import find_cases, write_cases
from maml_toolkit.prediction.predicting import predict_cases
from maml_toolkit.prediction.predictor import Predictor

CASES = 4


def against_one_by_one(settings: Settings) -> Iterable[Row]:
    """Files to files, all maps kept: a shard with its manifests and checksums, against a loop without."""
    task = task_of(4)
    brains = [replace(brain, images=dict(zip(task.modalities, brain.images.values(), strict=True)), label=None)
              for brain in phantoms.brains(CASES, size=settings.window)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        cases = find_cases(write_cases(brains, folder / "cases", task=task), task)
        predictor = Predictor(made("maml", 4, settings.channels), task, (settings.window,) * 3,
                              device=str(settings.device), precision=settings.precision)

        def sharded() -> None:
            shutil.rmtree(folder / "sharded", ignore_errors=True)
            predict_cases(predictor, cases, folder / "sharded").check()

        def one_by_one() -> None:
            for case in cases:
                predictor(case).save(folder / "plain" / case.id)

        timings = alternating({"sharded": sharded, "one by one": one_by_one}, settings.pairs)
    own, its = ([60 * CASES / one for one in timings.seconds[side]["wall"]] for side in ("sharded", "one by one"))
    yield compared("sharding", f"{CASES} cases of {settings.window}^3, 4 scans, from files to files with all maps",
                   "sharded", "one by one", own, its, "cases a minute", at_least=True,
                   note="the shard also writes checksums of its inputs; on a CPU the network has all cores")

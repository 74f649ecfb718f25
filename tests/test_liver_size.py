"""A case of liver-CT size goes the whole way in 12 GB of memory, and a small network learns what phantoms show."""

import json
import subprocess
import sys

import pytest
import torch

from maml_toolkit.data import phantoms
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.evaluation import evaluate
from maml_toolkit.methods import build
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.training.trainer import Trainer

pytestmark = pytest.mark.slow

THE_WHOLE_WAY = """
import json, resource, sys
from pathlib import Path
import torch
from maml_toolkit import MAML, Case, Predictor, Task, Trainer
from maml_toolkit.networks.unet import layout

folder, run = Path(sys.argv[1]), sys.argv[2]
image, label = folder / "chaos_ct_eval_ct_portal.nii.gz", folder / "chaos_ct_eval_seg.nii.gz"
case = Case("chaos", {"arterial": image, "venous": image}, label)
task = Task("liver", ("arterial", "venous"), {"background": 0, "liver": 1}, intensities="ct")
patch = (64, 64, 32)
model = MAML(task.modalities, 2, channels=(8, 16, 32, 64), **layout(patch, (0.727, 0.727, 2), 4))
trainer = Trainer(model, run, task, patch_size=patch, epochs=1, steps_per_epoch=4, cache=Path(run) / "arrays")
history = trainer.fit([case])
prediction = Predictor.load(run)(case)
prediction.save(Path(run) / "out")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"shape": prediction.labels.shape, "peak_gb": peak, "spacing": trainer.task.spacing_mm}))
"""


def test_a_case_of_liver_size_goes_the_whole_way_in_12_gb(real_data, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", THE_WHOLE_WAY, real_data / "chaos_ct" / "chaos_ct_eval", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)  # noqa: T201 - the figure is what one runs this for
    assert found["shape"] == [512, 512, 78]
    assert found["peak_gb"] < 12


def test_a_small_network_learns_more_from_both_phases_than_from_one(tmp_path):
    task = TASKS["liver_phases"]
    torch.manual_seed(0)
    model = build("maml", modalities=task.modalities, classes=2, channels=(8, 16, 32))
    trainer = Trainer(model, tmp_path, task, patch_size=(32, 32, 32), epochs=20, steps_per_epoch=25, learning_rate=3e-3,
                      schedule="one-cycle")
    trainer.fit(phantoms.liver_phases(24, seed=0))
    table = evaluate(Predictor.load(tmp_path), phantoms.liver_phases(24, seed=1000), "each")
    dice = table.query("metric == 'dice'").groupby("present")["value"].mean()
    assert dice["arterial+venous"] > 0.5
    assert dice["arterial+venous"] > dice["arterial"] + 0.05
    assert dice["arterial+venous"] > dice["venous"] + 0.05

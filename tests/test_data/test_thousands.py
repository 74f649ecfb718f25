"""Thousands of cases, with few open files and little memory."""

import json
import subprocess
import sys

import pytest
from tiny_training import environment

CASES, OPEN_FILES, MEMORY_GB = 3000, 256, 3

WORK = r'''
import json, resource, sys, time, warnings
from pathlib import Path
import nibabel as nib, numpy as np
from maml_toolkit import TASKS, Trainer, find_cases
from maml_toolkit.data.audit import audit_source
from cached import is_cached
from maml_toolkit.data.cache import prepare_all
from maml_toolkit.methods import build

root, count, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
task, random, told, last = TASKS["liver_phases"].with_spacing((1, 1, 1)), np.random.default_rng(0), {}, time.time()

def done(what):
    global last
    told[what], last = round(time.time() - last, 1), time.time()

for number in range(count):
    folder = root / "data" / f"case_{number:04d}"
    folder.mkdir(parents=True)
    for name in task.modalities:
        array = random.integers(-900, 900, (8, 8, 8)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{folder.name}_{name}.nii.gz")
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:5, 2:5, 2:5] = 1
    label.flat[random.integers(512, size=8)] = 1
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{folder.name}_seg.nii.gz")
done("written")
audited = audit_source(root / "data", task)
assert not audited.errors and len(audited.cases) == count
done("audited")
cases = find_cases(root / "data", task)
ready = prepare_all(cases, task, root / "arrays")
done("prepared")
in_files = sum(isinstance(case.images["venous"], np.memmap) for case in ready)
network = build("maml", modalities=task.modalities, classes=2, channels=(4, 8))
trainer = Trainer(network, root / "run", task, patch_size=(8, 8, 8), epochs=2, steps_per_epoch=10,
                  cache=root / "arrays", device="cpu")
history = trainer.fit(cases[:-3], cases[-3:])
done("trained")
print(json.dumps({"seconds": told, "in files": in_files, "cached": sum(is_cached(one, task, root / "arrays")
    for one in cases), "steps": int(history["step"].max()),
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures as Linux does")
def test_three_thousand_cases_are_audited_prepared_and_trained_on(tmp_path):
    done = subprocess.run([sys.executable, "-c", WORK, str(tmp_path), str(CASES), str(OPEN_FILES)], text=True,
                          capture_output=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["in files"], found["cached"], found["steps"]) == (CASES, CASES, 20)
    assert found["peak_gb"] < MEMORY_GB, found

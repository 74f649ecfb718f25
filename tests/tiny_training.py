"""A training of seconds; run as a script, one that is killed over and over."""

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from maml_toolkit.data import phantoms
from maml_toolkit.data.patches import Batch, Patch
from maml_toolkit.data.tasks import TASKS
from maml_toolkit.methods import build
from maml_toolkit.prediction import checkpoints
from maml_toolkit.system import files
from maml_toolkit.training.trainer import Trainer

LIVER = TASKS["liver_phases"]
HERE = Path(__file__).parent


def trainer(run, method="maml", modalities=LIVER.modalities, seed=0, own=None, **settings):
    torch.manual_seed(seed)
    network = build(method, modalities=modalities, classes=2, channels=(4, 6), **own or {})
    defaults = {"patch_size": (16, 16, 16), "epochs": 2, "steps_per_epoch": 3, "learning_rate": 1e-2}
    return Trainer(network, run, LIVER, **defaults | settings)


def batch_of(modalities, augmentation=None, size=8):
    """A batch of two patches of noise, with the margin that what is drawn for them reads."""
    generator = torch.Generator().manual_seed(0)
    transform = augmentation and augmentation.draw(0, (size,) * 3, (1, 1, 1), len(modalities))
    first, last = transform.box if transform else (np.zeros(3, int), np.full(3, size))
    shape = (last - first).tolist()
    return Batch(tuple(modalities), tuple(
        Patch(case, torch.randn(len(modalities), *shape, generator=generator),
              torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8), tuple(first.tolist()),
              torch.zeros(len(modalities), 1, 1, 1), transform) for case in ("a", "b")))


def weights(one):
    return torch.cat([parameter.detach().flatten() for parameter in one.method.parameters()])


def environment():
    """Variables with which a child process imports this checkout and its tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "OMP_NUM_THREADS": "1"}


def same_end(one, other):
    """Whether two run folders hold the same: weights, optimiser, random numbers, history."""
    states = [checkpoints.load_newest(run / "checkpoints") for run in (one, other)]
    (method, state), (method_2, state_2) = states
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, method_2.state_dict()[name]), name
    assert set(state["optimizer"]["state"]) == set(state_2["optimizer"]["state"]) > set()
    for index, moments in state["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, state_2["optimizer"]["state"][index][name]), (index, name)
    assert state["optimizer"]["param_groups"] == state_2["optimizer"]["param_groups"]
    assert torch.equal(state["random"]["cpu"], state_2["random"]["cpu"])
    assert state["progress"] == state_2["progress"]
    histories = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (one, other)]
    pd.testing.assert_frame_equal(*histories)


class StoppedError(Exception):
    pass


def interrupted(one, at, cases):
    """Fit until the step `at`, where something stops it."""
    step = one.step

    def stopping(stage, batch, optimizer, rate, number):
        if number == at:
            raise StoppedError
        return step(stage, batch, optimizer, rate, number)

    one.step = stopping
    with pytest.raises(StoppedError):
        one.fit(cases)


def spoiled(one, steps, where="loss"):
    """Have the loss, or only the gradient, of these steps be no number."""
    loss, done = one.method.loss, iter(range(10**6))

    def bad(images, labels, generator):
        terms = loss(images, labels, generator)
        if next(done) in steps:
            factor = torch.tensor(torch.nan if where == "loss" else 0.0)
            total = terms["total"]
            terms["total"] = total * factor if where == "loss" else total + (total - total).sqrt()
        return terms

    one.method.loss = bad
    return one


def often_killed(run):
    """The training that `kill` kills: 24 epochs of 20 steps, every step saved; 50 kills take about a third of it."""
    return trainer(run, method="late_fusion", batch_size=1, epochs=24, steps_per_epoch=20, checkpoint_minutes=0,
                   validate_every=3)


def kill(run, kills):
    """Train in a child process that is killed at random moments, until it was so often enough; then to the end.

    Children are forked, so that torch is imported once: a kill costs a fraction of a second.
    """
    importlib.import_module("torch._dynamo")        # which the first optimiser of a process imports, for seconds
    cases, moments = phantoms.liver_phases(3, size=16), random.Random(0)
    log, longest_s = {"killed": 0, "steps": [0]}, 2.0
    while "status" not in log:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                often_killed(run).fit(cases[:2], cases[2:])
                status = 0
            finally:
                os._exit(status)
        if log["killed"] < kills:
            time.sleep(moments.uniform(0, longest_s))
            os.kill(child, signal.SIGKILL)
        _, ended = os.waitpid(child, 0)
        newest = checkpoints.newest(run / "checkpoints")
        log["steps"].append(int(newest.name[-8:]) if newest else 0)
        done = log["steps"][-1] - log["steps"][-2]
        longest_s *= 0.7 if done > 2 else 1.1 if done == 0 else 1
        if os.WIFSIGNALED(ended):
            log["killed"] += 1
        else:
            log["status"] = os.WEXITSTATUS(ended)
    return log


def kill_saves(folder, kills):
    """Save checkpoints of 4 MB in a child process that is killed at random moments, and look what is there."""
    method = build("late_fusion", modalities=("t1",), classes=2, channels=(4, 6))
    moments, tries, step = random.Random(0), [], 0
    while len(tries) < kills:
        reading, writing = os.pipe()
        child = os.fork()
        while child == 0:
            step += 1
            checkpoints.save(folder, step, method, {"moments": torch.full((1_000_000,), float(step))})
            os.write(writing, f"{step} ".encode())
        os.close(writing)
        with open(reading) as reports:
            first = reports.read(1)          # a save is done
            time.sleep(moments.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            reported = [int(one) for one in (first + reports.read()).split()]
        one = {"reported": max(reported), "hidden before": [path.name for path in folder.glob(".*")]}
        files.sweep(folder)
        moment = checkpoints.load_newest(folder)[1]["moments"]
        step = int(moment[0])
        tries.append({**one, "found": step, "hidden after": [path.name for path in folder.glob(".*")]})
        assert (moment == step).all()
    return tries


if __name__ == "__main__":
    torch.set_num_threads(1)
    work = {"training": kill, "saves": kill_saves}[sys.argv[1]]
    sys.stdout.write(json.dumps(work(Path(sys.argv[2]), int(sys.argv[3]))))

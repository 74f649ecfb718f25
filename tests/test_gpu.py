"""On a CUDA GPU: every method in every precision, nothing waited for, resumed bit for bit; skipped where there is none.

`make test-gpu` runs these and then measures (gpu_rows.py).
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")     # or cuBLAS is not deterministic; read at its first use

from tiny_training import HERE, LIVER, batch_of, environment, interrupted, same_end, trainer
from training_worker import train

from maml_toolkit.data import phantoms
from maml_toolkit.data.augmentation import Augmentation
from maml_toolkit.methods import METHODS, build
from maml_toolkit.networks import execution
from maml_toolkit.networks.execution import InstanceNorm
from maml_toolkit.prediction.predictor import Predictor
from maml_toolkit.system import machine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPU = torch.device("cuda")
PRECISION = machine.PRECISIONS
PRECISIONS = sorted(PRECISION)
OWN = {"maml": {"subset_weight": 1.0, "ranking_weight": 0.1, "distillation_weight": 0.1}}
EVERYTHING = Augmentation(rotation=1, scaling=1, elastic=1, gamma=1)


@pytest.fixture(scope="module")
def cases():
    return phantoms.liver_phases(3, size=16)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def exact():
    """float32 is float32: cuDNN multiplies in 10 bits of it otherwise."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def no_wait():
    """A function that has every wait for the GPU be an error until the test ends."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def on_gpu(run, **settings):
    one = trainer(run, **{"device": "cuda", "augmentation": None, **settings})
    one.task = replace(one.task, spacing_mm=(1, 1, 1))
    one.method.to(GPU).train()
    return one


def test_this_gpu_gets_a_short_precision_with_its_reason():
    short, why = machine.best_precision(machine.choose_device())
    assert short == (torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16)
    assert str(short).removeprefix("torch.") in why


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_computer_waits_for_nothing_in_a_step(tmp_path, no_wait, method, precision):
    one = on_gpu(tmp_path, method=method, precision=precision, own=OWN.get(method), accumulate=2)
    batch = batch_of(one.method.modalities, size=16).to(GPU)
    for stage in one.method.stages():
        optimizer = one.optimizer(stage)
        found = [one.step(stage, batch, optimizer, 1e-3, number).found() for number in range(3)]
        torch.cuda.synchronize()
        no_wait()
        launched = one.step(stage, batch, optimizer, 1e-3, 3)
        torch.cuda.set_sync_debug_mode("default")
        found.append(launched.found())
        assert all(np.isfinite(part["total"]) for step in found for part in step.terms)
        assert not found[-1].skipped
        assert found[-1].terms != found[-2].terms


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_is_waited_for_with_augmentation(tmp_path, no_wait, recompute):
    one = on_gpu(tmp_path, recompute=recompute)
    (stage,), batch = one.method.stages(), batch_of(one.method.modalities, EVERYTHING, 16).to(GPU)
    optimizer = one.optimizer(stage)
    one.step(stage, batch, optimizer, 1e-3, 0).found()
    no_wait()
    launched = one.step(stage, batch, optimizer, 1e-3, 1)
    torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(launched.found().terms[0]["total"])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_is_that_of_the_cpu(tmp_path, exact, method):
    found = {}
    for device in ("cpu", "cuda"):
        one = trainer(tmp_path, method=method, device=device, precision="float32", augmentation=None)
        one.method.to(one.device).train()
        stage = one.method.stages()[-1]
        batch = batch_of(one.method.modalities, size=16).to(one.device)
        found[device] = one.step(stage, batch, one.optimizer(stage), 1e-3, 0).found().terms[0]
    drawn = {"uhved"}           # which draws noise, by other numbers on each device
    assert found["cuda"] == pytest.approx(found["cpu"], rel=0.3 if method in drawn else 1e-2, abs=1e-3)


def test_norms_are_equal_and_stay_short(monkeypatch):
    torch.manual_seed(0)
    norm, features = InstanceNorm(8), torch.randn(2, 8, 9, 10, 11) * 3 + 1
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    found = []
    for device, by_groups in (("cpu", {"cpu"}), ("cuda", {"cpu"}), ("cuda", {"cpu", "cuda"})):
        monkeypatch.setattr(execution, "BY_GROUPS", by_groups)
        norm.to(device).zero_grad()
        given = features.to(device).requires_grad_()
        answer = norm(given)
        answer.pow(3).sum().backward()
        found.append([one.detach().cpu() for one in (answer, given.grad, norm.weight.grad, norm.bias.grad)])
    for one, same, other in zip(*found, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(execution, "BY_GROUPS", {"cpu"})
    for precision in (torch.bfloat16, torch.float16):
        with machine.autocast(GPU, precision):
            assert norm(features.to(GPU, precision)).dtype == precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, cases, deterministic, precision):
    given = {"device": "cuda", "precision": precision, "steps_per_epoch": 5, "checkpoint_minutes": 0,
             "own": {"subset_weight": 1.0, "ranking_weight": 0.1}}
    trainer(tmp_path / "whole", **given).fit(cases[:2], cases[2:])
    halves = trainer(tmp_path / "halves", **given)
    step = halves.step

    def stopping(stage, batch, optimizer, rate, number):
        assert batch.labels.is_cuda          # it was copied ahead
        return step(stage, batch, optimizer, rate, number)

    halves.step = stopping
    interrupted(halves, 7, cases[:2])
    trainer(tmp_path / "halves", seed=9, **given).fit(cases[:2], cases[2:], changed=True)
    same_end(tmp_path / "whole", tmp_path / "halves")


def test_a_gradient_that_overflows_is_skipped_on_the_gpu(tmp_path, cases):
    one = trainer(tmp_path, device="cuda", precision="float16", steps_per_epoch=20, epochs=1)
    one.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**34)
    history = one.fit(cases)
    assert 5 < history["skipped"].item() < 20
    assert all(parameter.isfinite().all() for parameter in one.method.parameters())


def predictor_of(case, device, precision="float32", modalities=LIVER.modalities):
    torch.manual_seed(0)
    network = build("maml", modalities=modalities, classes=2, channels=(4, 6))
    one = Predictor(network, LIVER, (16, 16, 16), device=device, precision=precision)
    return one, one.prepared(case)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sweep_is_that_of_the_cpu(exact, precision):
    case = phantoms.liver_phases(1, size=(24, 20, 32))[0]
    found = []
    for device in ("cpu", "cuda"):
        predictor, prepared = predictor_of(case, device, precision if device == "cuda" else "float32")
        found.append(predictor.subsets(prepared, attention=True, contributions=True))
    cpu, gpu = found
    assert set(gpu.subsets) == set(cpu.subsets)
    assert len(gpu.subsets) == 3
    for subset, one in cpu.subsets.items():
        other = gpu.subsets[subset]
        for name, values in one.maps.items():
            scale = np.abs(values).max()
            assert np.abs(other.maps[name] - values).max() < (0.01 if precision == "float32" else 0.1) * scale, name
        total = sum(other.maps[f"contribution/{name}"] for name in subset) + other.bias[:, None, None, None]
        logits = other.maps["logits"]
        np.testing.assert_allclose(total, logits - logits[0], atol=0.02 * np.abs(total).max())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_contributions_add_up_to_the_logits_in_float32(precision):
    """Heads stay in float32 where cuDNN rounds all other convolutions to tf32."""
    torch.manual_seed(0)
    network = build("maml", modalities=LIVER.modalities, classes=2, channels=(16, 32)).to(GPU).eval()
    assert torch.backends.cudnn.allow_tf32
    with torch.inference_mode(), machine.autocast(GPU, PRECISION[precision]):
        answer = network(batch_of(LIVER.modalities, size=16).to(GPU).transformed()[0])
        total = sum(answer.contributions.values()) + answer.bias.view(1, -1, 1, 1, 1)
    assert answer.logits.dtype == total.dtype == torch.float32
    torch.testing.assert_close(total, answer.logits, rtol=0, atol=1e-5 * answer.logits.abs().max().item() + 1e-6)
    assert torch.backends.cudnn.allow_tf32


def test_sums_on_the_gpu_are_those_in_the_computers_memory():
    case = phantoms.liver_phases(1, size=(24, 20, 32))[0]
    predictor, prepared = predictor_of(case, "cuda")
    here = predictor.predict(prepared)
    predictor.sums_on = torch.device("cpu")
    there = predictor.predict(prepared)
    assert set(here.maps) == set(there.maps)
    for name, values in here.maps.items():
        np.testing.assert_allclose(values, there.maps[name], rtol=1e-4, atol=1e-4)


def test_memory_that_runs_out_is_said_with_what_helps(tmp_path):
    one = on_gpu(tmp_path, patch_size=(128, 128, 128), batch_size=2)
    (stage,), batch = one.method.stages(), batch_of(one.method.modalities, size=128).to(GPU)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.4 * 2**30 / torch.cuda.get_device_properties(GPU).total_memory)
    try:
        with pytest.raises(MemoryError, match=r"\bcuda.* GiB\).*\brecompute\b"):
            one.step(stage, batch, one.optimizer(stage), 1e-3, 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


WORKER = """
import json, sys
import torch
from training_worker import train
torch.distributed.init_process_group("gloo")     # NCCL wants a GPU for each process
train(**json.loads(sys.argv[1]))
"""


def test_two_processes_on_one_gpu_train_what_one_does(tmp_path):
    job = {"device": "cuda:0", "batch_size": 1, "epochs": 5, "own": OWN["maml"] | {"subset_weight": 0.0,
                                                                                  "ranking_weight": 0.0,
                                                                                  "distillation_weight": 0.0}}
    (tmp_path / "worker.py").write_text(WORKER)
    ended = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                            str(tmp_path / "worker.py"), json.dumps({"run": str(tmp_path / "two"), **job})],
                           env=environment(), cwd=HERE.parent, capture_output=True, text=True, timeout=150)
    assert ended.returncode == 0, ended.stderr[-3000:]
    train(tmp_path / "one", **job | {"batch_size": 2})
    one, two = (pd.read_csv(tmp_path / name / "history.csv")["loss/total"] for name in ("one", "two"))
    assert two.tolist() == pytest.approx(one.tolist(), rel=3e-2)
    weights = [torch.load(tmp_path / "two" / f"weights-{rank}.pt", map_location="cpu") for rank in range(2)]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())

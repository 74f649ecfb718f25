"""What is chosen on which machine."""

import subprocess
import sys
from contextlib import suppress

import pytest
import torch

from maml_toolkit.system import machine

CPU = torch.device("cpu")


def test_bfloat16_is_chosen_only_where_the_hardware_has_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert machine.choose_precision(CPU) == (torch.bfloat16 if has else torch.float32)
    assert machine.choose_precision(CPU, "float32") == torch.float32


@pytest.mark.parametrize(("capability", "precision"), [
    ((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((7, 0), torch.float16)])
def test_gpus_without_bfloat16_compute_in_float16(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert machine.choose_precision(torch.device("cuda")) == precision
    said = machine.best_precision(torch.device("cuda"))[1]
    assert str(precision).removeprefix("torch.") in said
    assert "capability {}.{}".format(*capability) in said
    assert "\n" not in said
    for name, asked in machine.PRECISIONS.items():
        assert machine.choose_precision(torch.device("cuda"), name) == asked


@pytest.mark.parametrize("has", [True, False])
def test_apples_gpus_compute_in_float16_once_torch_knows_every_operation(monkeypatch, has):
    monkeypatch.setattr(machine, "mps_has_float16", lambda: has)
    assert machine.choose_precision(torch.device("mps")) == (torch.float16 if has else torch.float32)


def test_without_apples_gpu_nothing_is_known_of_its_float16():
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    assert machine.mps_has_float16() is False


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [
    (True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_first_device_of_cuda_mps_and_cpu_is_taken(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert machine.choose_device().type == chosen
    for name, there in (("cuda", cuda), ("mps", mps), ("cpu", True)):
        if there:
            assert machine.choose_device(name).type == name
        else:
            with pytest.raises(ValueError, match=f"device='{name}'"):
                machine.choose_device(name)


def test_autocast_is_on_for_the_short_types_only():
    for precision in machine.PRECISIONS.values():
        with machine.autocast(CPU, precision):
            assert torch.is_autocast_enabled("cpu") == (precision != torch.float32)
            if precision != torch.float32:
                assert torch.get_autocast_dtype("cpu") == precision


def test_convolutions_are_tried_out_where_asked_and_never_where_the_answer_must_not_change():
    before = torch.backends.cudnn.benchmark
    for search in (True, False):
        found = []
        with suppress(ZeroDivisionError), machine.fastest_convolutions(search):
            found.append(torch.backends.cudnn.benchmark)
            _ = 1 / 0
        assert found == [search]
        assert torch.backends.cudnn.benchmark == before
    torch.use_deterministic_algorithms(True)
    try:
        with machine.fastest_convolutions(True):
            assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("said", [
    "CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "MPS backend out of memory (MPS allocated: 5.00 GiB, other allocations: 1.00 MiB, max allowed: 5.10 GiB).",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."])
def test_every_way_of_saying_that_memory_ran_out_is_understood(said):
    with pytest.raises(MemoryError, match=r"a step\b.*\bcpu\b.*take less"), \
            machine.memory_for("a step", CPU, "take less"):
        raise RuntimeError(said)


def test_another_error_is_not_one_of_memory():
    with pytest.raises(RuntimeError, match="CUDNN_STATUS_BAD_PARAM"), machine.memory_for("a step", CPU, "take less"):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM")


def test_memory_is_kept_unless_the_environment_says_otherwise(monkeypatch):
    machine.keep_memory.cache_clear()
    monkeypatch.setenv("MAML_TOOLKIT_KEEP_MEMORY", "0")
    assert machine.keep_memory() is False
    machine.keep_memory.cache_clear()


def test_the_first_method_that_is_constructed_keeps_memory(monkeypatch):
    from maml_toolkit import MAML

    monkeypatch.setenv("MAML_TOOLKIT_KEEP_MEMORY", "0")
    machine.keep_memory.cache_clear()
    MAML(modalities=("t1",), classes=2, channels=(4, 8))
    assert machine.keep_memory.cache_info().misses == 1
    machine.keep_memory.cache_clear()


def test_importing_the_package_imports_no_torch_before_a_name_is_used():
    code = ("import sys, maml_toolkit; assert 'torch' not in sys.modules; "
            "maml_toolkit.MAML; assert 'torch' in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_public_name_is_there():
    import maml_toolkit

    for name in maml_toolkit.__all__:
        assert getattr(maml_toolkit, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = maml_toolkit.nothing

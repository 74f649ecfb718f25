"""What is chosen on which machine."""

import subprocess
import sys

import pytest
import torch

from maml_toolkit import machine

CPU = torch.device("cpu")


def test_bfloat16_is_chosen_only_where_the_hardware_has_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert machine.choose_precision(CPU) == (torch.bfloat16 if has else torch.float32)
    assert machine.choose_precision(CPU, "float32") == torch.float32


def test_autocast_is_on_for_bfloat16_only():
    for precision in (torch.float32, torch.bfloat16):
        with machine.autocast(CPU, precision):
            assert torch.is_autocast_enabled("cpu") == (precision == torch.bfloat16)


def test_memory_is_kept_unless_the_environment_says_otherwise(monkeypatch):
    machine.keep_memory.cache_clear()
    monkeypatch.setenv("MAML_TOOLKIT_KEEP_MEMORY", "0")
    assert machine.keep_memory() is False
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

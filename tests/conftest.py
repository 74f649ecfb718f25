"""Tensor shapes and argument types are checked in every test; importing the package elsewhere checks nothing."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("maml_toolkit", "shape_checker.checked")

torch.set_num_threads(1)                        # two test processes on two cores,
os.environ.setdefault("OMP_NUM_THREADS", "1")   # and the kernels of notebooks alike


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of published scans beside the repository; tests that want it skip where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no published scans beside the repository")
    return folder


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of numeric oracles."""
    return Path(__file__).parent / "data"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current folder whose notebooks are the only ones."""
    from maml_toolkit.commands import parameters

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parameters, "__file__", str(tmp_path / "site" / "maml_toolkit" / "commands" / "parameters.py"))
    return tmp_path

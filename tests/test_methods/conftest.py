"""Small scans and labels for the tests of methods."""

import pytest
import torch

CHANNELS = (4, 6, 8)


@pytest.fixture
def scans():
    """Three modalities of two patches, 8x8x12."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 1, 8, 8, 12, generator=generator) for name in ("t1", "t2", "flair")}


@pytest.fixture
def labels():
    """Three classes on the same patches."""
    return torch.randint(0, 3, (2, 8, 8, 12), generator=torch.Generator().manual_seed(1))

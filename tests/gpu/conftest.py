"""What the tests that need a GPU share."""

import pytest
import torch

from bench.core.gpu.repeatable import before_cuda

# As in every process that trains: CUDA reads it when it starts, which no test has had it do yet.
before_cuda()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return where the trials of a study with `device: cuda` train; no index, as in a run."""
    return torch.device("cuda")

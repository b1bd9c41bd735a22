"""Fixtures and process settings that every room's tests share."""

from pathlib import Path

import pytest
import torch

# Once a process, at its start: a second call made a training step many times slower (measured).
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real medical images that stands beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"real images are not here: no folder {SHARED.parent.name}/data beside the checkout")
    return SHARED

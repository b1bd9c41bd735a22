"""Losses of numbers against torch on 1000 random sets, and far off."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.losses.table import LOSSES, alone

THEIRS = {
    "l1": lambda x, y: F.l1_loss(x, y, reduction="none"),
    "l2": lambda x, y: F.mse_loss(x, y, reduction="none"),
    "huber": lambda x, y: F.smooth_l1_loss(x, y, beta=1.0, reduction="none"),
    "log_cosh": lambda x, y: torch.log(torch.cosh(x - y)),
}


def test_every_row_is_compared() -> None:
    assert set(THEIRS) == {name for name, row in LOSSES.items() if "regression" in row.tasks}


@pytest.mark.parametrize("name", THEIRS)
def test_each_case_on_1000_random_sets(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        x, y = (3 * torch.randn(4, 1, generator=generator).double() for _ in range(2))
        found = LOSSES[name].bind({})(x, y, None, alone)
        torch.testing.assert_close(found, THEIRS[name](x, y)[:, 0], rtol=1e-9, atol=1e-12)


def test_huber_by_hand_and_log_cosh_far_off() -> None:
    x = torch.tensor([[0.2], [3.0]], dtype=torch.float64)
    found = LOSSES["huber"].bind({"delta": 0.5})(x, torch.zeros_like(x), None, alone)
    np.testing.assert_allclose(found, [0.02, 0.5 * (3 - 0.25)])
    far = torch.tensor([[1e4], [-1e4]])
    found = LOSSES["log_cosh"].bind({})(far, torch.zeros_like(far), None, alone)
    np.testing.assert_allclose(found, [1e4 - np.log(2)] * 2, rtol=1e-6)

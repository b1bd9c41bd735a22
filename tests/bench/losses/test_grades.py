"""The loss of grades against scipy: half the squared energy distance of grades one apart."""

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance

from bench.losses.table import LOSSES, alone


def test_squared_emd_is_half_the_squared_energy_distance() -> None:
    """Of distributions on the line that is 2 times the integral of (P - G)^2 (Szekely 2002)."""
    generator = torch.Generator().manual_seed(0)
    grades = np.arange(5)
    for _ in range(1000):
        logits = torch.randn(1, 5, generator=generator, dtype=torch.float64)
        target = torch.randint(5, (1,), generator=generator)
        p = logits.softmax(1)[0].numpy()
        wanted = energy_distance(grades, [int(target)], p) ** 2 / 2
        found = LOSSES["squared_emd"].bind({})(logits, target, None, alone)
        assert float(found) == pytest.approx(wanted, abs=1e-9)


def test_a_grade_farther_off_costs_more() -> None:
    logits = 10 * torch.eye(4)
    target = torch.zeros(4, dtype=torch.int64)
    found = LOSSES["squared_emd"].bind({})(logits, target, None, alone)
    # Sure of a grade d off, the cumulated sums differ by 1 at d places.
    np.testing.assert_allclose(found, [0, 1, 2, 3], atol=1e-3)

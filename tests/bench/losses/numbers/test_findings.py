"""Losses of several findings against torch and torchvision, with answers that are missing."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from bench.losses.table import LOSSES, alone
from loaders.sampling.assign import FoldError
from loaders.sampling.normalization import presence_weights

N_RANDOM = 1000
WEIGHTS = torch.tensor([0.5, 3.0, 10.0], dtype=torch.float64)


def ridnik(z: Tensor, g: Tensor) -> Tensor:
    """Return equation 7 with gamma+ 1, gamma- 4, margin 0.05, as the formula stands."""
    p = 1 / (1 + torch.exp(-z))
    m = torch.clamp(p - 0.05, min=0)
    return -g * (1 - p) * torch.log(p) - (1 - g) * m**4 * torch.log(1 - m)


# Loss -> the cost (K,) of findings that are known, by another's code.
THEIRS = {
    "bce": lambda z, g, _: F.binary_cross_entropy_with_logits(z, g, reduction="none"),
    "weighted_bce": lambda z, g, at: F.binary_cross_entropy_with_logits(
        z, g, pos_weight=WEIGHTS[at], reduction="none"
    ),
    "binary_focal": lambda z, g, _: sigmoid_focal_loss(z, g, alpha=-1, gamma=2, reduction="none"),
    "asymmetric": lambda z, g, _: ridnik(z, g),
}


def test_every_row_is_compared() -> None:
    # One couples the cases of a batch: tests/bench/losses/test_table_values.py compares it.
    assert {*THEIRS, "auc_margin"} == {
        name for name, row in LOSSES.items() if "multilabel" in row.tasks
    }


@pytest.mark.parametrize("name", THEIRS)
def test_the_mean_over_what_is_known_on_1000_random_sets(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    row = LOSSES[name]
    for _ in range(N_RANDOM):
        z = 3 * torch.randn(2, 3, generator=rng, dtype=torch.float64)
        g = torch.randint(2, (2, 3), generator=rng).double()
        g[torch.rand(2, 3, generator=rng) < 0.3] = torch.nan
        found = row.bind({})(z, g, WEIGHTS if row.weighted else None, alone)
        for value, logits, target in zip(found, z, g, strict=True):
            at = ~target.isnan()
            wanted = THEIRS[name](logits[at], target[at], at).mean() if at.any() else 0.0
            torch.testing.assert_close(float(value), float(wanted), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", THEIRS)
def test_what_is_not_known_has_no_gradient(name: str) -> None:
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = torch.tensor([[1.0, torch.nan, 0.0], [torch.nan] * 3])
    row = LOSSES[name]
    costs = row.bind({})(z, g, WEIGHTS if row.weighted else None, alone)
    (slope,) = torch.autograd.grad(costs.sum(), z)
    assert slope.isfinite().all()
    assert (slope != 0).tolist() == [[True, False, True], [False, False, False]]


def test_asymmetric_without_a_margin_is_finite_where_a_network_is_sure() -> None:
    z = torch.tensor([[200.0, -200.0]], requires_grad=True)
    (value,) = LOSSES["asymmetric"].bind({"margin": 0.0})(
        z, torch.tensor([[0.0, 1.0]]), None, alone
    )
    assert float(value.detach()) == pytest.approx(200.0)
    value.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_a_finding_weighs_as_much_where_it_is_as_where_it_is_not() -> None:
    numbers = np.array([[1, 0], [0, 0], [0, 1], [np.nan, 0], [0, 0]])
    assert presence_weights(numbers, ("a", "b")).tolist() == [3.0, 4.0]
    with pytest.raises(FoldError, match="finding 'b' is present in 0 cases"):
        presence_weights(numbers[:2], ("a", "b"))

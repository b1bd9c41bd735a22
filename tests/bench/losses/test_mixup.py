"""Mixup: the same batch whatever the number of processes, and the loss of both targets."""

import numpy as np
import pytest
import torch

from bench.losses.mixup import STREAM, Mixing
from bench.losses.supervision import supervised
from bench.losses.table import LOSSES, alone


def batch(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return image, torch.arange(n) % 3


def test_without_a_share_nothing_is_mixed() -> None:
    image, target = batch()
    mixed, goal = Mixing(alpha=0.0, seed=0, shard=(1, 2)).apply(image, target, 0)
    assert mixed is image
    assert goal.partner is None
    assert Mixing(alpha=0.0, seed=0, shard=(1, 2)).reads == (1, 2)


def test_processes_together_mix_what_one_does() -> None:
    image, target = batch(7)
    (whole, goal) = Mixing(alpha=0.4, seed=3, shard=(0, 1)).apply(image, target, 0)
    parts = []
    for rank in range(3):
        mixing = Mixing(alpha=0.4, seed=3, shard=(rank, 3))
        assert mixing.reads == (0, 1)
        parts.append(mixing.apply(image, target, 0))
    torch.testing.assert_close(torch.cat([p for p, _ in parts]), whole, rtol=0, atol=0)
    assert torch.equal(torch.cat([g.partner for _, g in parts]), goal.partner)
    assert {g.share for _, g in parts} == {goal.share}


def test_each_sample_is_mixed_with_the_next() -> None:
    image, target = batch()
    mixed, goal = Mixing(alpha=0.4, seed=3, shard=(0, 1)).apply(image, target, 0)
    share = np.random.default_rng([3, STREAM, 0]).beta(0.4, 0.4)
    assert goal.share == share
    torch.testing.assert_close(mixed[1], share * image[1] + (1 - share) * image[2])
    assert goal.partner is not None
    assert goal.partner.tolist() == [1, 2, 0, 1, 0]


def test_the_loss_is_that_of_both_targets() -> None:
    image, target = batch()
    _, goal = Mixing(alpha=0.4, seed=3, shard=(0, 1)).apply(image, target, 0)
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    values = goal.values(supervised(LOSSES["ce"].bind({}), None, alone), logits)
    soft = goal.share * torch.eye(3)[goal.target] + (1 - goal.share) * torch.eye(3)[goal.partner]
    torch.testing.assert_close(
        values, torch.nn.functional.cross_entropy(logits, soft, reduction="none")
    )


def test_shares_follow_the_distribution() -> None:
    mixing = Mixing(alpha=0.2, seed=0, shard=(0, 1))
    image, target = torch.zeros(2, 1), torch.zeros(2)
    shares = [mixing.apply(image, target, k)[1].share for k in range(600)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), rel=0.1)


def test_what_was_made_of_the_targets_is_mixed_with_them():
    image, target = torch.rand(6, 1, 2), torch.arange(6)
    made = 10.0 * torch.arange(6)
    for rank in range(2):
        _, goal = Mixing(alpha=0.4, seed=3, shard=(rank, 2)).apply(image, target, 0, made)
        assert torch.equal(goal.derived, 10.0 * goal.target)
        assert torch.equal(goal.partner_derived, 10.0 * goal.partner)
    asked = []
    goal.values(lambda given, target, derived: asked.append((target, derived)) or given, image)
    assert all(torch.equal(derived, 10.0 * target) for target, derived in asked)
    assert len(asked) == 2

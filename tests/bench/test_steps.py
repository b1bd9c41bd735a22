"""What the loop does for an optimizer: one gradient, or a closure called as often as it likes."""

import math

import pytest
import torch
from torch import nn

from bench.clock import Clock
from bench.optimizers import OPTIMIZERS
from bench.steps import RESTARTS, closure_step, plain_step


def convex(seed: int = 0):
    """Return a logistic regression that is not separable: it has one minimum."""
    torch.manual_seed(seed)
    x = torch.randn(200, 10)
    y = (x @ torch.randn(10) + 0.5 * torch.randn(200) > 0).long()
    torch.manual_seed(seed)
    return nn.Linear(10, 2), x, y


def mean_loss(net):
    return lambda image, target: nn.functional.cross_entropy(net(image), target)


def make(name: str, net: nn.Module, loss_of, **params):
    row = OPTIMIZERS[name]
    optimizer = row.build(net.parameters(), **{**row.defaults, **params})
    kind = closure_step if row.closure else plain_step
    return optimizer, kind(net, optimizer, loss_of, Clock(torch.device("cpu")), 1)


def train(name: str, budget: int) -> float:
    net, x, y = convex()
    _, step = make(name, net, mean_loss(net))
    while budget > 0:
        _, used = step(x, y, budget)
        budget -= used
    assert budget == 0
    return float(mean_loss(net)(x, y).detach())


def test_lbfgs_reaches_a_lower_loss_than_adam_at_one_budget_of_gradient_evaluations():
    assert train("lbfgs", 60) < train("adam", 60)


def test_every_gradient_evaluation_is_counted():
    net, x, y = convex()
    optimizer, step = make("lbfgs", net, mean_loss(net))
    counted = sum(step(x, y, 10**6)[1] for _ in range(3))
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    assert counted == state["func_evals"]


@pytest.mark.parametrize("left", [1, 2, 3, 5, 8, 13])
def test_a_closure_step_never_spends_more_than_is_left_and_never_ends_higher(left):
    net, x, y = convex()
    _, step = make("lbfgs", net, mean_loss(net))
    loss, used = step(x, y, left)
    assert 1 <= used <= left
    assert float(mean_loss(net)(x, y)) <= float(loss)


def test_batch_norm_statistics_are_updated_once_a_step():
    _, x, y = convex()
    net = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    _, step = make("lbfgs", net, mean_loss(net))
    norm = net[1]
    for number in (1, 2):
        expected = 0.9 * norm.running_mean + 0.1 * net[0](x).mean(0).detach()
        _, used = step(x, y, 100)
        assert used > 2
        assert norm.num_batches_tracked == number
        assert torch.allclose(norm.running_mean, expected, atol=1e-6)
        assert norm.track_running_stats


def test_dropout_draws_the_same_mask_at_every_evaluation_of_a_step_and_another_at_the_next():
    net = nn.Sequential(nn.Linear(10, 2), nn.Dropout(0.5))
    _, x, y = convex()
    masks = []
    # A bias far from zero: an output is zero only where dropout made it so.
    nn.init.constant_(net[0].bias, 100.0)
    net[1].register_forward_hook(lambda _m, _i, out: masks.append(out.detach() == 0))
    _, step = make("lbfgs", net, mean_loss(net), max_iter=2)
    step(x, y, 100)
    first = list(masks)
    masks.clear()
    step(x, y, 100)
    assert len(first) > 1
    assert all(torch.equal(m, first[0]) for m in first)
    assert not torch.equal(first[0], masks[0])


def test_a_step_that_ends_non_finite_is_undone_and_too_many_in_a_row_are_divergence():
    net, x, y = convex()

    class Spoil(torch.autograd.Function):
        """Multiplies by one; its gradient is NaN."""

        @staticmethod
        def forward(ctx, weight):
            ctx.shape = weight.shape
            return weight.new_ones(())

        @staticmethod
        def backward(ctx, _grad):
            return torch.full(ctx.shape, math.nan)

    def spoiled(image, target):
        return mean_loss(net)(image, target) * Spoil.apply(net.weight)

    optimizer, step = make("lbfgs", net, spoiled)
    before = [p.detach().clone() for p in net.parameters()]
    for _ in range(RESTARTS):
        loss, used = step(x, y, 1000)
        assert math.isfinite(loss)
        assert used >= 1
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
        assert not optimizer.state
    assert math.isnan(step(x, y, 1000)[0])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_row_makes_a_step_that_lowers_the_loss(name):
    net, x, y = convex()
    _, step = make(name, net, mean_loss(net))
    start = float(mean_loss(net)(x, y))
    for _ in range(10):
        step(x, y, 100)
    assert float(mean_loss(net)(x, y)) < start

"""What the loop does for an optimizer: one gradient, two, a graph of it, or a closure's many."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.core.timing import Clock
from bench.losses.mixup import Goal
from bench.optimizers.schedules import SCHEDULES
from bench.optimizers.steps import HESSIAN_EVALUATIONS, RESTARTS, STEPS, StepParts, plain_step
from bench.optimizers.table import OPTIMIZERS

CPU = torch.device("cpu")


def convex(seed: int = 0):
    """Return a logistic regression that is not separable: it has one minimum."""
    torch.manual_seed(seed)
    x = torch.randn(200, 10)
    y = (x @ torch.randn(10) + 0.5 * torch.randn(200) > 0).long()
    torch.manual_seed(seed)
    return nn.Linear(10, 2), x, y


def mean_loss(net):
    return lambda image, target: nn.functional.cross_entropy(net(image), target)


def scaler(*, enabled=False, **settings):
    return torch.amp.GradScaler("cpu", enabled=enabled, **settings)


def parts_of(net, optimizer, loss_of, *, processes=1, own_scaler=None, **more):
    return StepParts(
        network=net,
        optimizer=optimizer,
        loss_of=loss_of,
        clock=Clock(CPU),
        processes=processes,
        scaler=own_scaler or scaler(),
        **more,
    )


def make(name: str, net: nn.Module, loss_of, **given):
    row = OPTIMIZERS[name]
    optimizer = row.build(net.parameters(), **given)
    step = STEPS[row.step](parts_of(net, optimizer, loss_of))
    return optimizer, step


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


def losses_of_convolutions(name: str, memory_format: torch.memory_format) -> list[float]:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    ).to(torch.float64, memory_format=memory_format)
    image = torch.randn(16, 3, 8, 8, dtype=torch.float64).to(memory_format=memory_format)
    target = torch.arange(16) % 2
    _, step = make(name, net, mean_loss(net))
    return [float(step(image, target, 1000)[0]) for _ in range(4)]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_order_of_channels_in_memory_changes_no_step(name):
    plain, last = (
        losses_of_convolutions(name, order)
        for order in (torch.contiguous_format, torch.channels_last)
    )
    assert last == pytest.approx(plain, rel=1e-4)


# Steps that evaluate one batch more than once.
AGAIN = ["lbfgs", "sam"]


@pytest.mark.parametrize("name", AGAIN)
def test_batch_norm_statistics_are_updated_once_a_step(name):
    _, x, y = convex()
    net = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    _, step = make(name, net, mean_loss(net))
    norm = net[1]
    for number in (1, 2):
        expected = 0.9 * norm.running_mean + 0.1 * net[0](x).mean(0).detach()
        _, used = step(x, y, 100)
        assert used >= 2
        assert norm.num_batches_tracked == number
        assert torch.allclose(norm.running_mean, expected, atol=1e-6)
        assert norm.track_running_stats


@pytest.mark.parametrize("name", AGAIN)
def test_dropout_draws_the_same_mask_at_every_evaluation_of_a_step_and_another_at_the_next(name):
    net = nn.Sequential(nn.Linear(10, 2), nn.Dropout(0.5))
    _, x, y = convex()
    masks = []
    # A bias far from zero: an output is zero only where dropout made it so.
    nn.init.constant_(net[0].bias, 100.0)
    net[1].register_forward_hook(lambda _m, _i, out: masks.append(out.detach() == 0))
    _, step = make(name, net, mean_loss(net))
    step(x, y, 100)
    first = list(masks)
    masks.clear()
    step(x, y, 100)
    assert len(first) > 1
    assert all(torch.equal(m, first[0]) for m in first)
    assert not torch.equal(first[0], masks[0])


class Spoil(torch.autograd.Function):
    """Multiplies by one; its gradient is NaN."""

    @staticmethod
    def forward(ctx, weight):
        ctx.shape = weight.shape
        return weight.new_ones(())

    @staticmethod
    def backward(ctx, _grad):
        return torch.full(ctx.shape, math.nan)


def spoiled(net):
    return lambda image, target: mean_loss(net)(image, target) * Spoil.apply(net.weight)


def test_a_step_that_ends_non_finite_is_undone_and_too_many_in_a_row_are_divergence():
    net, x, y = convex()
    optimizer, step = make("lbfgs", net, spoiled(net))
    before = [p.detach().clone() for p in net.parameters()]
    for _ in range(RESTARTS):
        loss, used = step(x, y, 1000)
        assert math.isfinite(loss)
        assert used >= 1
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
        assert not optimizer.state
    assert math.isnan(step(x, y, 1000)[0])


def test_restarts_count_on_in_the_memory_and_a_good_step_ends_the_count():
    net, x, y = convex()
    optimizer = OPTIMIZERS["lbfgs"].build(net.parameters())
    bad, good = (parts_of(net, optimizer, loss) for loss in (spoiled(net), mean_loss(net)))
    good = replace(good, memory=bad.memory)
    for count in range(1, RESTARTS + 1):
        STEPS["closure"](bad)(x, y, 1000)  # made anew each time, as after a stop
        assert bad.memory.restarts == count
    STEPS["closure"](good)(x, y, 1000)
    assert bad.memory.restarts == 0


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_row_makes_a_step_that_lowers_the_loss(name):
    net, x, y = convex()
    _, step = make(name, net, mean_loss(net))
    start = float(mean_loss(net)(x, y))
    for _ in range(10):
        step(x, y, 100)
    assert float(mean_loss(net)(x, y)) < start


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# ---- gradients that are scaled -----------------------------------------------------------------

SCALED = [name for name, row in OPTIMIZERS.items() if row.scalable]


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_of_the_gradients_changes_no_weight_and_no_loss(name):
    ends = []
    for enabled in (False, True):
        net, x, y = convex()
        optimizer = OPTIMIZERS[name].build(net.parameters())
        # A power of two: scaling and unscaling are exact.
        own = scaler(enabled=enabled, init_scale=2.0**10)
        step = plain_step(parts_of(net, optimizer, mean_loss(net), own_scaler=own))
        losses = [float(step(x, y, 1)[0]) for _ in range(5)]
        ends.append((losses, weights(net)))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def test_a_gradient_that_overflows_is_skipped_and_the_scale_lowered():
    net, x, y = convex()
    optimizer = OPTIMIZERS["sgd"].build(net.parameters())
    own = scaler(enabled=True, init_scale=2.0**127, growth_interval=1000)
    step = plain_step(parts_of(net, optimizer, mean_loss(net), own_scaler=own))
    # The loss is finite; 2^127 times its gradient is not.
    before, big = weights(net), 1e6 * x
    loss, used = step(big, y, 1)
    assert math.isfinite(loss)
    assert used == 1
    assert torch.equal(weights(net), before)
    assert own.get_scale() == 2.0**126


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - set(SCALED)))
def test_what_cannot_be_scaled_says_so(name):
    net, _, _ = convex()
    row = OPTIMIZERS[name]
    optimizer = row.build(net.parameters())
    with pytest.raises(ValueError, match="does not train in float16"):
        STEPS[row.step](parts_of(net, optimizer, mean_loss(net), own_scaler=scaler(enabled=True)))


# ---- a second gradient, elsewhere ---------------------------------------------------------------


class Point(nn.Module):
    """Two numbers; the loss is half of 3 a^2 + b^2."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, image):
        return 0.5 * (torch.tensor([3.0, 1.0]) * self.at.square()).sum() * image


ONE = torch.ones(())


def test_sam_steps_by_the_gradient_at_the_worst_point_nearby():
    net = Point()
    _, step = make("sam", net, lambda image, _: net(image), lr=0.1, rho=0.5)
    loss, used = step(ONE, None, 10)
    assert float(loss) == pytest.approx(0.5 * (3 + 4))
    assert used == 2
    # The gradient is (3, 2), so the worst point at 0.5 is (1, 2) + 0.5 (3, 2) / sqrt(13).
    worst = torch.tensor([1.0, 2.0]) + 0.5 * torch.tensor([3.0, 2.0]) / math.sqrt(13)
    expected = torch.tensor([1.0, 2.0]) - 0.1 * torch.tensor([3.0, 1.0]) * worst
    assert torch.allclose(net.at, expected)


def test_sam_takes_a_step_of_its_base_where_one_evaluation_is_left():
    net = Point()
    _, step = make("sam", net, lambda image, _: net(image), lr=0.1)
    assert step(ONE, None, 1)[1] == 1
    assert torch.allclose(net.at, torch.tensor([1 - 0.1 * 3, 2 - 0.1 * 2]))


def test_sam_stands_on_the_base_it_is_given():
    net = Point()
    _, step = make("sam", net, lambda image, _: net(image), base="adam", lr=0.1)
    step(ONE, None, 10)
    assert torch.allclose(net.at, torch.tensor([0.9, 1.9]))


# ---- the graph of a gradient --------------------------------------------------------------------


def test_sophia_pays_for_its_hessian_in_the_steps_that_compute_one():
    net, x, y = convex()
    _, step = make("sophia", net, mean_loss(net), update_period=4, num_samples=2)
    with_hessian = 1 + 2 * HESSIAN_EVALUATIONS
    assert [step(x, y, 100)[1] for _ in range(9)] == [with_hessian, 1, 1, 1] * 2 + [with_hessian]


def test_a_step_with_a_hessian_costs_what_is_charged():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 2),
    )
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    _, step = make("sophia", net, mean_loss(net))
    flops = []
    for charged in (1 + HESSIAN_EVALUATIONS, 1):
        with FlopCounterMode(display=False) as counter:
            assert step(x, y, 100)[1] == charged
        flops.append(counter.get_total_flops())
    assert flops[0] / flops[1] == pytest.approx(1 + HESSIAN_EVALUATIONS, rel=0.1)


def test_sophias_estimate_is_the_diagonal_of_the_hessian():
    torch.manual_seed(0)
    net = Point()
    optimizer, step = make("sophia", net, lambda image, _: net(image), num_samples=4000)
    step(ONE, None, 10**6)
    state = optimizer.state[net.at]
    # Hutchinson: the mean of z (H z), here with H = diag(3, 1); the moment starts at zero.
    assert torch.allclose(state["hessian"], torch.tensor([3.0, 1.0]), rtol=0.1)
    assert torch.allclose(state["hessian_moment"], 0.01 * state["hessian"])


def test_a_hessian_that_the_budget_no_longer_allows_ends_it_without_an_update():
    net, x, y = convex()
    _, step = make("sophia", net, mean_loss(net), update_period=2)
    before = weights(net)
    assert step(x, y, 2)[1] == 2
    assert torch.equal(weights(net), before)
    assert [step(x, y, 4)[1], step(x, y, 1)[1]] == [3, 1]
    assert not torch.equal(weights(net), before)


def test_no_graph_outlives_its_step():
    net, x, y = convex()
    _, step = make("sophia", net, mean_loss(net))
    step(x, y, 100)
    assert all(p.grad is None for p in net.parameters())


class Recurrent(nn.Module):
    """An LSTM over the 10 features as a sequence; notes whether cuDNN may run it."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head, self.seen = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 2), []

    def forward(self, x):
        self.seen.append(torch.backends.cudnn.enabled)
        return self.head(self.lstm(x[..., None])[0][:, -1])


def test_a_hessian_goes_through_a_recurrent_network_without_cudnn():
    _, x, y = convex()
    net = Recurrent()
    _, step = make("sophia", net, mean_loss(net), update_period=2)
    losses = [float(step(x, y, 100)[0]) for _ in range(6)]
    assert net.seen == [False, True] * 3
    assert losses[-1] < losses[0]
    assert torch.backends.cudnn.enabled


def test_sophia_is_not_shared_between_processes():
    net, _, _ = convex()
    optimizer = OPTIMIZERS["sophia"].build(net.parameters())
    with pytest.raises(ValueError, match="outside the graph"):
        STEPS["create_graph"](parts_of(net, optimizer, mean_loss(net), processes=2))


# ---- gradients: clipped, and summed over batches -----------------------------------------------


def straight():
    """Return a point and a loss with the gradient (3, 4), of length 5, everywhere."""
    net = nn.Module()
    net.point = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    slope = torch.tensor([3.0, 4.0], dtype=torch.float64)
    return net, lambda _image, _target: (net.point * slope).sum()


@pytest.mark.parametrize(
    ("clip", "length"), [(None, 5.0), (12.0, 5.0), (5.0, 5.0), (1.0, 1.0), (0.25, 0.25)]
)
@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_a_gradient_longer_than_the_clip_is_scaled_to_it(name, clip, length):
    net, loss_of = straight()
    row = OPTIMIZERS[name]
    optimizer = row.build(net.parameters(), lr=1.0, momentum=0.0)
    step = STEPS[row.step](parts_of(net, optimizer, loss_of, clip=clip))
    step(torch.zeros(1), None, 10)
    assert net.point.tolist() == pytest.approx([-0.6 * length, -0.8 * length], rel=1e-5)


def test_a_scaled_gradient_is_clipped_at_its_own_length():
    net, loss_of = straight()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    own = scaler(enabled=True, init_scale=1024.0)
    plain_step(parts_of(net, optimizer, loss_of, own_scaler=own, clip=1.0))(torch.zeros(1), None, 1)
    assert net.point.tolist() == pytest.approx([-0.6, -0.8], rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "sam", "lbfgs"])
def test_gradients_summed_over_batches_are_those_of_one_batch(name):
    ends = []
    for chunks in ((), (66, 67, 67)):
        net, x, y = convex()
        net, x = net.double(), x.double()
        row = OPTIMIZERS[name]
        optimizer = row.build(net.parameters())

        def loss_of(image, goal, net=net):
            values = nn.functional.cross_entropy(net(image), goal.target, reduction="none")
            return values.sum() / 200

        seen = []
        net.register_forward_hook(lambda _m, inputs, _out, seen=seen: seen.append(len(inputs[0])))
        step = STEPS[row.step](parts_of(net, optimizer, loss_of, chunks=chunks))
        losses = [step(x, Goal(target=y), 10)[0].item() for _ in range(3)]
        ends.append((losses, torch.cat([p.detach().flatten() for p in net.parameters()])))
        assert seen[:3] == (list(chunks) or [200] * 3)
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-9)
    assert torch.allclose(ends[0][1], ends[1][1], rtol=1e-9, atol=1e-12)


def test_nnunets_recipe_by_hand():
    """As nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py trains, its rate by steps."""
    steps = 30
    theirs, x, y = convex()
    hand = torch.optim.SGD(
        theirs.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True
    )
    for k in range(steps):
        for group in hand.param_groups:
            group["lr"] = 1e-2 * (1 - k / steps) ** 0.9
        hand.zero_grad()
        (400 * mean_loss(theirs)(x, y)).backward()
        assert (nn.utils.clip_grad_norm_(theirs.parameters(), 12) > 12) or k > 0
        hand.step()
    ours, x, y = convex()
    row = OPTIMIZERS["sgd_nesterov"]
    optimizer = row.build(ours.parameters())
    factor = SCHEDULES["polynomial"].bind({})
    step = plain_step(
        parts_of(
            ours, optimizer, lambda image, label: 400 * mean_loss(ours)(image, label), clip=12.0
        )
    )
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * factor(k / steps, 1 / steps)
        step(x, y, 1)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)

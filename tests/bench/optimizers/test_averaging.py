"""Averaged weights are put in for an evaluation, and leave no trace on the training."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.optimizers.averaging import MovingAverage, evaluation_weights
from bench.optimizers.table import OPTIMIZERS

AVERAGING = sorted(name for name, row in OPTIMIZERS.items() if row.averages)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(4 * 36, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Linear(8, 2),
    )  # fmt: skip


def batches(count=5):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 2) for _ in range(count)
    ]


def images():
    return [image for image, _ in batches()]


def never():
    pytest.fail("no batch is needed")


def train(net, optimizer, data, between=lambda: None):
    for image, label in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(image), label).backward()
        optimizer.step()
        between()


def snapshot(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - set(AVERAGING)))
def test_an_optimizer_without_averages_is_left_alone(name):
    net = network()
    optimizer = OPTIMIZERS[name].build(net.parameters())
    before = snapshot(net)
    with evaluation_weights(optimizer, net, never):
        assert same(snapshot(net), before)
    assert same(snapshot(net), before)


def test_the_weights_put_in_are_the_mean_of_those_that_were_reached():
    # Defazio et al. 2024, equation 7: x is the running mean of z; sgd moves z by -lr * gradient.
    weight = nn.Parameter(torch.tensor([1.0]))
    net = nn.Module()
    net.weight = weight
    optimizer = OPTIMIZERS["schedule_free_sgd"].build([weight], lr=0.1)
    z, reached = 1.0, []
    for gradient in (3.0, -1.0, 2.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        z -= 0.1 * gradient
        reached.append(z)
    with evaluation_weights(optimizer, net, never):
        assert weight.item() == pytest.approx(sum(reached) / 3)
    assert weight.item() == pytest.approx(0.1 * z + 0.9 * sum(reached) / 3)


@pytest.mark.parametrize("name", AVERAGING)
def test_batch_norm_statistics_are_the_mean_over_the_batches_at_those_weights(name):
    net = network()
    optimizer = OPTIMIZERS[name].build(net.parameters())
    train(net, optimizer, batches())
    in_training = net[1].running_mean.clone()
    with evaluation_weights(optimizer, net, images):
        features = [net[0](image) for image in images()]
        mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
        var = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
        assert torch.allclose(net[1].running_mean, mean, atol=1e-6)
        assert torch.allclose(net[1].running_var, var, atol=1e-6)
        assert net[1].num_batches_tracked == 5
        # Without dropout: the second norm sees what it sees in evaluation.
        eval_mode = [
            nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten())
            for _ in features
        ]
        for own in eval_mode:
            own[0].load_state_dict({n: net[1].state_dict()[n] for n in ("weight", "bias")})
        hidden = [net[5](own(f)) for own, f in zip(eval_mode, features, strict=True)]
        mean = torch.stack([h.mean(0) for h in hidden]).mean(0)
        assert torch.allclose(net[6].running_mean, mean, atol=1e-5)
    assert torch.equal(net[1].running_mean, in_training)


@pytest.mark.parametrize("name", AVERAGING)
def test_evaluating_changes_no_bit_of_the_training(name):
    ends = []
    for evaluates in (False, True):
        net = network()
        optimizer = OPTIMIZERS[name].build(net.parameters())

        def look(net=net, optimizer=optimizer):
            before = snapshot(net)
            with evaluation_weights(optimizer, net, images):
                assert net.training
                assert not same(snapshot(net), before)
                net.eval()
                net(images()[0])
            net.train()

        torch.manual_seed(2)
        train(net, optimizer, batches(), look if evaluates else lambda: None)
        ends.append(snapshot(net))
        assert net[1].momentum == 0.1
        assert net[6].momentum == 0.3
    assert same(*ends)


@pytest.mark.parametrize("name", AVERAGING)
def test_before_the_first_step_the_weights_are_those_there_are(name):
    net = network()
    optimizer = OPTIMIZERS[name].build(net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    with evaluation_weights(optimizer, net, images):
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("name", AVERAGING)
def test_what_was_put_in_is_taken_out_whatever_happens(name):
    net = network()
    optimizer = OPTIMIZERS[name].build(net.parameters())
    train(net, optimizer, batches())
    before = snapshot(net)
    with pytest.raises(RuntimeError, match="planted"), evaluation_weights(optimizer, net, images):
        raise RuntimeError("planted")
    assert same(snapshot(net), before)
    with (
        pytest.raises(ValueError, match="no batch to compute batch-norm statistics from"),
        evaluation_weights(optimizer, net, list),
    ):
        pytest.fail("there is no statistic to judge by")
    assert same(snapshot(net), before)
    assert net.training
    assert all(group["train_mode"] for group in optimizer.param_groups)
    train(net, optimizer, batches(1))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_a_moving_average_is_that_of_torch(decay):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    average = MovingAverage(net, decay)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def step(image, label, _left):
        train(net, optimizer, [(image, label)])
        return torch.zeros(()), 1

    ours = average.following(step)
    before = [p.detach().clone() for p in net.parameters()]
    with evaluation_weights(optimizer, net, images, average):  # before the first step
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    for image, label in batches():
        ours(image, label, 1)
        theirs.update_parameters(net)
    trained = snapshot(net)
    with evaluation_weights(optimizer, net, images, average):
        assert not same(snapshot(net), trained)
        for p, expected in zip(net.parameters(), theirs.module.parameters(), strict=True):
            assert torch.equal(p, expected)
    assert same(snapshot(net), trained)

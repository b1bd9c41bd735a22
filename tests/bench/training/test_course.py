"""How training went: swings of the loss and lengths of steps, against numpy and by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.training.course import EVERY, FIRST, SAMPLED, StepNorms, loss_swing, spread
from bench.training.train import run_trial


def walked(parameters: list[torch.Tensor], moves: list[float]) -> StepNorms:
    """Move every weight by moves[k] in step k, and measure."""
    norms = StepNorms(parameters)
    for number, move in enumerate(moves):
        norms.before(number)
        with torch.no_grad():
            for p in parameters:
                p.add_(move)
        norms.after()
    return norms


def test_the_length_of_steps_is_that_of_all_weights():
    """Of 30 weights that each move by d the length is sqrt(30) d; two steps are measured of 13."""
    parameters = [torch.zeros(4, 5), torch.zeros(10), torch.zeros(0)]
    moves = [100.0] * 13
    moves[FIRST], moves[FIRST + EVERY] = 0.5, -8.0
    norms = walked(parameters, moves)
    assert norms.taken() == pytest.approx(np.sqrt(30) * np.sqrt(0.5 * 8.0), rel=1e-6)
    assert norms.taken() is None  # each epoch begins anew


@pytest.mark.parametrize("moves", [[1.0] * FIRST, [0.0] * (FIRST + 1), [float("nan")] * 9])
def test_an_epoch_without_a_step_to_measure_has_no_length(moves):
    assert walked([torch.zeros(3)], moves).taken() is None


def test_of_many_weights_some_stand_for_all():
    """The estimate by one weight in 31 is within 1 % of the true length, in any memory order."""
    random = np.random.default_rng(0)
    shapes = [(64, 32, 3, 3), (2_000_000,), (64,)]
    before = [torch.zeros(shape) for shape in shapes]
    before[0] = before[0].to(memory_format=torch.channels_last)
    steps = [random.normal(0, 0.1, shape).astype(np.float32) for shape in shapes]
    assert sum(s.size for s in steps) // SAMPLED == 30
    norms = StepNorms(before)
    norms.before(FIRST)
    for p, step in zip(before, steps, strict=True):
        p.add_(torch.from_numpy(step))
    norms.after()
    length = np.sqrt(sum(float((s.astype(np.float64) ** 2).sum()) for s in steps))
    assert norms.taken() == pytest.approx(length, rel=0.01)


def test_the_swing_is_the_spread_of_differences():
    losses = [3.0, 1.0, 2.5, 2.0, 0.25]
    found = loss_swing([torch.tensor(value) for value in losses])
    assert found == pytest.approx(np.diff(losses).std(ddof=1))
    assert loss_swing([torch.tensor(1.0)] * 2) is None
    assert loss_swing([torch.tensor(v) for v in (1.0, 2.0, float("nan"))]) is None


def test_training_cases_are_spread_over_the_part():
    assert spread(np.arange(10, 20), 3).tolist() == [10, 14, 19]
    assert spread(np.array([4, 7]), 5).tolist() == [4, 7]


def test_looking_changes_no_number(make_trial, monkeypatch):
    """The same trial with and without the measurements: the same losses and scores to the bit."""
    trial, data, base = make_trial("classification", epochs=3, batch_size=2)
    looked = run_trial(trial, data, base, device=torch.device("cpu"))
    assert all(row["step_norm"] > 0 for row in looked.epochs)
    assert all(row["step_loss_sd_diff"] > 0 for row in looked.epochs)
    assert 0 <= looked.trial["last_train_score"] <= 1
    monkeypatch.setattr(StepNorms, "before", lambda *_: None)
    unseen = run_trial(trial, data, base, device=torch.device("cpu"))
    assert all(row["step_norm"] is None for row in unseen.epochs)
    assert looked.cases == unseen.cases
    for name in ("train_loss", "val_loss", "val_score"):
        assert [row[name] for row in looked.epochs] == [row[name] for row in unseen.epochs]


def test_parameters_are_counted(make_trial):
    """A linear layer from 2 channels to 2 classes has 2 x 2 weights and 2 biases."""
    trial, data, base = make_trial("classification", epochs=1)
    (base / "tiny.py").write_text(
        "from torch import nn\n\n\n"
        "def net(in_channels, out_channels, dims, patch):\n"
        "    mean = nn.AdaptiveAvgPool2d(1)\n"
        "    return nn.Sequential(mean, nn.Flatten(), nn.Linear(in_channels, out_channels))\n"
    )
    from bench.study.choice import Choice
    from tests.trials import changed

    tiny = changed(trial, model=Choice(name="tiny.py:net"))
    row = run_trial(tiny, data, base, device=torch.device("cpu")).trial
    assert row["parameters"] == sum(p.numel() for p in nn.Linear(2, 2).parameters()) == 6

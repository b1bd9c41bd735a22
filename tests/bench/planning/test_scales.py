"""The gradient norms that a plan prints: those of a trial's own first step, and of closed forms."""

import math
from types import SimpleNamespace

import pytest
import torch

from bench.planning.cost.timed import Timed
from bench.planning.plan import resolve
from bench.planning.scales import Scales, gradient_norm, gradient_scales
from bench.study.schema import parse_study
from bench.training import train
from bench.training.train import run_trial
from tests.bench.training.samples.told import TOLD, told_data, told_store

STUDY = """
name: scales
data: [{store}]
models: [{model}]
optimizers: [sgd, adam]
losses: [{losses}]
folds: 2
epochs: 1
batch_size: 4
threads: 1
device: cpu
loader: torch
"""


OWN = """
from torch.nn.functional import cross_entropy


def loss(logits, target):
    return 3 * cross_entropy(logits, target)
"""


@pytest.fixture
def plan_of(small_store, tmp_path):
    def make(task: str, model: str, losses: str):
        store = small_store(task, 2).path
        text = STUDY.format(store=store, model=model, losses=losses)
        return resolve(parse_study(text, "scales"), tmp_path, tmp_path / "run")

    return make


@pytest.mark.parametrize(
    ("task", "model", "losses"),
    [
        ("classification", "plain_cnn", "ce, weighted_ce, focal"),
        ("segmentation", "unet_small", "ce, dice, jaccard"),
    ],
)
def test_norms_are_those_of_the_first_step_of_a_trial(plan_of, monkeypatch, task, model, losses):
    plan = plan_of(task, model, losses)
    (scales,) = gradient_scales(plan)
    assert set(scales.norms) == set(losses.split(", "))
    assert scales.scaled == ("sgd",)
    make = train.STEPS["plain"]
    for loss, norm in scales.norms.items():
        seen = []

        def watched(parts, seen=seen):
            step = make(parts)

            def first(image, target, left):
                done = step(image, target, left)
                gradients = [p.grad.flatten() for p in parts.network.parameters()]
                seen.append(float(torch.cat(gradients).double().square().sum().sqrt()))
                return done

            return first

        trial = next(t for t in plan.trials if t.choices["loss"].label == loss)
        with monkeypatch.context() as patch:
            patch.setitem(train.STEPS, "plain", watched)
            run_trial(trial, plan.data(trial.dataset), plan.base, device=torch.device("cpu"))
        assert seen[0] == pytest.approx(norm, rel=1e-5)


def test_a_loss_of_three_times_the_value_has_three_times_the_norm(plan_of, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    plan = plan_of("classification", "plain_cnn", "ce, own.py:loss")
    first, second = (
        next(t for t in plan.trials if t.choices["loss"].label == name) for name in ("ce", "loss")
    )
    assert gradient_norm(second, plan) == pytest.approx(3 * gradient_norm(first, plan), rel=1e-5)


def test_the_sentence_says_how_far_apart_and_for_whom():
    norms = {"jaccard": 0.0018, "weighted_ce": 0.09}
    found = {"dataset": "d", "model": "unet", "norms": norms}
    assert str(Scales(**found, scaled=("sgd", "sgd_nesterov"))) == (
        "gradient norms at the start, d, unet: weighted_ce 0.09, jaccard 0.0018; they differ by a "
        "factor of 50, and so, at one rate, do the steps of sgd, sgd_nesterov"
    )
    assert str(Scales(**found, scaled=())).endswith("weighted_ce 0.09, jaccard 0.0018")
    for low in (0.0, math.nan):
        odd = found | {"norms": {"a": 1.0, "b": low}}
        assert "apart" not in str(Scales(**odd, scaled=("sgd",)))


@pytest.mark.parametrize("told", TOLD)
def test_whatever_a_trial_is_told_its_work_is_timed_and_its_gradient_measured(
    make_trial, tmp_path, told
):
    """A network that gets clinical data beside the image was once given the image alone."""
    data = told_data(told_store(tmp_path / "store"))
    trial, _, base = make_trial("classification", batch_size=8, **TOLD[told])
    timed = Timed(trial, data, base, torch.device("cpu"))
    timed.load()
    timed.gradient()
    assert all(p.grad is not None for p in timed.model.parameters())
    assert timed.evaluate(4) == 4
    plan = SimpleNamespace(study=SimpleNamespace(device="cpu"), base=base, data=lambda _name: data)
    assert 0 < gradient_norm(trial, plan) < math.inf

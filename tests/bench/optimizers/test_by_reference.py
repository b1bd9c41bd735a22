"""Optimizers that a study names by reference: what is read from them, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.core.references import StudyError
from bench.core.timing import Clock
from bench.optimizers.steps import STEPS, StepParts
from bench.study.components import optimizer_row

HERE = Path()
CPU = torch.device("cpu")


def row(name, **given):
    return optimizer_row(name, given, HERE).row


def trains(found, **given):
    """Tell whether a row brings the loss of a logistic regression to less than half."""
    torch.manual_seed(0)
    net, x = nn.Linear(10, 2), torch.randn(64, 10)
    y = (x[:, 0] > 0).long()
    optimizer = found.build(net.parameters(), **given)

    def loss_of(image, target):
        return nn.functional.cross_entropy(net(image), target)

    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parts = StepParts(
        network=net,
        optimizer=optimizer,
        loss_of=loss_of,
        clock=Clock(CPU),
        processes=1,
        scaler=scaler,
    )
    step = STEPS[found.step](parts)
    before = float(loss_of(x, y).detach())
    for _ in range(100):
        step(x, y, 100)
    return float(loss_of(x, y).detach()) < before / 2


@pytest.mark.parametrize(
    ("name", "given"),
    [
        (
            "pytorch_optimizer:Ranger21",
            {"num_iterations": 1000, "lr": 0.5, "num_warm_up_iterations": 1},
        ),
        ("pytorch_optimizer:AdaBelief", {"lr": 0.1}),
        ("pytorch_optimizer:ScheduleFreeRAdam", {"lr": 0.1}),
        ("pytorch_optimizer:AdaHessian", {"lr": 0.3}),
        ("torch.optim:Rprop", {}),
    ],
)
def test_an_optimizer_of_a_library_trains(name, given):
    assert trains(row(name, **given), **given)


def test_what_the_loop_must_do_is_read_from_the_class():
    assert row("pytorch_optimizer:AdaBelief").step == "plain"
    hessian = row("pytorch_optimizer:AdaHessian")
    assert (hessian.step, hessian.scalable, hessian.one_device) == ("create_graph", False, True)
    assert row("pytorch_optimizer:ScheduleFreeRAdam").averages


def test_settings_are_those_of_the_signature():
    found = row("pytorch_optimizer:AdaBelief", lr=0.02)
    assert found.settings({"lr": 0.02})["lr"] == 0.02
    assert found.settings({})["betas"] == (0.9, 0.999)
    assert not {"foreach", "maximize", "params", "kwargs"} & set(found.defaults)
    # None by default: nothing to hold the value to.
    assert row("pytorch_optimizer:SOAP", shampoo_beta=0.9).settings({})["shampoo_beta"] == 0.9
    assert row("torch.optim:Adafactor", eps=[1e-30, 1e-3]).settings({})["eps"] == (1e-30, 1e-3)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("pytorch_optimizer:AdaBelief", {"learning_rate": 0.1}, "no setting 'learning_rate'"),
        ("pytorch_optimizer:AdaBelief", {"lr": "fast"}, "AdaBelief.lr must be like 0.001"),
        ("pytorch_optimizer:AdaBelief", {"betas": [0.9]}, "AdaBelief.betas must be like"),
        ("pytorch_optimizer:Ranger21", {}, "needs num_iterations"),
        ("pytorch_optimizer:SAM", {}, "needs base_optimizer"),
        ("pytorch_optimizer:AliG", {}, "AliG requires closure"),
        ("pytorch_optimizer:Lookahead", {}, "needs another optimizer, which a study"),
        ("pytorch_optimizer:Magma", {"lr": 0.1}, "makes both, and name it as path/file.py:name"),
        ("pytorch_optimizer:LOMO", {}, "cannot be driven by the training loop"),
        ("torch.optim:LBFGS", {}, "cannot be driven by the training loop"),
        ("torch.optim:Muon", {}, "only supports 2D parameters"),
        ("torch.optim:SparseAdam", {}, "does not support dense gradients"),
        ("pytorch_optimizer:Nonesuch", {}, "unknown name 'Nonesuch'"),
    ],
)
def test_what_cannot_be_driven_is_refused_with_the_reason(name, given, said):
    with pytest.raises(StudyError, match=re.escape(said)) as caught:
        optimizer_row(name, given, HERE)
    assert name in str(caught.value)


OWN = """
import pytorch_optimizer
import torch

class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.5, decay=0.0):
        super().__init__(params, lr=lr, weight_decay=decay)

def anything(params, **settings):
    return torch.optim.SGD(params, **settings)

def bare(params, lr=1, weight_decay=0, steps: int = 3, clip=float("inf")):
    assert isinstance(steps, int)
    return torch.optim.SGD(params, lr=lr, weight_decay=weight_decay)

def masked(params, lr=1e-3, share=0.5):
    return pytorch_optimizer.Magma(torch.optim.SGD(params, lr=lr), mask_prob=share)

class Searching(torch.optim.LBFGS):
    needs_closure = True
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    return lambda name, **given: optimizer_row(f"mine.py:{name}", given, tmp_path)


def test_a_users_class_has_the_settings_it_names(own):
    found = own("Mine", lr=0.1).row
    assert found.settings({"lr": 0.1}) == {"lr": 0.1, "decay": 0.0}
    assert trains(found, lr=0.5)
    with pytest.raises(StudyError, match="no setting 'momentum'"):
        own("Mine", momentum=0.9)


def test_a_users_function_may_take_any_setting(own):
    found = own("anything", lr=0.5, momentum=0.5).row
    assert found.settings({}) == {"lr": 0.5, "momentum": 0.5}
    assert trains(found)


def test_a_user_says_that_a_step_needs_a_closure(own):
    found = own("Searching").row
    assert found.step == "closure"
    assert not found.scalable
    assert trains(found)


def test_another_source_is_another_identity(own, tmp_path):
    first = own("Mine").identity
    (tmp_path / "mine.py").write_text(OWN + "\n# changed\n")
    from bench.core.references import load_reference

    load_reference.cache_clear()
    assert own("Mine").identity != first
    # A library's classes are written in other files than the one that names them.
    one, two = (optimizer_row(f"torch.optim:{n}", {}, HERE).identity for n in ("Rprop", "Adamax"))
    assert one.split()[1] != two.split()[1]


def test_a_rehearsal_draws_nothing_from_the_random_stream():
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    row("pytorch_optimizer:AdaHessian", lr=0.123)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(
    "wrapper",
    ["SAM", "GSAM", "WSAM", "LookSAM", "FriendlySAM", "Lookahead", "PCGrad", "TRAC", "OrthoGrad",
     "ScheduleFreeWrapper", "Magma", "SafeFP16Optimizer"],
)  # fmt: skip
def test_a_wrapper_of_the_library_is_refused(wrapper):
    """It takes another optimizer, made already: of ours, sam alone takes one by name."""
    with pytest.raises(StudyError, match=r"needs .*base_optimizer|needs another optimizer"):
        row(f"pytorch_optimizer:{wrapper}")


def test_a_users_function_may_make_a_wrapper_with_what_it_wraps(own):
    found = own("masked", share=0.9).row
    assert found.settings({"share": 0.9}) == {"lr": 1e-3, "share": 0.9}
    assert trains(found, lr=1.0, share=0.9)


def test_a_rate_whose_default_is_a_whole_number_takes_fractions(own):
    found = own("bare", weight_decay=1e-4).row
    assert found.settings({"weight_decay": 1e-4})["weight_decay"] == 1e-4
    # What another axis sets comes after: a regularizer's decay.
    other = own("bare").row
    assert other.settings({"weight_decay": 5e-4, "lr": 0.5})["weight_decay"] == 5e-4
    assert other.settings({})["weight_decay"] == 0
    assert trains(other, lr=0.5, weight_decay=1e-4)
    with pytest.raises(StudyError, match=r"steps must be like 3, not 0.5"):
        own("bare", steps=0.5)
    with pytest.raises(StudyError, match=r"weight_decay must be like "):
        own("bare", weight_decay="little")


def test_an_infinite_default_is_a_setting_like_any_other(own):
    found = own("bare", clip=float("inf")).row
    for given in ({}, {"clip": float("inf")}, {"clip": 2.0}):
        assert found.settings(given)["clip"] == given.get("clip", float("inf"))
    assert trains(found, **{**found.settings({}), "lr": 0.5})
    with pytest.raises(StudyError, match=r"clip must be like inf, not -inf"):
        own("bare", clip=float("-inf"))

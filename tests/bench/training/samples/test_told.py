"""Clinical data and other answers, by each way that trains: DALI as torch, compiled as not."""

import dataclasses

import pytest
import torch

from bench.study.trial import Augment, Trial
from bench.training.train import run_trial
from tests.bench.training.samples.told import TOLD, told_data, told_store

# All that DALI leaves to the torch loader's code on a CPU, in a part of the samples.
TURNED = Augment(rotate=20.0, zoom=0.1, noise=0.1, gamma=0.2, chance=0.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return told_store(tmp_path_factory.mktemp("told") / "store")


def trained(make_trial, store, told, **changes):
    trial, _, base = make_trial("classification", batch_size=8, **{**TOLD[told], **changes})
    return run_trial(trial, told_data(store), base, device=torch.device("cpu"))


def numbers(outcome):
    """Return what a trial found that is no time."""
    epochs = [
        {k: v for k, v in row.items() if not k.endswith(("_sec", "_per_sec"))}
        for row in outcome.epochs
    ]
    return epochs, outcome.metrics, outcome.trial["test_score"]


@pytest.mark.parametrize("told", TOLD)
def test_dali_gives_the_bits_of_torch(make_trial, store, told):
    found = [
        numbers(trained(make_trial, store, told, loader=loader, augment=TURNED))
        for loader in ("torch", "dali")
    ]
    assert found[0] == found[1]
    # It is told something: without it the losses are others.
    plain = {field.name: field.default for field in dataclasses.fields(Trial)}
    kept = {name: plain[name] for name in ("given_clinical", "readers", "flipped")}
    other = numbers(trained(make_trial, store, told, augment=TURNED, **kept))
    assert [row["train_loss"] for row in other[0]] != [row["train_loss"] for row in found[0][0]]


@pytest.mark.slow
@pytest.mark.parametrize("told", ["clinical", "clinical, soft readers, mixed", "flipped"])
def test_a_compiled_network_learns_the_same(make_trial, store, told):
    losses = [
        [row["train_loss"] for row in trained(make_trial, store, told, compiled=compiled).epochs]
        for compiled in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)

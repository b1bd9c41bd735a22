"""Weights of classes are those of what is drawn: resampled cases, and patches on foreground."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.study.choice import Choice
from bench.study.schema import Augment
from bench.training import train
from loaders.batches import drawn
from loaders.batches.table import LOADERS
from loaders.sampling.normalization import class_weights
from tests.trials import changed

Make = Callable[..., Any]


class Skewed:
    """A data set of two classes with the labels of its cases made anew."""

    def __init__(self, data: Any, labels: np.ndarray) -> None:
        self.store = Store(data.store, labels)
        self.split = data.split


class Store:
    def __init__(self, store: Any, labels: np.ndarray) -> None:
        self._store, self.labels = store, labels
        self.class_counts = np.eye(2, dtype=np.int64)[labels]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("balance", [False, True])
def test_resampled_classes_weigh_the_same(make_trial: Make, balance: bool) -> None:
    """By hand: of n cases one is ill; drawn as they are it weighs n / 2, drawn evenly 1."""
    trial, data, _ = make_trial("classification")
    rows = data.split(0, 0).train
    labels = np.zeros(len(data.store), dtype=np.int64)
    labels[rows[0]] = 1
    skewed = Skewed(data, labels)
    sampler = train.make_sampler(changed(trial, balance=balance), skewed, 0)  # type: ignore[arg-type]  # as a data set
    weights = class_weights(drawn.class_counts(skewed.store, sampler))  # type: ignore[arg-type]  # as a store
    n = len(rows)
    assert weights == pytest.approx([1, 1] if balance else [n / (2 * (n - 1)), n / 2])
    # What each class has of a loss of 1 a sample, over an epoch as it is drawn.
    share = np.bincount(
        labels[sampler.draw(np.arange(n)).case], weights[labels[sampler.draw(np.arange(n)).case]]
    )
    assert share / share.sum() == pytest.approx([0.5, 0.5], abs=1 / n)


AUGMENTS = {
    "plain": {},
    "moved": {"translate": 0.4, "foreground": 0.3},
    "turned": {"rotate": 30.0, "zoom": 0.3, "chance": 0.5},
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", AUGMENTS)
def test_voxels_are_counted_in_the_patches_that_a_loader_gives(
    make_trial: Make, dims: int, name: str
) -> None:
    trial, data, _ = make_trial(
        "segmentation", dims, patch=(9, 20, 9)[-dims:], augment=Augment(**AUGMENTS[name])
    )
    sampler = train.make_sampler(trial, data, 5)
    n = len(sampler.cases)
    patches = -(-drawn.PATCHES // n) * n
    with LOADERS["torch"].open(
        data.store,
        sampler,
        batch_size=n,
        batches=patches // n,
        threads=1,
        device=torch.device("cpu"),
    ) as batches:
        seen = [np.bincount(batch.target.numpy().ravel(), minlength=3) for batch in batches]
    np.testing.assert_array_equal(drawn.class_counts(data.store, sampler), np.sum(seen, axis=0))


def test_patches_on_foreground_show_more_of_it_than_volumes(make_trial: Make) -> None:
    """A patch of one voxel, on foreground: by hand all labels but 0, and no background to weigh."""
    trial, data, _ = make_trial("segmentation", patch=(1, 1), augment=Augment(foreground=1.0))
    sampler = train.make_sampler(trial, data, 0)
    counts = drawn.class_counts(data.store, sampler)
    held = data.store.class_counts[sampler.cases].sum(axis=0)
    drawn_voxels = counts[1:].sum()
    assert drawn_voxels == -(-drawn.PATCHES // len(sampler.cases)) * len(sampler.cases)
    # Half are of the region that is label 2 alone, and some of the other are label 2 as well.
    assert counts[2] > drawn_voxels / 2
    # None shows background: it keeps its share of whole volumes.
    assert counts[0] == pytest.approx(drawn_voxels * held[0] / held.sum())


def test_a_trial_takes_the_weights_of_what_it_draws(
    make_trial: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    plain = train.supervised
    monkeypatch.setattr(
        train,
        "supervised",
        lambda loss, weights, total: taken.append(weights) or plain(loss, weights, total),
    )
    for balance in (False, True):
        trial, data, base = make_trial(
            "classification", epochs=1, balance=balance, loss=Choice(name="weighted_ce")
        )
        train.run_trial(trial, data, base, device=torch.device("cpu"))
        held = data.store.class_counts[data.split(0, 0).train].sum(axis=0)
        expected = [1.0, 1.0] if balance else held.sum() / (2 * held)
        assert taken.pop().tolist() == pytest.approx(list(expected))

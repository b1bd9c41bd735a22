"""The answers that a network trains on: the store's, with some flipped, or those of its readers.

Only the cases of the training part get other answers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.losses.table import Criterion
from bench.study.trial import Trial
from loaders.datasets.tabular.readers import ANSWER
from loaders.store.read import Store

# Separates these draws from those of the samples, which have the same seed.
_STREAM = 2
# LIDC's scale: 1 and 2 speak for benign, 4 and 5 for malignant, 3 for neither; 0 is no rating
# (Armato et al. 2011). A vote for neither counts half for each: assumption.
_NEITHER = 3


def taught(store: Store, train: np.ndarray, trial: Trial, seed: int) -> Store:
    """Return the store that a trial learns from: itself, or with other answers for `train`."""
    if trial.readers != "majority":
        return store.with_answers(_READERS[trial.readers](store, train, _draws(seed)))
    if trial.flipped:
        return store.with_answers(flipped(store, train, trial.flipped, seed))
    return store


def _draws(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAM])


def flipped(store: Store, train: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the answers of a store, with a share of those of `train` changed.

    For classes (n,) every other class is equally likely; for findings (n, k) this share of the
    known answers of each finding is inverted, and missing ones stay missing.
    """
    rng = _draws(seed)
    answers = np.array(store.answers)
    if store.meta.numbers is None:
        cases = rng.choice(train, round(share * len(train)), replace=False)
        classes = len(store.meta.classes)
        answers[cases] = (answers[cases] + rng.integers(1, classes, len(cases))) % classes
        return answers
    for finding in answers.T:
        known = train[np.isfinite(finding[train])]
        cases = rng.choice(known, round(share * len(known)), replace=False)
        finding[cases] = 1 - finding[cases]
    return answers


def votes(store: Store) -> list[np.ndarray] | None:
    """Return the answers of each reader for each case; None if the store does not keep them.

    An answer is the number of a class; for LIDC's malignancy also 0.5 for neither.
    """
    options = store.meta.options
    if store.meta.kind != "lidc" and "readers" in options and store.meta.task == "classification":
        kept = [dict(row or ()).get(ANSWER, ()) for row in store.table["ratings"].to_pylist()]
        return [np.array(given, float) for given in kept] if any(kept) else None
    if store.meta.kind != "lidc" or options.get("task") != "malignancy":
        return None
    found = []
    for row in store.table["ratings"].to_pylist():
        given = np.array([one for one in dict(row or ()).get("malignancy", ()) if one], float)
        found.append((np.sign(given - _NEITHER) + 1) / 2)
    return found


def _votes(store: Store) -> list[np.ndarray]:
    found = votes(store)
    assert found is not None, "planning skips such a trial"
    return found


def _soft(store: Store, train: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Return the odds of all classes (n, C) float32; for cases outside `train` their class."""
    classes = len(store.meta.classes)
    odds = np.eye(classes, dtype=np.float32)[store.labels]
    given = _votes(store)
    for case in train:
        if not len(given[case]):
            continue
        if classes == 2:
            second = given[case].mean()
            odds[case] = 1 - second, second
        else:
            counts = np.bincount(given[case].astype(np.int64), minlength=classes)
            odds[case] = counts / counts.sum()
    return odds


def _one(store: Store, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the class (n,) that one reader gave; the store's if all readers gave neither."""
    labels = np.array(store.labels)
    given = _votes(store)
    for case in train:
        decided = given[case][given[case] != 0.5]
        if len(decided):
            labels[case] = int(rng.choice(decided))
    return labels


_READERS: Mapping[str, Callable[[Store, np.ndarray, np.random.Generator], np.ndarray]] = {
    "soft": _soft,
    "one": _one,
}


def of_odds(criterion: Criterion) -> Criterion:
    """Return a loss that also takes the odds of classes (N, C), as its mean over them.

    For cross-entropy that is the cross-entropy to soft targets, since it is linear in the target.
    """

    def expected(logits: Tensor, target: Tensor, *more: Any, **made: Any) -> Tensor:
        if not target.is_floating_point():
            return criterion(logits, target, *more, **made)
        classes = torch.arange(target.shape[1], device=target.device)
        values = [
            criterion(logits, number.expand(len(target)), *more, **made) for number in classes
        ]
        return (torch.stack(values, dim=1) * target).sum(dim=1)

    return expected

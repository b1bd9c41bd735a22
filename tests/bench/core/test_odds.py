"""Ranks after saturation: what rounds to a probability of 1 is still told apart by its logits."""

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn import metrics as sk

from bench.core import odds
from bench.metrics.aggregate import classification_rows, segmentation_rows
from bench.metrics.confusion import confusion
from bench.metrics.tasks.scoring import Seen
from bench.study.tasks import TASKS
from loaders.store.read import Store


def saturated(n: int, shift: float) -> torch.Tensor:
    """Return logits (n, 2) float32 whose second class has a probability that rounds to 1."""
    rng = np.random.default_rng(0)
    logits = np.stack([-shift - rng.normal(size=n), shift + rng.normal(size=n)], axis=1)
    return torch.from_numpy(logits.astype(np.float32))


@pytest.mark.parametrize("shift", [30.0, 1e3, -30.0])
def test_images_that_a_network_is_sure_of_are_ranked_by_their_logits(
    small_store: Callable[..., Store], shift: float
) -> None:
    """scikit-learn, given the difference of the logits in double precision."""
    store, task = small_store("classification", 2), TASKS["classification"]
    cases = np.arange(len(store))
    logits = saturated(len(store), shift)
    seen = Seen(
        store=store,
        cases=cases,
        pixels=np.zeros((len(store), 2, 1, 1)),
        logits=logits,
        target=store.labels,
        presence=None,
        costly=True,
    )
    metrics, rows = task.rows(store, cases, task.score(seen))
    found = {m["metric"]: m["value"] for m in metrics if m["unit"] == "image"}
    score = (logits[:, 1].double() - logits[:, 0].double()).numpy()
    assert found["auc"] == pytest.approx(sk.roc_auc_score(store.labels, score))
    assert found["auc"] != 0.5
    assert found["average_precision"] == pytest.approx(
        sk.average_precision_score(store.labels, score)
    )
    false, true, _ = sk.roc_curve(store.labels, score, drop_intermediate=False)
    assert found["sensitivity_at_10_percent_fpr"] == pytest.approx(true[false <= 0.1].max())
    stored = [row["log_odds"] for row in rows if row["region"] == store.meta.classes[1]]
    np.testing.assert_allclose(stored, score, rtol=1e-15)


def test_a_patient_is_ranked_by_the_mean_of_probabilities_that_all_round_to_one() -> None:
    """The means of two or three cases each, worked out to 60 digits."""
    rng = np.random.default_rng(1)
    z = rng.uniform(40, 60, 60)
    groups = [f"p{i}" for i in np.arange(60) // rng.choice([2, 3], 60).repeat(1)]
    label = np.array([int(group[1:]) % 2 for group in groups])
    with localcontext() as context:
        context.prec = 60
        exact = [1 / (1 + (-Decimal(float(value))).exp()) for value in z]
        names = list(dict.fromkeys(groups))
        means = [
            sum(own) / len(own)
            for name in names
            if (own := [p for p, group in zip(exact, groups, strict=True) if group == name])
        ]
    rank = {mean: place for place, mean in enumerate(sorted(means))}
    expected = sk.roc_auc_score([int(n[1:]) % 2 for n in names], [rank[m] for m in means])
    log_odds = np.stack([-z, z], axis=1)
    rows = classification_rows(
        1 / (1 + np.exp(-log_odds)),
        label,
        log_odds=log_odds,
        classes=["a", "b"],
        positive=1,
        unit="image",
        groups=groups,
    )
    (auc,) = (r["value"] for r in rows if r["metric"] == "auc" and r["unit"] == "patient")
    assert auc == pytest.approx(expected)
    assert auc != 0.5


def test_of_many_classes_the_log_odds_are_those_of_scipy() -> None:
    logits = np.random.default_rng(2).normal(0, 50, (5, 4, 6)).astype(np.float32)
    for labels in ((1,), (1, 3), (4, 2, 1)):
        rest = [k for k in range(5) if k not in labels]
        double = logits.astype(np.float64)
        expected = logsumexp(double[list(labels)], axis=0) - logsumexp(double[rest], axis=0)
        np.testing.assert_allclose(odds.against_rest(logits, labels), expected, rtol=1e-12)
        assert odds.highest(logits, labels) == pytest.approx(expected.max(), rel=1e-12)


def test_the_highest_of_a_volume_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odds, "_BLOCK", 7)
    logits = np.random.default_rng(3).normal(0, 50, (3, 5, 4, 6)).astype(np.float32)
    logits[:, 0, 0] = np.nan
    expected = np.nanmax(odds.against_rest(logits, (2,)))
    assert odds.highest(logits, (2,)) == expected
    assert odds.highest(np.full((2, 3, 3), np.nan), (1,)) == -np.inf


def scan(candidates: dict[int, float], ref: list[int]) -> dict[str, Any]:
    """Return the row of a line of voxels: candidates by their place and logit, lesions by place."""
    logits, truth = np.zeros((2, 1, 40), dtype=np.float32), np.zeros((1, 40), dtype=np.uint8)
    logits[1] = -40.0
    for place, logit in candidates.items():
        logits[1, 0, place] = logit
    truth[0, ref] = 1
    pred = logits.argmax(axis=0).astype(np.uint8)
    return confusion(pred, truth, {"r": (1,)}, (9.0, 9.0), distances=True, logits=logits)[0]


def test_lesions_and_images_that_a_network_is_sure_of_are_ranked_by_their_logits() -> None:
    """By hand: two scans, candidates of logits 50, 52, 54 and 56, whose probabilities are all 1."""
    cases = [scan({2: 56.0, 8: 54.0}, [2, 20]), scan({5: 50.0, 30: 52.0}, [30])]
    assert {p for case in cases for p in case["lesion_prob"] if p is not None} == {1.0}
    rows = segmentation_rows(cases, ["r"])
    (froc,) = (r["value"] for r in rows if r["metric"] == "froc" and r["region"] == "r")
    # Of three lesions, as (false a scan, found): 56 (0, 1/3), 54 (1/2, 1/3), 52 (1/2, 2/3),
    # 50 (1, 2/3). At 1/8 and 1/4 a third, from 1/2 on two thirds.
    assert froc == pytest.approx((2 * 1 / 3 + 5 * 2 / 3) / 7)
    # Whether an image holds the region: its best candidate, 56, 52 and, of one without, 54.
    rows = segmentation_rows([*cases, scan({5: 54.0}, [])], ["r"])
    (auc,) = (r["value"] for r in rows if r["metric"] == "auc" and r["region"] == "r")
    assert auc == 1 / 2
    rows = segmentation_rows([*cases, scan({5: 51.0}, [])], ["r"])
    (auc,) = (r["value"] for r in rows if r["metric"] == "auc" and r["region"] == "r")
    assert auc == 1


@pytest.mark.parametrize("labels", [(1,), (1, 3), (2, 3, 4)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0, 1e4, 1e30])
def test_the_highest_is_that_of_every_voxel_looked_at(
    labels: tuple[int, ...], scale: float
) -> None:
    rng = np.random.default_rng(0)
    for n in range(20):
        logits = (scale * rng.normal(size=(5, 6, 7, 8))).astype(np.float32)
        if n % 2:
            # Sums of several classes, not the largest alone, decide.
            logits = np.round(logits / scale) * np.float32(min(scale, 1.0))
        logits[:, rng.random((6, 7, 8)) < 0.1] = np.nan
        every = odds.against_rest(logits, labels)
        assert odds.highest(logits, labels) == np.nanmax(every)


def test_the_highest_where_logits_are_infinite() -> None:
    logits = np.zeros((3, 4), dtype=np.float32)
    logits[1, 2] = np.inf
    assert odds.highest(logits, (1,)) == np.inf
    assert odds.highest(logits, (2,)) == pytest.approx(-np.log(2))
    logits[1] = -np.inf
    assert odds.highest(logits, (1,)) == -np.inf

"""Scoring of a classified image: the network's output, its rows, and its example in reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.core.odds import against_rest
from bench.metrics.aggregate import classification_rows
from bench.metrics.tasks.scoring import Seen, ids_of, thinned
from loaders.store.read import Store

Row = dict[str, Any]


def logits(seen: Seen) -> list[np.ndarray]:
    """Return the logits (classes,) of each case, in double precision."""
    return list(seen.logits.double().cpu().numpy())


def probabilities(said: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probabilities (n, classes) of the logits of n cases."""
    found: np.ndarray = torch.softmax(torch.from_numpy(np.stack(said)), 1).numpy()
    return found


def example(seen: Seen, place: int, said: np.ndarray) -> dict[str, np.ndarray]:
    """Return the middle slice of an image, its label and its probabilities."""
    image = seen.picture(place)
    return {
        "image": thinned(image),
        "label": np.asarray(seen.target[place]),
        "prob": probabilities([said])[0],
    }


def right(store: Store, cases: np.ndarray, *, graded: bool = False) -> list[Row]:
    """Return the rows of `metrics` for the right answers; one case of each class is enough.

    `graded`: the classes are grades. The headline of a metric is None if it has no value on these
    cases, whatever a network answers.
    """
    meta, labels = store.meta, np.unique(store.labels[cases])
    prob = np.eye(len(meta.classes))[labels]
    return classification_rows(
        prob,
        labels,
        classes=meta.classes,
        positive=meta.positive,
        unit=meta.unit,
        graded=graded,
    )


def rows(
    store: Store, cases: np.ndarray, said: Sequence[np.ndarray], *, graded: bool = False
) -> tuple[list[Row], list[Row]]:
    """Return the rows of `metrics` and of `cases` from the logits of each case.

    `graded`: the classes are grades. There are no metrics if a probability is not finite.
    """
    meta, prob, label = store.meta, probabilities(said), store.labels[cases]
    by_class = np.stack(said).T
    log_odds = np.stack([against_rest(by_class, [k]) for k in range(len(by_class))], axis=1)
    ids = ids_of(store, cases)
    metrics = []
    if np.isfinite(prob).all():
        metrics = classification_rows(
            prob,
            label,
            log_odds=log_odds,
            classes=meta.classes,
            positive=meta.positive,
            unit=meta.unit,
            groups=[found["group_id"] for found in ids],
            group_unit=meta.group_source,
            graded=graded,
        )
    of_cases = [
        {
            "region": name,
            "label": int(truth == k),
            "prob": float(p[k]),
            "log_odds": float(z[k]),
            **found,
        }
        for found, truth, p, z in zip(ids, label, prob, log_odds, strict=True)
        for k, name in enumerate(meta.classes)
    ]
    return metrics, of_cases

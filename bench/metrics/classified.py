"""How a classified image is scored: its probabilities, its rows, what is shown of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.metrics.aggregate import classification_rows
from bench.metrics.scoring import Seen, ids_of, thinned
from loaders.store.read import Store

Row = dict[str, Any]


def probabilities(seen: Seen) -> list[np.ndarray]:
    """Return the probabilities (classes,) of each case: softmax in double precision."""
    return list(torch.softmax(seen.logits.double(), 1).cpu().numpy())


def example(seen: Seen, place: int, prob: np.ndarray) -> dict[str, np.ndarray]:
    """Return the middle slice of an image, its label and its probabilities."""
    image = seen.picture(place)
    return {
        "image": thinned(image),
        "label": np.asarray(seen.target[place]),
        "prob": prob,
    }


def rows(
    store: Store, cases: np.ndarray, probs: Sequence[np.ndarray]
) -> tuple[list[Row], list[Row]]:
    """Return the rows of `metrics` and of `cases`; no metrics where a probability is not finite."""
    meta, prob, label = store.meta, np.stack(probs), store.labels[cases]
    ids = ids_of(store, cases)
    metrics = []
    if np.isfinite(prob).all():
        metrics = classification_rows(
            prob,
            label,
            classes=meta.classes,
            positive=meta.positive,
            unit=meta.unit,
            groups=[found["group_id"] for found in ids],
            group_unit=meta.group_source,
        )
    of_cases = [
        {"region": name, "label": int(truth == k), "prob": float(p[k]), **found}
        for found, truth, p in zip(ids, label, prob, strict=True)
        for k, name in enumerate(meta.classes)
    ]
    return metrics, of_cases

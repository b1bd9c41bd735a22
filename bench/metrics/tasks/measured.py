"""Scoring of a predicted number: in the units of the source, by its distance from the true one.

A network learns numbers in standard deviations from the mean of its training part, so that learning
rates mean the same in any unit; its answers are converted back before they are scored.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.metrics.aggregate import number_rows
from bench.metrics.tasks.scoring import Seen, ids_of, thinned
from loaders.store.read import Store

Row = dict[str, Any]


def predictions(seen: Seen) -> list[np.ndarray]:
    """Return the predicted numbers (k,) of each case, in the units of the source."""
    said: np.ndarray = seen.logits.double().cpu().numpy()
    return list(said if seen.scale is None else seen.scale.back(said))


def example(seen: Seen, place: int, said: np.ndarray) -> dict[str, np.ndarray]:
    """Return the middle slice of an image, its numbers (k,) and the predicted ones."""
    return {
        "image": thinned(seen.picture(place)),
        "label": np.asarray(seen.target[place]),
        "predicted": said,
    }


def right(store: Store, cases: np.ndarray) -> list[Row]:
    """Return the rows of `metrics` for the right answers.

    The headline of a metric is None if it has no value on these cases, whatever a network answers.
    """
    true = store.numbers[cases][:, 0]
    return number_rows(true, true, unit=store.meta.unit)


def rows(
    store: Store, cases: np.ndarray, said: Sequence[np.ndarray]
) -> tuple[list[Row], list[Row]]:
    """Return the rows of `metrics` and of `cases` from the predicted number (1,) of each case.

    There are no metrics if a prediction is not finite.
    """
    meta, predicted, true = store.meta, np.stack(said)[:, 0], store.numbers[cases][:, 0]
    ids = ids_of(store, cases)
    metrics = []
    if np.isfinite(predicted).all():
        metrics = number_rows(
            predicted,
            true,
            unit=meta.unit,
            groups=[found["group_id"] for found in ids],
            group_unit=meta.group_source,
        )
    (name,) = meta.classes
    of_cases = [
        {"region": name, "truth": float(y), "predicted": float(x), **found}
        for found, x, y in zip(ids, predicted, true, strict=True)
    ]
    return metrics, of_cases

"""Scoring of an image with several findings: each finding by itself, and their mean.

Each finding is a classification into present and absent, over the images for which it is known; the
metric's value is that of the region of the finding's name. If all these images have the same
answer, a metric that needs both has no value, and the mean is over the other findings.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from bench.metrics.aggregate import finding_rows
from bench.metrics.tasks.scoring import Seen, ids_of, thinned
from loaders.store.read import Store

Row = dict[str, Any]

# Log-odds of a network that is certain. Assumption: any positive number would do.
_CERTAIN = 20.0


def example(seen: Seen, place: int, said: np.ndarray) -> dict[str, np.ndarray]:
    """Return the middle slice of an image, its findings (k,), nan where missing, and their odds."""
    return {
        "image": thinned(seen.picture(place)),
        "label": np.asarray(seen.target[place]),
        "prob": expit(said),
    }


def right(store: Store, cases: np.ndarray) -> list[Row]:
    """Return the rows of `metrics` for the right answers; one of several equal cases is enough.

    The headline of a metric is None if it has no value on these cases, whatever a network answers.
    """
    found = np.unique(np.nan_to_num(store.numbers[cases], nan=-1), axis=0)
    return finding_rows(
        np.where(found == 1, _CERTAIN, -_CERTAIN),
        np.where(found < 0, np.nan, found),
        findings=store.meta.classes,
        unit=store.meta.unit,
    )


def rows(
    store: Store, cases: np.ndarray, said: Sequence[np.ndarray]
) -> tuple[list[Row], list[Row]]:
    """Return the rows of `metrics` and of `cases` from the logits (k,) of each case.

    There are no metrics if a logit is not finite.
    """
    meta, log_odds, numbers = store.meta, np.stack(said), store.numbers[cases]
    ids = ids_of(store, cases)
    metrics = []
    if np.isfinite(log_odds).all():
        metrics = finding_rows(
            log_odds,
            numbers,
            findings=meta.classes,
            unit=meta.unit,
            groups=[found["group_id"] for found in ids],
            group_unit=meta.group_source,
        )
    of_cases = [
        {
            "region": name,
            "label": None if np.isnan(number) else int(number),
            "prob": float(expit(z)),
            "log_odds": float(z),
            **found,
        }
        for found, known, own in zip(ids, numbers, log_odds, strict=True)
        for name, number, z in zip(meta.classes, known, own, strict=True)
    ]
    return metrics, of_cases

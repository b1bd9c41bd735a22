"""Scoring of a segmented case: counts and distances of its regions, its example in reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.metrics.aggregate import segmentation_rows
from bench.metrics.confusion import confusion
from bench.metrics.tasks.scoring import Seen, ids_of
from loaders.store.read import Store

Row = dict[str, Any]


def _label_map(seen: Seen, place: int) -> np.ndarray:
    # Ten times as fast on a CPU as argmax over the leading axis (measured).
    found: np.ndarray = seen.logits[place].max(0).indices.to(torch.uint8).cpu().numpy()
    return found


def regions(seen: Seen) -> list[list[Row]]:
    """Return the rows of `confusion` of each case."""
    return [
        confusion(
            _label_map(seen, place),
            seen.target[place],
            seen.meta.regions,
            tuple(seen.store.spacing[index]),
            distances=seen.costly,
            logits=seen.logits[place].cpu().numpy() if seen.costly else None,
            presence=seen.presence,
            ignored=seen.meta.ignored,
        )
        for place, index in enumerate(seen.cases)
    ]


def example(seen: Seen, place: int, _regions: list[Row]) -> dict[str, np.ndarray]:
    """Return the slice with most of the reference, of the image and of both masks.

    Ignored voxels are background in both masks, as they are not scored.
    """
    mask, found = seen.target[place], _label_map(seen, place)
    if seen.meta.ignored is not None:
        mask, found = (np.where(mask == seen.meta.ignored, 0, each) for each in (mask, found))
    if mask.ndim == 2:
        return {"image": seen.picture(place), "reference": mask, "prediction": found}
    z = int((mask > 0).sum(axis=(1, 2)).argmax())
    return {"image": seen.picture(place, z), "reference": mask[z], "prediction": found[z]}


def right(store: Store, cases: np.ndarray) -> list[Row]:
    """Return the rows of `metrics` for the right answers; one case of each kind is enough.

    Kinds are with and without the region, of known and unknown spacing. The headline of a metric is
    None if it has no value on these cases, whatever a network answers.
    """
    there = store.boxes[cases, :, 0, 0] >= 0
    known = np.isfinite(store.spacing[cases]).all(axis=1)
    found = []
    for column, name in enumerate(store.meta.regions):
        for holds, spaced in sorted(
            set(zip(there[:, column].tolist(), known.tolist(), strict=True))
        ):
            mask = np.array([[0, holds]], dtype=np.uint8)
            logits = np.stack([mask == 0, mask == 1]).astype(np.float64)
            spacing = (1.0 if spaced else np.nan,) * 2
            found += confusion(mask, mask, {name: (1,)}, spacing, distances=True, logits=logits)
    return segmentation_rows(found, tuple(store.meta.regions))


def rows(
    store: Store, cases: np.ndarray, found: Sequence[list[Row]]
) -> tuple[list[Row], list[Row]]:
    """Return the rows of `metrics` and of `cases`."""
    of_cases = [
        {**region, **ids}
        for ids, of_case in zip(ids_of(store, cases), found, strict=True)
        for region in of_case
    ]
    meta = store.meta
    return segmentation_rows(of_cases, tuple(meta.regions), group=meta.group_source), of_cases

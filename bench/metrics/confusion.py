"""Counts and measurements of one segmented case: a row for each region."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core import odds
from bench.metrics import lesions
from bench.metrics.rates import ratio
from bench.metrics.surfaces import TOLERANCE_MM, surfaces
from loaders.boxes import bounding_box

Masks = NDArray[np.uint8]
Row = dict[str, Any]


def confusion(
    pred: Masks,
    ref: Masks,
    regions: Mapping[str, tuple[int, ...]],
    spacing: Sequence[float],
    *,
    distances: bool,
    logits: NDArray[np.floating] | None = None,
    presence: NDArray[np.floating] | None = None,
    ignored: int | None = None,
) -> list[Row]:
    """Return one row per region, with the columns of the table `cases` that segmentation fills.

    `pred` and `ref` are label maps (*spatial) of one case, 0 is the background; a region is the
    union of its labels. `spacing` is in mm for each axis, nan if unknown.

    - `tp fp fn tn n_ref n_pred`: voxels. `dice` is None if both masks are empty.
    - `ref_mm`: diameter of the sphere (2-D: disc) as large as the reference; None if it is empty or
      the spacing is unknown.
    - `label`: 1 if the reference holds the region, else 0.
    - with `distances`, if the spacing is known: `hd95_mm` and `assd_mm` (the diagonal of the image
      if only one mask is empty, 0 if both are) and `nsd_2mm` (then 0 and 1).
    - with `logits` (C, *spatial) of the labels: the table's lists of lesions (see `lesions.find`),
      and the `log_odds` of the case: the highest log-odds of the region at any voxel, or with
      `presence` (C,), a network's own log-odds that the image holds each label, the highest of the
      region's labels. `prob` and the lists of probabilities are computed from these.

    Voxels whose reference is `ignored` are not counted and their logits are not used; for distances
    and lesions both maps are background there.

    What is not measured is None. Raises ValueError if shapes or types do not fit.
    """
    _check(pred, ref, regions, spacing, logits)
    whole = pred.size
    if ignored is not None and (left_out := ref == ignored).any():
        pred, ref = (np.where(left_out, np.uint8(0), labels) for labels in (pred, ref))
        whole -= int(left_out.sum())
        if logits is not None:
            # nan is ignored below.
            logits = np.where(left_out, np.nan, logits)
    # Everything to count and measure is in the box around the labels of both maps.
    box = bounding_box(pred | ref)
    # From corner to corner of the image: no two of its voxels are farther apart.
    diagonal_mm = float(np.linalg.norm(np.multiply(pred.shape, spacing)))
    pred, ref = pred[box], ref[box]
    # pairs[i, j]: voxels of reference label i and predicted label j
    highest = max(int(pred.max(initial=0)), int(ref.max(initial=0)), *map(max, regions.values()))
    size = highest + 1
    pairs = np.bincount((ref.astype(np.uint16) * size + pred).ravel(), minlength=size * size)
    pairs = pairs.reshape(size, size)
    pairs[0, 0] += whole - pred.size

    rows: list[Row] = []
    for name, labels in regions.items():
        inside = np.zeros(size, dtype=bool)
        inside[list(labels)] = True
        tp = int(pairs[inside][:, inside].sum())
        fp = int(pairs[~inside][:, inside].sum())
        fn = int(pairs[inside][:, ~inside].sum())
        row: Row = {
            "region": name,
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "tn": int(pairs[~inside][:, ~inside].sum()),
            "n_ref": tp + fn,
            "n_pred": tp + fp,
            "dice": ratio(2 * tp, 2 * tp + fp + fn),
            "ref_mm": lesions.diameter_mm(tp + fn, spacing) if tp + fn else None,
            "label": int(tp + fn > 0),
        }
        row |= dict.fromkeys((*_DISTANCES, *_SCORES))
        if distances or logits is not None:
            masks = inside[pred], inside[ref]
            if distances:
                row |= _distances(*masks, spacing, diagonal_mm)
            if logits is not None:
                row |= _scores(*masks, spacing, labels, box, logits, presence)
        rows.append(row)
    return rows


def _distances(
    pred: NDArray[np.bool_],
    ref: NDArray[np.bool_],
    spacing: Sequence[float],
    diagonal_mm: float,
) -> dict[str, float | None]:
    if not np.isfinite(spacing).all():
        return dict.fromkeys(_DISTANCES)
    found = surfaces(pred, ref, spacing)
    if found is None:
        both_empty = bool(pred.any() == ref.any())
        far = 0.0 if both_empty else diagonal_mm
        return {"hd95_mm": far, "assd_mm": far, "nsd_2mm": float(both_empty)}
    return {
        "hd95_mm": found.hd95(),
        "assd_mm": found.assd(),
        "nsd_2mm": found.surface_dice(TOLERANCE_MM),
    }


def _scores(
    pred: NDArray[np.bool_],
    ref: NDArray[np.bool_],
    spacing: Sequence[float],
    labels: tuple[int, ...],
    box: tuple[slice, ...],
    logits: NDArray[np.floating],
    presence: NDArray[np.floating] | None,
) -> dict[str, Any]:
    """Return the scores of a region from the logits; the masks (*box) are cut out of the image."""
    # Only for voxels of candidates: no others are used.
    said = np.full(pred.shape, np.nan)
    said[pred] = odds.against_rest(logits[(slice(None), *box)][:, pred], labels)
    found = lesions.find(pred, ref, said, spacing)
    if presence is None:
        of_image = odds.highest(logits, labels)
    else:
        of_image = float(np.fmax.reduce(presence[list(labels)], initial=-np.inf))
    return {
        "prob": odds.probabilities([of_image])[0],
        "lesion_mm": found.diameter_mm,
        "lesion_prob": odds.probabilities(found.score),
        "false_prob": odds.probabilities(found.false_scores),
        "log_odds": of_image,
        "lesion_log_odds": found.score,
        "false_log_odds": found.false_scores,
    }


_DISTANCES = ("hd95_mm", "assd_mm", "nsd_2mm")
_SCORES = (
    *("prob", "lesion_mm", "lesion_prob", "false_prob"),
    *("log_odds", "lesion_log_odds", "false_log_odds"),
)


def _check(
    pred: Masks,
    ref: Masks,
    regions: Mapping[str, tuple[int, ...]],
    spacing: Sequence[float],
    logits: NDArray[np.floating] | None,
) -> None:
    if pred.shape != ref.shape or pred.ndim != len(spacing):
        raise ValueError(
            f"a prediction {pred.shape}, a reference {ref.shape} and a spacing of "
            f"{len(spacing)} axes do not fit together"
        )
    if logits is not None and logits.shape[1:] != pred.shape:
        raise ValueError(f"logits {logits.shape} do not fit a prediction {pred.shape}")
    if pred.dtype != np.uint8 or ref.dtype != np.uint8:
        raise ValueError(f"label maps must be uint8, not {pred.dtype} and {ref.dtype}")
    if with_background := [name for name, labels in regions.items() if 0 in labels]:
        raise ValueError(f"regions must not hold the background, label 0: {with_background}")

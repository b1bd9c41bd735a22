"""Lesions and candidates: connected components, which of them overlap, and the FROC score.

A lesion is a connected component of the reference, a candidate one of the prediction; voxels that
share a face, an edge or a corner are connected (26 neighbours in 3-D, 8 in 2-D). A candidate's
score is the highest of its voxels, a probability or anything that ranks alike. It hits every lesion
with which it shares a voxel. A lesion's score is that of the best candidate that hits it, and a
candidate that hits none is a false positive. Further candidates on the same lesion count neither
way, as in LUNA16. A candidate is part of the prediction, so the curve ends where the prediction
does: components that would appear at a lower threshold are not considered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, prod

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

from bench.metrics.rates import Flags, ratio

# Setio et al. 2017, "Validation, comparison, and combination of algorithms for automatic detection
# of pulmonary nodules" (LUNA16): false positives per scan at which sensitivity is read.
FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)

# A lesion is small below this diameter: RECIST 1.1 calls lesions measurable in CT from 10 mm on
# (Eisenhauer et al. 2009).
SMALL_MM = 10.0


@dataclass(frozen=True, kw_only=True)
class Lesions:
    """The lesions of one scan and region, and the scores of its false candidates.

    `diameter_mm` and `score` have a value for each lesion: the diameter of the sphere (2-D: disc)
    of the same volume (None if the spacing is unknown), and the best score (None if no candidate
    hits it).
    """

    diameter_mm: list[float | None]
    score: list[float | None]
    false_scores: list[float]


def find(pred: Flags, ref: Flags, said: NDArray[np.floating], spacing: Sequence[float]) -> Lesions:
    """Return the lesions and false candidates of one scan; masks and scores are (*spatial)."""
    neighbours = generate_binary_structure(pred.ndim, pred.ndim)
    candidate, n_candidates = label(pred, neighbours)
    lesion, n_lesions = label(ref, neighbours)

    # [0] is the background. Voxels of nan (a diverged network) are ignored.
    scores = np.full(n_candidates + 1, -np.inf)
    np.fmax.at(scores, candidate[pred], said[pred])
    shared = pred & ref
    best = np.full(n_lesions + 1, -np.inf)
    np.maximum.at(best, lesion[shared], scores[candidate[shared]])
    found = np.zeros(n_lesions + 1, dtype=bool)
    found[lesion[shared]] = True
    hits = np.zeros(n_candidates + 1, dtype=bool)
    hits[candidate[shared]] = True

    voxels = np.bincount(lesion.ravel(), minlength=n_lesions + 1)[1:]
    return Lesions(
        diameter_mm=[diameter_mm(int(n), spacing) for n in voxels],
        score=[float(s) if hit else None for s, hit in zip(best[1:], found[1:], strict=True)],
        false_scores=[float(s) for s in scores[1:][~hits[1:]]],
    )


def diameter_mm(voxels: int, spacing: Sequence[float]) -> float | None:
    """Return the diameter of the sphere (2-D: disc) of this size; None if spacing is unknown.

    Raises ValueError for other numbers of axes than 2 and 3.
    """
    size = voxels * prod(spacing)
    if not np.isfinite(size):
        return None
    if len(spacing) == 3:
        return float((6 * size / pi) ** (1 / 3))
    if len(spacing) == 2:
        return float((4 * size / pi) ** (1 / 2))
    raise ValueError(f"a diameter needs 2 or 3 axes, not {len(spacing)}")


def sensitivity(
    scores: Sequence[float | None], false_scores: Sequence[float], scans: int
) -> float | None:
    """Return the share of lesions that are hit; None if there is no lesion."""
    del false_scores, scans
    return ratio(sum(score is not None for score in scores), len(scores))


def false_positives(
    scores: Sequence[float | None], false_scores: Sequence[float], scans: int
) -> float | None:
    """Return the mean number of candidates per scan that hit no lesion."""
    del scores
    return ratio(len(false_scores), scans)


def froc(scores: Sequence[float | None], false_scores: Sequence[float], scans: int) -> float | None:
    """Return the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan.

    `scores` are those of all lesions of all `scans`, None for a missed one; `false_scores` those of
    all false candidates. Sensitivity is interpolated between the points of the curve, starting from
    0 without candidates, and stays at its last value beyond the curve's end, as in LUNA16. None if
    there is no lesion.
    """
    if not scores:
        return None
    true = np.array([score for score in scores if score is not None])
    false = np.asarray(false_scores, dtype=float)
    falling = np.unique(np.concatenate([true, false]))[::-1]
    hit = np.searchsorted(np.sort(-true), -falling, side="right") / len(scores)
    wrong = np.searchsorted(np.sort(-false), -falling, side="right") / scans
    return float(np.interp(FROC_RATES, [0, *wrong], [0, *hit]).mean())

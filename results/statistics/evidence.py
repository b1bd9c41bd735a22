"""The input of a comparison: test scores, and each patient's influence on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores of m combinations on R repeats of k folds with S seeds, and the influence of patients.

    `scores`: (m, R, k, S) test scores; larger is better. `influence`: (m, R, S, n) or None: what
    each of n patients adds to the mean over the folds of a repeat and seed, so that its
    cross-products over patients are the variances and covariances of those means over patients; for
    each combination it sums to zero in a fold. None: the metric has none, or not in every fold.
    `test_train_ratio`: n_test / n_train of one fold. `grain`: the smallest step of a score, such as
    1 / (positives x negatives) for an AUC; no difference is known more precisely. `span`: the
    largest possible difference of two scores, 1 for an AUC; no interval goes beyond it.

    Raises ValueError if a shape does not fit or a number is not finite.
    """

    scores: Array
    influence: Array | None
    test_train_ratio: float
    grain: float = 0.0
    span: float = np.inf

    def __post_init__(self) -> None:
        _check("scores", self.scores, "(combinations, repeats, folds, seeds)")
        if self.influence is not None:
            _check("influence", self.influence, "(combinations, repeats, seeds, patients)")
            m, repeats, _, seeds = self.scores.shape
            if self.influence.shape[:3] != (m, repeats, seeds):
                raise ValueError(
                    f"influence has {self.influence.shape[:3]} (combinations, repeats, seeds), "
                    f"but scores have {(m, repeats, seeds)}"
                )
        if not (np.isfinite(self.test_train_ratio) and self.test_train_ratio > 0):
            raise ValueError(f"test_train_ratio is {self.test_train_ratio}; it must be above 0")

    @property
    def combinations(self) -> int:
        """m, the number of combinations."""
        return int(self.scores.shape[0])

    @property
    def repeats(self) -> int:
        """R, the number of repeats, each of which splits the data anew."""
        return int(self.scores.shape[1])

    @property
    def folds(self) -> int:
        """k, the number of folds of one repeat."""
        return int(self.scores.shape[2])

    @property
    def seeds(self) -> int:
        """S, the number of seeds of one fold."""
        return int(self.scores.shape[3])

    @property
    def patients(self) -> int | None:
        """n, the number of patients; None if no influence is known."""
        return None if self.influence is None else int(self.influence.shape[3])

    def of(self, indices: ArrayLike) -> "Evidence":
        """Return the evidence on some combinations, by index, in that order."""
        kept = np.asarray(indices, np.intp)
        influence = None if self.influence is None else self.influence[kept]
        return replace(self, scores=self.scores[kept], influence=influence)

    def averaged(self, groups: Sequence[Sequence[int]]) -> "Evidence":
        """Return one combination per group of indices, the mean of it: the levels of an axis."""

        def means(values: Array) -> Array:
            return np.stack([values[list(group)].mean(axis=0) for group in groups])

        influence = None if self.influence is None else means(self.influence)
        return replace(self, scores=means(self.scores), influence=influence)


def _check(name: str, values: Array, axes: str) -> None:
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}; it must be {axes}, all above 0")
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"{name}: {count} of {values.size} numbers are not finite")

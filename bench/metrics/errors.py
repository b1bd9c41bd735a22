"""The metrics of numbers, predicted (n,) and true (n,). None means undefined."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_absolute(predicted: Floats, true: Floats) -> float | None:
    """Return the mean of |predicted - true|."""
    return float(np.abs(predicted - true).mean()) if len(true) else None


def root_mean_square(predicted: Floats, true: Floats) -> float | None:
    """Return the root of the mean of (predicted - true)^2."""
    return float(np.sqrt(np.square(predicted - true).mean())) if len(true) else None


def determination(predicted: Floats, true: Floats) -> float | None:
    """Return 1 - squared errors / squared distances from the mean of the true numbers."""
    if not _varies(true):
        return None
    spread = np.square(true - true.mean()).sum()
    return float(1 - np.square(predicted - true).sum() / spread)


def correlation(predicted: Floats, true: Floats) -> float | None:
    """Return Pearson's correlation; 0 if all predictions are equal."""
    if not _varies(true):
        return None
    if not _varies(predicted):
        return 0.0
    return float(np.clip(np.corrcoef(predicted, true)[0, 1], -1, 1))


def concordance(predicted: Floats, true: Floats) -> float | None:
    """Return Lin's concordance correlation, with moments over n."""
    if not _varies(true):
        return None
    covariance = ((predicted - predicted.mean()) * (true - true.mean())).mean()
    apart = np.square(predicted.mean() - true.mean())
    return float(2 * covariance / (predicted.var() + true.var() + apart))


def _varies(values: Floats) -> bool:
    return len(values) > 1 and bool((values != values[0]).any())

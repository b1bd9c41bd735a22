"""Real trainings as evidence: three nnU-Nets, ten tasks, five folds, which others published."""

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from results.statistics.evidence import Evidence

FOLDS = 5


def tasks(shared_data: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return task -> ((n,) folds, (3, n) Dice of cases, the mean over regions; both empty is 1)."""
    table = pq.read_table(shared_data / "replays/msd_nnunet/cases.parquet").to_pandas()
    table["dice"] = table["dice"].fillna(1.0)
    found = {}
    for task, rows in table.groupby("task"):
        wide = rows.groupby(["case", "fold", "model"])["dice"].mean().unstack("model")
        assert wide.notna().all(axis=None), "every model scored every case"
        found[str(task)] = (wide.index.get_level_values("fold").to_numpy(), wide.to_numpy().T)
    return found


def evidence(fold: np.ndarray, case: np.ndarray, folds=range(FOLDS)) -> Evidence:
    """Return (m, n) scores of cases as evidence of some of the folds; one repeat, one seed."""
    folds = list(folds)
    scores, parts = [], []
    for j in folds:
        own = case[:, fold == j]
        n_j = own.shape[1]
        mean = own.mean(axis=1, keepdims=True)
        scores.append(mean[:, 0])
        parts.append((own - mean) / (len(folds) * n_j) * np.sqrt(n_j / (n_j - 1)))
    return Evidence(
        scores=np.stack(scores, axis=1)[:, None, :, None],
        influence=np.concatenate(parts, axis=1)[:, None, None, :],
        test_train_ratio=1 / (FOLDS - 1),
    )


def pairs_of(case: np.ndarray):
    """Yield the (2, n) scores of each pair of models."""
    for first, second in combinations(range(len(case)), 2):
        yield case[[first, second]]


def swapped(fold: np.ndarray, pair: np.ndarray):
    """Yield (whether swapped at all, (2, n) scores), the two swapped within some of the folds."""
    for flips in product((False, True), repeat=FOLDS - 1):
        flip = np.array((*flips, False))[fold]
        yield any(flips), np.where(flip, pair[::-1], pair)

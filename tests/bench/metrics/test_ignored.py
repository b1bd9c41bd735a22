"""Voxels that are ignored count in no metric, against scikit-learn and images without them."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from bench.metrics.confusion import confusion

IGNORED = 3
REGIONS = {"one": (1,), "any": (1, 2)}


@pytest.mark.parametrize("seed", range(100))
def test_counts_are_scikit_learns_of_the_voxels_that_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pred, ref = (rng.integers(0, 3, (6, 7), dtype=np.uint8) for _ in range(2))
    ref[rng.random(ref.shape) < rng.choice([0.1, 0.9])] = IGNORED
    kept = ref != IGNORED
    logits = rng.normal(size=(3, 6, 7))
    found = confusion(
        pred, ref, REGIONS, (1.0, 1.0), distances=False, logits=logits, ignored=IGNORED
    )
    for row, labels in zip(found, REGIONS.values(), strict=True):
        truth, said = (np.isin(each[kept], labels) for each in (ref, pred))
        matrix = confusion_matrix(truth, said, labels=[False, True])
        assert [row[name] for name in ("tn", "fp", "fn", "tp")] == matrix.ravel().tolist()
        if row["dice"] is None:
            assert not truth.any()
            assert not said.any()
        else:
            assert row["dice"] == pytest.approx(f1_score(truth, said))
        shares = np.exp(logits) / np.exp(logits).sum(0)
        highest = shares[list(labels)].sum(0)[kept].max(initial=0)
        assert row["prob"] == pytest.approx(highest)


def test_distances_end_where_voxels_are_ignored() -> None:
    """Both maps are background there: what is found in it is no error, however far."""
    ref = np.zeros((9, 9), np.uint8)
    ref[2:5, 2:5] = 1
    ref[6:] = IGNORED
    pred = np.where(ref == 1, 1, 0).astype(np.uint8)
    pred[7:, 7:] = 1
    (row,) = confusion(pred, ref, {"one": (1,)}, (1.0, 1.0), distances=True, ignored=IGNORED)
    assert (row["hd95_mm"], row["assd_mm"], row["nsd_2mm"], row["dice"]) == (0, 0, 1, 1)
    cut = confusion(pred[:6], ref[:6], {"one": (1,)}, (1.0, 1.0), distances=True)[0]
    for name in ("tp", "fp", "fn", "tn", "hd95_mm", "assd_mm", "nsd_2mm"):
        assert row[name] == cut[name]
    whole = np.where(ref == IGNORED, 0, ref).astype(np.uint8)
    (counted,) = confusion(pred, whole, {"one": (1,)}, (1.0, 1.0), distances=True)
    assert counted["hd95_mm"] > 4


def test_of_an_image_of_which_all_is_ignored_nothing_is_known() -> None:
    ref, pred = np.full((4, 4), IGNORED, np.uint8), np.ones((4, 4), np.uint8)
    logits = np.random.default_rng(0).normal(size=(3, 4, 4))
    rows = confusion(pred, ref, REGIONS, (1.0, 1.0), distances=True, logits=logits, ignored=IGNORED)
    for row in rows:
        assert [row[name] for name in ("tp", "fp", "fn", "tn")] == [0, 0, 0, 0]
        assert row["dice"] is None
        assert row["prob"] == 0

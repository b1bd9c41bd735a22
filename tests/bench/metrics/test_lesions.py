"""Lesions, candidates and FROC, against flood fill, MONAI and cases worked by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_froc_curve_data, compute_froc_score
from numpy.typing import NDArray
from skimage.measure import label, regionprops

from bench.metrics.lesions import (
    FROC_RATES,
    SMALL_MM,
    Lesions,
    diameter_mm,
    false_positives,
    find,
    froc,
)
from bench.metrics.lesions import sensitivity as lesion_sensitivity

Mask = NDArray[np.bool_]
Scores = Sequence[float | None]


def drawn(rows: str) -> Mask:
    """Return a mask (Y, X) as drawn, `#` inside."""
    return np.array([[letter == "#" for letter in row] for row in rows.split()])


# ---------------------------------------------------------------- what hits what


def test_a_case_by_hand() -> None:
    # Lesions from the top left: one hit by two candidates, one missed, one hit by a candidate
    # that also touches the next by a corner; that one is hit as well.
    ref = drawn("""
        ###..#.
        ###....
        .......
        #...##.
        .......
        ....#..
    """)
    pred = drawn("""
        #.#....
        #.#....
        .......
        ..#..#.
        .....#.
        #....#.
    """)
    prob = np.full(ref.shape, 0.1)
    prob[0, 0], prob[1, 2], prob[3, 5], prob[4, 5] = 0.6, 0.8, 0.55, 0.95
    prob[3, 2], prob[5, 0] = 0.7, 0.65
    found = find(pred, ref, prob, (1.0, 2.0))
    # In the order of their first voxels: the block, the single one at the top, then row by row.
    assert found.score == [0.8, None, None, 0.95, None]
    assert sorted(found.false_scores) == [0.65, 0.7]
    assert found.diameter_mm == pytest.approx([2 * np.sqrt(n * 2 / np.pi) for n in (6, 1, 1, 2, 1)])


def test_voxels_that_share_a_corner_are_one_lesion() -> None:
    chain = np.zeros((3, 3, 3), dtype=bool)
    chain[[0, 1, 2], [0, 1, 2], [0, 1, 2]] = True
    found = find(chain, chain, np.full(chain.shape, 0.5), (1.0, 1.0, 1.0))
    assert found.score == [0.5]
    assert found.diameter_mm == pytest.approx([(18 / np.pi) ** (1 / 3)])


def test_one_candidate_may_hit_two_lesions() -> None:
    ref, pred = drawn("#.#"), drawn("###")
    found = find(pred, ref, np.array([[0.3, 0.9, 0.4]]), (1.0, 1.0))
    assert found == Lesions(diameter_mm=found.diameter_mm, score=[0.9, 0.9], false_scores=[])


def test_a_candidate_beside_a_lesion_hits_nothing() -> None:
    found = find(drawn(".#"), drawn("#."), np.array([[0.2, 0.9]]), (1.0, 1.0))
    assert (found.score, found.false_scores) == ([None], [0.9])


def test_empty_masks() -> None:
    none, all_ = np.zeros((2, 4, 4), dtype=bool)
    all_[:] = True
    prob = np.full((4, 4), 0.25)
    for pred, ref, score, false in (
        (none, none, [], []),
        (all_, none, [], [0.25]),
        (none, all_, [None], []),
        (all_, all_, [0.25], []),
    ):
        found = find(pred, ref, prob, (1.0, 1.0))
        assert (found.score, found.false_scores) == (score, false)


def one_by_one(pred: Mask, ref: Mask, prob: NDArray[np.float64]) -> tuple[Scores, list[float]]:
    """Return lesion scores and false scores, lesion by lesion, with scikit-image's components."""
    candidates = [
        (set(map(tuple, c.coords)), c.intensity_max)
        for c in regionprops(label(pred, connectivity=pred.ndim), intensity_image=prob)
    ]
    lesions = [set(map(tuple, c.coords)) for c in regionprops(label(ref, connectivity=ref.ndim))]
    scores = [max((s for c, s in candidates if c & lesion), default=None) for lesion in lesions]
    return scores, [s for c, s in candidates if not any(c & lesion for lesion in lesions)]


@pytest.mark.parametrize("shape", [(14, 15), (3, 16, 16), (8, 9, 7)])
def test_1000_random_scans_against_scikit_image(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    missed = false = 0
    for _ in range(334):
        pred, ref = rng.random((2, *shape)) < rng.choice(
            [0.0, 0.02, 0.05, 0.1, 1.0], (2, *[1] * len(shape))
        )
        prob = rng.random(shape)
        found = find(pred, ref, prob, [1.0] * len(shape))
        scores, false_scores = one_by_one(pred, ref, prob)
        # The order of lesions is no part of the promise; None sorts as the least.
        assert sorted(s or 0.0 for s in found.score) == sorted(s or 0.0 for s in scores)
        assert sorted(found.false_scores) == sorted(false_scores)
        missed += found.score.count(None)
        false += len(false_scores)
    assert missed > 100
    assert false > 100


def test_diameters() -> None:
    assert diameter_mm(1, (1.0, 1.0)) == pytest.approx(2 / np.sqrt(np.pi))
    # A ball of radius 5 mm has 523.6 mm3: the limit of what is called small.
    assert diameter_mm(5236, (0.4, 0.5, 0.5)) == pytest.approx(SMALL_MM, abs=1e-3)
    assert diameter_mm(7, (1.0, np.nan)) is None
    with pytest.raises(ValueError, match="needs 2 or 3 axes, not 1"):
        diameter_mm(7, (1.0,))


# ---------------------------------------------------------------- rates of all scans


def test_rates_by_hand() -> None:
    scores: Scores = [0.9, None, 0.4, 0.4]
    assert lesion_sensitivity(scores, [], 5) == 3 / 4
    assert lesion_sensitivity([], [0.5], 5) is None
    assert false_positives(scores, [0.5, 0.6, 0.7], 2) == 1.5
    assert false_positives(scores, [], 2) == 0
    assert false_positives([], [], 0) is None


def test_froc_by_hand() -> None:
    """Ten scans, four lesions, false candidates at 0.8, 0.7, 0.6, 0.6 and 0.5.

    From the highest threshold on, as (false positives a scan, sensitivity):
    0.9 (0, 1/4); 0.8 (0.1, 1/4); 0.75 (0.1, 2/4); 0.7 (0.2, 2/4); 0.6 (0.4, 3/4); 0.5 (0.5, 3/4).
    """
    scores: Scores = [0.9, 0.75, 0.6, None]
    false = [0.8, 0.7, 0.6, 0.6, 0.5]
    at_eighth = 2 / 4  # between (0.1, 2/4) and (0.2, 2/4)
    at_quarter = 2 / 4 + (0.05 / 0.2) / 4  # a quarter of the way from (0.2, 2/4) to (0.4, 3/4)
    expected = (at_eighth + at_quarter + 5 * 3 / 4) / 7
    assert froc(scores, false, 10) == pytest.approx(expected)


def test_froc_at_its_ends() -> None:
    assert froc([0.9, 0.8], [], 3) == 1  # no false positive: every rate has all lesions
    assert froc([None, None], [], 3) == 0
    assert froc([None], [0.9], 3) == 0
    assert froc([], [0.9], 3) is None
    # Every lesion below every false positive, of which there are more than 8 a scan.
    assert froc([0.1], [0.9] * 9, 1) == 0
    # The same in one step with them: on the line from (0, 0) to (9, 1).
    assert froc([0.9], [0.9] * 9, 1) == pytest.approx(np.mean(FROC_RATES) / 9)


def of_monai(scores: Scores, false: list[float], scans: int) -> float:
    """Return MONAI's FROC score of the same candidates.

    Its curve leaves out the lowest threshold, at which all candidates count (`all_probs[1:]`), so
    it drops whatever has the lowest score. One false candidate below all others takes that place:
    at the thresholds that are left it is not counted.
    """
    found = np.array([s for s in scores if s is not None])
    rates, sensitivity = compute_froc_curve_data(
        fp_probs=np.array([*false, -1.0]), tp_probs=found, num_targets=len(scores), num_images=scans
    )
    return float(compute_froc_score(rates, sensitivity, eval_thresholds=FROC_RATES))


def one_threshold_after_another(scores: Scores, false: list[float], scans: int) -> float:
    """Return the FROC score by plain counting, the line between two points worked out."""
    points = [(0.0, 0.0)]
    for threshold in sorted({s for s in [*scores, *false] if s is not None}, reverse=True):
        wrong = sum(s >= threshold for s in false) / scans
        points.append((wrong, sum(s is not None and s >= threshold for s in scores) / len(scores)))
    total = 0.0
    for rate in FROC_RATES:
        before = max(p for p in points if p[0] <= rate)
        after = min((p for p in points if p[0] > rate), default=None)
        share = (rate - before[0]) / (after[0] - before[0]) if after else 0.0
        total += before[1] + share * ((after[1] if after else before[1]) - before[1])
    return total / len(FROC_RATES)


def candidates(seed: int) -> tuple[Scores, list[float], int]:
    rng = np.random.default_rng(seed)
    levels = rng.choice([5, 1000])  # coarse: many candidates of one score
    scores = [
        None if rng.random() < 0.3 else float(rng.integers(1, levels) / levels)
        for _ in range(rng.integers(1, 12))
    ]
    false = (rng.integers(1, levels, rng.integers(0, 60)) / levels).tolist()
    return scores, false, int(rng.integers(1, 9))


def test_1000_random_fold_scores_against_monai_and_plain_counting() -> None:
    for seed in range(1000):
        drawn_ = candidates(seed)
        found = froc(*drawn_)
        assert found == pytest.approx(of_monai(*drawn_)), seed
        assert found == pytest.approx(one_threshold_after_another(*drawn_)), seed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_what_changes_froc_and_what_does_not(seed: int, copies: int) -> None:
    scores, false, scans = candidates(seed)
    plain = froc(scores, false, scans)
    assert plain is not None
    same: dict[str, Any] = {
        "ranks alone count": ([s and s**3 for s in scores], [s**3 for s in false], scans),
        "copies": (list(scores) * copies, false * copies, scans * copies),
        "order": (scores[::-1], false[::-1], scans),
    }
    for why, changed in same.items():
        assert froc(*changed) == pytest.approx(plain), why
    assert froc([*scores, None], false, scans) <= plain + 1e-12
    assert froc(scores, false, scans + 1) >= plain - 1e-12
    hit = lesion_sensitivity(scores, false, scans)
    assert hit is not None
    assert 0 <= plain <= hit + 1e-12

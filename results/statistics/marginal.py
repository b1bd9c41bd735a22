"""Main effects and interactions: an axis of a study compared by means over its other axes."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from results.statistics.evidence import Evidence
from results.statistics.procedure import Comparison, compare
from results.statistics.spread import ROUNDING, case_covariances, evidence_pairs

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MainEffect:
    """The levels of an axis compared by their means over the cells of the other axes.

    `levels` are in the order of `comparison`; `cells` are those that all of them have;
    `left_out_levels` and `left_out_cells` are incomplete.
    """

    levels: tuple[Hashable, ...]
    cells: tuple[Hashable, ...]
    left_out_levels: tuple[Hashable, ...]
    left_out_cells: tuple[Hashable, ...]
    comparison: Comparison


def main_effect(
    evidence: Evidence, levels: Sequence[Hashable], cells: Sequence[Hashable], *, alpha: float
) -> MainEffect | None:
    """Compare the levels of one axis over the complete cells of the other axes.

    `levels` and `cells` name, for each combination, its level and its place on the other axes. If
    no cell has all levels, the levels with the fewest cells are left out first. Returns None if no
    two levels share a cell. Raises ValueError if a level and cell are listed twice.
    """
    table = _table(evidence, levels, cells)
    kept = list(dict.fromkeys(levels))
    every_cell = list(dict.fromkeys(cells))
    while len(kept) >= 2:
        complete = [cell for cell in every_cell if all((level, cell) in table for level in kept)]
        if complete:
            groups = [[table[level, cell] for cell in complete] for level in kept]
            return MainEffect(
                levels=tuple(kept),
                cells=tuple(complete),
                left_out_levels=tuple(v for v in dict.fromkeys(levels) if v not in kept),
                left_out_cells=tuple(v for v in every_cell if v not in complete),
                comparison=compare(evidence.averaged(groups), alpha=alpha),
            )
        held = {level: sum((level, cell) in table for cell in every_cell) for level in kept}
        kept.remove(min(reversed(kept), key=held.__getitem__))
    return None


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """Whether the effect of one axis depends on the level of another.

    `residual`: (levels of a, levels of b), the cell means minus both main effects.
    `f`, `df`, `p_value`: the F statistic, its two degrees of freedom and its p-value.
    """

    levels_a: tuple[Hashable, ...]
    levels_b: tuple[Hashable, ...]
    residual: Array
    f: float
    df: tuple[float, float]
    p_value: float


def interaction(
    evidence: Evidence, axis_a: Sequence[Hashable], axis_b: Sequence[Hashable]
) -> Interaction | None:
    """Test whether two axes interact, over the levels of b that every level of a has.

    F is the sum of squares of the residuals r = H mean, with the centring H over both axes, divided
    by its expectation tr(H V H) without interaction, with the covariance V of means by `compare`.
    Box (1954), "Some theorems on quadratic forms", Annals of Mathematical Statistics 25, gives the
    degrees of freedom of the numerator, Satterthwaite's rule those of the denominator. Returns None
    if fewer than two levels of either axis are left.
    """
    table = _table(evidence, axis_a, axis_b)
    levels_a = tuple(dict.fromkeys(axis_a))
    levels_b = tuple(b for b in dict.fromkeys(axis_b) if all((a, b) in table for a in levels_a))
    if len(levels_a) < 2 or len(levels_b) < 2:
        return None
    part = evidence.of([table[a, b] for a in levels_a for b in levels_b])
    found, spread = evidence_pairs(part)
    centre = np.kron(_centring(len(levels_a)), _centring(len(levels_b)))
    patients = (
        np.zeros_like(centre) if part.influence is None else case_covariances(part.influence)[1]
    )
    covariance = centre @ (patients + np.diag(found.training)) @ centre
    residual = centre @ part.scores.mean(axis=(1, 2, 3))
    # Sums of equal scores leave rounding errors, which are not variance.
    tiny = ROUNDING * float(np.abs(part.scores).max()) ** 2
    expected = float(np.trace(covariance))
    square = float(residual @ residual)
    shape = (len(levels_a), len(levels_b))
    if expected <= tiny:
        df = (float((shape[0] - 1) * (shape[1] - 1)), np.inf)
        f = 0.0 if square <= tiny else np.inf
    else:
        part_of = (
            np.diagonal(centre) * found.training.sum() / max(float(spread.extra.sum()), 1e-300)
        )
        own = float((part_of * spread.own_error).sum())
        shared = float((part_of * spread.typical_error).sum())
        error = shared**2 / ((spread.field - 1) * spread.freedom) + own**2 / spread.freedom
        if part.patients is not None:
            error += float(np.trace(centre @ patients)) ** 2 / max(part.patients - 2, 1)
        # If nothing was estimated (every scatter is 0), the denominator is known.
        known = expected**2 / float(error) if error > 0 else np.inf
        df = (expected**2 / float((covariance**2).sum()), known)
        f = square / expected
    return Interaction(
        levels_a=levels_a,
        levels_b=levels_b,
        residual=residual.reshape(shape),
        f=f,
        df=df,
        p_value=_above(f, *df),
    )


def _above(f: float, first: float, second: float) -> float:
    """Return the probability that F with these degrees of freedom is above `f`."""
    if not 0 < f < np.inf:
        return float(f == 0)
    if np.isinf(second):
        return float(special.chdtrc(first, first * f))
    return float(special.fdtrc(first, second, f))


def _centring(size: int) -> Array:
    return np.eye(size) - 1 / size


def _table(
    evidence: Evidence, first: Sequence[Hashable], second: Sequence[Hashable]
) -> dict[tuple[Hashable, Hashable], int]:
    """Return (level, cell) -> index of the combination."""
    m = evidence.combinations
    if len(first) != m or len(second) != m:
        raise ValueError(f"{m} combinations, but {len(first)} and {len(second)} labels")
    table = {pair: i for i, pair in enumerate(zip(first, second, strict=True))}
    if len(table) < m:
        raise ValueError("two combinations have the same labels")
    return table

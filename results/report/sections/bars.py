"""Intervals against the best as bars on a common scale, and in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results import text

# A scale extends at least this far to either side: ten units of the last digit shown.
_FINEST = 0.01


def bars(rows: Sequence[Mapping[str, Any]], *, grouped: str) -> list[dict[str, Any]]:
    """Return {"bar", "said"} for each of rows with an `advantage`, on a scale in percent.

    `grouped` is the key that says whether a row is in the group that may be the best. An unsteady
    row may have an interval many times as wide as the others, so the scale ends at three times the
    typical reach and what goes beyond is cut. It is no finer than the printed numbers, so that an
    interval that reads 0.000 to 0.000 has no length. A row without an advantage has no bar.
    """
    compared = [row for row in rows if row["advantage"]]
    lows = [-row["advantage"]["low"] for row in compared]
    highs = [row["advantage"]["high"] for row in compared]
    left = min(max(lows, default=0), 3 * float(np.median(lows or [0])) or math.inf)
    right = max(highs, default=0)
    if left + right < 2 * _FINEST:
        # Equals may differ by rounding alone, which would look large if stretched to a whole scale.
        left = right = _FINEST
    span = left + right
    alone = sum(row[grouped] for row in compared) == 1

    def at(value: float) -> float:
        return round(100 * min(max((value + left) / span, 0.0), 1.0), 2)

    found: list[dict[str, Any]] = []
    for row in rows:
        advantage = row["advantage"]
        if not advantage:
            found.append({"bar": None, "said": ""})
            continue
        low, high = at(advantage["low"]), at(advantage["high"])
        bar = {
            "low": low,
            "width": round(high - low, 2),
            "point": at(advantage["estimate"]),
            "zero": at(0.0),
            "cut": advantage["low"] < -left,
        }
        said = text.against_best(advantage, tied=row[grouped], alone=alone)
        found.append({"bar": bar, "said": said})
    return found

"""The axes of a study one by one: each by its means over the others, and how they interact.

A mean over the losses has less noise than a single cell, so it may show the effect of an optimizer
that no single combination shows (from the same training, judged once more). If two axes interact,
the mean over one hides what is best at each of its levels, so that is reported instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations as pairs_of
from math import isfinite

from results import text as words
from results.statistics import marginal
from results.statistics.evidence import Evidence
from results.statistics.procedure import compare
from results.tables.axes import Axis, name_of
from results.verdict.claims import Asked
from results.verdict.combinations import Combination
from results.verdict.schema import Claim, Interaction, Level, Margin, Within


@dataclass(frozen=True, kw_only=True)
class Field:
    """The judged combinations as points of axes, with their evidence (larger is better).

    `sign` is -1 for a metric that is better when smaller; means are shown in the metric's own sign.
    """

    judged: Sequence[Combination]
    evidence: Evidence
    metric: str
    sign: float
    alpha: float
    margin: float

    @property
    def varied(self) -> list[Axis]:
        """Return the axes on which the judged differ."""
        return [axis for axis in self.judged[0].axes if len(set(self.levels(axis))) > 1]

    def levels(self, axis: Axis) -> list[str]:
        """Return the name of each combination's entry on an axis, the plain entry included."""
        return [c.entries[axis.column] or axis.plain or "none" for c in self.judged]

    def cells(self, *axes: Axis) -> list[str]:
        """Return the name of each combination's cell: its entries on the other axes that vary."""
        others = [axis.column for axis in self.varied if axis not in axes]
        return [name_of(c.entries[column] for column in others) for c in self.judged]

    def asked(self, names: Sequence[str], evidence: Evidence) -> Asked:
        """Return the comparison of named means."""
        found = compare(evidence, alpha=self.alpha)
        return Asked(names=names, found=found, metric=self.metric, margin=self.margin)


def margins(field: Field) -> list[Margin]:
    """Return the marginal table of each axis on which the judged differ."""
    return [_margin(field, axis) for axis in field.varied]


def _margin(field: Field, axis: Axis) -> Margin:
    effect = marginal.main_effect(
        field.evidence, field.levels(axis), field.cells(axis), alpha=field.alpha
    )
    if effect is None:
        return {
            "axis": axis.column,
            "levels": [],
            "cells": 0,
            "left_out": [],
            "claim": _no_claim(axis),
        }
    found = effect.comparison
    names = [str(level) for level in effect.levels]
    asked = Asked(names=names, found=found, metric=field.metric, margin=field.margin)
    left_out = [*map(str, effect.left_out_levels), *map(str, effect.left_out_cells)]
    return {
        "axis": axis.column,
        "levels": [
            Level(
                name=names[i],
                mean=field.sign * float(found.mean[i]),
                advantage={
                    "estimate": float(found.estimate[i]),
                    "low": float(found.low[i]),
                    "high": float(found.high[i]),
                },
                in_group=bool(found.group[i]),
            )
            for i in (-found.mean).argsort(kind="stable")
        ],
        "cells": len(effect.cells),
        "left_out": left_out,
        "claim": _claim(field, axis, asked, left_out),
    }


def _no_claim(axis: Axis) -> Claim:
    return {
        "of": axis.column,
        "state": "none",
        "best": None,
        "group": [],
        "lead": None,
        "sentence": f"No two {axis.key} were judged with the same other choices, so their averages "
        "cannot be compared.",
    }


def _claim(field: Field, axis: Axis, asked: Asked, left_out: Sequence[str]) -> Claim:
    others = [other.key for other in field.varied if other is not axis]
    over = f"On average over these {words.listed(others)}" if others else "All else being equal"
    if left_out:
        over += f" (without {words.listed(left_out)}, where results are missing)"
    said = asked.alike(axis.key)
    if asked.state == "better":
        level = words.percent(field.alpha)
        said = (
            f"{asked.best} scores better than {asked.others} (level {level}); it is {asked.ahead}"
        )
    return asked.claim(axis.column, f"{over}, {said}.")


# ---------------------------------------------------------------- interactions


def interactions(field: Field) -> list[Interaction]:
    """Return, for each pair of varied axes, whether what is best on one depends on the other.

    Scores are means over the remaining axes; a pair of axes without common cells has no entry.
    """
    found = []
    for first, second in pairs_of(field.varied, 2):
        # The question is about optimizers: which is best at each level of another axis.
        inner, outer = (first, second) if first.column == "optimizer" else (second, first)
        one = _interaction(field, inner, outer)
        if one is not None:
            found.append(one)
    return found


def _interaction(field: Field, inner: Axis, outer: Axis) -> Interaction | None:
    cells: dict[tuple[str, str], dict[str, int]] = {}
    places = zip(field.levels(inner), field.levels(outer), field.cells(inner, outer), strict=True)
    for i, (a, b, rest) in enumerate(places):
        cells.setdefault((a, b), {})[rest] = i
    common = set.intersection(*(set(own) for own in cells.values()))
    if not common:
        return None
    keys = list(cells)
    evidence = field.evidence.averaged([[cells[key][c] for c in sorted(common)] for key in keys])
    tested = marginal.interaction(evidence, [a for a, _ in keys], [b for _, b in keys])
    if tested is None:
        return None
    real = tested.p_value < field.alpha
    within = [
        _within(field, evidence, keys, str(level), [str(a) for a in tested.levels_a])
        for level in (tested.levels_b if real else ())
    ]
    return {
        "axes": [inner.column, outer.column],
        "f": tested.f if isfinite(tested.f) else None,
        "degrees_of_freedom": [d if isfinite(d) else None for d in tested.df],
        "p_value": tested.p_value,
        "real": real,
        "within": within,
        "sentence": _depends(inner, outer, tested.p_value, within, field.alpha),
    }


def _within(
    field: Field,
    evidence: Evidence,
    keys: Sequence[tuple[str, str]],
    level: str,
    names: Sequence[str],
) -> Within:
    asked = field.asked(names, evidence.of([keys.index((name, level)) for name in names]))
    return {"level": level, "state": asked.state, "best": asked.best, "group": asked.group}


def _depends(
    inner: Axis, outer: Axis, p_value: float, within: Sequence[Within], alpha: float
) -> str:
    p = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    if not within:
        return (
            f"The results do not show that the order of the {inner.key} depends on the "
            f"{outer.column} ({p})."
        )
    said = [
        f"with {each['level']}, {each['best']} scores better than the others"
        if each["state"] == "better"
        else f"with {each['level']}, {len(each['group'])} may be the best"
        for each in within
    ]
    return (
        f"The differences between {inner.key} depend on the {outer.column} ({p}), so their average "
        f"says little: {'; '.join(said)} (each at level {words.percent(alpha)})."
    )

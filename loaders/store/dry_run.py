"""What a store would hold: every case is read and checked, but nothing is written."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cases import BadCase, Kind
from loaders.store.statistics import measure


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Cases, groups, and what a group is; cases by class (with masks: by region) and by part.

    `shape` and `spacing` are the smallest, median and largest along each axis, `spacing` in mm (in
    seconds along time), None if unknown.
    """

    cases: int
    groups: int
    group_source: str
    classes: Mapping[str, int]
    parts: Mapping[str, int]
    shape: list[list[float]]
    spacing: list[list[float] | None]
    rejected: tuple[BadCase, ...]


def count(
    kind: Kind,
    source: Path,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Counted:
    """Read a source as `prepare` does and count; calls `progress(items done, items in total)`.

    Copies of images are not searched for. Raises BadSource.
    """
    survey = kind.survey(source, options)
    meta = survey.meta
    rejected = list(survey.rejected)
    classes = Counter(dict.fromkeys(meta.regions if meta.masked else meta.classes, 0))
    parts: Counter[str] = Counter()
    groups: set[str] = set()
    shapes: list[tuple[int, ...]] = []
    spacings: list[tuple[float, ...]] = []
    for done, item in enumerate(survey.items, start=1):
        try:
            for case in kind.read(item, meta):
                if isinstance(case, BadCase):
                    rejected.append(case)
                    continue
                try:
                    facts = measure(case, meta)
                except BadCase as bad:
                    rejected.append(bad)
                    continue
                groups.add(case.group)
                shapes.append(facts.image.shape[1:])
                spacings.append(case.spacing)
                parts.update([case.split] if case.split else [])
                held = facts.class_counts > 0
                if meta.masked:
                    classes.update(
                        name for name, of in meta.regions.items() if held[list(of)].any()
                    )
                else:
                    classes.update(
                        name for name, one in zip(meta.classes, held, strict=True) if one
                    )
        except BadCase as bad:
            rejected.append(bad)
        if progress:
            progress(done, len(survey.items))
    return Counted(
        cases=len(shapes),
        groups=len(groups),
        group_source=meta.group_source,
        classes=dict(classes),
        parts=dict(sorted(parts.items())),
        shape=[_range(sides) for sides in zip(*shapes, strict=True)],
        spacing=[
            _range(mm) if np.isfinite(mm).all() else None for mm in zip(*spacings, strict=True)
        ],
        rejected=tuple(rejected),
    )


def _range(values: tuple[float, ...]) -> list[float]:
    return [float(np.min(values)), float(np.median(values)), float(np.max(values))]

"""What the answer of a case is: one row a task.

`bench.study.tasks` has how a case is scored, and `results.tables.tasks` what is shown of it, in
rows with the same names.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Answers that are one number for each name in the meta's `classes`.

    - `least`, `most`: the allowed number of names; None: as many as classes.
    - `fault(numbers)`: what is wrong with a case's numbers (k,), where nan is a missing one; None:
      nothing.
    - `held(numbers)`: for which of the names (k,) a case counts.
    """

    least: int
    most: int | None
    fault: Callable[[Floats], str | None]
    held: Callable[[Floats], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The answer of a case as a store keeps it.

    If `masks`, it is a label map of the image's shape, kept as an array beside the image. Otherwise
    the table of cases holds it: as `numbers` says or, if that is None, as the index of a class.
    """

    task: str
    masks: bool
    numbers: Numbers | None = None


def _no_findings(numbers: Floats) -> str | None:
    known = numbers[np.isfinite(numbers)]
    if not np.isin(known, (0, 1)).all():
        strange = known[~np.isin(known, (0, 1))][0]
        return f"a finding is {strange:g}; it must be 0, 1 or missing"
    return None if len(known) else "none of its findings is known"


def _no_number(numbers: Floats) -> str | None:
    return None if np.isfinite(numbers).all() else "its number is missing or infinite"


TARGETS: dict[str, Target] = {
    row.task: row
    for row in (
        Target(task="classification", masks=False),
        Target(task="segmentation", masks=True),
        Target(
            task="multilabel",
            masks=False,
            numbers=Numbers(
                least=2, most=None, fault=_no_findings, held=lambda numbers: numbers == 1
            ),
        ),
        Target(task="ordinal", masks=False),
        Target(
            task="regression",
            masks=False,
            numbers=Numbers(least=1, most=1, fault=_no_number, held=np.isfinite),
        ),
    )
}

"""What the answer of a case is, by task: one row each.

How a case is scored stands in `bench.study.tasks`, what is shown of it in `results.tables.tasks`, a
row each under the same names.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Answers of one number for each name in the meta's `classes`.

    - `least`, `most`: how many names there can be; None: as many as classes.
    - `fault(numbers)`: what is wrong with a case's numbers (k,), nan where one is missing; None:
      nothing.
    - `held(numbers)`: for which of its names (k,) a case counts.
    """

    least: int
    most: int | None
    fault: Callable[[Floats], str | None]
    held: Callable[[Floats], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The answer of a case as a store keeps it.

    `masks`: it is a label map of the image's shape, kept as an array beside the image; else it is
    kept in the table of cases: as `numbers` says, and where that is None as the number of a class.
    """

    task: str
    masks: bool
    numbers: Numbers | None = None


def _no_findings(numbers: Floats) -> str | None:
    known = numbers[np.isfinite(numbers)]
    if not np.isin(known, (0, 1)).all():
        strange = known[~np.isin(known, (0, 1))][0]
        return f"a finding is {strange:g}; it is 0, 1 or missing"
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

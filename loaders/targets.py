"""What the answer of a case is, by task: one row each.

How a case is scored stands in `bench.study.tasks`, what is shown of it in `results.tables.tasks`, a
row each under the same names.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """The answer of a case as a store keeps it.

    `masks`: it is a label map of the image's shape, kept as an array beside the image; else it is
    the number of a class, kept in the table of cases.
    """

    task: str
    masks: bool


TARGETS: dict[str, Target] = {
    row.task: row
    for row in (
        Target(task="classification", masks=False),
        Target(task="segmentation", masks=True),
    )
}

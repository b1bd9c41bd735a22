"""What a task leaves to be shown: one row each.

`loaders.targets` says what a target is and `bench.study.tasks` how a case is scored, in rows of the
same names.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is shown of one task.

    - `arrays`: the arrays in a trial's file of examples, each with the cases as its first axis.
    - `outlined`: examples are slices with outlines of two masks; else pictures with a class.
    - `also_by`: units that metrics are given by besides that of a case, which a published study
      that counts cases or voxels does not have.
    """

    name: str
    arrays: tuple[str, ...]
    outlined: bool
    also_by: frozenset[str]


TASKS: dict[str, Task] = {
    row.name: row
    for row in (
        Task(
            name="classification",
            arrays=("image", "label", "prob", "case_id"),
            outlined=False,
            also_by=frozenset({"patient"}),
        ),
        Task(
            name="segmentation",
            arrays=("image", "reference", "prediction", "case_id"),
            outlined=True,
            also_by=frozenset({"patient", "image", "lesion"}),
        ),
    )
}

"""What results show of a task: one row each.

`loaders.targets` says what a target is and `bench.study.tasks` how a case is scored, in rows with
the same names.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

# What the rows of the table `cases` say about a case: which class is the true one, how well masks
# agree, whether each of several findings is present, or how large a number is. Every view of cases
# has a form for each.
Answer: TypeAlias = Literal["class", "mask", "findings", "number"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is shown of one task.

    - `answer`: the kind of answer, and so what the table `cases` contains.
    - `arrays`: the arrays in a trial's file of examples, each with the cases as its first axis.
    - `also_by`: units of metrics other than the case, which a published study that counts cases or
      voxels does not have.
    - `seconds`: other metrics, which show whether the verdict depends on the metric.
    """

    name: str
    answer: Answer
    arrays: tuple[str, ...]
    also_by: frozenset[str]
    seconds: tuple[str, ...]


TASKS: dict[str, Task] = {
    row.name: row
    for row in (
        Task(
            name="classification",
            answer="class",
            arrays=("image", "label", "prob", "case_id"),
            also_by=frozenset({"patient"}),
            seconds=("auc", "calibration_error", "brier"),
        ),
        Task(
            name="segmentation",
            answer="mask",
            arrays=("image", "reference", "prediction", "case_id"),
            also_by=frozenset({"patient", "image", "lesion"}),
            seconds=("dice", "hd95"),
        ),
        Task(
            name="multilabel",
            answer="findings",
            arrays=("image", "label", "prob", "case_id"),
            also_by=frozenset({"patient"}),
            seconds=("auc", "average_precision", "brier"),
        ),
        Task(
            name="ordinal",
            answer="class",
            arrays=("image", "label", "prob", "case_id"),
            also_by=frozenset({"patient"}),
            seconds=("quadratic_kappa", "accuracy", "balanced_accuracy"),
        ),
        Task(
            name="regression",
            answer="number",
            arrays=("image", "label", "predicted", "case_id"),
            also_by=frozenset({"patient"}),
            seconds=("mae", "rmse", "concordance"),
        ),
    )
}


def answer_of(task: str) -> Answer | None:
    """Return the kind of answer of a task, None for a task of another version."""
    return TASKS[task].answer if task in TASKS else None

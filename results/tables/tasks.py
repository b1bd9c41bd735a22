"""What a task leaves to be shown: one row each.

`loaders.targets` says what a target is and `bench.study.tasks` how a case is scored, in rows of the
same names.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

# What the rows of the table `cases` say of a case: which of its classes is the true one, how far
# masks agree, whether each of several findings is there, how large a number is. Those who show
# cases have a form of each.
Answer: TypeAlias = Literal["class", "mask", "findings", "number"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is shown of one task.

    - `answer`: what an answer is, and so what the table `cases` says of it.
    - `arrays`: the arrays in a trial's file of examples, each with the cases as its first axis.
    - `also_by`: units that metrics are given by besides that of a case, which a published study
      that counts cases or voxels does not have.
    - `seconds`: what else it is judged by, to see whether the verdict hangs on the metric.
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
    """Return what an answer of a task is, None for a task of another version."""
    return TASKS[task].answer if task in TASKS else None

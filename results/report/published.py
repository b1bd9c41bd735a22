"""A published study's numbers, shown beside ours for orientation: other data, another network."""

from collections.abc import Mapping, Sequence
from typing import Any

from results.tables.tasks import TASKS

# Xue, "Optimization of convolutional neural networks for medical images" (paper A): metric ->
# (before, after) its optimization, as fractions, on its data set for that task.
_PAPER = {
    "classification": (
        "LIDC-IDRI",
        {
            "accuracy": (0.896, 0.952),
            "sensitivity": (0.857, 0.935),
            "specificity": (0.910, 0.968),
            "dice": (0.812, 0.894),
        },
    ),
    "segmentation": (
        "BraTS",
        {
            "accuracy": (0.873, 0.941),
            "sensitivity": (0.814, 0.912),
            "specificity": (0.902, 0.956),
            "dice": (0.768, 0.885),
        },
    ),
}


def beside_paper(task: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the paper's numbers beside ours where a metric, over all regions, is one of its four.

    `metrics` are the lines of the page's table of test metrics. None where nothing matches.
    """
    if task not in _PAPER:
        return None
    dataset, numbers = _PAPER[task]
    lines = [
        {**row, "before": numbers[row["metric"]][0], "after": numbers[row["metric"]][1]}
        for row in metrics
        if row["metric"] in numbers
        and row["region"] in ("", "mean")
        and row["unit"] not in TASKS[task].also_by
        and not (row["stratum"] or row["degradation"])
    ]
    return {"dataset": dataset, "lines": lines} if lines else None

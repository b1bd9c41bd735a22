"""A published study's numbers, shown beside ours on the same data: another network, other cases."""

from collections.abc import Mapping, Sequence
from typing import Any

from results.tables.tasks import TASKS

# Xue, "Optimization of convolutional neural networks for medical images" (paper A): metric ->
# (before, after) its optimization, as fractions, on its data set for that task: by task and by the
# kind that a store of that data set has.
_PAPER = {
    ("classification", "lidc"): (
        "LIDC-IDRI",
        {
            "accuracy": (0.896, 0.952),
            "sensitivity": (0.857, 0.935),
            "specificity": (0.910, 0.968),
            "dice": (0.812, 0.894),
        },
    ),
    ("segmentation", "brats"): (
        "BraTS",
        {
            "accuracy": (0.873, 0.941),
            "sensitivity": (0.814, 0.912),
            "specificity": (0.902, 0.956),
            "dice": (0.768, 0.885),
        },
    ),
}


# How the source of a store begins that holds phantoms in the format of a kind.
_PHANTOM = "phantom"


def beside_paper(
    task: str, metrics: Sequence[Mapping[str, Any]], data: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the paper's numbers beside ours where a metric, over all regions, is one of its four.

    `metrics` are the lines of the page's table of test metrics, `data` is what footers say of the
    data set. None where nothing matches, for data of another kind, and for phantoms.
    """
    of = task, data.get("kind", "")
    if of not in _PAPER or data["source"].startswith(_PHANTOM):
        return None
    dataset, numbers = _PAPER[of]
    lines = [
        {**row, "before": numbers[row["metric"]][0], "after": numbers[row["metric"]][1]}
        for row in metrics
        if row["metric"] in numbers
        and row["region"] in ("", "mean")
        and row["unit"] not in TASKS[task].also_by
        and not (row["stratum"] or row["degradation"])
    ]
    return {"dataset": dataset, "lines": lines} if lines else None

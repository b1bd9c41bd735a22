"""The numbers that a published study reports, and its definitions as far as it gives any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Published:
    """One data set of a published study.

    `figures`: metric -> (before, after) its optimization, as fractions. `names`: our metric -> the
    metric of the paper that it is compared with. `differ`: sentences on how definitions differ.
    `flows`: its two recipes, step by step.
    """

    dataset: str
    figures: Mapping[str, tuple[float, float]]
    names: Mapping[str, str]
    differ: Sequence[str]
    flows: Mapping[str, Sequence[str]]


_NAMES = {name: name for name in ("accuracy", "sensitivity", "specificity", "dice")}
_ANY = (
    "The paper does not say which cases were chosen or which patients were tested.",
    "Xue gives no intervals, and no spread over the five folds.",
)


def _flows(data: str) -> dict[str, tuple[str, ...]]:
    rest = ("Adam, rate 0.001, batch 32", "stop after 10 epochs without a lower loss", "5 folds")
    return {
        "before": (data, "512 × 512", "plain CNN", "cross-entropy", *rest),
        "after": (
            data,
            "512 × 512, intensities 0 to 1",
            "rotation, scaling, translation, flips",
            "residual or dense network",
            "Dice and Focal loss",
            *rest,
        ),
    }


# Xue, "Optimization of convolutional neural networks for medical images" (paper A), by task and by
# the kind of a store of that data set.
_PAPER = {
    ("classification", "lidc"): Published(
        dataset="LIDC-IDRI",
        figures={
            "accuracy": (0.896, 0.952),
            "sensitivity": (0.857, 0.935),
            "specificity": (0.910, 0.968),
            "dice": (0.812, 0.894),
        },
        # F1 is Dice's formula, over cases.
        names={**_NAMES, "f1": "dice"},
        differ=(
            "Xue does not say whether images or nodules are counted; here it is cases.",
            "The paper does not define Dice for detection; here it is F1, its formula over cases.",
            *_ANY,
        ),
        flows=_flows("LIDC-IDRI, CT slices"),
    ),
    ("segmentation", "brats"): Published(
        dataset="BraTS",
        figures={
            "accuracy": (0.873, 0.941),
            "sensitivity": (0.814, 0.912),
            "specificity": (0.902, 0.956),
            "dice": (0.768, 0.885),
        },
        names=_NAMES,
        differ=(
            "Xue does not name the region; here each value is the mean over the regions of BraTS.",
            "Accuracy and specificity here count voxels, nearly all of which are easy background.",
            "The paper uses slices of 512 × 512; here they are volumes.",
            *_ANY,
        ),
        flows=_flows("BraTS, MRI slices of four channels"),
    ),
}


# The start of the source of a store that holds phantoms in the format of a kind.
_PHANTOM = "phantom"


def published(task: str, data: Mapping[str, Any]) -> Published | None:
    """Return what was published on a data set; None for another kind, and for phantoms.

    `data` is the description of the data set in the footers.
    """
    if not data or data.get("source", "").startswith(_PHANTOM):
        return None
    return _PAPER.get((task, data.get("kind", "")))

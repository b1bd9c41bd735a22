"""A published study's numbers: what it reports, by its own definitions as far as it gives any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Published:
    """One data set of a published study.

    `figures`: metric -> (before, after) its optimization, as fractions. `names`: our metric -> the
    one of the paper that it is set beside. `differ`: sentences on where definitions differ.
    `flows`: its two recipes, step by step.
    """

    dataset: str
    figures: Mapping[str, tuple[float, float]]
    names: Mapping[str, str]
    differ: Sequence[str]
    flows: Mapping[str, Sequence[str]]


_NAMES = {name: name for name in ("accuracy", "sensitivity", "specificity", "dice")}
_ANY = (
    "Which cases were chosen, and which patients were tested, is not published.",
    "Xue gives no interval, and no spread over its five folds.",
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


# Xue, "Optimization of convolutional neural networks for medical images" (paper A): by task and by
# the kind that a store of that data set has.
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
            "Xue does not say what is counted, images or nodules; here it is cases.",
            "Dice of a detection is not defined there; here F1, its formula over cases, is it.",
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
            "Xue names no region; here each value is the mean over the regions of BraTS.",
            "Accuracy and specificity here count voxels, nearly all of them easy background.",
            "Slices of 512 × 512 there, volumes here.",
            *_ANY,
        ),
        flows=_flows("BraTS, MRI slices of four channels"),
    ),
}


# How the source of a store begins that holds phantoms in the format of a kind.
_PHANTOM = "phantom"


def published(task: str, data: Mapping[str, Any]) -> Published | None:
    """Return what was published of a data set; None for another kind, and for phantoms.

    `data` is what footers say of the data set.
    """
    if not data or data.get("source", "").startswith(_PHANTOM):
        return None
    return _PAPER.get((task, data.get("kind", "")))

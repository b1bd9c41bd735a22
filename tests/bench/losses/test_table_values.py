"""Each formula of the table of losses against hand-worked values, plain definitions and libraries.

Where a library's convention differs from ours, the test says how.
"""

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses.aucm_loss import AUCMLoss
from monai.losses.cldice import SoftclDiceLoss, SoftDiceclDiceLoss
from monai.losses.dice import DiceCELoss, DiceLoss, GeneralizedDiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.hausdorff_loss import HausdorffDTLoss
from monai.losses.unified_focal_loss import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.losses.shapes.tubes import tubes
from bench.losses.table import LOSSES, alone

Array = NDArray[np.float64]


def draw(
    spatial: tuple[int, ...], *, n: int = 6, classes: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, *spatial, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (n, *spatial), generator=generator)
    return logits, target


def values(name: str, logits: Tensor, target: Tensor, **given: float) -> Tensor:
    row = LOSSES[name]
    class_weights = torch.linspace(0.5, 2.0, logits.shape[1]) if row.weighted else None
    return row.bind(given)(logits, target, class_weights, alone)


# ---------------------------------------------------------------- worked by hand

# Foreground probabilities and reference of one 2 x 2 image:
#   p = .9 .2   g = 1 0      p of the true class = .9 .8
#       .6 .1       0 1                            .4 .1
# -log p of the true class is .105361 .223144 .916291 2.302585, of the other one 2.302585 1.609438
# .510826 .105361. Foreground: tp = sum p g = 1, sum p = 1.8, sum p^2 = 1.22, sum g = 2, so
# fp = .8 and fn = 1. Background: tp = 1.2, fp = 1, fn = .8.
FOREGROUND = torch.tensor([[0.9, 0.2], [0.6, 0.1]], dtype=torch.float64)
IMAGE = torch.stack([1 - FOREGROUND, FOREGROUND])[None].log()
MASK = torch.tensor([[[1, 0], [0, 1]]])
CE = (0.105361 + 0.223144 + 0.916291 + 2.302585) / 4
OTHER = (2.302585 + 1.609438 + 0.510826 + 0.105361) / 4
FOCAL = (0.01 * 0.105361 + 0.04 * 0.223144 + 0.36 * 0.916291 + 0.81 * 2.302585) / 4
DICE = 1 - 2 * 1 / (1.8 + 2)
# fn weighs .6 and fp .4; the square root of the foreground's, for gamma = .5
UNIFIED_TVERSKY = (0.88 / (1.2 + 0.88) + math.sqrt(0.92 / (1 + 0.92))) / 2
UNIFIED_FOCAL = (
    0.6 * (0.105361 + 2.302585) + 0.4 * (math.sqrt(0.2) * 0.223144 + math.sqrt(0.6) * 0.916291)
) / 4
# Soft skeletons: the prediction's is .73 0 .4 0 (.9 - .2, .6 - .2, and .1 of what is left of the
# first after an erosion), the reference's is itself, so t = (.73 + 1) / (1.13 + 1) and
# s = (1 + 1) / (2 + 1), smoothed by 1; Dice is 1 - (2 + 1) / (1.8 + 2 + 1).
WITHIN, FOUND = 1.73 / 2.13, 2 / 3
CLDICE = (1 - 3 / 4.8) / 2 + (1 - 2 * WITHIN * FOUND / (WITHIN + FOUND)) / 2
BY_HAND_2X2 = {
    "ce": CE,
    "poly_ce": CE + (0.1 + 0.2 + 0.6 + 0.9) / 4,
    "mbls": CE,  # no logits are 10 apart
    "cldice": CLDICE,
    # The skeleton is the mask, and all lies within two voxels of it.
    "skeleton_recall": DICE + CE + 1 - 1 / 2,
    # background weighs 0.5, foreground 2
    "weighted_ce": (2 * 0.105361 + 0.5 * 0.223144 + 0.5 * 0.916291 + 2 * 2.302585) / 4,
    "ce_smooth": 0.95 * CE + 0.05 * OTHER,
    "focal": FOCAL,
    "weighted_focal": (
        2 * 0.01 * 0.105361 + 0.5 * 0.04 * 0.223144 + 0.5 * 0.36 * 0.916291 + 2 * 0.81 * 2.302585
    )
    / 4,
    "gce": (4 - 0.9**0.7 - 0.8**0.7 - 0.4**0.7 - 0.1**0.7) / 4 / 0.7,
    "topk_ce": 2.302585,  # a tenth of four voxels: one
    "dice": DICE,
    "dice_squared": 1 - 2 * 1 / (1.22 + 2),
    "dice_batch": DICE,
    "generalized_dice": 1 - 2 * (1.2 + 1) / (2.2 + 2 + 1.8 + 2),  # both classes have 2 voxels
    "jaccard": 1 - 1 / (1.8 + 2 - 1),
    # Errors from the largest: .9 .6 .2 .1 where g = 1 0 0 1. With the first i wrong the Jaccard
    # loss is 1 - 1/2, 1 - 1/3, 1 - 1/4, 1 - 0/4.
    "lovasz": 0.9 / 2 + 0.6 * (1 / 2 - 1 / 3) + 0.2 * (1 / 3 - 1 / 4) + 0.1 / 4,
    "tversky": 1 - 1 / (1 + 0.3 * 0.8 + 0.7 * 1),
    "focal_tversky": (1 - 1 / (1 + 0.3 * 0.8 + 0.7 * 1)) ** 0.75,
    "log_cosh_dice": math.log(math.cosh(DICE)),
    "dice_ce": DICE + CE,
    "dice_ce_batch": DICE + CE,
    "dice_focal": DICE + FOCAL,
    "dice_topk": DICE + 2.302585,
    "unified_focal": (UNIFIED_TVERSKY + UNIFIED_FOCAL) / 2,
    # Every voxel lies 1 from the other side, of the reference and of the prediction cut at 1/2,
    # so the sum of the squared distances is 2; the errors are .1 .2 .6 .9.
    "hausdorff": DICE + math.log(1 + 2 * (0.01 + 0.04 + 0.36 + 0.81) / 4),
    # The distance is 0 in the voxels of the reference (each is border) and 1 in the others.
    "boundary": DICE + 0.01 * (0.2 + 0.6) / 4,
}


def test_every_row_is_worked_by_hand() -> None:
    assert set(BY_HAND_2X2) == {n for n, row in LOSSES.items() if "segmentation" in row.tasks}
    assert set(BY_HAND_VECTOR) == {n for n, row in LOSSES.items() if "classification" in row.tasks}


@pytest.mark.parametrize("name", BY_HAND_2X2)
def test_2x2_mask_by_hand(name: str) -> None:
    value = values(name, IMAGE, MASK)
    torch.testing.assert_close(value.item(), BY_HAND_2X2[name], rtol=0, atol=1e-5)


# Three classes with probabilities .7 .2 .1, the second is true: -log p = .356675 1.609438 2.302585,
# sum p^2 = .54, sum g^2 = 1. The weights are .5 1.25 2.
# The classes' effective numbers, of so many cases, are N; the weights have a mean of 1.
N = [(1 - 0.9999**n) / (1 - 0.9999) for n in (0.5, 1.25, 2)]
BY_HAND_VECTOR = {
    "ce": 1.609438,
    "class_balanced": 3 / N[1] / (1 / N[0] + 1 / N[1] + 1 / N[2]) * 1.609438,
    "poly_ce": 1.609438 + 0.8,
    "mbls": 1.609438,
    # g is .1/3 .9 + .1/3 .1/3; the others weigh .7^4 and .1^4
    "asymmetric_ce": (0.9 + 0.1 / 3) * 1.609438 + 0.1 / 3 * (0.2401 * 0.356675 + 0.0001 * 2.302585),
    "auc_margin": 0.0,  # nothing to rank a single case against
    "weighted_ce": 1.25 * 1.609438,
    "ce_smooth": 0.9 * 1.609438 + 0.1 / 3 * (0.356675 + 1.609438 + 2.302585),
    "focal": 0.64 * 1.609438,
    "weighted_focal": 1.25 * 0.64 * 1.609438,
    "gce": (1 - 0.2**0.7) / 0.7,
    "dice": 1 - 2 * 0.2 / (1 + 1),
    "dice_squared": 1 - 2 * 0.2 / (0.54 + 1),
    "jaccard": 1 - 0.2 / (1 + 1 - 0.2),
    "dice_ce": 1 - 2 * 0.2 / (1 + 1) + 1.609438,
    "dice_focal": 1 - 2 * 0.2 / (1 + 1) + 0.64 * 1.609438,
}


@pytest.mark.parametrize("name", BY_HAND_VECTOR)
def test_class_vector_by_hand(name: str) -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
    value = values(name, logits, torch.tensor([1]))
    torch.testing.assert_close(value.item(), BY_HAND_VECTOR[name], rtol=0, atol=1e-5)


def test_dice_of_a_batch_by_hand() -> None:
    # Beside the image above one without foreground, p = .5 everywhere: the batch has sum p g = 1,
    # sum p = 1.8 + 2, sum g = 2; its samples by themselves would cost 1 on the empty one.
    logits = torch.cat([IMAGE, torch.zeros(1, 2, 2, 2, dtype=torch.float64)])
    target = torch.cat([MASK, torch.zeros(1, 2, 2, dtype=torch.int64)])
    whole = 1 - 2 * 1 / (3.8 + 2)
    torch.testing.assert_close(
        values("dice_batch", logits, target).tolist(), [whole, whole], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        values("dice_ce_batch", logits, target).tolist(),
        [whole + CE, whole + math.log(2)],
        rtol=0,
        atol=1e-5,
    )
    torch.testing.assert_close(
        values("dice", logits, target).tolist(), [DICE, 1.0], rtol=0, atol=1e-5
    )


def test_logits_beyond_a_margin_by_hand() -> None:
    # They lie 0, log 3.5 and log 7 below the greatest, so the margin of 1 is passed by .252763 and
    # .945910.
    logits = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
    value = values("mbls", logits, torch.tensor([1]), weight=2.0, margin=1.0)
    assert value.item() == pytest.approx(1.609438 + 2 * (0.252763 + 0.945910) / 3, abs=1e-5)


def test_classes_are_weighted_by_their_effective_numbers() -> None:
    # Cui et al. 2019, equation 2: of 1, 10 and 1000 cases at beta = .9, (1 - .9^n) / (1 - .9).
    effective = np.array([1, 6.5132156, 10])
    logits = torch.zeros(3, 3, dtype=torch.float64)
    counts = torch.tensor([1.0, 10.0, 1000.0])
    found = LOSSES["class_balanced"].bind({"beta": 0.9})(logits, torch.arange(3), counts, alone)
    wanted = math.log(3) * (1 / effective) * 3 / (1 / effective).sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # From beta = 0, where all weigh the same, to 1, where they do inversely to their numbers.
    for beta, weights in ((0.0, np.ones(3)), (1 - 1e-7, 3 / counts.numpy() / (1.101))):
        found = LOSSES["class_balanced"].bind({"beta": beta})(
            logits, torch.arange(3), counts.double(), alone
        )
        np.testing.assert_allclose(found, math.log(3) * weights, rtol=1e-3)


def test_ranking_of_four_cases_by_hand() -> None:
    # Of two classes each sees the same: p = .8 and .6 where it is the answer, .7 and .1 where it is
    # not, so variances of .01 and .09, and the means .7 and .4 are .3 apart where 1 is wanted.
    p = torch.tensor([0.8, 0.6, 0.7, 0.1], dtype=torch.float64)
    logits = torch.stack([1 - p, p], 1).log()
    value = values("auc_margin", logits, torch.tensor([1, 1, 0, 0]))
    torch.testing.assert_close(value, torch.full((4,), 0.01 + 0.09 + 0.7**2).double())
    # Where all rank right by the margin there is nothing but the spread.
    value = values("auc_margin", logits, torch.tensor([1, 1, 0, 0]), margin=0.25)
    torch.testing.assert_close(value, torch.full((4,), 0.1).double())


@pytest.mark.parametrize("name", ["dice", "dice_squared", "dice_batch", "jaccard", "lovasz"])
def test_overlap_of_an_absent_class(name: str) -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    sure = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    sure[:, 0] = 40.0  # foreground probability e^-40
    assert values(name, sure, target).item() == pytest.approx(0, abs=1e-9)
    assert values(name, -sure, target).item() == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------- plain definitions


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=0))
    shares: Array = powers / powers.sum(axis=0)
    return shares


def squared_dice(p: Array, g: Array) -> float:
    return float(1 - 2 * (p * g).sum() / ((p**2).sum() + (g**2).sum()))


def linear_dice(p: Array, g: Array) -> float:
    return float(1 - 2 * (p * g).sum() / (p.sum() + g.sum()))


def jaccard(p: Array, g: Array) -> float:
    return float(1 - (p * g).sum() / (p + g - p * g).sum())


def tversky(p: Array, g: Array) -> float:
    tp, fp, fn = (p * g).sum(), (p * (1 - g)).sum(), ((1 - p) * g).sum()
    return float(1 - tp / (tp + 0.3 * fp + 0.7 * fn))


def lovasz(p: Array, g: Array) -> float:
    """Take the voxels one by one from the largest error down, as sets of indices."""
    error = np.abs(g - p).ravel()
    reference = set(np.flatnonzero(g.ravel()))
    order = [int(i) for i in np.argsort(-error)]

    def loss(wrong: set[int]) -> float:
        predicted = reference ^ wrong
        return 1 - len(reference & predicted) / len(reference | predicted)

    steps = pairwise([0.0, *(loss(set(order[: i + 1])) for i in range(len(order)))])
    return float(sum(error[i] * (b - a) for i, (a, b) in zip(order, steps, strict=True)))


def borders(mask: Array, spacing: tuple[float, ...] | None = None) -> Array:
    """Measure how far each voxel is from the nearest on the other side, pair by pair."""
    places = np.array(list(product(*map(range, mask.shape))), float) * (spacing or 1)
    flat = mask.ravel() > 0.5
    if flat.all() or not flat.any():
        return np.zeros(mask.shape)
    far = np.sqrt(((places[:, None] - places[None]) ** 2).sum(2))
    nearest: Array = np.where(flat[:, None] != flat[None], far, np.inf).min(1)
    return nearest.reshape(mask.shape)


def hausdorff(p: Array, g: Array) -> float:
    return linear_dice(p, g) + math.log(
        1 + ((p - g) ** 2 * (borders(p) ** 2 + borders(g) ** 2)).mean()
    )


def boundary(p: Array, g: Array) -> float:
    phi = np.where(g > 0.5, 1 - borders(g), borders(g))
    return float(linear_dice(p, g) + 0.01 * (p * phi).mean())


PLAIN: dict[str, Callable[[Array, Array], float]] = {
    "dice": linear_dice,
    "dice_squared": squared_dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": lambda p, g: tversky(p, g) ** 0.75,
    "lovasz": lovasz,
    "hausdorff": hausdorff,
    "boundary": boundary,
}


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4), volume=st.booleans())
def test_mean_over_the_foreground_of_the_plain_definition(
    name: str, seed: int, classes: int, volume: bool
) -> None:
    # dice_squared is the formula of paper A. The definitions have no smoothing term, which moves
    # the value by 1e-5 / (sums of about 1).
    logits, target = draw((3, 4, 5) if volume else (4, 5), n=2, classes=classes, seed=seed)
    logits = 3 * logits  # some voxels predicted as each class
    costs = values(name, logits, target)
    for cost, sample, truth in zip(costs, logits.numpy(), target.numpy(), strict=True):
        p = softmax(sample)
        each = [PLAIN[name](p[k], (truth == k).astype(float)) for k in range(1, classes)]
        assert cost.item() == pytest.approx(np.mean(each), abs=2e-5)


def test_lovasz_of_a_hard_mask_is_its_jaccard_loss() -> None:
    logits, target = draw((6, 5))
    hard = 100 * F.one_hot(logits.argmax(1), 3).movedim(-1, 1).double()
    torch.testing.assert_close(
        values("lovasz", hard, target), values("jaccard", hard, target), rtol=0, atol=1e-5
    )


# ---------------------------------------------------------------- settings at their ends

SAME = [
    ("focal", {"gamma": 0.0}, "ce", {}),
    ("weighted_focal", {"gamma": 0.0}, "weighted_ce", {}),
    ("ce", {"label_smoothing": 0.1}, "ce_smooth", {}),
    ("gce", {"q": 1e-3}, "ce", {}),
    ("topk_ce", {"share": 1.0}, "ce", {}),
    ("dice_topk", {"share": 1.0, "label_smoothing": 0.1}, "dice_ce", {"label_smoothing": 0.1}),
    ("dice_focal", {"gamma": 0.0}, "dice_ce", {}),
    ("tversky", {"alpha": 0.5, "beta": 0.5}, "dice", {}),
    ("tversky", {"alpha": 1.0, "beta": 1.0}, "jaccard", {}),
    ("focal_tversky", {"exponent": 1.0}, "tversky", {}),
    ("hausdorff", {"weight": 0.0}, "dice", {}),
    ("poly_ce", {"epsilon": 0.0}, "ce", {}),
    ("mbls", {"weight": 0.0}, "ce", {}),
    ("cldice", {"alpha": 0.0, "smooth": 1e-5}, "dice", {}),
    ("skeleton_recall", {"weight": 0.0}, "dice_ce", {}),
    ("boundary", {"weight": 0.0}, "dice", {}),
]


@pytest.mark.parametrize(("name", "given", "other", "others"), SAME)
def test_settings_that_make_two_rows_one(
    name: str, given: dict[str, float], other: str, others: dict[str, float]
) -> None:
    logits, target = draw((6, 5))
    torch.testing.assert_close(
        values(name, logits, target, **given),
        values(other, logits, target, **others),
        rtol=3e-3 if name == "gce" else 1e-5,  # gce: cross-entropy in the limit of q to 0
        atol=1e-5,
    )


# ---------------------------------------------------------------- libraries


@pytest.mark.parametrize("spatial", [(), (6, 5), (4, 3, 5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_against_torch(spatial: tuple[int, ...], smoothing: float) -> None:
    logits, target = draw(spatial)
    torch.testing.assert_close(
        values("ce", logits, target, label_smoothing=smoothing).mean(),
        F.cross_entropy(logits, target, label_smoothing=smoothing),
    )
    # torch divides by the sum of the weights, this table by the number of voxels
    class_weights = torch.linspace(0.5, 2.0, 3).double()
    of_torch = F.cross_entropy(logits, target, weight=class_weights, label_smoothing=smoothing)
    torch.testing.assert_close(
        values("weighted_ce", logits, target, label_smoothing=smoothing).mean(),
        of_torch * class_weights[target].mean(),
    )


def of_classes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities and reference, both (N, C, ...)."""
    p = torch.softmax(logits, 1)
    return p, F.one_hot(target, p.shape[1]).movedim(-1, 1).to(p)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_against_monai(spatial: tuple[int, ...]) -> None:
    logits, target = draw(spatial)
    ours: dict[str, Any] = {"softmax": True, "to_onehot_y": True, "include_background": False}
    theirs = {
        "dice": DiceLoss(**ours)(logits, target[:, None]),
        "dice_squared": DiceLoss(**ours, squared_pred=True)(logits, target[:, None]),
        "dice_batch": DiceLoss(**ours, batch=True)(logits, target[:, None]),
        "dice_ce": DiceCELoss(**ours)(logits, target[:, None]),
        "dice_ce_batch": DiceCELoss(**ours, batch=True)(logits, target[:, None]),
        # MONAI averages over the classes too, of which all but the true one give 0; in float32.
        "focal": 3 * FocalLoss(use_softmax=True, to_onehot_y=True)(logits, target[:, None]),
        # MONAI's DiceFocalLoss is of sigmoids even where Dice is of softmax: its parts, then.
        "dice_focal": DiceLoss(**ours)(logits, target[:, None])
        + 3 * FocalLoss(use_softmax=True, to_onehot_y=True)(logits, target[:, None]),
    }
    for name, value in theirs.items():
        torch.testing.assert_close(
            values(name, logits, target).mean(), value.double(), rtol=1e-6, atol=1e-6
        )


def test_generalized_dice_against_monai() -> None:
    # Without smoothing the scale of the class weights cancels.
    logits, target = draw((6, 5))
    target[:3][target[:3] == 2] = 0  # a class absent
    monai = GeneralizedDiceLoss(reduction="none", smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(
        values("generalized_dice", logits, target, smooth=1e-12),
        monai(*of_classes(logits, target)).flatten(),
        rtol=1e-6,
        atol=1e-9,
    )


def test_generalized_dice_of_large_images_still_costs() -> None:
    # All of the image taken for the class that it has not. MONAI's smoothing hides more than half.
    target = torch.zeros(1, 512, 512, dtype=torch.int64)
    logits = torch.zeros(1, 2, 512, 512)
    logits[:, 1] = 20
    assert values("generalized_dice", logits, target).item() == pytest.approx(1, abs=1e-4)
    assert GeneralizedDiceLoss()(*of_classes(logits, target)).item() < 0.45


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("gamma", [0.2, 0.5])
def test_unified_focal_against_monai(spatial: tuple[int, ...], gamma: float) -> None:
    # MONAI has two classes and takes probabilities. Its Focal part is averaged over the classes as
    # well as the voxels, which halves it beside the paper's and the authors'; so part by part.
    logits, target = draw(spatial, classes=2)
    p, g = of_classes(logits, target)
    given: dict[str, Any] = {"delta": 0.7, "gamma": gamma}
    torch.testing.assert_close(
        values("unified_focal", logits, target, balance=1.0, **given).mean(),
        2 * AsymmetricFocalLoss(**given)(p, g),
        rtol=1e-5,
        atol=1e-6,
    )
    torch.testing.assert_close(
        values("unified_focal", logits, target, balance=0.0, **given).mean(),
        AsymmetricFocalTverskyLoss(**given)(p, g),
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_gradient_of_batch_dice_against_monai() -> None:
    logits, target = draw((6, 5))
    logits.requires_grad_()
    monai = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    (ours,) = torch.autograd.grad(values("dice_batch", logits, target).mean(), logits)
    (theirs,) = torch.autograd.grad(monai(logits, target[:, None]), logits)
    torch.testing.assert_close(ours, theirs)


def test_monais_squared_dice_has_no_curvature_where_it_is_sure() -> None:
    # Why ours is not MONAI's: an optimizer that differentiates twice would diverge at once.
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 1e4
    curves = []
    for loss in (
        lambda x: values("dice_squared", x, target).mean(),
        lambda x: DiceLoss(include_background=False, squared_pred=True)(*of_classes(x, target)),
    ):
        x = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x), x, create_graph=True)
        curves.append(torch.autograd.grad(slope.sum(), x)[0])
    assert curves[0].isfinite().all()
    assert curves[1].isnan().any()


@pytest.mark.parametrize("spatial", [(12, 10), (7, 8, 9)])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_cldice_against_monai(spatial: tuple[int, ...], iterations: int) -> None:
    # MONAI's sums run over the classes as well as the voxels: of one class they are ours. Its
    # harmonic mean is smoothed once more, by 1e-4 unless told otherwise.
    logits, target = draw(spatial, classes=2)
    p, g = (part[:, 1:] for part in of_classes(3 * logits, target))
    given: dict[str, Any] = {"iter_": iterations, "smooth": 1e-12}
    for alpha, monai in (
        (1.0, SoftclDiceLoss(**given)),
        (0.3, SoftDiceclDiceLoss(**given, alpha=0.3)),
    ):
        torch.testing.assert_close(
            values("cldice", 3 * logits, target, alpha=alpha, iterations=iterations),
            torch.stack([monai(p[[n]], g[[n]]) for n in range(len(logits))]),
        )


def test_a_broken_vessel_costs_more_than_a_thin_one() -> None:
    # A line of three voxels' width: one prediction breaks it, one loses as many voxels at its rim.
    mask = torch.zeros(1, 21, 21, dtype=torch.int64)
    mask[:, 9:12, 2:19] = 1
    broken, thin = mask.clone(), mask.clone()
    broken[:, :, 9:12] = 0
    thin[:, 9, 2:11] = 0
    costs = {
        name: [
            values(name, 20 * F.one_hot(found, 2).movedim(-1, 1).double(), mask).item()
            for found in (broken, thin)
        ]
        for name in ("dice", "cldice", "skeleton_recall")
    }
    assert costs["dice"][0] == pytest.approx(costs["dice"][1], abs=1e-3)
    assert costs["cldice"][0] > 2 * costs["cldice"][1]


def test_tubes_of_a_line_and_of_a_square() -> None:
    # The skeleton of a line is itself; along it lies what is two steps off or less.
    line = torch.zeros(1, 9, 9, dtype=torch.uint8)
    line[0, 4, 2:7] = 2
    (found,) = tubes(line, classes=3)
    places = np.argwhere(line[0].numpy())
    steps = np.abs(np.argwhere(np.ones((9, 9)))[:, None] - places[None]).sum(2).min(1)
    np.testing.assert_array_equal(found, (steps <= 2).reshape(9, 9))
    # In three dimensions as in two, and nothing of nothing.
    (found,) = tubes(line[:, None].expand(1, 5, 9, 9) * torch.eye(5)[2][:, None, None], classes=3)
    assert found.sum() == (steps <= 2).sum() + 2 * (steps <= 1).sum() + 2 * (steps <= 0).sum()
    assert tubes(0 * line, classes=3).sum() == 0


def test_skeleton_recall_counts_each_class_along_the_common_skeleton() -> None:
    # Half of one line is class 1, the other half class 2; all is called class 1.
    target = torch.zeros(1, 7, 8, dtype=torch.int64)
    target[0, 3, :4], target[0, 3, 4:] = 1, 2
    logits = torch.zeros(1, 3, 7, 8, dtype=torch.float64)
    logits[:, 1] = 40
    recall = values("skeleton_recall", logits, target) - values("dice_ce", logits, target)
    assert recall.item() == pytest.approx((0 + 1) / 2, abs=1e-5)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("seed", range(5))
def test_auc_margin_against_monai_at_the_optimum_of_its_variables(version: str, seed: int) -> None:
    # LibAUC's loss by MONAI, of one finding, with a, b and alpha where they are best for the batch;
    # version 1 is by shares of the classes, and so p (1 - p) as large.
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(40, 1, generator=generator) < 0.3).double()
    p = torch.sigmoid(logits)
    a, b = p[target == 1].mean().item(), p[target == 0].mean().item()
    monai = AUCMLoss(version=version)
    for name, value in (("a", a), ("b", b), ("alpha", max(0.0, 1 + b - a))):
        with torch.no_grad():
            getattr(monai, name).fill_(value)
    share = target.mean().item()
    theirs = monai(p, target) / (share * (1 - share) if version == "v1" else 1)
    ours = values("auc_margin", logits, target)
    torch.testing.assert_close(ours.mean(), theirs.double(), rtol=1e-5, atol=1e-6)
    # At the optimum nothing hangs on the variables, so the gradients agree too.
    (slope,) = torch.autograd.grad(ours.mean(), logits)
    (other,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(slope, other, rtol=1e-4, atol=1e-7)


def test_unknown_findings_rank_nothing() -> None:
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([[1.0, 0, 1, 0, 1, 0, 1, 0], [0, 1, 1, 1, 0, 0, 1, 0]]).T
    told = target.clone()
    told[4:, 0] = torch.nan
    both = values("auc_margin", logits, told)[0]
    parts = [
        values("auc_margin", logits[:4, :1], target[:4, :1])[0],
        values("auc_margin", logits[:, 1:], target[:, 1:])[0],
    ]
    torch.testing.assert_close(both, torch.stack(parts).mean())


# ---------------------------------------------------------------- borders: in mm, and as they move


@pytest.mark.parametrize(("shape", "spacing"), [((5, 6), (3.0, 0.5)), ((3, 4, 5), (2.5, 1.0, 0.7))])
@pytest.mark.parametrize("seed", range(3))
def test_distances_in_mm(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    logits, target = draw(shape, n=2, seed=seed)
    logits = 3 * logits
    target[0][target[0] == 2] = 0  # a class absent
    found = {
        name: LOSSES[name].bind({"mm": True})(logits, target, None, alone, spacing=spacing)
        for name in ("hausdorff", "boundary")
    }
    for n, (sample, truth) in enumerate(zip(logits.numpy(), target.numpy(), strict=True)):
        p, costs = softmax(sample), {"hausdorff": 0.0, "boundary": 0.0}
        for k in (1, 2):
            g = (truth == k).astype(float)
            there, seen = borders(g, spacing), borders(p[k], spacing)
            error = ((p[k] - g) ** 2 * (seen**2 + there**2)).mean()
            phi = np.where(g > 0.5, min(spacing) - there, there) * g.any()
            costs["hausdorff"] += (linear_dice(p[k], g) + math.log(1 + error)) / 2
            costs["boundary"] += (linear_dice(p[k], g) + 0.01 * (p[k] * phi).mean()) / 2
        for name, wanted in costs.items():
            assert found[name][n].item() == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize("name", ["hausdorff", "boundary"])
def test_voxels_of_a_mm_are_voxels(name: str) -> None:
    logits, target = draw((4, 5, 3))
    inmm = LOSSES[name].bind({"mm": True})(logits, target, None, alone, spacing=(1.0, 1.0, 1.0))
    torch.testing.assert_close(inmm, values(name, logits, target))
    with pytest.raises(ValueError, match="with mm needs the spacing of the voxels along"):
        values(name, logits, target, mm=True)


def test_a_balanced_hausdorff_term_weighs_as_much_as_dice() -> None:
    # Karimi and Salcudean 2019: the ratio of the terms' means, here of the batch itself.
    logits, target = draw((6, 5))
    logits.requires_grad_()
    p, g = (part[:, 1:] for part in of_classes(logits, target))
    region = values("dice", logits, target)
    far = HausdorffDTLoss(include_background=True, reduction="none")(p, g).reshape(6, 2).mean(1)
    ratio = (region.mean() / far.mean()).item()
    found = values("hausdorff", logits, target, balanced=True, weight=0.5)
    torch.testing.assert_close(found, region + 0.5 * ratio * far)
    assert found.mean().item() == pytest.approx(1.5 * region.mean().item())
    slopes = [
        torch.autograd.grad(cost.mean(), logits, retain_graph=True)[0]
        for cost in (found, region + 0.5 * ratio * far)
    ]
    torch.testing.assert_close(*slopes)
    # ... of the global batch, however it is split.
    sums: list[Tensor] = []
    row = LOSSES["hausdorff"].bind({"balanced": True, "weight": 0.5})
    for own in (slice(0, 2), slice(2, 6)):
        row(logits[own], target[own], None, lambda x: sums.append(x) or x)
    parts = [
        row(logits[own], target[own], None, lambda _: sum(sums)) for own in (slice(2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts), found)


def test_the_weight_of_borders_grows_as_in_its_paper() -> None:
    # Kervadec et al. 2019: 0.01 in the first epoch, 0.01 more in each, Dice the rest to 1.
    row = LOSSES["boundary"]
    settings = row.settings({"rise": 0.01, "rebalance": True})
    logits, target = draw((6, 5))
    region = values("dice", logits, target)
    border = (values("boundary", logits, target, weight=1.0) - region).detach()
    for epoch, share in ((0, 0.01), (1, 0.02), (49, 0.5), (98, 0.99), (200, 0.99)):
        found = row.bind(row.at(settings, epoch))(logits, target, None, alone)
        torch.testing.assert_close(found, (1 - share) * region + share * border)
    # By itself the weight grows and Dice stays; by default nothing moves.
    settings = row.settings({"rise": 0.5})
    found = row.bind(row.at(settings, 4))(logits, target, None, alone)
    torch.testing.assert_close(found, region + 2.01 * border)
    assert row.at(row.settings({}), 7) == row.settings({})

"""Every row of the table of losses, and each formula against hand-worked and library values."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss, FocalLoss
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.losses import LOSSES, Loss, alone

# A row that is in no table: the contract below needs no edit to meet it.
NEWCOMER = replace(
    LOSSES["ce"],
    name="newcomer",
    function=lambda logits, target, *_: (
        -logits.softmax(1).gather(1, target[:, None]).flatten(1).mean(1)
    ),
)
ROWS = [*LOSSES.values(), NEWCOMER]
SPATIAL = {"classification": [()], "segmentation": [(6, 5), (4, 3, 5)]}
USES = [
    pytest.param(row, spatial, id=f"{row.name}-{len(spatial)}d")
    for row in ROWS
    for task in row.tasks
    for spatial in SPATIAL[task]
]


def draw(
    spatial: tuple[int, ...], *, n: int = 6, classes: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, *spatial, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (n, *spatial), generator=generator)
    return logits, target


def weights(row: Loss, classes: int = 3) -> Tensor | None:
    return torch.linspace(0.5, 2.0, classes) if row.weighted else None


# ---------------------------------------------------------------- every row


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in LOSSES.items())
    assert {"ce", "weighted_ce", "dice_squared", "focal", "dice_ce"} <= set(LOSSES)
    for row in LOSSES.values():
        assert row.formula
        assert row.summary
        assert row.source


@pytest.mark.parametrize(("row", "spatial"), USES)
def test_one_value_a_sample_however_the_batch_is_split(row: Loss, spatial: tuple[int, ...]) -> None:
    logits, target = draw(spatial)
    whole = row.function(logits, target, weights(row), alone)
    assert whole.shape == (6,)
    for cuts in ([3, 3], [1, 5], [2, 1, 3]):
        parts = [
            row.function(part, truth, weights(row), alone)
            for part, truth in zip(logits.split(cuts), target.split(cuts), strict=True)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
        weighted = sum(len(p) / 6 * p.mean() for p in parts)
        torch.testing.assert_close(weighted, whole.mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("row", "spatial"), USES)
def test_gradient(row: Loss, spatial: tuple[int, ...]) -> None:
    logits, target = draw(spatial, n=2)
    assert torch.autograd.gradcheck(
        lambda x: row.function(x, target, weights(row), alone), logits.requires_grad_()
    )


@pytest.mark.parametrize(("row", "spatial"), USES)
def test_the_truth_costs_least(row: Loss, spatial: tuple[int, ...]) -> None:
    logits, target = draw(spatial)
    truth = F.one_hot(target, 3).movedim(-1, 1).double()
    right, unsure, wrong = (
        row.function(x, target, weights(row), alone) for x in (8 * truth, 0 * truth, -8 * truth)
    )
    assert (right < unsure).all()
    assert (unsure < wrong).all()
    assert (right <= row.function(logits, target, weights(row), alone)).all()


@pytest.mark.parametrize("confidence", [0.0, 1e4])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize(("row", "spatial"), USES)
def test_finite_where_classes_are_absent(
    row: Loss, spatial: tuple[int, ...], label: int, confidence: float
) -> None:
    # One class fills each sample, so the others' masks are empty; predictions are sure and wrong.
    target = torch.full((2, *spatial), label)
    logits = torch.zeros(2, 3, *spatial)
    logits[:, (label + 1) % 3] = confidence
    logits.requires_grad_()
    values = row.function(logits, target, weights(row), alone)
    values.sum().backward()
    assert values.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("row", "spatial"), USES)
def test_float32_agrees_with_float64(row: Loss, spatial: tuple[int, ...]) -> None:
    logits, target = draw(spatial)
    single = row.function(logits.float(), target, weights(row), alone)
    assert single.dtype == torch.float32
    double = row.function(logits, target, weights(row), alone)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


def test_weights_must_be_there_where_they_count() -> None:
    logits, target = draw(())
    with pytest.raises(ValueError, match="needs the class weights of the training part"):
        LOSSES["weighted_ce"].function(logits, target, None, alone)


def test_the_table_is_light_to_import() -> None:
    code = "import sys, bench.losses; print(*sorted({'monai', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---------------------------------------------------------------- worked by hand

# Foreground probabilities and reference of one 2 x 2 image:
#   p = .9 .2   g = 1 0      p of the true class = .9 .8
#       .6 .1       0 1                            .4 .1
# sum p g = 1, sum p = 1.8, sum p^2 = 1.22, sum g = sum g^2 = 2; and -log p of the true class is
# .105361 .223144 .916291 2.302585.
FOREGROUND = torch.tensor([[0.9, 0.2], [0.6, 0.1]], dtype=torch.float64)
IMAGE = torch.stack([1 - FOREGROUND, FOREGROUND])[None].log()
MASK = torch.tensor([[[1, 0], [0, 1]]])
BY_HAND_2X2 = {
    "ce": (0.105361 + 0.223144 + 0.916291 + 2.302585) / 4,
    # background weighs 0.5, foreground 2
    "weighted_ce": (2 * 0.105361 + 0.5 * 0.223144 + 0.5 * 0.916291 + 2 * 2.302585) / 4,
    "dice_squared": 1 - 2 * 1 / (1.22 + 2),
    "focal": (0.01 * 0.105361 + 0.04 * 0.223144 + 0.36 * 0.916291 + 0.81 * 2.302585) / 4,
    "dice_ce": 1 - 2 * 1 / (1.8 + 2) + (0.105361 + 0.223144 + 0.916291 + 2.302585) / 4,
}


@pytest.mark.parametrize("name", BY_HAND_2X2)
def test_2x2_mask_by_hand(name: str) -> None:
    class_weights = torch.tensor([0.5, 2.0])
    value = LOSSES[name].function(IMAGE, MASK, class_weights, alone)
    torch.testing.assert_close(value.item(), BY_HAND_2X2[name], rtol=0, atol=5e-6)


# Three classes with probabilities .7 .2 .1, the second is true: -log .2 = 1.609438,
# sum p^2 = .54, sum g^2 = 1.
BY_HAND_VECTOR = {
    "ce": 1.609438,
    "weighted_ce": 2 * 1.609438,
    "dice_squared": 1 - 2 * 0.2 / (0.54 + 1),
    "focal": 0.64 * 1.609438,
    "dice_ce": 1 - 2 * 0.2 / (1 + 1) + 1.609438,
}


@pytest.mark.parametrize("name", BY_HAND_VECTOR)
def test_class_vector_by_hand(name: str) -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
    value = LOSSES[name].function(logits, torch.tensor([1]), torch.tensor([0.5, 2.0, 0.5]), alone)
    torch.testing.assert_close(value.item(), BY_HAND_VECTOR[name], rtol=0, atol=5e-6)


def test_dice_of_an_absent_class() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    sure = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    sure[:, 0] = 40.0  # foreground probability e^-40
    dice = LOSSES["dice_squared"].function
    assert dice(sure, target, None, alone).item() == pytest.approx(0, abs=1e-9)
    assert dice(-sure, target, None, alone).item() == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------- formulas and libraries


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5), volume=st.booleans())
def test_squared_dice_is_the_papers_formula(seed: int, classes: int, volume: bool) -> None:
    logits, target = draw((3, 4, 5) if volume else (4, 5), n=2, classes=classes, seed=seed)
    values = LOSSES["dice_squared"].function(logits, target, None, alone)
    for value, sample, truth in zip(values, logits.numpy(), target.numpy(), strict=True):
        p = softmax(sample)
        each = [
            1 - 2 * (p[k] * (truth == k)).sum() / ((p[k] ** 2).sum() + (truth == k).sum())
            for k in range(1, classes)
        ]
        # The formula has no smoothing term, which moves the value by 1e-5 / (sums of about 1).
        assert value.item() == pytest.approx(np.mean(each), abs=2e-5)


@pytest.mark.parametrize("spatial", [(), (6, 5), (4, 3, 5)])
def test_against_torch(spatial: tuple[int, ...]) -> None:
    logits, target = draw(spatial)
    class_weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        LOSSES["ce"].function(logits, target, None, alone).mean(), F.cross_entropy(logits, target)
    )
    # torch divides by the sum of the weights, this table by the number of voxels
    of_torch = F.cross_entropy(logits, target, weight=class_weights)
    torch.testing.assert_close(
        LOSSES["weighted_ce"].function(logits, target, class_weights, alone).mean(),
        of_torch * class_weights[target].mean(),
    )


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_against_monai(spatial: tuple[int, ...]) -> None:
    logits, target = draw(spatial)
    logits = logits.float()
    theirs = {
        "dice_squared": DiceLoss(
            softmax=True, to_onehot_y=True, include_background=False, squared_pred=True
        )(logits, target[:, None]),
        "dice_ce": DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)(
            logits, target[:, None]
        ),
        # MONAI averages over the classes too, of which all but the true one give 0
        "focal": 3 * FocalLoss(use_softmax=True, to_onehot_y=True)(logits, target[:, None]),
    }
    for name, value in theirs.items():
        torch.testing.assert_close(LOSSES[name].function(logits, target, None, alone).mean(), value)

"""Voxels that are ignored: they count in no loss, against torch, MONAI and images without them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.losses.supervision import ignoring, supervised
from bench.losses.table import LOSSES, MASKS, alone
from models.output import Output

CLASSES, IGNORED = 3, 3
ROWS = [row for row in LOSSES.values() if MASKS[0] in row.tasks]
SERVING = [row for row in ROWS if row.ignoring]


def bound(name: str):
    return ignoring(LOSSES[name], LOSSES[name].bind({}), IGNORED)


def drawn(seed: int, share: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (3, C, 5, 6) and a target of which a share is ignored, some of each sample."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (3, CLASSES, 5, 6))).requires_grad_()
    target = rng.integers(0, CLASSES, (3, 5, 6))
    target[rng.random(target.shape) < share] = IGNORED
    target[:, 0, 0] = 1
    return logits, torch.from_numpy(target)


@pytest.mark.parametrize("seed", range(50))
def test_cross_entropies_are_torchs_with_ignore_index(seed: int) -> None:
    logits, target = drawn(seed)
    each = F.cross_entropy(logits, target, reduction="none", ignore_index=IGNORED)
    number = (target != IGNORED).flatten(1).sum(1)
    torch.testing.assert_close(
        bound("ce")(logits, target, None, alone), each.flatten(1).sum(1) / number
    )
    weights = torch.tensor([0.2, 0.5, 2.3], dtype=torch.float64)
    each = F.cross_entropy(logits, target, weight=weights, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(
        bound("weighted_ce")(logits, target, weights, alone), each.flatten(1).sum(1) / number
    )
    for one in range(3):
        # torch's own mean is over the voxels that count.
        torch.testing.assert_close(
            bound("ce")(logits, target, None, alone)[one],
            F.cross_entropy(logits[one : one + 1], target[one : one + 1], ignore_index=IGNORED),
        )


@pytest.mark.parametrize("seed", range(50))
def test_dice_is_monais_masked(seed: int) -> None:
    from monai.losses import MaskedDiceLoss

    logits, target = drawn(seed)
    counted = (target != IGNORED)[:, None]
    one_hot = F.one_hot(torch.where(counted[:, 0], target, 0), CLASSES).movedim(-1, 1).double()
    p, g = torch.softmax(logits, 1)[:, 1:], one_hot[:, 1:]
    for name, batch in (("dice", False), ("dice_batch", True)):
        masked = MaskedDiceLoss(reduction="none", smooth_nr=1e-5, smooth_dr=1e-5, batch=batch)
        theirs = masked(p, g, counted.double())
        theirs = theirs.mean().expand(3) if batch else theirs.flatten(1).mean(1)
        torch.testing.assert_close(bound(name)(logits, target, None, alone), theirs)
    together = bound("dice_ce_batch")(logits, target, None, alone)
    apart = [bound(name)(logits, target, None, alone) for name in ("dice_batch", "ce")]
    torch.testing.assert_close(together, apart[0] + apart[1])


@pytest.mark.parametrize("row", SERVING, ids=lambda row: row.name)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_image_of_which_half_is_ignored_is_as_its_other_half(row, side: str) -> None:
    """Values and gradients are those of the plain loss of the half alone; none reach the rest."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (2, CLASSES, 4, 8))).requires_grad_()
    target = torch.from_numpy(rng.integers(0, CLASSES, (2, 4, 8)))
    kept, left_out = slice(0, 4), slice(4, 8)
    if side == "right":
        kept, left_out = left_out, kept
    half = logits.detach()[..., kept].clone().requires_grad_()
    weights = torch.tensor([0.2, 0.5, 2.3]) if row.weighted else None
    plain = row.bind({})(half, target[..., kept], weights, alone)
    target = target.clone()
    target[..., left_out] = IGNORED
    found = bound(row.name)(logits, target, weights, alone)
    torch.testing.assert_close(found, plain)
    plain.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(logits.grad[..., kept], half.grad)
    assert not logits.grad[..., left_out].any()


@pytest.mark.parametrize("row", SERVING, ids=lambda row: row.name)
def test_nothing_ignored_is_the_plain_loss_and_all_ignored_moves_nothing(row) -> None:
    logits, target = drawn(0, share=0)
    weights = torch.tensor([0.2, 0.5, 2.3]) if row.weighted else None
    torch.testing.assert_close(
        bound(row.name)(logits, target, weights, alone),
        row.bind({})(logits, target, weights, alone),
    )
    target = torch.full_like(target, IGNORED)
    found = bound(row.name)(logits, target, weights, alone)
    assert found.shape == (3,)
    torch.testing.assert_close(found, torch.zeros_like(found))
    found.sum().backward()
    assert not logits.grad.any()


def test_losses_of_distances_and_skeletons_cannot_leave_voxels_out() -> None:
    assert {row.name for row in ROWS if not row.ignoring} == {
        *("boundary", "hausdorff", "cldice", "skeleton_recall")
    }
    with pytest.raises(ValueError, match="loss boundary cannot leave out ignored voxels"):
        bound("boundary")


def test_coarser_levels_and_presence_know_of_ignored_voxels() -> None:
    """A class that is not seen where voxels are ignored may be there: it is not scored."""
    target = torch.tensor([[[0, 0, 2, 2], [0, 0, 2, 2], [IGNORED] * 4, [IGNORED] * 4]])
    fine, coarse = torch.randn(1, CLASSES, 4, 4), torch.randn(1, CLASSES, 2, 2)
    presence = torch.tensor([[5.0, 1.0, -2.0]])
    given = Output(fine, deep=(coarse,), presence=presence)
    found = supervised(bound("ce"), None, alone)(given, target)
    halved = torch.tensor([[[0, 2], [IGNORED, IGNORED]]])
    by_hand = (
        2 * F.cross_entropy(fine, target, ignore_index=IGNORED)
        + F.cross_entropy(coarse, halved, ignore_index=IGNORED)
    ) / 3
    # Of the two classes but the background the second is seen, and found with log-odds of -2.
    by_hand = by_hand + F.softplus(torch.tensor(2.0)) / 2
    torch.testing.assert_close(found[0], by_hand)

"""Deep supervision and presence, against values worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

from bench.losses.supervision import logits_of, present, supervised
from bench.losses.table import LOSSES, alone
from models.output import Output


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


TARGET = torch.tensor([[[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 0, 0], [1, 1, 0, 0]]])
CE = LOSSES["ce"].bind({})


def test_a_tensor_is_its_own_logits() -> None:
    given = logits(1, 3, 4, 4)
    assert logits_of(given) is given
    assert logits_of(Output(given)) is given
    torch.testing.assert_close(
        supervised(CE, None, alone)(given, TARGET), CE(given, TARGET, None, alone)
    )


def test_levels_weigh_half_of_the_one_before_and_one_together() -> None:
    fine, middle, coarse = logits(1, 3, 4, 4), logits(1, 3, 2, 2), logits(1, 3, 1, 1)
    value = supervised(CE, None, alone)(Output(fine, deep=(middle, coarse)), TARGET)
    halved = torch.tensor([[[0, 2], [1, 0]]])
    by_hand = (
        (
            4 * F.cross_entropy(fine, TARGET)
            + 2 * F.cross_entropy(middle, halved)
            # Of four voxels the nearest to the middle is the one right of it and below.
            + F.cross_entropy(coarse, TARGET[:, 2:3, 2:3])
        )
        / 7
    )
    torch.testing.assert_close(value[0], by_hand)


def test_presence_is_scored_without_the_background() -> None:
    fine, presence = logits(1, 3, 4, 4), torch.tensor([[5.0, 1.0, -2.0]])
    value = supervised(CE, None, alone)(Output(fine, presence=presence), TARGET)
    alone_value = supervised(CE, None, alone)(fine, TARGET)
    by_hand = (F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(2.0))) / 2
    torch.testing.assert_close(value - alone_value, by_hand[None])


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 3, 4, 5)])
def test_present_says_which_classes_occur(shape: tuple[int, ...]) -> None:
    target = torch.zeros(shape, dtype=torch.int64)
    target[1].view(-1)[7] = 2
    assert present(target, 4).tolist() == [[1, 0, 0, 0], [1, 0, 1, 0]]


def test_what_the_loader_made_goes_to_the_full_size_alone():
    seen = []

    def criterion(logits, target, _weights, _total, **made):
        seen.append((tuple(target.shape[1:]), made))
        return logits.flatten(1).mean(1)

    fine, coarse = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)
    target, made = torch.zeros(2, 8, 8, dtype=torch.int64), torch.rand(2, 8, 8)
    supervised(criterion, None, alone)(Output(fine, deep=(coarse,)), target, made)
    supervised(criterion, None, alone)(fine, target, made)
    assert seen == [((8, 8), {"derived": made}), ((4, 4), {}), ((8, 8), {"derived": made})]

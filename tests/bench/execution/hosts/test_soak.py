"""What a soak deals: by its seed, and nothing that a run of three hosts cannot have."""

from collections import Counter

from tests.bench.execution.hosts.faults import FAULTS
from tests.bench.execution.hosts.soak import LOSE, MOST, dealt, playable


def test_all_is_dealt_in_hands_that_a_run_can_have():
    left = Counter(dict.fromkeys(FAULTS, 10))
    hands = []
    while left:
        hands.append(dealt(7, len(hands), left))
        left -= Counter(hands[-1])
    assert Counter(card for hand in hands for card in hand) == dict.fromkeys(FAULTS, 10)
    for hand in hands:
        assert 1 <= len(hand) <= MOST
        assert all(FAULTS[card].status is None for card in hand[:-1])
        assert sum(card in LOSE for card in hand) <= 2
    assert len({tuple(hand) for hand in hands}) > len(hands) / 2


def test_the_seed_decides():
    left = Counter(dict.fromkeys(FAULTS, 10))
    assert dealt(7, 3, left) == dealt(7, 3, left)
    assert any(dealt(7, n, left) != dealt(8, n, left) for n in range(5))


def test_what_a_run_cannot_have():
    assert playable(["worker", "raylet", "host", "driver"])
    assert not playable(["driver", "worker"])  # the command has ended
    assert not playable(["raylet", "host", "leave"])  # none would be left but the head
    assert playable(["raylet", "join", "host"])
    assert not playable(["raylet", "host", "join"])  # the one that joins was not there

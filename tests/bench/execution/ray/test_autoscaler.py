"""What an autoscaler is asked for: as many lanes as it can give, whose number nobody says."""

from types import SimpleNamespace

import pytest

from bench.execution.ray import autoscaler
from bench.execution.ray.autoscaler import ANSWER_SEC, FORGET_SEC, MOST_ASKED, Asking
from bench.execution.ray.cluster import LaneSize

ONE = LaneSize(workers=1, threads=2, cuda=False)
LOOK_SEC = 2.0


class Played:
    """A cluster that may have `most` workers, of which lanes ask for `others` themselves.

    Its autoscaler gives what is asked in all, whole or not at all, as Ray's second version does.
    """

    def __init__(self, monkeypatch, most: int, size: LaneSize = ONE) -> None:
        self.most, self.others, self.now, self.asked = most, 0, 0.0, 0
        self.heard: list[int] = []
        monkeypatch.setattr(autoscaler, "monotonic", lambda: self.now)
        monkeypatch.setattr(
            autoscaler,
            "_state",
            lambda: SimpleNamespace(
                infeasible_cluster_resource_constraints=[1] if self.total > self.most else []
            ),
        )
        self.asking = Asking(size)
        self.asking._coordinator = SimpleNamespace(
            request_resources=SimpleNamespace(remote=self._request),
            cancel_request=SimpleNamespace(remote=lambda _name: self._hear(0)),
        )

    @property
    def total(self) -> int:
        return self.asked + self.others

    def _request(self, *, requester_id, resources, expire_after_s) -> None:
        assert resources == [ONE.resources] * len(resources)
        self._hear(len(resources))

    def _hear(self, workers: int) -> None:
        if workers != self.asked:
            self.heard.append(workers)
        self.asked = workers

    def ask(self, lanes: int, more: int, seconds: float = LOOK_SEC) -> None:
        """Ask every LOOK_SEC for so long."""
        for _ in range(max(round(seconds / LOOK_SEC), 1)):
            self.now += LOOK_SEC
            self.asking.ask(lanes, more)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 13, 40])
def test_it_is_asked_for_as_many_as_it_can_give(monkeypatch, most):
    played = Played(monkeypatch, most)
    played.ask(0, 40, seconds=15 * ANSWER_SEC)
    assert played.asked == min(most, 40)
    assert not played.asking.hopeless()
    # Each half and each double once.
    assert len(played.heard) <= 12


def test_what_lanes_ask_for_themselves_is_not_asked_for_twice(monkeypatch):
    played = Played(monkeypatch, 4)
    played.ask(0, 9, seconds=10 * ANSWER_SEC)
    assert played.asked == 4
    played.others = 3  # three lanes have come
    played.ask(3, 6, seconds=10 * ANSWER_SEC)
    assert (played.asked, played.total) == (1, 4)


def test_lanes_of_several_workers_are_asked_for_whole(monkeypatch):
    played = Played(monkeypatch, 7, LaneSize(workers=3, threads=2, cuda=False))
    played.ask(0, 9, seconds=10 * ANSWER_SEC)
    assert played.asked == 6


def test_an_autoscaler_without_such_a_machine_is_told_from_one_that_takes_its_time(monkeypatch):
    for most, hopeless in ((0, True), (1, False)):
        played = Played(monkeypatch, most)
        played.ask(0, 5)
        assert not played.asking.hopeless()  # it has said nothing yet
        played.ask(0, 5, seconds=2 * ANSWER_SEC)
        assert not played.asking.hopeless()
        played.ask(0, 5, seconds=3 * ANSWER_SEC)
        assert played.asking.hopeless() is hopeless


def test_what_another_run_asks_for_makes_nothing_hopeless(monkeypatch):
    played = Played(monkeypatch, 3)
    played.others = 5  # it looks how far it can go, for a moment
    played.ask(0, 2, seconds=2 * ANSWER_SEC)
    played.others = 0
    played.ask(0, 2, seconds=3 * ANSWER_SEC)
    assert not played.asking.hopeless()
    played.ask(0, 2, seconds=FORGET_SEC)
    assert played.asked == 2


def test_a_cluster_that_may_grow_further_is_asked_again_in_time(monkeypatch):
    played = Played(monkeypatch, 2)
    played.ask(0, 8, seconds=10 * ANSWER_SEC)
    assert played.asked == 2
    played.most = 8
    played.ask(0, 8, seconds=FORGET_SEC + 10 * ANSWER_SEC)
    assert played.asked == 8


def test_what_was_asked_is_taken_back_when_no_more_is_wanted(monkeypatch):
    played = Played(monkeypatch, 100)
    played.ask(0, 5, seconds=5 * ANSWER_SEC)
    played.ask(5, 0)
    assert played.asked == 0
    played.ask(0, 10_000, seconds=20 * ANSWER_SEC)
    assert max(played.heard) <= MOST_ASKED
    nothing = Asking(ONE)
    nothing.ask(3, 0)
    assert nothing._coordinator is None  # none is started for it

"""The dispatcher: what it does at the queue when lanes ask."""

from dataclasses import replace

import pytest

from bench.execution import trial_queue
from bench.execution.dispatcher import DEAR_SEC, STARTS, Dispatcher
from bench.execution.mailbox import Call
from bench.execution.trial_queue import GATHER_SEC, LEASE_SEC, Queue
from results.tables.store import finished, read


class Served:
    """A dispatcher at a queue of trials, with the answers that it gave."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        # By the number of each ask: the trial that was handed out, None, and the state of it.
        self.said: dict[int, str | None] = {}
        self.states: dict[int, bytes | None] = {}
        self.gone: set[str] = set()
        self.killed: list[tuple[str, int]] = []
        self.dispatcher = Dispatcher(
            queue,
            self._say,
            answers=lambda places: not self.gone & {machine for machine, _ in places},
            kill=self.killed.extend,
            hung_minutes=30,
        )

    def _say(self, number: int, value: tuple[str, bytes | None] | None) -> None:
        self.said[number], self.states[number] = value or (None, None)


@pytest.fixture
def serving(tmp_path, make_trial):
    def make(count: int) -> Served:
        trial, _, _ = make_trial("classification")
        trials = [replace(trial, trial_id=f"t{n}") for n in range(count)]
        return Served(
            Queue(folder=tmp_path, study="s", trials=trials, footer={}, shared_device=True)
        )

    return make


def outcome(trial_id: str, wall_sec: float = 1.0) -> dict[str, object]:
    row = {"trial_id": trial_id, "status": "ok", "wall_sec": wall_sec, "reason": None}
    tables = {"metrics": [], "epochs": [], "cases": []}
    return {"trial": row, **tables, "examples": None, "weights": None}


def test_lanes_go_on_while_results_are_written(serving, tmp_path):
    """Both the lane whose result it is and one that waits; the result is on disk all the same."""
    served = serving(3)
    served.dispatcher.serve([Call(1, "a", "take", ())])
    on_disk = []
    say = on_disk.append
    served.dispatcher.say = lambda number, value: say((number, value, finished(tmp_path)))
    served.dispatcher.serve([Call(2, "a", "take", ("t0", outcome("t0"))), Call(3, "b", "take", ())])
    assert on_disk == [(2, ("t1", None), {}), (3, ("t2", None), {})]
    assert finished(tmp_path) == {"t0": "ok"}


def test_a_long_trial_is_on_disk_before_its_lane_goes_on(serving, clock, tmp_path):
    served = serving(4)
    served.dispatcher.serve([Call(n, f"lane {n}", "take", ()) for n in range(2)])
    served.dispatcher.serve([Call(3, "lane 0", "take", ("t0", outcome("t0")))])
    on_disk = []
    served.dispatcher.say = lambda number, value: on_disk.append((number, finished(tmp_path)))
    long = outcome("t1", wall_sec=DEAR_SEC)
    served.dispatcher.serve([Call(4, "lane 1", "take", ("t1", long))])
    assert on_disk == [(4, {"t0": "ok", "t1": "ok"})]


def test_results_that_come_soon_after_others_wait_for_the_next_to_be_written(
    serving, clock, tmp_path
):
    served = serving(5)
    served.dispatcher.serve([Call(n, f"lane {n}", "take", ()) for n in range(5)])

    def comes(n: int) -> dict[str, str]:
        served.dispatcher.serve([Call(10 + n, f"lane {n}", "take", (f"t{n}", outcome(f"t{n}")))])
        return finished(tmp_path)

    assert set(comes(0)) == {"t0"}
    assert set(comes(1)) == {"t0"}
    assert served.queue.pending() == 4
    clock[0] += GATHER_SEC
    assert set(comes(2)) == {"t0", "t1", "t2"}
    assert set(comes(3)) == {"t0", "t1", "t2"}
    served.dispatcher.died("lane 3", "its process ended after its word")
    assert served.queue.attempts.deaths("t3") == 0
    assert set(comes(4)) == {f"t{n}" for n in range(5)}  # no lane is at work any more


def test_a_run_that_ends_early_writes_what_came(serving, clock, tmp_path):
    served = serving(3)
    served.dispatcher.serve([Call(n, f"lane {n}", "take", ()) for n in range(3)])
    for n in range(2):
        served.dispatcher.serve([Call(10 + n, f"lane {n}", "take", (f"t{n}", outcome(f"t{n}")))])
    assert set(finished(tmp_path)) == {"t0"}
    served.queue.close()
    assert set(finished(tmp_path)) == {"t0", "t1"}


def test_a_late_result_is_written_before_its_trial_can_be_handed_out_again(serving, tmp_path):
    served = serving(1)
    served.dispatcher.serve([Call(1, "a", "take", ())])
    served.queue.give_back("a")  # taken for lost
    served.dispatcher.serve([Call(2, "a", "take", ("t0", outcome("t0"))), Call(3, "b", "take", ())])
    assert served.said == {1: "t0", 2: None, 3: None}
    assert finished(tmp_path) == {"t0": "ok"}


def test_a_lane_waits_while_another_holds_the_last_trial_and_gets_it_when_that_one_dies(serving):
    served = serving(1)
    served.dispatcher.serve([Call(1, "a", "take", ()), Call(2, "b", "take", ())])
    assert served.said == {1: "t0"}
    served.dispatcher.serve([Call(3, "a", "back", ())])
    assert served.said == {1: "t0", 2: "t0", 3: None}


def test_a_worker_that_was_dead_when_it_was_handed_a_trial_says_nothing_of_that_trial(serving):
    """Killed while it waited: nobody knows yet when the trial of another is free."""
    served = serving(1)
    served.dispatcher.serve([Call(1, "a", "take", ()), Call(2, "b", "take", ())])
    served.dispatcher.serve([Call(None, "a", "begun", ("t0",))])
    served.dispatcher.serve([Call(4, "a", "back", ())])
    assert served.said[2] == "t0"
    served.dispatcher.serve([Call(5, "b", "back", ())])
    assert served.queue.attempts.deaths("t0") == 1
    assert finished(served.queue.folder) == {}
    # Those who have it are told of, as ever.
    served.dispatcher.serve([Call(6, "b", "take", ())])
    served.dispatcher.serve([Call(None, "b", "begun", ("t0",)), Call(8, "b", "back", ())])
    assert finished(served.queue.folder) == {"t0": "failed"}


def test_lanes_are_sent_home_when_every_trial_is_done(serving):
    served = serving(1)
    served.dispatcher.serve([Call(1, "a", "take", ()), Call(2, "b", "take", ())])
    served.dispatcher.serve([Call(3, "a", "fail", ("t0", "planted", "a trace"))])
    assert served.said == {1: "t0", 2: None, 3: None}


def test_a_trial_is_not_handed_to_a_worker_that_died_while_it_waited(serving):
    served = serving(2)
    served.dispatcher.serve([Call(n, f"lane {n}", "take", ()) for n in range(3)])
    served.dispatcher.serve(
        [Call(3, "lane 2", "back", ()), Call(4, "lane 0", "fail", ("t0", "why", "trace"))]
    )
    assert served.said == {0: "t0", 1: "t1", 3: None, 4: None}
    served.dispatcher.serve([Call(5, "lane 1", "back", ()), Call(6, "lane 2", "take", ())])
    assert served.said[6] == "t1"


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trial_queue.time, "monotonic", lambda: now[0])
    return now


def working(served: Served, lane: str, machine: str, process: int) -> None:
    """Let a lane start on a machine, ask for a trial and begin what it gets."""
    served.dispatcher.serve(
        [
            Call(None, lane, "back", ()),
            Call(None, lane, "here", (machine, process)),
            Call(process, lane, "take", ()),
        ]
    )
    if process in served.said:
        served.dispatcher.serve([Call(None, lane, "begun", (served.said[process],))])


def test_a_worker_that_dies_counts_against_its_trial_and_a_machine_that_is_lost_does_not(serving):
    served = serving(1)
    for n in range(2 * trial_queue.KILLS):
        working(served, "a", f"machine {n}", n)
        assert served.said[n] == "t0"
        served.gone.add(f"machine {n}")
    assert finished(served.queue.folder) == {}
    working(served, "a", "machine", 10)  # whose predecessor's machine is gone too
    for n in range(trial_queue.KILLS):
        assert served.said[10 + n] == "t0"
        working(served, "a", "machine", 11 + n)
    assert finished(served.queue.folder) == {"t0": "failed"}


def test_a_silent_lane_keeps_its_trial_while_its_machine_answers(serving, clock):
    served = serving(1)
    working(served, "a", "machine", 1)
    clock[0] = LEASE_SEC + 1
    working(served, "b", "other", 2)
    assert 2 not in served.said
    served.gone.add("machine")
    served.dispatcher.serve([])
    assert served.said[2] == "t0"
    assert (served.killed, finished(served.queue.folder)) == ([], {})


@pytest.mark.parametrize("word", ["alive", None])
def test_a_trial_that_makes_no_step_is_ended_and_fails_the_second_time(serving, clock, word):
    """Also where the worker cannot speak, since the hang holds Python's lock."""
    served = serving(1)
    for n in range(trial_queue.KILLS):
        working(served, "a", "machine", n)
        assert served.said[n] == "t0"
        for _ in range(30):
            clock[0] += 59
            served.dispatcher.serve([Call(None, "a", word, ())] if word else [])
        assert len(served.killed) == n
        clock[0] += 59
        served.dispatcher.serve([])
        assert served.killed[n:] == [("machine", n)]
    row = read(served.queue.folder, "trials").to_pylist()[0]
    assert (row["status"], row["reason"]) == ("failed", "it hung (no step in 30 min) 2 times")


def test_a_trial_that_makes_steps_is_let_be(serving, clock):
    served = serving(1)
    working(served, "a", "machine", 1)
    for _ in range(100):
        clock[0] += 29 * 60
        served.dispatcher.serve([Call(None, "a", "renew", ())])
    assert served.killed == []


def test_a_lane_that_renewed_while_this_process_was_busy_keeps_its_trial(serving, clock):
    served = serving(1)
    served.dispatcher.serve([Call(1, "a", "take", ())])
    clock[0] = 40 * 60.0
    served.dispatcher.serve([Call(2, "b", "take", ()), Call(None, "a", "renew", (2, 0.5))])
    assert served.said == {1: "t0"}
    assert served.queue.progress().running[0].epoch == 2


def test_a_lane_that_only_dies_is_ended_and_one_that_works_is_not(serving):
    served = serving(20)
    for n in range(STARTS):
        served.dispatcher.serve([Call(n, "bad", "back", ())])
        assert "bad" not in served.dispatcher.ended
        served.dispatcher.serve(
            [Call(50 + n, "good", "back", ()), Call(90 + n, "good", "take", ())]
        )
        served.dispatcher.serve([Call(None, "good", "begun", (served.said[90 + n],))])
    served.dispatcher.serve([Call(40, "bad", "back", ()), Call(41, "bad", "take", ())])
    served.dispatcher.serve([Call(42, "good", "back", ())])
    assert "before they took a trial" in served.dispatcher.ended["bad"]
    assert served.said[41] is None
    assert "good" not in served.dispatcher.ended


def test_an_unfit_lane_gets_no_trial(serving):
    served = serving(1)
    served.dispatcher.serve([Call(1, "a", "unfit", ("no store here",)), Call(2, "a", "take", ())])
    assert served.said == {1: None, 2: None}
    assert served.queue.pending() == 1
    assert served.dispatcher.ended == {"a": "no store here"}


def test_the_state_of_a_trial_is_kept_by_its_lane_alone_until_it_has_a_result(serving):
    served = serving(2)
    served.dispatcher.serve([Call(1, "a", "take", ())])
    for packed in (b"early", b"late"):
        served.dispatcher.serve([Call(None, "a", "keep", ("t0", packed))])
    # Taken for lost, its trial goes to another lane, with the state, and is further on there.
    served.queue.give_back("a")
    served.dispatcher.serve([Call(2, "b", "take", ()), Call(3, "c", "take", ())])
    assert served.said == {1: "t0", 2: "t0", 3: "t1"}
    assert served.states == {1: None, 2: b"late", 3: None}
    served.dispatcher.serve([Call(None, "b", "keep", ("t0", b"other"))])
    served.dispatcher.serve([Call(None, "a", "keep", ("t0", b"of the lost one"))])
    served.queue.give_back("b")
    served.dispatcher.serve([Call(4, "d", "take", ())])
    assert (served.said[4], served.states[4]) == ("t0", b"other")
    served.dispatcher.serve([Call(5, "d", "take", ("t0", outcome("t0")))])
    assert list((served.queue.folder / "checkpoints").iterdir()) == []


def test_what_a_stopped_run_hears_last_is_taken_in_and_nothing_is_handed_out(serving, tmp_path):
    served = serving(5)
    served.dispatcher.serve([Call(n, lane, "take", ()) for n, lane in enumerate("abc")])
    left = served.dispatcher.last_words(
        [
            Call(10, "a", "take", ("t0", outcome("t0"))),
            Call(None, "b", "renew", (2, 0.5)),
            Call(None, "b", "keep", ("t1", b"state")),
            Call(11, "c", "fail", ("t2", "planted", "a trace")),
            Call(12, "c", "take", ()),
        ]
    )
    served.queue.close()
    assert left == {"a", "b", "c"}
    assert served.said == {0: "t0", 1: "t1", 2: "t2"}
    assert served.queue.kept("t1") == b"state"
    assert finished(tmp_path) == {"t0": "ok", "t2": "failed"}


def test_a_state_that_finds_no_room_on_the_disk_ends_no_run(serving, caplog):
    served = serving(1)
    (served.queue.folder / "checkpoints").write_text("in the way of the folder")
    served.dispatcher.serve([Call(1, "a", "take", ())])
    served.dispatcher.serve([Call(None, "a", "keep", ("t0", b"state"))])
    assert "the state of trial t0 cannot be kept" in caplog.text
    (served.queue.folder / "checkpoints").unlink()
    served.dispatcher.serve([Call(2, "a", "take", ("t0", outcome("t0")))])
    assert finished(served.queue.folder) == {"t0": "ok"}


def test_a_call_that_is_not_known_is_refused_with_the_choices(serving):
    with pytest.raises(
        ValueError, match="are take, back, here, begun, unfit, alive, renew, keep, fail"
    ):
        serving(1).dispatcher.serve([Call(1, "a", "do", ())])


def test_results_that_come_together_are_written_together_and_none_twice(serving, tmp_path):
    served = serving(5)
    lanes = "abcd"
    served.dispatcher.serve([Call(n, lane, "take", ()) for n, lane in enumerate(lanes)])
    served.queue.give_back("a")  # taken for lost: t0 goes to another, and both come with it
    served.dispatcher.serve([Call(5, "e", "take", ())])
    assert served.said == {0: "t0", 1: "t1", 2: "t2", 3: "t3", 5: "t0"}
    results = [("a", "t0"), ("b", "t1"), ("c", "t2"), ("e", "t0")]
    served.dispatcher.serve(
        [
            *(Call(10 + n, lane, "take", (t, outcome(t))) for n, (lane, t) in enumerate(results)),
            Call(20, "b", "back", ()),  # its process died after its word: no death of t1
            Call(21, "b", "take", ()),
        ]
    )
    # b's process, which was dead by then, is answered no more.
    assert {n: served.said.get(n) for n in (10, 11, 12, 13, 20, 21)} == {
        10: "t4",
        11: None,
        12: None,
        13: None,
        20: None,
        21: None,
    }
    assert finished(tmp_path) == {"t0": "ok", "t1": "ok", "t2": "ok"}
    assert len(list((tmp_path / "trials").iterdir())) == 1
    assert read(tmp_path, "trials").column("lane").to_pylist() == ["a", "b", "c"]
    assert served.queue.attempts.deaths("t1") == 0

"""The queue: what is handed out, to whom, how often, and what is on disk when."""

import errno
from dataclasses import replace

import pytest

from bench.core.references import StudyError
from bench.execution import trial_queue
from bench.execution.trial_queue import KILLS, Queue
from bench.study.choice import Choice
from bench.study.schema import Augment
from bench.study.trial import Trial
from bench.training.train import Outcome
from results.tables import store
from tests.trials import PLAIN


def make_trial(n: int) -> Trial:
    return Trial(
        trial_id=f"trial{n}",
        dataset="d",
        task="classification",
        choices={
            **PLAIN,
            "model": Choice(name="plain_cnn"),
            "optimizer": Choice(name="adam"),
            "loss": Choice(name="ce"),
        },
        start=None,
        repeat=0,
        fold=n,
        seed=0,
        epochs=2,
        batch_size=4,
        patch=(8, 8),
        augment=Augment(),
        decay_norms=True,
        clip=None,
        accumulate=1,
        ema=None,
        normalize="z-score",
        patience=2,
        stop_on="score",
        overlap=0.25,
        primary="auc",
        target=None,
        stops=True,
        mixup=0.0,
        balance=False,
        precision="float32",
        channels_last=False,
        compiled=False,
        keep_weights=False,
        degrade=(),
        loader="torch",
        threads=1,
    )


def make_outcome(trial: Trial, status: str = "ok") -> Outcome:
    row = {"trial_id": trial.trial_id, "status": status, "wall_sec": 1.0, "reason": None}
    return Outcome(trial=row, metrics=[], epochs=[], cases=[], examples=None, weights=None)


def make_queue(folder, count: int = 3) -> Queue:
    trials = [make_trial(n) for n in range(count)]
    return Queue(folder=folder, study="s", trials=trials, footer={}, shared_device=False)


def finish(queue: Queue, lane: str, trial_id: str, outcome: Outcome) -> None:
    """Hand in what a lane has finished, and put it on disk."""
    queue.receive([(lane, trial_id, outcome)])
    queue.flush()


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trial_queue.time, "monotonic", lambda: now[0])
    return now


def test_every_trial_is_handed_out_once_and_is_on_disk_when_finish_returns(tmp_path):
    queue = make_queue(tmp_path)
    seen = []
    while lease := queue.take("a"):
        seen.append(lease.trial.trial_id)
        finish(queue, "a", lease.trial.trial_id, make_outcome(lease.trial))
        assert lease.trial.trial_id in store.finished(tmp_path)
    assert seen == ["trial0", "trial1", "trial2"]
    assert queue.pending() == 0
    assert make_queue(tmp_path).take("a") is None


def test_lanes_side_by_side_get_trials_that_share_their_batches(tmp_path):
    """Within a fold and seed alone, whose trials are the first; alone, trials come as they are."""
    changes = [{}, {"balance": True}, {}, {"balance": True}, {"fold": 1}, {}]
    trials = [replace(make_trial(n), **{"fold": 0, **changes[n]}) for n in range(6)]

    def order(shared: bool, finishes: bool) -> list[int]:
        queue = Queue(folder=tmp_path, study="s", trials=trials, footer={}, shared_device=shared)
        taken = []
        for lane in range(6):
            taken.append(int(queue.take(f"lane{lane}").trial.trial_id[-1]))
            if finishes:
                queue._held.clear()
        return taken

    assert order(shared=True, finishes=False) == [0, 2, 1, 3, 4, 5]
    assert order(shared=True, finishes=True) == [0, 1, 2, 3, 4, 5]
    assert order(shared=False, finishes=False) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_card_drew_is_no_trials_own_where_others_share_it(tmp_path, shared):
    queue = Queue(
        folder=tmp_path, study="s", trials=[make_trial(0)], footer={}, shared_device=shared
    )
    outcome = make_outcome(queue.take("a").trial)
    outcome.trial["energy_joules"] = 12.5
    finish(queue, "a", "trial0", outcome)
    [row] = store.read(tmp_path, "trials").to_pylist()
    assert row["energy_joules"] == (None if shared else 12.5)


def test_a_failed_trial_is_tried_again_when_the_study_is_run_again(tmp_path):
    queue = make_queue(tmp_path, 1)
    queue.take("a")
    queue.fail("a", "trial0", "ValueError: planted")
    assert store.finished(tmp_path) == {"trial0": "failed"}
    again = make_queue(tmp_path, 1)
    lease = again.take("a")
    finish(again, "a", "trial0", make_outcome(lease.trial))
    assert store.finished(tmp_path) == {"trial0": "ok"}


@pytest.mark.parametrize("how", ["died", "give_back"])
def test_a_lane_that_comes_back_gives_its_trial_to_the_next(tmp_path, how):
    queue = make_queue(tmp_path)
    lost = queue.take("a").trial
    getattr(queue, how)("a", *(["the lane died during it"] if how == "died" else []))
    lease = queue.take("b")
    assert (lease.trial, lease.attempt) == (lost, 2)


def test_a_trial_that_kills_its_lanes_is_written_down_as_failed(tmp_path):
    queue = make_queue(tmp_path, 1)
    for n in range(KILLS):
        assert queue.take(f"lane{n}").trial.trial_id == "trial0"
        queue.died(f"lane{n}", "it ended its process (SIGSEGV)")
    assert queue.take("c") is None
    assert queue.pending() == 0
    reason = store.read(tmp_path, "trials").column("reason")[0].as_py()
    assert reason == f"it ended its process (SIGSEGV) {KILLS} times"


def test_deaths_are_counted_across_the_processes_of_a_run(tmp_path):
    for n in range(KILLS):
        queue = make_queue(tmp_path, 1)  # as each process of the run opens it
        assert queue.take("a").attempt == n + 1
        queue.died("a", "the lane died during it")
    assert store.finished(tmp_path) == {"trial0": "failed"}
    # Failed is not for ever: asked for again, it is tried as often again.
    again = make_queue(tmp_path, 1)
    assert again.take("a").attempt == 1


def test_a_run_that_was_killed_whole_with_its_trial_counts_as_that_trials_death(tmp_path):
    for _ in range(KILLS):
        queue = make_queue(tmp_path, 2)
        queue.died_before("process")
        queue.attempts.begin("process", queue.take("process").trial.trial_id)
    queue = make_queue(tmp_path, 2)
    queue.died_before("process")
    assert store.finished(tmp_path) == {"trial0": "failed"}
    assert queue.take("process").trial.trial_id == "trial1"


def test_of_several_that_went_down_together_none_is_blamed_before_it_was_alone(tmp_path):
    """Trial 1 takes the whole machine with it each time; trial 0 is beside it the first time."""
    queue = make_queue(tmp_path, 3)
    queue.one_memory = True
    for lane in ("process 1", "process 2"):
        queue.attempts.begin(lane, queue.take(lane).trial.trial_id)
    again = make_queue(tmp_path, 3)
    again.one_memory = True
    again.died_before("process")
    first = again.take("a").trial
    assert first.trial_id in ("trial0", "trial1")
    assert again.take("b") is None  # nothing beside what has ended a process
    finish(again, "a", first.trial_id, make_outcome(first))
    assert again.take("b").trial.trial_id in ("trial0", "trial1")
    assert again.take("a") is None
    again.died("b", "it ended its process (SIGKILL)")
    assert len(store.finished(tmp_path)) == 2
    assert again.take("a").trial.trial_id == "trial2"


def test_what_died_waits_until_it_can_be_alone(tmp_path):
    queue = make_queue(tmp_path, 4)
    queue.one_memory = True
    queue.take("a"), queue.take("b")
    queue.died("a", "it ended its process (SIGKILL)")  # trial0, while trial1 trains
    assert queue.take("a").trial.trial_id == "trial2"
    finish(queue, "b", "trial1", make_outcome(make_trial(1)))
    assert queue.take("b").trial.trial_id == "trial3"
    finish(queue, "a", "trial2", make_outcome(make_trial(2)))
    assert queue.take("a") is None
    finish(queue, "b", "trial3", make_outcome(make_trial(3)))
    assert queue.take("b").trial.trial_id == "trial0"


def test_a_list_of_deaths_that_is_damaged_stops_no_run(tmp_path):
    (tmp_path / "attempts.json").write_text('["trial0"')
    assert make_queue(tmp_path, 1).take("a").attempt == 1


def test_a_lost_lane_is_no_failure_of_its_trial_however_often(tmp_path):
    queue = make_queue(tmp_path, 1)
    for n in range(2 * KILLS):
        assert queue.take("a").attempt == n + 1
        queue.give_back("a")
    assert (queue.pending(), store.finished(tmp_path)) == (1, {})


def test_a_late_result_of_an_unfinished_trial_is_taken_and_a_second_one_is_not(tmp_path):
    queue = make_queue(tmp_path, 1)
    trial = queue.take("a").trial
    queue.give_back("a")
    assert queue.take("b").trial == trial
    finish(queue, "a", trial.trial_id, make_outcome(trial, "diverged"))
    assert store.finished(tmp_path) == {"trial0": "diverged"}
    assert queue.pending() == 0
    finish(queue, "b", trial.trial_id, make_outcome(trial))
    assert store.finished(tmp_path) == {"trial0": "diverged"}
    row = store.read(tmp_path, "trials").to_pylist()[0]
    assert (row["attempt"], row["lane"]) == (1, "a")
    assert queue.progress().running == ()


def test_a_late_result_is_taken_while_its_trial_waits_and_after_it_was_given_up(tmp_path):
    queue = make_queue(tmp_path, 2)
    first = queue.take("a").trial
    queue.give_back("a")
    finish(queue, "a", first.trial_id, make_outcome(first))
    second = queue.take("b").trial
    assert second.trial_id == "trial1"
    for _ in range(KILLS):
        queue.died("b", "the lane died during it")
        queue.take("b")
    assert store.finished(tmp_path) == {"trial0": "ok", "trial1": "failed"}
    finish(queue, "b", second.trial_id, make_outcome(second))
    assert store.finished(tmp_path) == {"trial0": "ok", "trial1": "ok"}


def test_a_result_of_a_trial_that_was_never_handed_out_is_not_taken(tmp_path):
    queue = make_queue(tmp_path, 1)
    finish(queue, "a", "trial0", make_outcome(make_trial(0)))
    assert store.finished(tmp_path) == {}


def test_speaking_is_one_thing_and_making_steps_another(tmp_path, clock):
    queue = make_queue(tmp_path, 1)
    queue.take("a")
    clock[0] = 50.0
    queue.alive("a")
    clock[0] = 100.0
    assert (queue.unheard(60), queue.still(60)) == ([], ["a"])
    assert queue.progress().running[0].silent == 100.0
    queue.renew("a", epoch=1, score=0.5)
    assert (queue.unheard(0.5), queue.still(0.5)) == ([], [])
    assert queue.progress().running[0].score == 0.5
    clock[0] = 200.0
    assert (queue.unheard(60), queue.still(60)) == (["a"], ["a"])


def test_a_full_disk_is_raised_and_the_trial_stays_unfinished(tmp_path, monkeypatch):
    queue = make_queue(tmp_path, 1)
    trial = queue.take("a").trial

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial_queue, "write_trials", full)
    with pytest.raises(OSError, match="No space"):
        finish(queue, "a", trial.trial_id, make_outcome(trial))
    assert queue.progress().done == 0
    assert store.finished(tmp_path) == {}


def test_progress_counts_what_earlier_runs_finished(tmp_path):
    queue = make_queue(tmp_path)
    trial = queue.take("a").trial
    finish(queue, "a", trial.trial_id, make_outcome(trial))
    state = make_queue(tmp_path).progress()
    assert (state.total, state.done, state.reused, state.seconds_left) == (3, 1, 1, None)


def test_two_processes_cannot_run_one_folder(tmp_path, monkeypatch):
    plan = type("Plan", (), {"folder": tmp_path, "skips": (), "trials": ()})()
    plan.study = type("Study", (), {"name": "s"})()
    monkeypatch.setattr(trial_queue, "footer", lambda _plan: {})
    (tmp_path / ".writing" / "left").mkdir(parents=True)  # by a process that was killed
    with trial_queue.opened(plan, shared_device=False):
        assert not (tmp_path / ".writing").exists()
    with (
        trial_queue.opened(plan, shared_device=False),
        pytest.raises(StudyError, match="another process"),
        trial_queue.opened(plan, shared_device=False),
    ):
        pytest.fail("two processes hold one run folder")


def test_how_far_a_run_is_is_told_for_a_twentieth_of_the_time_and_at_the_end(tmp_path, clock):
    """Telling takes 0.1 s here, and the loop around it 0.01 s."""
    heard = []

    def changed(progress) -> None:
        heard.append(clock[0])
        clock[0] += 0.1

    telling = trial_queue.Telling(make_queue(tmp_path), changed)
    for _ in range(1000):
        telling()
        clock[0] += 0.01
    telling.last()
    # Every 0.1 + 20 * 0.1 s and one round of the loop: at 0, 2.11, 4.22, 6.33, 8.44; and the last.
    assert len(heard) == 6
    assert (len(heard) - 1) * 0.1 / clock[0] < 1 / 20


def test_a_slow_telling_does_not_leave_a_run_untold(tmp_path, clock):
    heard = []

    def changed(progress) -> None:
        heard.append(clock[0])
        clock[0] += 3.0  # a disk that answers so late

    telling = trial_queue.Telling(make_queue(tmp_path), changed)
    for _ in range(100):
        telling()
        clock[0] += 0.5
    assert heard[:3] == [0.0, 8.0, 16.0]

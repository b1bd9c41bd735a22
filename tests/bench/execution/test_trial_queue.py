"""The queue: what is handed out, to whom, how often, and what is on disk when."""

import errno

import pytest

from bench.core.references import StudyError
from bench.execution import trial_queue
from bench.execution.trial_queue import KILLS, LEASE_SEC, Queue
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
    return Outcome(trial=row, metrics=[], epochs=[], cases=[], examples={}, weights=None)


def make_queue(folder, count: int = 3) -> Queue:
    trials = [make_trial(n) for n in range(count)]
    return Queue(folder=folder, study="s", trials=trials, footer={}, shared_device=False)


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
        queue.finish("a", lease.trial.trial_id, make_outcome(lease.trial))
        assert lease.trial.trial_id in store.finished(tmp_path)
    assert seen == ["trial0", "trial1", "trial2"]
    assert queue.pending() == 0
    assert make_queue(tmp_path).take("a") is None


def test_a_failed_trial_is_tried_again_when_the_study_is_run_again(tmp_path):
    queue = make_queue(tmp_path, 1)
    queue.take("a")
    queue.fail("a", "trial0", "ValueError: planted")
    assert store.finished(tmp_path) == {"trial0": "failed"}
    again = make_queue(tmp_path, 1)
    lease = again.take("a")
    again.finish("a", "trial0", make_outcome(lease.trial))
    assert store.finished(tmp_path) == {"trial0": "ok"}


def test_a_lane_that_comes_back_gives_its_trial_to_the_next(tmp_path):
    queue = make_queue(tmp_path)
    lost = queue.take("a").trial
    queue.back("a")
    lease = queue.take("b")
    assert (lease.trial, lease.attempt) == (lost, 2)


def test_a_trial_that_kills_its_lanes_is_written_down_as_failed(tmp_path):
    queue = make_queue(tmp_path, 1)
    for n in range(KILLS):
        assert queue.take(f"lane{n}").trial.trial_id == "trial0"
        queue.back(f"lane{n}")
    assert queue.take("c") is None
    assert queue.pending() == 0
    reason = store.read(tmp_path, "trials").column("reason")[0].as_py()
    assert "died" in reason
    assert str(KILLS) in reason


def test_a_lane_not_heard_of_loses_its_lease_and_its_late_result_is_not_counted(tmp_path, clock):
    queue = make_queue(tmp_path, 1)
    trial = queue.take("a").trial
    clock[0] = LEASE_SEC + 1
    assert queue.take("b").trial == trial
    queue.finish("a", trial.trial_id, make_outcome(trial, "diverged"))
    assert store.finished(tmp_path) == {}
    queue.finish("b", trial.trial_id, make_outcome(trial))
    assert store.finished(tmp_path) == {"trial0": "ok"}


def test_a_lane_that_renews_keeps_its_lease(tmp_path, clock):
    queue = make_queue(tmp_path, 1)
    queue.take("a")
    for _ in range(5):
        clock[0] += LEASE_SEC * 0.9
        queue.renew("a", epoch=1, score=0.5)
        assert queue.take("b") is None
    assert queue.progress().running[0].score == 0.5


def test_a_full_disk_is_raised_and_the_trial_stays_unfinished(tmp_path, monkeypatch):
    queue = make_queue(tmp_path, 1)
    trial = queue.take("a").trial

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial_queue, "write_trial", full)
    with pytest.raises(OSError, match="No space"):
        queue.finish("a", trial.trial_id, make_outcome(trial))
    assert queue.progress().done == 0
    assert store.finished(tmp_path) == {}


def test_progress_counts_what_earlier_runs_finished(tmp_path):
    queue = make_queue(tmp_path)
    trial = queue.take("a").trial
    queue.finish("a", trial.trial_id, make_outcome(trial))
    state = make_queue(tmp_path).progress()
    assert (state.total, state.done, state.reused, state.seconds_left) == (3, 1, 1, None)


def test_two_processes_cannot_run_one_folder(tmp_path, monkeypatch):
    plan = type("Plan", (), {"folder": tmp_path, "skips": (), "trials": ()})()
    plan.study = type("Study", (), {"name": "s"})()
    monkeypatch.setattr(trial_queue, "footer", lambda _plan: {})
    with (
        trial_queue.opened(plan, shared_device=False),
        pytest.raises(StudyError, match="another process"),
        trial_queue.opened(plan, shared_device=False),
    ):
        pytest.fail("two processes hold one run folder")

"""What a driver writes of its run for those who watch it from elsewhere."""

import errno
import logging

import pytest

from bench.execution import watching
from bench.execution.trial_queue import Progress, Running
from bench.execution.watching import EVERY_SEC, watched
from results.status import FILE, State

LANE = Running(
    lane="process 1",
    label="d · net",
    epoch=3,
    epochs=9,
    metric="dice",
    score=None,
    silent=2.0,
    trial_id="c",
    host="node7",
    seconds=60.0,
)


def progress(done: int) -> Progress:
    return Progress(
        total=4,
        done=done,
        reused=0,
        statuses={"ok": done} if done else {},
        running=(LANE,),
        seconds=9.0,
        seconds_left=None,
    )


def written(folder) -> State:
    return State.model_validate_json((folder / FILE).read_bytes())


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    return now


def test_it_is_written_every_few_seconds_and_told_each_time(tmp_path, clock):
    heard = []
    with watched(tmp_path, "small", heard.append) as told:
        for done, at in enumerate((0.0, EVERY_SEC - 1, EVERY_SEC)):
            clock[0] = at
            told(progress(done))
            assert (written(tmp_path).done, written(tmp_path).ended) == ((0, 0, 2)[done], None)
        (one,) = written(tmp_path).running
        assert (one.lane, one.host, one.trial_id) == ("process 1", "node7", "c")
        assert (one.seconds, one.silent_seconds, one.score) == (60.0, 2.0, None)
        told(progress(3))
    assert [step.done for step in heard] == [0, 1, 2, 3]
    assert (written(tmp_path).done, written(tmp_path).ended) == (3, "done")
    assert written(tmp_path).running == ()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "it was stopped; the same command resumes from there"),
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: [Errno 28] No space left"),
    ],
)
def test_how_it_ended_is_written(tmp_path, error, said):
    def run() -> None:
        with watched(tmp_path, "small", lambda _progress: None) as told:
            told(progress(1))
            raise error

    with pytest.raises(type(error)):
        run()
    assert written(tmp_path).ended.startswith(said)


def test_what_had_not_begun_leaves_the_word_of_the_last(tmp_path):
    with watched(tmp_path, "small", lambda _progress: None) as told:
        told(progress(1))
    with (
        pytest.raises(ValueError, match="planted"),
        watched(tmp_path, "small", lambda _progress: None),
    ):
        raise ValueError("planted")
    assert written(tmp_path).ended == "done"


def test_a_file_that_cannot_be_written_ends_no_run(tmp_path, clock, caplog):
    heard = []
    with (
        caplog.at_level(logging.WARNING, "medopt.run"),
        watched(tmp_path / "gone", "small", heard.append) as told,
    ):
        for _ in range(3):
            clock[0] += EVERY_SEC
            told(progress(1))
    assert len(heard) == 3
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1

"""What a person sees of a run: a moving display on a terminal, a line now and then elsewhere."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from bench import display
from bench.display import RunDisplay
from bench.execution.trial_queue import Progress, Running

LANE = Running(lane="lane 1", label="small · plain_cnn", epoch=3, epochs=9, score=0.5)


def progress(done: int) -> Progress:
    return Progress(
        total=4,
        done=done,
        reused=0,
        statuses={"ok": done} if done else {},
        running=(LANE,) if done < 4 else (),
        seconds=3.4,
        seconds_left=7559.0 if done else None,
    )


@pytest.fixture
def shown():
    """Return a function: show these steps of a run, and return what was written."""

    def show(*steps: Progress, terminal: bool) -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=200, color_system=None)
        with RunDisplay(console).showing() as display:
            for step in steps:
                display.changed(step)
        return file.getvalue()

    return show


def test_a_terminal_shows_the_bar_and_the_lanes(shown):
    written = shown(progress(1), terminal=True)
    assert "1/4" in written
    assert "3 s gone, about 2 h 5 min to go  (1 ok)" in written
    assert "lane 1" in written
    assert "epoch 3/9" in written
    assert "0.500" in written


@pytest.mark.parametrize("terminal", [True, False])
def test_a_lane_that_makes_no_step_is_shown_with_the_time_since(shown, terminal, monkeypatch):
    monkeypatch.setattr(display, "PLAIN_EVERY_SEC", 0.0)
    still = replace(progress(1), running=(replace(LANE, silent=250.0),))
    assert "nothing for 4 min 10 s" in shown(still, terminal=terminal)
    assert "nothing for" not in shown(progress(1), terminal=terminal)


def test_a_terminal_shows_nothing_without_news(shown):
    assert shown(terminal=True) == ""


def test_a_file_gets_the_last_line_and_one_now_and_then(shown, monkeypatch):
    assert shown(progress(0), progress(1), terminal=False) == ""
    assert shown(progress(1), progress(4), terminal=False).count("\n") == 1
    monkeypatch.setattr(display, "PLAIN_EVERY_SEC", 0.0)
    written = shown(progress(0), progress(1), terminal=False)
    assert written.splitlines() == [
        "0/4 trials, 3 s gone, about ? to go",
        "1/4 trials, 3 s gone, about 2 h 5 min to go  (1 ok)",
    ]

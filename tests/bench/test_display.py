"""What a person sees of a run: a moving display on a terminal, a line now and then elsewhere."""

import io
import itertools
import re
from dataclasses import replace
from time import sleep

import pytest
from rich.console import Console

from bench import display
from bench.display import RunDisplay
from bench.execution.trial_queue import Progress, Running

LANE = Running(
    lane="lane 1",
    label="small · plain_cnn",
    epoch=3,
    epochs=9,
    metric="balanced_accuracy",
    score=0.5,
)
LONG = (
    "hippocampus-of-the-decathlon · unet_small · schedulefree_adamw(lr=0.0025) · dice_ce · "
    "warmup_cosine · weight_decay · fold 4 · seed 3"
)


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

    def show(
        *steps: Progress, terminal: bool, width: int = 200, ray: bool = False, wait: float = 0.0
    ) -> str:
        file = io.StringIO()
        console = Console(
            file=file, force_terminal=terminal, width=width, height=24, color_system=None
        )
        with RunDisplay(console, ray=ray).showing() as display:
            for step in steps:
                display.changed(step)
            sleep(wait)
        return file.getvalue()

    return show


def lines(written: str) -> list[str]:
    """Return what a terminal was given, line by line, without its control sequences."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain)]


def test_a_terminal_shows_the_bar_and_the_lanes(shown):
    written = shown(progress(1), terminal=True)
    assert "1/4" in written
    assert "3 s elapsed, about 2 h 5 min to go" in written
    assert "1 ok" in written
    assert "lane 1: small · plain_cnn" in written
    assert "epoch 3 of 9, balanced accuracy 0.500 on inner validation" in written


def test_it_fits_80_columns(shown):
    """No line is wrapped, however long names and times are."""
    lanes = tuple(
        replace(LANE, lane=f"lane {n}", label=LONG, epoch=17, epochs=300) for n in range(3)
    )
    state = replace(
        progress(1),
        total=1680,
        done=1234,
        running=lanes,
        statuses={"ok": 1200, "diverged": 30, "failed": 4},
        seconds=45_000.0,
        seconds_left=350_000.0,
    )
    found = [line for line in lines(shown(state, terminal=True, width=80)) if line]
    assert max(len(line) for line in found) <= 80
    # one line for the run, one for what became of trials, two a lane
    assert len(found) % 8 == 0
    assert any(
        "1234/1680" in line and "12 h 30 min elapsed, about 97 h 13 min" in line for line in found
    )
    assert any(line.startswith("  lane 0: hippocampus") and line.endswith("…") for line in found)


def test_more_lanes_than_lines_are_counted(shown):
    lanes = tuple(replace(LANE, lane=f"lane {n:02}") for n in range(40))
    found = lines(shown(replace(progress(1), running=lanes), terminal=True))
    assert any(line == "  and 30 lanes more" for line in found)
    assert not any("lane 10" in line for line in found)


def test_it_moves_between_the_news(shown, monkeypatch):
    """After one piece of news the clocks run on: here by an hour a look."""
    looks = itertools.count(step=3600.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: next(looks))
    written = shown(progress(1), terminal=True, wait=0.7)
    hours = {int(found) for found in re.findall(r"(\d+) h 0 min elapsed", written)}
    assert len(hours) > 1


def test_a_start_of_ray_is_said(shown, monkeypatch):
    monkeypatch.setattr(display, "PLAIN_EVERY_SEC", 0.0)
    begun = replace(progress(0), running=())
    assert "Ray and its lanes are starting" in shown(begun, terminal=True, ray=True, width=80)
    assert "Ray and its lanes are starting" in shown(begun, terminal=False, ray=True)
    assert "Ray" not in shown(progress(0), terminal=True, ray=True)  # a lane has a trial
    assert "Ray" not in shown(begun, terminal=True)
    assert "starting" not in shown(replace(progress(1), running=()), terminal=True, ray=True)
    resumed = replace(progress(1), running=(), reused=1)
    assert "Ray and its lanes are starting" in shown(resumed, terminal=True, ray=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_lane_that_makes_no_step_is_shown_with_the_time_since(shown, terminal, monkeypatch):
    monkeypatch.setattr(display, "PLAIN_EVERY_SEC", 0.0)
    still = replace(progress(1), running=(replace(LANE, silent=250.0),))
    assert "no step for 4 min 10 s" in shown(still, terminal=terminal)
    assert "no step for" not in shown(progress(1), terminal=terminal)


@pytest.mark.parametrize("terminal", [True, False])
def test_when_all_is_done_no_time_is_left_to_tell(shown, terminal):
    written = shown(replace(progress(4), seconds_left=None), terminal=terminal)
    assert "4/4" in written
    assert "3 s elapsed" in written
    assert "to go" not in written


def test_a_terminal_shows_nothing_without_news(shown):
    assert shown(terminal=True) == ""


def test_a_file_gets_the_last_line_and_one_now_and_then(shown, monkeypatch):
    assert shown(progress(0), progress(1), terminal=False) == ""
    assert shown(progress(1), progress(4), terminal=False).count("\n") == 1
    monkeypatch.setattr(display, "PLAIN_EVERY_SEC", 0.0)
    written = shown(progress(0), progress(1), terminal=False)
    assert written.splitlines() == [
        "0/4 trials, 3 s elapsed, time to go unknown",
        "1/4 trials, 3 s elapsed, about 2 h 5 min to go  (1 ok)",
    ]

"""The way of a trial through the source: traced calls never enter a folder from one below it.

The architecture test reads imports; this one watches calls, so that a function handed down and
called from below (a callback into a higher folder) is seen too.
"""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from bench.losses.supervision import rescaled
from bench.study.tasks import TASKS
from bench.training.train import run_trial, settings_as_json
from tests.test_architecture import LAYERS, ROOT
from tests.trials import changed

ABOVE = {"bench": 1, "models": 0, "loaders": 0, "results": 0}
HEIGHT = {
    f"{room}/{unit}": (ABOVE[room], layer)
    for room, layers in LAYERS.items()
    for layer, units in enumerate(layers)
    for unit in units
}

# The calls that may climb, each with its reason.
MAY_CLIMB = {
    # A mask is opened when a draw needs it: a store has more files than may be open at once.
    ("loaders/sampling/foreground.py", "loaders/store/read.py"),
}
# Files that only pass a call on: a table's entry that imports its function late.
PASSES_ON = str(ROOT / "models/late.py")


@cache
def height_of(file: str) -> tuple[int, int] | None:
    """Return the height of a source file, (room, layer); None of a file that is not ours."""
    try:
        room, *rest = Path(file).relative_to(ROOT).with_suffix("").parts
    except ValueError:
        return None
    return HEIGHT.get(f"{room}/{rest[0]}") if rest else None


def climbs(caller: str, called: str) -> bool:
    """Whether a call enters a folder from one below it: in one room, or from another into bench."""
    lower, upper = height_of(str(ROOT / caller)), height_of(str(ROOT / called))
    assert lower is not None
    assert upper is not None
    same_room = caller.partition("/")[0] == called.partition("/")[0]
    return upper > lower if same_room else upper[0] > lower[0]


def passes(file: str) -> bool:
    """Whether a frame only passes a call on: a library's, or that of a late import."""
    return height_of(file) is None or file == PASSES_ON


@contextmanager
def traced() -> Iterator[Counter[tuple[str, str]]]:
    """Count calls by (file of the nearest caller of ours, file called), in every thread."""
    calls: Counter[tuple[str, str]] = Counter()
    ours = str(ROOT)

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        called = frame.f_code.co_filename
        if event != "call" or not called.startswith(ours):
            return
        caller = frame.f_back
        while caller is not None and passes(caller.f_code.co_filename):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != called:
            calls[caller.f_code.co_filename, called] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def relative(calls: Counter[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the pairs of files of the four rooms, relative to the checkout."""
    return {
        (str(Path(caller).relative_to(ROOT)), str(Path(called).relative_to(ROOT)))
        for caller, called in calls
        if height_of(caller) and height_of(called)
    }


@pytest.mark.parametrize("task", TASKS)
def test_no_call_of_a_trial_enters_a_folder_from_one_below_it(make_trial, task):
    trial, data, base = make_trial(task, epochs=2)
    device = torch.device("cpu")
    # Imports are calls too, and slow to trace: the first trial makes them.
    run_trial(changed(trial, epochs=1), data, base=base, device=device)
    with traced() as calls:
        outcome = run_trial(trial, data, base=base, device=device)
    assert outcome.trial["status"] == "ok", outcome.trial["error"]
    pairs = relative(calls)
    assert ("bench/training/train.py", "bench/training/evaluate.py") in pairs
    climbing = {pair for pair in pairs if climbs(*pair)}
    assert climbing <= MAY_CLIMB


@pytest.mark.parametrize(
    "below", ["bench/core/timing.py", "bench/losses/table.py", "loaders/cases.py"]
)
def test_a_call_that_climbs_is_told_from_one_that_descends(below):
    assert climbs(below, "bench/training/train.py")
    assert not climbs("bench/training/train.py", below)


def test_a_function_of_a_higher_folder_that_is_called_from_below_is_seen():
    planted = rescaled(lambda _logits, target: target, settings_as_json)
    with traced() as calls:
        planted(None, {})
    assert [pair for pair in relative(calls) if climbs(*pair)] == [
        ("bench/losses/supervision.py", "bench/training/train.py")
    ]

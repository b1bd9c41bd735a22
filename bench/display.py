"""What a person sees while a run goes on: progress on stderr, nothing on stdout."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from bench.execution.trial_queue import Progress as RunProgress
from bench.execution.trial_queue import Running
from results.text import duration

# A lane that has made no step for so long is shown with the time since: steps take seconds.
QUIET_SEC = 30.0
# In a log file or in CI a line is printed this often, instead of a display that moves.
PLAIN_EVERY_SEC = 20.0


class RunDisplay:
    """Shows a run: a bar, the time left, and what each lane is working on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("[bold]trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=None, note="")
        self._live: Live | None = None
        self._printed = time.monotonic()

    @contextmanager
    def showing(self) -> Iterator["RunDisplay"]:
        """Show the display from the first news until the block ends."""
        try:
            yield self
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def changed(self, state: RunProgress) -> None:
        """Show how far the run is."""
        counts = ", ".join(f"{n} {status}" for status, n in sorted(state.statuses.items()))
        gone = duration(state.seconds, clock=True)
        left = duration(state.seconds_left, unknown="?", clock=True)
        note = f"{gone} gone, about {left} to go"
        note = f"{note}  ({counts})" if counts else note
        if not self._console.is_terminal:
            now = time.monotonic()
            if now - self._printed >= PLAIN_EVERY_SEC or state.done == state.total:
                self._printed = now
                quiet = "".join(
                    f"; {lane.lane}: {q}" for lane in state.running if (q := _quiet(lane))
                )
                line = f"{state.done}/{state.total} trials, {note}{quiet}"
                self._console.print(line, highlight=False)
            return
        if self._live is None:
            self._live = Live(self._bar, console=self._console, refresh_per_second=4)
            self._live.start()
        self._bar.update(self._task, total=state.total, completed=state.done, note=note)
        lanes = Table.grid(padding=(0, 2))
        for lane in state.running:
            score = "" if lane.score is None else f"{lane.score:.3f}"
            epoch = f"epoch {lane.epoch}/{lane.epochs}"
            lanes.add_row(f"[dim]{lane.lane}", lane.label, epoch, score, f"[yellow]{_quiet(lane)}")
        self._live.update(Group(self._bar, lanes))


def _quiet(lane: Running) -> str:
    """Say for how long nothing has come of a lane, where that is long."""
    if lane.silent < QUIET_SEC:
        return ""
    return f"nothing for {duration(lane.silent, clock=True)}"


@contextmanager
def counting(console: Console, what: str) -> Iterator["Counter"]:
    """Show a bar that counts things; calling the counter moves it."""
    bar = Progress(
        TextColumn(f"[bold]{what}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        yield Counter(bar)


class Counter:
    """Called with (done, total) as work goes on."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("work", total=None)

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total)
